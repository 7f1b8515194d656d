// Package pxelinux writes the texts that make a boot loader start an image: the configuration file of pxelinux and the
// script for iPXE. It is pure: what is bootable and for whom is decided elsewhere.
//
// It writes for pxelinux 6 in BIOS machines. One limit is the kernel's: x86 kernels keep 2047 bytes of command line and
// cut the rest without a word, so a longer one is an error here.
package pxelinux

import (
	"cmp"
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
	// defaultSeconds is how long a menu waits: long enough for a key, and nobody's boot is late for it.
	defaultSeconds = 3
	// defaultSerial is the first port of a PC, at the speed that everybody sets.
	defaultSerial = "ttyS0,115200"
	noSerial      = "none"
	localTitle    = "Boot from the local disk"
	memtestTitle  = "Memory test (memtest86+)"
)

// An Entry is one bootable generation.
type Entry struct {
	Label   string // unique word: "debian-12@3"
	Title   string // what the menu shows
	Kernel  string // path in the tree
	Initrd  string // "" for a program that has none
	Cmdline []string
	Submenu string // the title of the submenu it is in; "" is the menu itself
}

// A Menu is what one machine may boot. The first entry is the default.
type Menu struct {
	Title   string
	Entries []Entry
	// Direct boots the first entry at once, without a menu: the machine was assigned it.
	Direct bool
	// Local boots from the local disk: at once when there is no entry, else as a choice behind them.
	Local bool
	// Memtest is the path of memtest86+ in the tree, or "".
	Memtest string
	// Note explains an empty menu.
	Note string
	// Seconds until the default is booted; 0 means 3, less waits for ever.
	Seconds int
	// Serial is the port that shows it besides the screen, as the kernel writes it: "ttyS0,115200", which "" means. "none" is none.
	Serial string
}

// Usable returns the menu without the entries that the loader or the kernel would garble or cut, so that one bad image spoils
// nobody's menu, and why each of them is left out. When only entries of submenus remain, they are the menu. base is as for
// Text; ipxe says that IPXEScript is to write it.
func (m Menu) Usable(base string, ipxe bool) (Menu, []error) {
	var left []error
	var good []Entry
	for _, e := range m.Entries {
		_, err := e.cmdline(len(base))
		if ipxe {
			_, err = e.ipxeCmdline()
		}
		if err != nil {
			left = append(left, err)
			continue
		}
		good = append(good, e)
	}
	if len(left) > 0 && len(good) == 0 {
		m.Note = left[0].Error()
		m.Local, m.Direct = true, false
	}
	if len(good) > 0 && good[0].Submenu != "" { // what starts by itself has to be in the menu, not below it
		for i := range good {
			good[i].Submenu = ""
		}
	}
	m.Entries = good
	return m, left
}

// serial is the port that shows the menu, "" for none.
func (m Menu) serial() string {
	if m.Serial == noSerial {
		return ""
	}
	return cmp.Or(m.Serial, defaultSerial)
}

// header starts every file. SERIAL has to be the first directive (syslinux manual), else menu.c32 does not show up there.
func (m Menu) header() string {
	port, speed, _ := strings.Cut(strings.TrimPrefix(m.serial(), "ttyS"), ",")
	if port == "" {
		return "PROMPT 0\n"
	}
	return fmt.Sprintf("SERIAL %s %s\nPROMPT 0\n", port, cmp.Or(speed, "9600")) // which is the kernel's default, too
}

