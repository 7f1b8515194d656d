package storm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options and values of DHCP (RFC 2132) and PXE that are used here.
const (
	optMask, optAddress, optType, optServer, optParams, optClass, optUser = 1, 50, 53, 54, 55, 60, 77
	optArch, optUndi, optUUID                                             = 93, 94, 97

	discover, offer, request, ack = 1, 2, 3, 5
)

// dhcp is the port 68 that all machines share. Every question asks for an answer by broadcast, as firmware without an address does.
type dhcp struct {
	conn    net.PacketConn
	mu      sync.Mutex
	waiting map[uint32]chan message
}

type lease struct {
	address netip.Prefix
	server  netip.Addr // the boot server
	file    string
}

type message struct {
	xid        uint32
	your, next netip.Addr
	file       string
	options    map[byte][]byte
}

func newDHCP(cfg Config) (*dhcp, error) {
	f, err := cfg.socket(unix.SOCK_DGRAM, netip.AddrPortFrom(netip.IPv4Unspecified(), 68), func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
			unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, cfg.Card),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
	})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	d := &dhcp{conn: conn, waiting: map[uint32]chan message{}}
	go d.read()
	return d, nil
}

func (d *dhcp) close() { d.conn.Close() }

func (d *dhcp) read() {
	buf := make([]byte, 1500)
	for {
		n, _, err := d.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		m, ok := parseMessage(buf[:n])
		if !ok {
			continue
		}
		d.mu.Lock()
		to := d.waiting[m.xid]
		d.mu.Unlock()
		select {
		case to <- m: // a nil channel takes nothing
		default:
		}
	}
}

// parseMessage reads a reply to a client.
func parseMessage(p []byte) (message, bool) {
	if len(p) < 240 || p[0] != 2 || !bytes.Equal(p[236:240], []byte{99, 130, 83, 99}) {
		return message{}, false
	}
	m := message{xid: binary.BigEndian.Uint32(p[4:]), your: netip.AddrFrom4([4]byte(p[16:20])), next: netip.AddrFrom4([4]byte(p[20:24])), options: map[byte][]byte{}}
	file, _, _ := bytes.Cut(p[108:236], []byte{0})
	m.file = string(file)
	for o := p[240:]; len(o) > 1 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2+int(o[1]) {
			return message{}, false
		}
		m.options[o[0]] = bytes.Clone(o[2 : 2+o[1]])
		o = o[2+o[1]:]
	}
	return m, true
}

// kind is the type of a message, 0 when it has none.
func (m message) kind() byte {
	if t := m.options[optType]; len(t) == 1 {
		return t[0]
	}
	return 0
}

func (m message) proxy() bool { return bytes.HasPrefix(m.options[optClass], []byte("PXEClient")) }

// question is a BIOS PXE client's, with the options that RFC 4578 wants.
func question(kind byte, xid uint32, mac [6]byte, client netip.Addr, more ...[]byte) []byte {
	p := make([]byte, 240, 548)
	copy(p, []byte{1, 1, 6, 0})
	binary.BigEndian.PutUint32(p[4:], xid)
	p[10] = 0x80 // broadcast
	if client.IsValid() {
		copy(p[12:], client.AsSlice())
	}
	copy(p[28:], mac[:])
	copy(p[236:], []byte{99, 130, 83, 99})
	add := func(code byte, data ...byte) { p = append(append(p, code, byte(len(data))), data...) }
	add(optType, kind)
	add(optParams, optMask, 3, 6, 43, 54, 60, 66, 67)
	add(optClass, []byte("PXEClient:Arch:00000:UNDI:002001")...)
	add(optArch, 0, 0)
	add(optUndi, 1, 2, 1)
	add(optUUID, append([]byte{0}, bytes.Repeat(mac[2:6], 4)...)...)
	for _, o := range more {
		p = append(p, o...)
	}
	return append(p, 255)
}

// waits is how long iPXE waits for an answer, each time longer.
var waits = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 8 * time.Second, 8 * time.Second, 8 * time.Second, 8 * time.Second}

// lease asks the site for an address and the proxy for a boot server.
func (d *dhcp) lease(ctx context.Context, m *machine, mac [6]byte) (lease, error) {
	xid := uint32(0x6e740000) + uint32(m.Number)
	answers := make(chan message, 16)
	d.mu.Lock()
	d.waiting[xid] = answers
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.waiting, xid)
		d.mu.Unlock()
	}()
	var l lease
	var site message
	err := d.ask(ctx, m, answers, question(discover, xid, mac, netip.Addr{}), func(a message) bool {
		switch {
		case a.kind() != offer:
		case a.proxy() && a.file != "":
			if l.file == "" {
				m.reach("offer")
			}
			l.server, l.file = a.next, a.file
		case !a.your.IsUnspecified():
			site = a
		}
		return l.file != "" && site.options != nil
	})
	if err != nil {
		return l, fmt.Errorf("DISCOVER (a site's offer: %t, a proxy's: %t): %w", site.options != nil, l.file != "", err)
	}
	want := append([]byte{optAddress, 4}, site.your.AsSlice()...)
	from := append([]byte{optServer, 4}, site.options[optServer]...)
	err = d.ask(ctx, m, answers, question(request, xid, mac, netip.Addr{}, want, from), func(a message) bool {
		if a.kind() != ack || a.your.IsUnspecified() {
			return false
		}
		mask := a.options[optMask]
		if len(mask) != 4 {
			return false
		}
		ones, _ := net.IPv4Mask(mask[0], mask[1], mask[2], mask[3]).Size()
		l.address = netip.PrefixFrom(a.your, ones)
		return true
	})
	if err != nil {
		return l, fmt.Errorf("REQUEST: %w", err)
	}
	m.reach("lease")
	return l, nil
}

// ask broadcasts a question until done has seen enough.
func (d *dhcp) ask(ctx context.Context, m *machine, answers <-chan message, packet []byte, done func(message) bool) error {
	everybody := &net.UDPAddr{IP: net.IPv4bcast, Port: 67}
	for try, wait := range waits {
		if try > 0 {
			m.Resent++
		}
		if _, err := d.conn.WriteTo(packet, everybody); err != nil {
			return err
		}
		for timeout := time.After(wait); ; {
			select {
			case a := <-answers:
				if done(a) {
					return nil
				}
				continue
			case <-timeout:
			case <-ctx.Done():
				return ctx.Err()
			}
			break
		}
	}
	return errors.New("no answer")
}

// askServer asks the boot server on port 4011, as firmware does whose offer named no file.
func (m *machine) askServer(ctx context.Context, mac [6]byte, l lease) error {
	f, err := m.cfg.socket(unix.SOCK_DGRAM, netip.AddrPortFrom(m.address, 68), nil)
	if err != nil {
		return err
	}
	defer f.Close()
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return err
	}
	defer conn.Close()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.server, 4011))
	packet := question(request, uint32(0x34303131)+uint32(m.Number), mac, m.address)
	buf := make([]byte, 1500)
	for try, wait := range waits {
		if try > 0 {
			m.Resent++
		}
		if _, err := conn.WriteTo(packet, to); err != nil && !refused(err) {
			return fmt.Errorf("ask %s: %w", to, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			if a, ok := parseMessage(buf[:n]); ok && a.kind() == ack {
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("no answer from %s", to)
}
