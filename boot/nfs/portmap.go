package nfs

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
)

// Portmapper version 2: RFC 1833 section 3.
const (
	progPortmap = 100000
	portmapPort = 111

	protoTCP = 6
	protoUDP = 17
)

type mapping struct{ prog, vers, proto, port uint32 }

// mappings are all that the portmapper knows.
func mappings(nfsPort int) []mapping {
	return []mapping{
		{progPortmap, 2, protoTCP, portmapPort},
		{progPortmap, 2, protoUDP, portmapPort},
		{progNFS, 3, protoTCP, uint32(nfsPort)},
		{progMount, 3, protoTCP, uint32(nfsPort)},
	}
}

// portmapProgram answers what there is and refuses to register anything. CALLIT, which attackers use to have traffic
// reflected, is unavailable.
func portmapProgram(nfsPort int) program {
	list := mappings(nfsPort)
	getport := func(c *conn, q *call) bool {
		prog, _, proto, _ := q.args.u32(), q.args.u32(), q.args.u32(), q.args.u32()
		if q.args.bad {
			return false
		}
		var port uint32
		for _, m := range list {
			// As rpcbind: another version of a program that is known gets its port too, and learns there which one is spoken.
			if m.prog == prog && m.proto == proto {
				port = m.port
			}
		}
		c.out = put32(c.out, port)
		return true
	}
	dump := func(c *conn, _ *call) bool {
		for _, m := range list {
			c.out = put32(c.out, 1)
			c.out = put64(put64(c.out, uint64(m.prog)<<32|uint64(m.vers)), uint64(m.proto)<<32|uint64(m.port))
		}
		c.out = put32(c.out, 0)
		return true
	}
	return program{number: progPortmap, version: 2, procs: []procedure{
		{"NULL", procNull}, {"SET", nil}, {"UNSET", nil}, {"GETPORT", getport}, {"DUMP", dump},
	}}
}

// ServePortmap tells clients that ask on l and pc, both usually on port 111, that NFS and MOUNT are on nfsPort. Either may be nil. It ends as Serve does.
func (s *Server) ServePortmap(ctx context.Context, l net.Listener, pc net.PacketConn, nfsPort int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, 2)
	running := 0
	if l != nil {
		running++
		go func() { errs <- s.serve(ctx, l, []program{portmapProgram(nfsPort)}) }()
	}
	if pc != nil {
		running++
		go func() { errs <- s.servePackets(ctx, pc, portmapProgram(nfsPort)) }()
	}
	var first error
	for range running {
		if err := <-errs; err != nil && first == nil {
			first = fmt.Errorf("portmapper: %w", err)
		}
		cancel()
	}
	return first
}

// strangers datagrams of clients that are not known wait for Admit together.
const strangers = 256

func (s *Server) servePackets(ctx context.Context, pc net.PacketConn, p program) error {
	stop := context.AfterFunc(ctx, func() { pc.Close() })
	defer stop()
	defer pc.Close()
	// The answer leaves from the address that was asked, also on a machine that has many. A call to a broadcast address gets none:
	// the kernel sends nothing from there.
	v4 := ipv4.NewPacketConn(pc)
	if err := v4.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return fmt.Errorf("ask for the address that a datagram was sent to: %w", err)
	}
	c := &conn{s: s, programs: []program{p}}
	buf := make([]byte, 2048)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	unknown := make(chan struct{}, strangers)
	for failures := 0; ; {
		n, cm, from, err := v4.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// An ICMP error of an earlier answer may come back here.
			if failures++; failures > 100 {
				return fmt.Errorf("receive: %w", err)
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		failures = 0
		var local netip.Addr
		if cm != nil {
			local, _ = netip.AddrFromSlice(cm.Dst.To4())
			cm = &ipv4.ControlMessage{Src: cm.Dst}
		}
		reply := c.packet(buf[:n])
		if reply == nil {
			continue
		}
		client := addrOf(from)
		if s.Known == nil || s.Known(client, local) {
			if s.admit(client, local) {
				v4.WriteTo(reply, cm, from)
			}
			continue
		}
		select {
		case unknown <- struct{}{}:
			reply := bytes.Clone(reply)
			waiting.Go(func() {
				if s.admit(client, local) {
					v4.WriteTo(reply, cm, from)
				}
				<-unknown
			})
		default:
		}
	}
}

// packet answers a call that came in a datagram, which has no record mark; nil when it gets no answer.
func (c *conn) packet(rec []byte) []byte {
	c.out = c.out[:0]
	if !c.answer(rec) || len(c.out) <= 4 {
		return nil
	}
	return c.out[4:]
}
