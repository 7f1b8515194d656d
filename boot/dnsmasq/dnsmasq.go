// Package dnsmasq reads a dnsmasq.conf as far as it says which machines boot over the network and from where, and writes the
// netroot.yaml that does the same.
//
// It follows dnsmasq 2.90's own source in how lines are read, which of several lines wins, and how tags are set and asked for,
// and works by asking: what would this file answer to each machine that it names, and to one that it does not, on each of
// its networks? So a policy comes out whatever way the tags went. The comments that stand above or behind what was
// translated come along, and lines that are commented out but name a machine become disabled hosts.
//
// Its limits: x86 BIOS machines and iPXE, IPv4. A netroot.yaml lists whole MAC addresses; what dnsmasq decides by wildcards, by
// client identifiers, by host names that clients send, or by files named elsewhere, is reported and not guessed at. What the files
// below tftp-root say is not read: which image a machine boots has to be added by hand, and until then it gets a menu.
package dnsmasq

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// A File is a dnsmasq.conf.
type File struct {
	Name string

	top        []string // prose above everything
	lines      []*line
	interfaces []string // in the order named
	excepted   []string
	ranges     []*addressRange
	hosts      []*hostLine
	services   []*service
	boots      []*boot
	ignores    []*rule
	tagIfs     []*rule
	matches    []*match
	doubts     []*match
	prompts    []*prompt
	noDNS      bool // port=0
	remarks    []Remark
}

// A Remark is what could not be translated, or is different now.
type Remark struct {
	File   string
	Line   int    // 0 is the file as a whole
	Text   string // the line
	Reason string
	// Changes says that another machine may boot, or the same from elsewhere, than did with dnsmasq.
	Changes bool
}

func (r Remark) String() string {
	if r.Line == 0 {
		return r.File + ": " + r.Reason
	}
	return fmt.Sprintf("%s:%d: %s: %s", r.File, r.Line, r.Text, r.Reason)
}

// A line is one directive with the comments that belong to it.
type line struct {
	number  int
	source  string
	text    string // without the comment
	key     string
	value   string // all behind the =
	given   bool   // there is a =
	args    []string
	comment string   // behind it
	above   []string // the lines of prose above it
	off     bool     // commented out
}

// A tag is asked for by name; a leading ! (or #, in old files) asks for its absence.
type tag string

// A rule is a list of tags that all have to hold, and for tag-if what is set then.
type rule struct {
	*line
	need []tag
	set  []string
}

type addressRange struct {
	*line
	start  netip.Addr
	prefix netip.Prefix // invalid when the line has no netmask
	set    string
	need   []tag
	proxy  bool
}

type hostLine struct {
	*line
	macs    []net.HardwareAddr
	name    string
	set     []string
	need    []tag
	at      netip.Addr // heeded only where this address belongs
	ignored bool       // by the word ignore
	odd     bool       // also knows machines in ways that netroot.yaml has not
}

type service struct {
	*line
	need   []tag
	arch   int
	menu   string
	kind   int    // 0 is the local disk
	file   string // "" when kind says which boot server to look for
	server string
}

type boot struct {
	*line
	need   []tag
	file   string
	server string // address or name
}

type prompt struct {
	*line
	need    []tag
	seconds int // -1: waits for ever
}

// A match sets a tag by what the client is or sends.
type match struct {
	*line
	set  string
	mac  net.HardwareAddr // dhcp-mac with a whole address
	when answer           // anything else
	why  string           // why it cannot be known
}

// answer says whether something holds for clients of the two kinds that matter here.
type answer struct{ rom, ipxe bool }

// A client is one machine on one of the networks.
type client struct {
	mac     net.HardwareAddr // nil is one that the file does not name
	iface   string           // "" when it does not matter
	network *addressRange    // nil when it does not matter
	ipxe    bool
}

// An outcome is what a client boots.
type outcome struct {
	answered bool
	local    bool   // its own disk
	file     string // "" when there is nothing to boot
	server   string // "" is dnsmasq itself
	by       *line  // the line that names the file
	services int    // in the menu of the ROM
}

// outcome computes what dnsmasq tells a client, as dhcp_reply of its rfc2131.c does beside a DHCP server.
func (f *File) outcome(c client) outcome {
	tags := []string{c.iface}
	for _, m := range f.matches {
		switch {
		case m.mac != nil:
			if slices.Equal(m.mac, c.mac) {
				tags = append(tags, m.set)
			}
		case m.when.ipxe && c.ipxe, m.when.rom && !c.ipxe:
			tags = append(tags, m.set)
		}
	}
	if h := f.host(c.mac, f.tagIf(tags)); h != nil {
		tags = append(append(tags, "known"), h.set...)
	}
	all := f.tagIf(tags)
	o := outcome{answered: true}
	for _, r := range f.ignores {
		if holds(r.need, all) {
			o.answered = false
		}
	}
	if c.network != nil {
		if !holds(c.network.need, all) {
			o.answered = false
		}
		if c.network.set != "" {
			all = f.tagIf(append(tags, c.network.set))
		}
	}
	for _, s := range f.services {
		if s.arch != archBIOS || !holds(s.need, all) {
			continue
		}
		// The first is what the ROM takes when nobody chooses another one.
		if o.services++; o.services == 1 {
			o.local, o.file, o.server, o.by = s.kind == 0, s.file, s.server, s.line
		}
	}
	if o.services == 0 {
		if b := f.boot(all); b != nil {
			o.file, o.server, o.by = b.file, b.server, b.line
		}
	}
	return o
}

// host finds the line for a machine: the last one in the file whose tags hold, then the last one that asks for none.
func (f *File) host(mac net.HardwareAddr, tags []string) *hostLine {
	for _, needed := range []bool{true, false} {
		for _, h := range slices.Backward(f.hosts) {
			if h.off || needed && len(h.need) == 0 || !holds(h.need, tags) {
				continue
			}
			for _, m := range h.macs {
				if mac != nil && slices.Equal(m, mac) {
					return h
				}
			}
		}
	}
	return nil
}

// boot finds the dhcp-boot line for a set of tags, by the same rule.
func (f *File) boot(tags []string) *boot {
	for _, needed := range []bool{true, false} {
		for _, b := range slices.Backward(f.boots) {
			if (len(b.need) > 0 || !needed) && holds(b.need, tags) {
				return b
			}
		}
	}
	return nil
}

// tagIf adds what the tag-if lines set, one after the other.
func (f *File) tagIf(tags []string) []string {
	tags = slices.Clone(tags)
	for _, r := range f.tagIfs {
		if holdsWild(r.need, tags) {
			tags = append(tags, r.set...)
		}
	}
	return tags
}

func holds(need []tag, tags []string) bool {
	for _, t := range need {
		name, absent := t.split()
		if slices.Contains(tags, name) == absent {
			return false
		}
	}
	return true
}

// holdsWild is holds where a tag may end in *, as in tag-if.
func holdsWild(need []tag, tags []string) bool {
	for _, t := range need {
		name, absent := t.split()
		found := slices.ContainsFunc(tags, func(have string) bool { return wild(name, have) })
		if found == absent {
			return false
		}
	}
	return true
}

func (t tag) split() (name string, absent bool) {
	if len(t) > 0 && (t[0] == '!' || t[0] == '#') {
		return string(t[1:]), true
	}
	return string(t), false
}

// wild compares with a name that may end in *.
func wild(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}
