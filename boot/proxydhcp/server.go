// Package proxydhcp answers machines that boot over the network, beside the DHCP server of the site and without its
// knowledge: that one hands out addresses, this one says where the boot file is (PXE 2.1, RFC 4578).
//
// It reads what ROMs send leniently and writes its answers byte by byte in a fixed order, because many ROMs are picky
// about both. An answer is a pure function of the request, the policy's decision and the address the server has on the
// client's network. It hands out no addresses, knows no IPv6, offers no menus of boot servers, and gives UEFI machines
// only the loaders it is told about. Clients behind a relay are answered through it.
package proxydhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/ipv4"

	"netroot/boot/host"
)

// A Server answers on port 67 and on port 4011, one call of Serve for each.
type Server struct {
	// Decide says who a machine is and what it boots.
	Decide func(host.Machine) host.Decision
	// Interfaces are the ones to answer on; empty means every one that has an IPv4 address.
	Interfaces []string
	Config     Config
	// Log gets one record per answer and refusal; nil is silent.
	Log *slog.Logger

	links links
}

// Serve answers what comes in on conn until ctx ends; then it closes conn and returns nil. The port conn is bound to
// decides how requests are read: 67 is everybody's, 4011 only a boot server's.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return errors.New("serve proxy DHCP: not a bound UDP socket")
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	pc := ipv4.NewPacketConn(conn)
	if err := pc.SetControlMessage(ipv4.FlagInterface|ipv4.FlagDst, true); err != nil {
		return fmt.Errorf("serve proxy DHCP on %v: ask for the ingress interface: %w", local, err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, cm, from, err := pc.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("serve proxy DHCP on %v: %w", local, err)
			}
			// An ICMP error of an earlier answer, an interface going away: the next packet may be fine.
			log.Debug("receive failed", "service", "dhcp", "reason", err.Error())
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if cm == nil || cm.IfIndex == 0 {
			continue
		}
		src, _ := from.(*net.UDPAddr)
		if src == nil {
			continue
		}
		dst, _ := netip.AddrFromSlice(cm.Dst)
		s.handle(pc, log, buf[:n], uint16(local.Port), cm.IfIndex, dst.Unmap(), src)
	}
}

// handle answers one packet.
func (s *Server) handle(pc *ipv4.PacketConn, log *slog.Logger, p []byte, port uint16, ifindex int, dst netip.Addr, src *net.UDPAddr) {
	start := time.Now()
	req, err := Parse(p)
	if err != nil {
		log.Debug("ignored", "service", "dhcp", "client", src.IP.String(), "reason", err.Error())
		return
	}
	link, err := s.links.get(ifindex)
	if err != nil {
		log.Debug("ignored", "service", "dhcp", "mac", req.MAC.String(), "reason", err.Error())
		return
	}
	if link.loopback || len(s.Interfaces) > 0 && !slices.Contains(s.Interfaces, link.name) {
		return
	}
	from := src.AddrPort()
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	log = log.With("service", "dhcp", "mac", req.MAC.String(), "interface", link.name)
	hint := req.CIAddr
	if set(from.Addr()) && !set(req.GIAddr) {
		hint = from.Addr()
	}
	local, ok := pickLocal(link.addrs, dst, hint)
	if !ok {
		log.Debug("ignored", "reason", "the interface has no IPv4 address")
		return
	}
	if err := req.Boots(port, local); err != nil {
		if errors.Is(err, ErrSilent) {
			log.Debug("ignored", "reason", err.Error())
		} else {
			log.Info("refused", "reason", err.Error())
		}
		return
	}
	machine := req.Machine(link.name, local)
	d := s.Decide(machine)
	if d.Name != "" {
		log = log.With("host", d.Name)
	}
	answer, err := Reply(req, d, local, from, port, s.Config)
	if err != nil {
		log.Info("refused", "arch", machine.Arch, "reason", err.Error())
		return
	}
	cm := &ipv4.ControlMessage{Src: local.AsSlice()}
	if answer.To.Addr() == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		cm.IfIndex = ifindex // a route cannot tell where everybody is
	}
	if _, err := pc.WriteTo(answer.Packet, cm, net.UDPAddrFromAddrPort(answer.To)); err != nil {
		log.Warn("refused", "reason", fmt.Sprintf("send to %v: %v", answer.To, err))
		return
	}
	message := "offer"
	if answer.Ack {
		message = "ack"
	}
	attrs := []any{"arch", machine.Arch, "ipxe", req.IPXE(), "server", local.String(), "file", answer.File, "seconds", time.Since(start).Seconds()}
	if set(from.Addr()) {
		attrs = append(attrs, "client", from.Addr().String())
	}
	log.Info(message, attrs...)
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

// A link is what is known of an interface.
type link struct {
	name     string
	loopback bool
	addrs    []netip.Prefix
	read     time.Time
}

// links remembers interfaces for a moment: a boot storm asks hundreds of times a second, and an address may change any day.
type links struct {
	mu sync.Mutex
	m  map[int]link
}

const linkAge = 2 * time.Second

func (l *links) get(index int) (link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k, ok := l.m[index]; ok && time.Since(k.read) < linkAge {
		return k, nil
	}
	ifi, err := net.InterfaceByIndex(index)
	if err != nil {
		return link{}, fmt.Errorf("read interface %d: %w", index, err)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return link{}, fmt.Errorf("read addresses of %s: %w", ifi.Name, err)
	}
	k := link{name: ifi.Name, loopback: ifi.Flags&net.FlagLoopback != 0, read: time.Now()}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().Is4() {
				ones, _ := n.Mask.Size()
				k.addrs = append(k.addrs, netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
	}
	if l.m == nil {
		l.m = map[int]link{}
	}
	l.m[index] = k
	return k, nil
}
