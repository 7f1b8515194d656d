package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"netroot/boot/portowner"
	"netroot/boot/proxydhcp"
)

// A port is one that serve listens on.
type port struct {
	protocol string
	number   uint16
}

func (p port) String() string { return fmt.Sprintf("%s %d", strings.ToUpper(p.protocol), p.number) }

// A holding is what is known of who has a port.
type holding struct {
	holders []portowner.Holder
	err     error
	shared  bool // it can be had beside the one who has it
	hidden  bool // who it is, only root can see
}

// netroot says whether it is netroot's own.
func (h holding) netroot() bool {
	for _, x := range h.holders {
		if x.Name == "netroot" {
			return true
		}
	}
	return false
}

func (h holding) String() string {
	var list []string
	for _, x := range h.holders {
		s := x.Process.String()
		if !x.Address.IsUnspecified() {
			s += " at " + x.Address.String()
		}
		list = append(list, s)
	}
	return strings.Join(list, " and ")
}

// Ports are those that serve would be started with; 0 is a service that it would not have.
type Ports struct {
	DHCP, PXE int // proxy DHCP and the PXE boot server
	TFTP      int
	HTTP      int
	NFS       int
	Portmap   int
}

// A listener is one of serve's.
type listener struct {
	port
	service   string // as in --no-dhcp
	spare     bool   // nobody misses it
	broadcast bool   // clients without an address call there
}

// listeners lists the ports in use.
func (p Ports) listeners() []listener {
	all := []listener{
		{port{"udp", uint16(p.DHCP)}, "dhcp", false, true}, {port{"udp", uint16(p.PXE)}, "dhcp", false, false}, {port{"udp", uint16(p.TFTP)}, "tftp", false, false},
		{port{"tcp", uint16(p.HTTP)}, "http", false, false}, {port{"tcp", uint16(p.NFS)}, "nfs", false, false},
		{port{"udp", uint16(p.Portmap)}, "portmap", true, false}, {port{"tcp", uint16(p.Portmap)}, "portmap", true, false},
	}
	return slices.DeleteFunc(all, func(l listener) bool { return l.number == 0 })
}

// look finds out who has the ports.
func (p Ports) look() map[port]holding {
	m := map[port]holding{}
	for _, l := range p.listeners() {
		var h holding
		h.holders, h.err = portowner.Find(l.protocol, l.number)
		h.hidden = os.Geteuid() != 0 && slices.ContainsFunc(h.holders, func(x portowner.Holder) bool { return x.PID == 0 })
		if l.broadcast && len(h.holders) > 0 && !h.netroot() && os.Geteuid() == 0 {
			// Whether the other one allows it shows only when it is tried, which is what serve does.
			if conn, err := proxydhcp.Listen(context.Background(), proxydhcp.Proxy, l.number, nil); err == nil {
				h.shared = true
				conn.Close()
			}
		}
		m[l.port] = h
	}
	return m
}

// judge says which are in the way. askers are images whose machines need the portmapper.
func (p Ports) judge(ports map[port]holding, askers []string) []Finding {
	var list []Finding
	for _, l := range p.listeners() {
		h := ports[l.port]
		f := Finding{Level: OK, About: l.String()}
		switch {
		case h.err != nil:
			f.Level, f.What = Note, h.err.Error()
		case len(h.holders) == 0:
			f.What = "free"
		case h.netroot():
			f.What = "held by " + h.String()
		case h.hidden:
			f.Level, f.What, f.WayOut = Note, "held by a process of another user, which may be netroot itself", "run it as root"
		case l.spare && len(askers) > 0:
			f.Level, f.What = Fault, "held by "+h.String()+", and the initrd of "+strings.Join(askers, ", ")+" asks there for NFS"
			f.WayOut = "stop that one, or deliver: http in the recipe"
		case l.spare:
			f.What = "held by " + h.String() + ", which serve leaves it to: machines that netroot boots do not ask there"
		case h.shared:
			f.Level, f.What = Note, "held by "+h.String()+", which shares it: serve gets all broadcasts, too"
			f.WayOut = "stop that one if it serves the same network"
		default:
			f.Level, f.What = Fault, "taken by "+h.String()+": serve does not start"
			f.WayOut = "stop that one, or serve with --no-" + l.service
			if l.service == "http" || l.service == "nfs" {
				f.WayOut = fmt.Sprintf("stop that one, or serve with --%s-port, or with --no-%s", l.service, l.service)
			}
		}
		list = append(list, f)
	}
	return list
}
