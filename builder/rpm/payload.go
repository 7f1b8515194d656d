package rpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"netroot/builder/compress"
)

// Flags of a file in a package (rpm's include/rpm/rpmfiles.h).
const (
	FileConfig    = 1 << 0
	FileDoc       = 1 << 1
	FileMissingOK = 1 << 3
	FileNoReplace = 1 << 4
	FileGhost     = 1 << 6
)

// An Entry is one path that a package owns.
type Entry struct {
	Name        string // absolute, clean
	Mode        uint32 // as in stat(2), with the type
	User, Group string
	MTime       int64 // seconds
	Size        int64
	RDev        uint32
	Inode       uint64
	Flags       uint32
	Link        string // of a symbolic link
	Caps        string // file capabilities, as cap_from_text(3) reads them
}

// Types of files in Mode.
const (
	modeType    = 0o170000
	ModeDir     = 0o040000
	ModeRegular = 0o100000
	ModeLink    = 0o120000
	ModeChar    = 0o020000
	ModeBlock   = 0o060000
	ModeFIFO    = 0o010000
)

// Type returns the type bits of the mode.
func (e *Entry) Type() uint32 { return e.Mode & modeType }

// Entries lists the paths of the package in the order of its header, ghosts included.
func (f *File) Entries() ([]Entry, error) {
	h := f.Header
	base, dirs, index := h.Strings(TagBaseNames), h.Strings(TagDirNames), h.Numbers(TagDirIndexes)
	n := len(base)
	if n == 0 {
		if h.Has(TagBaseNames) {
			return nil, fmt.Errorf("%s: its list of files cannot be read", f)
		}
		return nil, nil
	}
	sizes := h.Numbers(TagLongFileSizes)
	if sizes == nil {
		sizes = h.Numbers(TagFileSizes)
	}
	modes, rdevs, mtimes, flags, inodes := h.Numbers(TagFileModes), h.Numbers(TagFileRDevs), h.Numbers(TagFileMTimes), h.Numbers(TagFileFlags), h.Numbers(TagFileInodes)
	users, groups, links, caps := h.Strings(TagFileUserNames), h.Strings(TagFileGroupNames), h.Strings(TagFileLinkTos), h.Strings(TagFileCaps)
	for _, have := range []int{len(index), len(sizes), len(modes), len(rdevs), len(mtimes), len(flags), len(inodes), len(users), len(groups), len(links)} {
		if have != n {
			return nil, fmt.Errorf("%s: its lists of files have %d names and %d values", f, n, have)
		}
	}
	entries := make([]Entry, n)
	for i := range entries {
		if index[i] >= uint64(len(dirs)) || strings.Contains(base[i], "/") {
			return nil, fmt.Errorf("%s: the name of file %d cannot be read", f, i)
		}
		name := path.Clean(dirs[index[i]] + base[i])
		if !strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
			return nil, fmt.Errorf("%s: file %q has no absolute name", f, name)
		}
		entries[i] = Entry{
			Name: name, Mode: uint32(modes[i]), User: users[i], Group: groups[i], MTime: int64(mtimes[i]), Size: int64(sizes[i]),
			RDev: uint32(rdevs[i]), Inode: inodes[i], Flags: uint32(flags[i]), Link: links[i],
		}
		if len(caps) == n {
			entries[i].Caps = caps[i]
		}
	}
	return entries, nil
}

// Walk calls do for every path in the payload, in its order, with the entry of the header that describes it and the file's bytes. Of
// several names of one file only the last has the bytes; rpm writes them so (lib/fsm.c).
func (f *File) Walk(ctx context.Context, do func(e *Entry, data io.Reader) error) error {
	entries, err := f.Entries()
	if err != nil {
		return err
	}
	byName := make(map[string]*Entry, len(entries))
	for i := range entries {
		byName[entries[i].Name] = &entries[i]
	}
	raw, size, ext, err := f.Payload()
	if err != nil {
		return fmt.Errorf("%s: %w", f, err)
	}
	z, err := compress.Open(ctx, raw, size, ext)
	if err != nil {
		return fmt.Errorf("%s: open its payload: %w", f, err)
	}
	defer z.Close()
	a := archive{r: z}
	for {
		m, err := a.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: read its payload: %w", f, err)
		}
		e := byName[path.Clean("/"+m.name)]
		if e == nil {
			return fmt.Errorf("%s: its payload has %q, which its header does not", f, m.name)
		}
		if e.Type() != m.mode&modeType || e.Type() == ModeRegular && m.size != 0 && m.size != e.Size {
			return fmt.Errorf("%s: its payload and its header differ about %s", f, e.Name)
		}
		if err := do(e, &a); err != nil {
			return fmt.Errorf("%s: %s: %w", f, e.Name, err)
		}
	}
}

// A member is one header of a cpio archive.
type member struct {
	name string
	mode uint32
	size int64
}

// An archive reads a cpio archive in the "new" formats (cpio(5), 070701 and 070702) as a stream. Reading from it reads the
// current member.
type archive struct {
	r    io.Reader
	left int64 // of the member
	pad  int64 // behind it
}

const (
	cpioHeader  = 110
	maxCpioName = 4096
)

func (a *archive) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	n, err := a.r.Read(p[:min(int64(len(p)), a.left)])
	a.left -= int64(n)
	if err == io.EOF && a.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next goes to the next member; io.EOF is the trailer.
func (a *archive) next() (member, error) {
	if _, err := io.CopyN(io.Discard, a.r, a.left+a.pad); err != nil {
		return member{}, short(err)
	}
	a.left, a.pad = 0, 0
	var head [cpioHeader]byte
	if _, err := io.ReadFull(a.r, head[:]); err != nil {
		return member{}, short(err)
	}
	switch {
	case bytes.HasPrefix(head[:], []byte("070701")), bytes.HasPrefix(head[:], []byte("070702")):
	case bytes.HasPrefix(head[:], []byte("07070X")):
		return member{}, errors.New("it holds a file of more than 4 GiB, in a format that is not known")
	default:
		return member{}, errors.New("it is no cpio archive")
	}
	field := func(i int) (uint64, error) { return strconv.ParseUint(string(head[6+8*i:][:8]), 16, 32) }
	mode, err1 := field(1)
	size, err2 := field(6)
	nameLen, err3 := field(11)
	if err := errors.Join(err1, err2, err3); err != nil || nameLen == 0 || nameLen > maxCpioName {
		return member{}, errors.New("the header of a file in it is damaged")
	}
	name := make([]byte, (cpioHeader+nameLen+3)&^3-cpioHeader)
	if _, err := io.ReadFull(a.r, name); err != nil {
		return member{}, short(err)
	}
	m := member{name: string(bytes.TrimRight(name[:nameLen], "\x00")), mode: uint32(mode), size: int64(size)}
	if m.name == "TRAILER!!!" {
		return member{}, io.EOF
	}
	a.left, a.pad = m.size, -m.size&3
	return m, nil
}
