package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"netroot/builder/atomicfile"
	"netroot/builder/dpkg"
	"netroot/builder/lock"
)

// A loaderFile is one that a BIOS machine is sent before its kernel or instead of it: its name in the store, and the package
// it is in, at the first of the paths that is there.
type loaderFile struct {
	name, pkg string
	paths     []string
	optional  bool // an archive may be without it
}

var loaderFiles = []loaderFile{
	{"pxelinux.0", "pxelinux", []string{"usr/lib/PXELINUX/pxelinux.0"}, false},
	{"lpxelinux.0", "pxelinux", []string{"usr/lib/PXELINUX/lpxelinux.0"}, false},
	{"ldlinux.c32", "syslinux-common", []string{"usr/lib/syslinux/modules/bios/ldlinux.c32"}, false},
	{"libcom32.c32", "syslinux-common", []string{"usr/lib/syslinux/modules/bios/libcom32.c32"}, false},
	{"libutil.c32", "syslinux-common", []string{"usr/lib/syslinux/modules/bios/libutil.c32"}, false},
	{"menu.c32", "syslinux-common", []string{"usr/lib/syslinux/modules/bios/menu.c32"}, false},
	// Version 6 comes for 32 and for 64 bits, and a menu does not know the CPU: the first runs on both. Version 5 is one for
	// both. The name has no ending, because pxelinux goes by that.
	{"memtest86+", "memtest86+", []string{"boot/memtest86+ia32.bin", "boot/memtest86+.bin"}, true},
}

// loaderLock is the lock of the packages that the store's boot loader files came from. It is written last.
const loaderLock = "loader.lock"

// loader sees to it that the store has the boot loader's files, in the version that the recipe's archive offers. An
// archive without them leaves to the store what it has, or else takes those that the host has installed.
func (b *Builder) loader(ctx context.Context, from source) error {
	dir := b.Store.LoaderDir()
	src, ok := from.(*aptSource)
	if !ok {
		// Other sources offer Debian's loaders under other names and paths, if at all.
		if loaderComplete(dir) {
			return nil
		}
		return hostLoader(dir, "/", "pxelinux")
	}
	have, err := lock.Read(filepath.Join(dir, loaderLock))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.log().Warn("the boot loader is installed again", "reason", err.Error())
	}
	if have != nil && src.universe == nil {
		return nil // a locked build asks no archive
	}
	universe, err := src.open(ctx)
	if err != nil {
		return fmt.Errorf("find the boot loader: %w", err)
	}
	pins := &lock.Lock{Arch: src.config.Arch}
	for _, f := range loaderFiles {
		if slices.ContainsFunc(pins.Packages, func(p lock.Package) bool { return p.Name == f.pkg }) {
			continue
		}
		p, ok := universe.Find(f.pkg)
		switch {
		case ok:
			pins.Packages = append(pins.Packages, lock.Package{Name: p.Name, Version: p.Version, Arch: p.Arch, Repo: p.Repo, Path: p.Path, Size: p.Size, SHA256: p.SHA256})
		case f.optional:
		case have != nil:
			return nil
		default:
			return hostLoader(dir, "/", f.pkg)
		}
	}
	if have != nil && have.Digest() == pins.Digest() && loaderComplete(dir) {
		return nil
	}
	items, err := universe.Items(pins)
	if err != nil {
		return fmt.Errorf("fetch the boot loader: %w", err)
	}
	debs := make(map[string]string)
	for i, p := range pins.Packages {
		debs[p.Name] = src.fetcher.Cache.Path(items[i].Sum)
	}
	if err := src.fetcher.Get(ctx, items, nil); err != nil {
		return fmt.Errorf("fetch the boot loader: %w", err)
	}
	read := func(f loaderFile, path string) ([]byte, error) {
		if debs[f.pkg] == "" {
			return nil, fmt.Errorf("no package %s: %w", f.pkg, fs.ErrNotExist)
		}
		return dpkg.ReadFile(debs[f.pkg], path)
	}
	if err := installLoader(dir, read); err != nil {
		return err
	}
	return pins.Write(filepath.Join(dir, loaderLock))
}

// loaderComplete tells whether the folder has every file that must be there.
func loaderComplete(dir string) bool {
	return !slices.ContainsFunc(loaderFiles, func(f loaderFile) bool {
		_, err := os.Stat(filepath.Join(dir, f.name))
		return err != nil && !f.optional
	})
}

// installLoader writes the files that read finds into the folder.
func installLoader(dir string, read func(f loaderFile, path string) ([]byte, error)) error {
	for _, f := range loaderFiles {
		var data []byte
		var err error
		for _, path := range f.paths {
			if data, err = read(f, path); !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
		if f.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("take the boot loader out of %s: %w", f.pkg, err)
		}
		if err := atomicfile.Write(filepath.Join(dir, f.name), data, 0o644); err != nil {
			return fmt.Errorf("install the boot loader: %w", err)
		}
	}
	return nil
}

// hostLoader takes the boot loader that the host has installed below root, for recipes whose archive does not offer one.
func hostLoader(dir, root, missing string) error {
	err := installLoader(dir, func(_ loaderFile, path string) ([]byte, error) { return os.ReadFile(filepath.Join(root, path)) })
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the recipe's archive offers no package %s, and this host has none installed (%w); install pxelinux and syslinux-common here", missing, err)
	}
	return err
}
