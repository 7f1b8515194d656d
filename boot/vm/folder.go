package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	folderPrefix = "netroot-lab-"
	// folderAge is how old a folder must be before it can be taken for a killed lab's: younger ones may be about to be
	// locked.
	folderAge = time.Minute
)

// newFolder makes a lab's folder for sockets and leases. It stays locked as long as the file is open, so that whoever
// comes later can tell it from the folder of a lab that was killed; those are removed.
func newFolder() (dir string, lock *os.File, err error) {
	sweepFolders(os.TempDir())
	if dir, err = os.MkdirTemp("", folderPrefix); err != nil {
		return "", nil, err
	}
	if lock, err = os.Open(dir); err == nil {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return dir, lock, nil
		}
		lock.Close()
	}
	os.RemoveAll(dir)
	return "", nil, fmt.Errorf("lock %s: %w", dir, err)
}

// sweepFolders removes what killed labs left in temp. What cannot be removed is another user's, or nobody's worry.
func sweepFolders(temp string) {
	dirs, err := filepath.Glob(filepath.Join(temp, folderPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < folderAge {
			continue
		}
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.RemoveAll(dir)
		}
		f.Close()
	}
}
