package nfs

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Record marking (RFC 5531 section 11).
const (
	markSize     = 4
	lastFragment = 1 << 31

	// A record is kept up to recordKeep bytes: a WRITE of wtMax and its header. What a client sends beyond that, up to
	// recordMax, is dropped, because WRITE is refused by its first bytes; more ends the connection.
	recordKeep   = 96 << 10
	recordMax    = 2 << 20
	fragmentsMax = 256
)

var errRecordTooLong = errors.New("record is too long")

// records cuts a byte stream into records, whatever pieces it comes in. Its memory never exceeds about twice recordKeep, and is none
// while the client is between two records.
type records struct {
	in []byte // what came and is not used

	// The record that in does not hold whole:
	mark      [markSize]byte // of the fragment under way
	marked    int            // bytes of mark that are there
	left      int            // bytes that the fragment has yet to bring
	part      []byte         // what is kept of the record
	size      int            // of all its fragments
	fragments int
}

// add takes the next piece, of at most recordKeep bytes, when next has used all before it.
func (r *records) add(p []byte) { r.in = p }

// next returns the next record, or its first recordKeep bytes, which are good until the next call. It returns none when more of the
// stream is needed.
func (r *records) next() (rec []byte, ok bool, err error) {
	if rec, ok = r.whole(); ok {
		return rec, true, nil
	}
	for {
		if r.marked < markSize {
			k := copy(r.mark[r.marked:], r.in)
			r.in, r.marked = r.in[k:], r.marked+k
			if r.marked < markSize {
				return nil, false, nil
			}
			r.left = int(binary.BigEndian.Uint32(r.mark[:]) &^ lastFragment)
			r.size, r.fragments = r.size+r.left, r.fragments+1
			if r.size > recordMax || r.fragments > fragmentsMax {
				return nil, false, fmt.Errorf("%w: %d bytes in %d fragments", errRecordTooLong, r.size, r.fragments)
			}
		}
		k := min(r.left, len(r.in))
		r.part = append(r.part, r.in[:min(k, recordKeep-len(r.part))]...)
		r.in, r.left = r.in[k:], r.left-k
		if r.left > 0 {
			return nil, false, nil
		}
		r.marked = 0
		if r.mark[0]&(lastFragment>>24) != 0 {
			rec = r.part
			r.part, r.size, r.fragments = nil, 0, 0
			return rec, true, nil
		}
	}
}

// whole returns the next record if it came in one piece, as nearly all do: it is not copied then.
func (r *records) whole() ([]byte, bool) {
	if r.marked > 0 || r.fragments > 0 || len(r.in) < markSize {
		return nil, false
	}
	mark := binary.BigEndian.Uint32(r.in)
	end := markSize + int(mark&^lastFragment)
	if mark&lastFragment == 0 || end > len(r.in) {
		return nil, false
	}
	rec := r.in[markSize:end]
	r.in = r.in[end:]
	return rec, true
}
