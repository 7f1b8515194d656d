// Package rpmdb reads the database of installed packages of a foreign root: Berkeley DB hash files (rpm up to 4.15, EL8), sqlite (rpm
// from 4.16 on, EL9), and ndb (SUSE). It runs nothing of that root, and needs none of the three libraries.
//
// It reads the table of packages only, one record after the other, and no index. Limits: of sqlite databases with a write-ahead log
// that was not written back, which rpm leaves behind only when it was killed, it says so and reads nothing.
package rpmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A Format is a kind of database, in the words of rpm's macro _db_backend.
type Format string

// The formats.
const (
	BerkeleyDB Format = "bdb"
	SQLite     Format = "sqlite"
	NDB        Format = "ndb"
)

// Files are the names that rpm gives a database of each format in its folder.
var Files = map[Format]string{BerkeleyDB: "Packages", SQLite: "rpmdb.sqlite", NDB: "Packages.db"}

// maxRecord is more than the header of any package has.
const maxRecord = 256 << 20

var errDamaged = errors.New("the database is damaged or cut off")

// Detect tells by its magic number what a file is; "" when it is no database of rpm's.
func Detect(r io.ReaderAt) Format {
	var head [28]byte
	if n, _ := r.ReadAt(head[:], 0); n < len(head) {
		return ""
	}
	switch {
	case bytes.HasPrefix(head[:], []byte("SQLite format 3\x00")):
		return SQLite
	case bytes.HasPrefix(head[:], []byte("RpmP")):
		return NDB
	case bdbOrder(head[:]) != nil && head[25] == bdbHashMeta:
		return BerkeleyDB
	}
	return ""
}

// Read calls each with the header of every package: what is in a .rpm behind the magic number of its header. A slice is valid during the
// call only.
func Read(r io.ReaderAt, size int64, each func(header []byte) error) error {
	f := file{r, size}
	switch Detect(r) {
	case BerkeleyDB:
		return f.bdb(each)
	case SQLite:
		return f.sqlite(each)
	case NDB:
		return f.ndb(each)
	}
	return errors.New("it is no database of rpm's")
}

type file struct {
	r    io.ReaderAt
	size int64
}

// at reads n bytes.
func (f file) at(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || n > maxRecord || off+n > f.size {
		return nil, errDamaged
	}
	buf := make([]byte, n)
	if _, err := f.r.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf, nil
}

// Pages of a hash file of Berkeley DB (its dbinc/db_page.h), and kinds of items on them.
const (
	bdbHashUnsorted = 2
	bdbOverflow     = 7
	bdbHashMeta     = 8
	bdbHash         = 13

	bdbKeyData = 1
	bdbOffPage = 3

	bdbPageHeader = 26
	bdbMagic      = 0x00061561
)

// bdbOrder is the byte order of the machine that wrote the file; nil for a file of another kind.
func bdbOrder(meta []byte) binary.ByteOrder {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if order.Uint32(meta[12:]) == bdbMagic {
			return order
		}
	}
	return nil
}

func (f file) bdb(each func([]byte) error) error {
	meta, err := f.at(0, 512)
	if err != nil {
		return err
	}
	order := bdbOrder(meta)
	pageSize := int64(order.Uint32(meta[20:]))
	if pageSize < 512 || pageSize > 64<<10 || pageSize&(pageSize-1) != 0 {
		return fmt.Errorf("%w: pages of %d bytes", errDamaged, pageSize)
	}
	last := int64(order.Uint32(meta[32:]))
	if (last+1)*pageSize > f.size {
		return fmt.Errorf("%w: it has %d bytes, and should have %d", errDamaged, f.size, (last+1)*pageSize)
	}
	for n := int64(1); n <= last; n++ {
		page, err := f.at(n*pageSize, pageSize)
		if err != nil {
			return err
		}
		if page[25] != bdbHash && page[25] != bdbHashUnsorted {
			continue
		}
		items := int(order.Uint16(page[20:]))
		if bdbPageHeader+2*items > len(page) {
			return errDamaged
		}
		// Keys and values take turns; a page fills from its end.
		for i := 1; i < items; i += 2 {
			at, end := int(order.Uint16(page[bdbPageHeader+2*i:])), int(order.Uint16(page[bdbPageHeader+2*(i-1):]))
			if at >= end || end > len(page) {
				return errDamaged
			}
			var value []byte
			switch item := page[at:end]; {
			case item[0] == bdbKeyData:
				value = item[1:]
			case item[0] == bdbOffPage && len(item) >= 12:
				if value, err = f.bdbOverflow(order, pageSize, int64(order.Uint32(item[4:])), int64(order.Uint32(item[8:]))); err != nil {
					return err
				}
			}
			if len(value) < 16 {
				continue // the record with the next free number
			}
			if err := each(value); err != nil {
				return err
			}
		}
	}
	return nil
}

// bdbOverflow puts together a value that has pages of its own.
func (f file) bdbOverflow(order binary.ByteOrder, pageSize, n, length int64) ([]byte, error) {
	if length > maxRecord || length > f.size {
		return nil, errDamaged
	}
	value := make([]byte, 0, length)
	for int64(len(value)) < length {
		page, err := f.at(n*pageSize, pageSize)
		if err != nil {
			return nil, err
		}
		used := int(order.Uint16(page[22:]))
		if page[25] != bdbOverflow || used == 0 || bdbPageHeader+used > len(page) {
			return nil, errDamaged
		}
		value = append(value, page[bdbPageHeader:bdbPageHeader+used]...)
		n = int64(order.Uint32(page[16:]))
	}
	return value[:length], nil
}

// ndb reads rpm's own format (its lib/backend/ndb/rpmpkg.c): pages of slots, each of which points to a blob.
func (f file) ndb(each func([]byte) error) error {
	head, err := f.at(0, 32)
	if err != nil {
		return err
	}
	slots, err := f.at(32, int64(binary.LittleEndian.Uint32(head[12:]))*4096-32)
	if err != nil {
		return err
	}
	for ; len(slots) >= 16; slots = slots[16:] {
		number := binary.LittleEndian.Uint32(slots[4:])
		if !bytes.HasPrefix(slots, []byte("Slot")) {
			return errDamaged
		}
		if number == 0 {
			continue
		}
		off := int64(binary.LittleEndian.Uint32(slots[8:])) * 16
		blob, err := f.at(off, 16)
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(blob, []byte("BlbS")) || binary.LittleEndian.Uint32(blob[4:]) != number {
			return errDamaged
		}
		value, err := f.at(off+16, int64(binary.LittleEndian.Uint32(blob[12:])))
		if err != nil {
			return err
		}
		if err := each(value); err != nil {
			return err
		}
	}
	return nil
}
