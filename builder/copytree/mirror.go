package copytree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
)

// Names in the folder of a copy.
const (
	rootName    = "root"    // the files
	indexName   = "index"   // entries of the copy when an update last ended well
	journalName = "journal" // entries since then
	digestName  = "digest"  // of the whole; not there while an update is under way
	tempName    = "arriving"
	lockName    = "lock"
)

// A mirror is the folder of a copy while it is brought up to date:
//
//	DIR/root      the files, with owners and modes; only root may enter DIR, because there are setuid programs
//	DIR/index     a line of JSON for each, and in the first line the state of the original
//	DIR/journal   what has changed since the index was written
//
// A file takes its name when all of it has arrived, and is told to the journal then. Nothing is synced until the end: a
// journal that was written before the machine was last switched off shows which files not to trust.
type mirror struct {
	dir, root string
	lock      *os.File
	have      map[string]*entry
	state     string // of the original when the last update ended well: of a tar, which one it was
	journal   *os.File
	folders   map[string]bool // that were seen to be folders during this update
	buf       []byte
}

// lockDir waits until nobody else changes the copy, or alone, until nobody uses it.
func lockDir(ctx context.Context, dir string, alone bool) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock the copy: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func openMirror(ctx context.Context, dir string) (*mirror, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(filepath.Dir(dir), 0o700); err != nil {
		return nil, err
	}
	l, err := lockDir(ctx, dir, true)
	if err != nil {
		return nil, err
	}
	m := &mirror{dir: dir, root: filepath.Join(dir, rootName), lock: l, folders: map[string]bool{}, buf: make([]byte, 256<<10)}
	if err := m.open(); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *mirror) open() error {
	if err := os.RemoveAll(m.path(tempName)); err != nil {
		return err
	}
	for _, d := range []string{m.root, m.path(tempName)} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	m.have = map[string]*entry{}
	first, err := m.load(indexName)
	if err != nil {
		return err
	}
	m.state = first.State
	before := maps.Clone(m.have)
	if first, err = m.load(journalName); err != nil {
		return err
	}
	if first.Format != 0 && first.Boot != atomicfile.BootID() {
		for name, e := range m.have {
			if before[name] != e {
				delete(m.have, name)
			}
		}
	}
	if first.Format != 0 {
		m.state = ""
	}
	return nil
}

func (m *mirror) path(name string) string { return filepath.Join(m.dir, name) }

func (m *mirror) close() {
	if m.journal != nil {
		m.journal.Close()
	}
	m.lock.Close()
}

// host is the path of an entry on this host. Every folder above it must have been seen by makeFolder.
func (m *mirror) host(name string) string { return filepath.Join(m.root, name) }

