package image

import (
	"errors"
	"fmt"
	"io"
)

// hole marks an extent that is stored nowhere and reads as zeros.
const hole = -1

// An extent says where the bytes of a file from off on are: at place of the image file, up to the next extent.
type extent struct {
	off, place int64
}

// place works out where the data of the inode at byte offset at lies, and checks that all of it is inside the image.
func (img *Image) place(r *rawInode, at int64) error {
	r.side = -1
	r.attrOff, r.attrSize = at+r.coreSize, int32(r.headerSize-r.coreSize)
	if at+r.headerSize > img.size {
		return errors.New("is cut off by the end of the image")
	}
	switch r.Mode & modeType {
	case modeRegular, modeDir, modeSymlink:
	default:
		return nil
	}
	if r.IsSymlink() && (r.Size == 0 || r.Size > symlinkMax) {
		return fmt.Errorf("is a symlink with a target of %d bytes", r.Size)
	}
	blockSize := int64(1) << img.super.blockBits
	switch r.layout {
	case layoutFlatPlain:
		r.head, r.headOff = r.Size, int64(r.data)<<img.super.blockBits
	case layoutFlatInline:
		// As erofs_map_blocks_flatmode in fs/erofs/data.c: the last block, whole or not, follows the inode.
		if r.Size > 0 {
			r.head = (r.Size - 1) &^ (blockSize - 1)
		}
		r.headOff, r.tailOff = int64(r.data)<<img.super.blockBits, at+r.headerSize
		if tail := r.Size - r.head; tail > 0 && r.tailOff%blockSize+tail > blockSize {
			return errors.New("has inline data that crosses a block boundary")
		}
	case layoutChunkBased:
		if !r.IsRegular() {
			return errors.New("is a folder or symlink made of chunks")
		}
		return img.placeChunks(r, at)
	case 1, 3:
		return errors.New("is compressed; files are served straight from the image, make it without -z")
	default:
		return fmt.Errorf("has the unknown data layout %d", r.layout)
	}
	if r.head > 0 && (r.head > img.size || r.headOff > img.size-r.head) {
		return fmt.Errorf("has its data past the end of the image (%d bytes at %d of %d)", r.head, r.headOff, img.size)
	}
	if tail := r.Size - r.head; tail > 0 && r.tailOff > img.size-tail {
		return fmt.Errorf("has its inline data past the end of the image")
	}
	return nil
}

// placeChunks reads the chunk map of a chunk-based file: block addresses of four bytes, or indexes of eight.
func (img *Image) placeChunks(r *rawInode, at int64) error {
	if r.data&^chunkKnown != 0 {
		return fmt.Errorf("has the unknown chunk format %#x", r.data)
	}
	bits := uint(img.super.blockBits) + uint(r.data&chunkBitsMask)
	if r.Size == 0 {
		return nil
	}
	count := (r.Size-1)>>bits + 1
	unit := int64(4)
	if r.data&chunkIndexes != 0 {
		unit = 8
	}
	start := at + r.headerSize
	start = (start + unit - 1) &^ (unit - 1)
	if count > img.size/unit || start > img.size-count*unit {
		return errors.New("has its chunk map past the end of the image")
	}
	if img.budget -= count * 4; img.budget < 0 {
		return errors.New("has a chunk map that the image has no room for")
	}
	raw := make([]byte, count*unit)
	if _, err := img.blocks.ReadAt(raw, start); err != nil {
		return fmt.Errorf("has an unreadable chunk map: %w", err)
	}
	var list []extent
	for i := range count {
		e := raw[i*unit:]
		block := le.Uint32(e)
		if unit == 8 {
			if dev := le.Uint16(e[2:]); dev != 0 {
				return fmt.Errorf("has data on extra device %d", dev)
			}
			block = le.Uint32(e[4:])
		}
		off := i << bits
		size := min(int64(1)<<bits, r.Size-off)
		place := int64(hole)
		if block != chunkHole {
			place = int64(block) << img.super.blockBits
			if size > img.size || place > img.size-size {
				return fmt.Errorf("has a chunk past the end of the image (block %d)", block)
			}
		}
		if n := len(list); n > 0 {
			prev := list[n-1]
			if place == hole && prev.place == hole ||
				place != hole && prev.place != hole && prev.place+off-prev.off == place {
				continue
			}
		}
		list = append(list, extent{off, place})
	}
	r.side = int32(len(img.chunks))
	img.chunks = append(img.chunks, list)
	return nil
}

// Extent says where the data of i from off on is: n bytes at place of the image file, or n zeros that are stored nowhere
// when place is -1. ok is false past the end, and for what has no data.
func (img *Image) Extent(i *Inode, off int64) (place, n int64, ok bool) {
	if off < 0 || off >= i.Size {
		return 0, 0, false
	}
	if i.side < 0 || !i.IsRegular() {
		if off < i.head {
			return i.headOff + off, i.head - off, true
		}
		return i.tailOff + off - i.head, i.Size - off, true
	}
	list := img.chunks[i.side]
	lo, hi := 0, len(list)
	for hi-lo > 1 {
		if mid := int(uint(lo+hi) >> 1); list[mid].off <= off {
			lo = mid
		} else {
			hi = mid
		}
	}
	end := i.Size
	if hi < len(list) {
		end = list[hi].off
	}
	if list[lo].place == hole {
		return hole, end - off, true
	}
	return list[lo].place + off - list[lo].off, end - off, true
}

