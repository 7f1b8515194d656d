package lock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample() *Lock {
	sum := strings.Repeat("ab", 32)
	return &Lock{Arch: "i386", Packages: []Package{
		{Name: "zlib1g", Version: "1:1.2.13", Arch: "i386", Repo: "bookworm", Path: "pool/z/zlib1g.deb", Size: 7, SHA256: sum},
		{Name: "base-files", Version: "12.4", Arch: "i386", Repo: "bookworm", Path: "pool/b/base-files.deb", Size: 5, SHA256: sum},
		{Name: "base-files", Version: "12.4", Arch: "all", Repo: "bookworm", Path: "pool/b/base-files_all.deb", Size: 3, SHA256: sum},
	}}
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "site.lock")
	l := sample()
	if err := l.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l, got); diff != "" {
		t.Error(diff)
	}
	if got.Packages[0].Arch != "all" || got.Packages[2].Name != "zlib1g" {
		t.Errorf("the packages are not sorted: %v", got.Packages)
	}
	if got.Size() != 15 {
		t.Errorf("Size() = %d", got.Size())
	}
}

// The digest is of the set of packages, not of the order in which they were resolved, and of everything about them.
func TestDigest(t *testing.T) {
	a, b := sample(), sample()
	b.Packages[0], b.Packages[1] = b.Packages[1], b.Packages[0]
	if a.Digest() != b.Digest() {
		t.Error("the order of the packages changes the digest")
	}
	b.Packages[2].Version += "+b1"
	if a.Digest() == b.Digest() {
		t.Error("a version does not change the digest")
	}
}

func TestReadErrors(t *testing.T) {
	for content, want := range map[string]string{
		"":                              "EOF",
		"{":                             "EOF",
		`{"arch": "amd64", "extra": 1}`: `unknown field "extra"`,
		`{"packages": [{"name": "x"}]}`: `package "x" lacks`,
		`{"packages": [{"name": "x", "path": "p", "size": 1, "sha256": "ab"}]}`: `package "x" lacks`,
		// What is no checksum would name a file outside the cache, which a wrong size has removed.
		`{"packages": [{"name": "x", "path": "p", "size": 1, "sha256": "` + strings.Repeat("../", 18) + `etc/passwd"}]}`:                                `package "x" lacks`,
		`{"packages": [{"name": "x", "path": "p", "size": 1, "sha1": "` + strings.Repeat("a", 40) + `", "sha256": "` + strings.Repeat("x", 64) + `"}]}`: `package "x" lacks`,
	} {
		path := filepath.Join(t.TempDir(), "bad.lock")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q and the file's name", content, err, want)
		}
	}
}
