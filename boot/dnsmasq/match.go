package dnsmasq

import (
	"strconv"
	"strings"
)

// What PXE clients of x86 BIOS machines send. The version of UNDI behind the class differs.
const (
	romClass = "PXEClient:Arch:00000:UNDI:"
	ipxeUser = "iPXE"
)

// dhcpMAC reads set:TAG,MAC.
func (p *parser) dhcpMAC(l *line) {
	set, rest, ok := p.setter(l)
	if !ok {
		return
	}
	mac, pattern, ok := hardwareAddress(rest[0])
	switch {
	case !ok || len(rest) != 1:
		p.fail(l, "dhcp-mac has a tag and a MAC address")
	case pattern || len(mac) != 6:
		p.doubt(l, set, "netroot.yaml has no patterns: list each machine's own address under hosts:")
	default:
		p.file.matches = append(p.file.matches, &match{line: l, set: set, mac: mac})
	}
}

// dhcpMatch reads set:TAG,OPTION[,VALUE].
func (p *parser) dhcpMatch(l *line) {
	set, rest, ok := p.setter(l)
	if !ok {
		return
	}
	option, value := strings.TrimPrefix(rest[0], "option:"), strings.Join(rest[1:], ",")
	m := &match{line: l, set: set}
	switch option {
	case "client-arch", "93":
		m.when = answer{value == "" || is(value, archBIOS), value == "" || is(value, archBIOS)}
	case "vendor-class", "60":
		m.when = both(strings.HasPrefix(romClass, value)) // compared from the left
	case "user-class", "77":
		m.when = answer{false, value == "" || value == ipxeUser}
	case "175": // iPXE's own
		m.when = answer{false, value == ""}
	case "client-machine-id", "97", "client-interface-id", "94":
		m.when = both(value == "")
	default:
		p.doubt(l, set, "netroot.yaml cannot tell machines by what they send: list them by mac: under hosts:")
		return
	}
	p.file.matches = append(p.file.matches, m)
}

// classMatch reads set:TAG,TEXT: the class of the client has that text in it.
func (p *parser) classMatch(l *line) {
	set, rest, ok := p.setter(l)
	if !ok {
		return
	}
	text := rest[len(rest)-1]
	m := &match{line: l, set: set}
	switch {
	case l.key == "dhcp-userclass":
		m.when = answer{false, strings.Contains(ipxeUser, text)}
	case strings.Contains(text, "UNDI:") && !strings.Contains(romClass, text):
		p.doubt(l, set, "netroot.yaml cannot tell machines by their version of UNDI: list them by mac: under hosts:")
		return
	default:
		m.when = both(strings.Contains(romClass, text))
	}
	p.file.matches = append(p.file.matches, m)
}

func both(b bool) answer { return answer{b, b} }

func is(value string, n uint64) bool {
	v, err := strconv.ParseUint(value, 0, 16)
	return err == nil && v == n
}

// setter reads the tag in front of what a client is matched by.
func (p *parser) setter(l *line) (set string, rest []string, ok bool) {
	if len(l.args) < 2 || l.args[1] == "" {
		p.fail(l, "%s has a tag and what sets it", l.key)
		return "", nil, false
	}
	return strings.TrimPrefix(l.args[0], "set:"), l.args[1:], true
}

// doubt notes a tag that nobody can know beforehand. It counts as not set, and matters when something asks for it.
func (p *parser) doubt(l *line, set, why string) {
	p.file.doubts = append(p.file.doubts, &match{line: l, set: set, why: why})
}

// dhcpOption: a proxy sends none but PXE's own.
func (p *parser) dhcpOption(l *line) {
	for _, arg := range l.args {
		if strings.HasPrefix(arg, "vendor:PXEClient") || arg == "encap:43" || arg == "43" {
			p.remark(l, false, "netroot writes PXE's own options itself")
			return
		}
	}
}
