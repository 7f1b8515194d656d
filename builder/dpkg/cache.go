package dpkg

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
)

// A Cache is a folder of unpacked packages, named by the SHA-256 of their .deb:
//
//	DIR/unpacked/<sha256>/manifest.json   every entry of data.tar; control; conffiles with their MD5
//	DIR/unpacked/<sha256>/files/<n>       the contents of regular files, with owner, mode, mtime and xattrs
//	DIR/unpacked/<sha256>/control/<name>  the members of control.tar but "control"
//	DIR/unpacked/<sha256>/package.deb     only of packages that divert files, which the root's own dpkg may have to unpack
//
// Names inside a package never become paths here, so no package can reach out of its folder. Only root may enter the
// folder: it holds setuid programs, of old versions too.
type Cache struct {
	Dir string
}

const (
	manifestName   = "manifest.json"
	manifestFormat = 2
	tempPrefix     = ".tmp-"
)

func (c Cache) folder() string { return filepath.Join(c.Dir, "unpacked") }

func (c Cache) entry(sum string) string { return filepath.Join(c.folder(), sum) }

// A manifest says all that Assemble needs of one package.
type manifest struct {
	Format    int               `json:"format"`
	Control   string            `json:"control"`
	Members   []string          `json:"members"`             // of control.tar, in its order
	Conffiles map[string]string `json:"conffiles,omitempty"` // path as in DEBIAN/conffiles: MD5
	Order     []string          `json:"order,omitempty"`     // of the conffiles
	Sums      string            `json:"sums,omitempty"`      // md5sums, when the package has none of its own
	Diverts   bool              `json:"diverts,omitempty"`   // its preinst calls dpkg-divert
	Boot      string            `json:"boot"`                // boot during which it was written
	Entries   []entry           `json:"entries"`
}

// load reads a manifest; os.ErrNotExist when the package is not in the cache in a state that can be trusted.
func (c Cache) load(sum string) (*manifest, error) {
	data, err := os.ReadFile(filepath.Join(c.entry(sum), manifestName))
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil || m.Format != manifestFormat {
		return nil, fmt.Errorf("unpacked package %s is of another version of netroot or damaged: %w", sum, os.ErrNotExist)
	}
	// Files are not synced one by one. What a machine wrote before it was last switched off counts only when Sync
	// put its mark on it.
	if m.Boot != atomicfile.BootID() {
		if _, err := os.Stat(filepath.Join(c.entry(sum), "synced")); err != nil {
			return nil, fmt.Errorf("unpacked package %s may not have reached the disk: %w", sum, os.ErrNotExist)
		}
	}
	return &m, nil
}

// Has tells whether a package is unpacked already.
func (c Cache) Has(sum string) bool {
	_, err := c.load(sum)
	return err == nil
}

// Sync brings what was unpacked safely to the disk, with one syncfs, and marks it so. Without it, packages are unpacked
// again after a restart of the machine; nothing worse. A build calls it when its generation is published.
func (c Cache) Sync() error {
	dir, err := os.Open(c.folder())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync cache: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("sync cache: %w", err)
	}
	var fresh []string
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(c.entry(name), "synced")); err != nil && c.Has(name) {
			fresh = append(fresh, name)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync cache: %w", err)
	}
	for _, name := range fresh {
		if err := os.WriteFile(filepath.Join(c.entry(name), "synced"), nil, 0o600); err != nil {
			return fmt.Errorf("sync cache: %w", err)
		}
	}
	return nil
}

// Sweep removes what killed builds left half unpacked. A living build holds a lock on its folder.
func (c Cache) Sweep() error {
	entries, err := os.ReadDir(c.folder())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep cache: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		name := filepath.Join(c.folder(), e.Name())
		// Between mkdir and flock of another build lie microseconds.
		if st, err := e.Info(); err != nil || time.Since(st.ModTime()) < time.Minute {
			continue
		}
		dir, err := os.Open(name)
		if err != nil {
			continue
		}
		if unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.RemoveAll(name)
		}
		dir.Close()
	}
	return nil
}

// temp makes a locked folder for a package that is being unpacked.
func (c Cache) temp(sum string) (*os.File, error) {
	if err := os.MkdirAll(c.folder(), 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(c.folder(), 0o700); err != nil {
		return nil, err
	}
	name, err := os.MkdirTemp(c.folder(), tempPrefix+sum+"-"+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// publish gives a finished folder its name. When another build was faster, its folder stays.
func (c Cache) publish(temp, sum string) error {
	err := os.Rename(temp, c.entry(sum))
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	if c.Has(sum) {
		return os.RemoveAll(temp)
	}
	// What is there cannot be trusted. It is moved away whole, so that no build ever sees half of it.
	aside, err := os.MkdirTemp(c.folder(), tempPrefix+"old-")
	if err != nil {
		return err
	}
	if err := os.Rename(c.entry(sum), filepath.Join(aside, "x")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	return os.Rename(temp, c.entry(sum))
}

// write stores a manifest; it is the last file written.
func (m *manifest) write(dir string) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestName), data, 0o600)
}
