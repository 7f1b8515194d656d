package image

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// plant makes a folder with everything a root has: as root also owners, devices and capabilities.
func plant(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	must(os.Chmod(dir, 0o755))
	must(os.MkdirAll(at("usr/bin"), 0o755))
	must(os.MkdirAll(at("tmp"), 0o755))
	must(os.Chmod(at("tmp"), 0o1777))
	must(os.Chmod(at("tmp"), 0o777|os.ModeSticky))
	must(os.Mkdir(at("empty"), 0o711))
	must(os.Mkdir(at("many"), 0o755))
	for i := range 1500 {
		must(os.WriteFile(at(fmt.Sprintf("many/%s-%04d", strings.Repeat("n", i%200), i)), []byte(fmt.Sprint(i)), 0o644))
	}
	for _, n := range []int{0, 1, 100, 4000, 4095, 4096, 4097, 8192, 70_001, 3 << 20} {
		must(os.WriteFile(at(fmt.Sprintf("size-%d", n)), pattern(n), 0o640))
	}
	must(os.WriteFile(at("!before-dot"), []byte("x"), 0o600))
	must(os.WriteFile(at("usr/bin/su"), pattern(5000), 0o755))
	must(os.Chmod(at("usr/bin/su"), 0o755|os.ModeSetuid))
	must(os.WriteFile(at("usr/bin/wall"), nil, 0o755))
	must(os.Chmod(at("usr/bin/wall"), 0o755|os.ModeSetgid))
	must(os.Link(at("usr/bin/su"), at("usr/bin/su-again")))
	must(os.Symlink("usr/bin", at("bin")))
	must(os.Symlink("/usr/bin/su", at("absolute")))
	must(os.Symlink("../../../../usr/bin/su", at("usr/bin/up")))
	must(os.Symlink("loop", at("loop")))
	must(os.Symlink(strings.Repeat("x", 4000), at("long-link")))
	must(syscall.Mkfifo(at("fifo"), 0o620))
	deep := dir
	for range 40 {
		deep = filepath.Join(deep, "deep")
		must(os.Mkdir(deep, 0o755))
	}
	must(os.WriteFile(filepath.Join(deep, "bottom"), []byte("bottom\n"), 0o444))
	must(os.Chtimes(at("usr/bin/wall"), time.Time{}, time.Unix(1234567890, 987654321)))
	if os.Getuid() == 0 {
		must(os.Lchown(at("size-100"), 1000, 70000))
		must(os.Lchown(at("bin"), 12, 34))
		must(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70001))))
		must(unix.Setxattr(at("size-1"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
		must(unix.Setxattr(at("size-0"), "trusted.note", []byte("hello"), 0))
		must(unix.Setxattr(at("size-100"), "trusted.note", []byte("hello"), 0))
	}
	return dir
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>12) ^ byte(i*7)
	}
	return b
}

func mkfs(t testing.TB, dir string, args ...string) string {
	t.Helper()
	need.Tools(t, "mkfs.erofs")
	path := filepath.Join(t.TempDir(), "root.erofs")
	run(t, "mkfs.erofs", append(args, path, dir)...)
	return path
}

func open(t testing.TB, path string) *Image {
	t.Helper()
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// same compares an image with a folder on disk in every attribute and byte. Times are compared when the source has them whole.
func same(t *testing.T, img *Image, dir string) {
	t.Helper()
	fsys := img.FS()
	inodes := map[uint64]uint64{}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		rel, _ := filepath.Rel(dir, path)
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		got, err := fs.Lstat(fsys, rel)
		if err != nil {
			t.Errorf("%s: %v", rel, err)
			return nil
		}
		want, have := info.Sys().(*syscall.Stat_t), got.Sys().(*syscall.Stat_t)
		if got.Mode() != info.Mode() || have.Mode != want.Mode || have.Uid != want.Uid || have.Gid != want.Gid ||
			have.Rdev != want.Rdev || have.Mtim != want.Mtim || !info.IsDir() && (have.Nlink != want.Nlink || have.Size != want.Size) {
			t.Errorf("%s: got %v %+v, want %v %+v", rel, got, *have, info, *want)
		}
		if first, ok := inodes[want.Ino]; ok && first != have.Ino {
			t.Errorf("%s: two inodes for what is one", rel)
		}
		inodes[want.Ino] = have.Ino
		switch {
		case info.Mode().IsRegular():
			a, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b, err := readWhole(fsys, rel)
			if err != nil || !bytes.Equal(a, b) {
				t.Errorf("%s: data differs (%v)", rel, err)
			}
		case info.Mode().Type() == fs.ModeSymlink:
			a, _ := os.Readlink(path)
			b, err := fs.ReadLink(fsys, rel)
			if err != nil || a != b {
				t.Errorf("%s: link to %q, want %q (%v)", rel, b, a, err)
			}
		}
		sameXattrs(t, img, path, rel, have.Ino)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	if err := fs.WalkDir(fsys, ".", func(_ string, _ fs.DirEntry, err error) error { count++; return err }); err != nil {
		t.Error(err)
	}
	if count != seen {
		t.Errorf("%d names, want %d", count, seen)
	}
	if len(inodes) != img.Inodes() {
		t.Errorf("%d inodes, want %d", img.Inodes(), len(inodes))
	}
}

// readWhole reads by Open, in pieces, as opposed to ReadFile.
func readWhole(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func sameXattrs(t *testing.T, img *Image, path, rel string, nid uint64) {
	t.Helper()
	i, ok := img.Inode(nid)
	if !ok {
		t.Fatalf("%s: inode %d is not found by number", rel, nid)
	}
	attrs, err := img.Xattrs(i)
	if err != nil {
		t.Errorf("%s: %v", rel, err)
	}
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	if n == 0 {
		names = nil
	}
	for _, name := range names {
		val := make([]byte, 4096)
		k, err := unix.Lgetxattr(path, name, val)
		if err != nil {
			t.Fatal(err)
		}
		if attrs[name] != string(val[:k]) {
			t.Errorf("%s: attribute %s is %q, want %q", rel, name, attrs[name], val[:k])
		}
	}
	if len(names) != len(attrs) {
		t.Errorf("%s: attributes %v, want %v", rel, attrs, names)
	}
}
