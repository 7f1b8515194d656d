package dpkg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Tidy takes out of a root what installing leaves behind and no machine needs: apt's indexes and downloads, caches that
// are made again when they are used, dpkg's backups and logs, which have the time in them. It is for after hooks, which may have installed
// packages, with os.OpenRoot of the session's Tree: other logs stay as they are.
func Tidy(root *os.Root) error {
	var errs []error
	remove := func(name string) {
		if err := root.RemoveAll(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	contents := func(dir string, keep ...string) {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			return // it is not there
		}
	next:
		for _, e := range entries {
			for _, k := range keep {
				if e.Name() == k {
					continue next
				}
			}
			remove(path.Join(dir, e.Name()))
		}
	}
	contents("var/lib/apt/lists", "partial", "auxfiles")
	contents("var/lib/apt/lists/partial")
	contents("var/cache/apt/archives", "partial")
	contents("var/cache/apt/archives/partial")
	for _, name := range []string{
		"var/cache/apt/pkgcache.bin", "var/cache/apt/srcpkgcache.bin", "var/cache/ldconfig/aux-cache",
		"var/log/dpkg.log", "var/log/alternatives.log", "var/log/apt/history.log", "var/log/apt/term.log",
		"var/log/apt/eipp.log.xz", "var/log/bootstrap.log", "var/lib/dpkg/tmp.ci",
	} {
		remove(name)
	}
	for _, pattern := range []string{"var/cache/debconf/*-old", "var/lib/dpkg/*-old"} {
		names, _ := fs.Glob(root.FS(), pattern)
		for _, name := range names {
			remove(name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean root: %w", err)
	}
	return nil
}

// Clean is Tidy and empties all logs: those that programs expect to be there keep their owner and mode. Configure ends with it.
func Clean(root *os.Root) error {
	tidied := Tidy(root)
	err := fs.WalkDir(root.FS(), "var/log", func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil && d.Type().IsRegular() && info.Size() > 0 && !strings.HasSuffix(name, "/README") {
			f, err := root.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
			if err != nil {
				return err
			}
			return f.Close()
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("clean root: %w", err)
	}
	return errors.Join(tidied, err)
}
