package proxydhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"netroot/boot/portowner"
)

// Listen opens the UDP socket for Serve, on every address, able to broadcast.
//
// The port of a proxy that another process here holds is shared when that process allows it (SO_REUSEADDR), as libvirt's dnsmasq on
// its own bridge does: broadcasts then reach both. A warning names it, because if it listens on the same network it gets
// the unicast requests of one of the two. That of a boot server is never shared. The error for a port that is taken names the process.
func Listen(ctx context.Context, role Role, port uint16, log *slog.Logger) (*net.UDPConn, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	conn, err := listen(ctx, port, false)
	switch {
	case err == nil:
		if role == Proxy {
			// Whoever starts later may share as well.
			_ = control(conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		}
		return conn, nil
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on UDP port %d: %w (run as root, or serve with --no-dhcp)", port, err)
	case !errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on UDP port %d: %w", port, err)
	}
	owner := portowner.Of("udp", port)
	if role == Proxy {
		if shared, err := listen(ctx, port, true); err == nil {
			log.Warn("shared", "service", "dhcp", "reason", fmt.Sprintf("UDP port %d is also open in %s; if that one serves the same network, stop it", port, owner))
			return shared, nil
		}
	}
	return nil, fmt.Errorf("listen on UDP port %d: taken by %s (stop it, or serve with --no-dhcp)", port, owner)
}

const receiveBuffer = 4 << 20

func listen(ctx context.Context, port uint16, reuse bool) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			if failed == nil {
				// Before the port is open: what comes in before Serve reads must have its interface noted too.
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			}
			// A thousand machines that are switched on together are a thousand packets in a moment. The limit of the
			// system is for programs that are not root.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			}
			if failed == nil && reuse {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
		})
		return errors.Join(err, failed)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", net.JoinHostPort("0.0.0.0", strconv.Itoa(int(port))))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func control(conn *net.UDPConn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}
