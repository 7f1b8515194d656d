package sendfile

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen opens a TCP listener on an IPv4 address, as net.Listen does, whose connections send as fast as the client takes it.
//
// Where the host's congestion control is BBR, which is made for long ways through the Internet, the kernel parts what a connection sends
// by a timer for each burst (pacing, net/ipv4/tcp_bbr.c). Between machines of one network that was seen to cost up to half of the speed
// and as much processor time again, so these connections do without. Any other choice of the host's is kept.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return c.Control(unpaced) }}
	return lc.Listen(ctx, "tcp4", address)
}

// unpaced chooses a congestion control without pacing for a socket and, when it listens, for those it accepts (tcp(7), TCP_CONGESTION).
// Reno is in every kernel and allowed to everybody.
func unpaced(fd uintptr) {
	name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil || !strings.HasPrefix(name, "bbr") {
		return
	}
	for _, other := range []string{"cubic", "reno"} {
		if unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, other) == nil {
			return
		}
	}
}

// A way loses segments when more than one in lossyShare has to be sent again. Fewer than lossyMin say nothing.
const (
	lossyShare = 200
	lossyMin   = 10
)

// pace gives a socket back the host's own congestion control when that is BBR and its way loses segments. It tells whether there is
// nothing more to look for.
func pace(fd uintptr) (settled bool) {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return true
	}
	if info.Total_retrans < lossyMin || uint64(info.Total_retrans)*lossyShare < uint64(info.Data_segs_out) {
		return false
	}
	if own, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control"); err == nil && strings.HasPrefix(string(own), "bbr") {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, strings.TrimSpace(string(own)))
	}
	return true
}
