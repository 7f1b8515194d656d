package tftp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Requests of one address, and in all, that were answered and not yet heard of again. A forged request makes a server send to
	// somebody who never asked; this bounds how much.
	maxFreshPerClient = 64
	maxFresh          = 2048
	// An ended transfer is remembered for so long: what is still on its way is not answered.
	remembered    = 10 * time.Second
	maxRemembered = 8192
	// Errors for acknowledgements that belong to nothing, a second.
	unknownRate = 50
	tick        = 10 * time.Millisecond
)

// A reactor has a part of the clients, a socket that only they reach, and a thread that answers them.
type reactor struct {
	s    *serving
	sock *socket

	mu        sync.Mutex
	transfers map[uint64]*transfer
	active    []*transfer // the same, to go through quickly
	clients   map[netip.Addr]*tally
	fresh     []*transfer // unconfirmed ones, the oldest first; some that no longer are
	nfresh    int
	ended     map[uint64]time.Time
	unknown   int
	unknownAt time.Time
	closed    bool
	events    []event
}

// A tally counts the transfers of one address.
type tally struct{ all, fresh int }

// An event is logged when the lock is free again: a log may be slow.
type event struct {
	level slog.Level
	msg   string
	attrs []any
}

func newReactor(s *serving, sock *socket) *reactor {
	return &reactor{s: s, sock: sock, transfers: map[uint64]*transfer{}, clients: map[netip.Addr]*tally{}, ended: map[uint64]time.Time{}}
}

// unlock sends what is queued, gives the lock back and logs.
func (r *reactor) unlock() {
	if r.sock.n > 0 && !r.closed {
		r.sock.flush()
	}
	events := r.events
	r.events = nil
	r.mu.Unlock()
	for _, e := range events {
		r.s.log.Log(r.s.ctx, e.level, e.msg, e.attrs...)
	}
}

// run answers packets until the socket is shut.
func (r *reactor) run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		n, errno := r.sock.receive()
		r.mu.Lock()
		if r.closed {
			r.unlock()
			return nil
		}
		now := time.Now()
		for i := range n {
			r.packet(now, i)
		}
		switch errno {
		case 0, unix.EINTR:
		case unix.EBADF, unix.ENOTSOCK, unix.EINVAL, unix.EFAULT:
			r.unlock()
			return fmt.Errorf("receive: %w", errno)
		default: // about a packet that was sent
			r.sock.refusals(func(key uint64) {
				if t := r.transfers[key]; t != nil {
					t.gone = true
				}
			})
		}
		r.unlock()
	}
}

func (r *reactor) packet(now time.Time, i int) {
	from, p := r.sock.packet(i)
	if len(p) < 4 || p[0] != 0 {
		return
	}
	t := r.transfers[from]
	if t == nil {
		if p[1] == opAck {
			r.stranger(now, from)
		}
		return
	}
	if t.opening {
		return
	}
	switch p[1] {
	case opAck:
		was := t.confirmed
		todo := t.ack(uint16(p[2])<<8|uint16(p[3]), now)
		if t.confirmed && !was {
			r.confirm(t, now)
		}
		if todo != nothing {
			t.slot.progress(t.acked, now)
		}
		r.do(t, todo)
	case opError:
		r.end(t, fmt.Sprintf("the client says: %s", clip(string(p[4:]), maxErrorText)), true)
	}
}

// confirm notes that a client has answered.
func (r *reactor) confirm(t *transfer, now time.Time) {
	r.nfresh--
	r.clients[t.client.Addr()].fresh--
	t.slot = r.s.state.add(t, now)
}

// stranger tells a client that its transfer is not known, once the server was restarted without its state (RFC 1350, section 4).
func (r *reactor) stranger(now time.Time, key uint64) {
	if at, ok := r.ended[key]; ok && now.Sub(at) < remembered {
		return
	}
	if now.Sub(r.unknownAt) >= time.Second {
		r.unknown, r.unknownAt = 0, now
	}
	if r.unknown++; r.unknown > unknownRate {
		return
	}
	a := [4]byte{byte(key >> 40), byte(key >> 32), byte(key >> 24), byte(key >> 16)}
	r.say(netip.AddrPortFrom(netip.AddrFrom4(a), uint16(key)), netip.IPv4Unspecified(), errorPacket(codeUnknown, "no such transfer"))
}

