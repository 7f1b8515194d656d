//go:build e2e

package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A load is many clients in one thread, who have one packet socket between them and addresses that no kernel has: what is
// measured shall be the server. Each asks once, and only its acknowledgements, never its request, are sent again.
type load struct {
	fd     int
	server netip.Addr
	in     [batch]mmsghdr
	inIov  [batch]unix.Iovec
	inBuf  [batch][loadFrame]byte
	out    [batch]mmsghdr
	outIov [batch]unix.Iovec
	outBuf [batch][256]byte
	n      int
	mac    [14]byte // Ethernet header of what is sent
}

const loadFrame = 2048

// A loadClient gets one file.
type loadClient struct {
	addr     [4]byte
	port     uint16
	tid      uint16
	got      int64 // bytes
	acked    uint16
	started  bool
	done     bool
	failed   string
	window   int
	inWindow int
	blksize  int
	heard    time.Time
}

// newLoad opens the packet socket, in the namespace of the thread it is called on.
func newLoad(iface string, index int, server netip.Addr, from, to []byte) (*load, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	l := &load{fd: fd, server: server}
	copy(l.mac[:], to)
	copy(l.mac[6:], from)
	binary.BigEndian.PutUint16(l.mac[12:], unix.ETH_P_IP)
	proto := uint16(unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8)
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: index}),
	); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("packet socket on %s: %w", iface, err)
	}
	for i := range batch {
		l.inIov[i].Base = &l.inBuf[i][0]
		l.inIov[i].SetLen(loadFrame)
		l.in[i].hdr.Iov = &l.inIov[i]
		l.in[i].hdr.SetIovlen(1)
		l.outIov[i].Base = &l.outBuf[i][0]
		l.out[i].hdr.Iov = &l.outIov[i]
		l.out[i].hdr.SetIovlen(1)
	}
	return l, nil
}

// send queues a datagram of a client.
func (l *load) send(c *loadClient, port uint16, payload []byte) {
	if l.n == batch {
		l.flush()
	}
	b := l.outBuf[l.n][:]
	copy(b, l.mac[:])
	ip := b[14:34]
	clear(ip)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], c.addr[:])
	s := l.server.As4()
	copy(ip[16:], s[:])
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	udp := b[34:42]
	binary.BigEndian.PutUint16(udp, c.port)
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	udp[6], udp[7] = 0, 0 // no checksum, which IPv4 allows
	copy(b[42:], payload)
	l.outIov[l.n].SetLen(42 + len(payload))
	l.n++
}

func (l *load) flush() {
	for i := 0; i < l.n; {
		n, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.out[i])), uintptr(l.n-i), 0, 0, 0)
		if errno != 0 {
			panic(errno)
		}
		i += int(n)
	}
	l.n = 0
}

// fetch has n clients get the file at once, checks every byte, and returns how long it took until the last one that was served had
// it, and the clients.
func (l *load) fetch(n int, name string, data []byte, blksize, window int, limit time.Duration) (time.Duration, []*loadClient) {
	clients := make([]*loadClient, n)
	byAddr := map[uint32]*loadClient{}
	start := time.Now()
	for i := range clients {
		c := &loadClient{addr: [4]byte{10, 77, byte(1 + i/250), byte(1 + i%250)}, port: uint16(2070 + time.Now().UnixNano()%20000), blksize: 512, window: 1}
		clients[i] = c
		byAddr[binary.BigEndian.Uint32(c.addr[:])] = c
		req := "\x00\x01" + name + "\x00octet\x00blksize\x00" + strconv.Itoa(blksize) + "\x00"
		if window > 1 {
			req += "windowsize\x00" + strconv.Itoa(window) + "\x00"
		}
		l.send(c, 69, []byte(req))
		c.heard = start
	}
	l.flush()
	last, left := start, n
	resent := start
	for left > 0 && time.Since(start) < limit {
		for i := range batch {
			l.in[i].n = 0
		}
		got, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.in[0])), batch, unix.MSG_WAITFORONE, 0, 0)
		now := time.Now()
		if errno != 0 {
			got = 0
		}
		for i := range int(got) {
			f := l.inBuf[i][:min(int(l.in[i].n), loadFrame)]
			if len(f) < 46 || f[14] != 0x45 || f[23] != unix.IPPROTO_UDP {
				continue
			}
			c := byAddr[binary.BigEndian.Uint32(f[30:])]
			if c == nil || c.done || binary.BigEndian.Uint16(f[36:]) != c.port {
				continue
			}
			length := int(binary.BigEndian.Uint16(f[38:])) - 8
			if length < 4 || 42+length > len(f) {
				continue
			}
			c.heard = now
			if l.packet(c, binary.BigEndian.Uint16(f[34:]), f[42:42+length], data) {
				left--
				last = now
			}
		}
		if now.Sub(resent) > 200*time.Millisecond {
			resent = now
			for _, c := range clients {
				if c.started && !c.done && now.Sub(c.heard) > 500*time.Millisecond {
					l.ack(c)
				}
			}
			if now.Sub(last) > 5*time.Second && !slices.ContainsFunc(clients, func(c *loadClient) bool { return c.started && !c.done }) && last != start {
				break // the rest was never answered
			}
		}
		l.flush()
	}
	return last.Sub(start), clients
}

func (l *load) ack(c *loadClient) {
	c.inWindow = 0
	l.send(c, c.tid, []byte{0, opAck, byte(c.acked >> 8), byte(c.acked)})
}

// packet takes one packet of a client's server; it reports whether that was the last one.
func (l *load) packet(c *loadClient, from uint16, p, data []byte) bool {
	switch p[1] {
	case opOack:
		if c.started && c.got > 0 {
			return false
		}
		w := bytes.Split(p[2:], []byte{0})
		for i := 0; i+1 < len(w); i += 2 {
			v, _ := strconv.Atoi(string(w[i+1]))
			switch string(w[i]) {
			case "blksize":
				c.blksize = v
			case "windowsize":
				c.window = v
			}
		}
		c.tid, c.started = from, true
		l.ack(c)
	case opData:
		c.tid, c.started = from, true
		block := binary.BigEndian.Uint16(p[2:])
		if block != c.acked+1 {
			if c.window > 1 && c.inWindow > 0 { // a gap
				l.ack(c)
			}
			return false
		}
		body := p[header:]
		if c.got+int64(len(body)) > int64(len(data)) || !bytes.Equal(body, data[c.got:c.got+int64(len(body))]) {
			c.failed, c.done = "another file", true
			return true
		}
		c.got += int64(len(body))
		c.acked = block
		c.inWindow++
		if len(body) < c.blksize {
			c.done = true
			l.ack(c)
			return true
		}
		if c.inWindow >= c.window {
			l.ack(c)
		}
	case opError:
		c.failed, c.done = string(p[4:]), true
		return true
	}
	return false
}
