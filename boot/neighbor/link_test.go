package neighbor

import (
	"net/netip"
	"testing"
)

func TestNear(t *testing.T) {
	link := func(index int, name string, networks ...string) Link {
		l := Link{Index: index, Name: name, Up: true}
		for _, n := range networks {
			p := netip.MustParsePrefix(n)
			l.Addrs = append(l.Addrs, p)
			l.networks = append(l.networks, p.Masked())
		}
		return l
	}
	loopback := link(1, "lo", "127.0.0.1/8")
	loopback.Loopback = true
	down := link(6, "eno4", "10.4.0.1/24")
	down.Up = false
	tunnel := Link{Index: 7, Name: "tun0", Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.5.0.1/32")},
		networks: []netip.Prefix{netip.MustParsePrefix("10.6.0.9/32")}}
	v := newView([]Link{loopback, link(2, "eno1", "192.168.2.82/24"), link(3, "eno2", "172.16.0.1/16", "192.168.7.1/24"),
		link(4, "eno3", "172.16.9.1/24"), link(5, "eno5", "192.168.2.83/24"), down, tunnel})
	for _, c := range []struct {
		client, local, want string
	}{
		{"192.168.2.5", "192.168.2.82", "eno1 eno5 "},
		{"192.168.2.5", "192.168.2.83", "eno5 eno1 "},
		{"192.168.2.5", "", "eno1 eno5 "},
		{"192.168.2.5", "172.16.0.1", "eno1 eno5 "}, // answers go where the client's address belongs
		{"172.16.8.5", "172.16.0.1", "eno2 "},
		{"172.16.9.5", "172.16.0.1", "eno3 "}, // the longer prefix
		{"192.168.7.5", "", "eno2 "},
		{"10.6.0.9", "10.5.0.1", "tun0 "},
		{"10.4.0.5", "10.4.0.1", ""}, // its interface is down
		{"127.0.0.5", "127.0.0.1", ""},
		{"8.8.8.8", "192.168.2.82", ""},
	} {
		var local netip.Addr
		if c.local != "" {
			local = netip.MustParseAddr(c.local)
		}
		got := ""
		for _, l := range v.near(netip.MustParseAddr(c.client), local) {
			got += l.Name + " "
		}
		if got != c.want {
			t.Errorf("%s at %s: %q, want %q", c.client, c.local, got, c.want)
		}
	}
	for addr, want := range map[string]bool{"127.9.9.9": true, "172.16.0.1": true, "10.4.0.1": true, "172.16.0.2": false} {
		if got := v.own(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is our own: %v", addr, got)
		}
	}
}
