package copytree

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// raw is a text that need not be UTF-8, as names of files need not; JSON would change it.
type raw string

func (r raw) MarshalText() ([]byte, error) {
	if utf8.ValidString(string(r)) {
		return []byte(r), nil
	}
	return []byte("\x00" + hex.EncodeToString([]byte(r))), nil
}

func (r *raw) UnmarshalText(text []byte) error {
	digits, coded := strings.CutPrefix(string(text), "\x00")
	if !coded {
		*r = raw(text)
		return nil
	}
	b, err := hex.DecodeString(digits)
	*r = raw(b)
	return err
}

// An entry is one file of the copy.
type entry struct {
	Name  raw               `json:"n"` // "usr/bin/dash"; "." is the root itself
	Type  byte              `json:"t"` // of archive/tar: '0' file, '1' further name of one, '2' symlink, '3' '4' device, '5' folder, '6' fifo
	Mode  uint32            `json:"m"` // permissions with setuid, setgid, sticky
	UID   int               `json:"u,omitempty"`
	GID   int               `json:"g,omitempty"`
	Sec   int64             `json:"s"` // of the modification time
	Nsec  int64             `json:"ns,omitempty"`
	Link  raw               `json:"l,omitempty"` // of a symlink; of a further name the first one
	Major uint32            `json:"ma,omitempty"`
	Minor uint32            `json:"mi,omitempty"`
	Size  int64             `json:"z,omitempty"`
	Sum   string            `json:"h,omitempty"` // SHA-256 of the contents
	Xattr map[string][]byte `json:"x,omitempty"`
	Sig   string            `json:"sig,omitempty"` // what the original's file system says of it; "" when it has to be read again
	Gone  bool              `json:"gone,omitempty"`
}

func (e *entry) name() string { return string(e.Name) }

const (
	maxNameBytes = 4095 // PATH_MAX of linux/limits.h
	maxEntries   = 16 << 20
	maxFileBytes = 16 << 40 // of ext4; a few bytes of a tar can claim a hole of any size
)

// cleanName makes the name of a file relative to the root, and refuses those that lead out of it. The slash that some tars are
// made with (tar -P) counts for nothing.
func cleanName(name string) (string, error) {
	if name == "" || len(name) > maxNameBytes || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("entry name %.80q is not allowed", name)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return "", fmt.Errorf("entry %.200q leads out of the root", name)
		default:
			if len(part) > 255 { // NAME_MAX
				return "", fmt.Errorf("entry %.200q has a name that is too long", name)
			}
			parts = append(parts, part)
		}
	}
	if parts == nil {
		return ".", nil
	}
	return strings.Join(parts, "/"), nil
}

// errUnkept is for what no copy keeps: sockets, which no tar holds anyway, and GNU tar's own kinds.
var errUnkept = errors.New("not a file that is kept")

// newEntry reads the attributes from a header of a tar.
func newEntry(h *tar.Header) (*entry, error) {
	name, err := cleanName(h.Name)
	if err != nil {
		return nil, err
	}
	e := &entry{
		Name: raw(name), Type: h.Typeflag, Mode: uint32(h.Mode) & 0o7777, UID: h.Uid, GID: h.Gid,
		Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond()),
	}
	if e.UID < 0 || e.GID < 0 || int64(e.UID) >= 1<<32-1 || int64(e.GID) >= 1<<32-1 {
		return nil, fmt.Errorf("entry %q: owner %d:%d does not exist", name, e.UID, e.GID)
	}
	if e.Xattr, err = headerXattrs(h); err != nil {
		return nil, fmt.Errorf("entry %q: %w", name, err)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		if e.Type, e.Size = tar.TypeReg, h.Size; e.Size > maxFileBytes {
			return nil, fmt.Errorf("entry %q: %d bytes are more than a file can have", name, e.Size)
		}
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeLink:
		target, err := cleanName(h.Linkname)
		if err != nil {
			return nil, err
		}
		e.Link = raw(target)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxNameBytes || strings.ContainsRune(h.Linkname, 0) {
			return nil, fmt.Errorf("entry %q: the link leads nowhere", name)
		}
		e.Link = raw(h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, fmt.Errorf("entry %q: device %d:%d does not exist", name, h.Devmajor, h.Devminor)
		}
		e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	default:
		return nil, errUnkept
	}
	if name == "." && e.Type != tar.TypeDir {
		return nil, errors.New("the root itself is no folder")
	}
	return e, nil
}

// keptXattr tells whether an extended attribute means anything in the copy. An overlay's own marks would be taken for those of
// the overlay that the copy is put under, and NFS version 3 has no SELinux labels.
func keptXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, "trusted.overlay."), name == "security.selinux", name == "system.nfs4_acl", strings.HasPrefix(name, "btrfs."):
		return false
	}
	return true
}

