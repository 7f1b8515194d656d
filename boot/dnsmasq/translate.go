package dnsmasq

import (
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"netroot/boot/host"
)

// A place is one network as far as the file tells them apart.
type place struct {
	iface   string
	network *addressRange
	prefix  netip.Prefix // instead of the interface

	unlisted string // default: there
	told     told
	by       *line // what told is taken from
}

// told is what the machines of a place are told, beside their image.
type told struct {
	server       netip.Addr
	loader, ipxe string
}

// A translation is under way.
type translation struct {
	*File
	places   []*place
	machines []*machine
}

// Translate returns the netroot.yaml, and what is not as it was, by line.
func (f *File) Translate() ([]byte, []Remark) {
	t := &translation{File: f}
	before := slices.Clone(f.remarks)
	t.findPlaces()
	t.tags()
	t.findMachines()
	for _, p := range t.places {
		t.settle(p)
	}
	t.menus()
	t.unanswered()
	yaml := t.yaml()
	remarks := f.remarks
	f.remarks = before
	slices.SortStableFunc(remarks, func(a, b Remark) int { return a.Line - b.Line })
	return yaml, remarks
}

// serving are the interfaces that are named and not excluded.
func (t *translation) serving() []string {
	return slices.DeleteFunc(slices.Clone(t.interfaces), func(name string) bool {
		return slices.ContainsFunc(t.excepted, func(pattern string) bool { return wild(pattern, name) })
	})
}

// findPlaces tells the networks apart by what the lines do: by the interface, whose name is a tag, or by the tag of a range.
func (t *translation) findPlaces() {
	byRange := slices.ContainsFunc(t.ranges, func(r *addressRange) bool { return r.set != "" || len(r.need) > 0 })
	ifaces := t.serving()
	named := ifaces
	if len(named) == 0 && !byRange {
		named = t.tagsOfInterfaces()
	}
	if !byRange && len(named) > 0 {
		for _, name := range named {
			t.places = append(t.places, &place{iface: name})
		}
		return
	}
	for _, r := range t.ranges {
		p := &place{network: r, prefix: r.prefix}
		if len(ifaces) == 1 {
			p.iface = ifaces[0]
		}
		if !p.prefix.IsValid() {
			p.prefix = byClass(r.start)
			t.remark(r.line, true, "how large this network is does not stand here: %s is taken, by its class; correct it in networks:", p.prefix)
		}
		t.places = append(t.places, p)
	}
	if len(ifaces) == 0 && len(t.ranges) > 0 {
		t.remark(t.ranges[0].line, true, "without interface= dnsmasq answers where it has a dhcp-range, netroot on every interface: name them in interfaces:")
	}
	if len(t.places) == 0 {
		t.places = []*place{{}}
	}
}

