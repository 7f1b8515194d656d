package vm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"
)

// Link is a bad cable between a machine and its network. Shares are of 1, and each direction has them on its own. The zero value
// is a good cable.
//
// The kernel's netem does the same and more, but not every kernel has it.
type Link struct {
	Loss      float64       // of the frames
	Duplicate float64       // come twice
	Reorder   float64       // come up to five milliseconds late, behind those that follow them
	Delay     time.Duration // of all, one way
	Seed      uint64        // the same seed and frames, the same losses
}

// String is what a test is called by.
func (l Link) String() string {
	return fmt.Sprintf("%g %% lost, %g %% twice, %g %% out of order, %s late", l.Loss*100, l.Duplicate*100, l.Reorder*100, l.Delay)
}

const (
	latest = 5 * time.Millisecond
	// maxFrame is an Ethernet frame with room for what the kernel's taps may add.
	maxFrame = 64 << 10
	// maxQueued bounds what a link with delay holds; what comes then is lost, as in a switch.
	maxQueued = 4096
)

// A fate is when each copy of a frame arrives, counted from when it was sent. A lost one has none.
func (l Link) fate(random *rand.Rand) []time.Duration {
	// As many random numbers for each frame, so that one share does not change the luck of the others.
	lost, twice, late, by := random.Float64(), random.Float64(), random.Float64(), random.Float64()
	if lost < l.Loss {
		return nil
	}
	delay := l.Delay
	if late < l.Reorder {
		delay += time.Millisecond + time.Duration(by*float64(latest-time.Millisecond))
	}
	if twice < l.Duplicate {
		return []time.Duration{delay, delay}
	}
	return []time.Duration{delay}
}

// frames is one end of a link. ReadFrame's result is valid until the next call.
type frames interface {
	ReadFrame() ([]byte, error)
	WriteFrame([]byte) error
	io.Closer
}

// join carries frames both ways, until one end is closed; then it closes the other.
func (l Link) join(a, b frames) {
	for i, way := range []struct{ from, to frames }{{a, b}, {b, a}} {
		go func() {
			l.carry(way.from, way.to, rand.New(rand.NewPCG(l.Seed, uint64(i))))
			way.from.Close()
			way.to.Close()
		}()
	}
}

type inTransit struct {
	frame []byte
	due   time.Time
}

// carry takes frames from one end to the other until that is over.
func (l Link) carry(from, to frames, random *rand.Rand) {
	queue := make(chan inTransit, maxQueued)
	done := make(chan struct{})
	go func() {
		defer close(done)
		deliver(queue, to)
	}()
	defer func() { close(queue); <-done }()
	for {
		frame, err := from.ReadFrame()
		if err != nil {
			return
		}
		now := time.Now()
		for _, after := range l.fate(random) {
			select {
			case queue <- inTransit{append([]byte(nil), frame...), now.Add(after)}:
			case <-done:
				return
			default:
			}
		}
	}
}

// deliver hands frames over when they are due, of equal times the first that came.
func deliver(queue <-chan inTransit, to frames) {
	var waiting []inTransit // in the order of due
	timer := time.NewTimer(0)
	defer timer.Stop()
	for open := true; open || len(waiting) > 0; {
		var due <-chan time.Time
		if len(waiting) > 0 {
			wait := time.Until(waiting[0].due)
			if wait <= 0 {
				if to.WriteFrame(waiting[0].frame) != nil {
					return
				}
				waiting = waiting[1:]
				continue
			}
			timer.Reset(wait)
			due = timer.C
		}
		source := queue
		if !open {
			source = nil
		}
		select {
		case f, ok := <-source:
			if !ok {
				open = false
				break
			}
			at := len(waiting)
			for at > 0 && waiting[at-1].due.After(f.due) {
				at--
			}
			waiting = append(waiting, inTransit{})
			copy(waiting[at+1:], waiting[at:])
			waiting[at] = f
		case <-due:
		}
	}
}

// tapFrames are those of a tap that was opened without virtio headers: one read is one frame.
type tapFrames struct {
	*os.File
	buf [maxFrame]byte
}

func (t *tapFrames) ReadFrame() ([]byte, error) {
	n, err := t.Read(t.buf[:])
	return t.buf[:n], err
}

// WriteFrame does not tell a frame that the kernel does not take (the tap is down) from a lost one.
func (t *tapFrames) WriteFrame(frame []byte) error {
	if _, err := t.Write(frame); errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// socketFrames are those of QEMU's -netdev socket: a length of four bytes, the high one first, before each.
type socketFrames struct {
	io.ReadWriteCloser
	in  *bufio.Reader
	buf [maxFrame]byte
}

func newSocketFrames(conn io.ReadWriteCloser) *socketFrames {
	return &socketFrames{ReadWriteCloser: conn, in: bufio.NewReaderSize(conn, 2*maxFrame)}
}

func (s *socketFrames) ReadFrame() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	_, err := io.ReadFull(s.in, s.buf[:n])
	return s.buf[:n], err
}

func (s *socketFrames) WriteFrame(frame []byte) error {
	_, err := s.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame))), frame...))
	return err
}
