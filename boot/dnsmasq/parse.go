package dnsmasq

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"netroot/builder/strictyaml"
)

// Load reads a dnsmasq.conf. Its faults, for which dnsmasq would not start, come back as strictyaml.Errors; a file that
// cannot be read is any other error.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read dnsmasq's configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse is Load for the bytes of a file that errors call name.
func Parse(name string, data []byte) (*File, error) {
	p := &parser{file: &File{Name: name}}
	p.file.lines = p.lines(string(data))
	leases := false
	for _, l := range p.file.lines {
		p.line(l)
	}
	for _, r := range p.file.ranges {
		leases = leases || !r.proxy
	}
	p.file.ranges = slices.DeleteFunc(p.file.ranges, func(r *addressRange) bool { return !r.proxy })
	for _, l := range p.file.lines {
		switch d := directives[l.key]; {
		case l.off:
		case d.server == dns && !p.file.noDNS:
			p.remark(l, false, "netroot is no name server: leave that to another one")
		case d.server == dhcp && leases:
			p.remark(l, false, "netroot gives out no addresses: leave that to a DHCP server")
		}
	}
	if err := strictyaml.Join(p.errs...); err != nil {
		return nil, err
	}
	return p.file, nil
}

// A parser gathers what is wrong with one file.
type parser struct {
	file *File
	errs []*strictyaml.Error
}

// fail is a fault for which dnsmasq would not start.
func (p *parser) fail(l *line, format string, args ...any) {
	column := len(l.source) - len(strings.TrimLeft(l.source, " \t"))
	e := &strictyaml.Error{File: p.file.Name, Line: l.number, Column: column + 1, Source: l.source, Msg: fmt.Sprintf(format, args...)}
	p.errs = append(p.errs, e)
}

func (p *parser) remark(l *line, changes bool, format string, args ...any) {
	p.file.remark(l, changes, format, args...)
}

func (f *File) remark(l *line, changes bool, format string, args ...any) {
	r := Remark{File: f.Name, Reason: fmt.Sprintf(format, args...), Changes: changes}
	if l != nil {
		r.Line, r.Text = l.number, l.text
	}
	if !slices.Contains(f.remarks, r) {
		f.remarks = append(f.remarks, r)
	}
}

func (p *parser) line(l *line) {
	d, known := directives[l.key]
	switch {
	case !known:
		p.fail(l, "dnsmasq has no option %q", l.key)
		words := slices.Sorted(maps.Keys(directives))
		if near := strictyaml.Nearest(l.key, words); near != "" {
			p.errs[len(p.errs)-1].Hint = "did you mean " + near + "?"
		}
	case d.argument == never && l.given:
		p.fail(l, "%s takes no argument", l.key)
	case d.argument == always && !l.given:
		p.fail(l, "%s takes an argument", l.key)
	case d.read != nil:
		d.read(p, l)
	case d.why != "":
		p.remark(l, d.changes, "%s", d.why)
	}
}

func (p *parser) port(l *line) { p.file.noDNS = l.value == "0" }

func (p *parser) interfaceList(l *line) {
	for _, name := range l.args {
		switch {
		case strings.ContainsAny(name, "*"):
			p.remark(l, true, "netroot.yaml has no patterns: name each interface in interfaces:")
		case name != "" && !interfaceName.MatchString(name):
			p.remark(l, true, "%q is not the name of a network interface", name)
		case name != "" && !slices.Contains(p.file.interfaces, name):
			p.file.interfaces = append(p.file.interfaces, name)
		}
	}
}

func (p *parser) except(l *line) { p.file.excepted = append(p.file.excepted, l.args...) }

// tags reads tag:NAME in front of a line, as often as it stands there.
func tags(args []string) (need []tag, rest []string) {
	for len(args) > 0 {
		name, found := strings.CutPrefix(args[0], "tag:")
		if !found {
			if name, found = strings.CutPrefix(args[0], "net:"); !found {
				break
			}
		}
		need, args = append(need, tag(name)), args[1:]
	}
	return need, args
}