// makeFolder makes a folder and those above it, replacing whatever else has their names; what is no folder in the list of
// entries has no business to be one, so a link that an earlier update left behind never leads anywhere.
func (m *mirror) makeFolder(name string) error {
	if name == "." || m.folders[name] {
		return nil
	}
	if err := m.makeFolder(path.Dir(name)); err != nil {
		return err
	}
	at := m.host(name)
	info, err := os.Lstat(at)
	if err == nil && !info.IsDir() {
		if err := m.forget(name); err != nil {
			return err
		}
		err = os.Remove(at)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && (info == nil || !info.IsDir()) {
		err = os.Mkdir(at, 0o700)
	}
	if err != nil {
		return err
	}
	m.folders[name] = true
	return nil
}

// forget takes an entry out of the list, when it is there.
func (m *mirror) forget(name string) error {
	if m.have[name] == nil {
		return nil
	}
	return m.note(&entry{Name: raw(name), Gone: true})
}

// isFolder tells that a name, and every part of it, is a folder on the disk: nothing may be changed through a link.
func (m *mirror) isFolder(name string) bool {
	if name == "." || m.folders[name] {
		return true
	}
	if !m.isFolder(path.Dir(name)) {
		return false
	}
	info, err := os.Lstat(m.host(name))
	if err != nil || !info.IsDir() {
		return false
	}
	m.folders[name] = true
	return true
}

// clear takes away what has a name, with all that is below it.
func (m *mirror) clear(name string) error {
	if !m.isFolder(path.Dir(name)) {
		return m.forget(name)
	}
	info, err := os.Lstat(m.host(name))
	if errors.Is(err, fs.ErrNotExist) {
		return m.forget(name)
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		for other := range m.have {
			if other != name && within(name, other) {
				if err := m.forget(other); err != nil {
					return err
				}
			}
		}
		for other := range m.folders {
			if within(name, other) {
				delete(m.folders, other)
			}
		}
	}
	if err := os.RemoveAll(m.host(name)); err != nil {
		return err
	}
	return m.forget(name)
}

// put gives the copy one file, with its contents if it has any. A hard link is made to the entry that it names, which must be there.
func (m *mirror) put(e *entry, contents io.Reader) error {
	name := e.name()
	if err := m.place(e, contents); err != nil {
		var p *fs.PathError
		if errors.As(err, &p) && (p.Path == m.host(name) || within(m.dir, p.Path)) {
			err = p.Err
		}
		return fmt.Errorf("/%s: %w", name, err)
	}
	return m.note(e)
}

func (m *mirror) place(e *entry, contents io.Reader) (err error) {
	name := e.name()
	if err := m.makeFolder(path.Dir(name)); err != nil {
		return err
	}
	if e.Type == tar.TypeDir {
		return m.makeFolder(name) // finish gives it its attributes
	}
	at, temp := m.host(name), filepath.Join(m.path(tempName), "file")
	if info, err := os.Lstat(at); err == nil && info.IsDir() {
		if err := m.clear(name); err != nil {
			return err
		}
	}
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch e.Type {
	case tar.TypeReg:
		e.Size, e.Sum, err = writeContents(temp, contents, m.buf)
	case tar.TypeLink:
		first := m.have[string(e.Link)]
		if first == nil || first.Type != tar.TypeReg {
			return fmt.Errorf("is a hard link to /%s, which is no file of the copy", e.Link)
		}
		if string(e.Link) == name || !m.isFolder(path.Dir(string(e.Link))) {
			return fmt.Errorf("is a hard link to /%s, which leads nowhere", e.Link)
		}
		if err := os.Link(m.host(string(e.Link)), temp); err != nil {
			return err
		}
		// Were both names one file already, rename would do nothing at all (rename(2)).
		if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Rename(temp, at)
	case tar.TypeSymlink:
		err = os.Symlink(string(e.Link), temp)
	case tar.TypeFifo:
		err = unix.Mkfifo(temp, 0o600)
	case tar.TypeChar:
		err = unix.Mknod(temp, unix.S_IFCHR|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	case tar.TypeBlock:
		err = unix.Mknod(temp, unix.S_IFBLK|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	}
	if err != nil {
		return err
	}
	if err := e.dress(temp); err != nil {
		return err
	}
	return os.Rename(temp, at)
}

// retain takes away every file that keep does not name.
func (m *mirror) retain(keep func(name string) bool) error {
	var gone []string
	for name := range m.have {
		if !keep(name) {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	for _, name := range slices.Backward(gone) {
		if err := m.clear(name); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
	}
	return nil
}

// orphans forgets hard links whose file is gone or was replaced, so that they are made again.
func (m *mirror) orphans() error {
	for name, e := range m.have {
		if e.Type != tar.TypeLink {
			continue
		}
		a, err1 := os.Lstat(m.host(name))
		b, err2 := os.Lstat(m.host(string(e.Link)))
		if err1 != nil || err2 != nil || !os.SameFile(a, b) {
			if err := m.forget(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish gives folders their attributes, deepest first, and writes down that the copy is complete and of which state of the original.
func (m *mirror) finish(state string) error {
	if m.have["etc"] == nil && m.have["usr"] == nil && m.have["bin"] == nil {
		return m.noSystem()
	}
	if m.journal == nil && m.state == state {
		if _, err := os.Stat(m.path(digestName)); err == nil {
			return nil // nothing has changed
		}
	}
	names := slices.Sorted(maps.Keys(m.have))
	for _, name := range slices.Backward(names) {
		e := m.have[name]
		if e.Type != tar.TypeDir {
			continue
		}
		if err := m.makeFolder(name); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
		if err := m.dressFolder(e); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
	}
	if err := os.RemoveAll(m.path(tempName)); err != nil {
		return err
	}
	if err := m.save(state); err != nil {
		return err
	}
	sum, size, newest := digest(m.have)
	return atomicfile.Write(m.path(digestName), fmt.Appendf(nil, "%s %d %d\n", sum, size, newest), 0o600)
}

// dressFolder is dress for a folder that may have been dressed before: attributes that it has no more are taken away.
func (m *mirror) dressFolder(e *entry) error {
	at := m.host(e.name())
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	if n, err := unix.Llistxattr(at, list); err == nil {
		for name := range strings.SplitSeq(string(list[:n]), "\x00") {
			if _, stays := e.Xattr[name]; name != "" && !stays && keptXattr(name) {
				if err := unix.Lremovexattr(at, name); err != nil && !errors.Is(err, unix.ENODATA) {
					return fmt.Errorf("remove extended attribute %s: %w", name, err)
				}
			}
		}
	}
	return e.dress(at)
}

// noSystem says what was copied instead of an operating system.
func (m *mirror) noSystem() error {
	var tops []string
	for name := range m.have {
		if inner, ok := strings.CutSuffix(name, "/etc"); ok && !strings.Contains(inner, "/") {
			return fmt.Errorf("the system is in the folder %s, not at the top: copy that folder, or make the tar of it (tar -C %s -c .)", inner, inner)
		}
		if !strings.Contains(name, "/") && name != "." {
			tops = append(tops, name)
		}
	}
	if len(tops) == 0 {
		return errors.New("there are no files")
	}
	slices.Sort(tops)
	return fmt.Errorf("there is neither etc nor usr, so it is no operating system; it holds %s", strings.Join(tops[:min(len(tops), 8)], ", "))
}
