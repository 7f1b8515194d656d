package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"time"
)

// An Image is an open root.erofs: every inode and every directory is in memory, the data stays in the file.
// It never changes, so all methods may be used from any number of goroutines without a lock. Inodes are told apart by
// their address as well as by Nid: one number is always the same *Inode.
type Image struct {
	path   string
	file   *os.File
	size   int64
	super  super
	root   *Inode
	byNid  map[uint64]*Inode
	dirs   []directory
	links  []string
	chunks [][]extent
	used   int64
	blocks *blockCache // only while opening
	slab   []Inode
	budget int64
}

// An Inode is what stat says of a file. The fields are not to be changed.
type Inode struct {
	Nid      uint64
	Mode     uint32 // st_mode, with the type bits
	UID, GID uint32
	Nlink    uint32
	Rdev     uint64
	Size     int64
	Mtime    time.Time

	// Bytes [0, head) of the data are at headOff of the image, the rest at tailOff; unless it has a chunk map.
	head, headOff, tailOff int64
	attrOff                int64
	attrSize               int32
	side                   int32 // index into dirs for a folder, links for a symlink, chunks for a file with a chunk map; else -1
}

// IsDir, IsRegular and IsSymlink tell the file types apart that matter to a reader.
func (i *Inode) IsDir() bool     { return i.Mode&modeType == modeDir }
func (i *Inode) IsRegular() bool { return i.Mode&modeType == modeRegular }
func (i *Inode) IsSymlink() bool { return i.Mode&modeType == modeSymlink }

// An Entry is one name in a directory. "." and ".." are not among them.
type Entry struct {
	Name  string
	Inode *Inode
}

type directory struct {
	self, parent *Inode
	entries      []Entry // sorted by name, bytewise
}

// Open reads the whole inode tree of the image at path and checks it on the way: an image that opens has no entry
// that leads nowhere. The file stays open until Close.
func Open(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	img, err := newImage(f, path)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open image %s: %w", path, err)
	}
	return img, nil
}

func newImage(f *os.File, path string) (*Image, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	img := &Image{path: path, file: f, size: st.Size()}
	head := make([]byte, min(img.size, 1<<16+superOffset))
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	if img.super, err = decodeSuper(head, img.size); err != nil {
		return nil, err
	}
	img.byNid = make(map[uint64]*Inode)
	img.blocks = &blockCache{file: f, size: img.size}
	// Entries, chunk addresses and symlink targets take their room in the image, so an honest one cannot hold more of
	// them than this; a forged one whose folders share their blocks stops here instead of filling the memory.
	img.budget = img.size
	if err := img.walk(); err != nil {
		return nil, err
	}
	img.blocks, img.slab = nil, nil
	return img, nil
}

// walk reads every directory from the root down, and with it every inode.
func (img *Image) walk() error {
	root, err := img.load(img.super.rootNid)
	if err != nil {
		return fmt.Errorf("root folder: %w", err)
	}
	if !root.IsDir() {
		return errors.New("the root inode is not a folder")
	}
	img.root = root
	img.addDir(root, root)
	for next := 0; next < len(img.dirs); next++ {
		if err := img.readDir(next); err != nil {
			return fmt.Errorf("folder %q (inode %d): %w", img.dirPath(img.dirs[next].self), img.dirs[next].self.Nid, err)
		}
	}
	return nil
}

func (img *Image) addDir(self, parent *Inode) {
	self.side = int32(len(img.dirs))
	img.dirs = append(img.dirs, directory{self: self, parent: parent})
}

func (img *Image) dirPath(dir *Inode) string {
	path := ""
	for dir != img.root {
		up := img.Parent(dir)
		for _, e := range img.Entries(up) {
			if e.Inode == dir {
				path = "/" + e.Name + path
				break
			}
		}
		dir = up
	}
	if path == "" {
		return "/"
	}
	return path
}

// readDir fills in the entries of img.dirs[n], and appends its subfolders to img.dirs.
func (img *Image) readDir(n int) error {
	self, parent := img.dirs[n].self, img.dirs[n].parent
	if self.Size == 0 || self.Size > img.size {
		return fmt.Errorf("has the impossible size %d", self.Size)
	}
	data := make([]byte, self.Size)
	if _, err := img.readAt(self, data, 0, img.blocks.ReadAt); err != nil {
		return fmt.Errorf("read entries: %w", err)
	}
	blockSize := 1 << img.super.blockBits
	names := 0 // bytes of all names: they share one string
	count := 0
	scan := func(f func(dirent) error) error {
		for at := 0; at < len(data); at += blockSize {
			if err := eachDirent(data[at:min(at+blockSize, len(data))], f); err != nil {
				return fmt.Errorf("entry block at %d: %w", at, err)
			}
		}
		return nil
	}
	err := scan(func(d dirent) error {
		names += len(d.name)
		count++
		return nil
	})
	if err != nil {
		return err
	}
	if img.budget -= int64(count) * direntSize; img.budget < 0 {
		return errors.New("the folders hold more entries than the image has room for")
	}
	arena := make([]byte, 0, names)
	err = scan(func(d dirent) error { arena = append(arena, d.name...); return nil })
	if err != nil {
		return err
	}
	text := string(arena)
	entries := make([]Entry, 0, max(count-2, 0))
	last, dots := "", 0
	err = scan(func(d dirent) error {
		name := text[:len(d.name)]
		text = text[len(d.name):]
		// The kernel finds names by binary search, over blocks and inside them (fs/erofs/namei.c).
		if name <= last {
			return fmt.Errorf("name %q after %q: not sorted", name, last)
		}
		last = name
		switch name {
		case ".", "..":
			dots++
			want := self
			if name == ".." {
				want = parent
			}
			if d.nid != want.Nid {
				return fmt.Errorf("%q is inode %d, want %d", name, d.nid, want.Nid)
			}
			return nil
		}
		child, err := img.load(d.nid)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if d.typ != 0 && d.typ != child.Mode&modeType {
			return fmt.Errorf("%q is inode %d of type %#o, the entry says %#o", name, d.nid, child.Mode&modeType, d.typ)
		}
		if child.IsDir() {
			if child.side >= 0 {
				return fmt.Errorf("%q: folder inode %d has two names", name, d.nid)
			}
			img.addDir(child, self)
		}
		entries = append(entries, Entry{name, child})
		return nil
	})
	if err != nil {
		return err
	}
	if dots != 2 {
		return errors.New(`"." or ".." is missing`)
	}
	img.dirs[n].entries = entries
	return nil
}

