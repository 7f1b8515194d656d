package tftp

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// admit puts a new transfer into the table of r. It does not when the request belongs to one that is there, or when its address has
// asked too often without ever answering; and with a reason when there are too many.
func (s *serving) admit(r *reactor, t *transfer) (ok bool, reason string) {
	r.mu.Lock()
	defer r.unlock()
	if r.closed {
		return false, ""
	}
	if old := r.transfers[t.key]; old != nil {
		if old.opening {
			return false, ""
		}
		a := restart
		if old.packet == t.packet || old.packet == "" && old.asked == t.asked { // the latter was taken over from another server
			a = old.repeated(t.start)
		}
		if a != restart {
			r.do(old, a)
			return false, ""
		}
		r.end(old, "the client began anew", true)
	}
	c := r.clients[t.client.Addr()]
	if c == nil {
		c = &tally{}
	}
	most, each := s.MaxTransfers, s.MaxPerClient
	if most == 0 {
		most = defaultTransfers
	}
	if each == 0 {
		each = defaultPerClient
	}
	switch {
	case c.fresh >= maxFreshPerClient && !t.client.Addr().IsLoopback(): // nobody forges loopback
		return false, ""
	case c.all >= each:
		return false, fmt.Sprintf("this client has %d transfers under way", c.all)
	}
	r.makeRoom()
	if int(s.stats.active.Load()) >= most {
		return false, fmt.Sprintf("%d transfers are under way", most)
	}
	r.enter(t)
	return true, ""
}

// start begins a transfer whose file is open.
func (r *reactor) start(t *transfer, src *source) {
	r.mu.Lock()
	defer r.unlock()
	t.src = src
	if r.closed {
		r.remove(t)
		return
	}
	t.opening = false
	t.begin(time.Now())
	r.transmit(t)
}

// drop forgets a transfer whose file could not be opened.
func (r *reactor) drop(t *transfer) {
	r.mu.Lock()
	defer r.unlock()
	r.remove(t)
}

// expect puts the transfers that another server left into the tables, and returns them.
func (s *serving) expect() []*transfer {
	if s.state == nil {
		return nil
	}
	var all []*transfer
	now := time.Now()
	for _, old := range s.state.load(now) {
		t := &transfer{key: keyOf(old.client), client: old.client, local: old.local, asked: old.name, terms: old.terms, netascii: old.netascii,
			gso: old.gso, start: old.start, acked: old.acked, opening: true, confirmed: true, slot: old.slot, to: newDestination(old.client, old.local),
			src: &source{size: old.size, id: old.id}}
		r := s.reactors[reactorOf(t.key, len(s.reactors))]
		if r.transfers[t.key] != nil || s.own(old.client.Port()) {
			s.state.remove(old.slot)
			continue
		}
		r.enter(t)
		all = append(all, t)
	}
	return all
}

// resume goes on with the transfers that another server left: at once where the client is known, and beside the others where it has to be
// waited for, because it may have gone away meanwhile.
func (s *serving) resume(all []*transfer) {
	for _, t := range all {
		if s.knows(t.client.Addr(), t.local) {
			s.resumeOne(t)
		} else {
			s.fetchers.Go(func() { s.resumeOne(t) })
		}
	}
}

func (s *serving) resumeOne(t *transfer) {
	r := s.reactors[reactorOf(t.key, len(s.reactors))]
	was := t.src
	clean, err := Clean(t.asked)
	var src *source
	if err == nil {
		src, err = s.files.get(s.FS(t.client.Addr(), t.local), clean, t.netascii)
	}
	if err == nil && (src.size != was.size || src.id != was.id) {
		s.files.put(src)
		src, err = nil, errors.New("the file is another one now")
	}
	r.mu.Lock()
	defer r.unlock()
	t.opening = false
	switch {
	case r.closed:
		s.files.put(src)
	case err != nil:
		r.say(t.client, t.local, errorPacket(codeOther, "the file changed, ask again"))
		r.end(t, "the server was restarted: "+err.Error(), false)
	default:
		t.src = src
		t.resume(time.Now(), t.acked)
		r.events = append(r.events, event{slog.LevelInfo, "resumed", []any{"client", t.client.Addr().String(), "file", clip(t.asked, maxEventName), "bytes", t.bytes()}})
		r.transmit(t)
	}
}
