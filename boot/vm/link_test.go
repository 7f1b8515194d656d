package vm

import (
	"encoding/binary"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

func TestFate(t *testing.T) {
	for _, l := range []Link{
		{},
		{Delay: 300 * time.Millisecond},
		{Loss: 0.2},
		{Loss: 0.05, Duplicate: 0.1, Reorder: 0.3, Delay: time.Millisecond, Seed: 7},
	} {
		const n = 100_000
		random, again := rand.New(rand.NewPCG(l.Seed, 0)), rand.New(rand.NewPCG(l.Seed, 0))
		var lost, twice, late float64
		for range n {
			f := l.fate(random)
			if g := l.fate(again); len(g) != len(f) || len(f) > 0 && f[0] != g[0] {
				t.Fatalf("%s: the same seed gives %v and %v", l, f, g)
			}
			if len(f) == 0 {
				lost++
				continue
			}
			if len(f) == 2 {
				twice++
			}
			if f[0] < l.Delay || f[0] > l.Delay+latest {
				t.Fatalf("%s: a frame arrives after %s", l, f[0])
			}
			if f[0] > l.Delay {
				late++
			}
		}
		kept := 1 - l.Loss
		for _, c := range []struct {
			what      string
			got, want float64
		}{{"lost", lost, l.Loss}, {"twice", twice, kept * l.Duplicate}, {"late", late, kept * l.Reorder}} {
			if math.Abs(c.got/n-c.want) > 0.01 || c.want == 0 && c.got != 0 {
				t.Errorf("%s: %s %.3f, want %.3f", l, c.what, c.got/n, c.want)
			}
		}
	}
}

// end makes the end of a link and the socket that reaches it.
func end(t *testing.T) (*socketFrames, *socketFrames) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return newSocketFrames(near), newSocketFrames(far)
}

func TestLink(t *testing.T) {
	link := Link{Loss: 0.1, Duplicate: 0.1, Reorder: 0.1, Delay: 20 * time.Millisecond, Seed: 1}
	a, left := end(t)
	b, right := end(t)
	link.join(a, b)
	const n = 2000
	began := time.Now()
	go func() {
		for i := range n {
			if left.WriteFrame(binary.BigEndian.AppendUint32(make([]byte, 60), uint32(i))) != nil {
				return
			}
			if i%20 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(200 * time.Millisecond)
		left.Close()
	}()
	seen := map[uint32]int{}
	var first time.Duration
	var last uint32
	outOfOrder := 0
	for {
		frame, err := right.ReadFrame()
		if err == io.EOF {
			break // the other end is closed, and so is this one
		}
		if err != nil || len(frame) != 64 {
			t.Fatalf("%d bytes, %v", len(frame), err)
		}
		if len(seen) == 0 {
			first = time.Since(began)
		}
		i := binary.BigEndian.Uint32(frame[60:])
		if seen[i]++; i < last {
			outOfOrder++
		}
		last = max(last, i)
	}
	twice := 0
	for _, times := range seen {
		if times > 1 {
			twice++
		}
	}
	if first < link.Delay {
		t.Errorf("the first frame came after %s", first)
	}
	if lost := n - len(seen); lost < n/20 || lost > n/5 || twice < n/20 || twice > n/5 || outOfOrder < n/50 {
		t.Errorf("of %d frames %d were lost, %d came twice, %d out of order", n, lost, twice, outOfOrder)
	}
	if _, err := left.ReadFrame(); err == nil {
		t.Error("something came back")
	}
}
