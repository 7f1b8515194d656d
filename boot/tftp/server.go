// Package tftp serves files to boot ROMs and boot loaders (RFC 1350, with the options blksize and tsize of RFC 2348 and
// 2349), read-only, over pin/tftp.
//
// What that library decides, this package has to live with: there is no windowsize and no timeout option (both are left
// out of the acknowledgement, as a server that does not know them does), a blksize below 512 becomes 512, and every
// error it sends has code 1. Where another code is right, that one is sent first, so clients see it.
package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	pin "github.com/pin/tftp/v3"
	"golang.org/x/sys/unix"
)

const (
	// Blocks are at most this much smaller than the MTU: 20 bytes of IP, 8 of UDP, 4 of TFTP. ROMs cannot reassemble
	// fragments. The library subtracts only 28.
	overhead       = 32
	minBlock       = 513
	resendAfter    = time.Second
	resends        = 15
	shutdownGrace  = 2 * time.Second
	errAccess      = 2 // RFC 1350: access violation
	maxEventName   = 255
	maxRefusalText = 200
)

// A Server answers read requests.
type Server struct {
	// FS returns the tree that a client sees at the address local of this machine.
	FS func(client, local netip.Addr) fs.FS
	// Interfaces are the ones clients come in on; empty means all. Their smallest MTU limits the block size.
	Interfaces []string
	// Log gets one record per transfer and refusal; nil is silent.
	Log *slog.Logger
}

// Listen opens the UDP socket for Serve on every address. From its first packet on it tells which address was asked, and
// so by which interface: without that a request that comes in while the server starts would get blocks of 512 bytes.
func Listen(ctx context.Context, port uint16) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) })
		return errors.Join(err, failed)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", net.JoinHostPort("0.0.0.0", strconv.Itoa(int(port))))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// Serve answers on conn, usually port 69, until ctx ends. Then it closes conn, gives transfers under way a short while to
// end, and returns nil. Answers leave from the address that was asked, each transfer from a port of its own.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &handler{server: s, ctx: ctx, log: log.With("service", "tftp")}
	h.pin = pin.NewServer(h.read, h.write)
	h.pin.SetTimeout(resendAfter)
	h.pin.SetRetries(resends)
	h.pin.SetBackoff(func(int) time.Duration { return 0 })
	h.limitBlocks()
	done := make(chan error, 1)
	go func() { done <- h.pin.Serve(conn) }()
	select {
	case err := <-done:
		if err == nil || ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("serve TFTP on %v: %w", conn.LocalAddr(), err)
	case <-ctx.Done():
	}
	conn.Close()
	ended := make(chan struct{})
	go func() {
		h.pin.Shutdown() // waits for clients that may have gone
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(shutdownGrace):
	}
	return nil
}

type handler struct {
	server *Server
	pin    *pin.Server
	ctx    context.Context
	log    *slog.Logger

	mu      sync.Mutex
	limited time.Time
}

// limitBlocks tells the library the largest block that no interface has to fragment. It knows the interface of each request,
// but forgets the four bytes of TFTP's own header. Addresses and MTUs change, so this is done again now and then.
func (h *handler) limitBlocks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.limited) < 10*time.Second {
		return
	}
	h.limited = time.Now()
	ifis, err := net.Interfaces()
	if err != nil {
		return
	}
	if n := blockLimit(ifis, h.server.Interfaces); n >= minBlock {
		h.pin.SetBlockSize(n)
	}
}

// blockLimit returns the largest block for the interfaces that are up and chosen, 0 when there is none.
func blockLimit(ifis []net.Interface, chosen []string) int {
	n := 0
	for _, ifi := range ifis {
		if ifi.Flags&net.FlagUp == 0 || ifi.Flags&net.FlagLoopback != 0 || len(chosen) > 0 && !slices.Contains(chosen, ifi.Name) {
			continue
		}
		if m := ifi.MTU - overhead; n == 0 || m < n {
			n = m
		}
	}
	return n
}

// A transfer is what the library tells about a request, whichever way the data goes.
type transfer interface {
	RemoteAddr() net.UDPAddr
	LocalIP() net.IP
}

