package copytree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/builder/tree"
)

// A folderOriginal is a folder of this host.
type folderOriginal struct {
	*update
	root string
}

func (u *update) folder(ctx context.Context) error {
	root, err := filepath.EvalSymlinks(u.From)
	if err != nil {
		return err
	}
	u.left.host = map[string]string{}
	for _, dir := range u.Avoid {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue
		}
		if rel, err := filepath.Rel(root, real); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			if rel == "." {
				return fmt.Errorf("it is the folder that images are stored in")
			}
			u.left.host[rel] = "netroot's store"
		}
	}
	fstab, err := tree.ReadFile(os.DirFS(root), "etc/fstab")
	if err == nil {
		u.left.swap = swapOf(string(fstab))
	}
	return u.follow(ctx, &folderOriginal{update: u, root: root})
}

// swapOf finds files among what fstab(5) or /proc/swaps list, in which type or words tell that it is for swapping.
func swapOf(table string) []string {
	var names []string
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 3 || !strings.HasPrefix(f[0], "/") || strings.HasPrefix(f[0], "/dev/") {
			continue
		}
		if f[2] == "swap" || f[1] == "file" {
			names = append(names, strings.Trim(f[0], "/"))
		}
	}
	return names
}

func (o *folderOriginal) list(ctx context.Context) ([]*item, error) {
	var items []*item
	var top unix.Stat_t
	if err := unix.Lstat(o.root, &top); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: o.root, Err: err}
	}
	starts := []string{"."}
	var others []string
	for _, dir := range o.FileSystems {
		name, err := tree.Resolve(os.DirFS(o.root), dir)
		var st unix.Stat_t
		if err == nil && unix.Lstat(filepath.Join(o.root, name), &st) == nil && st.Dev != top.Dev {
			starts = append(starts, name)
		}
	}
	for _, start := range starts {
		if err := o.walk(ctx, start, &items, &others); err != nil {
			return nil, err
		}
	}
	others = slices.DeleteFunc(others, func(name string) bool {
		return slices.Contains(starts, name) || slices.ContainsFunc(runtime, func(r struct{ dir, why string }) bool { return within(r.dir, name) })
	})
	if len(others) > 0 {
		o.otherSystems(others)
	}
	return items, nil
}

// otherSystems notes file systems that are not copied, once.
func (u *update) otherSystems(names []string) {
	for i := range names {
		names[i] = "/" + names[i]
	}
	note := "not copied: the file systems mounted on " + some(names) + "; those that belong to the system go under file_systems:"
	if !slices.Contains(u.rep.Notes, note) {
		u.rep.Notes = append(u.rep.Notes, note)
	}
}

// walk lists a folder and what is below it on the same file system.
func (o *folderOriginal) walk(ctx context.Context, start string, items *[]*item, others *[]string) error {
	var device uint64
	var visit func(name string) error
	visit = func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		var st unix.Stat_t
		at := filepath.Join(o.root, name)
		if err := unix.Lstat(at, &st); errors.Is(err, unix.ENOENT) {
			return nil // gone since its folder was read
		} else if err != nil {
			return &fs.PathError{Op: "stat", Path: at, Err: err}
		}
		if name == start {
			device = st.Dev
		}
		i, ok := itemOf(name, &st)
		if !ok {
			return nil
		}
		if start == "." || name != start { // else the root's walk has met it
			*items = append(*items, i)
		}
		if i.kind != tar.TypeDir {
			return nil
		}
		if st.Dev != device {
			*others = append(*others, name)
			return nil
		}
		if o.left.prunes(name) {
			return nil
		}
		entries, err := os.ReadDir(at)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if err := visit(path.Join(name, e.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	return visit(start)
}

// itemOf makes an item of what lstat(2) says; not ok for a socket.
func itemOf(name string, st *unix.Stat_t) (*item, bool) {
	i := &item{name: name, sec: st.Mtim.Sec}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		i.kind, i.size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		i.kind = tar.TypeDir
	case unix.S_IFLNK:
		i.kind = tar.TypeSymlink
	case unix.S_IFIFO:
		i.kind = tar.TypeFifo
	case unix.S_IFCHR:
		i.kind = tar.TypeChar
	case unix.S_IFBLK:
		i.kind = tar.TypeBlock
	default:
		return nil, false
	}
	if i.kind == tar.TypeReg && st.Nlink > 1 {
		i.inode = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	}
	i.sig = signature(st.Mode&0o7777, int(st.Uid), int(st.Gid), i.size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, fmt.Sprint(st.Ino))
	return i, true
}

// signature is what has to stay the same for a file to count as unchanged. ctime changes with everything that is done to it.
func signature(mode uint32, uid, gid int, size, msec, mnsec, csec, cnsec int64, inode string) string {
	return fmt.Sprintf("%o %d:%d %d %d.%09d %d.%09d %s", mode, uid, gid, size, msec, mnsec, csec, cnsec, inode)
}

func (o *folderOriginal) send(ctx context.Context, want []*item, put func(*entry, io.Reader) error) error {
	for _, i := range want {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := o.one(i, put); err != nil {
			return err
		}
	}
	return nil
}

// one hands over a file. One that is gone, or is of another kind now, it leaves to the next list.
func (o *folderOriginal) one(i *item, put func(*entry, io.Reader) error) error {
	at := filepath.Join(o.root, i.name)
	e := &entry{Name: raw(i.name), Type: i.kind}
	var st unix.Stat_t
	var contents io.Reader
	var f *os.File
	var err error
	switch i.kind {
	case tar.TypeReg:
		// Not followed, and not waited for, should something else have taken the name meanwhile.
		f, err = os.OpenFile(at, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err == nil {
			defer f.Close()
			err = unix.Fstat(int(f.Fd()), &st)
		}
		contents = &counter{r: f, n: &o.rep.SentBytes}
	default:
		err = unix.Lstat(at, &st)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", at, err)
	}
	e.Mode, e.UID, e.GID, e.Sec, e.Nsec = st.Mode&0o7777, int(st.Uid), int(st.Gid), st.Mtim.Sec, st.Mtim.Nsec
	switch now, ok := itemOf(i.name, &st); {
	case !ok || now.kind != i.kind:
		return nil
	case i.kind == tar.TypeChar || i.kind == tar.TypeBlock:
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case i.kind == tar.TypeSymlink:
		target, err := os.Readlink(at)
		if err != nil {
			return err
		}
		e.Link = raw(target)
	}
	if e.Xattr, err = xattrsOf(at); err != nil {
		return &fs.PathError{Op: "read extended attributes of", Path: at, Err: err}
	}
	// The signature counts only if nothing has changed from the list to the last byte.
	if err := put(e, contents); err != nil {
		return err
	}
	if f != nil {
		err = unix.Fstat(int(f.Fd()), &st)
	} else {
		err = unix.Lstat(at, &st)
	}
	if now, ok := itemOf(i.name, &st); err == nil && ok && now.sig == i.sig {
		return o.approve(e, i)
	}
	return nil
}

// approve writes down that an entry is as it was listed.
func (u *update) approve(e *entry, i *item) error {
	e.Sig = i.sig
	return u.note(e)
}

// xattrsOf reads the extended attributes of a file that is not followed.
func xattrsOf(at string) (map[string][]byte, error) {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(at, list)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	x := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if !keptXattr(name) {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(at, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		x[name] = value[:n:n]
	}
	return x, nil
}

// A counter counts what is read.
type counter struct {
	r io.Reader
	n *int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	*c.n += int64(n)
	return n, err
}
