package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/lock"
	"netroot/builder/need"
)

func testStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "netroot"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// writeParts fills a draft's folder with parts of the given size, whose bytes say which build they are of.
func writeParts(dir, content string, size int) error {
	for _, name := range requiredParts {
		data := strings.Repeat(name+" "+content+"\n", size)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func publish(t testing.TB, s *Store, image string, m Manifest) Generation {
	t.Helper()
	d, err := s.Begin(image)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Abort()
	if err := writeParts(d.Dir(), time.Now().String(), 3); err != nil {
		t.Fatal(err)
	}
	g, err := d.Publish(m)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// wantError checks that err is there and says every one of the words.
func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// leftovers lists what is in work/ besides locks.
func leftovers(t testing.TB, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.workDir())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestPublish(t *testing.T) {
	s := testStore(t)
	if names, err := s.Images(); err != nil || len(names) != 0 {
		t.Fatalf("images of a store that is not there: %v, %v", names, err)
	}
	l := &lock.Lock{Arch: "amd64", Packages: []lock.Package{{Name: "dash", Version: "1", Arch: "amd64", Path: "d", Size: 1, SHA256: strings.Repeat("a", 64)}}}
	first := publish(t, s, "debian-12", Manifest{Recipe: "r", Lock: l, Arch: "amd64", KernelRelease: "6.1", Cmdline: []string{"quiet"}})
	if first.Ref() != "debian-12@1" || !first.Current {
		t.Errorf("first generation is %s, current %v", first.Ref(), first.Current)
	}
	second := publish(t, s, "debian-12", Manifest{Created: time.Unix(1700000000, 5)})
	for ref, want := range map[string]int{"debian-12": 2, "debian-12@current": 2, "debian-12@1": 1, "debian-12@2": 2} {
		g, err := s.Resolve(ref)
		if err != nil || g.Number != want || g.Current != (want == 2) {
			t.Errorf("%s is %d, current %v, %v", ref, g.Number, g.Current, err)
		}
	}
	got, err := s.Resolve("debian-12@1")
	if err != nil {
		t.Fatal(err)
	}
	first.Current = false
	if diff := cmp.Diff(first, got); diff != "" {
		t.Errorf("published and read generation differ:\n%s", diff)
	}
	if got.Manifest.LockDigest != l.Digest() {
		t.Errorf("lock digest %q", got.Manifest.LockDigest)
	}
	if !second.Manifest.Created.Equal(time.Unix(1700000000, 0)) {
		t.Errorf("created %s", second.Manifest.Created)
	}
	if err := got.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]fs.FileMode{s.Dir(): 0o700, got.Dir: 0o750, got.Path(PartRoot): 0o640, got.Path(ManifestName): 0o640} {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v (%v)", path, st.Mode(), want, err)
		}
	}
	if left := leftovers(t, s); left != nil {
		t.Errorf("left in work: %v", left)
	}
	if names, err := s.Images(); err != nil || !cmp.Equal(names, []string{"debian-12"}) {
		t.Errorf("images %v, %v", names, err)
	}
}

// TestPublishGroup checks that a server that is in the store's group can read what root publishes.
func TestPublishGroup(t *testing.T) {
	need.Root(t)
	s := testStore(t)
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(s.Dir(), 0, 12345); err != nil {
		t.Fatal(err)
	}
	g := publish(t, s, "x", Manifest{})
	for _, path := range []string{s.imageDir("x"), g.Dir, g.Path(PartKernel), g.Path(ManifestName)} {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if gid := st.Sys().(*syscall.Stat_t).Gid; gid != 12345 {
			t.Errorf("%s has group %d", path, gid)
		}
	}
}

func TestPublishKnownSums(t *testing.T) {
	s := testStore(t)
	begin := func() *Draft {
		d, err := s.Begin("x")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Abort)
		if err := writeParts(d.Dir(), "", 1); err != nil {
			t.Fatal(err)
		}
		return d
	}
	sum := strings.Repeat("ab", 32)
	d := begin()
	g, err := d.Publish(Manifest{Parts: map[string]Part{PartRoot: {Size: int64(len(PartRoot) + 2), SHA256: sum}}})
	if err != nil {
		t.Fatal(err)
	}
	if g.Manifest.Parts[PartRoot].SHA256 != sum {
		t.Error("the writer's sum was not taken")
	}
	wantError(t, g.Verify(t.Context()), "verify x@1", g.Path(PartRoot), "has changed", sum)

	_, err = begin().Publish(Manifest{Parts: map[string]Part{PartRoot: {Size: 1, SHA256: sum}}})
	wantError(t, err, "publish x", "not the 1 its writer counted")
	_, err = begin().Publish(Manifest{Parts: map[string]Part{"gone": {Size: 1, SHA256: sum}}})
	wantError(t, err, "part gone", "no such file")
}

