package pxelinux

import (
	"cmp"
	"fmt"
	"strings"
)

// leave starts the local disk. On a BIOS the first disk is started by number: exit goes back to a BIOS that may have the network
// first again, or nothing but the network in its list. Where there is no disk that boots, and on UEFI, which keeps disks by name
// in a list of its own, the firmware goes on with its next device.
const leave = "iseq ${platform} pcbios && sanboot --no-describe --drive 0x80 ||\nexit\n"

// IPXEScript returns the script that boots the same choices in iPXE. base is the URL of the tree, "http://10.0.0.1/": iPXE
// before 2012 does not resolve relative names, and a TFTP one needs its server named because "next-server" is the router.
func (m Menu) IPXEScript(base string) (string, error) {
	if err := checkBase(base); err != nil {
		return "", fmt.Errorf("write iPXE script: %w", err)
	}
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	if len(m.Entries) == 0 {
		if m.Note != "" {
			fmt.Fprintf(&b, "echo %s\nsleep 5\n", plain(m.Note))
		}
		b.WriteString(leave)
		return b.String(), nil
	}
	if !m.Direct {
		m.choose(&b)
	}
	for i, e := range m.Entries {
		cmdline, err := e.ipxeCmdline()
		if err != nil {
			return "", err
		}
		initrd := ""
		if e.Initrd != "" {
			initrd = fmt.Sprintf("initrd --name initrd.img %s%s || goto failed\n", base, e.Initrd)
		}
		fmt.Fprintf(&b, ":e%d\nkernel %s%s %s BOOTIF=01-${netX/mac:hexhyp} || goto failed\n", i, base, e.Kernel, cmdline)
		b.WriteString(initrd + "boot || goto failed\n")
		if m.Direct {
			break
		}
	}
	if m.Memtest != "" && !m.Direct {
		fmt.Fprintf(&b, ":memtest\nkernel %s%s", base, m.Memtest)
		if serial := m.serial(); serial != "" {
			b.WriteString(" console=" + serial)
		}
		b.WriteString(" || goto failed\nboot || goto failed\n")
	}
	// The server may be starting again. To ask it anew is sooner done than a reboot, which takes a server machine minutes, and heeds
	// a policy that has changed meanwhile.
	fmt.Fprintf(&b, ":failed\necho netroot: could not load the image; trying again in 5 seconds\nsleep 5\nimgfree ||\n"+
		"chain %sipxe/01-${netX/mac:hexhyp} || goto failed\n", base)
	if m.Local && !m.Direct {
		b.WriteString(":local\n" + leave)
	}
	return b.String(), nil
}

// ipxeCmdline is what follows the name of the kernel.
func (e Entry) ipxeCmdline() (string, error) {
	cmdline, err := e.cmdline(0)
	if err != nil {
		return "", err
	}
	if strings.Contains(cmdline, "${") {
		return "", fmt.Errorf("write iPXE script: the command line of %s holds ${, which iPXE would expand", e.Label)
	}
	if e.Initrd != "" { // the name initrd= is for kernels started as EFI programs
		cmdline = "initrd=initrd.img " + cmdline
	}
	return cmdline, nil
}

// choose writes the menu: iPXE has no submenus, so what belongs in one stands under its title. An iPXE built without menus
// starts the first entry.
func (m Menu) choose(b *strings.Builder) {
	fmt.Fprintf(b, "menu %s || goto e0\n", plain(m.Title))
	item := func(submenu string) {
		for i, e := range m.Entries {
			if e.Submenu == submenu {
				fmt.Fprintf(b, "item e%d %s\n", i, plain(e.Title))
			}
		}
	}
	item("")
	if m.Local {
		b.WriteString("item local " + localTitle + "\n")
	}
	if m.Memtest != "" {
		// This one is a program for BIOS machines.
		b.WriteString("iseq ${platform} pcbios && item memtest " + memtestTitle + " ||\n")
	}
	for _, title := range m.submenus() {
		fmt.Fprintf(b, "item --gap %s\n", plain(title))
		item(title)
	}
	timeout := ""
	if seconds := cmp.Or(m.Seconds, defaultSeconds); seconds > 0 {
		timeout = fmt.Sprintf(" --timeout %d", seconds*1000)
	}
	fmt.Fprintf(b, "choose --default e0%s target || goto e0\ngoto ${target}\n", timeout)
}

// plain is Sanitize for a text in a script, where some signs are commands.
func plain(s string) string {
	return strings.NewReplacer("$", "?", "&", "+", "|", "/", ";", ",", "#", "?").Replace(Sanitize(s))
}
