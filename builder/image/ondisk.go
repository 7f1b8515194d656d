package image

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// The on-disk format is that of fs/erofs/erofs_fs.h in the Linux kernel; the names of the constants are its own.
// Only what an uncompressed image on one device uses is read here.
const (
	superOffset = 1024
	superSize   = 128
	superMagic  = 0xE0F5E1E2

	featureCompatSuperChecksum = 0x1

	featureIncompatZeroPadding   = 0x1 // set by mkfs.erofs for every compressed image
	featureIncompatChunkedFile   = 0x4
	featureIncompatDeviceTable   = 0x8 // set with no extra device by mkfs.erofs --chunksize
	featureIncompatXattrPrefixes = 0x40

	slotSize         = 32 // an inode number counts slots of this size
	inodeCompactSize = 32
	inodeExtendSize  = 64
	direntSize       = 12

	layoutFlatPlain  = 0
	layoutFlatInline = 2
	layoutChunkBased = 4

	chunkBitsMask = 0x1F
	chunkIndexes  = 0x20
	chunkKnown    = chunkBitsMask | chunkIndexes
	chunkHole     = math.MaxUint32

	nameMax    = 255
	symlinkMax = 4095 // PATH_MAX less the NUL
)

// File types of st_mode, and the numbers directory entries use for them.
const (
	modeType    = 0o170000
	modeSocket  = 0o140000
	modeSymlink = 0o120000
	modeRegular = 0o100000
	modeBlock   = 0o060000
	modeDir     = 0o040000
	modeChar    = 0o020000
	modeFifo    = 0o010000
)

var le = binary.LittleEndian

// super is what the reader needs of the superblock.
type super struct {
	blockBits  uint8
	rootNid    uint64
	metaStart  int64 // byte offset that inode numbers count from
	xattrStart int64 // byte offset that shared attribute numbers count from
	buildTime  time.Time
}

// decodeSuper reads the superblock out of the first bytes of an image that is size bytes long.
func decodeSuper(head []byte, size int64) (super, error) {
	var s super
	if len(head) < superOffset+superSize {
		return s, fmt.Errorf("%d bytes are too few for an EROFS superblock", len(head))
	}
	b := head[superOffset:]
	if m := le.Uint32(b); m != superMagic {
		return s, fmt.Errorf("not an EROFS image (magic %#x)", m)
	}
	compat, incompat := le.Uint32(b[8:]), le.Uint32(b[80:])
	s.blockBits = b[12]
	if s.blockBits < 9 || s.blockBits > 16 {
		return s, fmt.Errorf("superblock: block size 2^%d is outside 512…65536", s.blockBits)
	}
	if compat&featureCompatSuperChecksum != 0 {
		if err := checkSuper(head, 1<<s.blockBits); err != nil {
			return s, err
		}
	}
	if incompat&featureIncompatZeroPadding != 0 || le.Uint16(b[84:]) != 0 {
		return s, fmt.Errorf("superblock: the image is compressed; make it without -z, files are served straight from it")
	}
	const known = featureIncompatChunkedFile | featureIncompatDeviceTable | featureIncompatXattrPrefixes
	if rest := incompat &^ known; rest != 0 {
		return s, fmt.Errorf("superblock: unknown incompatible features %#x", rest)
	}
	if n := le.Uint16(b[86:]); n != 0 {
		return s, fmt.Errorf("superblock: data on %d extra devices; only images of one file are served", n)
	}
	if n := int64(le.Uint32(b[36:])) << s.blockBits; n > size {
		return s, fmt.Errorf("truncated: %d bytes, the superblock says %d", size, n)
	}
	s.rootNid = uint64(le.Uint16(b[14:]))
	s.metaStart = int64(le.Uint32(b[40:])) << s.blockBits
	s.xattrStart = int64(le.Uint32(b[44:])) << s.blockBits
	s.buildTime = unixTime(le.Uint64(b[24:]), le.Uint32(b[32:]))
	return s, nil
}

// checkSuper verifies the CRC-32C that mkfs.erofs stores over the first block from the superblock on. The kernel starts
// from all ones and does not invert the result.
func checkSuper(head []byte, blockSize int) error {
	end := blockSize
	if end <= superOffset {
		end = superOffset + blockSize // blocks smaller than the boot area: one block from the superblock on
	}
	if len(head) < end {
		return fmt.Errorf("truncated inside the first block")
	}
	block := append([]byte(nil), head[superOffset:end]...)
	want := le.Uint32(block[4:])
	clear(block[4:8])
	if got := ^crc32.Checksum(block, crc32.MakeTable(crc32.Castagnoli)); got != want {
		return fmt.Errorf("superblock: checksum %#08x, want %#08x", got, want)
	}
	return nil
}

