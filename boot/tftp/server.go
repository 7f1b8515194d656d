// Package tftp serves files to boot ROMs and boot loaders, read-only: RFC 1350 with the options of RFC 2347, blksize (2348), tsize
// and timeout (2349), and windowsize (7440).
//
// There is one socket for requests, and one port for all transfers, whatever their number: the client sees a transfer ID that is
// always the same, which is all that RFC 1350 asks for. Packets are received and sent many at a time, and no transfer has a
// goroutine, a socket or a descriptor of its own. With a State a server that was killed is replaced by one that goes on with the
// transfers, and no client notices.
//
// Its limits: Linux, IPv4, reading only. Files that are not on disk, or asked for in text mode, are held in memory and have at most
// 4 MiB. An answer leaves from the address that was asked; a client that changes its own address or port begins anew. Multicast
// (RFC 2090) is not there.
package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Blocks are at most this much smaller than the MTU: 20 bytes of IP, 8 of UDP, 4 of TFTP. ROMs cannot reassemble fragments.
	overhead      = 32
	shutdownGrace = 2 * time.Second
	maxEventName  = 255
	maxErrorText  = 200
	askers        = 4   // requests that are looked at together: opening a file may take time
	strangers     = 256 // requests that wait for FS together
	diskReaders   = 16  // transfers that wait for the disk together

	defaultTransfers = 8192
	defaultPerClient = 1024
)

// A Server answers read requests.
type Server struct {
	// FS returns the tree that a client sees at the address local of this machine. Where opening a file fails with fs.ErrPermission
	// the client hears of an access violation; with os.ErrDeadlineExceeded it hears nothing, and asks again.
	FS func(client, local netip.Addr) fs.FS
	// Known tells whether FS returns at once. The others are looked at beside the rest, and forgotten when there are too many of
	// them, so that forged addresses keep no client waiting that is known; nil means all are known.
	Known func(client, local netip.Addr) bool
	// Interfaces tells which ones clients come in on, besides loopback, at the moment it is called; nil and none mean all.
	Interfaces func() []string
	// Transfers at once, in all and of one address; 0 means 8192 and 1024.
	MaxTransfers, MaxPerClient int
	// Log gets one record per transfer and refusal; nil is silent.
	Log *slog.Logger

	running atomic.Pointer[serving]
	stats   counters
}

type counters struct {
	requests, refused, malformed, reads, aborted, probes, bytes, retransmits, cold atomic.Uint64
	active                                                                         atomic.Int64
}

// Stats counts since the server was made.
type Stats struct {
	Requests    uint64 // read and write requests
	Refused     uint64 // of these, the ones not served
	Malformed   uint64 // packets that are no request
	Reads       uint64 // transfers that ended well
	Aborted     uint64
	Probes      uint64 // transfers the client ended before it had a byte
	Active      int    // transfers now
	Bytes       uint64 // of files, sent
	Retransmits uint64 // data packets sent again
	Cold        uint64 // reads that had to wait for the disk
}

// Stats returns the counters as they are now.
func (s *Server) Stats() Stats {
	c := &s.stats
	return Stats{c.requests.Load(), c.refused.Load(), c.malformed.Load(), c.reads.Load(), c.aborted.Load(), c.probes.Load(),
		int(c.active.Load()), c.bytes.Load(), c.retransmits.Load(), c.cold.Load()}
}

// A Transfer is one that runs.
type Transfer struct {
	Client     netip.AddrPort
	File       string // as the client wrote it
	Sent, Size int64  // Sent is what the client has
	Start      time.Time
}

// Transfers returns those that run now.
func (s *Server) Transfers() []Transfer {
	run := s.running.Load()
	if run == nil {
		return nil
	}
	var all []Transfer
	for _, r := range run.reactors {
		r.mu.Lock()
		for _, t := range r.active {
			if !t.opening {
				all = append(all, Transfer{t.client, t.asked, t.bytes(), t.src.size, t.start})
			}
		}
		r.mu.Unlock()
	}
	return all
}

// serving is a Server at work.
type serving struct {
	*Server
	ctx      context.Context
	log      *slog.Logger
	l        *Listener
	state    *State
	port     uint16 // of requests
	links    links
	reactors []*reactor
	files    sources
	fetchers sync.WaitGroup
	disk     chan struct{}
	unknown  chan struct{} // who is not known waits in here
	wake     chan struct{} // the first transfer came
}