// dhcpRange reads [tag:TAG,…][set:TAG,]START,END|proxy|static[,NETMASK[,BROADCAST]][,LEASE].
func (p *parser) dhcpRange(l *line) {
	r := &addressRange{line: l}
	args := l.args
	for len(args) > 0 && (strings.Trim(args[0], " .:0123456789abcdefABCDEF") != "" || strings.HasPrefix(args[0], "set:")) {
		if need, rest := tags(args); len(need) > 0 {
			r.need, args = append(r.need, need...), rest
			continue
		}
		if r.set != "" {
			p.fail(l, "dhcp-range sets one tag at most")
			return
		}
		r.set, args = strings.TrimPrefix(args[0], "set:"), args[1:]
	}
	if len(args) < 2 {
		p.fail(l, "dhcp-range has a start and an end, or proxy")
		return
	}
	start, err := netip.ParseAddr(args[0])
	if err != nil {
		p.fail(l, "%q is not an address", args[0])
		return
	}
	if !start.Is4() {
		p.remark(l, true, "netroot boots over IPv4 only")
		return
	}
	r.start, r.proxy = start, args[1] == "proxy"
	p.file.ranges = append(p.file.ranges, r)
	if !r.proxy {
		p.remark(l, true, "netroot gives out no addresses: leave that to a DHCP server")
		return
	}
	if len(args) > 2 && strings.Contains(args[2], ".") {
		mask, err := netip.ParseAddr(args[2])
		if err != nil || !mask.Is4() {
			p.fail(l, "%q is not a netmask", args[2])
			return
		}
		ones, bits := net.IPMask(mask.AsSlice()).Size()
		if bits == 0 {
			p.fail(l, "%q is not a netmask", args[2])
			return
		}
		r.prefix = netip.PrefixFrom(start, ones).Masked()
	}
}

// dhcpHost reads a machine.
func (p *parser) dhcpHost(l *line) {
	h, fault := readHost(l)
	switch {
	case fault != "" && !l.off:
		p.fail(l, "%s", fault)
	case fault != "":
	case len(h.macs) == 0 && !h.odd:
		p.remark(l, true, "netroot.yaml knows machines by their MAC address, and this line has none")
	default:
		if h.odd {
			p.remark(l, true, "netroot.yaml has no patterns and no client identifiers: list each machine's own address")
		}
		if h.at.IsValid() && !l.off && slices.ContainsFunc(h.macs, usable) {
			p.remark(l, true, "dnsmasq heeds this line only on the network of %s, netroot on every network; it gives out no address", h.at)
		}
		p.file.hosts = append(p.file.hosts, h)
	}
}

// readHost reads MAC, id:, set:, tag:, address, name, lease time and ignore, in any order.
func readHost(l *line) (h *hostLine, fault string) {
	h = &hostLine{line: l}
	for _, arg := range l.args {
		lower := strings.ToLower(arg)
		switch {
		case strings.HasPrefix(lower, "id:"):
			h.odd = h.odd || lower != "id:*"
		case strings.HasPrefix(arg, "set:"), strings.HasPrefix(arg, "net:"):
			h.set = append(h.set, arg[4:])
		case strings.HasPrefix(arg, "tag:"):
			h.need = append(h.need, tag(arg[4:]))
		case strings.HasPrefix(arg, "["):
			h.odd = true // an IPv6 address
		case strings.Contains(arg, ":"):
			mac, pattern, ok := hardwareAddress(arg)
			switch {
			case !ok:
				return nil, fmt.Sprintf("%q is not a MAC address", arg)
			case pattern || len(mac) != 6:
				h.odd = true
			default:
				h.macs = append(h.macs, mac)
			}
		default:
			if a, err := netip.ParseAddr(arg); err == nil {
				h.at = a
				continue
			}
			switch {
			case leaseTime(arg):
			case arg == "ignore":
				h.ignored = true
			default:
				name, _, _ := strings.Cut(arg, ".") // the rest is the domain
				if strictyaml.HostName(strings.ReplaceAll(name, "_", "-")) != nil {
					return nil, fmt.Sprintf("%q is not a host name", arg)
				}
				h.name = strings.ReplaceAll(name, "_", "-")
			}
		}
	}
	return h, ""
}

// leaseTime says whether s is a number of seconds, minutes, hours, days or weeks.
func leaseTime(s string) bool {
	if n := len(s) - 1; n > 0 && strings.IndexByte("smhdwSMHDW", s[n]) >= 0 {
		s = s[:n]
	}
	return s == "infinite" || strings.Trim(s, "0123456789 ") == ""
}

