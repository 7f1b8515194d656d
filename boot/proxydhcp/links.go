package proxydhcp

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A link is what is known of an interface.
type link struct {
	name     string
	loopback bool
	addrs    []netip.Prefix
}

// links knows the interfaces of the network namespace it was opened in. Every packet asks for one, so what is known is read
// without a lock, and replaced as a whole when the kernel says that something changed (rtnetlink(7)).
type links struct {
	known  atomic.Pointer[map[int]link]
	news   *nl.NetlinkSocket
	log    *slog.Logger
	closed atomic.Bool

	mu     sync.Mutex // of kernel
	kernel *netlink.Handle
}

func openLinks(log *slog.Logger) (*links, error) {
	// First the subscription, then the reading: what changes between the two is read again, not missed.
	news, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of interfaces: %w", err)
	}
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		news.Close()
		return nil, fmt.Errorf("ask the kernel about interfaces: %w", err)
	}
	l := &links{news: news, kernel: kernel, log: log}
	if err := l.read(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *links) close() {
	l.closed.Store(true)
	l.news.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kernel.Close()
}

// settle is how long further changes are waited for: an interface that comes is a dozen of messages.
const settle = 10 * time.Millisecond

// follow reads again what changed, until close.
func (l *links) follow() {
	for !l.closed.Load() {
		_, _, err := l.news.Receive()
		if errors.Is(err, os.ErrClosed) || l.closed.Load() {
			return
		}
		// Any other error means that messages were lost (ENOBUFS), and so is itself the news.
		time.Sleep(settle)
		if err := l.read(); err != nil && !l.closed.Load() {
			l.log.Warn("interfaces not read", "service", "dhcp", "reason", err.Error())
		}
	}
}

func (l *links) read() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := l.kernel.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // interrupted by a change that we will hear of
		return fmt.Errorf("read interfaces: %w", err)
	}
	addrs, err := l.kernel.AddrList(nil, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("read addresses of interfaces: %w", err)
	}
	m := make(map[int]link, len(all))
	for _, i := range all {
		a := i.Attrs()
		m[a.Index] = link{name: a.Name, loopback: a.Flags&net.FlagLoopback != 0}
	}
	for _, a := range addrs {
		k, ok := m[a.LinkIndex]
		ip, four := netip.AddrFromSlice(a.IP.To4())
		if !ok || !four {
			continue
		}
		ones, _ := a.Mask.Size()
		k.addrs = append(k.addrs, netip.PrefixFrom(ip, ones))
		m[a.LinkIndex] = k
	}
	l.known.Store(&m)
	return nil
}

// get returns the interface of that index. One that is not known came up a moment ago.
func (l *links) get(index int) (link, bool) {
	k, ok := (*l.known.Load())[index]
	if !ok && l.read() == nil {
		k, ok = (*l.known.Load())[index]
	}
	return k, ok
}

// pickLocal chooses the address a client is told: the one it wrote to, else the one on its own network, else the first.
func pickLocal(addrs []netip.Prefix, dst, client netip.Addr) (netip.Addr, bool) {
	for _, a := range addrs {
		if a.Addr() == dst {
			return a.Addr(), true
		}
	}
	if set(client) {
		for _, a := range addrs {
			if a.Contains(client) {
				return a.Addr(), true
			}
		}
	}
	for _, a := range addrs {
		if !a.Addr().IsLinkLocalUnicast() {
			return a.Addr(), true
		}
	}
	if len(addrs) > 0 {
		return addrs[0].Addr(), true
	}
	return netip.Addr{}, false
}
