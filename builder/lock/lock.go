// Package lock holds the pins of a build: which packages, in which versions, from where below a mirror, and what
// their bytes must hash to. Two builds of the same recipe with the same lock unpack the same bytes.
package lock

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"netroot/builder/atomicfile"
)

// A Package is one pinned package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`             // the distribution's own word: amd64, i386, all, noarch
	Repo    string `json:"repo"`             // which repository of the source: "bookworm", "bookworm-security"
	Path    string `json:"path"`             // relative to the repository's mirror, never with a host name
	Size    int64  `json:"size"`             // bytes
	SHA256  string `json:"sha256,omitempty"` // hex
	SHA512  string `json:"sha512,omitempty"` // hex; of packages whose archive tells this instead
	SHA1    string `json:"sha1,omitempty"`   // hex; of packages whose archive is so old that it tells no SHA-256
}

// Sum is the checksum that the package is verified by and that names it in the cache.
func (p Package) Sum() string {
	return cmp.Or(p.SHA256, p.SHA512, p.SHA1)
}

// summed says whether there is a checksum, and whether each is one: the name of a file in the cache is made of it.
func (p Package) summed() bool {
	for sum, size := range map[string]int{p.SHA256: sha256.Size, p.SHA512: sha512.Size, p.SHA1: sha1.Size} {
		if _, err := hex.DecodeString(sum); sum != "" && (err != nil || len(sum) != 2*size || sum != strings.ToLower(sum)) {
			return false
		}
	}
	return p.Sum() != ""
}

// A Lock pins every package of one root.
type Lock struct {
	Arch     string    `json:"arch"` // the distribution's own word
	Packages []Package `json:"packages"`
}

// RepoCopy is the repository of the one package in the lock of a copied root.
const RepoCopy = "copy"

// Installed lists the packages that the root's own database should know. That of a copied root is pinned as a whole, and lists none.
func (l *Lock) Installed() []Package {
	if len(l.Packages) == 1 && l.Packages[0].Repo == RepoCopy {
		return nil
	}
	return l.Packages
}

// Sort puts the packages in the order in which they are written: by name, then architecture.
func (l *Lock) Sort() {
	slices.SortFunc(l.Packages, func(a, b Package) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Arch, b.Arch)
	})
}

// Encode returns the lock as it is written to disk: indented JSON, sorted, with a newline at the end.
func (l *Lock) Encode() []byte {
	l.Sort()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(l); err != nil {
		panic(err) // a struct of strings and integers always encodes
	}
	return b.Bytes()
}

// Digest returns the SHA-256 of Encode, in hex.
func (l *Lock) Digest() string {
	sum := sha256.Sum256(l.Encode())
	return hex.EncodeToString(sum[:])
}

// Size returns the bytes that all packages take as downloaded.
func (l *Lock) Size() int64 {
	var n int64
	for _, p := range l.Packages {
		n += p.Size
	}
	return n
}

// Read reads a lock file.
func Read(path string) (*Lock, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read lock %s: %w", path, err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var l Lock
	if err := dec.Decode(&l); err != nil {
		return nil, fmt.Errorf("read lock %s: %w", path, err)
	}
	for _, p := range l.Packages {
		if p.Name == "" || p.Path == "" || !p.summed() || p.Size <= 0 {
			return nil, fmt.Errorf("read lock %s: package %q lacks a path, a size or a checksum", path, p.Name)
		}
	}
	return &l, nil
}

// Write writes a lock file.
func (l *Lock) Write(path string) error {
	return atomicfile.Write(path, l.Encode(), 0o644)
}