// headerXattrs collects the extended attributes and access lists (acl(5)) that GNU tar, Red Hat's tar, bsdtar and star
// write into PAX records.
func headerXattrs(h *tar.Header) (map[string][]byte, error) {
	x := map[string][]byte{}
	for key, value := range h.PAXRecords {
		switch key {
		case "SCHILY.acl.access", "SCHILY.acl.default":
			data, err := parseACL(value)
			if err != nil {
				return nil, err
			}
			if data != nil {
				x["system.posix_acl_"+strings.TrimPrefix(key, "SCHILY.acl.")] = data
			}
			continue
		}
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && keptXattr(name) {
			x[name] = []byte(value)
		}
	}
	if len(x) == 0 {
		return nil, nil
	}
	return x, nil
}

// dress gives a path its owner, mode, extended attributes and time. The order matters: chown takes setuid and
// security.capability away.
func (e *entry) dress(at string) error {
	if err := unix.Lchown(at, e.UID, e.GID); err != nil {
		return fmt.Errorf("give it to %d:%d: %w", e.UID, e.GID, err)
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
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: e.Sec, Nsec: e.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, at, times, unix.AT_SYMLINK_NOFOLLOW)
}

// writeContents writes a new file and leaves out whole blocks of zeros, and returns its size and SHA-256.
func writeContents(at string, r io.Reader, buf []byte) (size int64, sum string, err error) {
	w, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, "", err
	}
	defer func() {
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}()
	h := sha256.New()
	for {
		n, rerr := fill(r, buf)
		h.Write(buf[:n])
		if err := writeSparse(w, buf[:n], size); err != nil {
			return size, "", err
		}
		size += int64(n)
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return size, "", rerr
		}
	}
	if err := w.Truncate(size); err != nil {
		return size, "", err
	}
	return size, hex.EncodeToString(h.Sum(nil)), nil
}

// fill reads until buf is full or the reader ends. Unlike io.ReadFull it tells a plain end from a source that broke off.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

const block = 4096

var zeros [block]byte

func writeSparse(w *os.File, p []byte, off int64) error {
	for len(p) > 0 {
		// A run of blocks that are alike in being zero or not.
		zero := isZero(p[:min(block, len(p))])
		end := min(block, len(p))
		for end < len(p) && isZero(p[end:min(end+block, len(p))]) == zero {
			end = min(end+block, len(p))
		}
		if !zero {
			if _, err := w.WriteAt(p[:end], off); err != nil {
				return err
			}
		}
		p, off = p[end:], off+int64(end)
	}
	return nil
}

func isZero(p []byte) bool { return len(p) == block && [block]byte(p) == zeros }

// digest is the SHA-256 over everything in the copy that an image is made of. Times of folders are left out: they change
// with every file that comes and goes in them, and nobody looks at them.
func digest(have map[string]*entry) (sum string, size, newest int64) {
	names := slices.Sorted(maps.Keys(have))
	first := map[string]string{} // of the names of one file, by the one that is a file and no link to it
	for _, n := range names {
		if e := have[n]; e.Type == tar.TypeLink {
			if f, ok := first[string(e.Link)]; !ok || n < f {
				first[string(e.Link)] = min(n, string(e.Link))
			}
		}
	}
	h := sha256.New()
	for _, n := range names {
		e := have[n]
		group := ""
		if e.Type == tar.TypeLink {
			group = first[string(e.Link)]
			e = have[string(e.Link)]
		} else if f, ok := first[n]; ok {
			group = f
		}
		if e == nil {
			continue // finish has seen to it that there is none
		}
		e.sum(h, n, group)
		if have[n].Type == tar.TypeReg {
			size += e.Size
		}
		if e.Type != tar.TypeDir {
			newest = max(newest, e.Sec)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), size, min(newest, time.Now().Unix())
}

func (e *entry) sum(h hash.Hash, name, group string) {
	sec, nsec, link := e.Sec, e.Nsec, string(e.Link)
	if e.Type == tar.TypeDir {
		sec, nsec = 0, 0
	}
	fmt.Fprintf(h, "%q %c %o %d:%d %d.%d %q %d:%d %d %s %q", name, e.Type, e.Mode, e.UID, e.GID, sec, nsec, link, e.Major, e.Minor, e.Size, e.Sum, group)
	for _, k := range slices.Sorted(maps.Keys(e.Xattr)) {
		fmt.Fprintf(h, " %q=%q", k, e.Xattr[k])
	}
	fmt.Fprintln(h)
}
