package nfs

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// firstTimeout is how long a new connection may be silent; idleTimeout is for one that has spoken, and longer than the five
	// minutes after which Linux closes an idle one itself. A client that is cut off connects again, nothing is lost.
	firstTimeout = time.Minute
	idleTimeout  = 15 * time.Minute

	// Replies are collected up to flushSize while more calls are waiting.
	flushSize = 64 << 10
	// coldMax reads of one connection may wait for the disk at once.
	coldMax = 16
)

// writeBuffer is room for replies, as long as calls are being answered.
type writeBuffer [2 * flushSize]byte

// conn is one client connection. Everything but w and cold belongs to the goroutine in serve.
type conn struct {
	s        *Server
	client   netip.Addr
	programs []program
	nc       net.Conn
	in       records
	out      []byte       // replies that are not sent yet
	room     *writeBuffer // what out lies in, unless that had to grow
	q        call
	export   *export // the one used last
	deadline time.Time
	stage    string // the one told last
	spoken   bool
	sent     bool // something, by this goroutine, since the last piece came
	io       fileReader

	// Of the call being answered:
	start  int    // where its reply starts in out
	status uint32 // nfsstat3 or mountstat3, for the counters
	taken  bool   // the procedure sent the reply, or lets another goroutine send it
	timed  watch
	err    error // of sending

	w    wire
	cold chan struct{}
	wg   sync.WaitGroup
}

func newConn(s *Server, nc net.Conn, client netip.Addr, programs []program) *conn {
	c := &conn{s: s, nc: nc, client: client, programs: programs, cold: make(chan struct{}, coldMax)}
	c.io.init()
	c.w.init(nc, &s.readRooms)
	c.deadline = time.Now().Add(firstTimeout)
	nc.SetReadDeadline(c.deadline)
	return c
}

// serve answers calls until the connection ends.
func (c *conn) serve() {
	defer c.wg.Wait()
	defer c.nc.Close()
	c.w.receive(c.take) // however it ends, the client connects again
}

// take answers the calls that end in what was just read. on is false when the connection has to end.
func (c *conn) take(p []byte) (on, sent bool) {
	c.sent = false
	c.busy()
	defer c.idle()
	c.in.add(p)
	for {
		rec, ok, err := c.in.next()
		switch {
		case err != nil:
			c.refused("", err.Error()+"; connection closed")
			return false, c.sent
		case !ok:
			if c.flush() != nil {
				return false, c.sent
			}
			c.prolong()
			return true, c.sent
		}
		if !c.answer(rec) || len(c.out) >= flushSize && c.flush() != nil {
			return false, c.sent
		}
	}
}

// prolong moves the deadline on when half of it has passed.
func (c *conn) prolong() {
	if now := time.Now(); c.spoken && c.deadline.Sub(now) < idleTimeout/2 {
		c.deadline = now.Add(idleTimeout)
		c.nc.SetReadDeadline(c.deadline)
	}
}

// flush sends what is collected.
func (c *conn) flush() error {
	c.w.mu.Lock()
	err := c.w.send(c.out, false)
	c.w.mu.Unlock()
	c.sent = c.sent || len(c.out) > 0
	c.out = c.out[:0]
	return err
}

// idle gives the room back before the client is waited for: hundreds of machines are connected, few ask at once.
func (c *conn) idle() {
	c.s.writeRooms.Put(c.room)
	c.room, c.out = nil, nil
}

// busy finds room for replies.
func (c *conn) busy() {
	room, ok := c.s.writeRooms.Get().(*writeBuffer)
	if !ok {
		room = new(writeBuffer)
	}
	c.room, c.out = room, room[:0]
}

// answer appends the reply to one record to c.out, or sees to it that it is sent later. It returns false when the connection has to end.
func (c *conn) answer(rec []byte) bool {
	q := &c.q
	v := parseCall(rec, q)
	if v != callOK {
		c.s.stats.errors.Add(1)
		c.out = refuse(c.out, q.xid, v)
		if v == callBroken && c.nc != nil {
			c.refused("", "a record is not a remote procedure call; connection closed")
		}
		return v != callBroken
	}
	c.spoken = true
	proc, prog, stat := lookupProc(c.programs, q)
	c.start, c.status, c.taken, c.err = len(c.out), nfsOK, false, nil
	c.out = beginAccepted(c.out, q.xid, stat)
	switch stat {
	case acceptSuccess:
		c.count(prog, q)
		body := len(c.out)
		ok := proc.run(c, q)
		if !ok {
			c.out = c.out[:body]
			putStat(c.out, acceptGarbageArgs)
		}
		if !ok || c.status != nfsOK && c.status != errNoEnt {
			c.s.stats.errors.Add(1)
		}
		c.timed.stop()
		if c.taken {
			return c.err == nil
		}
	case acceptProgMismatch:
		c.s.stats.errors.Add(1)
		c.out = put32(c.out, prog.version)
		c.out = put32(c.out, prog.version)
	default:
		c.s.stats.errors.Add(1)
	}
	c.out = endReply(c.out, c.start, 0)
	return true
}

// putStat overwrites the accept_stat at the end of a reply header.
func putStat(b []byte, stat uint32) {
	put32(b[:len(b)-4], stat)
}

func (c *conn) count(prog *program, q *call) {
	c.timed = watch{}
	if prog.number != progNFS {
		c.s.stats.other.Add(1)
	} else if n := c.s.stats.calls[q.proc].Add(1); n%sampleEvery == 1 {
		c.timed = watch{&c.s.stats.latencies[q.proc], time.Now()}
	}
}

func (c *conn) refused(path, reason string) {
	c.s.emit(Event{Kind: Refused, Client: c.client, Path: path, Reason: reason})
}
