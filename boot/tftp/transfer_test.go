package tftp

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func testTransfer(size int64, tm terms) *transfer {
	t := &transfer{client: netip.MustParseAddrPort("10.0.0.9:2070"), terms: tm, src: &source{size: size}, start: time.Unix(1000, 0)}
	t.begin(t.start)
	return t
}

func TestAcknowledgements(t *testing.T) {
	options := []byte{0, opOack}
	for name, c := range map[string]struct {
		size  int64
		terms terms
		acked int64 // where the transfer is
		acks  []uint16
		want  []action
		end   int64 // where it is then
	}{
		"options, then data":        {1000, terms{blksize: 512, window: 1, timeout: 0, oack: options}, -1, []uint16{0, 1, 2}, []action{send, send, finished}, 2},
		"a doubled one":             {5000, terms{blksize: 512, window: 1}, 0, []uint16{1, 1, 2, 1, 2}, []action{send, nothing, send, nothing, nothing}, 2},
		"before any was sent":       {5000, terms{blksize: 512, window: 1}, 0, []uint16{0, 2, 9, 65535}, []action{nothing, nothing, nothing, nothing}, 0},
		"options never doubled":     {5000, terms{blksize: 512, window: 4, oack: options}, -1, []uint16{65535, 0}, []action{nothing, send}, 0},
		"the number rolls over":     {100 << 20, terms{blksize: 512, window: 1}, 65534, []uint16{65535, 0, 1}, []action{send, send, send}, 65537},
		"rolls over in a window":    {100 << 20, terms{blksize: 512, window: 16}, 65530, []uint16{10}, []action{send}, 65546},
		"exactly whole blocks":      {1024, terms{blksize: 512, window: 1}, 0, []uint16{1, 2, 3}, []action{send, send, finished}, 3},
		"nothing in the file":       {0, terms{blksize: 512, window: 1}, 0, []uint16{1}, []action{finished}, 1},
		"a window":                  {10000, terms{blksize: 512, window: 8}, 0, []uint16{8, 16, 20}, []action{send, send, finished}, 20},
		"a gap in a window":         {10000, terms{blksize: 512, window: 8}, 0, []uint16{3, 11}, []action{send, send}, 11},
		"the window's first lost":   {10000, terms{blksize: 512, window: 8}, 8, []uint16{8, 8, 8, 16}, []action{send, nothing, nothing, send}, 16},
		"an old one in a window":    {10000, terms{blksize: 512, window: 8}, 8, []uint16{7, 0}, []action{nothing, nothing}, 8},
		"one that was not sent yet": {10000, terms{blksize: 512, window: 8}, 0, []uint16{9}, []action{nothing}, 0},
	} {
		tr := testTransfer(c.size, c.terms)
		now := tr.start.Add(time.Second)
		if c.acked > 0 || c.terms.oack == nil && c.terms.window > 1 {
			tr.resume(now, c.acked)
		}
		for i, n := range c.acks {
			now = now.Add(5 * time.Millisecond)
			if got := tr.ack(n, now); got != c.want[i] {
				t.Errorf("%s: acknowledgement %d of block %d: action %d, want %d", name, i, n, got, c.want[i])
			}
		}
		if tr.acked != c.end {
			t.Errorf("%s: ended at block %d, want %d", name, tr.acked, c.end)
		}
	}
}

