package initramfs

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// Types in st_mode. The archive's own words, so that no host's file modes come in between.
const (
	modeDir     = 0o040000
	modeFile    = 0o100000
	modeSymlink = 0o120000
	modeChar    = 0o020000
)

// An entry is one name of the archive.
type entry struct {
	name         string
	mode         uint32 // st_mode, type included
	data         []byte // content of a file, target of a symbolic link
	from         string // or: the file of the root that has the content, which is read when it is written
	size         int64  // of that file
	major, minor uint32 // of a device
}

// length is that of the content.
func (e *entry) length() int64 {
	if e.from != "" {
		return e.size
	}
	return int64(len(e.data))
}

// writeCPIO writes the "newc" format of Documentation/driver-api/early-userspace/buffer-format.rst: sorted by name, everything owned by root and of the
// same age, inodes numbered from 1. Files of equal content become hard links, with the content at the last name as
// GNU cpio has it; the kernel takes either.
func writeCPIO(w io.Writer, root fs.FS, entries []entry) error {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	c := &cpioWriter{w: w, root: root, buf: make([]byte, 0, 256<<10)}
	links, err := c.links(entries)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	var inode uint32
	for i := range entries {
		e := &entries[i]
		if i > 0 && entries[i-1].name == e.name {
			return fmt.Errorf("write initramfs: %s is in it twice", e.name)
		}
		g := links[i]
		if g == nil {
			inode++
			n := uint32(1)
			if e.mode&0o170000 == modeDir {
				n = 2
			}
			c.entry(e, inode, n, true)
			continue
		}
		if g.inode == 0 {
			inode++
			g.inode = inode
		}
		g.left--
		c.entry(e, g.inode, g.links, g.left == 0)
	}
	c.entry(&entry{name: "TRAILER!!!"}, 0, 1, true)
	c.pad(512) // as GNU cpio; a concatenated archive may follow
	c.flush()
	if c.err != nil {
		return fmt.Errorf("write initramfs: %w", c.err)
	}
	return nil
}

// A cpioWriter writes through one buffer, which files are read into as well.
type cpioWriter struct {
	w    io.Writer
	root fs.FS
	buf  []byte
	n    int64
	err  error
}

// A linked is a file with several names.
type linked struct{ inode, links, left uint32 }

// links finds the files of equal content and mode. Only those of equal length are read for it.
func (c *cpioWriter) links(entries []entry) (map[int]*linked, error) {
	type kind struct {
		mode uint32
		size int64
	}
	alike := map[kind][]int{}
	for i := range entries {
		if e := &entries[i]; e.mode&0o170000 == modeFile && e.length() > 0 {
			k := kind{e.mode, e.length()}
			alike[k] = append(alike[k], i)
		}
	}
	all := map[int]*linked{}
	for _, list := range alike {
		if len(list) < 2 {
			continue
		}
		groups := map[[sha256.Size]byte]*linked{}
		for _, i := range list {
			h := sha256.New()
			if err := c.content(&entries[i], func(p []byte) error { h.Write(p); return nil }); err != nil {
				return nil, err
			}
			sum := [sha256.Size]byte(h.Sum(nil))
			if groups[sum] == nil {
				groups[sum] = &linked{}
			}
			groups[sum].links++
			groups[sum].left++
			all[i] = groups[sum]
		}
	}
	return all, nil
}

// content calls each with the content of an entry, piece by piece, through the free part of the buffer.
func (c *cpioWriter) content(e *entry, each func(p []byte) error) error {
	if e.from == "" {
		return each(e.data)
	}
	f, err := c.root.Open(e.from)
	if err != nil {
		return err
	}
	defer f.Close()
	for left := e.size; ; {
		if len(c.buf) == cap(c.buf) {
			c.flush()
		}
		n, err := f.Read(c.buf[len(c.buf):cap(c.buf)])
		if left -= int64(n); left < 0 || err == io.EOF && left > 0 {
			return fmt.Errorf("/%s changed while it was read", e.from)
		}
		if n > 0 {
			if err := each(c.buf[len(c.buf) : len(c.buf)+n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *cpioWriter) entry(e *entry, inode, links uint32, body bool) {
	size := int64(0)
	if body {
		size = e.length()
	}
	if size > 1<<32-1 {
		c.fail(fmt.Errorf("%s is larger than 4 GiB", e.name))
	}
	// magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, e.mode, 0, 0, links, 0, size, 0, 0, e.major, e.minor, len(e.name)+1, 0))
	c.write(append([]byte(e.name), 0))
	c.pad(4)
	if size > 0 && c.err == nil {
		c.fail(c.content(e, func(p []byte) error { c.write(p); return c.err }))
	}
	c.pad(4)
}

func (c *cpioWriter) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// write appends to the buffer; what was read into its free part is there already, and moves nowhere.
func (c *cpioWriter) write(b []byte) {
	c.n += int64(len(b))
	for len(b) > 0 && c.err == nil {
		n := copy(c.buf[len(c.buf):cap(c.buf)], b)
		c.buf = c.buf[:len(c.buf)+n]
		b = b[n:]
		if len(c.buf) == cap(c.buf) {
			c.flush()
		}
	}
}

func (c *cpioWriter) flush() {
	if c.err == nil {
		_, c.err = c.w.Write(c.buf)
	}
	c.buf = c.buf[:0]
}

func (c *cpioWriter) pad(to int64) {
	if r := c.n % to; r != 0 {
		c.write(make([]byte, to-r))
	}
}
