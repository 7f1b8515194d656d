package rpmroot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
)

// A Cache is a folder of what roots' rpms need to start, unpacked. Of one build to the next these packages hardly ever change, and they
// are half of a small root.
//
//	DIR/starters/<sum>/root  the files; sum is a digest of the headers of the packages
//	DIR/starters/<sum>/boot  the boot during which they were written; it is the last file
//
// Nothing is synced: what was written before the machine was last switched off is unpacked again. Only root may enter, for there are
// setuid programs in it, of old versions too.
type Cache struct{ Dir string }

// startersFormat is raised when other files are unpacked of the same packages.
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
	sum := sha256.New()
	io.WriteString(sum, startersFormat)
	for _, p := range first {
		if err := p.File.HashHeader(sum); err != nil {
			return "", fmt.Errorf("package %s: %w", p.File, err)
		}
	}
	folder := filepath.Join(c.Dir, "starters")
	if err := errors.Join(os.MkdirAll(folder, 0o700), os.Chmod(folder, 0o700)); err != nil {
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
	entry := filepath.Join(folder, hex.EncodeToString(sum.Sum(nil)))
	root, mark := filepath.Join(entry, "root"), filepath.Join(entry, "boot")
	if boot, err := os.ReadFile(mark); err == nil && string(boot) == atomicfile.BootID() {
		now := time.Now()
		return root, os.Chtimes(entry, now, now) // gc goes by it
	}
	if err := os.RemoveAll(entry); err != nil {
		return "", err
	}
	err = os.Mkdir(entry, 0o700)
	if err == nil {
		err = unpackAll(ctx, first, root)
	}
	if err == nil {
		err = os.WriteFile(mark, []byte(atomicfile.BootID()), 0o600)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(entry))
	}
	return root, nil
}
