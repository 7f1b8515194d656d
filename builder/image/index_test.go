package image

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/erofs/go-erofs"

	"netroot/builder/need"
)

func TestFormats(t *testing.T) {
	need.Patience(t)
	need.Root(t)
	need.Tools(t, "mkfs.erofs", "fsck.erofs")
	dir := plant(t)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"default", nil},
		{"extended", []string{"-Eforce-inode-extended"}},
		{"no inline data", []string{"-Enoinline_data"}},
		{"no shared attributes", []string{"-x9999"}},
		{"chunks", []string{"--chunksize=4096"}},
		{"big chunks", []string{"--chunksize=1048576"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := mkfs(t, dir, append(c.args, "--preserve-mtime")...)
			run(t, "fsck.erofs", path)
			same(t, open(t, path), dir)
		})
	}
}

// TestKernel compares with what the kernel shows of the same image.
func TestKernel(t *testing.T) {
	need.Patience(t)
	need.Root(t)
	need.Tools(t, "mkfs.erofs", "mount")
	path := mkfs(t, plant(t), "-T1700000000")
	at := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", path, at).CombinedOutput(); err != nil {
		need.Missing(t, "this kernel cannot mount it: %v: %s", err, out)
	}
	defer run(t, "umount", at)
	img := open(t, path)
	same(t, img, at)
	err := filepath.WalkDir(at, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var want syscall.Stat_t
		if err := syscall.Lstat(path, &want); err != nil {
			return err
		}
		rel, _ := filepath.Rel(at, path)
		info, err := fs.Lstat(img.FS(), rel)
		if err != nil {
			return err
		}
		got := info.Sys().(*syscall.Stat_t)
		if got.Ino != want.Ino || got.Nlink != want.Nlink || got.Size != want.Size {
			t.Errorf("%s: inode %d, %d links, %d bytes; want %d, %d, %d", rel, got.Ino, got.Nlink, got.Size, want.Ino, want.Nlink, want.Size)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestForeignReader compares with go-erofs on an image of its own writer, without any tool.
func TestForeignReader(t *testing.T) {
	path := goErofsImage(t)
	img := open(t, path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ref, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = fs.WalkDir(ref, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := info.Sys().(*erofs.Stat)
		got, err := fs.Lstat(img.FS(), name)
		if err != nil {
			return err
		}
		have := got.Sys().(*syscall.Stat_t)
		if got.Mode() != want.Mode || got.Size() != want.Size || have.Ino == 0 && name != "." ||
			have.Uid != want.UID || have.Gid != want.GID || int(have.Nlink) != want.Nlink ||
			have.Mtim.Sec != int64(want.Mtime) || have.Mtim.Nsec != int64(want.MtimeNs) || have.Rdev != uint64(want.Rdev) {
			t.Errorf("%s: got %+v, want %+v", name, have, want)
		}
		if info.Mode().IsRegular() {
			a, err := fs.ReadFile(ref, name)
			if err != nil {
				return err
			}
			b, err := fs.ReadFile(img.FS(), name)
			if err != nil || !bytes.Equal(a, b) {
				t.Errorf("%s: data differs (%v)", name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 300 {
		t.Fatalf("only %d names compared", n)
	}
}

func goErofsImage(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "go.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.Create(f, erofs.WithBuildTime(1700000000, 0))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(name string, data []byte) {
		t.Helper()
		f, err := w.Create(name)
		must(err)
		_, err = f.Write(data)
		must(err)
		must(f.Close())
		must(w.Chtimes(name, time.Time{}, time.Unix(1600000000, 5)))
	}
	must(w.Mkdir("/etc", 0o755))
	put("/etc/passwd", []byte("root:x:0:0::/:/bin/sh\n"))
	must(w.Chown("/etc/passwd", 3, 99999))
	put("/big", pattern(1<<20+5))
	put("/empty", nil)
	must(w.Mkdir("/d", 0o755|fs.ModeSticky))
	for i := range 300 {
		put(fmt.Sprintf("/d/file-%03d", i), pattern(i*37))
	}
	must(w.Symlink("etc/passwd", "/link"))
	must(w.Mknod("/null", 0o020666, 0x103))
	must(w.Close())
	return path
}

func TestLookup(t *testing.T) {
	img := open(t, goErofsImage(t))
	root := img.Root()
	d, ok := img.Lookup(root, "d")
	if !ok || img.Parent(d) != root || img.Parent(root) != root {
		t.Fatal("folder d or its parent is wrong")
	}
	for name, want := range map[string]*Inode{".": d, "..": root} {
		if got, ok := img.Lookup(d, name); !ok || got != want {
			t.Errorf("%q is not found", name)
		}
	}
	for _, name := range []string{"", "file", "file-30", "file-3000", "zzz", "!"} {
		if _, ok := img.Lookup(d, name); ok {
			t.Errorf("%q is found", name)
		}
	}
	file, _ := img.Lookup(root, "big")
	if _, ok := img.Lookup(file, "."); ok || img.Entries(file) != nil || img.Parent(file) != nil {
		t.Error("a file passes for a folder")
	}
	if _, ok := img.Inode(1 << 60); ok {
		t.Error("an impossible inode number is found")
	}
	entries := img.Entries(d)
	allocs := testing.AllocsPerRun(100, func() {
		for _, e := range entries {
			if got, ok := img.Lookup(d, e.Name); !ok || got != e.Inode {
				t.Errorf("%q is not found", e.Name)
			}
		}
	})
	if allocs != 0 {
		t.Errorf("a lookup allocates")
	}
}

func TestExtents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("head"), 0)
	f.WriteAt([]byte("tail"), 1<<20)
	f.Close()
	img := open(t, mkfs(t, filepath.Dir(path), "--chunksize=4096"))
	i, _ := img.Lookup(img.Root(), "sparse")
	var total int64
	holes := 0
	for total < i.Size {
		place, n, ok := img.Extent(i, total)
		if !ok || n <= 0 {
			t.Fatalf("no extent at %d", total)
		}
		if place == hole {
			holes++
		}
		total += n
	}
	if total != i.Size {
		t.Errorf("extents cover %d bytes of %d", total, i.Size)
	}
	if _, _, ok := img.Extent(i, i.Size); ok {
		t.Error("an extent past the end")
	}
	want, _ := os.ReadFile(path)
	got, err := fs.ReadFile(img.FS(), "sparse")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("data differs (%v)", err)
	}
	t.Logf("%d holes", holes)
	buf := make([]byte, 10)
	if n, err := img.ReadAt(i, buf, i.Size-3); n != 3 || err != io.EOF {
		t.Errorf("read over the end: %d, %v", n, err)
	}
}

func TestFS(t *testing.T) {
	need.Tools(t, "mkfs.erofs")
	dir := t.TempDir()
	for name, data := range map[string]string{"a/b/c": "deep", "a/x": "", "top": "top\n"} {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"abs": "/a/b", "out": "../../../top", "self": "self", "dangling": "nowhere", "a/rel": "../a/b/c"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	fsys := open(t, mkfs(t, dir)).FS()
	for name, want := range map[string]string{"abs/c": "deep", "out": "top\n", "a/rel": "deep", "abs/../x": ""} {
		got, err := fs.ReadFile(fsys, name)
		if strings.Contains(name, "..") {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, want := range map[string]error{
		"self": syscall.ELOOP, "dangling": fs.ErrNotExist, "top/x": syscall.ENOTDIR, "nothing": fs.ErrNotExist, "/top": fs.ErrInvalid,
	} {
		if _, err := fs.Stat(fsys, name); !errors.Is(err, want) {
			t.Errorf("stat %s: %v, want %v", name, err, want)
		}
	}
	if _, err := fs.ReadFile(fsys, "a"); err == nil {
		t.Error("a folder was read as a file")
	}
	if _, err := fs.ReadDir(fsys, "top"); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("readdir of a file: %v", err)
	}
	if _, err := fs.ReadLink(fsys, "top"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("readlink of a file: %v", err)
	}
	// fstest opens every name and expects success, so it gets a tree without bad links.
	for _, bad := range []string{"self", "dangling"} {
		os.Remove(filepath.Join(dir, bad))
	}
	if err := fstest.TestFS(open(t, mkfs(t, dir)).FS(), "a/b/c", "top", "abs"); err != nil {
		t.Error(err)
	}
}

func TestBadImages(t *testing.T) {
	good, err := os.ReadFile(goErofsImage(t))
	if err != nil {
		t.Fatal(err)
	}
	set := func(off int, b ...byte) func([]byte) []byte {
		return func(img []byte) []byte { copy(img[off:], b); return img }
	}
	cut := func(n int) func([]byte) []byte { return func(img []byte) []byte { return img[:n] } }
	for _, c := range []struct {
		name, want string
		damage     func([]byte) []byte
	}{
		{"empty", "too few", cut(0)},
		{"short", "too few", cut(1100)},
		{"other file", "not an EROFS image", set(superOffset, 'h', 'i')},
		{"half", "truncated", cut(len(good) / 2)},
		{"one byte short", "truncated", cut(len(good) - 1)},
		{"block size", "block size 2^40", set(superOffset+12, 40)},
		{"compressed", "compressed", set(superOffset+80, 1)},
		{"future", "unknown incompatible features 0x80", set(superOffset+80, 0x80)},
		{"devices", "extra devices", set(superOffset+86, 1)},
		{"root", "root folder: inode 65535", set(superOffset+14, 0xff, 0xff)},
		{"metadata elsewhere", "past the end", set(superOffset+40, 0xff, 0xff, 0xff, 0x7f)},
	} {
		path := filepath.Join(t.TempDir(), "bad.erofs")
		if err := os.WriteFile(path, c.damage(bytes.Clone(good)), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q and the path", c.name, err, c.want)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a folder was opened as an image")
	}
}

// TestSuperChecksum: mkfs.erofs stores a checksum; one flipped bit beside the fields we read must be noticed.
func TestSuperChecksum(t *testing.T) {
	path := mkfs(t, t.TempDir())
	b, _ := os.ReadFile(path)
	b[superOffset+48] ^= 1 // volume UUID
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("got %v", err)
	}
}

// readAll touches everything an open image offers.
func readAll(img *Image) [32]byte {
	sum := sha256.New()
	buf := make([]byte, 512)
	for _, d := range img.dirs {
		for _, e := range img.Entries(d.self) {
			fmt.Fprintln(sum, e.Name, e.Inode.Nid)
			img.Lookup(d.self, e.Name)
			if e.Inode.IsSymlink() {
				img.Readlink(e.Inode)
			}
			img.ReadAt(e.Inode, buf, 0)
			img.ReadAt(e.Inode, buf, e.Inode.Size-100)
			img.Xattrs(e.Inode)
		}
	}
	return [32]byte(sum.Sum(nil))
}

func FuzzOpen(f *testing.F) {
	if _, err := exec.LookPath("mkfs.erofs"); err == nil {
		dir := f.TempDir()
		os.WriteFile(filepath.Join(dir, "file"), pattern(5000), 0o644)
		os.Symlink("file", filepath.Join(dir, "link"))
		os.Mkdir(filepath.Join(dir, "sub"), 0o755)
		for _, args := range [][]string{nil, {"--chunksize=4096"}, {"-Eforce-inode-extended"}} {
			b, err := os.ReadFile(mkfs(f, dir, args...))
			if err != nil {
				f.Fatal(err)
			}
			le.PutUint32(b[superOffset+8:], 0) // without the checksum, or no damage would get past it
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "fuzz.erofs")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		img, err := Open(path)
		if err != nil {
			return
		}
		defer img.Close()
		if n := len(img.byNid); int64(n) > img.size {
			t.Fatalf("%d inodes in %d bytes", n, len(b))
		}
		readAll(img)
	})
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	for i := range 20000 {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", i/50))
		os.MkdirAll(sub, 0o755)
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("some-file-name-%d", i)), pattern(i%9000), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	path := mkfs(b, dir)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	img := open(b, path)
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB/index")
	runtime.KeepAlive(img)
	for b.Loop() {
		img, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		img.Close()
	}
}
