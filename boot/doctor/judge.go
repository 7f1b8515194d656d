package doctor

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"netroot/boot/host"
)

// A site is what is known besides the answers.
type site struct {
	decision host.Decision // about the machine that asked
	off      bool          // serve is to answer no DHCP
	holder   holding       // of serve's port for it here
	wait     time.Duration
	known    bool // the machine is one that --mac names
}

// judge explains what the answers on one interface mean for a machine that boots there.
func judge(i iface, offers []offer, s site) []Finding {
	var list []Finding
	say := func(level, wayOut, format string, args ...any) {
		list = append(list, Finding{Level: level, About: i.Name, What: fmt.Sprintf(format, args...), WayOut: wayOut})
	}
	var servers []offer
	answered := false
	for _, o := range offers {
		own := slices.ContainsFunc(i.addrs, func(p netip.Prefix) bool { return p.Addr() == o.from })
		switch {
		case !o.proxy():
			servers = append(servers, o)
		case own && (s.holder.netroot() || s.holder.hidden):
			answered = true
			who := "netroot serve"
			if s.holder.hidden {
				who = s.holder.String() + " on this very machine"
			}
			say(OK, "", "%s answers: boot file %s from %v", who, o.file(), o.server)
		case own:
			say(Fault, "stop it", "%v on this very machine answers as a PXE server, with boot file %q", s.holder, o.file())
		case !o.pxe():
			say(Note, "", "%v answers, and offers neither an address nor to boot anything", o.sender())
		case s.decision.Ignore:
			say(Note, "", "another proxy-DHCP server, %v, offers %s; netroot leaves this machine alone: %s", o.sender(), o.boots(), s.decision.Reason)
		default:
			say(Fault, "stop that one, or have each of the two ignore the machines of the other",
				"another proxy-DHCP server, %v, offers %s: a machine takes whichever answers first", o.sender(), o.boots())
		}
	}
	switch {
	case answered:
	case s.off:
		say(Note, "", "serve with --no-dhcp tells machines nothing here: another server must send them to this one")
	case s.holder.hidden:
		say(Note, "run it as root", "whether netroot serve runs here cannot be seen")
	case !s.holder.netroot():
		say(Note, "netroot serve", "netroot serve does not run on this machine")
	case s.decision.Ignore:
		say(OK, "", "netroot serve does not answer, as the policy wants: %s", s.decision.Reason)
	default:
		say(Fault, "look at what serve logs; it may have been started with another --interface or --config",
			"netroot serve did not answer, though the policy would: %s", s.decision.Reason)
	}
	return append(list, judgeServers(i, servers, s)...)
}

// judgeServers is about those who offer addresses.
func judgeServers(i iface, servers []offer, s site) []Finding {
	if len(servers) == 0 {
		wayOut := "look at the cable, the VLAN, and whether the switch port forwards at once (portfast)"
		if !s.known {
			wayOut = "a DHCP server that knows only its own machines answers none other: ask as one of them, with --mac; else " + wayOut
		}
		return []Finding{{Level: Fault, About: i.Name, What: fmt.Sprintf("no DHCP server answered within %v: PXE firmware gives up without an address (PXE-E51)", s.wait), WayOut: wayOut}}
	}
	var list []Finding
	for _, o := range servers {
		list = append(list, Finding{Level: OK, About: i.Name, What: fmt.Sprintf("the DHCP server %v offers %s", o.sender(), lease(o))})
		if f, ok := rival(o); ok {
			f.About = i.Name
			list = append(list, f)
		}
	}
	for _, other := range servers[1:] {
		first := servers[0]
		if other.sender() == first.sender() {
			continue
		}
		f := Finding{Level: Note, About: i.Name, What: fmt.Sprintf("two DHCP servers answer, %v and %v: which of the two a machine takes is chance", first.sender(), other.sender())}
		if network(first) != network(other) {
			f.Level, f.WayOut = Fault, "stop the one that does not belong there"
			f.What += fmt.Sprintf(", and so is its network, %v or %v", network(first), network(other))
		}
		list = append(list, f)
	}
	return list
}

func network(o offer) netip.Prefix {
	bits := 32
	if m := o.options[1]; len(m) == 4 {
		bits, _ = net.IPMask(m).Size()
	}
	return netip.PrefixFrom(o.your, bits).Masked()
}

// lease says what address is offered.
func lease(o offer) string {
	s := fmt.Sprintf("%v in %v", o.your, network(o))
	if v := o.options[51]; len(v) == 4 {
		s += " for " + strings.TrimSuffix(value(51, v), " s") + " seconds"
	}
	if v := o.options[3]; len(v) >= 4 {
		s += ", router " + value(3, v)
	}
	return s
}

// rival finds out whether a DHCP server also tells machines what to boot, and what comes of it.
//
// EDK2 chooses in PxeBcSelectDhcp4Offer (NetworkPkg/UefiPxeBcDxe/PxeBcDhcp4.c): an address with PXE options first, then an address and a
// proxy with a menu, then an address with option 60 alone, and only then an address and a proxy like ours; so option 60 shuts
// us out, and option 67 alone does not. The other rows are of people's reports: fog-docs#188 (60), netboot.xyz#736
// (iPXE's next-server), shim#165 and rhboot/grub2#56 (the file comes from the DHCP server).
func rival(o offer) (Finding, bool) {
	file := o.file()
	if v := o.options[60]; len(v) > 0 && o.pxe() {
		what := fmt.Sprintf("the DHCP server %v calls itself a PXE server (option 60, %q)", o.sender(), v)
		if file != "" {
			what += fmt.Sprintf(" with boot file %q", file)
		}
		return Finding{Level: Fault, What: what + ": UEFI firmware takes that before any proxy's offer and asks its port 4011; BIOS ROMs have all they look for, and boot from there",
			WayOut: "take option 60 (vendor class) off that DHCP server"}, true
	}
	if file != "" {
		where := o.server
		if where.IsUnspecified() {
			where = o.sender()
		}
		return Finding{Level: Fault, What: fmt.Sprintf("the DHCP server %v names the boot file %q on %v (option 67, or next-server and filename): UEFI and BIOS firmware prefer our offer, but boot "+
			"that file when ours comes late; shim and GRUB never look at ours, and iPXE may take either", o.sender(), file, where),
			WayOut: "take options 66 and 67 (next-server, filename) off that DHCP server"}, true
	}
	name := o.serverName
	if v := o.options[optServerName]; len(v) > 0 {
		name = shown(bytes.TrimRight(v, "\x00"))
	}
	if name == "" && !o.server.IsUnspecified() && o.server != o.sender() {
		name = o.server.String()
	}
	if name == "" {
		return Finding{}, false
	}
	return Finding{Level: Note, What: fmt.Sprintf("the DHCP server %v names a boot server, %s (option 66, or next-server), and no file: what loads by a bare name there, as GRUB and scripts with "+
		"${next-server} do, asks that server; netroot names its own address wherever it can", o.sender(), name), WayOut: "take option 66 (next-server) off that DHCP server"}, true
}
