package neighbor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"netroot/boot/vm"
	"netroot/builder/need"
)

// openLab makes a network on which the host "router" is 10.77.0.2, and this machine is 10.77.0.3 on eth0.
func openLab(t *testing.T) *vm.Lab {
	t.Helper()
	need.Root(t)
	need.Tools(t, "dnsmasq")
	lab, err := vm.Open(t.Context(), vm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lab.Close() })
	return lab
}

func openTable(t *testing.T, lab *vm.Lab) *Table {
	t.Helper()
	var table *Table
	do(t, lab, vm.NSServer, func() (err error) {
		table, err = Open()
		return err
	})
	t.Cleanup(table.Close)
	return table
}

func do(t *testing.T, lab *vm.Lab, ns string, f func() error) {
	t.Helper()
	if err := lab.Do(ns, f); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what the kernel's notification brings.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 3 s", what)
		}
	}
}

var (
	router = netip.MustParseAddr("10.77.0.2")
	nobody = netip.MustParseAddr("10.77.0.99")
	own    = netip.MustParseAddr("10.77.0.3")
)

func TestLocate(t *testing.T) {
	lab := openLab(t)
	table := openTable(t, lab)
	var want net.HardwareAddr
	setMAC := func(text string) {
		t.Helper()
		want, _ = net.ParseMAC(text)
		do(t, lab, vm.NSRouter, func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.LinkSetHardwareAddr(link, want)
		})
	}
	setMAC("02:00:00:00:00:01")
	forget := func() {
		t.Helper()
		do(t, lab, vm.NSServer, func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			err = netlink.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: router.AsSlice(), Family: netlink.FAMILY_V4})
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		})
		eventually(t, "an entry that is deleted", func() bool { return table.Known(router, own).MAC == nil })
	}
	forget()

	// The machine speaks first, as every machine that boots does: its question for our MAC tells the kernel its own.
	do(t, lab, vm.NSRouter, func() error {
		c, err := net.Dial("udp4", "10.77.0.3:69")
		if err == nil {
			_, err = c.Write([]byte("x"))
			c.Close()
		}
		return err
	})
	eventually(t, "a machine that spoke", func() bool { return table.Known(router, own).MAC.String() == want.String() })
	if p := table.Known(router, own); !p.Near || p.Self || p.Link.Name != "eth0" {
		t.Errorf("Known: %+v", p)
	}

	// The kernel has forgotten: many ask at once, and all get the answer.
	forget()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if p := table.Locate(t.Context(), router, own); p.MAC.String() != want.String() || p.Link.Name != "eth0" {
				t.Errorf("Locate: %+v", p)
			}
		})
	}
	wg.Wait()

	// Another card answers for the address.
	setMAC("02:00:00:00:00:02")
	forget()
	if p := table.Locate(t.Context(), router, own); p.MAC.String() != want.String() {
		t.Errorf("after the MAC changed: %+v", p)
	}

	// Nobody answers; whoever asks next need not wait.
	began := time.Now()
	if p := table.Locate(t.Context(), nobody, own); p.MAC != nil || !p.Near {
		t.Errorf("an address that nobody has: %+v", p)
	}
	first := time.Since(began)
	if p := table.Locate(t.Context(), nobody, own); p.MAC != nil {
		t.Errorf("an address that nobody has: %+v", p)
	}
	if again := time.Since(began) - first; first < patience || again > patience/2 {
		t.Errorf("the first question took %v, the second %v", first, again)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began = time.Now()
	table.Locate(ctx, netip.MustParseAddr("10.77.0.98"), own)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("a question that was called off took %v", took)
	}

	for _, a := range []string{"127.0.0.1", "10.77.0.3"} {
		if p := table.Locate(t.Context(), netip.MustParseAddr(a), own); !p.Self || p.MAC != nil {
			t.Errorf("%s: %+v", a, p)
		}
	}
	if p := table.Locate(t.Context(), netip.MustParseAddr("10.99.0.1"), own); p.Near || p.Self || p.Link.Name != "eth0" {
		t.Errorf("behind a router: %+v", p)
	}
}

