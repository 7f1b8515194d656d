package iso

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	maxContinued = 128 // areas that one record may go on in
	maxTarget    = 4095
)

// rock is what Rock Ridge says of one record (IEEE P1281, SUSP; IEEE P1282, RRIP).
type rock struct {
	name      strings.Builder
	target    linkTarget
	px        bool // mode, links, uid and gid were given
	mode      uint32
	nlink     uint32
	uid, gid  uint32
	device    uint64
	mtime     time.Time
	child     int64 // block of the folder that was moved away from here (CL); 0 for none
	relocated bool  // this folder is shown elsewhere (RE)
}

// linkTarget puts the components of SL entries together.
type linkTarget struct {
	text strings.Builder
	open bool // the last component goes on
}

// systemUse walks through the entries of a system use area and of what it goes on in.
type systemUse struct {
	read      func(block, off, size int64) ([]byte, error)
	continued int
}

// each calls f for the entries that can be used, in order.
func (s *systemUse) each(area []byte, f func(sig string, body []byte) error) error {
	var next []byte
	for {
		var ce [3]uint32
		for len(area) >= 4 {
			sig, n := string(area[:2]), int(area[2])
			if n < 4 || n > len(area) {
				break // padding; also areas that something else than SUSP uses
			}
			body := area[4:n]
			area = area[n:]
			if sig == "ST" {
				break
			}
			if sig == "CE" && len(body) >= 24 {
				ce = [3]uint32{le.Uint32(body), le.Uint32(body[8:]), le.Uint32(body[16:])}
				continue
			}
			if err := f(sig, body); err != nil {
				return err
			}
		}
		if ce[2] == 0 {
			return nil
		}
		if s.continued++; s.continued > maxContinued {
			return errors.New("its system use area goes on without end")
		}
		var err error
		if next, err = s.read(int64(ce[0]), int64(ce[1]), int64(ce[2])); err != nil {
			return fmt.Errorf("read where its system use area goes on: %w", err)
		}
		area = next
	}
}

// parseRock reads the Rock Ridge entries of a record.
func parseRock(use []byte, s *systemUse) (*rock, error) {
	k := &rock{}
	err := s.each(use, func(sig string, b []byte) error {
		switch sig {
		case "PX":
			if len(b) < 32 {
				return errors.New("its PX entry is cut off")
			}
			k.px = true
			k.mode, k.nlink, k.uid, k.gid = le.Uint32(b), le.Uint32(b[8:]), le.Uint32(b[16:]), le.Uint32(b[24:])
		case "PN":
			if len(b) < 16 {
				return errors.New("its PN entry is cut off")
			}
			k.device = deviceNumber(le.Uint32(b), le.Uint32(b[8:]))
		case "NM":
			if len(b) < 1 {
				return errors.New("its NM entry is cut off")
			}
			if b[0]&(2|4) == 0 { // else "." or ".."
				k.name.Write(b[1:])
			}
			if k.name.Len() > 255 {
				return errors.New("its name has more than 255 bytes")
			}
		case "SL":
			if len(b) < 1 {
				return errors.New("its SL entry is cut off")
			}
			return k.target.add(b[1:])
		case "TF":
			return k.times(b)
		case "CL":
			if len(b) < 8 {
				return errors.New("its CL entry is cut off")
			}
			k.child = int64(le.Uint32(b))
		case "RE":
			k.relocated = true
		case "ZF":
			return errors.New("it is compressed with zisofs, which is not read here")
		case "SF":
			return errors.New("it is stored as a sparse file, which is not read here")
		}
		return nil
	})
	return k, err
}

// deviceNumber is a Linux st_rdev. RRIP 4.1.2: the high word holds the upper 32 bits of dev_t; writers with a dev_t of 16 bits
// leave it 0 and put 8 bits each into the low word (rock.c).
func deviceNumber(high, low uint32) uint64 {
	major, minor := uint64(high), uint64(low)
	if low&^0xff != 0 && high == 0 {
		major, minor = uint64(low>>8), uint64(low&0xff)
	}
	return minor&0xff | major&0xfff<<8 | minor&^0xff<<12 | major&^0xfff<<32
}

// times takes the time of modification (RRIP 4.1.6).
func (k *rock) times(b []byte) error {
	if len(b) < 1 {
		return errors.New("its TF entry is cut off")
	}
	flags, size := b[0], 7
	if flags&0x80 != 0 {
		size = 17
	}
	at := 1
	if flags&1 != 0 { // creation comes first
		at += size
	}
	if flags&2 == 0 {
		return nil
	}
	if at+size > len(b) {
		return errors.New("its TF entry is cut off")
	}
	if size == 7 {
		k.mtime = shortTime(b[at:])
	} else if t, ok := longTime(b[at:]); ok {
		k.mtime = t
	}
	return nil
}

// add reads the components of one SL entry (RRIP 4.1.3.1). genisoimage writes entries that are shorter than their last component when
// a target is very long: one such link is no reason to refuse an ISO, and its target ends there, as with Linux and xorriso.
func (t *linkTarget) add(b []byte) error {
	for len(b) >= 2 {
		flags, text := b[0], b[2:min(2+int(b[1]), len(b))]
		b = b[2+len(text):]
		if s := t.text.String(); !t.open && s != "" && s != "/" {
			t.text.WriteByte('/')
		}
		switch flags &^ 1 {
		case 0:
			t.text.Write(text)
		case 2:
			t.text.WriteByte('.')
		case 4:
			t.text.WriteString("..")
		case 8:
			t.text.Reset()
			t.text.WriteByte('/')
		default:
			return fmt.Errorf("its SL entry has a component of the unknown kind %#x", flags)
		}
		t.open = flags&1 != 0
		if t.text.Len() > maxTarget {
			return fmt.Errorf("its target has more than %d bytes", maxTarget)
		}
	}
	return nil
}

// A susp says where SUSP's entries begin in a system use area.
type susp struct {
	first int // in the first record of the root
	skip  int // in all others
}

// findSUSP looks for the SP entry (SUSP 5.3) in the first record of the root, with which Rock Ridge announces itself.
func findSUSP(r io.ReaderAt, v *volume) (s susp, ok bool, err error) {
	root, err := readRecord(v.root, firstSector*sectorSize+156, v.blockSize)
	if err != nil {
		return s, false, err
	}
	b := make([]byte, 255)
	if n, err := r.ReadAt(b, root.start); err != nil && err != io.EOF {
		return s, false, fmt.Errorf("read the root folder: %w", err)
	} else if n < 34 {
		return s, false, errors.New("it is cut off: the root folder lies past its end; get it again")
	}
	dot, err := readRecord(b, root.start, v.blockSize)
	if err != nil {
		return s, false, err
	}
	for _, at := range []int{0, 14} { // CD-ROM XA has 14 bytes in front
		if len(dot.use) >= at+7 && bytes.Equal(dot.use[at:at+6], []byte{'S', 'P', 7, 1, 0xbe, 0xef}) {
			return susp{at, int(dot.use[at+6])}, true, nil
		}
	}
	return s, false, nil
}