// Serve answers on l until ctx ends; then it closes l and returns nil. With a State it leaves transfers to the next server; without,
// it gives them a short while to end.
func (s *Server) Serve(ctx context.Context, l *Listener) error {
	links, err := newLinks()
	if err != nil {
		return err
	}
	defer links.close()
	run := &serving{Server: s, ctx: context.WithoutCancel(ctx), log: s.logger(), l: l, state: l.state, links: links,
		port: uint16(l.requests.LocalAddr().(*net.UDPAddr).Port), disk: make(chan struct{}, diskReaders), unknown: make(chan struct{}, strangers), wake: make(chan struct{}, 1)}
	for _, sock := range l.data {
		run.reactors = append(run.reactors, newReactor(run, sock))
	}
	s.running.Store(run)
	defer s.running.Store(nil)
	return run.serve(ctx)
}

func (s *Server) logger() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log.With("service", "tftp")
}

func (s *serving) serve(ctx context.Context) error {
	saved := s.expect() // before the first packet is answered
	failed := make(chan error, len(s.reactors)+askers)
	var threads, clock sync.WaitGroup
	for _, r := range s.reactors {
		threads.Go(func() {
			if err := r.run(); err != nil {
				failed <- err
			}
		})
	}
	ticking, stopTicking := context.WithCancel(context.Background())
	clock.Go(func() { s.ticks(ticking) })
	for range askers {
		threads.Go(func() {
			if err := s.ask(); err != nil {
				failed <- err
			}
		})
	}
	threads.Go(func() { s.resume(saved) })

	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	_ = s.l.requests.SetReadDeadline(time.Unix(1, 0)) // no more requests
	if s.state == nil && err == nil {
		for end := time.Now().Add(shutdownGrace); s.stats.active.Load() > 0 && time.Now().Before(end); {
			time.Sleep(tick)
		}
	}
	stopTicking()
	clock.Wait()
	for _, r := range s.reactors {
		r.shut()
	}
	threads.Wait()
	s.fetchers.Wait()
	s.l.Close()
	if err != nil {
		return fmt.Errorf("serve TFTP on %v: %w", s.l.Addr(), err)
	}
	return nil
}

// own reports whether a port is one that a client cannot have: answers to it could go round for ever.
func (s *serving) own(port uint16) bool { return port == 0 || port == s.port || port == s.l.port }

// knows tells whether FS returns at once for a client.
func (s *serving) knows(client, local netip.Addr) bool {
	return s.Known == nil || s.Known(client, local)
}

// count keeps the number of transfers, and starts the clock with the first one.
func (s *serving) count(n int64) {
	if s.stats.active.Add(n) == 1 && n > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// ticks runs the reactors' clocks while there are transfers.
func (s *serving) ticks(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			for _, r := range s.reactors {
				r.expire(now)
			}
		}
		if s.stats.active.Load() > 0 {
			continue
		}
		t.Stop()
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		t.Reset(tick)
	}
}

// ask reads requests until the socket is closed.
func (s *serving) ask() error {
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for {
		n, oobn, _, from, err := s.l.requests.ReadMsgUDPAddrPort(buf, oob)
		switch {
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil && !errors.Is(err, unix.ECONNREFUSED):
			return err
		case err == nil:
			s.request(buf[:n], oob[:oobn], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		}
	}
}

// An arrival is how a packet came in.
type arrival struct {
	local     netip.Addr
	iface     string
	mtu       int
	broadcast bool
}

// arrived reads the control message of a packet.
func (s *serving) arrived(oob []byte) arrival {
	a := arrival{mtu: defaultBlock + overhead}
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo {
			index := int(binary.NativeEndian.Uint32(m.Data))
			a.local = netip.AddrFrom4([4]byte(m.Data[4:8]))
			a.broadcast = a.local != netip.AddrFrom4([4]byte(m.Data[8:12]))
			if name, mtu, err := s.links.link(index); err == nil {
				a.iface, a.mtu = name, mtu
			}
		}
	}
	return a
}

func (s *serving) serves(iface string) bool {
	if s.Interfaces == nil || iface == "lo" {
		return true
	}
	chosen := s.Interfaces()
	return len(chosen) == 0 || slices.Contains(chosen, iface)
}

