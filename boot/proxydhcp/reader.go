package proxydhcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"netroot/boot/neighbor"
)

const (
	batch     = 32   // packets read and sent with one system call
	maxPacket = 4096 // longer ones are read as far as that
)

// A reader moves packets: it reads those that wait, has each answered, sends the answers, and only then tells of them. There
// is one to a socket: a second one answers no more in sum, and waking it up made each answer wait twice as long.
type reader struct {
	server *Server
	pc     *ipv4.PacketConn
	links  *neighbor.Table
	log    *slog.Logger
	role   Role
	events chan<- slog.Record

	in, out []ipv4.Message
	sending []sending // what goes with out
}

// sending is an answer on its way.
type sending struct {
	record slog.Record
	who    refusal // without a reason
	client netip.Addr
	ack    bool
}

func newReader(s *Server, pc *ipv4.PacketConn, l *neighbor.Table, log *slog.Logger, role Role, events chan<- slog.Record) *reader {
	r := &reader{server: s, pc: pc, links: l, log: log, role: role, events: events, in: make([]ipv4.Message, batch)}
	for i := range r.in {
		r.in[i] = ipv4.Message{Buffers: [][]byte{make([]byte, maxPacket)}, OOB: make([]byte, unix.CmsgSpace(unix.SizeofInet4Pktinfo))}
	}
	return r
}

// run reads until ctx ends, which is no error.
func (r *reader) run(ctx context.Context) error {
	for {
		n, err := r.pc.ReadBatch(r.in, 0)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// An ICMP error of an earlier answer, an interface going away: the next packet may be fine.
			r.log.Debug("receive failed", "service", "dhcp", "reason", err.Error())
			time.Sleep(10 * time.Millisecond)
			continue
		}
		now := time.Now()
		r.out, r.sending = r.out[:0], r.sending[:0]
		for _, m := range r.in[:n] {
			info, ok := pktinfo(m.OOB[:m.NN])
			if from, udp := m.Addr.(*net.UDPAddr); ok && udp {
				r.handle(m.Buffers[0][:m.N], info, from.AddrPort(), now)
			}
		}
		r.send(now)
	}
}

// pktinfo reads where a packet came in out of its control message (ip(7)).
func pktinfo(oob []byte) (unix.Inet4Pktinfo, bool) {
	var info unix.Inet4Pktinfo
	h, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil || h.Level != unix.IPPROTO_IP || h.Type != unix.IP_PKTINFO || len(data) < unix.SizeofInet4Pktinfo {
		return info, false
	}
	info.Ifindex = int32(binary.NativeEndian.Uint32(data))
	copy(info.Addr[:], data[8:])
	return info, info.Ifindex != 0
}