// Forged addresses have used up all questions: who is not known then is told apart from who did not answer.
func TestTooManyQuestions(t *testing.T) {
	lab := openLab(t)
	table := openTable(t, lab)
	if p := table.Locate(t.Context(), router, own); p.MAC == nil {
		t.Fatalf("the router: %+v", p)
	}
	eventually(t, "the end of a question", func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		return len(table.open) == 0
	})
	table.mu.Lock()
	for i := range questionsMax {
		table.open[key{-1 - i, nobody}] = &question{done: make(chan struct{})}
	}
	table.mu.Unlock()
	if p := table.Locate(t.Context(), nobody, own); p.MAC != nil || !p.Near || !p.Busy {
		t.Errorf("when too many are asked about: %+v", p)
	}
	table.mu.Lock()
	clear(table.macs) // a notification was lost
	table.mu.Unlock()
	table.looked.Store(0)
	if p := table.Locate(t.Context(), router, own); p.MAC == nil || p.Busy {
		t.Errorf("a machine that the kernel knows, when too many are asked about: %+v", p)
	}
	table.mu.Lock()
	clear(table.open)
	table.mu.Unlock()
	if p := table.Locate(t.Context(), nobody, own); p.MAC != nil || !p.Near || p.Busy {
		t.Errorf("an address that nobody has: %+v", p)
	}
}

// Interfaces come, change and go.
func TestFollow(t *testing.T) {
	lab := openLab(t)
	table := openTable(t, lab)
	client := netip.MustParseAddr("10.88.0.2")
	if p := table.Known(client, netip.Addr{}); p.Near {
		t.Fatalf("before: %+v", p)
	}
	mac, _ := net.ParseMAC("02:00:00:00:00:07")
	do(t, lab, vm.NSServer, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth7"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer7"}); err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth7")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.88.0.1/24")
		return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link), netlink.NeighAdd(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: client.AsSlice(), HardwareAddr: mac}))
	})
	eventually(t, "an interface that comes", func() bool { return table.Known(client, netip.Addr{}).MAC.String() == mac.String() })
	link := table.Known(client, netip.Addr{}).Link
	if again, ok := table.Link(link.Index); !ok || again.Name != "eth7" || len(again.Addrs) != 1 || again.Addrs[0].String() != "10.88.0.1/24" {
		t.Errorf("the interface: %+v", again)
	}
	do(t, lab, vm.NSServer, func() error {
		link, err := netlink.LinkByName("eth7")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.89.0.1/24")
		old, _ := netlink.ParseAddr("10.88.0.1/24")
		return errors.Join(netlink.AddrAdd(link, addr), netlink.AddrDel(link, old))
	})
	eventually(t, "an address that changes", func() bool {
		return !table.Known(client, netip.Addr{}).Near && table.Known(netip.MustParseAddr("10.89.0.5"), netip.Addr{}).Near
	})
	do(t, lab, vm.NSServer, func() error {
		link, err := netlink.LinkByName("eth7")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	eventually(t, "an interface that goes", func() bool {
		_, there := table.Link(link.Index)
		return !there && !table.Known(netip.MustParseAddr("10.89.0.5"), netip.Addr{}).Near
	})
}

// Hundreds of machines that boot ask thousands of times a second.
func BenchmarkKnown(b *testing.B) {
	t := &Table{macs: map[key]string{}}
	network := netip.MustParsePrefix("10.0.0.1/16")
	t.view.Store(newView([]Link{{Index: 2, Name: "eth0", Up: true, Addrs: []netip.Prefix{network}, networks: []netip.Prefix{network.Masked()}}}))
	client := netip.MustParseAddr("10.0.3.4")
	t.macs[key{2, client}] = "\x02\x00\x00\x00\x00\x01"
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if t.Known(client, network.Addr()).MAC == nil {
				b.Fatal("not found")
			}
		}
	})
}
