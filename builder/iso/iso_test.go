package iso

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/image"
)

// smallISO is an ISO of a few files with Rock Ridge and Joliet.
func smallISO(t testing.TB, args ...string) []byte {
	t.Helper()
	src := t.TempDir()
	for name, text := range map[string]string{"casper/vmlinuz": "kernel", "casper/initrd": "initrd", "empty": ""} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(strings.Repeat("far/", 60), filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "small.iso")
	makeISO(t, "xorriso", src, path, append(args, "-no-pad")...)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A file that is no ISO, or not all of one, is called what it is.
func TestNotAnISO(t *testing.T) {
	whole := smallISO(t, "-R")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(whole)
	z.Close()
	disk := make([]byte, 1<<20)
	disk[510], disk[511] = 0x55, 0xaa
	udf := make([]byte, 1<<20)
	copy(udf[firstSector*sectorSize+1:], "BEA01")
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":     {nil, "it is empty"},
		"page":      {[]byte("\n<!DOCTYPE html>\n<title>Log in</title>"), "perhaps a login or error page"},
		"gzip":      {zipped.Bytes(), "compressed with gzip"},
		"disk":      {disk, "image of a disk with partitions"},
		"udf":       {udf, "UDF image"},
		"noise":     {bytes.Repeat([]byte("noise"), 20000), `expected "CD001" at byte 32769`},
		"begun":     {whole[:20000], "cut off"},
		"tables":    {whole[:firstSector*sectorSize+4096], "cut off"},
		"cut":       {whole[:len(whole)-4096], "cut off: it has"},
		"root gone": {whole[:36000], "cut off"},
	} {
		path := filepath.Join(t.TempDir(), "x.iso")
		if err := os.WriteFile(path, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		img, err := Open(path)
		if err == nil {
			img.Close()
			t.Errorf("%s: it opens", name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %q does not say %q", name, err, c.want)
		}
	}
}

// What a file handle names is the same file whenever and wherever the ISO is opened.
func TestNumbersStay(t *testing.T) {
	data := smallISO(t, "-R")
	numbers := func() map[string]uint64 {
		path := filepath.Join(t.TempDir(), "x.iso")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		img, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		list := map[string]uint64{}
		var walk func(dir *image.Inode, path string)
		walk = func(dir *image.Inode, path string) {
			for _, e := range img.Entries(dir) {
				list[path+e.Name] = e.Inode.Nid
				if found, ok := img.Inode(e.Inode.Nid); !ok || found != e.Inode {
					t.Errorf("%s%s is not found by its number", path, e.Name)
				}
				if e.Inode.IsDir() {
					if img.Parent(e.Inode) != dir {
						t.Errorf("%s%s has another parent", path, e.Name)
					}
					walk(e.Inode, path+e.Name+"/")
				}
			}
		}
		walk(img.Root(), "")
		return list
	}
	first, second := numbers(), numbers()
	if len(first) != 5 {
		t.Errorf("there are %d names: %v", len(first), first)
	}
	for name, n := range first {
		if second[name] != n {
			t.Errorf("%s is %d and %d", name, n, second[name])
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, args := range [][]string{{"-R"}, {"--norock", "-J", "-joliet-long"}, {"--norock"}} {
		data := smallISO(f, args...)
		f.Add(data[firstSector*sectorSize:])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// The system area says nothing; without it more of what is changed counts.
		all := append(make([]byte, firstSector*sectorSize), data...)
		img, err := readTree(bytes.NewReader(all), int64(len(all)), image.Assemble(nil, "x.iso", int64(len(all))))
		if err != nil {
			return
		}
		// Whatever opens lies inside.
		err = fs.WalkDir(img.FS(), ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			dir, name := filepath.Split(path)
			at, err := img.Find(dir)
			if err != nil {
				return err
			}
			i, _ := img.Lookup(at, name)
			for off := int64(0); off < i.Size; {
				place, n, ok := img.Extent(i, off)
				if !ok || place < 0 || n <= 0 || place+n > int64(len(all)) {
					t.Fatalf("%s: %d bytes at %d of an ISO of %d", path, n, place, len(all))
				}
				off += n
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func FuzzRock(f *testing.F) {
	f.Add([]byte("NM\x08\x01\x00abcPX\x24\x01" + strings.Repeat("\x01", 32) + "SL\x0a\x01\x00\x04\x00\x00\x01x"))
	f.Add([]byte("CE\x1c\x01" + strings.Repeat("\x00", 16) + "\x04\x00\x00\x00\x00\x00\x00\x04"))
	f.Add([]byte("TF\x1a\x01\x0e" + strings.Repeat("\x7e\x0b\x19\x12\x34\x01\x00", 3)))
	f.Fuzz(func(t *testing.T, use []byte) {
		k, err := parseRock(use, &systemUse{read: func(_, _, size int64) ([]byte, error) { return use[:min(int64(len(use)), size)], nil }})
		if err == nil && (k.name.Len() > 255 || k.target.text.Len() > maxTarget) {
			t.Errorf("a name of %d and a target of %d bytes", k.name.Len(), k.target.text.Len())
		}
	})
}
