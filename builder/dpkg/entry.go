package dpkg

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An entry is one file of a package as the root will hold it.
type entry struct {
	Name  string            `json:"n"` // "usr/bin/dash"; "." is the root itself
	Type  byte              `json:"t"` // of archive/tar: '0' file (or hard link), '2' symlink, '3' '4' device, '5' folder, '6' fifo
	Mode  uint32            `json:"m"` // permissions with setuid, setgid, sticky
	UID   int               `json:"u,omitempty"`
	GID   int               `json:"g,omitempty"`
	Sec   int64             `json:"s"`
	Nsec  int64             `json:"ns,omitempty"`
	Link  string            `json:"l,omitempty"`
	Major uint32            `json:"ma,omitempty"`
	Minor uint32            `json:"mi,omitempty"`
	File  int               `json:"f,omitempty"` // number below files/, from 0; hard links share one
	Size  int64             `json:"z,omitempty"`
	Xattr map[string][]byte `json:"x,omitempty"` // of what is no regular file
}

func (e *entry) mtime() time.Time { return time.Unix(e.Sec, e.Nsec) }

// newEntry reads the attributes from a header.
func newEntry(h *tar.Header) (entry, error) {
	name, err := cleanName(h.Name)
	if err != nil {
		return entry{}, err
	}
	e := entry{
		Name: name, Type: h.Typeflag, Mode: uint32(h.Mode) & 0o7777, UID: h.Uid, GID: h.Gid,
		Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond()),
	}
	if e.UID < 0 || e.GID < 0 || int64(e.UID) >= 1<<32-1 || int64(e.GID) >= 1<<32-1 {
		return entry{}, fmt.Errorf("entry %q: owner %d:%d does not exist", name, e.UID, e.GID)
	}
	for key, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if e.Xattr == nil {
				e.Xattr = map[string][]byte{}
			}
			e.Xattr[attr] = []byte(value)
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeFifo:
	case tar.TypeLink:
		e.Type = tar.TypeReg
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxNameBytes || strings.ContainsRune(h.Linkname, 0) {
			return entry{}, fmt.Errorf("entry %q: the link leads nowhere", name)
		}
		e.Link = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return entry{}, fmt.Errorf("entry %q: device %d:%d does not exist", name, h.Devmajor, h.Devminor)
		}
		e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	default:
		return entry{}, fmt.Errorf("entry %q is of the unknown type %q", name, h.Typeflag)
	}
	if name == "." && e.Type != tar.TypeDir {
		return entry{}, errors.New("the root itself is no folder")
	}
	return e, nil
}

// linkTo makes the entry a further name of another one.
func (e *entry) linkTo(t *entry, target string) error {
	if t.Type != tar.TypeReg {
		return fmt.Errorf("entry %q is a hard link to %q, which is no regular file", e.Name, target)
	}
	name := e.Name
	*e = *t
	e.Name = name
	return nil
}

// cleanName makes the name of a tar entry relative to the root, and refuses those that lead out of it.
func cleanName(name string) (string, error) {
	if name == "" || len(name) > maxNameBytes || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("entry name %.80q is not allowed", name)
	}
	if name[0] == '/' {
		return "", fmt.Errorf("entry %q is absolute: the package is hostile or broken", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("entry %q leads out of the root: the package is hostile or broken", name)
		}
	}
	return path.Clean(name), nil
}

// dress gives an open file its owner, mode, extended attributes and time. The order matters: chown takes setuid and
// security.capability away.
func (e *entry) dress(f *os.File) error {
	fd := int(f.Fd())
	if e.UID != 0 || e.GID != 0 {
		if err := unix.Fchown(fd, e.UID, e.GID); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, e.Mode); err != nil {
		return err
	}
	for name, value := range e.Xattr {
		if err := unix.Fsetxattr(fd, name, value, 0); err != nil {
			return fmt.Errorf("set extended attribute %s: %w", name, err)
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: e.Sec, Nsec: e.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, f.Name(), times, unix.AT_SYMLINK_NOFOLLOW)
}

// dressPath gives a path that is no regular file its owner, mode and extended attributes.
func (e *entry) dressPath(at string) error {
	if e.UID != 0 || e.GID != 0 || e.Type == tar.TypeDir {
		if err := unix.Lchown(at, e.UID, e.GID); err != nil {
			return err
		}
	}
	if e.Type != tar.TypeSymlink {
		if err := unix.Chmod(at, e.Mode); err != nil {
			return err
		}
	}
	for name, value := range e.Xattr {
		if err := unix.Lsetxattr(at, name, value, 0); err != nil {
			return fmt.Errorf("set extended attribute %s: %w", name, err)
		}
	}
	return nil
}

func (e *entry) stamp(at string) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: e.Sec, Nsec: e.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, at, times, unix.AT_SYMLINK_NOFOLLOW)
}

// copy stands in for a hard link where none can be made.
func (e *entry) copy(from, at string) error {
	if err := copyFile(from, at); err != nil {
		return err
	}
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	return e.dress(f)
}

// linkOrCopy makes a file available under a second name, by a hard link where that is possible.
func linkOrCopy(from, to string) error {
	err := os.Link(from, to)
	if err == nil || !(errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM)) {
		return err
	}
	return copyFile(from, to)
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