// say sends a packet that belongs to no transfer.
func (r *reactor) say(to netip.AddrPort, local netip.Addr, p []byte) {
	if r.s.own(to.Port()) {
		return
	}
	d := newDestination(to, local)
	copy(r.sock.room(len(p)), p)
	r.sock.add(&d, nil, len(p), 0)
}

func (r *reactor) do(t *transfer, a action) {
	switch a {
	case send:
		r.transmit(t)
	case finished:
		r.end(t, "", false)
	case abandoned:
		reason := "the client does not answer"
		switch {
		case t.gone:
			reason = "nobody listens at the client's port any more"
		case t.failed != nil:
			reason = "send: " + t.failed.Error()
		case t.acked == t.last-1 && t.confirmed:
			reason = "the client did not acknowledge the last block"
		}
		r.end(t, reason, false)
	}
}

// transmit queues the present window.
func (r *reactor) transmit(t *transfer) {
	t.failed = nil
	if t.fetching {
		return
	}
	if t.acked < 0 {
		n := copy(r.sock.room(len(t.oack)), t.oack)
		r.sock.add(&t.to, t, n, 0)
		return
	}
	packets, total := 0, 0
	for t.next <= t.sent {
		block := t.next
		blocks := 1
		if t.gso {
			blocks = int(max(min(t.sent+1-block, maxSegments, maxGSO/int64(header+t.blksize)), 1))
		}
		off, _ := t.lengthOf(block)
		_, last := t.lengthOf(block + int64(blocks) - 1)
		data := (blocks-1)*t.blksize + last
		p := r.sock.room(blocks*header + data)
		// All data is read behind where the headers will be, then each block moves to its place.
		body := p[blocks*header:]
		if !t.read(body, off) {
			r.fetch(t, off, data)
			break
		}
		for i := range blocks {
			at := i * (header + t.blksize)
			end := min((i+1)*t.blksize, data)
			copy(p[at+header:], body[i*t.blksize:end])
			putHeader(p[at:], block+int64(i))
		}
		segment := 0
		if blocks > 1 {
			segment = header + t.blksize
		}
		r.sock.add(&t.to, t, len(p), segment)
		packets += blocks
		total += data
		t.next += int64(blocks)
	}
	r.s.stats.bytes.Add(uint64(total))
	if t.tries > 0 || t.fast {
		r.s.stats.retransmits.Add(uint64(packets))
	}
}

// read takes data from what was fetched, or from where nothing has to be waited for.
func (t *transfer) read(p []byte, off int64) bool {
	if from := off - t.heldFrom; t.held != nil && from >= 0 && from+int64(len(p)) <= int64(len(t.held)) {
		copy(p, t.held[from:])
		return true
	}
	t.held = nil
	return t.src.readNow(p, off)
}

// fetch gets data from a disk on another thread, and sends it then.
func (r *reactor) fetch(t *transfer, off int64, n int) {
	t.fetching = true
	src := t.src
	r.s.files.hold(src)
	r.s.stats.cold.Add(1)
	r.s.fetchers.Go(func() {
		r.s.disk <- struct{}{}
		held, err := src.fetch(off, n)
		<-r.s.disk
		r.s.files.put(src)
		r.mu.Lock()
		defer r.unlock()
		if r.closed || r.transfers[t.key] != t {
			return
		}
		t.fetching = false
		if err != nil {
			r.say(t.client, t.local, errorPacket(codeOther, "cannot read file"))
			r.end(t, "read: "+err.Error(), false)
			return
		}
		t.held, t.heldFrom = held, off
		t.delayed(time.Now())
		r.transmit(t)
	})
}

