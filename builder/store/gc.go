package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
)

// SetCurrent makes the generation that ref names the one that machines boot from now on: roll back, promote.
// Machines that run are not touched. Without a number the newest generation is taken.
func (s *Store) SetCurrent(ref string) (Generation, error) {
	image, n, err := ParseRef(ref)
	if err != nil {
		return Generation{}, err
	}
	numbers, err := s.present(image)
	if err != nil {
		return Generation{}, err
	}
	l, err := s.lockSwitch(image)
	if err != nil {
		return Generation{}, fmt.Errorf("make %s current: %w", ref, err)
	}
	defer l.Close()
	if n == 0 {
		n = numbers[len(numbers)-1]
	}
	g, err := s.Resolve(image + "@" + strconv.Itoa(n))
	if err != nil {
		return Generation{}, err
	}
	if g.Current {
		return g, nil
	}
	if err := atomicfile.Symlink(strconv.Itoa(n), filepath.Join(s.imageDir(image), currentName)); err != nil {
		return Generation{}, fmt.Errorf("make %s current: %w", g.Ref(), err)
	}
	g.Current = true
	return g, nil
}

// Previous returns the newest whole generation before the current one: what a rollback goes to.
func (s *Store) Previous(image string) (Generation, error) {
	gens, err := s.Generations(image)
	if err != nil {
		return Generation{}, err
	}
	at := slices.IndexFunc(gens, func(g Generation) bool { return g.Current })
	if at < 0 {
		return Generation{}, notFound("no generation of %s is current; choose one with: netroot promote %s@N", image, image)
	}
	for _, g := range slices.Backward(gens[:at]) {
		if g.Err == nil {
			return g, nil
		}
	}
	return Generation{}, notFound("%s has no generation before %d", image, gens[at].Number)
}

// GC removes all but the newest keep generations of an image and returns what it removed. The current one, the
// newest, those in pinned and those that a process holds with Hold stay in any case. One whose manifest cannot be read
// does not count as kept.
func (s *Store) GC(image string, keep int, pinned ...int) ([]Generation, error) {
	if keep < 1 {
		return nil, fmt.Errorf("collect generations of %s: keep %d: at least 1 stays", image, keep)
	}
	if _, err := s.Generations(image); err != nil {
		return nil, err
	}
	removed, gone, err := s.detach(image, keep, pinned)
	for _, dir := range gone {
		if rmErr := os.RemoveAll(dir); rmErr != nil {
			err = errors.Join(err, fmt.Errorf("collect generations of %s: %w", image, rmErr))
		}
	}
	// What an earlier collection or build left is nobody's now, unless a build runs.
	if l, lockErr := s.lockBuild(image); lockErr == nil {
		err = errors.Join(err, s.sweep(image))
		l.Close()
	}
	return removed, err
}

// detach renames what is to go into work/, so that a crash half way through removing leaves no half generation.
func (s *Store) detach(image string, keep int, pinned []int) (removed []Generation, gone []string, err error) {
	l, err := s.lockSwitch(image)
	if err != nil {
		return nil, nil, fmt.Errorf("collect generations of %s: %w", image, err)
	}
	defer l.Close()
	gens, err := s.Generations(image)
	if err != nil {
		return nil, nil, err
	}
	for _, g := range collectable(gens, keep, pinned) {
		dir, ok, err := s.detachOne(g)
		if err != nil {
			return removed, gone, fmt.Errorf("collect %s: %w", g.Ref(), err)
		}
		if ok {
			removed, gone = append(removed, g), append(gone, dir)
		}
	}
	if len(removed) > 0 {
		err = atomicfile.SyncDir(s.imageDir(image))
	}
	return removed, gone, err
}

// collectable chooses what may go; gens are sorted by number.
func collectable(gens []Generation, keep int, pinned []int) []Generation {
	var out []Generation
	whole := 0
	for i, g := range slices.Backward(gens) {
		newest := i == len(gens)-1
		if g.Err == nil {
			whole++
		}
		if newest || g.Current || slices.Contains(pinned, g.Number) || g.Err == nil && whole <= keep {
			continue
		}
		out = append(out, g)
	}
	slices.Reverse(out)
	return out
}

