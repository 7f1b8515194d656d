package copytree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/need"
)

// One tree, by every tar that people have, and every compression.
func TestTar(t *testing.T) {
	need.Patience(t)
	dir := smallSystem(t)
	want := expected(t, dir)
	work := t.TempDir()
	for _, make := range []struct{ name, tool, script string }{
		{"gnu.tar", "tar", `tar -C "$1" --xattrs --acls --format=posix --sparse --numeric-owner -cf "$2" .`},
		{"gnu.tar.gz", "gzip", `tar -C "$1" --xattrs --format=posix -czf "$2" .`},
		{"gnu.tar.xz", "xz", `tar -C "$1" --xattrs --format=posix -c . | xz -T2 --block-size=100KiB >"$2"`},
		{"gnu.tar.zst", "zstd", `tar -C "$1" --xattrs --format=posix -c . | zstd -q >"$2"`},
		{"gnu.tar.bz2", "bzip2", `tar -C "$1" --xattrs --format=posix -cjf "$2" .`},
		{"gnu.tar.lzma", "xz", `tar -C "$1" --xattrs --format=posix -c . | xz --format=lzma >"$2"`},
		{"absolute.tar", "tar", `tar --xattrs --format=posix -P --transform "s,^$1,,;s,^\$,/," -cf "$2" "$1"`},
		{"bsd.tar", "bsdtar", `bsdtar -C "$1" --acls --xattrs --format pax --numeric-owner -cf "$2" .`},
	} {
		t.Run(make.name, func(t *testing.T) {
			need.Tools(t, make.tool)
			file := filepath.Join(work, make.name)
			shell(t, work, make.script+" 2>/dev/null", dir, file)
			c := newCopy(t, file)
			update1(t, c)
			got := shapes(t, hold(t, c).Root, true)
			same(t, got, want)
			if rep := update1(t, c); rep.Sent != 0 {
				t.Errorf("the same tar was read again: %+v", rep)
			}
		})
	}
	// The digests of one tree are the same, whatever way it came.
	direct := newCopy(t, dir)
	update1(t, direct)
	byTar := newCopy(t, filepath.Join(work, "gnu.tar.gz"))
	update1(t, byTar)
	if a, b := hold(t, direct).Digest, hold(t, byTar).Digest; a != b {
		t.Errorf("by the folder %s, by tar %s", a, b)
	}
}

// Old formats have neither attributes nor fractions of a second, but all the rest.
func TestTarOldFormats(t *testing.T) {
	dir := smallSystem(t)
	for _, format := range []string{"gnu", "oldgnu"} {
		t.Run(format, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.tar")
			shell(t, dir, `tar --format="$1" --sparse -cf "$2" . 2>/dev/null`, format, file)
			c := newCopy(t, file)
			update1(t, c)
			got, want := shapes(t, hold(t, c).Root, false), shapes(t, dir, false)
			for name, w := range want {
				w, _, _ = strings.Cut(w, " security.capability")
				w, _, _ = strings.Cut(w, " system.posix_acl")
				w, _, _ = strings.Cut(w, " user.note")
				if g := got[name]; g != "" && strings.HasPrefix(w, "10") && g != w || g == "" && !strings.HasPrefix(name, "tmp/") && strings.HasPrefix(name, "usr/") {
					t.Errorf("%s: %.200s\nwant %.200s", name, g, w)
				}
			}
		})
	}
}

// archive makes a tar of headers; regular files hold their own name.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, h.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarCopy(t testing.TB, data []byte) *Copy {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "x.tar")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return &Copy{From: file, Dir: filepath.Join(dir, "copies", "x")}
}

