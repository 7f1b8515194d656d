// Package pxelinux writes the texts that make a boot loader start an image: the configuration file of pxelinux and the
// script for iPXE. It is pure: what is bootable and for whom is decided elsewhere.
//
// It writes for pxelinux 6 in BIOS machines. One limit is the kernel's: x86 kernels keep 2047 bytes of command line and
// cut the rest without a word, so a longer one is an error here.
package pxelinux

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

const (
	// maxCmdline is COMMAND_LINE_SIZE of x86 kernels (arch/x86/include/asm/setup.h), less the NUL.
	maxCmdline = 2047
	// bootifLen is what IPAPPEND 2 adds: " BOOTIF=01-aa-bb-cc-dd-ee-ff".
	bootifLen = 28
	maxTitle  = 60 // menu.c32 draws 80 columns, and cuts entries at 78 less its frame
)

// An Entry is one bootable generation.
type Entry struct {
	Label   string // unique word: "debian-12@3"
	Title   string // what the menu shows
	Kernel  string // path in the tree
	Initrd  string
	Cmdline []string
	Old     bool // listed in the submenu of older generations
}

// A Menu is what one machine may boot. The first entry is the default.
type Menu struct {
	Title   string
	Entries []Entry
	// Direct boots the first entry at once, without a menu: the machine was assigned it.
	Direct bool
	// Local boots from the local disk: at once when there is no entry, else as the last choice.
	Local bool
	// Note explains an empty menu.
	Note string
	// Seconds until the default is booted; 0 means 3.
	Seconds int
}

// header starts every file. SERIAL has to be the first directive (syslinux manual), else menu.c32 does not show up there.
const header = "SERIAL 0 115200\nPROMPT 0\n"

// Text returns the configuration file.
func (m Menu) Text() (string, error) {
	var b strings.Builder
	b.WriteString(header)
	if len(m.Entries) == 0 && m.Local && m.Note == "" {
		b.WriteString("DEFAULT local\n")
		local(&b)
		return b.String(), nil
	}
	if m.Direct && len(m.Entries) > 0 {
		// PROMPT 0 boots at once whatever TIMEOUT says. When that fails pxelinux shows a prompt, and would wait there for a
		// keyboard; so it tries again after ten seconds.
		fmt.Fprintf(&b, "DEFAULT %s\nTIMEOUT 100\n", m.Entries[0].Label)
		if err := m.Entries[0].write(&b, false); err != nil {
			return "", err
		}
		return b.String(), nil
	}
	seconds := m.Seconds
	if seconds <= 0 {
		seconds = 3
	}
	fmt.Fprintf(&b, "UI menu.c32\nTIMEOUT %d\nMENU TITLE %s\n", seconds*10, Sanitize(m.Title))
	if m.Note != "" {
		fmt.Fprintf(&b, "LABEL note\n  MENU LABEL %s\n  MENU DISABLE\n", Sanitize(m.Note))
	}
	seen := map[string]bool{}
	old := 0
	for i, e := range m.Entries {
		if seen[e.Label] {
			return "", fmt.Errorf("write menu: two entries are called %s", e.Label)
		}
		seen[e.Label] = true
		if e.Old {
			old++
			continue
		}
		if err := e.write(&b, i == 0); err != nil {
			return "", err
		}
	}
	if old > 0 {
		b.WriteString("MENU BEGIN older\n  MENU TITLE Older generations\n")
		for _, e := range m.Entries {
			if e.Old {
				if err := e.write(&b, false); err != nil {
					return "", err
				}
			}
		}
		b.WriteString("LABEL back\n  MENU LABEL Back\n  MENU EXIT\nMENU END\n")
	}
	if m.Local {
		local(&b)
	}
	return b.String(), nil
}

func local(b *strings.Builder) {
	b.WriteString("LABEL local\n  MENU LABEL Boot from the local disk\n  LOCALBOOT 0\n")
}

