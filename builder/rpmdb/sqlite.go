package rpmdb

import (
	"encoding/binary"
	"fmt"
)

// Pages of a table's b-tree (https://www.sqlite.org/fileformat2.html, section 1.6).
const (
	sqliteInterior = 5
	sqliteLeaf     = 13
)

// A table reads the rows of one sqlite table in the order of their numbers.
type table struct {
	file
	pageSize, usable int64
	left             int64 // pages that may still be visited: a damaged file may go round in circles
}

func (f file) sqlite(each func([]byte) error) error {
	head, err := f.at(0, 100)
	if err != nil {
		return err
	}
	t := &table{file: f, pageSize: int64(binary.BigEndian.Uint16(head[16:]))}
	if t.pageSize == 1 {
		t.pageSize = 64 << 10
	}
	if t.usable = t.pageSize - int64(head[20]); t.pageSize < 512 || t.usable < 480 {
		return fmt.Errorf("%w: pages of %d bytes", errDamaged, t.pageSize)
	}
	t.left = f.size/t.pageSize + 1
	root := int64(0)
	// sqlite_schema: type, name, tbl_name, rootpage, sql
	err = t.walk(1, 0, func(record []byte) error {
		row, err := columns(record)
		if err == nil && len(row) > 3 && string(row[0]) == "table" && string(row[1]) == "Packages" {
			for _, b := range row[3] {
				root = root<<8 | int64(b)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if root == 0 {
		return fmt.Errorf("%w: it has no table Packages", errDamaged)
	}
	t.left = f.size/t.pageSize + 1
	// Packages: hnum, which is the row's number and not in the record, and blob
	return t.walk(root, 0, func(record []byte) error {
		row, err := columns(record)
		if err != nil {
			return err
		}
		if len(row) < 2 {
			return errDamaged
		}
		return each(row[1])
	})
}

// walk visits the rows below a page, which is counted from 1.
func (t *table) walk(number int64, depth int, each func(record []byte) error) error {
	if t.left--; t.left < 0 || depth > 20 || number < 1 {
		return errDamaged
	}
	page, err := t.at((number-1)*t.pageSize, t.pageSize)
	if err != nil {
		return err
	}
	head := page
	if number == 1 {
		head = page[100:]
	}
	cells, pointers := int(binary.BigEndian.Uint16(head[3:])), 8
	if head[0] == sqliteInterior {
		pointers = 12
	} else if head[0] != sqliteLeaf {
		return errDamaged
	}
	if len(head) < pointers+2*cells {
		return errDamaged
	}
	for i := range cells {
		at := int(binary.BigEndian.Uint16(head[pointers+2*i:]))
		if at+4 > len(page) {
			return errDamaged
		}
		if head[0] == sqliteInterior {
			err = t.walk(int64(binary.BigEndian.Uint32(page[at:])), depth+1, each)
		} else {
			var record []byte
			if record, err = t.record(page[at:min(int64(len(page)), t.usable)]); err == nil {
				err = each(record)
			}
		}
		if err != nil {
			return err
		}
	}
	if head[0] == sqliteInterior {
		return t.walk(int64(binary.BigEndian.Uint32(head[8:])), depth+1, each)
	}
	return nil
}

// record puts together the bytes of a row, of which only the beginning is in its cell when they are many.
func (t *table) record(cell []byte) ([]byte, error) {
	length, n := varint(cell)
	_, m := varint(cell[n:])
	if n == 0 || m == 0 || length > maxRecord || int64(length) > t.size {
		return nil, errDamaged
	}
	cell = cell[n+m:]
	local := int64(length)
	if most := t.usable - 35; local > most {
		least := (t.usable-12)*32/255 - 23
		if local = least + (int64(length)-least)%(t.usable-4); local > most {
			local = least
		}
	}
	if local > int64(len(cell)) {
		return nil, errDamaged
	}
	out := append(make([]byte, 0, length), cell[:local]...)
	if uint64(local) == length {
		return out, nil
	}
	if int64(len(cell)) < local+4 {
		return nil, errDamaged
	}
	next := int64(binary.BigEndian.Uint32(cell[local:]))
	for uint64(len(out)) < length {
		if next < 1 {
			return nil, errDamaged
		}
		page, err := t.at((next-1)*t.pageSize, t.pageSize)
		if err != nil {
			return nil, err
		}
		next = int64(binary.BigEndian.Uint32(page))
		out = append(out, page[4:min(t.usable, 4+int64(length)-int64(len(out)))]...)
	}
	return out, nil
}

// columns cuts a record into the bytes of its columns (section 2.1).
func columns(record []byte) ([][]byte, error) {
	length, n := varint(record)
	if n == 0 || length > uint64(len(record)) || length < uint64(n) {
		return nil, errDamaged
	}
	types, body := record[n:length], record[length:]
	var row [][]byte
	for len(types) > 0 {
		kind, n := varint(types)
		if n == 0 {
			return nil, errDamaged
		}
		types = types[n:]
		size := uint64(0)
		switch {
		case kind >= 12:
			size = (kind - 12) / 2
		case kind <= 4:
			size = kind
		case kind == 5:
			size = 6
		case kind <= 7:
			size = 8
		}
		if size > uint64(len(body)) {
			return nil, errDamaged
		}
		row, body = append(row, body[:size]), body[size:]
	}
	return row, nil
}

// varint reads sqlite's number of one to nine bytes, and how many those are; 0 when they are cut off.
func varint(b []byte) (v uint64, n int) {
	for n < 8 && n < len(b) {
		v = v<<7 | uint64(b[n]&0x7f)
		if n++; b[n-1] < 0x80 {
			return v, n
		}
	}
	if n < 8 || n >= len(b) {
		return 0, 0
	}
	return v<<8 | uint64(b[n]), n + 1
}
