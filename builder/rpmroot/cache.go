package rpmroot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"netroot/builder/layers"
)

// A Cache is a folder of what roots' rpms need to start, unpacked: of one build to the next these packages hardly ever change, and they
// are half of a small root. And of what rpm then made of all packages, for each image that of its last build: who changes only what a
// recipe does afterwards need not wait for rpm again.
//
//	DIR/starters/<sum>/root             the files; sum is a digest of the headers of the packages
//	DIR/installed/IMAGE/<sum>/changes   what the installation of packages with these headers changed of the starters
//
// They are entries as package layers has them.
type Cache struct{ Dir string }

// startersFormat is raised when other files are unpacked of the same packages, or rpm is told to install them in another way.
const startersFormat = "1"

// Starters returns a folder with what the root's rpm needs to run, unpacked without scriptlets. It is only read by whoever uses it: a
// root is laid over it.
func (c Cache) Starters(ctx context.Context, packages []*Package) (dir string, err error) {
	dir, err = c.starters(ctx, packages)
	if err != nil {
		return "", fmt.Errorf("assemble root: %w", err)
	}
	return dir, nil
}

func (c Cache) starters(ctx context.Context, packages []*Package) (string, error) {
	first, err := closure(packages)
	if err != nil {
		return "", err
	}
	sum, err := digest(startersFormat, first)
	if err != nil {
		return "", err
	}
	folder := filepath.Join(c.Dir, "starters")
	if err := layers.MakeFolder(folder); err != nil {
		return "", err
	}
	// One build unpacks, the others wait for it.
	lock, err := os.Open(folder)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	entry := filepath.Join(folder, sum)
	root := filepath.Join(entry, "root")
	if layers.Usable(entry) {
		return root, nil
	}
	return root, layers.Fill(entry, func() error { return unpackAll(ctx, first, root) })
}

// Installed returns what Install changed of the starters when it installed the same packages for the same image before; "" when that is
// not there. It is only read by whoever uses it.
func (c Cache) Installed(image string, packages []*Package) (changes string, err error) {
	sum, err := digest(startersFormat, packages)
	if err != nil {
		return "", err
	}
	entry, err := c.installed().Find(image, sum)
	if entry == "" {
		return "", err
	}
	return filepath.Join(entry, "changes"), nil
}

// Keep takes over the folder of what Install changed, in place of what the cache has for the image, and returns where it is now. One
// build of an image runs at a time.
func (c Cache) Keep(image string, packages []*Package, changes string) (kept string, err error) {
	sum, err := digest(startersFormat, packages)
	if err != nil {
		return "", err
	}
	entry, err := c.installed().Keep(image, sum, map[string]string{"changes": changes})
	if entry == "" {
		return changes, err
	}
	return filepath.Join(entry, "changes"), err
}

func (c Cache) installed() layers.Cache { return layers.Cache{Dir: filepath.Join(c.Dir, "installed")} }

func digest(format string, packages []*Package) (string, error) {
	sum := sha256.New()
	io.WriteString(sum, format)
	for _, p := range packages {
		if err := p.File.HashHeader(sum); err != nil {
			return "", fmt.Errorf("package %s: %w", p.File, err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
