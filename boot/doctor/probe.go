package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"netroot/boot/proxydhcp"
)

// A question is what the doctor asks as.
type question struct {
	mac  net.HardwareAddr
	uuid string // "" is that of a board whose maker wrote none
	arch uint16
	ipxe bool
	xid  uint32
	port int // where serve on this machine listens
}

// randomMAC is a locally administered address that no machine has.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = mac[0]&^1 | 2
	return mac
}

// discover is what PXE firmware broadcasts first (PXE 2.1, table 2-1): the broadcast flag, because it has no address yet; what it is
// (options 60, 93, 94), its UUID (97) and what it wants to know (55). Behind the options it says to netroot serve who asks.
func (q question) discover() []byte {
	p := make([]byte, 240, 400)
	p[0], p[1], p[2] = 1, 1, 6
	binary.BigEndian.PutUint32(p[4:], q.xid)
	p[10] = 0x80
	copy(p[28:], q.mac)
	binary.BigEndian.PutUint32(p[236:], 0x63825363)
	option := func(code byte, data ...byte) { p = append(append(p, code, byte(len(data))), data...) }
	undi := "002001"
	if q.arch >= 6 {
		undi = "003016" // as EDK2
	}
	option(53, 1)
	option(57, 5, 0xc0) // 1472 bytes
	option(55, 1, 2, 3, 6, 12, 15, 17, 43, 54, 60, 66, 67, 97, 128, 129, 130, 131, 132, 133, 134, 135)
	id, err := hex.DecodeString(strings.ReplaceAll(q.uuid, "-", ""))
	if err != nil || len(id) != 16 {
		id = make([]byte, 16)
	}
	option(97, append([]byte{0}, id...)...)
	option(94, 1, undi[2]-'0', undi[5]-'0')
	option(93, byte(q.arch>>8), byte(q.arch))
	option(60, []byte(fmt.Sprintf("PXEClient:Arch:%05d:UNDI:%s", q.arch, undi))...)
	if q.ipxe {
		option(77, []byte("iPXE")...)
		kernel := byte(24) // bzImage
		if q.arch >= 6 {
			kernel = 36 // EFI
		}
		option(175, 19, 1, 1, kernel, 1, 1) // 19 is HTTP
	}
	p = append(p, 255)
	p = append(p, make([]byte, max(0, 300-len(proxydhcp.Trial)-len(p)))...)
	return append(p, proxydhcp.Trial...)
}

// A probe is a question on one interface. Its sockets belong to the network namespace that it was opened in.
type probe struct {
	question
	iface   net.Interface
	packets *os.File
	conn    net.PacketConn // nil when broadcasts cannot be sent
}

func openProbe(i net.Interface, q question) (*probe, error) {
	if q.xid == 0 {
		var b [4]byte
		rand.Read(b[:])
		q.xid = binary.BigEndian.Uint32(b[:])
	}
	packets, err := listenPackets(i.Index)
	if err != nil {
		return nil, err
	}
	conn, err := listenBroadcast(i.Name)
	if err != nil {
		packets.Close()
		return nil, err
	}
	return &probe{q, i, packets, conn}, nil
}

func (p *probe) close() {
	p.packets.Close()
	p.conn.Close()
}

// patience is how many times the usual wait a DHCP server has for its first answer. dnsmasq tries for three seconds whether an
// address is taken before it offers it, and one that serves several networks does so for one machine after the other.
const patience = 2

// ask broadcasts the question and returns every answer to it that comes within the time, or, when no DHCP server's is among them,
// within that time again. The first time it goes out as firmware sends it, from the address 0.0.0.0, by a packet socket; servers
// on this machine do not hear that. The second time it is an ordinary broadcast, which Linux also gives to the sockets of this
// machine. The Ethernet source is the interface's own address both times: a switch with port security shuts a port down that
// shows a second one.
func (p *probe) ask(ctx context.Context, wait time.Duration) ([]offer, error) {
	stop := context.AfterFunc(ctx, p.close)
	defer stop()
	if err := p.packets.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, fmt.Errorf("wait for answers: %w", err)
	}
	packet := p.discover()
	if _, err := p.packets.Write(frame(p.iface.HardwareAddr, packet)); err != nil {
		return nil, fmt.Errorf("send a DISCOVER: %w", err)
	}
	again := time.AfterFunc(wait/4, func() {
		// That it fails is no finding: the frame before it went out.
		_, _ = p.conn.WriteTo(packet, &net.UDPAddr{IP: net.IPv4bcast, Port: p.port})
	})
	defer again.Stop()
	var offers []offer
	waits := patience
	buf := make([]byte, 4096)
	for {
		n, err := p.packets.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			if waits--; waits == 0 || slices.ContainsFunc(offers, func(o offer) bool { return o.your.IsValid() && !o.your.IsUnspecified() }) {
				return offers, nil
			}
			if err := p.packets.SetReadDeadline(time.Now().Add(wait)); err != nil {
				return nil, fmt.Errorf("wait for answers: %w", err)
			}
		case err != nil:
			return nil, fmt.Errorf("wait for answers: %w", err)
		}
		o, err := readFrame(buf[:n])
		if err != nil || o.xid != p.xid || !bytes.Equal(o.mac, p.mac) || slices.ContainsFunc(offers, o.same) {
			continue
		}
		offers = append(offers, o)
	}
}

// listenPackets opens a packet socket on one interface that hears what goes to UDP port 68, in either direction.
func listenPackets(index int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 4},
		bpf.LoadMemShift{Off: 14},
		bpf.LoadIndirect{Off: 16, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 68, SkipTrue: 1},
		bpf.RetConstant{Val: 4096},
		bpf.RetConstant{Val: 0},
	})
	if err == nil {
		code := make([]unix.SockFilter, len(filter))
		for i, f := range filter {
			code[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
		}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "packets"), nil
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

// frame puts Ethernet, IP and UDP in front of a packet from 0.0.0.0:68 to 255.255.255.255:67.
func frame(source net.HardwareAddr, packet []byte) []byte {
	b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, source...)
	b = append(b, 8, 0)
	ip := make([]byte, 28)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(packet)))
	copy(ip[16:], "\xff\xff\xff\xff")
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum))
	binary.BigEndian.PutUint16(ip[20:], 68)
	binary.BigEndian.PutUint16(ip[22:], 67)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(packet))) // and no checksum, which UDP over IPv4 allows
	return append(append(b, ip...), packet...)
}

// listenBroadcast opens a socket that sends out of one interface.
func listenBroadcast(name string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name))
		})
		return errors.Join(err, failed)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp4", "0.0.0.0:0")
	if err != nil {
		return nil, fmt.Errorf("open a socket on %s: %w", name, err)
	}
	return conn, nil
}

// needsRoot is the way out of an error for want of rights.
func needsRoot(err error) string {
	if errors.Is(err, os.ErrPermission) {
		return "run it as root"
	}
	return ""
}
