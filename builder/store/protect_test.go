package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"netroot/builder/need"
)

func owner(t *testing.T, path string) (uid, gid int, mode fs.FileMode) {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	return int(sys.Uid), int(sys.Gid), st.Mode().Perm()
}

// A store that others can look into is closed, whoever made it so.
func TestProtect(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	if corrected, err := s.Protect(NoGroup); err != nil || corrected != nil {
		t.Errorf("a store that does not exist: %q, %v", corrected, err)
	}
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode, want fs.FileMode
		said       string
	}{
		{0o755, 0o700, "had mode 0755"}, {0o701, 0o700, "had mode 0701"}, {0o750, 0o700, "had mode 0750"}, {0o700, 0o700, ""}, {0o500, 0o700, ""},
	} {
		if err := os.Chmod(s.Dir(), c.mode); err != nil {
			t.Fatal(err)
		}
		corrected, err := s.Protect(NoGroup)
		_, _, mode := owner(t, s.Dir())
		if err != nil || mode != c.want || !strings.Contains(strings.Join(corrected, ""), c.said) || (len(corrected) > 0) != (c.said != "") {
			t.Errorf("mode %#o: now %#o, said %q, %v", c.mode, mode, corrected, err)
		}
	}
}

// The group gets what a server reads, and what is built later, too.
func TestProtectGroup(t *testing.T) {
	need.Root(t)
	const gid = 54321
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	g := publish(t, s, "a", Manifest{})
	if err := os.Chmod(s.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	corrected, err := s.Protect(gid)
	if err != nil || len(corrected) != 2 {
		t.Errorf("said %q, %v", corrected, err)
	}
	later := publish(t, s, "b", Manifest{})
	for _, path := range []string{s.Dir(), s.LoaderDir(), g.Dir, g.Path(PartRoot), g.Path(ManifestName), later.Dir, later.Path(PartRoot)} {
		want := fs.FileMode(0o750)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			want = 0o640
		}
		if _, group, mode := owner(t, path); group != gid || mode != want {
			t.Errorf("%s: group %d, mode %#o, want %d and %#o", path, group, mode, gid, want)
		}
	}
	if corrected, err := s.Protect(gid); err != nil || corrected != nil {
		t.Errorf("once more: %q, %v", corrected, err)
	}
}

// What the server remembers is its user's, but that user cannot have himself given anything else.
func TestGiveState(t *testing.T) {
	need.Root(t)
	const id = 54321
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := s.GiveState(id, id); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(s.StateDir(), "nodes.json")
	if err := os.WriteFile(own, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	linked := filepath.Join(s.StateDir(), "hard")
	for name, link := range map[string]func(string, string) error{linked: os.Link, filepath.Join(s.StateDir(), "soft"): os.Symlink} {
		if err := link(secret, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.GiveState(id, id); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{s.StateDir(): id, own: id, secret: 0, linked: 0} {
		if uid, gid, _ := owner(t, path); uid != want || gid != want {
			t.Errorf("%s belongs to %d:%d, want %d", path, uid, gid, want)
		}
	}
	if err := os.RemoveAll(s.StateDir()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(secret), s.StateDir()); err != nil {
		t.Fatal(err)
	}
	if err := s.GiveState(id, id); err == nil {
		t.Error("a link in place of the folder is followed")
	}
	if uid, _, _ := owner(t, filepath.Dir(secret)); uid != 0 {
		t.Error("the link's target is given away")
	}
}
