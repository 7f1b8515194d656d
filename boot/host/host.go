// Package host answers the one question that every service asks: who is this machine, and what does it boot? The answer is a pure
// function of the machine (its MAC, and the interface it came in on) and of the policy that netroot.yaml holds.
//
// Without a netroot.yaml every machine gets a menu of all images.
package host

import (
	"fmt"
	"net"
	"slices"
)

// A Machine is what is known of a client when it asks.
type Machine struct {
	MAC       net.HardwareAddr
	UUID      string // from DHCP option 97, or ""
	Arch      uint16 // from DHCP option 93 (RFC 4578 section 2.1)
	Interface string // the server's interface it came in on, or "" when the service cannot know
}

// A Decision is what one machine gets.
type Decision struct {
	Ignore  bool   // not served at all
	Reason  string // why, in words for the log
	Name    string // the machine's name, or "" when it is not listed
	Image   string // IMAGE or IMAGE@GENERATION to boot; "" is a menu of all images
	Cmdline []string
}

// A Policy says which machines are served, and with what. Its zero value serves a menu to everybody.
type Policy struct {
	Interfaces []string // served interfaces; none means every one
	Fallback   string   // what an unlisted machine gets: "menu" (or ""), "ignore", or an image
	IPXE       string   // what an iPXE client is given: "pxelinux" (or "") or "script"
	Hosts      []Host

	file          string
	interfaceLine int
	fallbackLine  int
	byMAC         map[string]entry
}

// A Host is one listed machine.
type Host struct {
	Name     string
	MACs     []net.HardwareAddr
	Image    string // "" is a menu
	Cmdline  []string
	Disabled bool

	line int // of disabled:
}

// An entry is a host found by one of its addresses.
type entry struct {
	host *Host
	line int // of the address
}

// Default is the policy without a netroot.yaml: a menu for everybody.
func Default() *Policy { return &Policy{Fallback: "menu", IPXE: "pxelinux"} }

// File is the path of the netroot.yaml that the policy was read from, or "".
func (p *Policy) File() string { return p.file }

// Images lists the images that the policy names, as IMAGE or IMAGE@GENERATION, those of disabled hosts too.
func (p *Policy) Images() []string {
	var refs []string
	if p.Fallback != "" && p.Fallback != "menu" && p.Fallback != "ignore" {
		refs = append(refs, p.Fallback)
	}
	for _, h := range p.Hosts {
		if h.Image != "" {
			refs = append(refs, h.Image)
		}
	}
	return refs
}

// Decide says what m gets.
func (p *Policy) Decide(m Machine) Decision {
	who := m.MAC.String()
	if len(m.MAC) == 0 {
		who = "a machine whose MAC address is not known"
	}
	if len(p.Interfaces) > 0 && m.Interface != "" && !slices.Contains(p.Interfaces, m.Interface) {
		return Decision{Ignore: true, Reason: fmt.Sprintf("%s came in on %s, which is not among the interfaces%s", who, m.Interface, p.place(p.interfaceLine))}
	}
	if e, ok := p.byMAC[string(m.MAC)]; ok && len(m.MAC) > 0 {
		h := e.host
		d := Decision{Name: h.Name, Image: h.Image, Cmdline: slices.Clone(h.Cmdline)}
		d.Reason = fmt.Sprintf("%s is %s, listed%s", who, h.Name, p.place(e.line))
		if h.Disabled {
			d.Ignore = true
			d.Reason = fmt.Sprintf("%s is %s, disabled%s", who, h.Name, p.place(h.line))
		}
		return d
	}
	switch p.Fallback {
	case "ignore":
		return Decision{Ignore: true, Reason: fmt.Sprintf("%s is not listed, and default is ignore%s", who, p.place(p.fallbackLine))}
	case "menu", "":
		reason := who + " is not listed, and gets a menu"
		if p.file == "" {
			reason = who + " gets a menu, as everybody without a netroot.yaml"
		}
		return Decision{Reason: reason + p.place(p.fallbackLine)}
	}
	return Decision{Image: p.Fallback, Reason: fmt.Sprintf("%s is not listed, and default is %s%s", who, p.Fallback, p.place(p.fallbackLine))}
}

// place says where something stands in the file, or nothing when it is not in a file.
func (p *Policy) place(line int) string {
	if p.file == "" || line == 0 {
		return ""
	}
	return fmt.Sprintf(" in %s:%d", p.file, line)
}
