package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"netroot/builder/need"
)

// root is a small tree with the kinds of links that Debian and EL roots have.
func root(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"usr/bin", "usr/sbin", "usr/lib/x", "etc", "var"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"usr/bin/dash": 0o755, "usr/bin/kmod": 0o755, "usr/lib/x/data": 0o644, "etc/passwd": 0o644, "usr/bin/notes": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"bin":               "usr/bin",
		"sbin":              "/usr/sbin",
		"usr/bin/sh":        "/bin/dash",
		"usr/sbin/modprobe": "../bin/kmod",
		"usr/sbin/gone":     "/usr/bin/missing",
		"usr/sbin/folder":   "/usr/lib",
		"etc/escape":        "../../../../../../etc/passwd",
		"etc/up":            "/..",
		"etc/loop":          "loop2",
		"etc/loop2":         "/etc/loop",
		"etc/self":          ".",
		"var/run":           "/run",
		"usr/lib/via":       "/sbin/../lib/x/",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestResolve(t *testing.T) {
	fsys := os.DirFS(root(t))
	for _, c := range []struct {
		name, want, parent string
		err, parentErr     error
	}{
		{name: "/", want: ".", parent: "."},
		{name: ".", want: ".", parent: "."},
		{name: "..", want: ".", parent: "."},
		{name: "/bin/sh", want: "usr/bin/dash", parent: "usr/bin/sh"},
		{name: "bin//./sh", want: "usr/bin/dash", parent: "usr/bin/sh"},
		{name: "/sbin/modprobe", want: "usr/bin/kmod", parent: "usr/sbin/modprobe"},
		{name: "/sbin/..", want: "usr", parent: "usr"},
		{name: "/bin/", want: "usr/bin", parent: "bin"},
		{name: "etc/escape", want: "etc/passwd", parent: "etc/escape"},
		{name: "etc/up/etc/passwd", want: "etc/passwd", parent: "etc/passwd"},
		{name: "etc/self/self/self/passwd", want: "etc/passwd", parent: "etc/passwd"},
		{name: "usr/lib/via/data", want: "usr/lib/x/data", parent: "usr/lib/x/data"},
		{name: "/usr/sbin/gone", err: fs.ErrNotExist, parent: "usr/sbin/gone"},
		{name: "/var/run", err: fs.ErrNotExist, parent: "var/run"},
		{name: "/var/run/utmp", err: fs.ErrNotExist, parentErr: fs.ErrNotExist},
		{name: "/new/file", err: fs.ErrNotExist, parentErr: fs.ErrNotExist},
		{name: "/etc/loop", err: syscall.ELOOP, parent: "etc/loop"},
		{name: "/etc/loop/x", err: syscall.ELOOP, parentErr: syscall.ELOOP},
		{name: "/etc/passwd/x", err: syscall.ENOTDIR, parentErr: syscall.ENOTDIR},
		{name: "/etc/passwd/..", err: syscall.ENOTDIR, parentErr: syscall.ENOTDIR},
		{name: "/etc/passwd/", err: syscall.ENOTDIR, parent: "etc/passwd"},
		{name: "", err: fs.ErrNotExist, parentErr: fs.ErrNotExist},
	} {
		got, err := Resolve(fsys, c.name)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("Resolve(%q) = %q, %v; want %q, %v", c.name, got, err, c.want, c.err)
		}
		got, err = ResolveParent(fsys, c.name)
		if got != c.parent || !errors.Is(err, c.parentErr) {
			t.Errorf("ResolveParent(%q) = %q, %v; want %q, %v", c.name, got, err, c.parent, c.parentErr)
		}
	}
	if _, err := Resolve(fsys, "/sbin/gone"); err == nil || !strings.Contains(err.Error(), "/sbin/gone") {
		t.Errorf("error does not name the path that was asked for: %v", err)
	}
}

func TestTrace(t *testing.T) {
	links, target, err := Trace(os.DirFS(root(t)), "/sbin/modprobe")
	if err != nil || target != "usr/bin/kmod" || !slices.Equal(links, []string{"sbin", "usr/sbin/modprobe"}) {
		t.Errorf("Trace(/sbin/modprobe) = %q, %q, %v", links, target, err)
	}
}