// end removes a transfer and tells how it ended: with a reason, or well. A client that wanted to know the size only, or changed its
// mind at the very beginning, did nothing wrong.
func (r *reactor) end(t *transfer, reason string, byClient bool) {
	if !t.opening {
		attrs := []any{"client", t.client.Addr().String(), "file", clip(t.asked, maxEventName)}
		took := time.Since(t.start).Seconds()
		switch {
		case reason == "":
			r.s.stats.reads.Add(1)
			r.events = append(r.events, event{slog.LevelInfo, "read", append(attrs, "bytes", t.src.size, "seconds", took)})
		case byClient && t.bytes() == 0:
			r.s.stats.probes.Add(1)
			r.events = append(r.events, event{slog.LevelDebug, "probe", append(attrs, "reason", reason)})
		default:
			r.s.stats.aborted.Add(1)
			r.events = append(r.events, event{slog.LevelInfo, "aborted", append(attrs, "bytes", t.bytes(), "seconds", took, "reason", reason)})
		}
	}
	r.remove(t)
	if len(r.ended) < maxRemembered {
		r.ended[t.key] = time.Now()
	}
}

// enter puts a transfer into the table, where it is opening until its file is open.
func (r *reactor) enter(t *transfer) {
	t.index = len(r.active)
	r.active = append(r.active, t)
	r.transfers[t.key] = t
	delete(r.ended, t.key)
	c := r.clients[t.client.Addr()]
	if c == nil {
		c = &tally{}
		r.clients[t.client.Addr()] = c
	}
	c.all++
	if !t.confirmed {
		c.fresh++
		r.nfresh++
		r.fresh = append(r.fresh, t)
	}
	r.s.count(1)
}

func (r *reactor) remove(t *transfer) {
	last := len(r.active) - 1
	r.active[t.index] = r.active[last]
	r.active[t.index].index = t.index
	r.active[last] = nil
	r.active = r.active[:last]
	delete(r.transfers, t.key)
	c := r.clients[t.client.Addr()]
	if !t.confirmed {
		c.fresh--
		r.nfresh--
	}
	if c.all--; c.all == 0 {
		delete(r.clients, t.client.Addr())
	}
	r.s.state.remove(t.slot)
	t.slot = nil
	r.s.files.put(t.src)
	t.src, t.held = nil, nil // others may still point to it
	r.s.count(-1)
}

// makeRoom ends the oldest unconfirmed transfer when there are too many: its request was probably forged, and otherwise comes again.
func (r *reactor) makeRoom() {
	for r.nfresh >= maxFresh/len(r.s.reactors) && len(r.fresh) > 0 {
		t := r.fresh[0]
		r.fresh[0] = nil
		r.fresh = r.fresh[1:]
		if r.transfers[t.key] == t && !t.confirmed && !t.opening {
			r.end(t, "too many requests whose clients do not answer", false)
		}
	}
	if len(r.fresh) > 2*maxFresh {
		var still []*transfer
		for _, t := range r.fresh {
			if r.transfers[t.key] == t && !t.confirmed {
				still = append(still, t)
			}
		}
		r.fresh = still
	}
}

// expire sends again what was not answered in time.
func (r *reactor) expire(now time.Time) {
	r.mu.Lock()
	defer r.unlock()
	for i := len(r.active) - 1; i >= 0; i-- { // one that ends is replaced by one that was looked at
		if t := r.active[i]; !t.opening && !t.fetching && !now.Before(t.deadline) {
			r.do(t, t.expire(now))
		}
	}
	for key, at := range r.ended {
		if now.Sub(at) >= remembered {
			delete(r.ended, key)
		}
	}
}

// shut ends the thread. Transfers whose state is kept go on with the next server; the others are told.
func (r *reactor) shut() {
	r.mu.Lock()
	for i := len(r.active) - 1; i >= 0 && r.s.state == nil; i-- {
		if t := r.active[i]; !t.opening { // else whoever opens it removes it
			r.say(t.client, t.local, errorPacket(codeOther, "the server is stopping"))
			r.end(t, "the server is stopping", false)
		}
	}
	r.sock.flush()
	r.closed = true
	r.unlock()
	r.sock.shut()
}
