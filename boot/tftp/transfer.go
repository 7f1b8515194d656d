package tftp

import (
	"encoding/binary"
	"net/netip"
	"time"
)

const (
	// Before a round trip was measured, an answer is sent again after firstWait, then twice that and so on; and never more than
	// firstResends times, because the request may carry the address of somebody who never asked (RFC 1123, section 4.2.3.4 on
	// timeouts that adapt; a client that lives asks again itself).
	firstWait    = 500 * time.Millisecond
	firstResends = 3
	// pxelinux, which knows the size, never acknowledges a last block that is empty: so often it is sent again before that is taken for
	// the end. Whoever waits for it on a network that loses one packet in five misses it once in a thousand times.
	emptyResends = 6
	minWait      = 20 * time.Millisecond // a boot ROM on a quiet network takes 0.3 ms
	maxWait      = 2 * time.Second
	resumeWait   = 100 * time.Millisecond
	pause        = 3 * time.Second
	minGap       = 4 * time.Millisecond // between two windows, before a round trip was measured
	// A client that says nothing for so long is gone. A server that was killed has to be back by then.
	silence = 30 * time.Second
)

// A transfer is one file on its way to one client. Its methods decide what happens next; they move no packets.
//
// Blocks count from 1; the acknowledgement of options is block 0. On the wire a number has 16 bits and rolls over to 0.
type transfer struct {
	key    uint64
	client netip.AddrPort
	local  netip.Addr
	asked  string // the name as the client wrote it
	packet string // the whole request
	terms
	netascii bool
	gso      bool // many blocks as one message
	src      *source
	last     int64 // number of the last block, which is shorter than the others
	start    time.Time

	acked     int64 // the client has all up to here; -1: not even the options
	sent      int64 // the last block of the present window
	next      int64 // the first one of it that was not put on its way yet
	confirmed bool  // the client has answered: its address is not forged
	heard     time.Time
	sentAt    time.Time
	deadline  time.Time
	tries     int  // how often the present window was sent again
	fast      bool // the present window was already sent again because the client asked
	gone      bool // the client's machine said that nobody listens there

	srtt, rttvar, rto time.Duration

	// What the reactor keeps with it.
	index    int    // in its list
	opening  bool   // the file is being opened; packets are ignored
	fetching bool   // the disk has to be waited for
	held     []byte // what was fetched, and from where on
	heldFrom int64
	failed   error // why the last packet could not be sent
	slot     *slot
	to       destination
}

// begin sets a transfer to its start.
func (t *transfer) begin(now time.Time) {
	t.last = t.src.size/int64(t.blksize) + 1
	t.acked, t.sent = 0, 1
	if t.oack != nil {
		t.acked, t.sent = -1, 0
	}
	t.confirmed, t.heard, t.rto = false, now, firstWait
	t.sending(now, 0)
}

// resume sets a transfer to where another server left it.
func (t *transfer) resume(now time.Time, acked int64) {
	t.last = t.src.size/int64(t.blksize) + 1
	t.acked = acked
	t.confirmed, t.heard, t.rto = true, now, resumeWait
	t.advance()
	t.sending(now, 1)
}

// advance takes the window that follows the last acknowledgement.
func (t *transfer) advance() { t.sent = min(t.acked+int64(t.window), t.last) }

// sending notes that the present window goes out from its beginning, for the tries-th time again.
func (t *transfer) sending(now time.Time, tries int) {
	t.tries, t.next = tries, t.acked+1
	t.delayed(now)
}

// delayed notes that the window, or the rest of it, goes out only now.
func (t *transfer) delayed(now time.Time) {
	t.sentAt = now
	t.deadline = now.Add(t.wait())
}

// wait is how long to wait for an acknowledgement.
func (t *transfer) wait() time.Duration {
	most := maxWait
	if t.timeout > 0 {
		most = min(most, time.Duration(t.timeout)*time.Second)
	}
	if !t.confirmed {
		return t.rto
	}
	return min(t.rto, most)
}

// measured takes a round trip into account (RFC 6298, section 2).
func (t *transfer) measured(rtt time.Duration) {
	if t.srtt == 0 {
		t.srtt, t.rttvar = max(rtt, 1), rtt/2
	} else {
		t.rttvar += ((t.srtt - rtt).Abs() - t.rttvar) / 4
		t.srtt += (rtt - t.srtt) / 8
	}
	t.rto = t.usual()
}