// detachOne moves a generation out of sight unless somebody holds it.
func (s *Store) detachOne(g Generation) (string, bool, error) {
	f, err := os.Open(g.Dir)
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return "", false, nil
		}
		return "", false, err
	}
	parent, err := os.MkdirTemp(s.workDir(), g.Image+workMark+"gc-*")
	if err != nil {
		return "", false, err
	}
	if err := os.Rename(g.Dir, filepath.Join(parent, filepath.Base(g.Dir))); err != nil {
		os.Remove(parent)
		return "", false, err
	}
	return parent, true, nil
}

// Pruned counts what PruneCache removed.
type Pruned struct {
	Entries int
	Bytes   int64 // of downloads; an unpacked package is counted as an entry only
}

// PruneCache removes downloads and unpacked packages that no generation's lock names, that keep (a set of SHA-256 in
// hex) does not name either, and that have lain there for at least age: a build that is refused while this runs is
// better than one that loses what it just fetched, so the error is a *BusyError while any build runs.
func (s *Store) PruneCache(ctx context.Context, keep map[string]bool, age time.Duration) (Pruned, error) {
	var p Pruned
	if _, err := os.Stat(s.CacheDir()); errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err := s.Prepare(); err != nil {
		return p, err
	}
	l, err := s.lockCache(true)
	if err != nil {
		return p, err
	}
	defer l.Close()
	used, err := s.referenced()
	if err != nil {
		return p, fmt.Errorf("prune the cache: %w", err)
	}
	trash := filepath.Join(s.workDir(), ".pruned")
	if err := os.RemoveAll(trash); err != nil {
		return p, fmt.Errorf("prune the cache: %w", err)
	}
	if err := os.Mkdir(trash, 0o700); err != nil {
		return p, fmt.Errorf("prune the cache: %w", err)
	}
	defer os.RemoveAll(trash)
	for _, pattern := range []string{"sha256/*/*", "sha512/*/*", "sha1/*/*", "unpacked/*", "starters/*", "installed/*/*", "copies/*"} {
		paths, err := filepath.Glob(filepath.Join(globEscape(s.CacheDir()), pattern))
		if err != nil {
			return p, fmt.Errorf("prune the cache: %w", err)
		}
		for _, path := range paths {
			if err := ctx.Err(); err != nil {
				return p, err
			}
			sum, _, _ := strings.Cut(filepath.Base(path), ".") // a download under way is SUM.part
			if pattern == "copies/*" {
				digest, _ := os.ReadFile(filepath.Join(path, "digest"))
				sum, _, _ = strings.Cut(string(digest), " ")
			}
			st, err := os.Lstat(path)
			if err != nil {
				return p, fmt.Errorf("prune the cache: %w", err)
			}
			if used[sum] || keep[sum] || time.Since(st.ModTime()) < age {
				continue
			}
			// An unpacked package must never be there in part.
			gone := filepath.Join(trash, strconv.Itoa(p.Entries))
			if err := os.Rename(path, gone); err != nil {
				return p, fmt.Errorf("prune the cache: %w", err)
			}
			p.Entries++
			if st.Mode().IsRegular() {
				p.Bytes += st.Size()
			}
			if err := os.RemoveAll(gone); err != nil {
				return p, fmt.Errorf("prune the cache: %w", err)
			}
		}
	}
	return p, nil
}

// referenced returns the checksum of every package that some generation was built from.
func (s *Store) referenced() (map[string]bool, error) {
	images, err := s.Images()
	if err != nil {
		return nil, err
	}
	used := make(map[string]bool)
	for _, image := range images {
		gens, err := s.Generations(image)
		if err != nil {
			return nil, err
		}
		for _, g := range gens {
			if g.Err != nil || g.Manifest.Lock == nil {
				continue
			}
			for _, p := range g.Manifest.Lock.Packages {
				used[p.Sum()] = true
			}
		}
	}
	return used, nil
}

// globEscape makes filepath.Glob take a path as it is written.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
