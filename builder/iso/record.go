package iso

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
)

// Flags of a directory record (ECMA-119 9.1.6).
const (
	flagDir        = 0x02
	flagAssociated = 0x04
	flagMore       = 0x80 // the file goes on in the next record
)

// A record is one directory record (ECMA-119 9.1).
type record struct {
	place int64 // of the record itself
	start int64 // of the data
	size  int64
	flags byte
	time  time.Time
	name  string // as it is stored
	use   []byte // the system use area
}

var errRecord = errors.New("a directory record is malformed")

// readRecord decodes the record at the start of b, which lies at place.
func readRecord(b []byte, place int64, blockSize int) (record, error) {
	if len(b) < 34 || int(b[0]) > len(b) || b[0] < 34 {
		return record{}, fmt.Errorf("%w at byte %d", errRecord, place)
	}
	b = b[:b[0]]
	nameEnd := 33 + int(b[32])
	if b[32] == 0 || nameEnd > len(b) {
		return record{}, fmt.Errorf("%w at byte %d: its name does not fit", errRecord, place)
	}
	if b[26] != 0 || b[27] != 0 {
		return record{}, fmt.Errorf("the file at byte %d is interleaved, which is not read here", place)
	}
	r := record{
		place: place,
		start: (int64(le.Uint32(b[2:])) + int64(b[1])) * int64(blockSize), // behind the extended attribute record
		size:  int64(le.Uint32(b[10:])),
		flags: b[25],
		time:  shortTime(b[18:25]),
		name:  string(b[33:nameEnd]),
	}
	if use := nameEnd + (1 - int(b[32])&1); use < len(b) {
		r.use = b[use:]
	}
	return r, nil
}

func (r *record) isDir() bool { return r.flags&flagDir != 0 }

// isDot tells "." and ".." apart from names: the one byte 0 or 1.
func (r *record) isDot() bool { return r.name == "\x00" || r.name == "\x01" }

// shortTime reads seven bytes (ECMA-119 9.1.5).
func shortTime(b []byte) time.Time {
	if b[1] == 0 {
		return time.Unix(0, 0).UTC()
	}
	t := time.Date(1900+int(b[0]), time.Month(b[1]), int(b[2]), int(b[3]), int(b[4]), int(b[5]), 0, time.UTC)
	return t.Add(-time.Duration(int8(b[6])) * 15 * time.Minute)
}

// longTime reads seventeen bytes, most of them digits (ECMA-119 8.4.26.1).
func longTime(b []byte) (time.Time, bool) {
	var v [7]int
	at := 0
	for i, n := range []int{4, 2, 2, 2, 2, 2, 2} {
		for _, c := range b[at : at+n] {
			if c < '0' || c > '9' {
				return time.Time{}, false
			}
			v[i] = v[i]*10 + int(c-'0')
		}
		at += n
	}
	if v[1] == 0 {
		return time.Time{}, false
	}
	t := time.Date(v[0], time.Month(v[1]), v[2], v[3], v[4], v[5], v[6]*int(10*time.Millisecond), time.UTC)
	return t.Add(-time.Duration(int8(b[16])) * 15 * time.Minute), true
}

// plainName makes a name of the primary volume as Linux shows it (isofs_name_translate in fs/isofs/dir.c): without version, in
// lower case.
func plainName(s string) string {
	if v, ok := strings.CutSuffix(s, ";1"); ok {
		s = v
	}
	s = strings.TrimSuffix(s, ".")
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		case r == ';' || r == '/' || r == 0:
			return '.'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// jolietName is the same for the Joliet volume (get_joliet_filename in fs/isofs/joliet.c).
func jolietName(s string) string {
	name := strings.TrimSuffix(ucs2([]byte(s)), ";1")
	for len(name) >= 2 && strings.HasSuffix(name, ".") {
		name = name[:len(name)-1]
	}
	return strings.Map(func(r rune) rune {
		if r == '/' || r == 0 {
			return '_'
		}
		return r
	}, name)
}

// ucs2 decodes UCS-2 in network byte order; writers put pairs for what is beyond it.
func ucs2(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = uint16(b[2*i])<<8 | uint16(b[2*i+1])
	}
	return string(utf16.Decode(u))
}
