package pxelinux

import (
	"cmp"
	"fmt"
	"net"
	"strings"
)

// grubLeave starts the local disk. On UEFI the firmware goes on with its next device.
const grubLeave = "if [ \"$grub_platform\" = efi ]; then exit; fi\n  insmod chain\n  set root=hd0\n  chainloader +1\n"

// GRUBConfig returns the same choices as a grub.cfg. Files come from where the configuration came from. mac is that of the machine, by
// which the initramfs finds its card; GRUB itself knows it in a notation that nobody else reads. nil is left out.
func (m Menu) GRUBConfig(mac net.HardwareAddr) (string, error) {
	var b strings.Builder
	b.WriteString("insmod all_video\n")
	if port, speed, _ := strings.Cut(strings.TrimPrefix(m.serial(), "ttyS"), ","); port != "" {
		fmt.Fprintf(&b, "serial --unit=%s --speed=%s\nterminal_input console serial\nterminal_output console serial\n", port, cmp.Or(speed, "9600"))
	}
	seconds := cmp.Or(m.Seconds, defaultSeconds)
	switch {
	case len(m.Entries) == 0 && m.Note != "":
		fmt.Fprintf(&b, "echo %s\nsleep 5\n", grubQuote(Sanitize(m.Note)))
		seconds = 0
	case m.Direct, len(m.Entries) == 0:
		seconds = 0
	}
	fmt.Fprintf(&b, "set default=0\nset timeout=%d\n", max(seconds, -1))
	for _, e := range m.Entries {
		if e.Submenu == "" {
			if err := e.grub(&b, mac); err != nil {
				return "", err
			}
		}
	}
	if m.Local {
		fmt.Fprintf(&b, "menuentry %s --id local {\n  %s}\n", grubQuote(localTitle), grubLeave)
	}
	if m.Direct {
		return b.String(), nil
	}
	for _, title := range m.submenus() {
		fmt.Fprintf(&b, "submenu %s {\n", grubQuote(Sanitize(title)))
		for _, e := range m.Entries {
			if e.Submenu == title {
				if err := e.grub(&b, mac); err != nil {
					return "", err
				}
			}
		}
		b.WriteString("}\n")
	}
	return b.String(), nil
}

// grub writes one entry. Each argument is quoted: to GRUB a semicolon ends the command, and $ begins a variable.
func (e Entry) grub(b *strings.Builder, mac net.HardwareAddr) error {
	if _, err := e.cmdline(0); err != nil {
		return err
	}
	fmt.Fprintf(b, "menuentry %s --id %s {\n  linux /%s", grubQuote(Sanitize(e.Title)), grubQuote(e.Label), e.Kernel)
	for _, arg := range e.Cmdline {
		b.WriteString(" " + grubQuote(arg))
	}
	if mac != nil {
		b.WriteString(" BOOTIF=01-" + strings.ReplaceAll(mac.String(), ":", "-"))
	}
	if e.Initrd != "" {
		fmt.Fprintf(b, "\n  initrd /%s", e.Initrd)
	}
	b.WriteString("\n}\n")
	return nil
}

// grubQuote makes one word of a text (GRUB manual, 13.3 Quoting).
func grubQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
