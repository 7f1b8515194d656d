package dpkg

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

func TestEveryKindOfFile(t *testing.T) {
	need.Root(t)
	owner := func(uid, gid int) func(*tar.Header) { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }
	things := []thing{
		{name: ""}, {name: "usr/"}, {name: "usr/bin/"},
		{name: "usr/bin/later", hard: true, link: "usr/bin/suid"}, // the target comes afterwards
		{name: "usr/bin/suid", data: "program", mode: 0o6755, head: owner(0, 42)},
		{name: "usr/bin/again", hard: true, link: "usr/bin/suid"},
		{name: "usr/bin/chain", hard: true, link: "usr/bin/later"},
		{name: "usr/bin/link", link: "/usr/bin/suid", head: owner(7, 8)},
		{name: "usr/bin/cap", data: "ping", mode: 0o755, head: func(h *tar.Header) {
			h.PAXRecords = map[string]string{
				"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
				"SCHILY.xattr.user.note":           "hello",
			}
		}},
		{name: "dev/"},
		{name: "dev/null", head: func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Devminor, h.Mode = tar.TypeChar, 1, 3, 0o666 }},
		{name: "dev/loop0", head: func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Devminor, h.Mode = tar.TypeBlock, 7, 0, 0o660 }},
		{name: "run/"},
		{name: "run/fifo", mode: 0o600, head: func(h *tar.Header) { h.Typeflag = tar.TypeFifo }},
		{name: "tmp/", mode: 0o1777}, {name: "var/", head: func(h *tar.Header) { h.ModTime = time.Unix(1500000000, 5) }},
		{name: "var/mail/", mode: 0o2775, head: owner(0, 8)},
		{name: "usr/bin/" + strings.Repeat("long", 50), data: "x"},
	}
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		dir, err := build(t, Cache{t.TempDir()}, pkg{name: "all", files: things, ext: ext})
		if err != nil {
			t.Fatal(err)
		}
		stat := func(name string) syscall.Stat_t {
			var st syscall.Stat_t
			if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			return st
		}
		for _, tt := range []struct {
			name     string
			mode     uint32
			uid, gid uint32
		}{
			{"usr/bin/suid", syscall.S_IFREG | 0o6755, 0, 42},
			{"usr/bin/link", syscall.S_IFLNK | 0o777, 7, 8},
			{"dev/null", syscall.S_IFCHR | 0o666, 0, 0},
			{"dev/loop0", syscall.S_IFBLK | 0o660, 0, 0},
			{"run/fifo", syscall.S_IFIFO | 0o600, 0, 0},
			{"tmp", syscall.S_IFDIR | 0o1777, 0, 0},
			{"var/mail", syscall.S_IFDIR | 0o2775, 0, 8},
			{"usr/bin/" + strings.Repeat("long", 50), syscall.S_IFREG | 0o644, 0, 0},
		} {
			st := stat(tt.name)
			if st.Mode != tt.mode || st.Uid != tt.uid || st.Gid != tt.gid {
				t.Errorf("%s: mode %o owner %d:%d", tt.name, st.Mode, st.Uid, st.Gid)
			}
			if got := time.Unix(st.Mtim.Sec, st.Mtim.Nsec); !got.Equal(stamp) {
				t.Errorf("%s: dated %v", tt.name, got)
			}
		}
		if got := stat("var").Mtim; got.Sec == 1500000000 {
			// The database was written below it, but its time is the package's.
		} else {
			t.Errorf("var is dated %v", got)
		}
		if stat("dev/loop0").Rdev != unix.Mkdev(7, 0) {
			t.Error("device number is wrong")
		}
		for _, name := range []string{"usr/bin/later", "usr/bin/again", "usr/bin/chain"} {
			if stat(name).Ino != stat("usr/bin/suid").Ino {
				t.Errorf("%s is no hard link", name)
			}
		}
		if got, _ := os.Readlink(filepath.Join(dir, "usr/bin/link")); got != "/usr/bin/suid" {
			t.Errorf("link to %q", got)
		}
		buf := make([]byte, 100)
		for attr, want := range map[string]int{"security.capability": 20, "user.note": 5} {
			if n, err := unix.Lgetxattr(filepath.Join(dir, "usr/bin/cap"), attr, buf); err != nil || n != want {
				t.Errorf("%s: %d bytes, %v", attr, n, err)
			}
		}
	}
}