// handle decides about one packet.
func (r *reader) handle(p []byte, info unix.Inet4Pktinfo, from netip.AddrPort, now time.Time) {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	c := &r.server.counters
	c.bytesIn.Add(uint64(len(p)))
	req, err := Parse(p)
	if err != nil {
		c.malformed.Add(1)
		r.ignored(slog.String("client", from.Addr().String()), err)
		return
	}
	c.received(req.Type)
	link, ok := r.links.Link(int(info.Ifindex))
	if !ok || link.Loopback || len(r.server.Interfaces) > 0 && !slices.Contains(r.server.Interfaces, link.Name) {
		return
	}
	hint := req.CIAddr
	if set(from.Addr()) && !set(req.GIAddr) {
		hint = from.Addr()
	}
	local, ok := pickLocal(link.Addrs, netip.AddrFrom4(info.Addr), hint)
	if !ok {
		r.ignored(slog.String("interface", link.Name), errors.New("the interface has no IPv4 address"))
		return
	}
	who := refusal{mac: req.MAC.String(), iface: link.Name}
	if !set(req.GIAddr) && slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return p.Addr() == from.Addr() }) {
		who.asker = thisMachine
	}
	if bytes.HasSuffix(bytes.TrimRight(p, "\x00"), []byte(Trial)) { // a relay may have filled it up
		who.asker = Trial
	}
	if err := req.Boots(r.role, local); err != nil {
		if errors.Is(err, ErrSilent) {
			r.ignored(slog.String("mac", who.mac), err)
		} else {
			r.refuse(now, who, "", err)
		}
		return
	}
	machine := req.Machine(link.Name, local)
	machine.Trial = who.asker != ""
	d := r.server.Decide(machine)
	answer, err := Reply(req, d, local, from, r.role, r.server.Config)
	if err != nil {
		r.refuse(now, who, d.Name, err, slog.Any("arch", machine.Arch))
		return
	}
	route := &unix.Inet4Pktinfo{Spec_dst: local.As4()}
	if answer.To.Addr() == everybody {
		route.Ifindex = info.Ifindex // a route cannot tell where everybody is
	}
	r.out = append(r.out, ipv4.Message{Buffers: [][]byte{answer.Packet}, OOB: unix.PktInfo4(route), Addr: net.UDPAddrFromAddrPort(answer.To)})
	message := "offer"
	if answer.Ack {
		message = "ack"
	}
	s := sending{record: event(now, message, who, d.Name), who: who, ack: answer.Ack}
	s.record.AddAttrs(slog.Any("arch", machine.Arch), slog.Bool("ipxe", req.IPXE()), slog.String("server", local.String()), slog.String("file", answer.File))
	if set(from.Addr()) {
		s.client = from.Addr()
	}
	r.sending = append(r.sending, s)
}

// send sends the answers and tells of them.
func (r *reader) send(start time.Time) {
	c := &r.server.counters
	for out, sent := r.out, r.sending; len(out) > 0; {
		n, err := r.pc.WriteBatch(out, 0)
		if err != nil {
			// The first one of them cannot be sent, the others may.
			r.refuse(start, sent[0].who, "", fmt.Errorf("send to %v: %w", out[0].Addr, err))
			out, sent = out[1:], sent[1:]
			continue
		}
		took := time.Since(start).Seconds()
		for i, s := range sent[:n] {
			c.bytesOut.Add(uint64(len(out[i].Buffers[0])))
			if s.ack {
				c.acks.Add(1)
			} else {
				c.offers.Add(1)
			}
			s.record.AddAttrs(slog.Float64("seconds", took))
			if s.client.IsValid() {
				s.record.AddAttrs(slog.String("client", s.client.String()))
			}
			r.events <- s.record
		}
		out, sent = out[n:], sent[n:]
	}
}

// thisMachine is the asker of a question that comes from an address of this server: somebody tries out what a machine would be
// answered, as netroot doctor does. A machine that boots has another address or none, and a relay, which may run here, names itself.
const thisMachine = "this machine"

// Trial ends the packets of netroot doctor, which asks in the place of machines on other hosts, too. It stands behind END, so that no
// DHCP server takes it for an option.
const Trial = "netroot doctor"

// event starts the record of an event.
func event(now time.Time, message string, who refusal, name string) slog.Record {
	record := slog.NewRecord(now, slog.LevelInfo, message, 0)
	record.AddAttrs(slog.String("service", "dhcp"), slog.String("mac", who.mac), slog.String("interface", who.iface))
	if name != "" {
		record.AddAttrs(slog.String("host", name))
	}
	if who.asker != "" {
		record.AddAttrs(slog.String("asker", who.asker))
	}
	return record
}

func (r *reader) refuse(now time.Time, who refusal, name string, reason error, attrs ...slog.Attr) {
	r.server.counters.refused.Add(1)
	who.reason = reason.Error()
	record := event(now, "refused", who, name)
	record.AddAttrs(append(attrs, slog.String("reason", who.reason))...)
	if r.server.refusals.note(now, who, record) {
		r.events <- record
	}
}

// ignored is about what is no event.
func (r *reader) ignored(who slog.Attr, reason error) {
	if ctx := context.Background(); r.log.Enabled(ctx, slog.LevelDebug) {
		r.log.LogAttrs(ctx, slog.LevelDebug, "ignored", slog.String("service", "dhcp"), who, slog.String("reason", reason.Error()))
	}
}
