package rpmroot

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"netroot/builder/chroot"
	"netroot/builder/need"
)

// listing is every path of a folder with all that a session could change of it.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil {
			return err
		}
		fmt.Fprintln(&all, name, st.Ino, st.Mode, st.Uid, st.Gid, st.Size, st.Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func TestStartersAreKept(t *testing.T) {
	need.Patience(t)
	needRPM(t)
	dir := t.TempDir()
	files := withBase(t, spec{name: "more", tags: "Requires: rpm", body: "%files\n"})
	packages, err := Open(files)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(packages)
	cache := Cache{t.TempDir()}
	starters := func(packages []*Package) string {
		t.Helper()
		root, err := cache.Starters(t.Context(), packages)
		if err != nil {
			t.Fatal(err)
		}
		return root
	}

	// Several builds at a time unpack once.
	var roots [4]string
	var errs [4]error
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() { roots[i], errs[i] = cache.Starters(t.Context(), packages) })
	}
	wg.Wait()
	root := roots[0]
	for i, r := range roots {
		if r != root || errs[i] != nil {
			t.Fatalf("%s and %s: %v", r, root, errs[i])
		}
	}
	if info, err := os.Stat(filepath.Join(cache.Dir, "starters")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others may enter: %v, %v", info, err)
	}
	before := listing(t, root)

	// A root that is installed over them leaves them as they are.
	s, err := chroot.Open(t.Context(), chroot.Config{
		Lower: root, Work: filepath.Join(dir, "changes"), Arch: "x86_64", Fill: func(changes string) error { return Provide(packages, changes) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Install(t.Context(), s, packages, Options{}); err != nil {
		t.Fatal(err)
	}
	if again := starters(packages); again != root || listing(t, root) != before {
		t.Errorf("%s is not as it was, or was unpacked again", root)
	}
	s.Close()

	// A package that rpm does not need is not among them; without one that it needs, they are others.
	few := packages[:0:0]
	for _, p := range packages {
		if !strings.HasPrefix(p.File.String(), "more-") {
			few = append(few, p)
		}
	}
	if other := starters(few); other != root || len(few) == len(packages) {
		t.Errorf("%s for the same starters, and %s", root, other)
	}
	for i, p := range few {
		if strings.HasPrefix(p.File.String(), "bash-") || strings.HasPrefix(p.File.String(), "filesystem-") {
			if other := starters(append(few[:i:i], few[i+1:]...)); other == root {
				t.Errorf("the same without %s", p.File)
			}
		}
	}

	// What an earlier run of the kernel may not have written whole, and what a killed build left, is unpacked again.
	mark := filepath.Join(filepath.Dir(root), "boot")
	for what, spoil := range map[string]func() error{
		"an earlier boot": func() error { return os.WriteFile(mark, []byte("another"), 0o600) },
		"a killed build":  func() error { return os.Remove(mark) },
	} {
		stale := filepath.Join(root, "stale")
		if err := os.WriteFile(stale, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if again := starters(packages); again != root {
			t.Errorf("%s: %s", what, again)
		}
		if _, err := os.Lstat(stale); err == nil {
			t.Errorf("%s: what it left is taken for whole", what)
		}
	}
}

func TestInstalledIsKept(t *testing.T) {
	need.Patience(t)
	needRPM(t)
	dir := t.TempDir()
	files := withBase(t, spec{name: "more", tags: "Requires: rpm", body: "%post\necho made > /etc/made\n%files\n"})
	packages, err := Open(files)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(packages)
	cache := Cache{t.TempDir()}
	lower, err := cache.Starters(t.Context(), packages)
	if err != nil {
		t.Fatal(err)
	}
	installed := func(packages []*Package, image string) string {
		t.Helper()
		changes, err := cache.Installed(image, packages)
		if err != nil {
			t.Fatal(err)
		}
		return changes
	}
	if got := installed(packages, "one"); got != "" {
		t.Fatalf("an empty cache has %s", got)
	}
	work := filepath.Join(dir, "installing")
	s, err := chroot.Open(t.Context(), chroot.Config{
		Lower: lower, Work: work, Arch: "x86_64", Fill: func(changes string) error { return Provide(packages, changes) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Install(t.Context(), s, packages, Options{}); err != nil {
		t.Fatal(err)
	}
	want := output(t, s, "sh", "-c", "rpm -qa | sort; rpm -Va; cat /etc/made")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	kept, err := cache.Keep("one", packages, chroot.Changes(work))
	if err != nil {
		t.Fatal(err)
	}
	if got := installed(packages, "one"); got != kept {
		t.Fatalf("%s is kept, and %s found", kept, got)
	}

	// Whoever is laid over it sees what the installation made, and leaves that as it is.
	before := listing(t, kept)
	for _, work := range []string{"first", "second"} {
		s, err := chroot.Open(t.Context(), chroot.Config{Lower: lower, Layers: []string{kept}, Work: filepath.Join(dir, work), Arch: "x86_64"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if got := output(t, s, "sh", "-c", "rpm -qa | sort; rpm -Va; cat /etc/made"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", work, got, want)
		}
		output(t, s, "sh", "-c", "echo changed > /etc/made; chmod 600 /etc/made; rm -r /usr/bin/rpm; touch /usr/new")
		s.Close()
	}
	if listing(t, kept) != before {
		t.Error("a session changed what is kept")
	}

	// Other packages, another image, an earlier run of the kernel.
	if got := installed(packages[1:], "one") + installed(packages, "other"); got != "" {
		t.Errorf("%s is taken for another installation", got)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(kept), "boot"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := installed(packages, "one"); got != "" {
		t.Errorf("%s may not have reached the disk", got)
	}

	// What is kept next takes its place.
	next := filepath.Join(dir, "next")
	if err := os.Mkdir(next, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Keep("one", packages[1:], next); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(kept); err == nil {
		t.Error("two installations of one image are kept")
	}
}