func TestHostilePackages(t *testing.T) {
	need.Root(t)
	many := strings.Repeat("a/", 2100)
	for _, tt := range []struct {
		name string
		pkg  pkg
		want string
	}{
		{"parent", pkg{files: []thing{{name: "../../evil", data: "x"}}}, "leads out of the root"},
		{"absolute", pkg{files: []thing{{name: "x", data: "x", head: func(h *tar.Header) { h.Name = "/etc/evil" }}}}, "absolute"},
		{"through a link", pkg{files: []thing{{name: "a", link: "/etc"}, {name: "a/evil", data: "x"}}}, "no folder"},
		{"through a file", pkg{files: []thing{{name: "a", data: "x"}, {name: "a/evil", data: "x"}}}, "no folder"},
		{"link out", pkg{files: []thing{{name: "a", hard: true, link: "../../etc/passwd"}}}, "leads out of the root"},
		{"link to nothing", pkg{files: []thing{{name: "a", hard: true, link: "etc/passwd"}}}, "not in the package"},
		{"link to link", pkg{files: []thing{{name: "a", link: "/etc/passwd"}, {name: "b", hard: true, link: "a"}}}, "no regular file"},
		{"circle", pkg{files: []thing{{name: "a", hard: true, link: "b"}, {name: "b", hard: true, link: "a"}}}, "circle"},
		{"twice", pkg{files: []thing{{name: "a", data: "x"}, {name: "./a", data: "y"}}}, "twice"},
		{"root as file", pkg{files: []thing{{name: ".", data: "x"}}}, "no folder"},
		{"long name", pkg{files: []thing{{name: many, data: "x"}}}, "not allowed"},
		{"no device", pkg{files: []thing{{name: "a", head: func(h *tar.Header) { h.Typeflag, h.Devmajor = tar.TypeChar, 5000 }}}}, "does not exist"},
		{"control path", pkg{control: []thing{{name: "../evil", data: "x"}}}, "leads out of the root"},
		{"control folder", pkg{control: []thing{{name: "a/b", data: "x"}}}, "no business"},
		{"control list", pkg{control: []thing{{name: "list", data: "/etc/passwd\n"}}}, "no business"},
		{"control link", pkg{control: []thing{{name: "postinst", link: "/etc/passwd"}}}, "no business"},
		{"name", pkg{fields: "Package: ../x"}, "may not have"},
		{"no version", pkg{fields: "Version:"}, "Version is missing"},
	} {
		tt.pkg.name, tt.pkg.ext = "evil", ".gz"
		data := tt.pkg.bytes(t)
		file := filepath.Join(t.TempDir(), "evil_1_all.deb")
		os.WriteFile(file, data, 0o644)
		c := Cache{t.TempDir()}
		err := Unpack(t.Context(), file, strings.Repeat("0a", 32), c)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "evil_1_all.deb") {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if left, _ := filepath.Glob(c.folder() + "/*"); len(left) > 0 {
			t.Errorf("%s: %v is left in the cache", tt.name, left)
		}
		if hidden, _ := filepath.Glob(c.folder() + "/.*"); len(hidden) > 0 {
			t.Errorf("%s: %v is left in the cache", tt.name, hidden)
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	need.Root(t)
	noise := make([]byte, 300_000)
	for i, x := range noise {
		noise[i] = x + byte(i*i>>7)
	}
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		good := pkg{name: "good", ext: ext, files: []thing{{name: "big", data: string(noise)}}}.bytes(t)
		for _, cut := range []int{0, 5, 30, 70, 200, len(good) / 2, len(good) - 700, len(good) - 40} {
			file := filepath.Join(t.TempDir(), "cut.deb")
			os.WriteFile(file, good[:max(cut, 0)], 0o644)
			c := Cache{t.TempDir()}
			if err := Unpack(t.Context(), file, strings.Repeat("0b", 32), c); err == nil {
				t.Errorf("%q cut to %d of %d bytes: no error", ext, cut, len(good))
			}
			if c.Has(strings.Repeat("0b", 32)) {
				t.Errorf("%q cut to %d bytes is in the cache", ext, cut)
			}
		}
	}
}

func TestCache(t *testing.T) {
	need.Root(t)
	p := pkg{name: "a", ext: ".gz", files: []thing{{name: "usr/"}, {name: "usr/a", data: "a"}}}
	c := Cache{t.TempDir()}
	// Several at once: one publishes, none fails.
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := p.put(t, c); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	names, _ := os.ReadDir(c.folder())
	if len(names) != 1 {
		t.Errorf("the cache holds %v", names)
	}
	if st, err := os.Stat(c.folder()); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("anybody may run what is in the cache: %v %v", st.Mode(), err)
	}
	l, err := p.put(t, c)
	if err != nil {
		t.Fatal(err)
	}
	// Of another boot and never synced: not to be trusted.
	m, err := c.load(l.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	m.Boot = "another"
	if err := m.write(c.entry(l.SHA256)); err != nil {
		t.Fatal(err)
	}
	if c.Has(l.SHA256) {
		t.Error("what may have been lost with the power is trusted")
	}
	if _, err := p.put(t, c); err != nil || !c.Has(l.SHA256) {
		t.Errorf("it is not unpacked again: %v", err)
	}
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	m.Boot = "another"
	m.write(c.entry(l.SHA256))
	if !c.Has(l.SHA256) {
		t.Error("what was synced is not trusted")
	}
	// What a killed build left is swept, what a living one works on is not.
	dead, alive := filepath.Join(c.folder(), tempPrefix+"dead"), filepath.Join(c.folder(), tempPrefix+"alive")
	old := time.Now().Add(-time.Hour)
	for _, dir := range []string{dead, alive} {
		os.MkdirAll(filepath.Join(dir, "files"), 0o700)
		os.Chtimes(dir, old, old)
	}
	f, _ := os.Open(alive)
	defer f.Close()
	unix.Flock(int(f.Fd()), unix.LOCK_EX)
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("a dead folder was not swept")
	}
	if _, err := os.Stat(alive); err != nil {
		t.Error("a living folder was swept")
	}
	if err := Unpack(t.Context(), "x.deb", "../../etc", c); err == nil || !strings.Contains(err.Error(), "no SHA-256") {
		t.Errorf("got %v", err)
	}
}

func TestReadFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.deb")
	data := pkg{name: "p", ext: ".xz", files: []thing{
		{name: "usr/"}, {name: "usr/a", data: "first"}, {name: "usr/b", data: "second"},
		{name: "usr/c", hard: true, link: "usr/a"}, {name: "usr/l", link: "a"},
	}}.bytes(t)
	os.WriteFile(file, data, 0o644)
	for name, want := range map[string]string{"/usr/a": "first", "usr/b": "second", "usr/c": "first"} {
		if got, err := ReadFile(file, name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := ReadFile(file, "usr/none"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "p.deb") {
		t.Errorf("missing: %v", err)
	}
	for _, name := range []string{"usr/l", "usr"} {
		if _, err := ReadFile(file, name); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDeb(f *testing.F) {
	for _, ext := range []string{"", ".gz", ".zst", ".xz"} {
		f.Add(pkg{name: "seed", ext: ext, fields: "Depends: a (>= 1) | b, c:any", files: []thing{{name: "usr/"}, {name: "usr/a", data: "x"}}}.bytes(f))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := openDeb(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		if text, err := controlText(d); err == nil {
			if p, err := parseControl(text); err == nil {
				s := &source{control: p}
				for _, f := range p {
					s.relations(f.name)
				}
			}
		}
		z, err := decompress(t.Context(), d.r, d.data)
		if err != nil {
			return
		}
		defer z.Close()
		tr := tar.NewReader(io.LimitReader(z, 8<<20))
		for {
			h, err := tr.Next()
			if err != nil {
				return
			}
			if e, err := newEntry(h); err == nil {
				if e.Name == ".." || strings.HasPrefix(e.Name, "../") || strings.HasPrefix(e.Name, "/") || strings.Contains(e.Name, "/../") {
					t.Fatalf("name %q got through", e.Name)
				}
			}
		}
	})
}
