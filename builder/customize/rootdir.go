package customize

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"netroot/builder/tree"
)

// A rootDir is the root folder of another system. Names are absolute paths in it, and its symbolic links stay in it.
type rootDir struct {
	dir  string
	fsys fs.FS
}

func openRoot(dir string) rootDir { return rootDir{dir, os.DirFS(dir)} }

// attributes are who owns a file and what may be done with it: the lower 12 bits of st_mode.
type attributes struct {
	mode     uint32
	uid, gid int
}

func (r rootDir) host(resolved string) string {
	return filepath.Join(r.dir, filepath.FromSlash(resolved))
}

// parent returns the host's path for name, whose folder is made when it is missing.
func (r rootDir) parent(name string) (string, error) {
	if err := r.mkdirAll(path.Dir(name)); err != nil {
		return "", err
	}
	resolved, err := tree.ResolveParent(r.fsys, name)
	if err != nil {
		return "", err
	}
	return r.host(resolved), nil
}

// mkdirAll makes a folder, and those above it that are missing, owned by root.
func (r rootDir) mkdirAll(name string) error {
	at := ""
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part == "" {
			continue
		}
		at += "/" + part
		resolved, err := tree.Resolve(r.fsys, at)
		if errors.Is(err, fs.ErrNotExist) {
			if resolved, err = tree.ResolveParent(r.fsys, at); err != nil {
				return err
			}
			if err := os.Mkdir(r.host(resolved), 0o755); err != nil {
				return fmt.Errorf("make folder %s: %w", at, cause(err))
			}
			if err := os.Chmod(r.host(resolved), 0o755); err != nil { // whatever the umask is
				return fmt.Errorf("make folder %s: %w", at, cause(err))
			}
			continue
		}
		if err != nil {
			return err
		}
		if st, err := os.Lstat(r.host(resolved)); err != nil {
			return err
		} else if !st.IsDir() {
			return fmt.Errorf("make folder %s: %s is not a folder", name, at)
		}
	}
	return nil
}

// write makes name hold what data gives, replacing a file or a link of that name. A file that is replaced is never opened: it may
// have other names (hard links), which keep what they have.
func (r rootDir) write(name string, data io.Reader, a attributes) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, cause(err))
		}
	}()
	dst, err := r.parent(name)
	if err != nil {
		return err
	}
	if st, err := os.Lstat(dst); err == nil && st.IsDir() {
		return errors.New("it is a folder")
	}
	tmp := filepath.Join(filepath.Dir(dst), ".netroot-"+filepath.Base(dst))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp) // gone already when all is well
	defer f.Close()
	if _, err := io.Copy(f, data); err != nil {
		return err
	}
	// chown takes away setuid and setgid (chown(2)), so the mode comes after it.
	if err := setOwner(f, a); err != nil {
		return err
	}
	if err := syscall.Fchmod(int(f.Fd()), a.mode); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, dst)
}

func (r rootDir) writeString(name, data string) error {
	return r.write(name, strings.NewReader(data), attributes{mode: 0o644})
}

func setOwner(f *os.File, a attributes) error {
	if st, err := f.Stat(); err == nil {
		if s, ok := st.Sys().(*syscall.Stat_t); ok && int(s.Uid) == a.uid && int(s.Gid) == a.gid {
			return nil
		}
	}
	return f.Chown(a.uid, a.gid)
}

// symlink makes name a link to target, replacing a file or a link of that name.
func (r rootDir) symlink(target, name string) error {
	dst, err := r.parent(name)
	if err == nil {
		if err = os.Remove(dst); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = os.Symlink(target, dst)
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, cause(err))
	}
	return nil
}

// remove takes a file or link away; that it is not there is no error.
func (r rootDir) remove(name string) error {
	resolved, err := tree.ResolveParent(r.fsys, name)
	if err == nil {
		err = os.Remove(r.host(resolved))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, cause(err))
	}
	return nil
}

func (r rootDir) exists(name string) bool { return tree.Exists(r.fsys, name) }

// link returns what the link name points to, or "" when it is no link.
func (r rootDir) link(name string) string {
	resolved, err := tree.ResolveParent(r.fsys, name)
	if err != nil {
		return ""
	}
	target, err := os.Readlink(r.host(resolved))
	if err != nil {
		return ""
	}
	return target
}

// glob lists the names in the folder dir that match pattern.
func (r rootDir) glob(dir, pattern string) []string { return tree.Glob(r.fsys, dir, pattern) }

// An account is one line of /etc/passwd.
type account struct {
	uid, gid int
	home     string
}

// account finds a user of the root; the host's users mean nothing there.
func (r rootDir) account(name string) (account, bool) {
	fields, ok := r.database("/etc/passwd", name, 7)
	if !ok {
		return account{}, false
	}
	uid, err1 := strconv.Atoi(fields[2])
	gid, err2 := strconv.Atoi(fields[3])
	return account{uid, gid, fields[5]}, err1 == nil && err2 == nil
}

// group finds the number of a group of the root.
func (r rootDir) group(name string) (int, bool) {
	fields, ok := r.database("/etc/group", name, 4)
	if !ok {
		return 0, false
	}
	gid, err := strconv.Atoi(fields[2])
	return gid, err == nil
}

// database finds a line of a file like /etc/passwd, which has n fields.
func (r rootDir) database(file, name string, n int) ([]string, bool) {
	data, err := tree.ReadFile(r.fsys, file)
	if err != nil {
		return nil, false
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(fields) == n && fields[0] == name {
			return fields, true
		}
	}
	return nil, false
}

// owner turns user:group, by name or number, into numbers.
func (r rootDir) owner(s string) (uid, gid int, err error) {
	user, group, _ := strings.Cut(s, ":")
	if uid, err = strconv.Atoi(user); err != nil {
		a, ok := r.account(user)
		if !ok {
			return 0, 0, fmt.Errorf("owner %s: the root has no user %s; add it to users:, or the package that makes it", s, user)
		}
		uid = a.uid
	}
	if gid, err = strconv.Atoi(group); err != nil {
		var ok bool
		if gid, ok = r.group(group); !ok {
			return 0, 0, fmt.Errorf("owner %s: the root has no group %s; add the package that makes it, or a user with that group", s, group)
		}
	}
	return uid, gid, nil
}

// cause is err without the path on the host, which says nothing to the reader of a message about a root.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}
