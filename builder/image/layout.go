package image

import (
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

const (
	blockBits = 12
	blockSize = 1 << blockBits

	featureCompatMtime = 0x2 // i_mtime is the modification time, not the change time

	xattrHeaderSize = 12
	xattrEntrySize  = 4
	chunkIndexSize  = 8
)

// A layout gives everything its place. An image is, in this order: the superblock; inodes, each followed by its
// attributes and, when it fits into the block, by the entries of the folder or the target of the link; whole blocks of
// entries and targets that did not fit; data. Inode numbers count from the image's start in slots of 32 bytes, so none is 0.
type layout struct {
	tree   *tree
	inodes int64 // end of the inodes, in bytes
	blocks int64 // of the whole image
	chunks bool  // some file has a chunk map
	data   []sourceExtent
}

func (l *layout) size() int64 { return l.blocks << blockBits }

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// layOut places the tree.
func layOut(t *tree) (*layout, error) {
	l := &layout{tree: t}
	l.placeInodes()
	l.blocks = roundUp(l.inodes, blockSize) >> blockBits
	for _, n := range t.nodes {
		if size := n.bodySize(); size > 0 && !n.inline {
			n.block = uint32(l.blocks)
			l.blocks += roundUp(size, blockSize) >> blockBits
		}
	}
	for _, n := range t.nodes {
		if n.kind() == modeRegular {
			l.placeData(n)
		}
		if l.blocks > math.MaxUint32 {
			return nil, fmt.Errorf("more than %d blocks: the tree does not fit into an image", uint32(math.MaxUint32))
		}
	}
	for _, n := range t.nodes {
		if n.isFolder() {
			n.dirents = encodeDirents(n)
		}
	}
	return l, nil
}

// bodySize is what a folder or a link has to say besides its inode.
func (n *node) bodySize() int64 {
	switch n.kind() {
	case modeDir:
		return n.direntSize
	case modeSymlink:
		return int64(len(n.target))
	}
	return 0
}

// placeInodes numbers the inodes. The kernel wants an inline body in the same block as its beginning; keeping an inode
// itself in one block saves every reader a special case.
func (l *layout) placeInodes() {
	at := int64(superOffset + superSize)
	for _, n := range l.tree.nodes {
		n.headerSize = inodeExtendSize + n.xattrSize()
		if n.isFolder() {
			n.direntSize = measureDirents(n)
		}
		tail := n.bodySize()
		n.inline = tail > 0 && n.headerSize+tail <= blockSize
		need := int64(inodeExtendSize)
		if n.inline {
			need = n.headerSize + tail
		}
		if free := blockSize - at%blockSize; need > free {
			at += free
		}
		n.nid = uint64(at / slotSize)
		at += n.headerSize
		switch {
		case n.inline:
			at += tail
		case n.holes != nil:
			l.chunks = true
			at = roundUp(at, chunkIndexSize) + chunkIndexSize*int64(len(n.holes.data))
		}
		at = roundUp(at, slotSize)
	}
	l.inodes = at
}

// placeData appends a file's blocks.
func (l *layout) placeData(n *node) {
	size := n.stat.Size
	if n.holes == nil {
		if size > 0 {
			n.block = uint32(l.blocks)
			l.append(n, 0, size)
		}
		return
	}
	chunk := int64(1) << n.holes.bits
	for c, data := range n.holes.data {
		n.holes.at[c] = chunkHole
		if data {
			n.holes.at[c] = uint32(l.blocks)
			from := int64(c) << n.holes.bits
			l.append(n, from, min(chunk, size-from))
		}
	}
}

func (l *layout) append(n *node, from, size int64) {
	l.data = append(l.data, sourceExtent{node: n, from: from, size: size, at: l.blocks << blockBits})
	l.blocks += roundUp(size, blockSize) >> blockBits
}

func (a xattr) size() int64 {
	return roundUp(xattrEntrySize+int64(len(a.name))+int64(len(a.value)), 4)
}

func (n *node) xattrSize() int64 {
	if len(n.xattrs) == 0 {
		return 0
	}
	size := int64(xattrHeaderSize)
	for _, a := range n.xattrs {
		size += a.size()
	}
	return size
}

// A dirName is one entry of a folder as it is written.
type dirName struct {
	name string
	node *node
}

// sortedNames merges "." and ".." into the children: some names sort before them.
func sortedNames(n *node) []dirName {
	up := n.parent
	if up == nil {
		up = n
	}
	names := make([]dirName, 0, len(n.children)+2)
	dots := []dirName{{".", n}, {"..", up}}
	for _, c := range n.children {
		for len(dots) > 0 && dots[0].name < c.name {
			names, dots = append(names, dots[0]), dots[1:]
		}
		names = append(names, dirName(c))
	}
	return append(names, dots...)
}

// splitDirents cuts names into blocks, each with its entries first and then its names.
func splitDirents(names []dirName, each func(block []dirName, used int)) {
	start, used := 0, 0
	for i, e := range names {
		need := direntSize + len(e.name)
		if used+need > blockSize {
			each(names[start:i], used)
			start, used = i, 0
		}
		used += need
	}
	each(names[start:], used)
}

func measureDirents(n *node) int64 {
	var size, last int64
	splitDirents(sortedNames(n), func(_ []dirName, used int) {
		size, last = size+blockSize, int64(used)
	})
	return size - blockSize + last
}

func encodeDirents(n *node) []byte {
	out := make([]byte, n.direntSize)
	rest := out
	splitDirents(sortedNames(n), func(block []dirName, _ int) {
		at := direntSize * len(block)
		for i, e := range block {
			b := rest[direntSize*i:]
			le.PutUint64(b, e.node.nid)
			le.PutUint16(b[8:], uint16(at))
			b[10] = direntKind(e.node.kind())
			at += copy(rest[at:], e.name)
		}
		rest = rest[min(blockSize, len(rest)):]
	})
	return out
}

// direntKind is the inverse of direntType.
func direntKind(kind uint32) byte {
	for b := byte(1); b < 8; b++ {
		if direntType(b) == kind {
			return b
		}
	}
	return 0
}

// encode returns the image up to its data.
func (l *layout) encode(buildTime time.Time) []byte {
	end := l.size()
	if len(l.data) > 0 {
		end = l.data[0].at
	}
	out := make([]byte, end)
	for _, n := range l.tree.nodes {
		at := int64(n.nid) * slotSize
		encodeInode(out[at:], n, notAfter(n.stat.Mtim, buildTime))
		body := n.dirents
		if n.kind() == modeSymlink {
			body = []byte(n.target)
		}
		switch {
		case n.inline:
			copy(out[at+n.headerSize:], body)
		case len(body) > 0:
			copy(out[int64(n.block)<<blockBits:], body)
		}
		if n.holes != nil {
			at = roundUp(at+n.headerSize, chunkIndexSize)
			for i, block := range n.holes.at {
				le.PutUint32(out[at+int64(i)*chunkIndexSize+4:], block)
			}
		}
	}
	l.encodeSuper(out, buildTime)
	return out
}

// notAfter is a modification time, or the build time when that is earlier.
func notAfter(mtime unix.Timespec, buildTime time.Time) unix.Timespec {
	limit := unix.Timespec{Sec: buildTime.Unix(), Nsec: int64(buildTime.Nanosecond())}
	if !buildTime.IsZero() && (mtime.Sec > limit.Sec || mtime.Sec == limit.Sec && mtime.Nsec > limit.Nsec) {
		return limit
	}
	return mtime
}

func encodeInode(b []byte, n *node, mtime unix.Timespec) {
	st := &n.stat
	plan, data, size := uint16(layoutFlatPlain), n.block, uint64(0)
	switch n.kind() {
	case modeRegular:
		size = uint64(st.Size)
		if n.holes != nil {
			plan, data = layoutChunkBased, chunkIndexes|uint32(n.holes.bits-blockBits)
		}
	case modeDir, modeSymlink:
		size = uint64(n.bodySize())
		if n.inline {
			plan = layoutFlatInline
		}
	case modeChar, modeBlock:
		// new_encode_dev of include/linux/kdev_t.h
		major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
		data = minor&0xFF | major<<8 | minor&^0xFF<<12
	}
	le.PutUint16(b[0:], plan<<1|1) // 1: extended, the only kind that holds times, owners and sizes in full
	le.PutUint16(b[4:], uint16(st.Mode))
	le.PutUint64(b[8:], size)
	le.PutUint32(b[16:], data)
	le.PutUint32(b[20:], n.number)
	le.PutUint32(b[24:], st.Uid)
	le.PutUint32(b[28:], st.Gid)
	le.PutUint64(b[32:], uint64(mtime.Sec))
	le.PutUint32(b[40:], uint32(mtime.Nsec))
	le.PutUint32(b[44:], n.nlink)
	if len(n.xattrs) == 0 {
		return
	}
	le.PutUint16(b[2:], uint16((n.xattrSize()-xattrHeaderSize)/4+1))
	b = b[inodeExtendSize+xattrHeaderSize:] // the header is all zero: no filter, nothing shared
	for _, a := range n.xattrs {
		b[0], b[1] = byte(len(a.name)), a.index
		le.PutUint16(b[2:], uint16(len(a.value)))
		copy(b[xattrEntrySize:], a.name)
		copy(b[xattrEntrySize+len(a.name):], a.value)
		b = b[a.size():]
	}
}

// encodeSuper writes the superblock into a finished metadata area. The UUID is a digest of that area, so that two
// images with different trees differ in it and the same tree always has the same.
func (l *layout) encodeSuper(out []byte, buildTime time.Time) {
	b := out[superOffset:]
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], featureCompatSuperChecksum|featureCompatMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(l.tree.nodes[0].nid))
	le.PutUint64(b[16:], uint64(len(l.tree.nodes)))
	if !buildTime.IsZero() {
		le.PutUint64(b[24:], uint64(buildTime.Unix()))
		le.PutUint32(b[32:], uint32(buildTime.Nanosecond()))
	}
	le.PutUint32(b[36:], uint32(l.blocks))
	if l.chunks {
		le.PutUint32(b[80:], featureIncompatChunkedFile)
	}
	sum := sha256.Sum256(out)
	uuid := b[48:64]
	copy(uuid, sum[:])
	uuid[6] = uuid[6]&0x0F | 0x80 // version 8: our own making, RFC 9562 section 5.8
	uuid[8] = uuid[8]&0x3F | 0x80
	// The kernel starts from all ones and does not invert the result.
	le.PutUint32(b[4:], ^crc32.Checksum(out[superOffset:blockSize], crc32.MakeTable(crc32.Castagnoli)))
}
