package rpmroot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
)

// A Cache is a folder of what roots' rpms need to start, unpacked: of one build to the next these packages hardly ever change, and they
// are half of a small root. And of what rpm then made of all packages, for each image that of its last build: who changes only what a
// recipe does afterwards need not wait for rpm again.
//
//	DIR/starters/<sum>/root             the files; sum is a digest of the headers of the packages
//	DIR/starters/<sum>/boot             the boot during which they were written; it is the last file
//	DIR/installed/IMAGE/<sum>/changes   what the installation of packages with these headers changed of the starters
//	DIR/installed/IMAGE/<sum>/boot
//
// Nothing is synced: what was written before the machine was last switched off is unpacked again. Only root may enter, for there are
// setuid programs in it, of old versions too.
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
	if err := makeFolder(folder); err != nil {
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
	if usable(entry) {
		return root, nil
	}
	return root, fill(entry, func() error { return unpackAll(ctx, first, root) })
}

// Installed returns what Install changed of the starters when it installed the same packages for the same image before; "" when that is
// not there. It is only read by whoever uses it.
func (c Cache) Installed(image string, packages []*Package) (changes string, err error) {
	entry, err := c.installed(image, packages)
	if err != nil || !usable(entry) {
		return "", err
	}
	return filepath.Join(entry, "changes"), nil
}

// Keep takes over the folder of what Install changed, in place of what the cache has for the image, and returns where it is now. One
// build of an image runs at a time.
func (c Cache) Keep(image string, packages []*Package, changes string) (kept string, err error) {
	entry, err := c.installed(image, packages)
	if err != nil {
		return "", err
	}
	old, err := os.ReadDir(filepath.Dir(entry))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, other := range old {
		if err := discard(filepath.Join(filepath.Dir(entry), other.Name())); err != nil {
			return "", err
		}
	}
	if err := errors.Join(makeFolder(filepath.Dir(filepath.Dir(entry))), makeFolder(filepath.Dir(entry))); err != nil {
		return "", err
	}
	kept = filepath.Join(entry, "changes")
	err = fill(entry, func() error { return os.Rename(changes, kept) })
	if errors.Is(err, unix.EXDEV) { // somebody put the cache on another disk
		return changes, nil
	}
	return kept, err
}

func (c Cache) installed(image string, packages []*Package) (entry string, err error) {
	sum, err := digest(startersFormat, packages)
	return filepath.Join(c.Dir, "installed", image, sum), err
}

func makeFolder(dir string) error {
	return errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700))
}

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

// usable tells that an entry was filled since the machine was switched on, and notes that it is used.
func usable(entry string) bool {
	boot, err := os.ReadFile(filepath.Join(entry, "boot"))
	if err != nil || string(boot) != atomicfile.BootID() {
		return false
	}
	now := time.Now()
	return os.Chtimes(entry, now, now) == nil // gc goes by it
}

// discard takes an entry away. Should it be stopped halfway, what is left does not say that it is whole.
func discard(entry string) error {
	if err := os.Remove(filepath.Join(entry, "boot")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(entry)
}

// fill makes an entry anew, or leaves none.
func fill(entry string, with func() error) error {
	if err := discard(entry); err != nil {
		return err
	}
	err := os.Mkdir(entry, 0o700)
	if err == nil {
		err = with()
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(entry, "boot"), []byte(atomicfile.BootID()), 0o600)
	}
	if err != nil {
		return errors.Join(err, discard(entry))
	}
	return nil
}
