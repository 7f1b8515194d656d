package layers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiscardStopped follows what is removed of an entry: what says that it is whole goes first, or a build that is killed meanwhile
// leaves a part to the next as the whole.
func TestDiscardStopped(t *testing.T) {
	entry := filepath.Join(t.TempDir(), "entry")
	if err := os.Mkdir(entry, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(entry, fmt.Sprint("part", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(entry, "boot"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, entry, unix.IN_DELETE); err != nil {
		t.Fatal(err)
	}
	if err := discard(entry); err != nil {
		t.Fatal(err)
	}
	events := make([]byte, 64<<10)
	n, err := unix.Read(fd, events)
	if err != nil || n < unix.SizeofInotifyEvent+5 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if first := string(events[unix.SizeofInotifyEvent:][:5]); first != "boot\x00" {
		t.Errorf("%q is removed first", first)
	}
}

// folder makes a folder with a file that holds a text.
func folder(t *testing.T, parent, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "folder")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestKeep(t *testing.T) {
	c := Cache{filepath.Join(t.TempDir(), "installed")}
	dir := t.TempDir()
	find := func(image, sum string) string {
		t.Helper()
		entry, err := c.Find(image, sum)
		if err != nil {
			t.Fatal(err)
		}
		return entry
	}
	keep := func(image, sum, text string) string {
		t.Helper()
		entry, err := c.Keep(image, sum, map[string]string{"root": folder(t, dir, text), "changes": folder(t, dir, text+"'s")})
		if err != nil {
			t.Fatal(err)
		}
		return entry
	}
	if got := find("a", "1"); got != "" {
		t.Fatalf("an empty cache has %s", got)
	}
	one, other := keep("a", "1", "one"), keep("b", "1", "other")
	if find("a", "1") != one || find("b", "1") != other || find("a", "2") != "" {
		t.Errorf("%s and %s are kept, and %s, %s and %s found", one, other, find("a", "1"), find("b", "1"), find("a", "2"))
	}
	for name, want := range map[string]string{"root": "one", "changes": "one's"} {
		if text, err := os.ReadFile(filepath.Join(one, name, "file")); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	for _, d := range []string{c.Dir, filepath.Dir(one), one} {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("others may enter %s: %v, %v", d, info, err)
		}
	}

	// What is kept next takes its place, and that of other images stays.
	two := keep("a", "2", "two")
	if _, err := os.Lstat(one); err == nil || find("a", "1") != "" || find("a", "2") != two || find("b", "1") != other {
		t.Errorf("%s is kept, and %s, %s and %s found", two, find("a", "1"), find("a", "2"), find("b", "1"))
	}

	// An earlier run of the kernel, a killed build.
	mark := filepath.Join(two, "boot")
	if err := os.WriteFile(mark, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := find("a", "2"); got != "" {
		t.Errorf("%s may not have reached the disk", got)
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	if got := find("a", "2"); got != "" {
		t.Errorf("%s is half an entry", got)
	}
	if again := keep("a", "2", "again"); again != two || find("a", "2") != two {
		t.Errorf("%s and %s", again, two)
	}

	// What cannot be kept is there neither in part nor as it was before.
	if entry, err := c.Keep("a", "3", map[string]string{"root": folder(t, dir, "x"), "no/such/folder": folder(t, dir, "y")}); err == nil {
		t.Errorf("it is kept in %s", entry)
	}
	if left, err := os.ReadDir(filepath.Dir(two)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestOtherDisk has folders on another file system than the cache.
func TestOtherDisk(t *testing.T) {
	const memory = "/dev/shm"
	c := Cache{filepath.Join(t.TempDir(), "installed")}
	far, err := os.MkdirTemp(memory, "netroot")
	if err != nil {
		t.Skipf("no other file system: %v", err)
	}
	defer os.RemoveAll(far)
	stays := folder(t, far, "x")
	entry, err := c.Keep("a", "1", map[string]string{"root": stays})
	if strings.HasPrefix(c.Dir, memory) {
		t.Skip("it is the same file system")
	}
	if err != nil || entry != "" {
		t.Errorf("%q, %v", entry, err)
	}
	if _, err := os.Stat(filepath.Join(stays, "file")); err != nil {
		t.Error(err)
	}
	if found, err := c.Find("a", "1"); err != nil || found != "" {
		t.Errorf("%q, %v", found, err)
	}
}
