// Package tree finds files inside the root folder of another operating system, as a process chrooted into it would.
//
// Such a root is full of absolute symbolic links (/bin/sh -> /usr/bin/dash, /etc/resolv.conf -> /run/…) that mean
// something else, or something dangerous, when the host follows them. The functions here follow every link
// themselves, component by component, and never leave the root. They work on any fs.FS that implements
// fs.ReadLinkFS: os.DirFS and the file system of an image both do.
//
// The package reads a tree that nobody changes meanwhile: it is no protection against a process that swaps a folder
// for a link between two calls. Names that are not valid UTF-8 cannot be reached, because fs.FS forbids them.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
)

// maxLinks is the number of symbolic links that one path may pass through: MAXSYMLINKS of Linux (fs/namei.c).
const maxLinks = 40

// searchPath is where LookPath looks, in this order.
var searchPath = [...]string{"usr/sbin", "usr/bin", "sbin", "bin"}

// Resolve follows every symbolic link of name and returns the path it ends at, without leading slash and with "." for
// the root, so that the functions of package fs can open it without meeting a link. Absolute links start again at the
// root of fsys, and ".." never leaves it. A missing component is fs.ErrNotExist, a loop syscall.ELOOP.
func Resolve(fsys fs.FS, name string) (string, error) {
	return walk(fsys, name, true, nil)
}

// ResolveParent is Resolve for a name that is about to be made or replaced: the last component is neither followed
// nor need it exist. When it is "." or ".." the whole name is resolved.
func ResolveParent(fsys fs.FS, name string) (string, error) {
	return walk(fsys, name, false, nil)
}

// Trace is Resolve, and also returns the links that were followed, in that order: whoever copies them and the file has
// name lead to the file in the copy too.
func Trace(fsys fs.FS, name string) (links []string, target string, err error) {
	target, err = walk(fsys, name, true, func(link string) { links = append(links, link) })
	return links, target, err
}

func walk(fsys fs.FS, name string, followLast bool, met func(link string)) (string, error) {
	var (
		rest  = strings.Split(name, "/") // components still to walk
		at    = "."                      // where we are: never holds a link
		isDir = true
		links = 0
	)
	fail := func(err error) (string, error) {
		return "", &fs.PathError{Op: "resolve", Path: name, Err: err}
	}
	if name == "" {
		return fail(fs.ErrNotExist) // as open("") does
	}
	for len(rest) > 0 {
		c := rest[0]
		rest = rest[1:]
		if !isDir {
			return fail(syscall.ENOTDIR) // also for "file/", "file/." and "file/.."
		}
		switch c {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, c)
		last := onlySlashes(rest)
		if last && !followLast {
			return next, nil
		}
		info, err := fs.Lstat(fsys, next)
		if err != nil {
			return fail(bare(err))
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at, isDir = next, info.IsDir()
			continue
		}
		if links++; links > maxLinks {
			return fail(syscall.ELOOP)
		}
		if met != nil {
			met(next)
		}
		target, err := fs.ReadLink(fsys, next)
		if err != nil {
			return fail(bare(err))
		}
		if target == "" {
			return fail(fs.ErrNotExist)
		}
		if strings.HasPrefix(target, "/") {
			at = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}

// onlySlashes tells that nothing but trailing slashes is left of a path.
func onlySlashes(rest []string) bool {
	for _, c := range rest {
		if c != "" {
			return false
		}
	}
	return true
}

// bare takes the path off an error: the caller names the path it asked for.
func bare(err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		return pe.Err
	}
	return err
}

// maxFile is far above what is read whole of a root: libraries, programs, lists.
const maxFile = 256 << 20

// ReadFile reads the file that name leads to. It reads nothing but regular files, and none of more than 256 MiB: a pipe, or a device such
// as /dev/zero, has no end.
func ReadFile(fsys fs.FS, name string) ([]byte, error) {
	p, info, err := regular(fsys, name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("it has %d bytes, more than any such file", info.Size())}
	}
	return fs.ReadFile(fsys, p)
}

// Open opens the regular file that name leads to, and nothing else: to open a pipe would wait for somebody who writes to it.
func Open(fsys fs.FS, name string) (fs.File, error) {
	p, _, err := regular(fsys, name)
	if err != nil {
		return nil, err
	}
	return fsys.Open(p)
}

func regular(fsys fs.FS, name string) (string, fs.FileInfo, error) {
	p, err := Resolve(fsys, name)
	if err != nil {
		return "", nil, err
	}
	info, err := fs.Lstat(fsys, p)
	switch {
	case err != nil:
		return "", nil, err
	case info.IsDir():
		return "", nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	case !info.Mode().IsRegular():
		return "", nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("it is no regular file")}
	}
	return p, info, nil
}

// Stat describes the file that name leads to.
func Stat(fsys fs.FS, name string) (fs.FileInfo, error) {
	p, err := Resolve(fsys, name)
	if err != nil {
		return nil, err
	}
	return fs.Lstat(fsys, p)
}

// Exists tells whether name leads to anything: a dangling link does not.
func Exists(fsys fs.FS, name string) bool {
	_, err := Resolve(fsys, name)
	return err == nil
}

// Glob lists, in the order of names, what is in the folder that dir leads to and matches a pattern of path.Match; nothing when there is no such
// folder. The names begin with dir, as it was given.
func Glob(fsys fs.FS, dir, pattern string) []string {
	at, err := Resolve(fsys, dir)
	if err != nil {
		return nil
	}
	entries, err := fs.ReadDir(fsys, at)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if ok, err := path.Match(pattern, e.Name()); ok && err == nil {
			names = append(names, path.Join(dir, e.Name()))
		}
	}
	return names
}

// LookPath finds the program called name as the root's own shell would, in /usr/sbin, /usr/bin, /sbin and /bin. Links
// to the folder are followed, the program's own name is kept ("usr/sbin/modprobe", not "usr/bin/kmod"): programs with
// several names go by it. A name with a slash in it is not searched for.
func LookPath(fsys fs.FS, name string) (string, bool) {
	dirs := searchPath[:]
	if strings.Contains(name, "/") {
		dirs = []string{path.Dir(name)}
	}
	for _, dir := range dirs {
		file := path.Join(dir, path.Base(name))
		info, err := Stat(fsys, file)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		if p, err := ResolveParent(fsys, file); err == nil {
			return p, true
		}
	}
	return "", false
}
