package initramfs

import (
	"bufio"
	"fmt"
	"io"
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
	major, minor uint32 // of a device
}

// writeCPIO writes the "newc" format of Documentation/driver-api/early-userspace/buffer-format.rst: sorted by name, everything owned by root and of the
// same age, inodes numbered from 1. Files of equal content become hard links, with the content at the last name as
// GNU cpio has it; the kernel takes either.
func writeCPIO(w io.Writer, entries []entry) error {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	type group struct{ inode, links, left uint32 }
	groups := map[string]*group{}
	key := func(e entry) string { return fmt.Sprintf("%o\x00", e.mode) + string(e.data) }
	for _, e := range entries {
		if e.mode&modeFile == modeFile && len(e.data) > 0 && e.mode&0o170000 == modeFile {
			g := groups[key(e)]
			if g == nil {
				g = &group{}
				groups[key(e)] = g
			}
			g.links++
			g.left++
		}
	}
	c := &cpioWriter{w: bufio.NewWriterSize(w, 1<<20)}
	var inode uint32
	for i, e := range entries {
		if i > 0 && entries[i-1].name == e.name {
			return fmt.Errorf("write initramfs: %s is in it twice", e.name)
		}
		if e.mode&0o170000 != modeFile || len(e.data) == 0 {
			inode++
			links := uint32(1)
			if e.mode&0o170000 == modeDir {
				links = 2
			}
			c.entry(e, inode, links, e.data)
			continue
		}
		g := groups[key(e)]
		if g.inode == 0 {
			inode++
			g.inode = inode
		}
		g.left--
		data := e.data
		if g.left > 0 {
			data = nil
		}
		c.entry(e, g.inode, g.links, data)
	}
	c.entry(entry{name: "TRAILER!!!"}, 0, 1, nil)
	c.pad(512) // as GNU cpio; a concatenated archive may follow
	if c.err == nil {
		c.err = c.w.Flush()
	}
	if c.err != nil {
		return fmt.Errorf("write initramfs: %w", c.err)
	}
	return nil
}

type cpioWriter struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (c *cpioWriter) entry(e entry, inode, links uint32, data []byte) {
	if len(data) > 1<<32-1 {
		c.err = fmt.Errorf("%s is larger than 4 GiB", e.name)
	}
	// magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, e.mode, 0, 0, links, 0, len(data), 0, 0, e.major, e.minor, len(e.name)+1, 0))
	c.write(append([]byte(e.name), 0))
	c.pad(4)
	c.write(data)
	c.pad(4)
}

func (c *cpioWriter) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
		c.n += int64(len(b))
	}
}

func (c *cpioWriter) pad(to int64) {
	if r := c.n % to; r != 0 {
		c.write(make([]byte, to-r))
	}
}
