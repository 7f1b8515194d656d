package builder

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/builder/chroot"
	"netroot/builder/lock"
	"netroot/builder/need"
	"netroot/builder/recipe"
	"netroot/builder/store"
)

func TestMain(m *testing.M) {
	chroot.Main()
	os.Exit(m.Run())
}

// A fixedSource has a root made already.
type fixedSource struct {
	source
	lower  string
	newest time.Time
}

func (s fixedSource) assemble(ctx context.Context, name string, pins *lock.Lock, scratch string) (*root, error) {
	session, err := chroot.Open(ctx, chroot.Config{Lower: s.lower, Work: filepath.Join(scratch, "changes"), Arch: pins.Arch})
	return &root{session: session, newest: s.newest}, err
}

// TestUsrIsALink has a root whose /usr leads out of it: the link gets the time of the packages, and not what it leads to.
func TestUsrIsALink(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	host, lower := filepath.Join(dir, "host"), filepath.Join(dir, "lower")
	for _, d := range []string{host, lower} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(host, filepath.Join(lower, "usr")); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(host)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	draft, err := s.Begin("x")
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Abort()
	newest := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	var m store.Manifest
	_, err = (&Builder{Store: s}).root(t.Context(), &recipe.Recipe{Name: "x", Arch: "amd64"}, &lock.Lock{Arch: "amd64"}, fixedSource{lower: lower, newest: newest}, draft, &m)
	if err == nil || strings.Contains(err.Error(), "configure x") {
		t.Fatalf("the root of nothing: %v", err)
	}
	if link, err := os.Lstat(filepath.Join(chroot.Changes(filepath.Join(draft.Scratch(), "changes")), "usr")); err != nil || !link.ModTime().Equal(newest) {
		t.Errorf("the link: %v, %v", link, err)
	}
	if after, err := os.Stat(host); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("what it leads to is now of %s, %v", after.ModTime(), err)
	}
}
