package image

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// linkMax is how many symlinks one name may lead through, as in the kernel.
const linkMax = 40

// FS shows the image as an fs.FS that also lists, stats and reads links (fs.ReadDirFS, fs.StatFS, fs.ReadLinkFS,
// fs.ReadFileFS). Symlinks are followed inside the image: an absolute target starts at its root and ".." never leaves it.
// Sys of a FileInfo is a *syscall.Stat_t, as of os.DirFS, so that code for folders on disk works on images.
func (img *Image) FS() fs.FS { return imageFS{img} }

type imageFS struct{ img *Image }

var (
	_ fs.ReadDirFS  = imageFS{}
	_ fs.StatFS     = imageFS{}
	_ fs.ReadLinkFS = imageFS{}
	_ fs.ReadFileFS = imageFS{}
)

// walk follows name from the root; the last component is followed only when follow is set.
func (f imageFS) walk(name string, follow bool) (*Inode, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	at, links, rest := f.img.root, 0, name
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		if part == "" || part == "." {
			if !at.IsDir() {
				return nil, syscall.ENOTDIR
			}
			continue
		}
		if !at.IsDir() {
			return nil, syscall.ENOTDIR
		}
		next, ok := f.img.Lookup(at, part)
		if !ok {
			return nil, fs.ErrNotExist
		}
		if !next.IsSymlink() || rest == "" && !follow {
			at = next
			continue
		}
		if links++; links > linkMax {
			return nil, syscall.ELOOP
		}
		target, err := f.img.Readlink(next)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(target, "/") {
			at = f.img.root
		}
		if rest != "" {
			target += "/" + rest
		}
		rest = target
	}
	return at, nil
}

// Find follows a path from the root, symlinks too, inside the image; "" is the root. Errors are those of the system: fs.ErrNotExist,
// syscall.ENOTDIR, syscall.ELOOP.
func (img *Image) Find(path string) (*Inode, error) {
	if path = strings.Trim(path, "/"); path == "" {
		path = "."
	}
	return imageFS{img}.walk(path, true)
}

func (f imageFS) find(op, name string, follow bool) (*Inode, error) {
	i, err := f.walk(name, follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return i, nil
}

func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// Open opens a file or a folder.
func (f imageFS) Open(name string) (fs.File, error) {
	i, err := f.find("open", name, true)
	if err != nil {
		return nil, err
	}
	info := fileInfo{base(name), i}
	if i.IsDir() {
		return &openDir{fileInfo: info, path: name, list: f.list(i)}, nil
	}
	if !i.IsRegular() {
		return &openFile{info, f.img, io.NewSectionReader(strings.NewReader(""), 0, 0)}, nil
	}
	return &openFile{info, f.img, io.NewSectionReader(inodeReader{f.img, i}, 0, i.Size)}, nil
}

// Stat follows symlinks, Lstat does not follow the last one.
func (f imageFS) Stat(name string) (fs.FileInfo, error) {
	i, err := f.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return fileInfo{base(name), i}, nil
}

func (f imageFS) Lstat(name string) (fs.FileInfo, error) {
	i, err := f.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return fileInfo{base(name), i}, nil
}

// ReadLink is the target of the symlink name, as it is stored.
func (f imageFS) ReadLink(name string) (string, error) {
	i, err := f.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if !i.IsSymlink() {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return f.img.Readlink(i)
}

// ReadDir lists a folder, sorted by name.
func (f imageFS) ReadDir(name string) ([]fs.DirEntry, error) {
	i, err := f.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !i.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	return f.list(i), nil
}

func (f imageFS) list(dir *Inode) []fs.DirEntry {
	entries := f.img.Entries(dir)
	list := make([]fs.DirEntry, len(entries))
	for n, e := range entries {
		list[n] = fileInfo{e.Name, e.Inode}
	}
	return list
}

// ReadFile reads a whole regular file.
func (f imageFS) ReadFile(name string) ([]byte, error) {
	i, err := f.find("read", name, true)
	if err != nil {
		return nil, err
	}
	if !i.IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("not a regular file (mode %#o)", i.Mode)}
	}
	buf := make([]byte, i.Size)
	if _, err := f.img.ReadAt(i, buf, 0); err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return buf, nil
}

type inodeReader struct {
	img *Image
	i   *Inode
}

func (r inodeReader) ReadAt(p []byte, off int64) (int, error) { return r.img.ReadAt(r.i, p, off) }

type openFile struct {
	fileInfo
	img *Image
	*io.SectionReader
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.fileInfo, nil }
func (f *openFile) Close() error               { return nil }
func (f *openFile) Size() int64                { return f.i.Size }

// Within says where the file's bytes begin in the image's own file, for sendfile; nil when they do not lie together there.
func (f *openFile) Within() (*os.File, int64) {
	if place, n, ok := f.img.Extent(f.i, 0); ok && f.i.IsRegular() && place >= 0 && n == f.i.Size {
		return f.img.file, place
	}
	return nil, 0
}

type openDir struct {
	fileInfo
	path string
	list []fs.DirEntry
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.fileInfo, nil }
func (d *openDir) Close() error               { return nil }
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: syscall.EISDIR}
}

func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.list)
	} else if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	part := d.list[:n:n]
	d.list = d.list[n:]
	return part, nil
}

// fileInfo is both the fs.FileInfo and the fs.DirEntry of an inode.
type fileInfo struct {
	name string
	i    *Inode
}

func (s fileInfo) Name() string               { return s.name }
func (s fileInfo) Size() int64                { return s.i.Size }
func (s fileInfo) ModTime() time.Time         { return s.i.Mtime }
func (s fileInfo) IsDir() bool                { return s.i.IsDir() }
func (s fileInfo) Type() fs.FileMode          { return s.Mode().Type() }
func (s fileInfo) Info() (fs.FileInfo, error) { return s, nil }
func (s fileInfo) String() string             { return fs.FormatFileInfo(s) }

func (s fileInfo) Mode() fs.FileMode {
	m := fs.FileMode(s.i.Mode & 0o777)
	switch s.i.Mode & modeType {
	case modeDir:
		m |= fs.ModeDir
	case modeSymlink:
		m |= fs.ModeSymlink
	case modeBlock:
		m |= fs.ModeDevice
	case modeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case modeFifo:
		m |= fs.ModeNamedPipe
	case modeSocket:
		m |= fs.ModeSocket
	}
	if s.i.Mode&syscall.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if s.i.Mode&syscall.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if s.i.Mode&syscall.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

func (s fileInfo) Sys() any {
	t := syscall.Timespec{Sec: s.i.Mtime.Unix(), Nsec: int64(s.i.Mtime.Nanosecond())}
	return &syscall.Stat_t{
		Ino: s.i.Nid, Mode: s.i.Mode, Nlink: uint64(s.i.Nlink), Uid: s.i.UID, Gid: s.i.GID, Rdev: s.i.Rdev,
		Size: s.i.Size, Blksize: 4096, Blocks: (s.i.Size + 511) / 512, Atim: t, Mtim: t, Ctim: t,
	}
}