// byClass is the network of an address in the days before netmasks, which is what dnsmasq takes when it cannot know.
func byClass(a netip.Addr) netip.Prefix {
	bits := 24
	switch first := a.As4()[0]; {
	case first < 128:
		bits = 8
	case first < 192:
		bits = 16
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// each calls f for every line that asks for tags.
func (t *translation) each(f func(*line, []tag)) {
	for _, r := range t.ranges {
		f(r.line, r.need)
	}
	for _, h := range t.hosts {
		if !h.off {
			f(h.line, h.need)
		}
	}
	for _, s := range t.services {
		f(s.line, s.need)
	}
	for _, b := range t.boots {
		f(b.line, b.need)
	}
	for _, r := range slices.Concat(t.ignores, t.tagIfs) {
		f(r.line, r.need)
	}
	for _, p := range t.prompts {
		f(p.line, p.need)
	}
}

// unsetTags are those that are asked for and that no line sets, in the order met.
func (t *translation) unsetTags() []string {
	set := []string{"known", "known-othernet", "bootp", "cpewan-id", "PXEClient"}
	for _, m := range slices.Concat(t.matches, t.doubts) {
		set = append(set, m.set)
	}
	for _, h := range t.hosts {
		set = append(set, h.set...)
	}
	for _, r := range t.ranges {
		set = append(set, r.set)
	}
	for _, r := range t.tagIfs {
		set = append(set, r.set...)
	}
	var names []string
	t.each(func(_ *line, need []tag) {
		for _, n := range need {
			if name, _ := n.split(); !slices.Contains(set, name) && !strings.Contains(name, "*") {
				set, names = append(set, name), append(names, name)
			}
		}
	})
	return names
}

// tagsOfInterfaces are the tags without which nothing is served, and that no line sets: only the names of interfaces are set by
// themselves.
func (t *translation) tagsOfInterfaces() []string {
	var names []string
	unset := t.unsetTags()
	look := func(l *line, need []tag) {
		for _, n := range need {
			name, absent := n.split()
			if !absent && slices.Contains(unset, name) && !slices.Contains(names, name) && interfaceName.MatchString(name) {
				names = append(names, name)
				t.remark(l, false, "%s is taken for the name of an interface: no line sets it as a tag", name)
			}
		}
	}
	for _, s := range t.services {
		look(s.line, s.need)
	}
	for _, b := range t.boots {
		look(b.line, b.need)
	}
	return names
}

// interfaceName is what Linux allows (dev_valid_name in net/core/dev.c).
var interfaceName = regexp.MustCompile(`^[^\s/:.][^\s/:]{0,14}$`)

// tags reports what is asked for and cannot be known.
func (t *translation) tags() {
	asked := map[string]bool{}
	t.each(func(_ *line, need []tag) {
		for _, n := range need {
			name, _ := n.split()
			asked[name] = true
		}
	})
	for _, d := range t.doubts {
		if asked[d.set] {
			t.remark(d.line, true, "%s", d.why)
		}
	}
	unset := t.unsetTags()
	t.each(func(l *line, need []tag) {
		for _, n := range need {
			name, _ := n.split()
			isPlace := slices.ContainsFunc(t.places, func(p *place) bool { return p.iface == name })
			switch {
			case slices.Contains(t.interfaces, name) && !isPlace:
				t.remark(l, true, "which of the networks is on %s does not stand here: add interface= lines, or tags to the dhcp-range lines, and import again", name)
			case slices.Contains(unset, name) && !isPlace:
				t.remark(l, false, "no line sets the tag %s", name)
			}
		}
	})
}

func (p *place) client(mac net.HardwareAddr, ipxe bool) client {
	return client{mac: mac, iface: p.iface, network: p.network, ipxe: ipxe}
}

// settle decides what the machines of a place are told: what the first of them is. Those that are told something else are
// reported, because netroot.yaml says it by the network.
func (t *translation) settle(p *place) {
	o := t.outcome(p.client(nil, false))
	switch {
	case !o.answered:
		p.unlisted = "ignore"
	case o.local:
		p.unlisted = "local"
	default:
		p.unlisted = "menu"
		t.tell(p, nil)
	}
	for _, m := range t.machines {
		for _, u := range m.units {
			for _, mac := range u.macs {
				if !m.disabled && t.outcome(p.client(mac, false)).answered {
					t.tell(p, mac)
				}
			}
		}
	}
}

func (t *translation) tell(p *place, mac net.HardwareAddr) {
	rom, ipxe := t.outcome(p.client(mac, false)), t.outcome(p.client(mac, true))
	if rom.file == "" || rom.local {
		return
	}
	var new told
	new.server = t.server(rom)
	switch base := path.Base(rom.file); base {
	case "pxelinux.0":
	case "lpxelinux.0":
		new.loader = base
	default:
		t.remark(rom.by, true, "netroot gives BIOS machines pxelinux.0 or lpxelinux.0, and not %q", rom.file)
	}
	new.ipxe = "pxelinux"
	switch {
	case ipxe.file == "" || ipxe.by == rom.by:
	case strings.Contains(ipxe.file, "://") || strings.HasSuffix(ipxe.file, ".ipxe"):
		new.ipxe = "script"
		t.remark(ipxe.by, false, "iPXE gets a script that netroot writes, of the images in the store")
	case path.Base(ipxe.file) != path.Base(rom.file):
		t.remark(ipxe.by, true, "netroot gives iPXE a script of its own or what other machines get, and not %q", ipxe.file)
	}
	if p.by == nil {
		p.told, p.by = new, rom.by
	} else if p.told != new {
		t.remark(rom.by, true, "netroot.yaml has one server, loader and ipxe for each network, and takes them from line %d", p.by.number)
	}
}

// server is the address a client is sent to, or none when that is dnsmasq's own.
func (t *translation) server(o outcome) netip.Addr {
	a, err := netip.ParseAddr(o.server)
	switch {
	case o.server == "" || err == nil && a.IsUnspecified():
		return netip.Addr{}
	case err != nil || !a.Is4():
		t.remark(o.by, true, "netroot.yaml has servers by address: write that of %q to networks:", o.server)
		return netip.Addr{}
	}
	return a
}

// foreign tells whether only what clients of other kinds send sets a tag: a type of firmware, or the class that has it.
func (t *translation) foreign(n tag) bool {
	name, absent := n.split()
	sets := slices.DeleteFunc(slices.Clone(t.matches), func(m *match) bool { return m.set != name })
	return !absent && len(sets) > 0 && !slices.ContainsFunc(sets, func(m *match) bool { return m.mac != nil || m.when != answer{} }) &&
		!slices.ContainsFunc(t.hosts, func(h *hostLine) bool { return slices.Contains(h.set, name) }) &&
		!slices.ContainsFunc(t.tagIfs, func(r *rule) bool { return slices.Contains(r.set, name) })
}

// menus reports the lines of PXE menus that netroot has not.
func (t *translation) menus() {
	used := map[*line]bool{}
	for _, p := range t.places {
		used[p.by] = true
	}
	for _, s := range t.services {
		switch {
		case s.arch != archBIOS:
			t.remark(s.line, true, "netroot has no boot loader for clients of this type")
		case s.kind != 0 && s.file == "":
			t.remark(s.line, true, "netroot looks for no boot servers of other makes")
		}
	}
	for _, b := range t.boots {
		if len(t.services) > 0 && slices.ContainsFunc(b.need, t.foreign) {
			t.remark(b.line, true, "netroot has no boot loader for clients that are neither BIOS machines nor iPXE")
		}
	}
	menu := false
	for _, p := range t.places {
		menu = menu || t.outcome(p.client(nil, false)).services > 1
		for _, m := range t.machines {
			for _, u := range m.units {
				menu = menu || t.outcome(p.client(u.macs[0], false)).services > 1
			}
		}
	}
	if !menu {
		return
	}
	for _, s := range t.services {
		if s.arch == archBIOS && s.kind != 0 && !used[s.line] {
			t.remark(s.line, false, "the firmware shows no menu: pxelinux shows that of netroot, which has the images and the local disk")
		}
	}
}

// unanswered reports a file by which dnsmasq answers nobody.
func (t *translation) unanswered() {
	switch {
	case len(t.ranges) == 0:
		t.remark(nil, true, "there is no dhcp-range=ADDRESS,proxy line: by this file dnsmasq does not answer beside another DHCP server, and netroot will")
	case len(t.services) == 0 && len(t.prompts) == 0:
		t.remark(nil, true, "there is no pxe-service line, and without one dnsmasq answers nobody beside another DHCP server; netroot will")
	}
}

// seconds is how long the menu waits, or -1 when the file does not say.
func (t *translation) seconds() int {
	if len(t.prompts) == 0 {
		return -1
	}
	for _, q := range t.prompts[1:] {
		t.remark(q.line, false, "netroot.yaml has one timeout for all menus, and takes that of line %d", t.prompts[0].number)
	}
	return t.prompts[0].seconds
}

// usable says whether netroot.yaml may hold an address.
func usable(mac net.HardwareAddr) bool {
	_, err := host.ParseMAC(mac.String())
	return err == nil
}