// Text returns the configuration file. base is the URL of the tree for lpxelinux, which loads by HTTP what is named so:
// "http://10.0.0.1/". With "" kernels come from where the file came from.
func (m Menu) Text(base string) (string, error) {
	if err := checkBase(base); err != nil && base != "" {
		return "", fmt.Errorf("write menu: %w", err)
	}
	var b strings.Builder
	b.WriteString(m.header())
	if len(m.Entries) == 0 && m.Local && m.Note == "" {
		b.WriteString("DEFAULT local\n")
		local(&b)
		return b.String(), nil
	}
	if m.Direct && len(m.Entries) > 0 {
		// PROMPT 0 boots at once whatever TIMEOUT says. When that fails pxelinux shows a prompt, and would wait there for a
		// keyboard; so it tries again after ten seconds.
		fmt.Fprintf(&b, "DEFAULT %s\nTIMEOUT 100\n", m.Entries[0].Label)
		if err := m.Entries[0].write(&b, base, false); err != nil {
			return "", err
		}
		return b.String(), nil
	}
	b.WriteString("UI menu.c32\n")
	if seconds := cmp.Or(m.Seconds, defaultSeconds); seconds > 0 {
		fmt.Fprintf(&b, "TIMEOUT %d\n", seconds*10)
	}
	fmt.Fprintf(&b, "MENU TITLE %s\n", Sanitize(m.Title))
	if m.Note != "" {
		fmt.Fprintf(&b, "LABEL note\n  MENU LABEL %s\n  MENU DISABLE\n", Sanitize(m.Note))
	}
	if err := m.entries(&b, base); err != nil {
		return "", err
	}
	if m.Local {
		local(&b)
	}
	if m.Memtest != "" {
		// LINUX, not KERNEL, which goes by the end of the name.
		fmt.Fprintf(&b, "LABEL memtest\n  MENU LABEL %s\n  LINUX %s%s\n", memtestTitle, base, m.Memtest)
		if serial := m.serial(); serial != "" {
			fmt.Fprintf(&b, "  APPEND console=%s\n", serial)
		}
	}
	return b.String(), nil
}

// entries writes the menu's own entries, then the submenus.
func (m Menu) entries(b *strings.Builder, base string) error {
	seen := map[string]bool{}
	for i, e := range m.Entries {
		if seen[e.Label] {
			return fmt.Errorf("write menu: two entries are called %s", e.Label)
		}
		seen[e.Label] = true
		if e.Submenu != "" {
			continue
		}
		if err := e.write(b, base, i == 0); err != nil {
			return err
		}
	}
	for i, title := range m.submenus() {
		fmt.Fprintf(b, "MENU BEGIN sub%d\n  MENU TITLE %s\n", i, Sanitize(title))
		for _, e := range m.Entries {
			if e.Submenu != title {
				continue
			}
			if err := e.write(b, base, false); err != nil {
				return err
			}
		}
		fmt.Fprintf(b, "LABEL back%d\n  MENU LABEL Back\n  MENU EXIT\nMENU END\n", i)
	}
	return nil
}

// submenus lists the titles of the submenus in the order they come up in.
func (m Menu) submenus() []string {
	var titles []string
	seen := map[string]bool{"": true}
	for _, e := range m.Entries {
		if !seen[e.Submenu] {
			seen[e.Submenu] = true
			titles = append(titles, e.Submenu)
		}
	}
	return titles
}

// local writes the entry that goes back to the BIOS, which tries its next device (syslinux manual, LOCALBOOT 0).
func local(b *strings.Builder) {
	b.WriteString("LABEL local\n  MENU LABEL " + localTitle + "\n  LOCALBOOT 0\n")
}

// write appends one LABEL.
func (e Entry) write(b *strings.Builder, base string, isDefault bool) error {
	cmdline, err := e.cmdline(len(base))
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "LABEL %s\n  MENU LABEL %s\n", e.Label, Sanitize(e.Title))
	if isDefault {
		b.WriteString("  MENU DEFAULT\n")
	}
	// IPAPPEND 2 adds BOOTIF=, by which the initramfs finds the card the machine booted from.
	fmt.Fprintf(b, "  KERNEL %s%s\n", base, e.Kernel)
	if e.Initrd != "" {
		fmt.Fprintf(b, "  INITRD %s%s\n", base, e.Initrd)
	}
	fmt.Fprintf(b, "  APPEND %s\n  IPAPPEND 2\n", cmdline)
	return nil
}

// cmdline joins the arguments, and refuses what a loader or kernel would garble or cut. The names of the files are longer
// by baseLen.
func (e Entry) cmdline(baseLen int) (string, error) {
	for i, word := range []string{e.Label, e.Kernel, e.Initrd} {
		if word == "" && i < 2 || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
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
	total := len("BOOT_IMAGE= ") + len(e.Kernel) + len(" initrd=") + len(e.Initrd) + 2*baseLen + len(line) + bootifLen
	if total > maxCmdline {
		return "", fmt.Errorf("write boot entry %s: the kernel command line has %d bytes, and kernels keep %d; shorten cmdline in the recipe or netroot.yaml",
			e.Label, total, maxCmdline)
	}
	return line, nil
}

// checkBase says what is wrong with the URL of a tree, if anything.
func checkBase(base string) error {
	if !strings.HasSuffix(base, "/") || strings.ContainsFunc(base, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("base URL " + base + " must end in a slash and hold no spaces")
	}
	return nil
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
