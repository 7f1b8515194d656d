// Package rpmroot makes a root of RPM packages. The installing itself, with the order, the scriptlets, triggers and the database, is
// done by the root's own rpm in a chroot: only that one writes a database that it can read again, be it Berkeley DB of
// EL6 or sqlite of today. What that rpm needs to start is unpacked here first, without scriptlets, and then installed by it
// like all the rest.
//
// Limits: a root without a package rpm cannot be made. Device nodes are not unpacked beforehand; rpm makes them.
package rpmroot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/rpm"
	"netroot/builder/tree"
)

// A Package is one package file.
type Package struct {
	Path string
	File *rpm.File

	file *os.File
}

// Open opens package files. The caller closes them with Close.
func Open(paths []string) ([]*Package, error) {
	var packages []*Package
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			Close(packages)
			return nil, fmt.Errorf("open package: %w", err)
		}
		pkg := &Package{Path: p, file: f}
		info, err := f.Stat()
		if err == nil {
			pkg.File, err = rpm.Open(f, info.Size())
		}
		packages = append(packages, pkg)
		if err != nil {
			Close(packages)
			return nil, fmt.Errorf("open package %s: %w", p, err)
		}
	}
	return packages, nil
}

// Close closes what Open opened.
func Close(packages []*Package) {
	for _, p := range packages {
		p.file.Close()
	}
}

// Newest returns the latest modification time of all files of the packages: what a root made of them is as old as.
func Newest(packages []*Package) (time.Time, error) {
	var newest int64
	for _, p := range packages {
		entries, err := p.File.Entries()
		if err != nil {
			return time.Time{}, err
		}
		for _, e := range entries {
			newest = max(newest, e.MTime)
		}
	}
	return time.Unix(newest, 0).UTC(), nil
}

// starters are the packages that have to be there for rpm to run scriptlets: rpm, the shell that nearly all of them are written for,
// and who owns files.
var starters = []string{"filesystem", "setup", "bash", "rpm"}

// closure returns the starters and what they need, those first that others need.
func closure(packages []*Package) ([]*Package, error) {
	byName := map[string]*Package{}
	offers := map[string]*Package{}
	for _, p := range packages {
		byName[p.File.Header.String(rpm.TagName)] = p
	}
	for _, p := range packages {
		for _, name := range p.File.Header.Strings(rpm.TagProvideNames) {
			if offers[name] == nil {
				offers[name] = p
			}
		}
		entries, err := p.File.Entries()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if offers[e.Name] == nil {
				offers[e.Name] = p
			}
		}
	}
	if byName["rpm"] == nil {
		return nil, errors.New("the root has no package rpm: add it to the recipe's packages")
	}
	var order []*Package
	done := map[*Package]bool{}
	var visit func(p *Package)
	visit = func(p *Package) {
		if done[p] {
			return
		}
		done[p] = true
		for _, name := range p.File.Header.Strings(rpm.TagRequireNames) {
			if q := offers[name]; q != nil {
				visit(q)
			}
		}
		order = append(order, p)
	}
	for _, name := range starters {
		if p := byName[name]; p != nil {
			visit(p)
		}
	}
	return order, nil
}

// unpackAll unpacks packages in their order into the folder dir, which it makes.
func unpackAll(ctx context.Context, packages []*Package, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	u := &unpacker{dir: dir, fsys: os.DirFS(dir)}
	for _, p := range packages {
		if err := u.unpack(ctx, p.File); err != nil {
			return fmt.Errorf("unpack %w", err)
		}
	}
	return u.own()
}

// An unpacker writes payloads into a folder.
type unpacker struct {
	dir   string
	fsys  fs.FS // the same
	owned []rpm.Entry
}