func TestTarUnruly(t *testing.T) {
	need.Root(t)
	etc := tar.Header{Name: "etc/", Typeflag: tar.TypeDir}
	for _, c := range []struct {
		what    string
		headers []tar.Header
		want    string // of the error; "" when it is taken
	}{
		{"no entries for folders", []tar.Header{{Name: "etc/a/b/c"}}, ""},
		{"the same twice", []tar.Header{etc, {Name: "etc/x"}, {Name: "./etc/x"}}, ""},
		{"hard link before its file", []tar.Header{etc, {Name: "a", Typeflag: tar.TypeLink, Linkname: "./etc/b"}, {Name: "etc/b"}}, ""},
		{"hard link to a hard link", []tar.Header{etc, {Name: "b"}, {Name: "c", Typeflag: tar.TypeLink, Linkname: "b"}, {Name: "d", Typeflag: tar.TypeLink, Linkname: "c"}}, ""},
		{"a file replaced after it was linked to", []tar.Header{etc, {Name: "b"}, {Name: "c", Typeflag: tar.TypeLink, Linkname: "b"}, {Name: "b"}}, ""},
		{"climbing", []tar.Header{etc, {Name: "../x"}}, "leads out"},
		{"climbing inside", []tar.Header{etc, {Name: "etc/../../x"}}, "leads out"},
		{"through a link", []tar.Header{etc, {Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, {Name: "out/x"}}, "below \"out\", which is no folder"},
		{"through a link that is a folder's second name", []tar.Header{etc, {Name: "etc", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}}, "folder before"},
		{"hard link out", []tar.Header{etc, {Name: "x", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}}, "leads out"},
		{"hard link through a link", []tar.Header{etc, {Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "x", Typeflag: tar.TypeLink, Linkname: "out/passwd"}}, "not in the tar"},
		{"hard link to a link", []tar.Header{etc, {Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, {Name: "x", Typeflag: tar.TypeLink, Linkname: "out"}}, "no file"},
		{"hard links in a circle", []tar.Header{etc, {Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}, {Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}}, "circle"},
		{"hard link to a folder", []tar.Header{etc, {Name: "a", Typeflag: tar.TypeLink, Linkname: "etc"}}, "no file"},
		{"the root a file", []tar.Header{{Name: "."}}, "no folder"},
		{"an owner that does not exist", []tar.Header{etc, {Name: "x", Uid: 1<<32 - 1, Format: tar.FormatPAX}}, "does not exist"},
		{"a folder in it all", []tar.Header{{Name: "image/etc/passwd"}}, "-C image"},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := tarCopy(t, archive(t, c.headers...)).Update(t.Context())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	whole := archive(t, etc, tar.Header{Name: "etc/passwd"}, tar.Header{Name: "etc/group"})
	for n, want := range map[int]string{0: "no tar", 100: "ends in the middle", 512 + 512 + 5: "ends in the middle", 512 * 4: "ends in the middle", 512*4 + 100: "ends in the middle", 512 * 6: "ends in the middle"} {
		if _, err := tarCopy(t, whole[:n]).Update(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("cut off after %d bytes: %v", n, err)
		}
	}
	if _, err := tarCopy(t, bytes.Repeat([]byte("no tar at all "), 100)).Update(t.Context()); err == nil || !strings.Contains(err.Error(), "no tar") {
		t.Errorf("no tar: %v", err)
	}
}

// What a hostile tar leaves half done is no way out for the next one either.
func TestTarAfterHostile(t *testing.T) {
	need.Root(t)
	out := t.TempDir()
	c := tarCopy(t, archive(t, tar.Header{Name: "etc/x"}, tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: out}, tar.Header{Name: "../stop"}))
	if _, err := c.Update(t.Context()); err == nil {
		t.Fatal("no error")
	}
	// As if the link had not been told to the journal.
	if err := os.Remove(filepath.Join(c.Dir, journalName)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.From, archive(t, tar.Header{Name: "etc/x"}, tar.Header{Name: "out/x"}), 0o600); err != nil {
		t.Fatal(err)
	}
	update1(t, c)
	if left, _ := os.ReadDir(out); len(left) > 0 {
		t.Errorf("written outside: %v", left)
	}
	if data, err := os.ReadFile(filepath.Join(hold(t, c).Root, "out/x")); string(data) != "out/x" {
		t.Errorf("%q, %v", data, err)
	}
}

func FuzzTar(f *testing.F) {
	need.Root(f)
	f.Add(archive(f, tar.Header{Name: "etc/", Typeflag: tar.TypeDir}, tar.Header{Name: "etc/x"}, tar.Header{Name: "y", Typeflag: tar.TypeLink, Linkname: "etc/x"}))
	f.Add(archive(f, tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "out/tmp/x"}))
	f.Add(archive(f, tar.Header{Name: "etc/x", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b", "SCHILY.acl.access": "user::rw-\nuser:7:r--\ngroup::r--\nmask::r--\nother::---"}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		// In memory, where syncing costs nothing.
		dir, err := os.MkdirTemp("/dev/shm", "netroot-fuzz-")
		if err != nil {
			dir = t.TempDir()
		}
		defer os.RemoveAll(dir)
		c := &Copy{From: filepath.Join(dir, "x.tar"), Dir: filepath.Join(dir, "copies", "x")}
		if err := os.WriteFile(c.From, data, 0o600); err != nil {
			t.Fatal(err)
		}
		watched := filepath.Dir(c.From)
		_, err = c.Update(t.Context())
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
		entries, rerr := os.ReadDir(watched)
		if rerr != nil {
			t.Fatal(rerr)
		}
		for _, e := range entries {
			if e.Name() != "x.tar" && e.Name() != "copies" {
				t.Errorf("%s was written beside the copy", e.Name())
			}
		}
		if entries, _ = os.ReadDir(filepath.Dir(c.Dir)); len(entries) > 1 {
			t.Errorf("written beside the copy: %v", entries)
		}
		if err == nil {
			tree, err := c.Hold(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			tree.Close()
		}
	})
}

func TestParseACL(t *testing.T) {
	for text, want := range map[string]string{
		"user::rwx\ngroup::r-x\nother::r--":                             "",
		"user::rw-,group::r--,other::r--,user:1234:r--,mask::r--":       "02000000 01000600ffffffff 02000400d2040000 04000400ffffffff 10000400ffffffff 20000400ffffffff",
		"user::rw-\nuser:joe:r-x:7\ngroup::r--\nmask::rwx\nother::---#": "02000000 01000600ffffffff 0200050007000000 04000400ffffffff 10000700ffffffff 20000000ffffffff",
	} {
		got, err := parseACL(text)
		if err != nil || fmt.Sprintf("%x", got) != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%q: %x, %v", text, got, err)
		}
	}
	for _, text := range []string{"user:joe:rwx,user::r,group::r,other::r", "x::r", "user::q", "user", "mask:5:r--", "user:4294967295:r"} {
		if _, err := parseACL(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	if _, err := newEntry(&tar.Header{Name: "x", Typeflag: tar.TypeGNUSparse, Size: 1 << 60}); err == nil {
		t.Error("a hole of an exabyte is taken")
	}
	if _, err := newEntry(&tar.Header{Name: "x", Typeflag: 'V'}); !errors.Is(err, errUnkept) {
		t.Errorf("a volume label: %v", err)
	}
}
