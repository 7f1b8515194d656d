// Package host answers the one question that every service asks: who is this machine, and what does it boot? The answer is a pure
// function of what is known of the machine (its addresses, and where it came in) and of the policy that netroot.yaml holds.
// Live is the policy in force while a server runs: it follows the file.
//
// Without a netroot.yaml every machine gets a menu of all images. The policy names images without knowing whether a store has
// them: they may be built later.
package host

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"netroot/builder/strictyaml"
)

// A Machine is what is known of a client when it asks.
type Machine struct {
	MAC       net.HardwareAddr
	UUID      string     // from DHCP option 97, or ""
	Arch      uint16     // from DHCP option 93 (RFC 4578 section 2.1)
	Interface string     // the server's interface it came in on, or "" when the service cannot know
	Address   netip.Addr // its own, when it has one
	Near      netip.Addr // another on its network: that of the relay, or the server's own there
	Trial     bool       // somebody asks in its place: nothing of it is remembered
}

// A Decision is what one machine gets.
type Decision struct {
	Ignore  bool   // not served at all
	Reason  string // why, in words for the log
	Name    string // the machine's name, or "" when it is not listed
	Image   string // IMAGE or IMAGE@GENERATION to boot; "" is a menu of all images, unless Local
	Local   bool   // boots its own disk
	Once    bool   // installs itself from the image, and is Local when that is done
	Cmdline []string
	Vars    map[string]string // for what it asks while it installs itself or starts

	Server netip.Addr // what the machine is told to be the server's address; invalid means the one on its network
	Loader string     // the boot loader of BIOS machines: "pxelinux.0" (or ""), "lpxelinux.0"
	IPXE   string     // what iPXE gets that can do it: "script" (or ""), "pxelinux"
	Menu   Menu
}

// A Menu is how a menu looks.
type Menu struct {
	Seconds int    // until the first entry is booted; 0 means 3, less waits for ever
	Serial  string // the port it is shown on besides the screen, as "ttyS0,115200" (which "" means), or "none"
}

// A Policy says which machines are served, and with what. Its zero value serves a menu to everybody.
type Policy struct {
	Interfaces []string // served interfaces; none means every one
	Fallback   string   // what an unlisted machine gets: "menu" (or ""), "ignore", "local", or an image
	IPXE       string   // as in a Decision
	Loader     string   // as in a Decision
	Menu       Menu
	Networks   []Network
	Hosts      []Host
	Monitors   []netip.Prefix // who may read how the machines are, besides this one

	file          string
	doc           *strictyaml.Document
	installed     func(name string) bool
	interfaceLine int
	fallbackLine  int
	byMAC         map[string]entry
	byUUID        map[string]entry
	byAddress     map[netip.Addr]entry
}

// A Network is what is different for the machines of one network. What is left zero is as everywhere.
type Network struct {
	Prefix    netip.Prefix // which one: by its addresses
	Interface string       // or by the interface its machines come in on, when no prefix fits
	Fallback  string
	Server    netip.Addr
	IPXE      string
	Loader    string
	Cmdline   []string          // before that of the machine
	Vars      map[string]string // those of the machine count more

	fallbackLine int
}

// A Host is one listed machine. It is found by any of its addresses.
type Host struct {
	Name      string
	MACs      []net.HardwareAddr
	UUID      string // lower case with hyphens, or ""
	Addresses []netip.Addr
	Image     string // "" is a menu
	Local     bool   // boots its own disk, whatever the image
	Once      bool   // boots the image until it is installed, and then its own disk
	Vars      map[string]string
	Cmdline   []string
	Disabled  bool

	line int // of disabled:
}

// An entry is a host found by one of its addresses.
type entry struct {
	host *Host
	line int // of the address
}

// Default is the policy without a netroot.yaml: a menu for everybody.
func Default() *Policy { return &Policy{Fallback: "menu"} }

// File is the path of the netroot.yaml that the policy was read from, or "".
func (p *Policy) File() string { return p.file }

// Images lists the images that the policy names, as IMAGE or IMAGE@GENERATION, those of disabled hosts too.
func (p *Policy) Images() []string {
	var refs []string
	fallbacks := []string{p.Fallback}
	for _, n := range p.Networks {
		fallbacks = append(fallbacks, n.Fallback)
	}
	for _, f := range fallbacks {
		switch f {
		case "", "menu", "ignore", "local":
		default:
			refs = append(refs, f)
		}
	}
	for _, h := range p.Hosts {
		if h.Image != "" {
			refs = append(refs, h.Image)
		}
	}
	return refs
}

// Machines lists every address by which the policy knows a machine, those of disabled ones too, as a machine that has just
// this one.
func (p *Policy) Machines() []Machine {
	var list []Machine
	for _, h := range p.Hosts {
		for _, mac := range h.MACs {
			list = append(list, Machine{MAC: mac})
		}
		if h.UUID != "" {
			list = append(list, Machine{UUID: h.UUID})
		}
		for _, a := range h.Addresses {
			list = append(list, Machine{Address: a})
		}
	}
	return list
}

// On is the policy with other interfaces than those of the file.
func (p *Policy) On(interfaces []string) *Policy {
	other := *p
	other.Interfaces, other.interfaceLine = slices.Clone(interfaces), 0
	return &other
}