func TestReadFile(t *testing.T) {
	fsys := os.DirFS(root(t))
	b, err := ReadFile(fsys, "/bin/sh")
	if err != nil || string(b) != "usr/bin/dash" {
		t.Errorf("ReadFile(/bin/sh) = %q, %v", b, err)
	}
	// What a copied machine or a package may have put in a file's place would be read for ever, or fill the memory.
	dir := t.TempDir()
	if err := errors.Join(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Symlink("fifo", filepath.Join(dir, "link")),
		os.WriteFile(filepath.Join(dir, "huge"), nil, 0o600), os.Truncate(filepath.Join(dir, "huge"), maxFile+1)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fifo", "link", "huge", "."} {
		read := make(chan error, 1)
		go func() {
			_, err := ReadFile(os.DirFS(dir), name)
			read <- err
		}()
		select {
		case err := <-read:
			if err == nil {
				t.Errorf("%s was read", name)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s is still being read", name)
		}
	}
	if !Exists(fsys, "/sbin/modprobe") || Exists(fsys, "/sbin/gone") {
		t.Error("Exists: wrong about a link and a dangling link")
	}
	if info, err := Stat(fsys, "/bin/sh"); err != nil || !info.Mode().IsRegular() {
		t.Errorf("Stat(/bin/sh) = %v, %v: want a regular file", info, err)
	}
}

func TestGlob(t *testing.T) {
	fsys := os.DirFS(root(t))
	for _, c := range []struct {
		dir, pattern string
		want         []string
	}{
		{"/bin", "d*", []string{"/bin/dash"}}, // bin is a link to a folder
		{"etc", "loop*", []string{"etc/loop", "etc/loop2"}},
		{"etc/up/etc", "pass??", []string{"etc/up/etc/passwd"}},
		{"etc", "nothing", nil},
		{"etc/passwd", "*", nil},
		{"etc/loop", "*", nil},
		{"gone", "*", nil},
	} {
		if got := Glob(fsys, c.dir, c.pattern); !slices.Equal(got, c.want) {
			t.Errorf("Glob(%q, %q) = %q, want %q", c.dir, c.pattern, got, c.want)
		}
	}
}

func TestLookPath(t *testing.T) {
	fsys := os.DirFS(root(t))
	for name, want := range map[string]string{
		"modprobe": "usr/sbin/modprobe",
		"sh":       "usr/bin/sh",
		"/bin/sh":  "usr/bin/sh",
		"notes":    "", // not executable
		"gone":     "", // dangling
		"folder":   "",
		"nothing":  "",
	} {
		if got, ok := LookPath(fsys, name); got != want || ok != (want != "") {
			t.Errorf("LookPath(%q) = %q, %t; want %q", name, got, ok, want)
		}
	}
}

// The kernel is the oracle: a process chrooted into the tree must find the same file, or none.
func TestResolveAsChrootDoes(t *testing.T) {
	need.Root(t)
	dir := root(t)
	fsys := os.DirFS(dir)
	for _, name := range []string{"/bin/sh", "/etc/escape", "/etc/up/etc/passwd", "/usr/lib/via/data", "/sbin/gone", "/etc/loop", "/etc/passwd/..", "/sbin/../bin/dash", "/etc/self/up/bin/sh"} {
		want, wantErr := inChroot(dir, name)
		p, err := Resolve(fsys, name)
		if (err == nil) != (wantErr == nil) {
			t.Errorf("Resolve(%q): %v; the kernel says %v", name, err, wantErr)
			continue
		}
		if err != nil {
			continue
		}
		info, err := os.Lstat(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		if ino := info.Sys().(*syscall.Stat_t).Ino; ino != want {
			t.Errorf("Resolve(%q) = %q: not the file the kernel finds", name, p)
		}
	}
}

func FuzzResolve(f *testing.F) {
	for _, s := range []string{"a/b", "/a/../b", "l/l/l", "../..", "a//./l/"} {
		f.Add(s, "/a", "../l")
	}
	f.Fuzz(func(t *testing.T, name, t1, t2 string) {
		fsys := fstest.MapFS{
			"a/b":   &fstest.MapFile{Data: []byte("x")},
			"l":     &fstest.MapFile{Data: []byte(t1), Mode: fs.ModeSymlink},
			"a/m":   &fstest.MapFile{Data: []byte(t2), Mode: fs.ModeSymlink},
			"a/l/c": &fstest.MapFile{Data: []byte("y")},
		}
		p, err := Resolve(fsys, name)
		if err != nil {
			return
		}
		if !fs.ValidPath(p) {
			t.Fatalf("Resolve(%q) = %q: not a path for fs.FS", name, p)
		}
		info, err := fs.Lstat(fsys, p)
		if err != nil {
			t.Fatalf("Resolve(%q) = %q: %v", name, p, err)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			t.Fatalf("Resolve(%q) = %q: still a link", name, p)
		}
	})
}