// ReadAt reads the data of a file, a symlink or a folder, as of io.ReaderAt.
func (img *Image) ReadAt(i *Inode, p []byte, off int64) (int, error) {
	n, err := img.readAt(i, p, off, img.file.ReadAt)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read inode %d of image %s: %w", i.Nid, img.path, err)
	}
	return n, err
}

func (img *Image) readAt(i *Inode, p []byte, off int64, read func([]byte, int64) (int, error)) (int, error) {
	done := 0
	for done < len(p) {
		place, n, ok := img.Extent(i, off+int64(done))
		if !ok {
			return done, io.EOF
		}
		part := p[done:min(int64(len(p)), int64(done)+n)]
		if place == hole {
			clear(part)
		} else if k, err := read(part, place); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF // the file became shorter after Open
			}
			return done + k, err
		}
		done += len(part)
	}
	return done, nil
}

// loadLink remembers the target of a symlink: there are few of them, and walking a path needs them again and again.
func (img *Image) loadLink(i *Inode) error {
	if img.budget -= i.Size; img.budget < 0 {
		return errors.New("has a target that the image has no room for")
	}
	buf := make([]byte, i.Size)
	if _, err := img.readAt(i, buf, 0, img.blocks.ReadAt); err != nil {
		return fmt.Errorf("has an unreadable target: %w", err)
	}
	i.side = int32(len(img.links))
	img.links = append(img.links, string(buf))
	return nil
}

// Readlink is the target of a symlink.
func (img *Image) Readlink(i *Inode) (string, error) {
	if !i.IsSymlink() {
		return "", fmt.Errorf("read link: inode %d of image %s is not a symlink", i.Nid, img.path)
	}
	return img.links[i.side], nil
}

// xattrPrefix are the name prefixes EROFS stores as numbers (EROFS_XATTR_INDEX_*).
func xattrPrefix(index byte) (string, bool) {
	switch index {
	case 0:
		return "", true
	case 1:
		return "user.", true
	case 2:
		return "system.posix_acl_access", true
	case 3:
		return "system.posix_acl_default", true
	case 4:
		return "trusted.", true
	case 5:
		return "lustre.", true
	case 6:
		return "security.", true
	}
	return "", false
}

// Xattrs reads the extended attributes of an inode from the image; nil when it has none. The long name prefixes of newer
// mkfs.erofs (-E xattr-prefix) are refused.
func (img *Image) Xattrs(i *Inode) (map[string]string, error) {
	if i.attrSize == 0 {
		return nil, nil
	}
	fail := func(what string) (map[string]string, error) {
		return nil, fmt.Errorf("read attributes of inode %d of image %s: %s", i.Nid, img.path, what)
	}
	body := make([]byte, i.attrSize)
	if _, err := img.file.ReadAt(body, i.attrOff); err != nil {
		return fail(err.Error())
	}
	shared := int(body[4])
	if len(body) < 12+4*shared {
		return fail("the list of shared attributes is cut off")
	}
	list, inline := body[12:12+4*shared], body[12+4*shared:]
	attrs := make(map[string]string)
	for ; len(list) > 0; list = list[4:] {
		at := img.super.xattrStart + 4*int64(le.Uint32(list))
		var head [4]byte
		if _, err := img.file.ReadAt(head[:], at); err != nil {
			return fail("a shared attribute lies past the end of the image")
		}
		entry := make([]byte, 4+int(head[0])+int(le.Uint16(head[2:])))
		if _, err := img.file.ReadAt(entry, at); err != nil {
			return fail("a shared attribute lies past the end of the image")
		}
		if _, ok := addXattr(attrs, entry); !ok {
			return fail("a shared attribute is malformed")
		}
	}
	for len(inline) >= 4 && le.Uint32(inline) != 0 { // an entry of zeros is padding
		n, ok := addXattr(attrs, inline)
		if !ok {
			return fail("an attribute is malformed")
		}
		inline = inline[min(n, len(inline)):]
	}
	return attrs, nil
}

// addXattr adds the entry at the start of b to attrs and says how long it is with its padding.
func addXattr(attrs map[string]string, b []byte) (int, bool) {
	prefix, ok := xattrPrefix(b[1])
	end := 4 + int(b[0]) + int(le.Uint16(b[2:]))
	if !ok || end > len(b) {
		return 0, false
	}
	name := b[4 : 4+int(b[0])]
	attrs[prefix+string(name)] = string(b[4+len(name) : end])
	return (end + 3) &^ 3, true
}
