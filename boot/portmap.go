package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"netroot/boot/nfs"
	"netroot/boot/portowner"
	"netroot/boot/tftpboot"
)

// portmap opens port 111 for clients that ask where NFS is. Machines with a root of ours never ask, only live systems with an
// initrd of their own, so a port that is taken is no reason to fail; it is a warning when the store has such a system.
func (s *Server) portmap(n *nfs.Server, log *slog.Logger) (service, bool) {
	if s.Ports.Portmap == 0 {
		return service{}, false
	}
	address, protocol := ":"+strconv.Itoa(s.Ports.Portmap), "tcp"
	l, err := net.Listen("tcp4", address)
	if err == nil {
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp4", address); err == nil {
			serve := func(ctx context.Context) error { return n.ServePortmap(ctx, l, pc, s.Ports.NFS) }
			return service{"portmap", l.Addr(), serve, func() error { return errors.Join(l.Close(), pc.Close()) }}, true
		}
		protocol = "udp"
		l.Close()
	}
	level, reason := slog.LevelInfo, err.Error()
	if askers, _ := tftpboot.Askers(s.Store); len(askers) > 0 { // a store that cannot be read is told of elsewhere
		level = slog.LevelWarn
		reason = fmt.Sprintf("%s; the initrd of %s asks there for NFS and will not find it: stop %v, or write deliver: http in the recipe",
			reason, strings.Join(askers, ", "), portowner.Of(protocol, uint16(s.Ports.Portmap)))
	}
	log.Log(context.Background(), level, "not served", "service", "portmap", "reason", reason)
	return service{}, false
}
