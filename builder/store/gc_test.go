package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/lock"
)

func numbersOf(gens []Generation) []int {
	var out []int
	for _, g := range gens {
		out = append(out, g.Number)
	}
	return out
}

func TestCollectable(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name    string
		total   int
		current int
		broken  []int
		keep    int
		pinned  []int
		want    []int
	}{
		{name: "fewer than kept", total: 2, current: 2, keep: 3},
		{name: "oldest go", total: 5, current: 5, keep: 2, want: []int{1, 2, 3}},
		{name: "current stays", total: 5, current: 1, keep: 2, want: []int{2, 3}},
		{name: "pinned stays", total: 5, current: 5, keep: 1, pinned: []int{2, 9}, want: []int{1, 3, 4}},
		{name: "broken do not count", total: 5, current: 5, broken: []int{3, 4}, keep: 2, want: []int{1, 3, 4}},
		{name: "broken newest stays", total: 4, current: 2, broken: []int{4}, keep: 1, want: []int{1}},
		{name: "none current", total: 3, keep: 1, want: []int{1, 2}},
	} {
		var gens []Generation
		for n := 1; n <= c.total; n++ {
			g := Generation{Number: n, Current: n == c.current}
			if slices.Contains(c.broken, n) {
				g.Err = broken
			}
			gens = append(gens, g)
		}
		if diff := cmp.Diff(c.want, numbersOf(collectable(gens, c.keep, c.pinned))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestGC(t *testing.T) {
	s := testStore(t)
	for range 6 {
		publish(t, s, "x", Manifest{})
	}
	if _, err := s.SetCurrent("x@2"); err != nil {
		t.Fatal(err)
	}
	held, err := s.Resolve("x@3")
	if err != nil {
		t.Fatal(err)
	}
	release, err := held.Hold()
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.GC("x", 0)
	wantError(t, err, "keep 0")
	gone, err := s.GC("x", 2, 4)
	if err != nil || !cmp.Equal(numbersOf(gone), []int{1}) {
		t.Errorf("removed %v, %v", numbersOf(gone), err)
	}
	release()
	gone, err = s.GC("x", 2)
	if err != nil || !cmp.Equal(numbersOf(gone), []int{3, 4}) {
		t.Errorf("removed %v, %v", numbersOf(gone), err)
	}
	gens, err := s.Generations("x")
	if err != nil || !cmp.Equal(numbersOf(gens), []int{2, 5, 6}) {
		t.Errorf("generations %v, %v", numbersOf(gens), err)
	}
	if left := leftovers(t, s); left != nil {
		t.Errorf("left %v", left)
	}
	_, err = held.Hold()
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("held what is gone: %v", err)
	}
	_, err = s.GC("y", 2)
	wantError(t, err, `no image "y"`)
	if g := publish(t, s, "x", Manifest{}); g.Number != 7 {
		t.Errorf("the next build is %d", g.Number)
	}
}

// TestGCWhileBuilding collects under a running build and leaves its work alone.
func TestGCWhileBuilding(t *testing.T) {
	s := testStore(t)
	publish(t, s, "x", Manifest{})
	publish(t, s, "x", Manifest{})
	d, err := s.Begin("x")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Abort()
	if gone, err := s.GC("x", 1); err != nil || !cmp.Equal(numbersOf(gone), []int{1}) {
		t.Errorf("removed %v, %v", numbersOf(gone), err)
	}
	if err := writeParts(d.Dir(), "", 1); err != nil {
		t.Fatal(err)
	}
	if g, err := d.Publish(Manifest{}); err != nil || g.Number != 3 {
		t.Errorf("published %v, %v", g.Ref(), err)
	}
}

func TestPruneCache(t *testing.T) {
	s := testStore(t)
	if _, err := s.PruneCache(t.Context(), nil, 0); err != nil {
		t.Fatalf("a store that is not there: %v", err)
	}
	sum := func(c string) string { return strings.Repeat(c, 64) }
	l := &lock.Lock{Packages: []lock.Package{{Name: "used", SHA256: sum("a")}}}
	publish(t, s, "x", Manifest{Lock: l})
	old := time.Now().Add(-48 * time.Hour)
	put := func(name string, when time.Time) {
		path := filepath.Join(s.CacheDir(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, 100), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
			if err := os.Chtimes(p, when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("sha256/aa/"+sum("a"), old)
	put("sha256/bb/"+sum("b"), old)
	put("sha512/bb/"+sum("b")+sum("b"), old)
	put("sha256/cc/"+sum("c"), old)
	put("sha256/dd/"+sum("d"), time.Now())
	put("sha256/ee/"+sum("e")+".part", old)
	put("unpacked/"+sum("a")+"/data/file", old)
	put("unpacked/"+sum("b")+"/data/file", old)
	put("starters/"+sum("g")+"/boot", old) // in no lock: its age counts
	put("starters/"+sum("h")+"/boot", time.Now())
	put("documents/InRelease", old)
	for name, digest := range map[string]string{"x-1": sum("a"), "y-2": sum("f")} { // the copy of x's newest, and one that no image has
		put("copies/"+name+"/digest", old)
		file := filepath.Join(s.CacheDir(), "copies", name, "digest")
		if err := os.WriteFile(file, []byte(digest+" 12 34\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"unpacked/" + sum("b"), "starters/" + sum("g")} {
		if err := os.Chtimes(filepath.Join(s.CacheDir(), name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.PruneCache(t.Context(), map[string]bool{sum("c"): true}, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got.Entries != 6 || got.Bytes != 300 {
		t.Errorf("pruned %+v", got)
	}
	for name, want := range map[string]bool{"sha256/aa/" + sum("a"): true, "sha256/bb/" + sum("b"): false, "sha512/bb/" + sum("b") + sum("b"): false, "sha256/cc/" + sum("c"): true,
		"sha256/dd/" + sum("d"): true, "sha256/ee/" + sum("e") + ".part": false, "unpacked/" + sum("a") + "/data/file": true,
		"unpacked/" + sum("b"): false, "starters/" + sum("g"): false, "starters/" + sum("h"): true, "documents/InRelease": true, "copies/x-1/digest": true, "copies/y-2": false} {
		if _, err := os.Stat(filepath.Join(s.CacheDir(), name)); (err == nil) != want {
			t.Errorf("%s: there %v, want %v", name, err == nil, want)
		}
	}
	if left := leftovers(t, s); left != nil {
		t.Errorf("left %v", left)
	}
}
