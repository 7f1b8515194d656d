package iso

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/google/go-cmp/cmp"

	"netroot/builder/need"
)

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	need.Tools(t, name)
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sourceTree makes a folder with what is hard to get right in an ISO. simple leaves out what ECMA-119 alone has no place for.
func sourceTree(t testing.TB, simple bool) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("casper/vmlinuz", strings.Repeat("kernel ", 30000), 0o644)
	write("casper/initrd", "initrd", 0o600)
	write("a/b/c/d/e/f/far.txt", "far", 0o644) // eight levels in all, which ECMA-119 allows
	write("empty", "", 0o644)
	write("readme.txt", "read me\n", 0o444)
	for i := range 200 { // several sectors of records
		write(fmt.Sprintf("many/f%04d.txt", i), fmt.Sprint(i), 0o644)
	}
	if err := os.Mkdir(filepath.Join(dir, "nothing"), 0o755); err != nil {
		t.Fatal(err)
	}
	if simple {
		return dir
	}
	write("a/b/c/d/e/f/g/h/i/j/k/l/m/deep.txt", "deep", 0o640)
	write("a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/deeper.txt", "deeper", 0o640)
	write("bin/su", "setuid", 0o755)
	write("日本語 と spaces; and, signs.tar.gz", "names", 0o644)
	write("dots...", "dots", 0o644)
	write(strings.Repeat("n", 240), "a long name", 0o644)
	for name, target := range map[string]string{
		"vmlinuz": "casper/vmlinuz", "bin/up": "../../casper", "absolute": "/etc/passwd", "here": ".", "climb": "../..", "root": "/",
		"long": "../" + strings.Repeat("t", 150) + "/" + strings.Repeat("u", 60),
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(filepath.Join(dir, "bin/su"), 1234, 70000); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, "bin/su"), 0o755|os.ModeSetuid); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mknod(filepath.Join(dir, "null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(dir, "readme.txt"), time.Time{}, time.Date(1999, 12, 31, 23, 59, 58, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A fact is what there is to know of one file.
type fact struct {
	Mode, UID, GID uint32
	Size           int64
	Mtime          int64
	Target, Sum    string
	Rdev           uint64
}

// facts lists everything in a file system.
func facts(t testing.TB, fsys fs.FS) map[string]fact {
	t.Helper()
	list := map[string]fact{}
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		f := fact{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size, Mtime: info.ModTime().Unix(), Rdev: st.Rdev}
		switch {
		case d.IsDir():
			f.Size = 0
		case d.Type()&fs.ModeSymlink != 0:
			if f.Target, err = fs.ReadLink(fsys, path); err != nil {
				return err
			}
		case d.Type().IsRegular():
			r, err := fsys.Open(path)
			if err != nil {
				return err
			}
			defer r.Close()
			h := sha256.New()
			if _, err := io.Copy(h, r); err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
			f.Sum = fmt.Sprintf("%x", h.Sum(nil)[:8])
		}
		list[path] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// plain leaves what ECMA-119 and Joliet keep.
func plain(all map[string]fact) map[string]fact {
	list := map[string]fact{}
	for name, f := range all {
		list[name] = fact{Mode: f.Mode & modeType, Size: f.Size, Sum: f.Sum}
	}
	return list
}

// isos are made by two programs; each was chosen for what others read wrong in it.
var isos = []struct {
	name, maker string
	args        []string
	simple      bool
	rock        bool
}{
	{"rock-ridge", "xorriso", []string{"-R"}, false, true},
	{"rock-ridge-joliet", "xorriso", []string{"-R", "-J", "-joliet-long"}, false, true},
	{"rock-ridge-relocated", "genisoimage", []string{"-R", "-quiet", "-allow-limited-size"}, false, true},
	{"rock-ridge-rational", "genisoimage", []string{"-r", "-J", "-joliet-long", "-quiet"}, false, true},
	{"xorriso-relocated", "xorriso", []string{"-R", "-rr_reloc_dir", "/rr_moved"}, false, true},
	{"hybrid", "xorriso", []string{"-R", "-J", "-joliet-long", "-isohybrid-mbr", "/usr/lib/ISOLINUX/isohdpfx.bin", "-partition_offset", "16",
		"-b", "isolinux.bin", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"}, false, true},
	{"joliet", "genisoimage", []string{"-J", "-joliet-long", "-quiet"}, true, false},
	{"plain-level-1", "genisoimage", []string{"-iso-level", "1", "-quiet"}, true, false},
	{"plain-level-3", "xorriso", []string{"-iso-level", "3", "--norock"}, true, false},
}

func makeISO(t testing.TB, maker, src, out string, args ...string) {
	t.Helper()
	if maker == "xorriso" {
		args = append([]string{"-as", "mkisofs", "-quiet"}, args...)
	}
	run(t, maker, slices.Concat(args, []string{"-V", "TEST VOLUME", "-o", out, src})...)
}

// Every ISO gives the names, sizes, contents, targets, modes, owners and times that were put into it, and what xorriso takes out of it.
func TestAgainstXorriso(t *testing.T) {
	need.Patience(t)
	for _, c := range isos {
		t.Run(c.name, func(t *testing.T) {
			src := sourceTree(t, c.simple)
			if c.name == "hybrid" {
				data, err := os.ReadFile("/usr/lib/ISOLINUX/isolinux.bin")
				need.That(t, err)
				if err := os.WriteFile(filepath.Join(src, "isolinux.bin"), data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(t.TempDir(), "x.iso")
			makeISO(t, c.maker, src, path, c.args...)
			img, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			got := facts(t, img.FS())

			want := facts(t, os.DirFS(src))
			delete(want, "isolinux.bin") // xorriso writes its own table into it
			made := maps.Clone(got)
			delete(made, "isolinux.bin")
			delete(made, "boot.catalog")
			delete(made, "rr_moved") // left empty
			switch {
			case c.rock && c.args[0] == "-r": // owners and modes are made alike
				want, made = plain(want), plain(made)
			case c.rock:
				for name, f := range want {
					if f.Mode&modeType == modeSymlink { // a link's own time is that of its making
						f.Mtime = made[name].Mtime
						want[name] = f
					}
					if os.Geteuid() != 0 { // who may not chown made no other files either
						break
					}
				}
			default:
				want, made = plain(want), plain(made)
			}
			if diff := cmp.Diff(want, made); diff != "" {
				t.Errorf("what was put in (-) and what is read (+):\n%s", diff)
			}

			if os.Geteuid() != 0 {
				return
			}
			out := filepath.Join(t.TempDir(), "out")
			args := []string{"-osirrox", "on:auto_chmod_off:device_files", "-indev", path}
			// It cannot restore the device numbers that genisoimage writes.
			run(t, "xorriso", append([]string{"-abort_on", "FATAL", "-return_with", "FATAL", "0"}, append(args, "-extract", "/", out)...)...)
			extracted := facts(t, os.DirFS(out))
			if c.maker == "genisoimage" {
				delete(extracted, "null")
				delete(got, "null")
			}
			if !c.rock { // xorriso shows plain names as they are stored, in upper case
				lower := map[string]fact{}
				for name, f := range extracted {
					lower[strings.ToLower(name)] = f
				}
				extracted, got = plain(lower), plain(got)
			}
			for name, f := range extracted { // xorriso does not take out a link's time, and Linux gives it a mode of its own
				if f.Mode&modeType == modeSymlink {
					f.Mtime, f.Mode = got[name].Mtime, got[name].Mode
					extracted[name] = f
				}
			}
			if diff := cmp.Diff(extracted, got); diff != "" {
				t.Errorf("what xorriso takes out (-) and what is read (+):\n%s", diff)
			}
		})
	}
}

// isoinfo lists the files that we find. It shows folders that were moved where they were moved to, so there are none.
func TestAgainstIsoinfo(t *testing.T) {
	need.Patience(t)
	for _, c := range isos {
		if c.name == "hybrid" {
			continue
		}
		path := filepath.Join(t.TempDir(), "x.iso")
		makeISO(t, c.maker, sourceTree(t, true), path, c.args...)
		args := []string{"-f", "-i", path}
		switch {
		case c.rock:
			args = append(args, "-R")
		case c.name == "joliet":
			args = append(args, "-J")
		}
		var want []string
		for line := range strings.Lines(run(t, "isoinfo", args...)) {
			parts := strings.Split(strings.TrimPrefix(strings.TrimSpace(line), "/"), "/")
			for i := range parts {
				if !c.rock && c.name != "joliet" {
					parts[i] = plainName(parts[i])
				}
			}
			want = append(want, strings.Join(parts, "/"))
		}
		img, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.Collect(maps.Keys(facts(t, img.FS())))
		img.Close()
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: isoinfo (-) and what is read (+):\n%s", c.name, diff)
		}
	}
}

// A file of 4 GiB and three bytes has two extents. The ISO is kept with holes, as it is nearly all zeros.
func TestHugeFile(t *testing.T) {
	need.Patience(t)
	need.Tools(t, "xorriso")
	const size = 4<<30 + 3 // more than one extent can be
	src := t.TempDir()
	big := filepath.Join(src, "big.img")
	if err := os.WriteFile(big, []byte("begin"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(big, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("end"), size-3)
	}
	middle := int64(1)<<32 - 2048 // the first extent ends at the last whole sector before 4 GiB
	if err == nil {
		_, err = f.WriteAt([]byte("across the extents"), middle-7)
	}
	if err := errors.Join(err, f.Close(), os.WriteFile(filepath.Join(src, "small"), []byte("small"), 0o644)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "huge.iso")
	// With little memory between its threads xorriso spends its time in waking them.
	cmd := exec.CommandContext(t.Context(), "xorriso", "-fs", "256m", "-as", "mkisofs", "-quiet", "-iso-level", "3", "-R", "-o", "-", src)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := copySparse(path, stdout); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	i, ok := img.Lookup(img.Root(), "big.img")
	if !ok || i.Size != size {
		t.Fatalf("big.img: %+v", i)
	}
	for at, want := range map[int64]string{0: "begin", middle - 7: "across the extents", size - 3: "end"} {
		got := make([]byte, len(want))
		if _, err := img.ReadAt(i, got, at); err != nil || string(got) != want {
			t.Errorf("at %d: %q, %v, want %q", at, got, err, want)
		}
	}
	if small, err := fs.ReadFile(img.FS(), "small"); err != nil || string(small) != "small" {
		t.Errorf("small: %q, %v", small, err)
	}
	list := run(t, "xorriso", "-indev", path, "-lsl", "/")
	if !strings.Contains(list, fmt.Sprint(int64(size))) {
		t.Errorf("xorriso sees another size:\n%s", list)
	}
}

// copySparse leaves holes where there are zeros.
func copySparse(path string, r io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	var at int64
	for {
		n, err := io.ReadFull(r, buf)
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, werr := f.WriteAt(buf[:n], at); werr != nil {
				return werr
			}
		}
		at += int64(n)
		if err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return f.Truncate(at)
			}
			return err
		}
	}
}

// The library that others use agrees where it can read: one extent, no continuation areas of genisoimage's.
func TestAgainstDiskfs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.iso")
	makeISO(t, "xorriso", sourceTree(t, true), path, "-R")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := iso9660.Read(file.New(f, true), st.Size(), 0, sectorSize)
	if err != nil {
		t.Fatal(err)
	}
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	type entry struct {
		mode fs.FileMode
		data string
	}
	list := func(fsys fs.FS) map[string]entry {
		m := map[string]entry{}
		err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			e := entry{mode: info.Mode()}
			if d.Type().IsRegular() {
				data, err := fs.ReadFile(fsys, path)
				if err != nil {
					return err
				}
				e.data = string(data)
			}
			m[path] = e
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if diff := cmp.Diff(list(theirs), list(img.FS()), cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("go-diskfs (-) and what is read (+):\n%s", diff)
	}
}
