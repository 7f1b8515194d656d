package tftp

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batch = 64
	// An acknowledgement has 4 bytes, an error a text of which the beginning is enough.
	recvSize = 256
	// A batch ends early when its packets fill this; it has to hold the largest window.
	arenaSize   = 512 << 10
	maxSegments = 64    // of one message with UDP_SEGMENT
	maxGSO      = 65000 // bytes of one, below what IP can say
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// A socket sends and receives many datagrams by one system call. Receiving is for one thread; sending is for who holds the
// lock of its reactor.
type socket struct {
	fd int

	in      [batch]mmsghdr
	inName  [batch]unix.RawSockaddrInet4
	inIov   [batch]unix.Iovec
	inBytes [batch][recvSize]byte

	out      [batch]mmsghdr
	outIov   [batch]unix.Iovec
	segments [batch]segmentControl
	owner    [batch]*transfer
	n        int
	arena    []byte
	used     int
}

// A destination is where the packets of a transfer go, and the address they leave from, as the kernel wants to have it.
type destination struct {
	name    unix.RawSockaddrInet4
	control [4]uint64 // struct cmsghdr with struct in_pktinfo, aligned; it has 32 bytes, 28 on 32-bit machines
}

// A segmentControl is a destination's control message and one more, that cuts the data into datagrams of equal size.
type segmentControl [8]uint64

func newDestination(client netip.AddrPort, local netip.Addr) destination {
	var d destination
	d.name = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: client.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&d.name.Port))[:], client.Port())
	h := (*unix.Cmsghdr)(unsafe.Pointer(&d.control))
	h.Level, h.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
	h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
	info := (*unix.Inet4Pktinfo)(unsafe.Add(unsafe.Pointer(h), unix.CmsgLen(0)))
	info.Spec_dst = local.As4()
	return d
}

// keyOf makes one number of an address and a port.
func keyOf(client netip.AddrPort) uint64 {
	a := client.Addr().As4()
	return uint64(binary.BigEndian.Uint32(a[:]))<<16 | uint64(client.Port())
}

func nameKey(n *unix.RawSockaddrInet4) uint64 {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&n.Port))[:])
	return uint64(binary.BigEndian.Uint32(n.Addr[:]))<<16 | uint64(port)
}

func newSocket(fd int) *socket {
	s := &socket{fd: fd, arena: make([]byte, arenaSize)}
	for i := range s.in {
		s.inIov[i].Base = &s.inBytes[i][0]
		s.inIov[i].SetLen(recvSize)
		h := &s.in[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&s.inName[i]))
		h.Iov = &s.inIov[i]
		h.SetIovlen(1)
		s.out[i].hdr.Iov = &s.outIov[i]
		s.out[i].hdr.SetIovlen(1)
	}
	return s
}

// receive waits for datagrams, and takes as many as are there. After shut it returns 0.
func (s *socket) receive() (int, syscall.Errno) {
	for i := range s.in {
		s.in[i].hdr.Namelen = unix.SizeofSockaddrInet4
	}
	n, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.in[0])), batch, unix.MSG_WAITFORONE, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// packet returns the i-th datagram received.
func (s *socket) packet(i int) (from uint64, p []byte) {
	return nameKey(&s.inName[i]), s.inBytes[i][:min(s.in[i].n, recvSize)]
}

// room returns space for n bytes of a message that add will queue, sending what is queued when there is too little.
func (s *socket) room(n int) []byte {
	if s.n == batch || s.used+n > len(s.arena) {
		s.flush()
	}
	return s.arena[s.used : s.used+n]
}

// add queues the n bytes written to room: one datagram, or several of segment bytes each where that is not 0.
func (s *socket) add(to *destination, t *transfer, n, segment int) {
	i := s.n
	s.n++
	s.owner[i] = t
	s.outIov[i].Base = &s.arena[s.used]
	s.outIov[i].SetLen(n)
	s.used += n
	h := &s.out[i].hdr
	h.Name = (*byte)(unsafe.Pointer(&to.name))
	h.Namelen = unix.SizeofSockaddrInet4
	h.Control = (*byte)(unsafe.Pointer(&to.control))
	space := unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	h.SetControllen(space)
	if segment == 0 {
		return
	}
	c := &s.segments[i]
	copy(c[:], to.control[:])
	seg := (*unix.Cmsghdr)(unsafe.Add(unsafe.Pointer(c), space))
	seg.Level, seg.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	seg.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Add(unsafe.Pointer(seg), unix.CmsgLen(0))) = uint16(segment)
	h.Control = (*byte)(unsafe.Pointer(c))
	h.SetControllen(space + unix.CmsgSpace(2))
}

// flush sends what is queued. It waits for nothing: what the kernel has no room for is lost like any packet, and sent again.
func (s *socket) flush() {
	retried := -1
	for i := 0; i < s.n; {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.out[i])), uintptr(s.n-i), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0 && n > 0:
			i += int(n)
		case errno == unix.EINTR:
		case errno == unix.EAGAIN || errno == unix.ENOBUFS:
			i = s.n
		case (errno == unix.ECONNREFUSED || errno == unix.EHOSTUNREACH || errno == unix.ENETUNREACH) && retried != i:
			retried = i // this may have been about an earlier packet, to somebody else: IP_RECVERR tells it to whoever calls next
		default:
			if t := s.owner[i]; t != nil {
				t.failed = errno
			}
			if (errno == unix.EIO || errno == unix.EINVAL) && s.out[i].hdr.Control == (*byte)(unsafe.Pointer(&s.segments[i])) {
				s.owner[i].gso = false // an interface that cannot; the next time each packet goes by itself
			}
			i++
		}
	}
	clear(s.owner[:s.n])
	for i := range s.n {
		s.out[i].hdr.Name, s.out[i].hdr.Control = nil, nil
	}
	s.n, s.used = 0, 0
}

// refusals calls f with every destination where nobody listens, as ICMP said.
func (s *socket) refusals(f func(key uint64)) {
	var name unix.RawSockaddrInet4
	var control [16]uint64
	h := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&name))}
	for range 1000 {
		h.Namelen = unix.SizeofSockaddrInet4
		h.Control = (*byte)(unsafe.Pointer(&control))
		h.SetControllen(len(control) * 8)
		_, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno != 0 {
			return
		}
		c := (*unix.Cmsghdr)(unsafe.Pointer(&control))
		if h.Controllen == 0 || c.Level != unix.IPPROTO_IP || c.Type != unix.IP_RECVERR {
			continue
		}
		e := (*unix.SockExtendedErr)(unsafe.Add(unsafe.Pointer(c), unix.CmsgLen(0)))
		if e.Errno == uint32(unix.ECONNREFUSED) && e.Origin == unix.SO_EE_ORIGIN_ICMP {
			f(nameKey(&name))
		}
	}
}

// shut makes receive return 0 from now on. (On a socket without a peer the call fails, but does that all the same.)
func (s *socket) shut() { _ = unix.Shutdown(s.fd, unix.SHUT_RD) }