// load returns the inode nid, reading it when it was not seen before.
func (img *Image) load(nid uint64) (*Inode, error) {
	if i := img.byNid[nid]; i != nil {
		return i, nil
	}
	if nid > uint64(img.size)/slotSize {
		return nil, fmt.Errorf("inode %d lies past the end of the image", nid)
	}
	at := img.super.metaStart + int64(nid)*slotSize
	var buf [inodeExtendSize]byte
	n, err := img.blocks.ReadAt(buf[:], at)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read inode %d: %w", nid, err)
	}
	raw, err := decodeInode(buf[:n], &img.super)
	if err == nil {
		raw.Nid = nid
		err = img.place(&raw, at)
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d %w", nid, err)
	}
	if len(img.slab) == cap(img.slab) {
		img.slab = make([]Inode, 0, 512)
	}
	img.slab = append(img.slab, raw.Inode)
	i := &img.slab[len(img.slab)-1]
	if i.IsSymlink() {
		if err := img.loadLink(i); err != nil {
			return nil, fmt.Errorf("inode %d %w", nid, err)
		}
	}
	img.byNid[nid] = i
	img.used += i.Size
	return i, nil
}

// Path is the name the image was opened by.
func (img *Image) Path() string { return img.path }

// File is the open image itself, for sendfile and the like; its offset is nobody's.
func (img *Image) File() *os.File { return img.file }

// Close closes the file. The index stays usable, data does not.
func (img *Image) Close() error { return img.file.Close() }

// Size is the length of the image file.
func (img *Image) Size() int64 { return img.size }

// Inodes is the number of inodes, and Used the sum of their sizes.
func (img *Image) Inodes() int { return len(img.byNid) }
func (img *Image) Used() int64 { return img.used }

// BlockSize is the unit the data is laid out in.
func (img *Image) BlockSize() int64 { return 1 << img.super.blockBits }

// Root is the root folder.
func (img *Image) Root() *Inode { return img.root }

// Inode finds an inode by number; only numbers that a name leads to are found.
func (img *Image) Inode(nid uint64) (*Inode, bool) {
	i, ok := img.byNid[nid]
	return i, ok
}

// Entries lists a folder, sorted by name bytewise; it is nil for anything else. The slice belongs to the image: the place of
// an entry in it never changes, so that it can serve as a directory cookie.
func (img *Image) Entries(dir *Inode) []Entry {
	if !dir.IsDir() {
		return nil
	}
	return img.dirs[dir.side].entries
}

// Parent is the folder that holds dir, the root for the root itself, and nil for anything that is not a folder.
func (img *Image) Parent(dir *Inode) *Inode {
	if !dir.IsDir() {
		return nil
	}
	return img.dirs[dir.side].parent
}

// Lookup finds a name in a folder. "." and ".." are found too.
func (img *Image) Lookup(dir *Inode, name string) (*Inode, bool) {
	if !dir.IsDir() {
		return nil, false
	}
	d := &img.dirs[dir.side]
	switch name {
	case ".":
		return d.self, true
	case "..":
		return d.parent, true
	}
	n := sort.Search(len(d.entries), func(i int) bool { return d.entries[i].Name >= name })
	if n < len(d.entries) && d.entries[n].Name == name {
		return d.entries[n].Inode, true
	}
	return nil, false
}

// blockCache reads small pieces of a file through a few remembered windows.
type blockCache struct {
	file io.ReaderAt
	size int64
	slot [256]struct {
		at   int64
		data []byte
	}
}

const cacheWindow = 16 << 10

// ReadAt is as of io.ReaderAt.
func (c *blockCache) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at < 0 || at >= c.size {
			return done, io.EOF
		}
		start := at - at%cacheWindow
		s := &c.slot[start/cacheWindow%int64(len(c.slot))]
		if s.data == nil || s.at != start {
			n := int(min(cacheWindow, c.size-start))
			if cap(s.data) < n {
				s.data = make([]byte, n)
			}
			s.data, s.at = s.data[:n], start
			if _, err := c.file.ReadAt(s.data, start); err != nil {
				s.data = nil
				return done, err
			}
		}
		done += copy(p[done:], s.data[at-start:])
	}
	return done, nil
}
