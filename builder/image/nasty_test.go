package image

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// nasty makes a tree of everything that ever went wrong in an archive format.
func nasty(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string, size int, mode uint32) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(at(name)), 0o755))
		must(os.WriteFile(at(name), pattern(size), 0o600))
		must(unix.Chmod(at(name), mode))
	}
	for _, size := range []int{0, 1, 4095, 4096, 4097, 8192, batchSize - 1, batchSize, batchSize + 1, 3*batchSize + 17} {
		file(fmt.Sprintf("sizes/%d", size), size, 0o644)
	}
	for _, mode := range []uint32{0o4755, 0o2755, 0o1777, 0o7777, 0o0000, 0o6711} {
		file(fmt.Sprintf("modes/%o", mode), 10, mode)
	}
	must(os.Mkdir(at("sticky"), 0o755))
	must(unix.Chmod(at("sticky"), 0o3777))
	file("owners/4294967294", 1, 0o644)
	must(os.Lchown(at("owners/4294967294"), math.MaxUint32-1, math.MaxUint32-1))
	file("owners/65536", 1, 0o4755) // chown clears the bit, so it is set again
	must(os.Lchown(at("owners/65536"), 65536, 65537))
	must(unix.Chmod(at("owners/65536"), 0o4755))
	must(os.Mkdir(at("dev"), 0o755))
	for _, d := range []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{
		{"null", modeChar | 0o666, 1, 3}, {"sda", modeBlock | 0o660, 8, 0}, {"big-minor", modeChar | 0o600, 10, 1048575},
		{"big-major", modeBlock | 0o600, 4095, 256}, {"whiteout", modeChar, 0, 0},
		{"fifo", modeFifo | 0o644, 0, 0}, {"socket", modeSocket | 0o755, 0, 0},
	} {
		must(unix.Mknod(at("dev/"+d.name), d.mode, int(unix.Mkdev(d.major, d.minor))))
		must(unix.Chmod(at("dev/"+d.name), d.mode&0o7777))
	}
	must(os.Mkdir(at("links"), 0o755))
	for _, n := range []int{1, 59, 60, 255, 3968, 4032, 4033, 4095} {
		must(os.Symlink(strings.Repeat("x", n), at(fmt.Sprintf("links/%d", n))))
	}
	must(os.Symlink("nowhere", at("links/dangling")))
	must(os.Lchown(at("links/dangling"), 1000, 1000))
	file("hard/a", 5000, 0o644)
	must(os.Link(at("hard/a"), at("hard/b")))
	must(os.MkdirAll(at("a/first/in/order"), 0o755))
	must(os.Link(at("hard/a"), at("a/first/in/order/c")))
	must(os.Link(at("dev/fifo"), at("hard/fifo")))
	must(os.Link(at("links/1"), at("hard/symlink")))
	file("hard/outside", 77, 0o644)
	must(os.Link(at("hard/outside"), filepath.Join(t.TempDir(), "cache"))) // on the same file system, as a cache is
	for _, name := range []string{"!before-dot", "-", "...", ".hidden", "..x", "new\nline", "\xff\xfenot-utf8", "späße",
		strings.Repeat("n", 255), strings.Repeat("\xc3\xa4", 127)} {
		file("names/"+name, 3, 0o644)
	}
	file("folders/0", 0, 0o644)
	for n := 1; n < 95; n++ { // past every way of filling a block
		must(os.Mkdir(at(fmt.Sprintf("folders/of-%d", n)), 0o755))
		for i := range n { // links, because making inodes takes a test's time
			must(os.Link(at("folders/0"), at(fmt.Sprintf("folders/of-%d/%s-%d", n, strings.Repeat("f", 20+n%30), i))))
		}
	}
	must(os.MkdirAll(at("folders/empty"), 0o700))
	for i := range 500 {
		file(fmt.Sprintf("big/%d-%s", i, strings.Repeat("w", i%200)), i, 0o644)
	}
	must(os.MkdirAll(at("deep/"+strings.Repeat("d/", 200)), 0o755))
	sparse(t, at("sparse/middle"), 300<<20+5, 0, 100<<20, 300<<20)
	sparse(t, at("sparse/none"), 5<<20, -1)
	sparse(t, at("sparse/little"), 500000, 70000)
	attributes(t, at)
	times(t, root)
	return root
}

// sparse makes a file of the given size with a few bytes of data at some places.
func sparse(t testing.TB, name string, size int64, data ...int64) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range data {
		if off >= 0 {
			if _, err := f.WriteAt([]byte("data"), off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func attributes(t testing.TB, at func(string) string) {
	t.Helper()
	acl := binary.LittleEndian.AppendUint32(nil, 2) // POSIX_ACL_XATTR_VERSION
	for _, e := range [][3]uint32{{1, 7, math.MaxUint32}, {2, 5, 1000}, {4, 5, math.MaxUint32}, {16, 5, math.MaxUint32}, {32, 5, math.MaxUint32}} {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	capability := make([]byte, 20) // struct vfs_cap_data, revision 2, cap_net_raw
	binary.LittleEndian.PutUint32(capability, 0x02000001)
	binary.LittleEndian.PutUint32(capability[4:], 1<<13)
	for _, a := range []struct {
		file, name string
		value      []byte
	}{
		{"sizes/4096", "user.mime_type", []byte("text/plain")},
		{"sizes/4096", "user.empty", nil},
		{"sizes/4096", "user." + strings.Repeat("k", 250), []byte("v")},
		{"sizes/4097", "security.capability", capability},
		{"sizes/4097", "trusted.note", []byte("only root sees it")},
		{"sizes/8192", "user.large", pattern(3500)},
		{"sizes/1", "system.posix_acl_access", acl},
		{"folders/empty", "system.posix_acl_default", acl},
		{"folders/of-50", "user.large", pattern(3300)},
		{"links/59", "trusted.of-a-link", []byte("not of its target")},
		{"dev/null", "trusted.of-a-device", []byte("x")},
		{".", "user.of-the-root", pattern(3300)},
	} {
		if err := unix.Lsetxattr(at(a.file), a.name, a.value, 0); err != nil {
			t.Fatalf("%s of %s: %v", a.name, a.file, err)
		}
	}
}

// times gives everything below root a time of its own, the deepest first.
func times(t testing.TB, root string) {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		names = append(names, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	special := []int64{0, -1, 1, math.MaxInt32, math.MaxInt32 + 1, math.MinInt32, 1 << 33}
	for i := len(names) - 1; i >= 0; i-- {
		sec := int64(1700000000 + i*1009)
		if i%13 == 0 {
			sec = special[i/13%len(special)]
		}
		ts := []unix.Timespec{{Sec: 1}, {Sec: sec, Nsec: int64(i*7919%1000) * 1001001}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, names[i], ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
}
