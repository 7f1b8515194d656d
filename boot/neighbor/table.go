// Package neighbor says who is at the other end: on which interface of this machine an address is, and by which MAC. It keeps
// a copy of what the kernel knows, its interfaces, their addresses and its ARP table, current by subscription (rtnetlink(7)),
// so that hundreds of machines that boot at once cost a look into a map each.
//
// A machine counts as being on the interface whose network its address belongs to, which is where answers to it go, and not
// on the one its packet came in by: whoever forges an address has the answer sent to the machine that owns it. A MAC is what
// the network says and no proof: who can forge ARP can be anybody on his own network. IPv4 only. Addresses that are near by a
// route without a network of its own, and policy routing, count as behind a router.
package neighbor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// valid are the states in which an entry's MAC is one that the machine has answered with. A stale one was right when it was last
// used; FAILED and INCOMPLETE have none.
const valid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_PROBE | unix.NUD_STALE | unix.NUD_DELAY

const receiveBuffer = 1 << 20 // of notifications; when it overflows everything is read again

// A Table is a current copy of the kernel's tables. Its methods may be called concurrently.
type Table struct {
	asks   *netlink.Handle
	events *nl.NetlinkSocket
	poke   *ipv4.PacketConn // makes the kernel ask for a MAC

	view   atomic.Pointer[view]
	looked atomic.Int64

	order  sync.Mutex // a dump is older than the notifications that come in meanwhile
	closed bool
	mu     sync.RWMutex
	macs   map[key]string
	open   map[key]*question
}

type key struct {
	index int
	addr  netip.Addr
}

// Open reads the tables of the network namespace that the calling thread is in, and follows them until Close.
func Open() (*Table, error) {
	t := &Table{macs: map[key]string{}, open: map[key]*question{}}
	if err := t.connect(); err != nil {
		t.Close()
		return nil, fmt.Errorf("follow the interfaces and neighbours of this machine: %w", err)
	}
	go t.follow()
	return t, nil
}

func (t *Table) connect() (err error) {
	// First the subscription, then the first look, so that nothing is missed in between.
	if t.events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_NEIGH); err != nil {
		return err
	}
	if err := t.events.SetReceiveBufferSize(receiveBuffer, false); err != nil {
		return err
	}
	if t.asks, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		return err
	}
	t.poke = ipv4.NewPacketConn(conn)
	return t.reread()
}

// Close ends the following.
func (t *Table) Close() {
	if t.events != nil {
		t.events.Close()
	}
	if t.poke != nil {
		t.poke.Close()
	}
	t.order.Lock()
	defer t.order.Unlock()
	t.closed = true
	if t.asks != nil {
		t.asks.Close()
	}
}

// follow takes in what the kernel tells until the socket is closed.
func (t *Table) follow() {
	for {
		messages, from, err := t.events.Receive()
		switch {
		case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
			return
		case err != nil: // ENOBUFS: notifications were lost
			time.Sleep(10 * time.Millisecond)
			_ = t.reread()
			continue
		case from.Pid != nl.PidKernel:
			continue
		}
		links := false
		t.order.Lock()
		for _, m := range messages {
			switch m.Header.Type {
			case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
				t.note(m.Header.Type, m.Data)
			default:
				links = true
			}
		}
		t.order.Unlock()
		if links {
			_ = t.reread() // an interface that goes takes its neighbours with it
		}
	}
}

// note takes in one entry of the ARP table.
func (t *Table) note(kind uint16, data []byte) {
	if len(data) < unix.SizeofNdMsg || data[0] != unix.AF_INET {
		return
	}
	n, err := netlink.NeighDeserialize(data)
	if err != nil {
		return
	}
	k, mac, ok := entry(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !ok || kind == unix.RTM_DELNEIGH {
		delete(t.macs, k)
		return
	}
	t.macs[k] = mac
	if q := t.open[k]; q != nil {
		q.answer()
	}
}

// entry takes a neighbour apart; ok is false when it has no MAC.
func entry(n *netlink.Neigh) (k key, mac string, ok bool) {
	addr, _ := netip.AddrFromSlice(n.IP)
	k = key{n.LinkIndex, addr.Unmap()}
	const none = "\x00\x00\x00\x00\x00\x00"
	mac = string(n.HardwareAddr)
	return k, mac, n.State&valid != 0 && len(mac) == len(none) && mac != none
}

// reread asks the kernel for everything.
func (t *Table) reread() error {
	t.order.Lock()
	defer t.order.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	links, err := t.readLinks()
	if err != nil {
		return err
	}
	neighbors, err := t.asks.NeighList(0, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // then notifications bring the rest
		return fmt.Errorf("read neighbours: %w", err)
	}
	macs := make(map[key]string, len(neighbors))
	for i := range neighbors {
		if k, mac, ok := entry(&neighbors[i]); ok {
			macs[k] = mac
		}
	}
	t.view.Store(newView(links))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.macs = macs
	for k, q := range t.open {
		if _, ok := macs[k]; ok {
			q.answer()
		}
	}
	return nil
}

func (t *Table) readLinks() ([]Link, error) {
	all, err := t.asks.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("read interfaces: %w", err)
	}
	addrs, err := t.asks.AddrList(nil, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	links := make([]Link, 0, len(all))
	for _, l := range all {
		a := l.Attrs()
		link := Link{Index: a.Index, Name: a.Name, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0, Loopback: a.Flags&net.FlagLoopback != 0}
		for _, addr := range addrs {
			if addr.LinkIndex != a.Index {
				continue
			}
			own, network := prefix(addr.IPNet), prefix(addr.Peer)
			link.Addrs = append(link.Addrs, own)
			if !network.IsValid() {
				network = own
			}
			link.networks = append(link.networks, network.Masked())
		}
		links = append(links, link)
	}
	return links, nil
}

func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}
