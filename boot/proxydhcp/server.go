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
	"sync"
	"time"

	"golang.org/x/net/ipv4"

	"netroot/boot/host"
	"netroot/boot/neighbor"
)

// A Server answers in both roles, one call of Serve for each.
type Server struct {
	// Decide says who a machine is and what it boots.
	Decide func(host.Machine) host.Decision
	// Interfaces are the ones to answer on; empty means every one that has an IPv4 address.
	Interfaces []string
	Config     Config
	// Links knows the interfaces and their addresses of this moment; nil: Serve opens one for itself.
	Links *neighbor.Table
	// Log gets one record per answer and refusal, but a refusal that repeats itself only now and then; nil is silent.
	Log *slog.Logger

	counters counters
	refusals refusals
}

// A Role is what a socket is to its clients. It is called by the port that they know it by, and which it has, unless something
// in between sends them on to another one.
type Role uint16

const (
	Proxy      Role = portServer // hears what everybody broadcasts
	BootServer Role = 4011       // is asked by who has an offer (PXE 2.1, section 2.2.3)
)

// Serve answers what comes in on conn until ctx ends; then it closes conn and returns nil. Interfaces may come, go and change
// their addresses meanwhile.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn, role Role) error {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return errors.New("serve proxy DHCP: not a bound UDP socket")
	}
	pc := ipv4.NewPacketConn(conn)
	if err := pc.SetControlMessage(ipv4.FlagInterface|ipv4.FlagDst, true); err != nil {
		return fmt.Errorf("serve proxy DHCP on %v: ask for the ingress interface: %w", local, err)
	}
	links := s.Links
	if links == nil {
		var err error
		if links, err = neighbor.Open(); err != nil {
			return fmt.Errorf("serve proxy DHCP on %v: %w", local, err)
		}
		defer links.Close()
	}
	events := make(chan slog.Record, eventsQueued)
	var writing sync.WaitGroup
	writing.Go(func() { s.write(log, events) })
	err := newReader(s, pc, links, log, role, events).run(ctx)
	close(events)
	writing.Wait()
	if err != nil {
		return fmt.Errorf("serve proxy DHCP on %v: %w", local, err)
	}
	return nil
}

// eventsQueued is how many events a log that stands still may hold back before answers wait for it, too.
const eventsQueued = 8192

// write writes events until there are no more.
func (s *Server) write(log *slog.Logger, events <-chan slog.Record) {
	handler := log.Handler()
	handle := func(records ...slog.Record) {
		for _, r := range records {
			if handler.Enabled(context.Background(), r.Level) {
				_ = handler.Handle(context.Background(), r) // as slog.Logger does: a log that cannot be written stops nobody
			}
		}
	}
	tick := time.NewTicker(refusalPause)
	defer tick.Stop()
	for {
		select {
		case r, more := <-events:
			if !more {
				handle(s.refusals.due(time.Now(), true)...)
				return
			}
			handle(r)
		case now := <-tick.C:
			handle(s.refusals.due(now, false)...)
		}
	}
}