func (t *transfer) usual() time.Duration { return t.srtt + max(4*t.rttvar, minWait) }

// What a transfer wants done.
type action int

const (
	nothing action = iota
	send           // the blocks after acked up to sent, or the options
	finished
	abandoned // the client is gone
	restart   // the client begins again
)

// ack takes an acknowledgement. One that says nothing new is never answered, or else each packet that the network doubles
// would double the rest of the transfer (the Sorcerer's Apprentice, RFC 1123, section 4.2.3.1), with one exception: with a
// window, a client that missed the first block of it repeats the acknowledgement before (RFC 7440, section 4), and that is
// answered once. Many clients acknowledge every block that they did not expect, so of a bunch of these only the first counts.
func (t *transfer) ack(n uint16, now time.Time) action {
	d := int64(n - uint16(t.acked))
	if d > t.sent-t.acked {
		return nothing
	}
	t.heard, t.gone = now, false
	whole := d == t.sent-t.acked
	bunch := now.Sub(t.sentAt) < max(t.srtt, minGap)/2
	if d == 0 {
		if t.window == 1 || t.fast || t.acked < 0 || bunch {
			return nothing
		}
		t.fast = true
		t.sending(now, t.tries)
		return send
	}
	switch took := now.Sub(t.sentAt); {
	case t.tries == 0 && !t.fast && (whole || !bunch && t.srtt == 0):
		t.measured(took)
	case t.srtt > 0 && took < t.usual(): // nobody knows which sending it answers (Karn), but a long wait was not called for
		t.rto = t.usual()
	}
	t.confirmed = true
	t.acked += d
	switch {
	case t.acked == t.last:
		return finished
	case !whole && bunch:
		t.next = max(t.next, t.acked+1)
		return nothing
	}
	t.fast = false
	t.advance()
	t.sending(now, 0)
	return send
}

// expire is called when the deadline is over.
func (t *transfer) expire(now time.Time) action {
	switch {
	case t.whole() && (t.gone || t.tries >= emptyResends):
		return finished
	case t.gone, t.confirmed && now.Sub(t.heard) > silence, !t.confirmed && t.tries >= firstResends:
		return abandoned
	}
	// The first repetition does not wait longer yet: with one packet in flight there is no queue to drain, and on a lossy network
	// this is what most time goes to. What was waited last stays until a round trip is measured.
	if t.tries > 0 || !t.confirmed {
		t.rto = min(2*t.rto, 2*maxWait)
	}
	if t.acked >= 0 && t.confirmed {
		t.advance()
	}
	t.sending(now, t.tries+1)
	return send
}

// repeated is called when the request comes again, word for word. Before the client has anything, the answer was lost. While the
// transfer goes on it is a packet that was late, and answering it would break the transfer: a server that is slow to answer, because
// a whole room asks at once, finds each request several times in its queue. After a pause the client has started anew.
func (t *transfer) repeated(now time.Time) action {
	switch {
	case !t.confirmed:
		if now.Sub(t.sentAt) < minWait/2 {
			return nothing // the network doubled it
		}
		t.sending(now, t.tries)
		return send
	case now.Sub(t.heard) < pause:
		return nothing
	}
	return restart
}

// whole tells that the client has every byte and knows that, and lacks only the empty block after them.
func (t *transfer) whole() bool {
	return t.sized && t.acked == t.last-1 && t.src.size > 0 && t.bytes() == t.src.size
}

// bytes is how much the client has.
func (t *transfer) bytes() int64 {
	return min(max(t.acked, 0)*int64(t.blksize), t.src.size)
}

// lengthOf returns the length of a block and where it is in the file.
func (t *transfer) lengthOf(block int64) (off int64, n int) {
	off = (block - 1) * int64(t.blksize)
	return off, int(min(int64(t.blksize), t.src.size-off))
}

// putHeader writes the header of a data packet.
func putHeader(p []byte, block int64) {
	binary.BigEndian.PutUint16(p, opData)
	binary.BigEndian.PutUint16(p[2:], uint16(block))
}
