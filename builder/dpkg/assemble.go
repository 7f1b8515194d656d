package dpkg

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"netroot/builder/lock"
)

// A Root is what Assemble makes.
type Root struct {
	Packages []lock.Package // all of them unpacked in Cache
	Cache    Cache
	Dir      string // made when missing; must be empty, and on the file system of the cache, or files are copied
	Arch     string // Debian's word: amd64, i386, arm64
	// Sources becomes /etc/apt/sources.list.d/netroot.sources (deb822) or, when it is in the one-line form,
	// netroot.list. Empty: the root has no apt sources, until something else writes them.
	Sources []byte
	Log     *slog.Logger // nil is silent
}

// Assemble makes a root folder of packages, in which dpkg believes that it has just unpacked them all. Regular files
// are hard links into the cache: nobody may write to them in place, so whatever changes the root works in an overlay.
func Assemble(ctx context.Context, r Root) error {
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if entries, err := os.ReadDir(r.Dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("assemble %s: the folder is not empty", r.Dir)
	}
	if err := r.Cache.Sweep(); err != nil {
		r.Log.Warn("what a killed build left in the cache stays there", "error", err)
	}
	if err := assemble(ctx, r); err != nil {
		return fmt.Errorf("assemble root: %w", err)
	}
	return nil
}

func assemble(ctx context.Context, r Root) error {
	sources, err := loadSources(ctx, r)
	if err != nil {
		return err
	}
	sources = inOrder(sources)
	holdDiverting(sources)
	p, err := newPlan(sources, sameFile(r.Cache))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return err
	}
	if err := p.make(ctx, r.Cache, r.Dir); err != nil {
		return err
	}
	if err := writeDatabase(r, sources); err != nil {
		return err
	}
	if err := writeSources(r); err != nil {
		return err
	}
	return p.stamp(r.Dir)
}

// Newest returns the latest modification time of all files that the packages hold: what a root made of them is as old as.
func Newest(ctx context.Context, r Root) (time.Time, error) {
	sources, err := loadSources(ctx, r)
	if err != nil {
		return time.Time{}, err
	}
	var newest time.Time
	for _, s := range sources {
		for i := range s.manifest.Entries {
			if t := s.manifest.Entries[i].mtime(); t.After(newest) {
				newest = t
			}
		}
	}
	return newest, nil
}

// loadSources reads the manifests of all packages.
func loadSources(ctx context.Context, r Root) ([]*source, error) {
	sources := make([]*source, len(r.Packages))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, pkg := range r.Packages {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			m, err := r.Cache.load(pkg.SHA256)
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("package %s %s is not unpacked: %w", pkg.Name, pkg.Version, err)
			}
			if err != nil {
				return fmt.Errorf("package %s: %w", pkg.Name, err)
			}
			control, err := parseControl(m.Control)
			if err != nil {
				return fmt.Errorf("package %s: %w", pkg.Name, err)
			}
			s := &source{
				name: control.get("Package"), version: control.get("Version"), arch: control.get("Architecture"),
				sum: pkg.SHA256, control: control, manifest: m, lost: map[string]bool{},
			}
			if s.name != pkg.Name || s.version != pkg.Version || s.arch != pkg.Arch {
				return fmt.Errorf("package %s %s %s is, by its own control file, %s %s %s: the index it was chosen from is wrong",
					pkg.Name, pkg.Version, pkg.Arch, s.name, s.version, s.arch)
			}
			s.replaces = slices.Concat(s.relations("Replaces")...)
			sources[i] = s
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, s := range sources {
		if seen[s.name+":"+s.arch] {
			return nil, fmt.Errorf("package %s:%s is there twice", s.name, s.arch)
		}
		seen[s.name+":"+s.arch] = true
	}
	return sources, nil
}

// content is where the cache keeps a regular file.
func (n *node) content(cache Cache) string {
	return filepath.Join(cache.entry(n.owner.sum), "files", strconv.Itoa(n.entry.File))
}

