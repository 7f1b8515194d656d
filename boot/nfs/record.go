package nfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Record marking (RFC 5531 section 11).
const (
	lastFragment = 1 << 31

	// A record is kept up to recordKeep bytes: a WRITE of wtMax and its header. What a client sends beyond that, up to
	// recordMax, is read and dropped, because WRITE is refused by its first bytes; more ends the connection.
	recordKeep    = 96 << 10
	recordMax     = 2 << 20
	fragmentsMax  = 256
	readBufferMin = 16 << 10
)

// readBuffer is room for what a client sends, as long as that is being looked at.
type readBuffer [readBufferMin]byte

// A source is what a recordReader reads from, as from an io.Reader. Without p it finds the room itself, and only once there
// is something to read, so that silent connections need none.
type source interface {
	read(p []byte) (n int, room *readBuffer, err error)
}

var errRecordTooLong = errors.New("record is too long")

// recordReader cuts a byte stream into records. Its memory never exceeds about twice recordKeep.
type recordReader struct {
	r    source
	room *readBuffer // what buf lies in, unless that had to grow
	buf  []byte
	i, n int    // buf[i:n] was read and not used
	part []byte // of a record of several fragments
}

// idle forgets all room when nothing is in it, and returns what others may use.
func (r *recordReader) idle() *readBuffer {
	if r.i < r.n {
		return nil
	}
	room := r.room
	r.room, r.buf, r.part, r.i, r.n = nil, nil, nil, 0, 0
	return room
}

// buffered tells whether next would return a record without reading.
func (r *recordReader) buffered() bool {
	if r.n-r.i < 4 {
		return false
	}
	mark := binary.BigEndian.Uint32(r.buf[r.i:])
	return mark&lastFragment != 0 && int(mark&^lastFragment) <= r.n-r.i-4
}

// fill reads until at least want bytes are buffered; want is at most recordKeep.
func (r *recordReader) fill(want int) error {
	if r.n-r.i >= want {
		return nil
	}
	if r.buf == nil && want <= readBufferMin {
		var err error
		if r.n, r.room, err = r.r.read(nil); err != nil {
			return err
		}
		r.buf = r.room[:]
	}
	if r.i > 0 {
		copy(r.buf, r.buf[r.i:r.n])
		r.i, r.n = 0, r.n-r.i
	}
	if want > len(r.buf) {
		size := max(len(r.buf), readBufferMin)
		for size < want {
			size *= 2
		}
		grown := make([]byte, size)
		copy(grown, r.buf[:r.n])
		r.buf = grown // the room stays behind for idle
	}
	for r.n < want {
		k, _, err := r.r.read(r.buf[r.n:])
		r.n += k
		if err != nil && r.n < want {
			if err == io.EOF && r.n > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// next returns the next record, or its first recordKeep bytes. It is good until the next call.
func (r *recordReader) next() ([]byte, error) {
	r.part = r.part[:0]
	total := 0
	for fragment := 0; ; fragment++ {
		if err := r.fill(4); err != nil {
			if err == io.EOF && fragment > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		mark := binary.BigEndian.Uint32(r.buf[r.i:])
		size, last := int(mark&^lastFragment), mark&lastFragment != 0
		if total += size; total > recordMax || fragment >= fragmentsMax {
			return nil, fmt.Errorf("%w: %d bytes in %d fragments", errRecordTooLong, total, fragment+1)
		}
		r.i += 4
		keep := min(size, recordKeep-len(r.part))
		if err := r.fill(keep); err != nil {
			return nil, unexpected(err)
		}
		data := r.buf[r.i : r.i+keep]
		r.i += keep
		if last && fragment == 0 && keep == size {
			return data, nil
		}
		r.part = append(r.part, data...)
		if err := r.discard(size - keep); err != nil {
			return nil, unexpected(err)
		}
		if last {
			return r.part, nil
		}
	}
}

func (r *recordReader) discard(n int) error {
	for n > 0 {
		if err := r.fill(1); err != nil {
			return err
		}
		k := min(n, r.n-r.i)
		r.i += k
		n -= k
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
