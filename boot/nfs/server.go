package nfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"netroot/boot/crowd"
)

const mountsMax = 4096

// A Server answers for Exports. It has no state that a client depends on.
type Server struct {
	Exports Exports
	// Admit is asked for each connection, and by the portmapper for each datagram, with the address at this machine that the
	// client talks to. An error, which is the reason, refuses the client; a nil Admit admits everybody.
	Admit func(client, local netip.Addr) error
	// Known tells whether Admit returns at once. The portmapper looks at the datagrams of others beside the rest, and forgets them
	// when there are too many, so that forged addresses keep no client waiting that is known; nil means all are known.
	Known func(client, local netip.Addr) bool
	Log   *slog.Logger // one record per event; nil is silent
	Event func(Event)  // called for each event, from many goroutines; may be nil

	stats                 counters
	mounts                mountList
	refusals              quota
	readRooms, writeRooms sync.Pool // of *readBuffer and *writeBuffer
}

// Kinds of events.
const (
	Mount   = "mount"
	Unmount = "unmount"
	Stage   = "stage"   // a machine told how far its boot has come
	Refused = "refused" // something was not done; Reason says why. At most ten in a second are told of one client
)

// An Event is something an administrator wants to know of. Reads and other calls are only counted.
type Event struct {
	Kind   string
	Client netip.Addr
	Path   string        // mount, unmount: as the client gave it
	Image  string        // mount, stage: the export without its slash
	Stage  string        // stage
	Up     time.Duration // stage: since the machine's kernel started
	Reason string        // refused
}

func (s *Server) emit(e Event) {
	if e.Kind == Refused && !s.refusals.take(e.Client, time.Now()) {
		return
	}
	if s.Log != nil {
		attrs := []slog.Attr{slog.String("service", "nfs"), slog.String("client", e.Client.String())}
		for _, a := range []slog.Attr{
			slog.String("path", e.Path), slog.String("image", e.Image), slog.String("stage", e.Stage), slog.String("reason", e.Reason),
		} {
			if a.Value.String() != "" {
				attrs = append(attrs, a)
			}
		}
		if e.Kind == Stage {
			attrs = append(attrs, slog.Float64("up", e.Up.Seconds()))
		}
		level := slog.LevelInfo
		if e.Kind == Refused {
			level = slog.LevelWarn
		}
		s.Log.LogAttrs(context.Background(), level, e.Kind, attrs...)
	}
	if s.Event != nil {
		s.Event(e)
	}
}

// counters are what Stats shows.
type counters struct {
	conns, accepted  atomic.Int64
	calls            [len(nfsNames)]atomic.Uint64
	latencies        [len(nfsNames)]latency
	other            atomic.Uint64
	errors           atomic.Uint64
	readBytes, stale atomic.Uint64
	cold             atomic.Uint64
}

// Stats are counted since the start of the server.
type Stats struct {
	Connections int               // open now
	Accepted    int64             // ever
	Calls       map[string]uint64 // by NFS procedure, and "OTHER" for MOUNT and the portmapper
	Errors      uint64            // replies with any status but NFS3_OK and NFS3ERR_NOENT, and calls that were not understood
	Stale       uint64            // handles of images that are not here
	ReadBytes   uint64            // file data sent
	ColdReads   uint64            // READ calls that waited for the disk
	Latencies   map[string]Latency
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	c := &s.stats
	st := Stats{
		Connections: int(c.conns.Load()), Accepted: c.accepted.Load(), Calls: map[string]uint64{"OTHER": c.other.Load()},
		Errors: c.errors.Load(), Stale: c.stale.Load(), ReadBytes: c.readBytes.Load(), ColdReads: c.cold.Load(),
	}
	st.Latencies = map[string]Latency{}
	for i, name := range nfsNames {
		st.Calls[name] = c.calls[i].Load()
		if l := c.latencies[i].load(); l.Count > 0 {
			st.Latencies[name] = l
		}
	}
	return st
}

// Serve answers NFS and MOUNT calls on every connection of l until ctx ends, then closes l and all connections and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, l, []program{nfsProgram(), mountProgram(), aclProgram()})
}

func (s *Server) serve(ctx context.Context, l net.Listener, programs []program) error {
	var (
		wg   sync.WaitGroup
		open crowd.Crowd
	)
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		open.Close()
	})
	defer wg.Wait()
	defer open.Close()
	defer stop()
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() { // out of descriptors: others will end
				s.emit(Event{Kind: Refused, Reason: "accept: " + err.Error()})
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			return fmt.Errorf("accept: %w", err)
		}
		client := addrOf(nc.RemoteAddr())
		if reason := open.Add(nc, client); reason != "" {
			s.emit(Event{Kind: Refused, Client: client, Reason: reason})
			nc.Close()
			continue
		}
		s.stats.accepted.Add(1)
		s.stats.conns.Add(1)
		wg.Go(func() {
			defer s.stats.conns.Add(-1)
			defer open.Remove(nc)
			if !s.admit(client, addrOf(nc.LocalAddr())) {
				nc.Close()
				return
			}
			newConn(s, nc, client, programs).serve()
		})
	}
}

// admit tells whether a client may go on; when not, it has been said why.
func (s *Server) admit(client, local netip.Addr) bool {
	if s.Admit == nil {
		return true
	}
	err := s.Admit(client, local)
	if err != nil {
		s.emit(Event{Kind: Refused, Client: client, Reason: err.Error()})
	}
	return err == nil
}

func addrOf(a net.Addr) netip.Addr {
	if ap, err := netip.ParseAddrPort(a.String()); err == nil {
		return ap.Addr().Unmap()
	}
	return netip.Addr{}
}