func TestWaits(t *testing.T) {
	for name, c := range map[string]struct {
		confirmed bool
		rtts      []time.Duration
		timeout   int
		want      string // when each repetition is sent, after the one before
	}{
		"nobody has answered yet": {false, nil, 0, "500ms 1s 2s 4s"},
		"a quiet network":         {true, []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}, 0, "21ms 21ms 42ms 84ms 168ms 336ms 672ms 1.344s 2s 2s"},
		"300 ms away":             {true, []time.Duration{300 * time.Millisecond}, 0, "900ms 900ms 1.8s 2s"},
		"the client says 1 s":     {true, []time.Duration{300 * time.Millisecond}, 1, "900ms 900ms 1s 1s"},
		"the client says 255 s":   {true, []time.Duration{time.Millisecond}, 255, "21ms 21ms 42ms"},
	} {
		tr := testTransfer(1<<20, terms{blksize: 512, window: 1, timeout: c.timeout})
		tr.confirmed = c.confirmed
		for _, rtt := range c.rtts {
			tr.measured(rtt)
		}
		tr.sending(tr.start, 0)
		var got []string
		for range strings.Fields(c.want) {
			got = append(got, tr.deadline.Sub(tr.sentAt).String())
			tr.expire(tr.deadline)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
}

// A request with a forged address costs somebody at most this: the answer and three more, and then nothing.
func TestNobodyAnswers(t *testing.T) {
	tr := testTransfer(1<<20, terms{blksize: 512, window: 1})
	now, sent := tr.start, 1
	for tr.expire(now.Add(tr.wait())) == send {
		now = now.Add(tr.wait())
		sent++
	}
	if sent != 1+firstResends {
		t.Errorf("%d packets were sent, want %d", sent, 1+firstResends)
	}
}

func TestClientGoesSilent(t *testing.T) {
	tr := testTransfer(1<<20, terms{blksize: 512, window: 1})
	now := tr.start.Add(time.Millisecond)
	tr.ack(1, now)
	since := now
	for tr.expire(tr.deadline) == send {
		now = tr.deadline
	}
	if got := now.Sub(since); got < silence-maxWait || got > silence+maxWait {
		t.Errorf("given up after %v, want %v", got, silence)
	}
	tr = testTransfer(1<<20, terms{blksize: 512, window: 1})
	tr.ack(1, now)
	tr.gone = true
	if tr.expire(tr.deadline) != abandoned {
		t.Error("sends to a port where nobody listens")
	}
}

// A client that was told the size has all it wants before an empty last block; one that was not needs it.
func TestEmptyLastBlock(t *testing.T) {
	for _, c := range []struct {
		size  int64
		sized bool
		want  action
		sent  int
	}{{1024, true, finished, emptyResends}, {1024, false, abandoned, 0}, {1023, true, abandoned, 0}, {0, true, abandoned, 0}} {
		tr := testTransfer(c.size, terms{blksize: 512, window: 1, sized: c.sized})
		now := tr.start
		for n := uint16(1); int64(n) < tr.last; n++ {
			now = now.Add(time.Millisecond)
			tr.ack(n, now)
		}
		sent, got := 0, send
		tr.confirmed = true
		for got = tr.expire(tr.deadline); got == send; got = tr.expire(tr.deadline) {
			sent++
		}
		if got != c.want || c.sent != 0 && sent != c.sent {
			t.Errorf("%d bytes, size told %v: %d after %d repetitions, want %d", c.size, c.sized, got, sent, c.want)
		}
		if took := tr.deadline.Sub(now); (c.want == finished) != (took < 3*time.Second) {
			t.Errorf("%d bytes, size told %v: that took %s", c.size, c.sized, took)
		}
		if got == finished && tr.bytes() != c.size {
			t.Errorf("%d of %d bytes", tr.bytes(), c.size)
		}
	}
}

func TestRepeatedRequests(t *testing.T) {
	at := func(tr *transfer, d time.Duration) time.Time { return tr.sentAt.Add(d) }
	tr := testTransfer(5000, terms{blksize: 512, window: 1})
	if got := tr.repeated(at(tr, time.Millisecond)); got != nothing {
		t.Errorf("a request that the network doubled: action %d", got)
	}
	if got := tr.repeated(at(tr, 200*time.Millisecond)); got != send {
		t.Errorf("the client asks again: action %d", got)
	}
	tr.ack(1, at(tr, time.Millisecond))
	if got := tr.repeated(at(tr, 300*time.Millisecond)); got != nothing {
		t.Errorf("a request that comes late: action %d", got)
	}
	tr.ack(2, at(tr, 700*time.Millisecond))
	if got := tr.repeated(at(tr, pause)); got != restart {
		t.Errorf("a request after a pause: action %d", got)
	}
}

// A client as boot ROMs are: it acknowledges what it gets, also what it got before, and repeats that when nothing comes.
type simulated struct {
	acked   int64
	in      int // blocks of the present window
	heard   time.Time
	packets int // data packets that the server sent
}

// simulate runs a transfer over a network that loses and doubles packets, in no time, and returns how long it would have taken.
func simulate(t *testing.T, tr *transfer, loss, double float64, rtt time.Duration) (time.Duration, *simulated) {
	t.Helper()
	r := rand.New(rand.NewPCG(7, uint64(loss*1000)))
	type packet struct {
		at       time.Time
		toServer bool
		block    int64
	}
	var wire []packet
	start := tr.start
	now := start
	c := &simulated{heard: now}
	put := func(toServer bool, block int64) {
		for range 2 {
			if r.Float64() >= loss {
				wire = append(wire, packet{now.Add(rtt / 2), toServer, block})
			}
			if r.Float64() >= double {
				break
			}
		}
	}
	do := func(a action) bool {
		switch a {
		case send:
			if tr.acked < 0 {
				put(false, 0)
				break
			}
			for b := tr.acked + 1; b <= tr.sent; b++ {
				c.packets++
				put(false, b)
			}
		case abandoned:
			t.Fatalf("abandoned at block %d of %d", tr.acked, tr.last)
		case finished:
			return true
		}
		return false
	}
	c.acked = tr.acked
	do(send)
	for step := 0; ; step++ {
		if step > 5e6 || now.Sub(start) > time.Hour {
			t.Fatalf("still at block %d of %d after %v", tr.acked, tr.last, now.Sub(start))
		}
		next := tr.deadline
		if again := c.heard.Add(time.Second); again.Before(next) {
			next = again
		}
		i := -1
		for k, p := range wire {
			if p.at.Before(next) || i < 0 && p.at.Equal(next) {
				next, i = p.at, k
			}
		}
		now = next
		switch {
		case i >= 0:
			p := wire[i]
			wire = append(wire[:i], wire[i+1:]...)
			if p.toServer {
				if do(tr.ack(uint16(p.block), now)) {
					return now.Sub(start), c
				}
				continue
			}
			c.heard = now
			if p.block == c.acked+1 {
				c.acked++
				if c.in++; c.in < tr.window && c.acked < tr.last && c.acked > 0 {
					continue
				}
			}
			c.in = 0
			put(true, c.acked)
		case now.Equal(tr.deadline):
			do(tr.expire(now))
		default:
			c.heard, c.in = now, 0
			put(true, c.acked)
		}
	}
}

func TestLossDoublingAndDelay(t *testing.T) {
	oack := []byte{0, opOack}
	for name, c := range map[string]struct {
		size         int64
		terms        terms
		loss, double float64
		rtt          time.Duration
		most         time.Duration
		packets      float64 // data packets for each block, at most
	}{
		"quiet":                         {8 << 20, terms{blksize: 1428, window: 1, oack: oack}, 0, 0, 300 * time.Microsecond, 2 * time.Second, 1},
		"every packet twice":            {8 << 20, terms{blksize: 1428, window: 1, oack: oack}, 0, 1, 300 * time.Microsecond, 2 * time.Second, 1},
		"1 % lost":                      {8 << 20, terms{blksize: 1428, window: 1, oack: oack}, 0.01, 0, 300 * time.Microsecond, 6 * time.Second, 1.03},
		"5 % lost":                      {8 << 20, terms{blksize: 1428, window: 1, oack: oack}, 0.05, 0.01, 300 * time.Microsecond, 20 * time.Second, 1.15},
		"20 % lost, 27 MB":              {27 << 20, terms{blksize: 1428, window: 1, oack: oack}, 0.2, 0.05, 300 * time.Microsecond, 6 * time.Minute, 1.7},
		"20 % lost, window":             {8 << 20, terms{blksize: 1428, window: 16, oack: oack}, 0.2, 0.05, 300 * time.Microsecond, 2 * time.Minute, 5},
		"300 ms away":                   {1 << 20, terms{blksize: 1428, window: 1, oack: oack}, 0, 0, 300 * time.Millisecond, 4 * time.Minute, 1},
		"300 ms away, window, 5 % lost": {8 << 20, terms{blksize: 1428, window: 64, oack: oack}, 0.05, 0, 300 * time.Millisecond, 3 * time.Minute, 4},
	} {
		took, client := simulate(t, testTransfer(c.size, c.terms), c.loss, c.double, c.rtt)
		perBlock := float64(client.packets) / float64(c.size/int64(c.terms.blksize)+1)
		t.Logf("%-30s %8.1f s, %.2f packets a block", name, took.Seconds(), perBlock)
		if took > c.most || perBlock > c.packets {
			t.Errorf("%s: took %v, want %v; %.2f packets a block, want %.2f", name, took, c.most, perBlock, c.packets)
		}
	}
}