func (u *unpacker) unpack(ctx context.Context, f *rpm.File) error {
	links := map[uint64][]string{} // names that wait for the bytes of their inode
	return f.Walk(ctx, func(e *rpm.Entry, data io.Reader) error {
		at, err := u.place(e.Name)
		if err != nil {
			return err
		}
		switch e.Type() {
		case rpm.ModeDir:
			err = u.folder(at, e)
		case rpm.ModeLink:
			err = u.replace(at, func(temp string) error { return os.Symlink(e.Link, temp) })
		case rpm.ModeRegular:
			err = u.regular(at, e, data, links)
		default:
			return nil // rpm itself makes devices and pipes
		}
		if err == nil && (e.User != "root" || e.Group != "root") {
			u.owned = append(u.owned, *e)
		}
		return err
	})
}

// place finds where a name leads in the root as it is, the last part not followed, and makes the folders above it that no
// package has described yet.
func (u *unpacker) place(name string) (string, error) {
	if name == "/" {
		return u.dir, nil
	}
	at, err := tree.ResolveParent(u.fsys, strings.TrimPrefix(name, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		parent, err := u.place(path.Dir(name))
		if err != nil {
			return "", err
		}
		if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		if at, err = tree.ResolveParent(u.fsys, strings.TrimPrefix(name, "/")); err != nil {
			return "", err
		}
	} else if err != nil {
		return "", err
	}
	return filepath.Join(u.dir, at), nil
}

func (u *unpacker) folder(at string, e *rpm.Entry) error {
	if info, err := os.Lstat(at); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if to, err := tree.Stat(u.fsys, strings.TrimPrefix(e.Name, "/")); err == nil && to.IsDir() {
			return nil // a link to a folder serves as one
		}
		// Any other makes way, as it does for rpm (lib/fsm.c). To chmod it would be a file of the host.
		if err := os.Remove(at); err != nil {
			return err
		}
	}
	if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return unix.Chmod(at, e.Mode&0o7777)
}

// replace puts something in the place of whatever is there.
func (u *unpacker) replace(at string, put func(temp string) error) error {
	if info, err := os.Lstat(at); err == nil && info.IsDir() {
		return errors.New("there is a folder in its place")
	}
	temp := at + ".netroot-unpacking"
	if err := put(temp); err != nil {
		return err
	}
	return os.Rename(temp, at)
}

func (u *unpacker) regular(at string, e *rpm.Entry, data io.Reader, links map[uint64][]string) error {
	var n int64
	err := u.replace(at, func(temp string) error {
		w, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		n, err = io.Copy(w, data)
		return errors.Join(err, unix.Fchmod(int(w.Fd()), e.Mode&0o7777), w.Close())
	})
	if err != nil {
		return err
	}
	if n < e.Size {
		links[e.Inode] = append(links[e.Inode], at)
		return nil
	}
	for _, other := range links[e.Inode] {
		if err := u.replace(other, func(temp string) error { return os.Link(at, temp) }); err != nil {
			return err
		}
	}
	delete(links, e.Inode)
	return nil
}

// own gives files that are not root's to their owners, by the root's own lists of users and groups. Whom those do not
// know is made by a scriptlet later, and then rpm gives the files away.
func (u *unpacker) own() error {
	users, groups := u.ids("etc/passwd"), u.ids("etc/group")
	for _, e := range u.owned {
		at, err := u.place(e.Name)
		if err != nil {
			return err
		}
		if err := os.Lchown(at, users[e.User], groups[e.Group]); err != nil {
			return err
		}
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 { // chown takes setuid away
			if err := unix.Chmod(at, e.Mode&0o7777); err != nil {
				return err
			}
		}
	}
	return nil
}

// ids reads the numbers of a passwd(5) or group(5) file.
func (u *unpacker) ids(name string) map[string]int {
	ids := map[string]int{}
	data, err := tree.ReadFile(u.fsys, name)
	if err != nil {
		return ids
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 2 {
			if n, err := strconv.Atoi(f[2]); err == nil {
				ids[f[0]] = n
			}
		}
	}
	return ids
}