// rawInode is one decoded inode, before its data has been placed.
type rawInode struct {
	Inode
	headerSize int64 // inode and its attributes; inline data and chunk maps follow
	coreSize   int64
	layout     uint8
	data       uint32 // block address, device number or chunk format
}

// decodeInode reads the inode at the start of b, which may be longer than it.
func decodeInode(b []byte, s *super) (rawInode, error) {
	var r rawInode
	if len(b) < inodeCompactSize {
		return r, fmt.Errorf("lies past the end of the image")
	}
	format := le.Uint16(b)
	if format&^0xF != 0 {
		return r, fmt.Errorf("unknown inode format %#x", format)
	}
	r.layout = uint8(format >> 1 & 7)
	r.Mode = uint32(le.Uint16(b[4:]))
	r.data = le.Uint32(b[16:])
	if format&1 == 0 {
		r.coreSize = inodeCompactSize
		r.Nlink = uint32(le.Uint16(b[6:]))
		r.Size = int64(le.Uint32(b[8:]))
		r.UID = uint32(le.Uint16(b[24:]))
		r.GID = uint32(le.Uint16(b[26:]))
		r.Mtime = s.buildTime
	} else {
		if len(b) < inodeExtendSize {
			return r, fmt.Errorf("is cut off by the end of the image")
		}
		r.coreSize = inodeExtendSize
		r.Size = int64(le.Uint64(b[8:]))
		r.UID = le.Uint32(b[24:])
		r.GID = le.Uint32(b[28:])
		r.Mtime = unixTime(le.Uint64(b[32:]), le.Uint32(b[40:]))
		r.Nlink = le.Uint32(b[44:])
	}
	r.headerSize = r.coreSize
	if n := int64(le.Uint16(b[2:])); n > 0 {
		r.headerSize += 12 + 4*(n-1)
	}
	if r.Size < 0 {
		return r, fmt.Errorf("has the impossible size %d", uint64(r.Size))
	}
	switch r.Mode & modeType {
	case modeChar, modeBlock:
		// The kernel's new_encode_dev; the same number as stat's st_rdev for every major below 4096.
		r.Rdev = uint64(r.data)
		r.Size = 0
	case modeFifo, modeSocket:
		r.Size = 0
	case modeRegular, modeDir, modeSymlink:
	default:
		return r, fmt.Errorf("has an unknown file type (mode %#o)", r.Mode)
	}
	return r, nil
}

// direntType gives the file type bits a directory entry claims, or 0 when it does not say.
func direntType(b byte) uint32 {
	return [...]uint32{0, modeRegular, modeDir, modeChar, modeBlock, modeFifo, modeSocket, modeSymlink}[b&7]
}

func unixTime(sec uint64, nsec uint32) time.Time {
	if nsec >= 1e9 {
		nsec = 0
	}
	return time.Unix(int64(sec), int64(nsec)).UTC()
}

// A dirent is one name of a directory block.
type dirent struct {
	nid  uint64
	typ  uint32
	name []byte
}

// eachDirent calls f for every entry of one directory block, which is cut to the directory's size.
func eachDirent(block []byte, f func(dirent) error) error {
	if len(block) < direntSize {
		return fmt.Errorf("a block of %d bytes is too short for an entry", len(block))
	}
	first := int(le.Uint16(block[8:]))
	if first < direntSize || first%direntSize != 0 || first > len(block) {
		return fmt.Errorf("the first name is said to start at byte %d", first)
	}
	n := first / direntSize
	for i := range n {
		e := block[i*direntSize:]
		start, end := int(le.Uint16(e[8:])), len(block)
		if i+1 < n {
			end = int(le.Uint16(e[direntSize+8:]))
		}
		if start < first || end > len(block) || start >= end {
			return fmt.Errorf("entry %d has its name at bytes %d to %d of %d", i, start, end, len(block))
		}
		name := block[start:end]
		if i+1 == n {
			name = trimNUL(name) // the last name of a block ends at the first NUL
		}
		if len(name) == 0 || len(name) > nameMax {
			return fmt.Errorf("entry %d has a name of %d bytes", i, len(name))
		}
		for _, c := range name {
			if c == '/' || c == 0 {
				return fmt.Errorf("entry %d has the impossible name %q", i, name)
			}
		}
		if err := f(dirent{nid: le.Uint64(e), typ: direntType(e[10]), name: name}); err != nil {
			return err
		}
	}
	return nil
}

func trimNUL(b []byte) []byte {
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return b
}