// Decide says what m gets.
func (p *Policy) Decide(m Machine) Decision {
	who := m.String()
	n := p.network(m)
	d := Decision{Server: n.Server, Loader: n.Loader, IPXE: n.IPXE, Menu: p.Menu, Cmdline: slices.Clone(n.Cmdline)}
	if len(p.Interfaces) > 0 && m.Interface != "" && !slices.Contains(p.Interfaces, m.Interface) {
		d.Ignore = true
		d.Reason = fmt.Sprintf("%s came in on %s, which is not among the interfaces%s", who, m.Interface, p.place(p.interfaceLine))
		return d
	}
	if e, by, ok := p.find(m); ok {
		h := e.host
		d.Name, d.Image, d.Local, d.Cmdline = h.Name, h.Image, h.Local, append(d.Cmdline, h.Cmdline...)
		d.Reason = fmt.Sprintf("%s is %s%s, listed%s", who, h.Name, by, p.place(e.line))
		d.Once, d.Vars = h.Once, mergeVars(n.Vars, h.Vars)
		if h.Once && p.installed != nil && p.installed(h.Name) {
			d.Local = true
			d.Reason += fmt.Sprintf(", installed, and boots its own disk until: netroot nodes --reinstall %s", h.Name)
		}
		if d.Local {
			d.Image = ""
		}
		if h.Disabled {
			d.Ignore = true
			d.Reason = fmt.Sprintf("%s is %s%s, disabled%s", who, h.Name, by, p.place(h.line))
		}
		return d
	}
	unlisted := fmt.Sprintf("%s is not listed, and default is %s%s", who, n.Fallback, p.place(n.fallbackLine))
	switch n.Fallback {
	case "ignore":
		d.Ignore, d.Reason = true, unlisted
	case "menu", "":
		d.Reason = who + " is not listed, and gets a menu" + p.place(n.fallbackLine)
		if p.file == "" {
			d.Reason = who + " gets a menu, as everybody without a netroot.yaml"
		}
	case "local":
		d.Local, d.Reason = true, unlisted
	default:
		d.Image, d.Reason = n.Fallback, unlisted
	}
	return d
}

func mergeVars(network, machine map[string]string) map[string]string {
	if len(network) == 0 {
		return machine
	}
	all := maps.Clone(network)
	maps.Copy(all, machine)
	return all
}

// Variables lists what a host may be given: its own and those of one network each, because it is not known before which one it comes in on.
func (p *Policy) Variables(h *Host) []map[string]string {
	list := []map[string]string{h.Vars}
	for _, n := range p.Networks {
		if len(n.Vars) > 0 {
			list = append(list, mergeVars(n.Vars, h.Vars))
		}
	}
	return list
}

// Knowing is the policy with what is known of hosts that boot an image once: installed says of a host whether it did.
func (p *Policy) Knowing(installed func(name string) bool) *Policy {
	other := *p
	other.installed = installed
	return &other
}

// Fault is something wrong with a host, for people who look at the file.
func (p *Policy) Fault(h *Host, format string, args ...any) *strictyaml.Error {
	if i := slices.IndexFunc(p.Hosts, func(o Host) bool { return o.Name == h.Name }); i >= 0 && p.doc != nil {
		return p.doc.At(fmt.Sprintf("$.hosts[%d].name", i), format, args...)
	}
	return &strictyaml.Error{File: p.file, Msg: fmt.Sprintf(format, args...)}
}

// As is a listed machine as it shows itself to a service that sees one of its addresses.
func (h *Host) As() Machine {
	m := Machine{UUID: h.UUID}
	if len(h.MACs) > 0 {
		m.MAC = h.MACs[0]
	}
	if len(h.Addresses) > 0 {
		m.Address = h.Addresses[0]
	}
	return m
}

// find looks for a listed machine. What is most its own counts first: every card has a MAC of its own, there are boards that
// share a UUID, and an address is whose it is today.
func (p *Policy) find(m Machine) (e entry, by string, ok bool) {
	if e, ok = p.byMAC[string(m.MAC)]; ok {
		return e, "", true
	}
	if e, ok = p.byUUID[m.UUID]; ok {
		return e, " by its UUID", true
	}
	if e, ok = p.byAddress[m.Address]; ok {
		return e, " by its address", true
	}
	return entry{}, "", false
}

// network returns what holds on the network of m: the longest prefix that fits, else what its interface says, and in any
// case what is said for all.
func (p *Policy) network(m Machine) Network {
	found := Network{}
	for _, n := range p.Networks {
		if !n.Prefix.IsValid() {
			continue
		}
		at := m.Near
		if m.Address.IsValid() {
			at = m.Address
		}
		if n.Prefix.Contains(at) && (!found.Prefix.IsValid() || n.Prefix.Bits() > found.Prefix.Bits()) {
			found = n
		}
	}
	if i := slices.IndexFunc(p.Networks, func(n Network) bool { return n.Interface != "" && n.Interface == m.Interface }); i >= 0 && !found.Prefix.IsValid() {
		found = p.Networks[i]
	}
	if found.Fallback == "" {
		found.Fallback, found.fallbackLine = p.Fallback, p.fallbackLine
	}
	if found.IPXE == "" {
		found.IPXE = p.IPXE
	}
	if found.Loader == "" {
		found.Loader = p.Loader
	}
	return found
}

// String is what a log calls the machine.
func (m Machine) String() string {
	switch {
	case len(m.MAC) > 0:
		return m.MAC.String()
	case m.UUID != "":
		return m.UUID
	case m.Address.IsValid():
		return m.Address.String()
	}
	return "a machine whose MAC address is not known"
}

// place says where something stands in the file, or nothing when it is not in a file.
func (p *Policy) place(line int) string {
	if p.file == "" || line == 0 {
		return ""
	}
	return fmt.Sprintf(" in %s:%d", p.file, line)
}
