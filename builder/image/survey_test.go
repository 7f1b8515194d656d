package image

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
