package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"netroot/builder/atomicfile"
	"netroot/builder/dpkg"
	"netroot/builder/lock"
)

// loaderFiles are what a BIOS machine is sent before its kernel: the package that each is in, and where.
var loaderFiles = []struct{ pkg, path string }{
	{"pxelinux", "usr/lib/PXELINUX/pxelinux.0"},
	{"syslinux-common", "usr/lib/syslinux/modules/bios/ldlinux.c32"},
	{"syslinux-common", "usr/lib/syslinux/modules/bios/libcom32.c32"},
	{"syslinux-common", "usr/lib/syslinux/modules/bios/libutil.c32"},
	{"syslinux-common", "usr/lib/syslinux/modules/bios/menu.c32"},
}

// loaderLock is the lock of the packages that the store's boot loader files came from. It is written last.
const loaderLock = "loader.lock"

// loader sees to it that the store has the boot loader's files, in the version that the recipe's archive offers. An
// archive without them leaves to the store what it has, or else takes those that the host has installed.
func (b *Builder) loader(ctx context.Context, src *aptSource) error {
	dir := b.Store.LoaderDir()
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
	for _, name := range []string{"pxelinux", "syslinux-common"} {
		p, ok := universe.Find(name)
		if !ok {
			if have != nil {
				return nil
			}
			return b.hostLoader(name)
		}
		pins.Packages = append(pins.Packages, lock.Package{Name: p.Name, Version: p.Version, Arch: p.Arch, Repo: p.Repo, Path: p.Path, Size: p.Size, SHA256: p.SHA256})
	}
	if have != nil && have.Digest() == pins.Digest() {
		return nil
	}
	items, err := universe.Items(pins)
	if err != nil {
		return fmt.Errorf("fetch the boot loader: %w", err)
	}
	debs := make(map[string]string)
	for i, p := range pins.Packages {
		debs[p.Name] = src.fetcher.Cache.Path(items[i].SHA256)
	}
	if err := src.fetcher.Get(ctx, items, nil); err != nil {
		return fmt.Errorf("fetch the boot loader: %w", err)
	}
	for _, f := range loaderFiles {
		data, err := dpkg.ReadFile(debs[f.pkg], f.path)
		if err != nil {
			return fmt.Errorf("take the boot loader out of %s: %w", f.pkg, err)
		}
		if err := atomicfile.Write(filepath.Join(dir, filepath.Base(f.path)), data, 0o644); err != nil {
			return fmt.Errorf("install the boot loader: %w", err)
		}
	}
	return pins.Write(filepath.Join(dir, loaderLock))
}

// hostLoader takes the boot loader that this host has installed, for recipes whose archive does not offer one.
func (b *Builder) hostLoader(missing string) error {
	for _, f := range loaderFiles {
		data, err := os.ReadFile("/" + f.path)
		if err != nil {
			return fmt.Errorf("the recipe's archive offers no package %s, and this host has none installed (%w); install pxelinux and syslinux-common here", missing, err)
		}
		if err := atomicfile.Write(filepath.Join(b.Store.LoaderDir(), filepath.Base(f.path)), data, 0o644); err != nil {
			return fmt.Errorf("install the boot loader: %w", err)
		}
	}
	return nil
}