func TestPublishRefuses(t *testing.T) {
	s := testStore(t)
	publish(t, s, "x", Manifest{})
	for _, c := range []struct {
		name    string
		spoil   func(dir string) error
		problem string
	}{
		{"part missing", func(dir string) error { return os.Remove(filepath.Join(dir, PartKernel)) }, "part vmlinuz is missing"},
		{"folder", func(dir string) error { return os.Mkdir(filepath.Join(dir, "tree"), 0o755) }, "tree is not a part"},
		{"link", func(dir string) error { return os.Symlink("/etc/shadow", filepath.Join(dir, "link")) }, "link is not a part"},
		{"manifest", func(dir string) error { return os.WriteFile(filepath.Join(dir, ManifestName), nil, 0o644) }, "image.json is not a part"},
	} {
		d, err := s.Begin("x")
		if err != nil {
			t.Fatal(err)
		}
		if err := writeParts(d.Dir(), "", 1); err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(d.Dir()); err != nil {
			t.Fatal(err)
		}
		_, err = d.Publish(Manifest{})
		wantError(t, err, "publish x", c.problem)
		if left := leftovers(t, s); left != nil {
			t.Errorf("%s: left %v", c.name, left)
		}
	}
	gens, err := s.Generations("x")
	if err != nil || len(gens) != 1 || !gens[0].Current {
		t.Errorf("generations %v, %v", gens, err)
	}
	d, err := s.Begin("x")
	if err != nil {
		t.Fatal(err)
	}
	d.Abort()
	_, err = d.Publish(Manifest{})
	wantError(t, err, "publish x: the build has ended")
}

