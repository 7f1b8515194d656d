package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

// A record is everything that must survive, but for the name. First is the first name of the inode, so that equal
// hard links have equal records.
type record struct {
	Mode, UID, GID uint32
	Nlink          uint32
	Rdev           uint64
	Size           int64 // not of folders: each file system counts them differently
	Sec, Nsec      int64
	First          string
	Target         string
	Xattrs         map[string]string
	Sum            string
}

// survey records a folder by asking the kernel. The link counts are those within the folder, or with asIs what the
// kernel says.
func survey(t testing.TB, root string, asIs bool) map[string]*record {
	t.Helper()
	out := make(map[string]*record)
	first := make(map[[2]uint64]string)
	err := filepath.WalkDir(root, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, full)
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(full, &st); err != nil {
			return err
		}
		r := &record{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink), Rdev: st.Rdev, Size: st.Size,
			Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, First: name, Xattrs: kernelXattrs(t, full)}
		out[name] = r
		switch st.Mode & modeType {
		case modeDir:
			r.Size = 0
			if !asIs {
				r.Nlink = 2
			}
			if name != "." && !asIs {
				out[filepath.Dir(name)].Nlink++
			}
			return nil
		case modeSymlink:
			if r.Target, err = os.Readlink(full); err != nil {
				return err
			}
		case modeRegular:
			f, err := os.Open(full)
			if err != nil {
				return err
			}
			defer f.Close()
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
			r.Sum = hex.EncodeToString(h.Sum(nil))
		}
		key := [2]uint64{st.Dev, st.Ino}
		if f, ok := first[key]; ok {
			r.First = f
		} else {
			first[key] = name
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !asIs {
		names := make(map[string]uint32)
		for _, r := range out {
			names[r.First]++
		}
		for _, r := range out {
			if r.Mode&modeType != modeDir {
				r.Nlink = names[r.First]
			}
		}
	}
	return out
}

func kernelXattrs(t testing.TB, full string) map[string]string {
	t.Helper()
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(full, list)
	if err != nil {
		t.Fatalf("list attributes of %s: %v", full, err)
	}
	var out map[string]string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" || foreignXattr(name) {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(full, name, value)
		if err != nil {
			t.Fatalf("attribute %s of %s: %v", name, full, err)
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[name] = string(value[:n])
	}
	return out
}

// surveyImage records an image by our own reader.
func surveyImage(t testing.TB, img *Image) map[string]*record {
	t.Helper()
	out := make(map[string]*record)
	first := make(map[uint64]string)
	var visit func(name string, i *Inode)
	visit = func(name string, i *Inode) {
		r := &record{Mode: i.Mode, UID: i.UID, GID: i.GID, Nlink: i.Nlink, Rdev: i.Rdev, Size: i.Size,
			Sec: i.Mtime.Unix(), Nsec: int64(i.Mtime.Nanosecond()), First: name}
		out[name] = r
		attrs, err := img.Xattrs(i)
		if err != nil {
			t.Fatal(err)
		}
		if len(attrs) > 0 {
			r.Xattrs = attrs
		}
		switch i.Mode & modeType {
		case modeDir:
			r.Size = 0
			for _, e := range img.Entries(i) {
				visit(path.Join(name, e.Name), e.Inode)
			}
			return
		case modeSymlink:
			if r.Target, err = img.Readlink(i); err != nil {
				t.Fatal(err)
			}
		case modeRegular:
			r.Sum = sumInode(t, img, i)
		}
		if f, ok := first[i.Nid]; ok {
			r.First = f
		} else {
			first[i.Nid] = name
		}
	}
	visit(".", img.Root())
	return out
}

func sumInode(t testing.TB, img *Image, i *Inode) string {
	t.Helper()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < i.Size; {
		n, err := img.ReadAt(i, buf, off)
		if n == 0 {
			t.Fatalf("inode %d at %d: %v", i.Nid, off, err)
		}
		h.Write(buf[:n])
		off += int64(n)
	}
	return hex.EncodeToString(h.Sum(nil))
}

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

func pack(t testing.TB, root string, o Options) (string, Stats) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "root.erofs")
	stats, err := Write(t.Context(), name, root, o)
	if err != nil {
		t.Fatal(err)
	}
	return name, stats
}