// hardwareAddress reads what parse_hex of dnsmasq's util.c does: bytes in hex between colons, * for any byte, and a
// hardware type in front with a hyphen, of which 1 is Ethernet.
func hardwareAddress(s string) (mac net.HardwareAddr, pattern, ok bool) {
	if kind, rest, found := strings.Cut(s, "-"); found && !strings.Contains(kind, ":") {
		n, err := strconv.ParseUint(kind, 16, 16)
		if err != nil {
			return nil, false, false
		}
		s, pattern = rest, n > 1
	}
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ':' || r == '-' || r == ' ' }) {
		if part == "*" {
			mac, pattern = append(mac, 0), true
			continue
		}
		if len(part)%2 == 1 {
			part = "0" + part
		}
		b, err := hex.DecodeString(part)
		if err != nil || len(mac)+len(b) > 16 {
			return nil, false, false
		}
		mac = append(mac, b...)
	}
	return mac, pattern, len(mac) > 0
}

// dhcpBoot reads [tag:TAG,…]FILE[,SERVER NAME[,SERVER]].
func (p *parser) dhcpBoot(l *line) {
	need, args := tags(l.args)
	if len(args) == 0 {
		p.fail(l, "dhcp-boot names a file")
		return
	}
	b := &boot{line: l, need: need, file: args[0]}
	if len(args) > 2 {
		b.server = args[2]
	}
	p.file.boots = append(p.file.boots, b)
}

const archBIOS = 0

// systems are the names that pxe-service has for architectures, in the order of RFC 4578.
var systems = []string{"x86PC", "PC98", "IA64_EFI", "Alpha", "Arc_x86", "Intel_Lean_Client", "IA32_EFI", "x86-64_EFI", "Xscale_EFI", "BC_EFI", "ARM32_EFI", "ARM64_EFI"}

// firstBootType is what PXE leaves to everybody (PXE 2.1, table 2-1, tag 8); dnsmasq numbers its services from there.
const firstBootType = 32768

// pxeService reads [tag:TAG,…]SYSTEM,MENU TEXT[,FILE|BOOT TYPE][,SERVER].
func (p *parser) pxeService(l *line) {
	need, args := tags(l.args)
	if len(args) < 2 {
		p.fail(l, "pxe-service has a type of client and a menu text")
		return
	}
	s := &service{line: l, need: need, menu: args[1]}
	s.arch = slices.IndexFunc(systems, func(name string) bool { return strings.EqualFold(name, args[0]) })
	if n, err := strconv.Atoi(args[0]); s.arch < 0 && err == nil {
		s.arch = n
	}
	if s.arch < 0 {
		p.fail(l, "%q is not a type of client: it is a number or one of %s", args[0], strings.Join(systems, ", "))
		return
	}
	if len(args) > 2 {
		if n, err := strconv.Atoi(args[2]); err == nil {
			s.kind = n
		} else {
			s.kind, s.file = firstBootType, args[2]
		}
	}
	if len(args) > 3 {
		s.server = args[3]
	}
	// In an acknowledgement the layer of the boot item is added: 0, the boot program itself.
	if s.file != "" && !strings.Contains(s.file, ".") {
		s.file += ".0"
	}
	p.file.services = append(p.file.services, s)
}

func (p *parser) pxePrompt(l *line) {
	need, args := tags(l.args)
	if len(args) == 0 {
		p.fail(l, "pxe-prompt has a text")
		return
	}
	q := &prompt{line: l, need: need, seconds: -1}
	if len(args) > 1 {
		if n, err := strconv.Atoi(args[1]); err == nil && n >= 0 && n < 255 {
			q.seconds = n
		}
	}
	p.file.prompts = append(p.file.prompts, q)
}

// dhcpIgnore reads tags; tag: may be left out in front of them.
func (p *parser) dhcpIgnore(l *line) {
	r := &rule{line: l}
	for _, arg := range l.args {
		need, rest := tags([]string{arg})
		for _, name := range rest {
			need = append(need, tag(name))
		}
		r.need = append(r.need, need...)
	}
	p.file.ignores = append(p.file.ignores, r)
}

func (p *parser) tagIf(l *line) {
	r := &rule{line: l}
	for _, arg := range l.args {
		if name, ok := strings.CutPrefix(arg, "set:"); ok && name != "" {
			r.set = append(r.set, name)
		} else if name, ok := strings.CutPrefix(arg, "tag:"); ok && name != "" {
			r.need = append(r.need, tag(name))
		} else {
			r.set = nil
			break
		}
	}
	if len(r.set) == 0 {
		p.fail(l, "tag-if sets a tag when others hold: set:NEW,tag:OTHER")
		return
	}
	p.file.tagIfs = append(p.file.tagIfs, r)
}