// sameFile compares two entries of packages for several architectures.
func sameFile(cache Cache) func(a, b *node) (bool, error) {
	return func(a, b *node) (bool, error) {
		x, y := a.entry, b.entry
		if x.Type != y.Type || x.Link != y.Link || x.Size != y.Size {
			return false, nil
		}
		if x.Type != tar.TypeReg {
			return true, nil
		}
		first, err := os.ReadFile(a.content(cache))
		if err != nil {
			return false, err
		}
		second, err := os.ReadFile(b.content(cache))
		return bytes.Equal(first, second), err
	}
}

// make creates every path of the plan, files by all processors.
func (p *plan) make(ctx context.Context, cache Cache, dir string) error {
	paths := make([]string, 0, len(p.nodes))
	for name := range p.nodes {
		paths = append(paths, name)
	}
	slices.Sort(paths) // parents before children
	var rest []*node
	for _, name := range paths {
		n := p.nodes[name]
		if n.entry.Type != tar.TypeDir {
			rest = append(rest, n)
			continue
		}
		at := filepath.Join(dir, name)
		if name != "." {
			if err := os.Mkdir(at, 0o700); err != nil {
				return err
			}
		}
		if err := n.entry.dressPath(at); err != nil {
			return fmt.Errorf("folder /%s: %w", name, err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		// Neighbours share a folder, and folders are what the kernel locks.
		part := rest[len(rest)*w/workers : len(rest)*(w+1)/workers]
		g.Go(func() error {
			for i, n := range part {
				if i%256 == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				if err := n.create(cache, filepath.Join(dir, n.path)); err != nil {
					return fmt.Errorf("/%s: %w", n.path, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// create makes one path that is no folder.
func (n *node) create(cache Cache, at string) error {
	e := n.entry
	switch e.Type {
	case tar.TypeReg:
		from := n.content(cache)
		err := os.Link(from, at)
		if err == nil || !(errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM)) {
			return err
		}
		return e.copy(from, at)
	case tar.TypeSymlink:
		if err := os.Symlink(e.Link, at); err != nil {
			return err
		}
	case tar.TypeFifo:
		if err := unix.Mkfifo(at, 0o600); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		kind := uint32(unix.S_IFCHR)
		if e.Type == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		if err := unix.Mknod(at, kind|0o600, int(unix.Mkdev(e.Major, e.Minor))); err != nil {
			return err
		}
	}
	if err := e.dressPath(at); err != nil {
		return err
	}
	return e.stamp(at)
}

// stamp gives folders their times, when nothing is created in them any more.
func (p *plan) stamp(dir string) error {
	for name, n := range p.nodes {
		if n.entry.Type == tar.TypeDir {
			if err := n.entry.stamp(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeSources writes what the root's apt is to know.
func writeSources(r Root) error {
	if len(r.Sources) == 0 {
		return nil
	}
	name := "netroot.list"
	if bytes.HasPrefix(r.Sources, []byte("Types:")) || bytes.Contains(r.Sources, []byte("\nTypes:")) {
		name = "netroot.sources"
	}
	root, err := os.OpenRoot(r.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll("etc/apt/sources.list.d", 0o755); err != nil {
		return err
	}
	return root.WriteFile(path.Join("etc/apt/sources.list.d", name), r.Sources, 0o644)
}

// mkdirs makes folders of the root that no package ships, with mode 0755 whatever the umask.
func mkdirs(dir string, names ...string) error {
	for _, name := range names {
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			return err
		}
		if err := os.Chmod(at, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a new file with exactly this mode.
func writeFile(name string, data string, mode os.FileMode) error {
	if err := os.WriteFile(name, []byte(data), mode); err != nil {
		return fmt.Errorf("write %s: %w", strings.TrimPrefix(name, "/"), err)
	}
	return os.Chmod(name, mode)
}