// write appends one LABEL.
func (e Entry) write(b *strings.Builder, isDefault bool) error {
	cmdline, err := e.cmdline()
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "LABEL %s\n  MENU LABEL %s\n", e.Label, Sanitize(e.Title))
	if isDefault {
		b.WriteString("  MENU DEFAULT\n")
	}
	// IPAPPEND 2 adds BOOTIF=, by which the initramfs finds the card the machine booted from.
	fmt.Fprintf(b, "  KERNEL %s\n  INITRD %s\n  APPEND %s\n  IPAPPEND 2\n", e.Kernel, e.Initrd, cmdline)
	return nil
}

// cmdline joins the arguments, and refuses what a loader or kernel would garble or cut.
func (e Entry) cmdline() (string, error) {
	for _, word := range []string{e.Label, e.Kernel, e.Initrd} {
		if word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", fmt.Errorf("write boot entry %q: %q is not one word of ASCII", e.Label, word)
		}
	}
	for _, arg := range e.Cmdline {
		if strings.ContainsFunc(arg, unicode.IsControl) {
			return "", fmt.Errorf("write boot entry %s: kernel argument %q holds a control character", e.Label, arg)
		}
	}
	line := strings.Join(e.Cmdline, " ")
	// pxelinux puts BOOT_IMAGE=FILE in front and initrd=FILE behind.
	total := len("BOOT_IMAGE= ") + len(e.Kernel) + len(" initrd=") + len(e.Initrd) + len(line) + bootifLen
	if total > maxCmdline {
		return "", fmt.Errorf("write boot entry %s: the kernel command line has %d bytes, and kernels keep %d; shorten cmdline in the recipe or netroot.yaml",
			e.Label, total, maxCmdline)
	}
	return line, nil
}

// Sanitize makes a text fit for a menu: printable ASCII, one line, no '^' (menu.c32's mark for hot keys), not too long.
func Sanitize(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '^':
			return '~'
		case r == '\t' || r == '\n' || r == '\r':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) > maxTitle {
		s = s[:maxTitle-3] + "..."
	}
	return s
}

// IPXEScript returns the script that boots the same choices in iPXE. base is the URL of the tree, "http://10.0.0.1/": iPXE
// before 2012 does not resolve relative names, and a TFTP one needs its server named because "next-server" is the router.
func (m Menu) IPXEScript(base string) (string, error) {
	if !strings.HasSuffix(base, "/") || strings.ContainsFunc(base, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("write iPXE script: base URL " + base + " must end in a slash and hold no spaces")
	}
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	direct := m.Direct && len(m.Entries) > 0
	if len(m.Entries) == 0 {
		if m.Note != "" {
			fmt.Fprintf(&b, "echo %s\nsleep 5\n", Sanitize(m.Note))
		}
		b.WriteString("exit\n") // back to the firmware, which tries its next device
		return b.String(), nil
	}
	if !direct {
		seconds := m.Seconds
		if seconds <= 0 {
			seconds = 3
		}
		fmt.Fprintf(&b, "menu %s\n", Sanitize(m.Title))
		for i, e := range m.Entries {
			fmt.Fprintf(&b, "item e%d %s\n", i, Sanitize(e.Title))
		}
		if m.Local {
			b.WriteString("item local Boot from the local disk\n")
		}
		fmt.Fprintf(&b, "choose --default e0 --timeout %d target || goto e0\ngoto ${target}\n", seconds*1000)
	}
	for i, e := range m.Entries {
		cmdline, err := e.cmdline()
		if err != nil {
			return "", err
		}
		// "${" would be expanded by iPXE. The name initrd= is for kernels started as EFI programs.
		if strings.Contains(cmdline, "${") {
			return "", fmt.Errorf("write iPXE script: the command line of %s holds ${, which iPXE would expand", e.Label)
		}
		fmt.Fprintf(&b, ":e%d\nkernel %s%s initrd=initrd.img %s BOOTIF=01-${netX/mac:hexhyp} || goto failed\n", i, base, e.Kernel, cmdline)
		fmt.Fprintf(&b, "initrd --name initrd.img %s%s || goto failed\nboot || goto failed\n", base, e.Initrd)
		if direct {
			break
		}
	}
	b.WriteString(":failed\necho netroot: could not load the image; trying again in 10 seconds\nsleep 10\nreboot\n")
	if m.Local && !direct {
		b.WriteString(":local\nexit\n")
	}
	return b.String(), nil
}
