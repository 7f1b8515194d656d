// Package layers keeps what installing packages made, so that whoever changes only what a recipe does afterwards need not wait for it again:
//
//	DIR/IMAGE/<sum>/…      what was made of packages and settings with this digest; of each image that of its last build
//	DIR/IMAGE/<sum>/boot   the boot during which it was made; it is the last file
//
// A folder of this kind is an entry; others than those of images are made with Fill. An entry is only read by whoever uses it: a root is
// laid over it. Nothing is synced: what was written before the machine was last switched off counts as nothing. Only root may enter, for
// there are setuid programs in it, of old versions too.
package layers

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
)

// A Cache is a folder of entries of images.
type Cache struct{ Dir string }

// Find returns the entry of an image with a digest of all that goes into it; "" when there is none that this program has made since the
// machine was switched on.
func (c Cache) Find(image, sum string) (entry string, err error) {
	entry, err = c.entry(image, sum)
	if err != nil || !Usable(entry) {
		return "", err
	}
	return entry, nil
}

// Keep moves folders into an entry that takes the place of what there is of the image: each to the name that it has in the map. One build of
// an image runs at a time. When the folders are on another file system they stay where they are, and the entry is "".
func (c Cache) Keep(image, sum string, folders map[string]string) (entry string, err error) {
	if entry, err = c.entry(image, sum); err != nil {
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
	if err := errors.Join(MakeFolder(c.Dir), MakeFolder(filepath.Dir(entry))); err != nil {
		return "", err
	}
	var near, far unix.Stat_t
	if err := unix.Stat(c.Dir, &near); err != nil {
		return "", fmt.Errorf("stat %s: %w", c.Dir, err)
	}
	for _, folder := range folders {
		if err := unix.Stat(folder, &far); err != nil {
			return "", fmt.Errorf("stat %s: %w", folder, err)
		}
		if near.Dev != far.Dev { // somebody put the cache on another disk
			return "", nil
		}
	}
	return entry, Fill(entry, func() error {
		for name, folder := range folders {
			if err := os.Rename(folder, filepath.Join(entry, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c Cache) entry(image, sum string) (string, error) {
	program, err := program()
	if err != nil {
		return "", err
	}
	of := sha256.Sum256([]byte(program + sum))
	return filepath.Join(c.Dir, image, hex.EncodeToString(of[:])), nil
}

// program is a digest of this program: another one may make something else of the same packages.
var program = sync.OnceValues(func() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
})

// MakeFolder makes a folder of entries.
func MakeFolder(dir string) error {
	return errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700))
}

// Usable tells that an entry was filled since the machine was switched on, and notes that it is used.
func Usable(entry string) bool {
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

// Fill makes an entry anew, or leaves none.
func Fill(entry string, with func() error) error {
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
