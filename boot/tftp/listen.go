package tftp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// bufferSize is asked for each socket, so that the requests of a whole room that is switched on at once fit.
const bufferSize = 4 << 20

// A Listener is the sockets of a server: one for requests, and one port for all transfers.
type Listener struct {
	requests *net.UDPConn
	data     []*socket // one per reactor, all on the same port
	port     uint16    // of data
	state    *State
	closing  sync.Once
}

// Listen opens the UDP port for requests, usually 69, on every address. The port for transfers is the kernel's choice, or the one
// that a server before this one used, where state knows it; a nil state is none. The Listener closes state, also when Listen fails.
// It needs no privilege later.
func Listen(ctx context.Context, port uint16, state *State) (*Listener, error) {
	return listen(ctx, netip.AddrPortFrom(netip.IPv4Unspecified(), port), state, reactors(runtime.NumCPU()))
}

// reactors is how many threads send. One saturates 3 Gbit/s in lockstep.
func reactors(cpus int) int { return max(1, min(cpus/4, 8)) }

func listen(ctx context.Context, at netip.AddrPort, state *State, n int) (*Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return control(c, requestOptions) }}
	conn, err := lc.ListenPacket(ctx, "udp4", at.String())
	if err != nil {
		state.Close()
		return nil, err
	}
	l := &Listener{requests: conn.(*net.UDPConn), state: state}
	var wanted uint16
	if state != nil {
		wanted = state.port()
	}
	err = l.openData(at.Addr(), wanted, n)
	if wanted != 0 && errors.Is(err, unix.EADDRINUSE) {
		state.forget() // clients know only the old port
		err = l.openData(at.Addr(), 0, n)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("open the port for transfers: %w", err)
	}
	if state != nil {
		state.setPort(l.port)
	}
	return l, nil
}

func control(c syscall.RawConn, f func(fd int) error) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

// requestOptions: from its first packet on the socket tells which address was asked by which interface.
func requestOptions(fd int) error {
	buffers(fd)
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// buffers makes a socket's buffers large; as root above the limit for everybody.
func buffers(fd int) {
	for force, plain := range map[int]int{unix.SO_RCVBUFFORCE: unix.SO_RCVBUF, unix.SO_SNDBUFFORCE: unix.SO_SNDBUF} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, bufferSize) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, bufferSize)
		}
	}
}

// openData opens n sockets on one port. A program for the socket filter sends each client's packets always to the same one.
func (l *Listener) openData(addr netip.Addr, port uint16, n int) error {
	for i := range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		l.data = append(l.data, newSocket(fd))
		buffers(fd)
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1),
			// Without "don't fragment": a router on the way may do what the client cannot.
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT))
		if i > 0 {
			err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		}
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.As4(), Port: int(port)})
		}
		if i == 0 && err == nil {
			port, err = boundPort(fd)
			if n > 1 && err == nil {
				// Only now, so that a port which another server holds is an error and not shared with it.
				err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
		}
		if err != nil {
			l.closeData()
			return err
		}
	}
	l.port = port
	if n == 1 {
		return nil
	}
	return unix.SetsockoptSockFprog(l.data[0].fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, steering(n))
}

func boundPort(fd int) (uint16, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	return uint16(sa.(*unix.SockaddrInet4).Port), nil
}

// steering picks the socket by the client's address, as reactorOf does: IP source address modulo n.
func steering(n int) *unix.SockFprog {
	const fromNetworkHeader = 0xfff00000 // SKF_NET_OFF
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: fromNetworkHeader + 12},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(n)},
		{Code: unix.BPF_RET | unix.BPF_A},
	}
	return &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
}

func reactorOf(key uint64, n int) int { return int(uint32(key>>16) % uint32(n)) }

// Addr is where requests are taken.
func (l *Listener) Addr() net.Addr { return l.requests.LocalAddr() }

// Close gives up the ports. Serve does it, too.
func (l *Listener) Close() error {
	var err error
	l.closing.Do(func() {
		l.closeData()
		err = errors.Join(l.requests.Close(), l.state.Close())
	})
	return err
}

func (l *Listener) closeData() {
	for _, s := range l.data {
		unix.Close(s.fd)
	}
	l.data = nil
}

// links asks the kernel about interfaces.
type links struct{ fd int }

func newLinks() (links, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return links{-1}, fmt.Errorf("open a socket to ask for interfaces: %w", err)
	}
	return links{fd}, nil
}

func (l links) close() { unix.Close(l.fd) }

// link returns name and MTU of an interface as they are now.
func (l links) link(index int) (name string, mtu int, err error) {
	r, err := unix.NewIfreq("")
	if err != nil {
		return "", 0, err
	}
	r.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(l.fd, unix.SIOCGIFNAME, r); err != nil {
		return "", 0, fmt.Errorf("interface %s: %w", strconv.Itoa(index), err)
	}
	name = r.Name()
	if r, err = unix.NewIfreq(name); err != nil {
		return "", 0, err
	}
	if err := unix.IoctlIfreq(l.fd, unix.SIOCGIFMTU, r); err != nil {
		return "", 0, fmt.Errorf("interface %s: %w", name, err)
	}
	return name, int(r.Uint32()), nil
}
