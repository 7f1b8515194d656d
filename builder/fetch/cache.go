package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A Cache is a folder of blobs named by their checksums: DIR/sha256/ab/abcdef…. A blob gets its name only after its bytes
// were hashed and synced. Beside it may lie abcdef….part, what an interrupted download left.
type Cache struct {
	Dir string
}

// Path returns where the blob with the hex digest sum lies, or would lie.
func (c Cache) Path(sum string) string {
	shard := "xx"
	if len(sum) >= 2 {
		shard = sum[:2]
	}
	return filepath.Join(c.Dir, folderOf(sum), shard, sum)
}

// Has says whether the blob is there.
func (c Cache) Has(sum string) bool {
	info, err := os.Stat(c.Path(sum))
	return err == nil && info.Mode().IsRegular()
}

// Remove takes a blob out of the cache; one that is not there is no error.
func (c Cache) Remove(sum string) error {
	if err := os.Remove(c.Path(sum)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove from the cache: %w", err)
	}
	return nil
}

// Holds is Has for a blob of a known length; one of another length (a damaged disk) is removed.
func (c Cache) Holds(sum string, size int64) bool {
	if !validSum(sum) {
		return false // a path of some other file, perhaps
	}
	info, err := os.Stat(c.Path(sum))
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	if info.Size() != size {
		os.Remove(c.Path(sum))
		return false
	}
	return true
}

// openPart opens the unfinished file of a blob and locks it, so that two builds that want the same package do not write
// into one file. It returns nil, nil when the other one finished the blob meanwhile.
func (c Cache) openPart(ctx context.Context, sum string, size int64) (*os.File, error) {
	path := c.Path(sum)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make cache folder: %w", err)
	}
	for {
		f, err := os.OpenFile(path+".part", os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open cache file: %w", err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// The holder before us may have renamed or removed the file between our open and our lock.
			if sameFile(f, path+".part") {
				if c.Holds(sum, size) {
					os.Remove(path + ".part")
					f.Close()
					return nil, nil
				}
				return f, nil
			}
			f.Close()
			if c.Holds(sum, size) {
				return nil, nil
			}
			continue
		}
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, fmt.Errorf("lock cache file %s.part: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}
