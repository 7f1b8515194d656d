package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// NoGroup is given to Protect where no group may read the store.
const NoGroup = -1

// Protect closes the store to everybody but its owner and the members of a group: root images hold password hashes and host
// keys. It returns in words what it had to correct. A store that does not exist yet is left alone, and so is what is only
// for builds: it lies behind the same door.
//
// Who is not root can close a store of his own and give it to no group but his.
func (s *Store) Protect(gid int) (corrected []string, err error) {
	mode := fs.FileMode(0o750)
	if gid == NoGroup {
		mode = 0o700
	}
	st, err := os.Lstat(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("protect store: %w", err)
	}
	// First the door is closed, then the group gets what lies behind it, then the door is opened for the group.
	perm := st.Mode().Perm()
	if open := perm &^ mode; open != 0 {
		if err := os.Chmod(s.dir, perm&mode); err != nil {
			return nil, fmt.Errorf("protect store: %w", err)
		}
		corrected = append(corrected, fmt.Sprintf("%s had mode %#o, open to others", s.dir, perm))
		perm &= mode
	}
	if gid != NoGroup {
		changed, err := s.give(gid)
		if err != nil {
			return corrected, fmt.Errorf("protect store: %w", err)
		}
		if changed > 0 && perm&0o070 != 0 { // else nobody was meant to read it yet
			corrected = append(corrected, fmt.Sprintf("%d files and folders of %s were not of the group %d", changed, s.dir, gid))
		}
	}
	if perm != mode {
		if err := os.Chmod(s.dir, mode); err != nil {
			return corrected, fmt.Errorf("protect store: %w", err)
		}
	}
	return corrected, nil
}

// give gives what a server reads to a group.
func (s *Store) give(gid int) (changed int, err error) {
	give := func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since, or not made yet
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if int(st.Gid) == gid || d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		if err := os.Lchown(path, -1, gid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		changed++
		return nil
	}
	for _, dir := range []string{s.imagesDir(), s.LoaderDir()} {
		if err := filepath.WalkDir(dir, give); err != nil {
			return changed, err
		}
	}
	for _, dir := range []string{s.CacheDir(), s.workDir(), s.dir} { // the store's own last: what is made from now on takes its group
		info, err := os.Lstat(dir)
		if err == nil {
			err = give(dir, fs.FileInfoToDirEntry(info), nil)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return changed, err
		}
	}
	return changed, nil
}

// StateDir returns the folder of what a server remembers. Prepare does not make it: the server has it made for whom it runs as.
func (s *Store) StateDir() string { return filepath.Join(s.dir, "state") }

// GiveState makes the folder for what a server remembers, and gives it and the plain files in it to a user. Links and files
// with several names are left alone: that user may have put them there to be given somebody else's.
func (s *Store) GiveState(uid, gid int) error {
	dir := s.StateDir()
	switch err := os.Mkdir(dir, 0o750); {
	case errors.Is(err, fs.ErrNotExist):
		return nil // there is no store yet, and nothing to serve
	case err != nil && !errors.Is(err, fs.ErrExist):
		return fmt.Errorf("make folder for the server's state: %w", err)
	}
	d, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("give %s to user %d: %w", dir, uid, err)
	}
	defer d.Close()
	var own unix.Stat_t
	if err = unix.Fstat(int(d.Fd()), &own); err == nil && (int(own.Uid) != uid || int(own.Gid) != gid) {
		err = d.Chown(uid, gid)
	}
	if err != nil {
		return fmt.Errorf("give %s to user %d: %w", dir, uid, err)
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("give %s to user %d: %w", dir, uid, err)
	}
	for _, name := range names {
		fd, err := unix.Openat(int(d.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // gone since
		}
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 && (int(st.Uid) != uid || int(st.Gid) != gid) {
			err = unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
		}
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("give %s to user %d: %w", filepath.Join(dir, name), uid, err)
		}
	}
	return nil
}
