package nfs

import "encoding/binary"

// decoder reads XDR (RFC 4506) from a slice it does not own. After the first thing that does not fit, bad is set and every
// read gives zeros.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (d *decoder) bool() bool {
	v := d.u32()
	if v > 1 {
		d.bad = true
	}
	return v == 1
}

// opaque reads variable-length data of at most limit bytes; the result aliases the input.
func (d *decoder) opaque(limit uint32) []byte {
	n := d.u32()
	if d.bad || n > limit {
		d.bad, d.b = true, nil
		return nil
	}
	p := d.take(int(n+3) &^ 3)
	if p == nil {
		return nil
	}
	return p[:n]
}

func put32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func put64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

func putBool(b []byte, v bool) []byte {
	if v {
		return put32(b, 1)
	}
	return put32(b, 0)
}

func putString(b []byte, s string) []byte {
	b = put32(b, uint32(len(s)))
	b = append(b, s...)
	return pad(b, len(s))
}

// pad adds the zeros that fill n bytes up to a multiple of four.
func pad(b []byte, n int) []byte { return append(b, "\x00\x00\x00"[:-n&3]...) }

// padded is the room n bytes of variable-length data take, without their length.
func padded(n int) int { return (n + 3) &^ 3 }