func TestCandidateAndRollback(t *testing.T) {
	s := testStore(t)
	d, err := s.Begin("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeParts(d.Dir(), "", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := d.PublishCandidate(Manifest{}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Resolve("x")
	wantError(t, err, "no generation of x is current", "it has 1", "netroot promote x@1")
	if !errors.Is(err, ErrNotFound) {
		t.Error("not ErrNotFound")
	}
	if g, err := s.SetCurrent("x"); err != nil || g.Number != 1 {
		t.Errorf("promote: %v, %v", g.Ref(), err)
	}
	_, err = s.Previous("x")
	wantError(t, err, "x has no generation before 1")
	publish(t, s, "x", Manifest{})
	publish(t, s, "x", Manifest{})
	if g, err := s.Previous("x"); err != nil || g.Number != 2 {
		t.Errorf("previous: %v, %v", g.Ref(), err)
	}
	if g, err := s.SetCurrent("x@1"); err != nil || !g.Current {
		t.Errorf("rollback: %v", err)
	}
	if g, err := s.Resolve("x"); err != nil || g.Number != 1 {
		t.Errorf("after rollback: %v, %v", g.Ref(), err)
	}
	if g := publish(t, s, "x", Manifest{}); g.Number != 4 {
		t.Errorf("after rollback the next number is %d", g.Number)
	}
}

func TestResolveErrors(t *testing.T) {
	s := testStore(t)
	_, err := s.Resolve("debian-12")
	wantError(t, err, `no image "debian-12"`, s.Dir()+" is empty", "netroot build")
	for _, name := range []string{"debian-12", "debian-12-i386", "slc68-v7768"} {
		publish(t, s, name, Manifest{})
	}
	publish(t, s, "debian-12", Manifest{})
	for ref, words := range map[string][]string{
		"debain-12":         {`no image "debain-12"`, "did you mean debian-12?", "slc68-v7768"},
		"slc68":             {"did you mean slc68-v7768?"},
		"debian-12@7":       {"debian-12 has no generation 7; it has 1, 2"},
		"debian-12@x":       {`generation "x" is not a number`},
		"debian-12@01":      {`generation "01" is not a number`},
		"debian-12@":        {`generation "" is not a number`},
		"../etc":            {`image name "../etc"`},
		"":                  {`image name ""`},
		"work/x":            {`image name "work/x"`},
		"completely-unlike": {`no image "completely-unlike"`, "there are: debian-12, debian-12-i386, slc68-v7768"},
	} {
		_, err := s.Resolve(ref)
		wantError(t, err, words...)
	}
	_, err = s.Resolve("completely-unlike")
	if strings.Contains(err.Error(), "did you mean") {
		t.Errorf("a wild guess: %v", err)
	}
	if err := os.Rename(s.imageDir("debian-12")+"/2", s.imageDir("debian-12")+"/lost"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Resolve("debian-12")
	wantError(t, err, "generation 2 of debian-12 is current but its folder is gone", "netroot promote debian-12@1")
	if g := publish(t, s, "debian-12", Manifest{}); g.Number != 3 {
		t.Errorf("the number of a lost generation was used again: %d", g.Number)
	}
	link := filepath.Join(s.imageDir("slc68-v7768"), currentName)
	if err := errors.Join(os.Remove(link), os.Symlink("/etc", link)); err != nil {
		t.Fatal(err)
	}
	_, err = s.Resolve("slc68-v7768")
	wantError(t, err, link+` points to "/etc"`, "netroot promote slc68-v7768@N")
	if g, err := s.Resolve("slc68-v7768@1"); err != nil || g.Current {
		t.Errorf("a broken link spoils a pinned generation: %v", err)
	}
	if g, err := s.SetCurrent("slc68-v7768@1"); err != nil || !g.Current {
		t.Errorf("the way out does not work: %v", err)
	}
}

func TestBrokenManifest(t *testing.T) {
	s := testStore(t)
	publish(t, s, "x", Manifest{})
	publish(t, s, "x", Manifest{})
	good, err := os.ReadFile(filepath.Join(s.imageDir("x"), "2", ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.imageDir("x"), "2", ManifestName)
	for _, c := range []struct{ name, data, problem string }{
		{"empty", "", "unexpected end of JSON input"},
		{"cut off", string(good[:len(good)/2]), "unexpected end of JSON input"},
		{"of another", strings.Replace(string(good), `"generation": 2`, `"generation": 9`, 1), "it describes x@9"},
		{"no format", strings.Replace(string(good), `"format": 1`, `"format": 0`, 1), "no format number"},
		{"no parts", `{"format":1,"image":"x","generation":2}`, "part root.erofs is missing"},
		{"bad sum", strings.Replace(string(good), `"sha256": "`, `"sha256": "zz`, 1), "has no valid size and SHA-256"},
		{"escape", strings.Replace(string(good), `"vmlinuz"`, `"../../../etc/passwd"`, 1), `part "../../../etc/passwd"`},
	} {
		if err := os.WriteFile(path, []byte(c.data), 0o640); err != nil {
			t.Fatal(err)
		}
		_, err := s.Resolve("x")
		wantError(t, err, path, c.problem, "netroot rollback x")
		gens, err := s.Generations("x")
		if err != nil || len(gens) != 2 || gens[0].Err != nil || gens[1].Err == nil {
			t.Errorf("%s: generations %v, %v", c.name, gens, err)
		}
	}
	if err := os.WriteFile(path, []byte(`{"format":2}`), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err = s.Resolve("x")
	wantError(t, err, path, "written by a later netroot", "use that one")
	if g, err := s.Previous("x"); err != nil || g.Number != 1 {
		t.Errorf("no way back from a broken generation: %v", err)
	}
}

func TestVerify(t *testing.T) {
	s := testStore(t)
	g := publish(t, s, "x", Manifest{})
	flip := func(name string) {
		f, err := os.OpenFile(g.Path(name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{'#'}, 3); err != nil {
			t.Fatal(err)
		}
	}
	flip(PartRoot)
	flip(PartKernel)
	if err := os.Remove(g.Path(PartInitramfs)); err != nil {
		t.Fatal(err)
	}
	wantError(t, g.Verify(t.Context()), g.Path(PartRoot)+" has changed", g.Path(PartKernel)+" has changed", g.Path(PartInitramfs)+": no such file")
}

func TestOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Open(file)
	wantError(t, err, "open store "+file+": not a folder")
}

func TestDiff(t *testing.T) {
	gen := func(packages ...lock.Package) Generation {
		return Generation{Manifest: Manifest{Lock: &lock.Lock{Packages: packages}}}
	}
	p := func(name, arch, version string) lock.Package {
		return lock.Package{Name: name, Arch: arch, Version: version, SHA256: name + arch + version}
	}
	a := gen(p("dash", "amd64", "1"), p("bash", "amd64", "5"), p("libc6", "amd64", "2.36-9"), p("libc6", "i386", "2.36-9"),
		p("kernel", "x86_64", "1"), p("kernel", "x86_64", "2"), p("same", "all", "1"))
	b := gen(p("libc6", "amd64", "2.36-9+deb12u13"), p("libc6", "i386", "2.36-9"), p("kernel", "x86_64", "2"), p("kernel", "x86_64", "3"),
		p("zsh", "amd64", "5"), p("bash", "amd64", "5"), p("same", "all", "1"))
	b.Manifest.Lock.Packages[5].SHA256 = "rebuilt"
	want := PackageDiff{
		Added:   []lock.Package{p("kernel", "x86_64", "3"), p("zsh", "amd64", "5")},
		Removed: []lock.Package{p("dash", "amd64", "1"), p("kernel", "x86_64", "1")},
		Changed: []Change{{"bash", "amd64", "5", "5"}, {"libc6", "amd64", "2.36-9", "2.36-9+deb12u13"}},
	}
	if diff := cmp.Diff(want, Diff(a, b)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !Diff(a, a).Empty() || Diff(a, b).Empty() || !Diff(Generation{}, Generation{}).Empty() {
		t.Error("Empty is wrong")
	}
}

func TestNumbers(t *testing.T) {
	s := testStore(t)
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"10", "9", "2", "007", "-1", "0", "x", ".tmp-1"} {
		if err := os.MkdirAll(filepath.Join(s.imageDir("x"), name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.imageDir("x"), "11"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := s.numbers("x")
	if err != nil || !cmp.Equal(got, []int{2, 9, 10}) {
		t.Errorf("numbers %v, %v", got, err)
	}
	for i := range 3 {
		if _, ok := parseNumber("+" + strconv.Itoa(i)); ok {
			t.Error("a signed number is not a folder's name")
		}
	}
}
