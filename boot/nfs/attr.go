package nfs

import (
	"encoding/binary"

	"netroot/builder/image"
)

// Types and permission bits of st_mode.
const (
	modeType = 0o170000
	modeBits = 0o007777
)

// ftype3 of RFC 1813.
const (
	typeReg  = 1
	typeDir  = 2
	typeBlk  = 3
	typeChr  = 4
	typeLnk  = 5
	typeSock = 6
	typeFifo = 7
)

const attrSize = 84 // a fattr3

func fileType(mode uint32) uint32 {
	switch mode & modeType {
	case 0o040000:
		return typeDir
	case 0o060000:
		return typeBlk
	case 0o020000:
		return typeChr
	case 0o120000:
		return typeLnk
	case 0o140000:
		return typeSock
	case 0o010000:
		return typeFifo
	}
	return typeReg
}

// fileID numbers a file for its client. Inode number 0 is a valid one in an EROFS image, often the root's, but readdir of
// old C libraries takes 0 for a deleted entry.
func fileID(i *image.Inode) uint64 { return i.Nid + 1 }

// putAttr appends the fattr3 of i.
func putAttr(b []byte, e *export, i *image.Inode) []byte {
	n := len(b)
	b = append(b, zeroAttr[:]...)
	a := b[n : n+attrSize]
	be := binary.BigEndian
	be.PutUint32(a[0:], fileType(i.Mode))
	be.PutUint32(a[4:], i.Mode&modeBits)
	be.PutUint32(a[8:], i.Nlink)
	be.PutUint32(a[12:], i.UID)
	be.PutUint32(a[16:], i.GID)
	be.PutUint64(a[20:], uint64(i.Size))
	be.PutUint64(a[28:], uint64(i.Size+511)&^511)
	if i.Rdev != 0 {
		major, minor := splitDevice(i.Rdev)
		be.PutUint32(a[36:], major)
		be.PutUint32(a[40:], minor)
	}
	be.PutUint64(a[44:], e.fsid)
	be.PutUint64(a[52:], fileID(i))
	sec, nsec := clampTime(i.Mtime.Unix()), uint32(i.Mtime.Nanosecond())
	for at := 60; at < attrSize; at += 8 { // atime, mtime, ctime: the image keeps one
		be.PutUint32(a[at:], sec)
		be.PutUint32(a[at+4:], nsec)
	}
	return b
}

var zeroAttr [attrSize]byte

// clampTime: an nfstime3 counts unsigned seconds from 1970 to 2106.
func clampTime(sec int64) uint32 {
	return uint32(max(0, min(sec, 1<<32-1)))
}

// splitDevice takes a Linux st_rdev apart, as gnu_dev_major and gnu_dev_minor do.
func splitDevice(rdev uint64) (major, minor uint32) {
	major = uint32(rdev>>8)&0xfff | uint32(rdev>>32)&^0xfff
	minor = uint32(rdev)&0xff | uint32(rdev>>12)&^0xff
	return major, minor
}

// putPostAttr appends a post_op_attr: with the attributes of i, or without any when there is no i.
func putPostAttr(b []byte, e *export, i *image.Inode) []byte {
	if i == nil {
		return put32(b, 0)
	}
	return putAttr(put32(b, 1), e, i)
}

// putWcc appends a wcc_data: nothing was changed, so nothing is said of before.
func putWcc(b []byte, e *export, i *image.Inode) []byte {
	return putPostAttr(put32(b, 0), e, i)
}

// Bits of ACCESS3args.
const (
	accessRead    = 0x01
	accessLookup  = 0x02
	accessExecute = 0x20
)

// access says which of the wanted kinds of access the caller has. Those that write are never granted.
func access(i *image.Inode, c *credentials, want uint32) uint32 {
	perm := i.Mode & 7
	switch {
	case c.uid == 0:
		perm = 0o6
		if i.IsDir() || i.Mode&0o111 != 0 {
			perm = 0o7
		}
	case c.uid == i.UID:
		perm = i.Mode >> 6 & 7
	case c.inGroup(i.GID):
		perm = i.Mode >> 3 & 7
	}
	var have uint32
	if perm&4 != 0 {
		have |= accessRead
	}
	if perm&1 != 0 {
		if i.IsDir() {
			have |= accessLookup
		} else {
			have |= accessExecute
		}
	}
	return have & want
}

// mayRead: a server must let a client read what it may only execute, and an owner what he opened before he took the right from himself
// (RFC 1813 section 4.4).
func mayRead(i *image.Inode, c *credentials) bool {
	return c.uid == i.UID || access(i, c, accessRead|accessExecute) != 0
}