// mount loop-mounts an image.
func mount(t testing.TB, name string) string {
	t.Helper()
	at := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro,acl,user_xattr", name, at).CombinedOutput(); err != nil {
		need.Missing(t, "this kernel cannot mount it: %v: %s", err, out)
	}
	t.Cleanup(func() { run(t, "umount", at) })
	return at
}

// compare packs a tree and compares what the kernel, fsck.erofs and our reader make of it.
func compare(t *testing.T, root string) {
	want := survey(t, root, false)
	name, stats := pack(t, root, Options{})
	run(t, "fsck.erofs", name)
	if diff := cmp.Diff(want, survey(t, mount(t, name), true)); diff != "" {
		t.Errorf("the kernel sees another tree (-source +image):\n%s", diff)
	}
	if diff := cmp.Diff(want, surveyImage(t, open(t, name))); diff != "" {
		t.Errorf("our reader sees another tree (-source +image):\n%s", diff)
	}
	inodes, content := make(map[string]bool), int64(0)
	for _, r := range want {
		if !inodes[r.First] && r.Mode&modeType == modeRegular {
			content += r.Size
		}
		inodes[r.First] = true
	}
	if stats.Files+stats.Folders != len(inodes) || stats.Content != content {
		t.Errorf("stats %+v, want %d inodes and %d bytes of content", stats, len(inodes), content)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != stats.SHA256 || int64(len(data)) != stats.Size {
		t.Errorf("stats say %d bytes, %s; the file has %d, %x", stats.Size, stats.SHA256, len(data), sum)
	}
}

func TestWriteNasty(t *testing.T) {
	need.Root(t)
	need.Tools(t, "fsck.erofs", "mount")
	compare(t, nasty(t))
}

func TestWriteReal(t *testing.T) {
	need.Root(t)
	need.Tools(t, "fsck.erofs", "mount")
	for _, root := range []string{"/usr/share/zoneinfo", "/etc", "/usr/share/perl5"} {
		if _, err := os.Stat(root); err != nil {
			continue
		}
		t.Run(filepath.Base(root), func(t *testing.T) { compare(t, root) })
	}
}

// TestWriteOverlay packs what a build packs: a merged overlay whose lower layer is a farm of hard links.
func TestWriteOverlay(t *testing.T) {
	need.Root(t)
	need.Tools(t, "fsck.erofs", "mount")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"cache", "lower/etc", "lower/bin", "upper", "work", "merged"} {
		if err := os.MkdirAll(at(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"perl", "sh", "gone"} {
		if err := os.WriteFile(at("cache/"+name), []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range [][2]string{{"cache/perl", "lower/bin/perl"}, {"cache/perl", "lower/bin/perl5.36"}, {"cache/sh", "lower/bin/sh"},
		{"cache/sh", "lower/bin/dash"}, {"cache/gone", "lower/etc/gone"}} {
		if err := os.Link(at(l[0]), at(l[1])); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", at("lower"), at("upper"), at("work"))
	if out, err := exec.Command("mount", "-t", "overlay", "-o", options, "overlay", at("merged")).CombinedOutput(); err != nil {
		t.Skipf("no overlay here: %v: %s", err, out)
	}
	defer run(t, "umount", at("merged"))
	// One of two names is changed through the overlay: from now on they are two files.
	if err := os.WriteFile(at("merged/bin/dash"), []byte("changed"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(at("merged/etc/gone")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(at("merged/etc"), "trusted.kept", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	name, _ := pack(t, at("merged"), Options{})
	run(t, "fsck.erofs", name)
	got := surveyImage(t, open(t, name))
	links := make(map[string]string)
	for name, r := range got {
		links[name] = fmt.Sprintf("%s %d", r.First, r.Nlink)
	}
	want := map[string]string{".": ". 4", "bin": "bin 2", "etc": "etc 2", "bin/perl": "bin/perl 2", "bin/perl5.36": "bin/perl 2",
		"bin/sh": "bin/sh 1", "bin/dash": "bin/dash 1"}
	if diff := cmp.Diff(want, links); diff != "" {
		t.Errorf("first names and link counts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"trusted.kept": "1"}, got["etc"].Xattrs); diff != "" {
		t.Errorf("attributes of etc (-want +got):\n%s", diff)
	}
}

// TestWriteForeignReader lets go-erofs read the nasty tree's image, without root.
func TestWriteForeignReader(t *testing.T) {
	root := t.TempDir()
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprintf("%d-%s", i, strings.Repeat("n", i%100))), pattern(i*50), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sparse(t, filepath.Join(root, "sparse"), 10<<20, 5<<20)
	name, _ := pack(t, root, Options{})
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	image, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := fs.ReadDir(image, ".")
	if err != nil || len(entries) != 301 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, e := range entries {
		got, err := fs.ReadFile(image, e.Name())
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(root, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs", e.Name())
		}
	}
}

// TestWriteLastlog packs the file that breaks every packer that does not know holes.
func TestWriteLastlog(t *testing.T) {
	root := t.TempDir()
	const size = 292 * (1<<32 - 1) // struct lastlog of user 2^32-2
	sparse(t, filepath.Join(root, "lastlog"), size, 292*1000, size-292)
	name, stats := pack(t, root, Options{})
	if stats.Size > 200<<20 {
		t.Errorf("the image has %d bytes", stats.Size)
	}
	img := open(t, name)
	i, ok := img.Lookup(img.Root(), "lastlog")
	if !ok || i.Size != size {
		t.Fatalf("lastlog: %v %+v", ok, i)
	}
	for off, want := range map[int64]string{292 * 1000: "data", 1 << 40: "\x00\x00\x00\x00", size - 292: "data"} {
		got := make([]byte, 4)
		if _, err := img.ReadAt(i, got, off); err != nil || string(got) != want {
			t.Errorf("at %d: %q, %v", off, got, err)
		}
	}
}

// TestWriteExtents checks that a server can send every file with one call.
func TestWriteExtents(t *testing.T) {
	root := t.TempDir()
	for _, size := range []int{1, 4096, 5000, 3 << 20} {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint(size)), pattern(size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name, _ := pack(t, root, Options{})
	img := open(t, name)
	for _, e := range img.Entries(img.Root()) {
		off, n, ok := img.Extent(e.Inode, 0)
		if !ok || n != e.Inode.Size || off%blockSize != 0 {
			t.Errorf("%s: %d bytes at %d, %v", e.Name, n, off, ok)
		}
	}
}

func TestWriteReproducible(t *testing.T) {
	need.Tools(t, "cp")
	root := filepath.Join(t.TempDir(), "tree")
	for i := range 200 {
		name := filepath.Join(root, fmt.Sprint(i%7), fmt.Sprint(i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, pattern(i*997), 0o644); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := os.Link(name, filepath.Join(root, fmt.Sprintf("link-%d", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	copied := filepath.Join(t.TempDir(), "copy")
	run(t, "cp", "-a", root, copied)
	o := Options{BuildTime: time.Unix(1700000000, 5)}
	var done, total int64
	o.Progress = func(d, t int64) { done, total = max(done, d), t }
	first, stats := pack(t, root, o)
	if done != stats.Size || total != stats.Size {
		t.Errorf("progress ended at %d of %d, the image has %d bytes", done, total, stats.Size)
	}
	want, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "like-proc-PID-root")
	if err := os.Symlink(root, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{root, copied, link} {
		again, _ := pack(t, dir, o)
		got, err := os.ReadFile(again)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("the image of %s differs", dir)
		}
	}
	o.BuildTime = time.Unix(1700000001, 5)
	if _, other := pack(t, root, o); other.SHA256 == stats.SHA256 {
		t.Error("the build time is not in the image")
	}
}

// What was made after the build time is as old as that, so that the hour of a build does not show; what is older stays.
func TestWriteNothingIsYoungerThanTheBuild(t *testing.T) {
	built := time.Unix(1700000000, 5)
	old := time.Unix(1600000000, 7)
	var sums []string
	for _, age := range []time.Duration{time.Nanosecond, time.Hour} {
		root := t.TempDir()
		for name, at := range map[string]time.Time{"young": built.Add(age), "old": old, ".": built.Add(age)} {
			path := filepath.Join(root, name)
			if name != "." {
				if err := os.WriteFile(path, nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(root, built.Add(age), built.Add(age)); err != nil {
			t.Fatal(err)
		}
		name, stats := pack(t, root, Options{BuildTime: built})
		sums = append(sums, stats.SHA256)
		fsys := open(t, name).FS()
		for file, want := range map[string]time.Time{".": built, "young": built, "old": old} {
			info, err := fs.Stat(fsys, file)
			if err != nil {
				t.Fatal(err)
			}
			if !info.ModTime().Equal(want) {
				t.Errorf("%s is of %v, want %v", file, info.ModTime(), want)
			}
		}
	}
	if sums[0] != sums[1] {
		t.Error("two trees that differ only in times after the build give two images")
	}
}

func TestWriteExclude(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"proc/1/status", "tmp/x", "etc/passwd", "procfs/kept"} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	built := time.Unix(1700000000, 0)
	if os.Getuid() == 0 {
		run(t, "mount", "-t", "tmpfs", "none", filepath.Join(root, "proc"))
		defer run(t, "umount", filepath.Join(root, "proc"))
		if err := os.WriteFile(filepath.Join(root, "proc/version"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name, _ := pack(t, root, Options{Exclude: []string{"/proc", "tmp/", "not/there"}, BuildTime: built})
	img := open(t, name)
	var names []string
	for n := range surveyImage(t, img) {
		names = append(names, n)
	}
	want := []string{".", "etc", "etc/passwd", "proc", "procfs", "procfs/kept", "tmp"}
	if diff := cmp.Diff(want, names, cmp.Transformer("set", func(in []string) map[string]bool {
		out := make(map[string]bool)
		for _, s := range in {
			out[s] = true
		}
		return out
	})); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if tmp, _ := img.Lookup(img.Root(), "tmp"); tmp.Mode != modeDir|0o1777 {
		t.Errorf("tmp has mode %o", tmp.Mode)
	}
	if proc, _ := img.Lookup(img.Root(), "proc"); os.Getuid() == 0 && !proc.Mtime.Equal(built) {
		t.Errorf("the mount point has time %s", proc.Mtime)
	}
}

func TestWriteErrors(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "root.erofs")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name, out, root, exclude, want string
		ctx                            context.Context
	}{
		{name: "no root", out: out, root: root + "/gone", want: root + "/gone: no such file or directory"},
		{name: "root is a file", out: out, root: root + "/file", want: root + "/file is not a folder"},
		{name: "exclude a file", out: out, root: root, exclude: "file", want: "exclude " + root + "/file: not a folder"},
		{name: "no folder for the image", out: root + "/none/root.erofs", root: root, want: root + "/none/root.erofs: no such file"},
		{name: "cancelled", out: out, root: root, ctx: cancelled, want: "context canceled"},
	} {
		ctx := c.ctx
		if ctx == nil {
			ctx = t.Context()
		}
		_, err := Write(ctx, c.out, c.root, Options{Exclude: []string{c.exclude}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", c.name, err, c.want)
		}
		if _, err := os.Lstat(c.out); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: an image is left: %v", c.name, err)
		}
	}
	// No file system lets a test make a file of an unknown type.
	s := &scanner{tree: tree{root: root}, list: make([]byte, 1024)}
	_, err := s.inode(&node{}, "file", unix.Stat_t{Mode: 0o010644 | 0o140000})
	if err == nil || !strings.Contains(err.Error(), root+"/file: files of type 0150000") {
		t.Errorf("unknown type: %v", err)
	}
}

// TestWriteChanged changes the tree between the two looks that are taken at it.
func TestWriteChanged(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(string) error
	}{
		{"shorter", func(name string) error { return os.Truncate(name, 10) }},
		{"longer", func(name string) error { return os.Truncate(name, 100000) }},
		{"gone", os.Remove},
		{"now a link", func(name string) error { os.Remove(name); return os.Symlink("/etc/shadow", name) }},
	} {
		root := t.TempDir()
		name := filepath.Join(root, "file")
		if err := os.WriteFile(name, pattern(5000), 0o644); err != nil {
			t.Fatal(err)
		}
		tree, err := scan(t.Context(), root, Options{})
		if err != nil {
			t.Fatal(err)
		}
		l, err := layOut(tree)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.change(name); err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		w := &writer{out: out, root: root, total: l.size(), sum: sha256.New()}
		if err := w.run(t.Context(), l.encode(time.Time{}), l.data); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestWriteDiskFull(t *testing.T) {
	need.Root(t)
	need.Tools(t, "mount")
	disk := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "-o", "size=1m", "none", disk)
	defer run(t, "umount", disk)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), pattern(3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(disk, "root.erofs")
	_, err := Write(t.Context(), out, root, Options{})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), out) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an image is left: %v", err)
	}
}

func BenchmarkWrite(b *testing.B) {
	root := "/usr/lib"
	out := filepath.Join(b.TempDir(), "root.erofs")
	for b.Loop() {
		stats, err := Write(b.Context(), out, root, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(stats.Size)
	}
}