func (h *handler) read(name string, to io.ReaderFrom) error {
	h.limitBlocks()
	start := time.Now()
	t := to.(transfer)
	client, local := addresses(t)
	log := h.log.With("client", client.Addr().String(), "file", clip(name, maxEventName))
	clean, err := Clean(name)
	if err == nil && (!local.IsValid() || local.IsUnspecified()) {
		err = errors.New("the request was a broadcast") // RFC 1123, section 4.2.3.5
	}
	if err != nil {
		log.Info("refused", "reason", err.Error())
		refuse(t, errAccess, err.Error())
		return err
	}
	f, err := h.server.FS(client.Addr(), local).Open(clean)
	if err == nil {
		defer f.Close()
		var st fs.FileInfo
		if st, err = f.Stat(); err == nil && !st.Mode().IsRegular() {
			err = fs.ErrNotExist
		} else if err == nil {
			to.(pin.OutgoingTransfer).SetSize(st.Size())
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Most of these are pxelinux looking for its configuration under ever shorter names.
		log.Debug("refused", "reason", "not found")
		return errors.New("file not found")
	case err != nil:
		log.Warn("refused", "reason", err.Error())
		return errors.New("cannot read file")
	}
	n, err := to.ReadFrom(untilDone{h.ctx, f})
	switch {
	case err == nil:
		log.Info("read", "bytes", n, "seconds", time.Since(start).Seconds())
	case n == 0 && strings.Contains(err.Error(), "code="):
		// The client ended the transfer by an error packet at the option acknowledgement: it wanted to know the size. UEFI
		// and iPXE do. The library tells that from silence in words only.
		log.Debug("probe", "reason", clip(err.Error(), maxRefusalText))
	default:
		log.Info("aborted", "bytes", n, "seconds", time.Since(start).Seconds(), "reason", clip(err.Error(), maxRefusalText))
	}
	return err
}

func (h *handler) write(name string, from io.WriterTo) error {
	t := from.(transfer)
	client, _ := addresses(t)
	err := errors.New("this server is read-only")
	h.log.Info("refused", "client", client.Addr().String(), "file", clip(name, maxEventName), "reason", "write request: "+err.Error())
	refuse(t, errAccess, err.Error())
	return err
}

// refuse sends an error with its proper code, from a port of its own as RFC 1350 wants.
func refuse(t transfer, code uint16, text string) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: t.LocalIP()})
	if err != nil {
		return
	}
	defer conn.Close()
	p := binary.BigEndian.AppendUint16([]byte{0, 5}, code)
	p = append(append(p, clip(text, maxRefusalText)...), 0)
	to := t.RemoteAddr()
	_, _ = conn.WriteToUDP(p, &to)
}

// Clean turns the name a client asks for into a path for an fs.FS. Firmware sends names with and without a leading slash,
// with doubled ones (pxelinux, after a prefix) and with backslashes (Windows loaders). A name that would leave the tree is
// an error, even where cleaning would bring it back.
func Clean(name string) (string, error) {
	p := strings.TrimLeft(strings.ReplaceAll(name, `\`, "/"), "/")
	if slices.Contains(strings.Split(p, "/"), "..") {
		return "", errors.New("the name leaves the served tree")
	}
	if strings.ContainsRune(p, 0) || p == "" {
		return "", errors.New("not a file name")
	}
	p = path.Clean(p)
	if !fs.ValidPath(p) {
		return "", errors.New("not a file name")
	}
	return p, nil
}

// untilDone makes a reader fail once the server stops.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, errors.New("the server is stopping")
	}
	return u.r.Read(p)
}

func addresses(t transfer) (client netip.AddrPort, local netip.Addr) {
	a := t.RemoteAddr()
	client = a.AddrPort()
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	if local, ok := netip.AddrFromSlice(t.LocalIP()); ok {
		return client, local.Unmap()
	}
	return client, towards(client)
}

// towards returns the address this machine uses for a client, where a request does not tell which one it asked: it came in
// between the opening of the socket and Serve. Connecting a UDP socket sends nothing.
func towards(client netip.AddrPort) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(client))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// clip shortens what a client sent before it goes into a log line.
func clip(s string, n int) string {
	s = strings.TrimRight(s, "\x00")
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
