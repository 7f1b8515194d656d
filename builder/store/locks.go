package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A BusyError says that something else holds what was asked for.
type BusyError struct {
	What  string    // "image debian-12", "the cache"
	PID   int       // 0 when the holder did not say
	Host  string    // the holder's host name
	Since time.Time // zero when the holder did not say
}

func (e *BusyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is held by another build", e.What)
	if e.PID != 0 {
		fmt.Fprintf(&b, ": process %d on %s", e.PID, e.Host)
	}
	if !e.Since.IsZero() {
		fmt.Fprintf(&b, ", since %s", e.Since.Local().Format("2006-01-02 15:04:05"))
	}
	b.WriteString("; wait for it or end it")
	return b.String()
}

// A fileLock is an flock(2) on a file. The kernel drops it when the process dies, however it dies, and Go opens files
// close-on-exec, so no child keeps it.
type fileLock struct{ *os.File }

// acquire takes a lock on the file at path, made when missing. The file is never removed: one process could then hold
// the lock of a file that has no name any more while the next locks a new one. Somebody may still remove it by hand, so
// the name is looked up again after the lock is had.
func acquire(path string, how int) (*fileLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		for {
			if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		held, err1 := f.Stat()
		named, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(held, named) {
			return &fileLock{f}, nil
		}
		f.Close()
	}
}

// A holder is what the lock file says about who holds it. It is only read when the lock is held.
type holder struct {
	PID   int       `json:"pid"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
}

func (l *fileLock) sign() error {
	host, err := os.Hostname()
	if err != nil {
		host = "this host"
	}
	data, err := json.Marshal(holder{os.Getpid(), host, time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	if err := l.Truncate(0); err != nil {
		return err
	}
	_, err = l.WriteAt(append(data, '\n'), 0)
	return err
}

// lockBuild takes the right to build an image.
func (s *Store) lockBuild(image string) (*fileLock, error) {
	path := filepath.Join(s.workDir(), image+".lock")
	l, err := acquire(path, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, busy("image "+image, path)
	}
	if err != nil {
		return nil, fmt.Errorf("begin a build of %s: %w", image, err)
	}
	if err := l.sign(); err != nil {
		l.Close()
		return nil, fmt.Errorf("begin a build of %s: sign %s: %w", image, path, err)
	}
	return l, nil
}

func busy(what, path string) *BusyError {
	e := &BusyError{What: what}
	var h holder
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &h) == nil {
		e.PID, e.Host, e.Since = h.PID, h.Host, h.Since
	}
	return e
}

// lockCache is taken shared by builds and alone by whoever removes something from the cache.
func (s *Store) lockCache(alone bool) (*fileLock, error) {
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX | unix.LOCK_NB
	}
	l, err := acquire(filepath.Join(s.workDir(), ".cache.lock"), how)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &BusyError{What: "the cache"}
	}
	return l, err
}

// lockSwitch keeps those apart who change which generations of an image there are and which is current. It is held
// for milliseconds, so it waits.
func (s *Store) lockSwitch(image string) (*fileLock, error) {
	return acquire(filepath.Join(s.workDir(), image+".switch"), unix.LOCK_EX)
}

// Hold keeps gc from removing the generation until release is called or the process ends.
func (g Generation) Hold() (release func(), err error) {
	for {
		f, err := os.Open(g.Dir)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, notFound("%s is gone", g.Ref())
			}
			return nil, fmt.Errorf("hold %s: %w", g.Ref(), err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
			f.Close()
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return nil, fmt.Errorf("hold %s: %w", g.Ref(), err)
		}
		// gc may have renamed the folder away between the two calls.
		held, err1 := f.Stat()
		named, err2 := os.Stat(g.Dir)
		if err1 == nil && err2 == nil && os.SameFile(held, named) {
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}

// adopt gives what was made in the store the group of the store's folder, so that "chgrp -R netroot STORE" once is
// enough for a server that does not run as root. Who may not change the group goes without.
func (s *Store) adopt(path string) error {
	st, err := os.Stat(s.dir)
	if err != nil {
		return fmt.Errorf("look at the store: %w", err)
	}
	gid := int(st.Sys().(*syscall.Stat_t).Gid)
	if err := os.Lchown(path, -1, gid); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("set the group of %s: %w", path, err)
	}
	return nil
}