// request answers a packet to the port for requests.
func (s *serving) request(p, oob []byte, from netip.AddrPort) {
	if s.own(from.Port()) || !from.Addr().Is4() {
		s.stats.malformed.Add(1)
		return
	}
	req, err := parse(p)
	if errors.Is(err, errNoRequest) {
		s.stats.malformed.Add(1)
		return
	}
	s.stats.requests.Add(1)
	q := &question{serving: s, from: from, in: s.arrived(oob), request: req, log: s.log.With("client", from.Addr().String(), "file", clip(req.name, maxEventName))}
	clean, nameErr := Clean(req.name)
	switch {
	case q.in.broadcast: // RFC 1123, section 4.2.3.5
		q.ignore(slog.LevelDebug, "the request was a broadcast")
	case !s.serves(q.in.iface):
		q.ignore(slog.LevelDebug, "came in by "+q.in.iface+", which is not served")
	case err != nil:
		q.refuse(slog.LevelWarn, codeIllegal, err.Error(), err.Error())
	case req.write:
		q.refuse(slog.LevelWarn, codeAccess, "this server is read-only", "write request: this server is read-only")
	case nameErr != nil:
		q.refuse(slog.LevelWarn, codeAccess, nameErr.Error(), nameErr.Error())
	default:
		q.begin(string(p), clean)
	}
}

// A question is a request that is being looked at.
type question struct {
	*serving
	from    netip.AddrPort
	in      arrival
	request request
	log     *slog.Logger
}

// begin begins a transfer, which for a client that is not known waits beside the others. packet is the request as it came.
func (q *question) begin(packet, clean string) {
	t := &transfer{key: keyOf(q.from), client: q.from, local: q.in.local, asked: q.request.name, packet: packet, netascii: q.request.netascii,
		opening: true, start: time.Now(), to: newDestination(q.from, q.in.local)}
	r := q.reactors[reactorOf(t.key, len(q.reactors))]
	if ok, reason := q.admit(r, t); reason != "" {
		q.refuse(slog.LevelWarn, codeOther, "too many transfers, ask again later", reason)
		return
	} else if !ok {
		return
	}
	if q.knows(q.from.Addr(), q.in.local) {
		q.open(r, t, clean)
		return
	}
	select {
	case q.unknown <- struct{}{}:
		q.fetchers.Go(func() {
			q.open(r, t, clean)
			<-q.unknown
		})
	default:
		r.drop(t)
		q.ignore(slog.LevelDebug, "too many clients at once that are not known")
	}
}

func (q *question) open(r *reactor, t *transfer, clean string) {
	src, err := q.files.get(q.FS(q.from.Addr(), q.in.local), clean, t.netascii)
	if err == nil {
		t.terms = negotiate(q.request, src.size, q.in.mtu-overhead)
		t.gso = t.window > 1 && t.blksize+overhead <= q.in.mtu
		q.log.Debug("started", "bytes", src.size, "blksize", t.blksize, "windowsize", t.window)
		r.start(t, src)
		return
	}
	r.drop(t)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Most of these are pxelinux looking for its configuration under ever shorter names.
		q.refuse(slog.LevelDebug, codeNotFound, "file not found", "not found")
	case errors.Is(err, os.ErrDeadlineExceeded):
		q.ignore(slog.LevelWarn, err.Error())
	case errors.Is(err, fs.ErrPermission):
		q.refuse(slog.LevelWarn, codeAccess, "access denied", err.Error())
	default:
		q.refuse(slog.LevelWarn, codeOther, "cannot read file", err.Error())
	}
}

// refuse tells the client text, and the log the reason.
func (q *question) refuse(level slog.Level, code uint16, text, reason string) {
	q.stats.refused.Add(1)
	q.log.Log(q.ctx, level, "refused", "reason", reason)
	q.say(q.from, q.in.local, errorPacket(code, text))
}

// ignore refuses without a word to the client.
func (q *question) ignore(level slog.Level, reason string) {
	q.stats.refused.Add(1)
	q.log.Log(q.ctx, level, "refused", "reason", reason)
}

// say sends a packet that belongs to no transfer.
func (s *serving) say(to netip.AddrPort, local netip.Addr, p []byte) {
	r := s.reactors[reactorOf(keyOf(to), len(s.reactors))]
	r.mu.Lock()
	defer r.unlock()
	r.say(to, local, p)
}
