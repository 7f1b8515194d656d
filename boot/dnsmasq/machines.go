package dnsmasq

import (
	"bytes"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"netroot/builder/strictyaml"
)

// A machine is one host of netroot.yaml.
type machine struct {
	name     string
	given    bool // by dnsmasq.conf as a host name, not by a comment
	disabled bool
	local    bool
	units    []*unit
}

// A unit is a line of the file with the addresses on it.
type unit struct {
	*line
	macs            []net.HardwareAddr
	name            string
	given           bool
	disabled, local bool
}

// maxCards is how many cards one machine is believed to have when only names and addresses say so. More of them in a row
// are machines that were bought together.
const maxCards = 4

// near is how far apart the addresses of the cards on one board are.
const near = 16

// findMachines makes hosts of the lines. Cards of one machine are those on one line, those that have the same host name, and,
// when names stand in comments only, those whose names are the same word, or that word and the number of the card
// ("alpha", "alpha2"), if their addresses lie side by side and the same happens to them. All others stay apart.
func (t *translation) findMachines() {
	units := t.units()
	family := map[string]int{}
	for _, u := range units {
		stem, _ := stem(u.name)
		family[stem]++
	}
	for _, u := range units {
		if m := t.cardOf(u, family); m != nil {
			m.units = append(m.units, u)
			continue
		}
		t.machines = append(t.machines, &machine{name: t.unique(u), given: u.given, disabled: u.disabled, local: u.local, units: []*unit{u}})
	}
}

// cardOf finds the machine that a line is one more card of.
func (t *translation) cardOf(u *unit, family map[string]int) *machine {
	for _, m := range t.machines {
		if m.disabled != u.disabled || m.local != u.local || m.given != u.given {
			continue
		}
		first := m.units[0].name
		if strings.EqualFold(first, u.name) && u.given {
			return m
		}
		if u.given || u.name == "" || len(m.units) >= maxCards || !sideBySide(m, u) {
			continue
		}
		base, number := stem(u.name)
		if strings.EqualFold(first, u.name) || base == first && number == len(m.units)+1 && family[base] <= maxCards {
			return m
		}
	}
	return nil
}

// stem takes the number off a name, from 2 on: "alpha2".
func stem(name string) (string, int) {
	base := strings.TrimRight(name, "0123456789")
	n, err := strconv.Atoi(name[len(base):])
	if err != nil || n < 2 || base == "" || strings.HasPrefix(name[len(base):], "0") {
		return name, 1
	}
	return base, n
}

func sideBySide(m *machine, u *unit) bool {
	value := func(mac net.HardwareAddr) int { return int(mac[3])<<16 | int(mac[4])<<8 | int(mac[5]) }
	for _, other := range m.units {
		for _, a := range other.macs {
			for _, b := range u.macs {
				if d := value(a) - value(b); !bytes.Equal(a[:3], b[:3]) || d > near || d < -near {
					return false
				}
			}
		}
	}
	return true
}

// units gathers the lines that name machines. Of several lines for one address the last counts, as with dnsmasq; a line that
// is commented out counts only when no other has its address.
func (t *translation) units() []*unit {
	owner := map[string]*line{}
	for _, off := range []bool{true, false} {
		for _, m := range t.matches {
			if m.mac != nil && !off {
				owner[string(m.mac)] = m.line
			}
		}
		for _, h := range t.hosts {
			for _, mac := range h.macs {
				if h.off == off {
					owner[string(mac)] = h.line
				}
			}
		}
	}
	var list []*unit
	add := func(l *line, name string, macs []net.HardwareAddr) (answered bool) {
		u := &unit{line: l, name: name, given: name != ""}
		for _, mac := range macs {
			switch {
			case !usable(mac):
				if !l.off {
					t.remark(l, false, "%s is no machine's own address", mac)
				}
			case owner[string(mac)] != l:
				if !l.off {
					t.remark(l, false, "%s stands again on line %d, which counts", mac, owner[string(mac)].number)
				}
			case !slices.ContainsFunc(u.macs, func(m net.HardwareAddr) bool { return bytes.Equal(m, mac) }):
				u.macs = append(u.macs, mac)
			}
		}
		if len(u.macs) == 0 {
			return false
		}
		if !u.given {
			u.name = nameIn(l.comment)
		}
		t.fate(u)
		list = append(list, u)
		return !u.disabled
	}
	for _, h := range t.hosts {
		if add(h.line, h.name, h.macs) && h.ignored {
			t.remark(h.line, true, "beside another DHCP server dnsmasq answers in spite of the word ignore, and so does this policy: add disabled: true to leave the machine out")
		}
	}
	for _, m := range t.matches {
		if m.mac != nil {
			add(m.line, "", []net.HardwareAddr{m.mac})
		}
	}
	slices.SortStableFunc(list, func(a, b *unit) int { return a.number - b.number })
	return list
}

// fate finds out what happens to the machine of a line on all networks.
func (t *translation) fate(u *unit) {
	if u.off {
		u.disabled = true
		return
	}
	answered, local, all := 0, 0, 0
	for _, p := range t.places {
		for _, mac := range u.macs {
			o := t.outcome(p.client(mac, false))
			all++
			if o.answered {
				answered++
			}
			if o.local {
				local++
			}
		}
	}
	u.disabled, u.local = answered == 0, local == all
	switch {
	case answered > 0 && answered < all:
		t.remark(u.line, true, "dnsmasq ignores this machine on one network and answers it on another, netroot answers on both")
	case local > 0 && local < all:
		t.remark(u.line, true, "dnsmasq has this machine boot its own disk on one network and not on another, netroot on none")
	}
}

// port is how a comment goes on behind the name of a machine when it says which of its cards is meant.
var port = regexp.MustCompile(`^(?i:[(,;:-]|[a-z]{1,4}\d+\b|(port|nic|lan|card|slot|mgmt|bmc|ipmi|interface|onboard|left|right|upper|lower|first|second)\b)`)

// nameIn reads the name of a machine out of a comment: the one word it is, or the word in front of "G1 port", "(left)", "eth0",
// else all of it in one word. It returns "" for what cannot be a host name.
func nameIn(comment string) string {
	words := strings.Fields(comment)
	if len(words) == 0 {
		return ""
	}
	name := strings.TrimRight(words[0], ",;:")
	if len(words) > 1 && name == words[0] && !port.MatchString(strings.Join(words[1:], " ")) {
		name = slug(comment)
	}
	if strictyaml.HostName(name) != nil {
		if name = slug(name); strictyaml.HostName(name) != nil {
			return ""
		}
	}
	return name
}

var notName = regexp.MustCompile(`[^A-Za-z0-9-]+`)

// slug makes one word of a comment, or nothing when letters of other scripts would be lost.
func slug(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r > '~' }) {
		return ""
	}
	s = strings.Trim(notName.ReplaceAllString(s, "-"), "-")
	return strings.Trim(s[:min(len(s), 40)], "-")
}

// unique is a name that no other machine has.
func (t *translation) unique(u *unit) string {
	taken := func(name string) bool {
		return name == "" || slices.ContainsFunc(t.machines, func(m *machine) bool { return strings.EqualFold(m.name, name) })
	}
	hex := strings.ReplaceAll(u.macs[0].String(), ":", "")
	names := []string{u.name, slug(u.comment), "m" + hex}
	if u.name != "" {
		names = []string{u.name, slug(u.comment), u.name + "-" + hex[6:], "m" + hex}
	}
	for _, name := range names {
		if !taken(name) && strictyaml.HostName(name) == nil {
			return name
		}
	}
	return "m" + hex // every address stands on one line only
}
