package dpkg

import (
	"testing"

	"netroot/builder/lock"
)

// Whatever goes into a root changes its digest.
func TestDigest(t *testing.T) {
	a := lock.Package{Name: "a", Version: "1", Arch: "amd64", SHA256: "aa", Path: "x"}
	b := lock.Package{Name: "b", Version: "1", Arch: "amd64", SHA256: "bb"}
	seen := map[string]int{}
	for i, r := range []Root{
		{Arch: "amd64", Packages: []lock.Package{a, b}},
		{Arch: "i386", Packages: []lock.Package{a, b}},
		{Arch: "amd64", Packages: []lock.Package{b, a}},
		{Arch: "amd64", Packages: []lock.Package{a}},
		{Arch: "amd64", Packages: []lock.Package{a, b}, Sources: []byte("deb x")},
		{Arch: "amd64", Packages: []lock.Package{a, {Name: "b", Version: "2", Arch: "amd64", SHA256: "bb"}}},
		{Arch: "amd64", Packages: []lock.Package{a, {Name: "b", Version: "1", Arch: "amd64", SHA256: "bc"}}},
		{Arch: "amd64", Packages: []lock.Package{a, {Name: "b", Version: "1", Arch: "amd64", SHA512: "bc"}}, Sources: []byte("x")},
	} {
		if other, ok := seen[r.Digest()]; ok {
			t.Errorf("%d is as %d", i, other)
		}
		seen[r.Digest()] = i
	}
	// Where it lies does not matter, nor where it was fetched.
	moved := a
	moved.Path = "y"
	if _, ok := seen[(Root{Arch: "amd64", Packages: []lock.Package{moved, b}, Dir: "/x"}).Digest()]; !ok {
		t.Error("another mirror makes another root")
	}
}
