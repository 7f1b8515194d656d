package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

func pack(t testing.TB, root string, o Options) (string, Stats) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "root.erofs")
	stats, err := Write(t.Context(), name, root, o)
	if err != nil {
		t.Fatal(err)
	}
	return name, stats
}

func TestWriteNasty(t *testing.T) {
	need.Patience(t)
	need.Root(t)
	need.Tools(t, "fsck.erofs", "mount")
	compare(t, nasty(t))
}

func TestWriteReal(t *testing.T) {
	need.Patience(t)
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
		need.Missing(t, "no overlay here: %v: %s", err, out)
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
	need.Patience(t)
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
