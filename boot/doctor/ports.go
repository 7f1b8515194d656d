package doctor

import (
	"context"
	"fmt"
	"os"
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

// A listener is one of serve's.
type listener struct {
	port
	service string // as in --no-dhcp
	spare   bool   // nobody misses it
}

var listeners = []listener{
	{port{"udp", 67}, "dhcp", false}, {port{"udp", 4011}, "dhcp", false}, {port{"udp", 69}, "tftp", false}, {port{"tcp", 80}, "http", false},
	{port{"tcp", 2049}, "nfs", false}, {port{"udp", 111}, "portmap", true}, {port{"tcp", 111}, "portmap", true},
}

// lookPorts finds out who has the ports.
func lookPorts() map[port]holding {
	m := map[port]holding{}
	for _, l := range listeners {
		var h holding
		h.holders, h.err = portowner.Find(l.protocol, l.number)
		if l.number == 67 && len(h.holders) > 0 && !h.netroot() && os.Geteuid() == 0 {
			// Whether the other one allows it shows only when it is tried, which is what serve does.
			if conn, err := proxydhcp.Listen(context.Background(), l.number, nil); err == nil {
				h.shared = true
				conn.Close()
			}
		}
		m[l.port] = h
	}
	return m
}

// judgePorts says which are in the way. askers are images whose machines need the portmapper.
func judgePorts(ports map[port]holding, askers []string) []Finding {
	var list []Finding
	for _, l := range listeners {
		h := ports[l.port]
		f := Finding{Level: OK, About: l.String()}
		switch {
		case h.err != nil:
			f.Level, f.What = Note, h.err.Error()
		case len(h.holders) == 0:
			f.What = "free"
		case h.netroot():
			f.What = "held by " + h.String()
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
