package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"netroot/builder/atomicfile"
	"netroot/builder/check"
	"netroot/builder/chroot"
	"netroot/builder/customize"
	"netroot/builder/dpkg"
	"netroot/builder/image"
	"netroot/builder/initramfs"
	"netroot/builder/lock"
	"netroot/builder/recipe"
	"netroot/builder/store"
)

// inputsDigest is what an image is a function of: the recipe, the packages, and how this program builds.
func inputsDigest(r *recipe.Recipe, pins *lock.Lock) string {
	sum := sha256.Sum256([]byte(buildVersion + "\n" + r.Digest() + "\n" + pins.Digest() + "\n"))
	return hex.EncodeToString(sum[:])
}

// newest returns the newest generation of an image that can be read.
func (b *Builder) newest(image string) (store.Generation, bool, error) {
	images, err := b.Store.Images()
	if err != nil {
		return store.Generation{}, false, err
	}
	for _, name := range images {
		if name != image {
			continue
		}
		generations, err := b.Store.Generations(image)
		if err != nil {
			return store.Generation{}, false, err
		}
		newest := generations[len(generations)-1]
		return newest, newest.Err == nil, nil
	}
	return store.Generation{}, false, nil
}

// root assembles the root of a recipe from unpacked packages, checks it, and writes kernel, initramfs and image into
// the draft. It fills in of m what the generation must know about itself.
func (b *Builder) root(ctx context.Context, r *recipe.Recipe, pins *lock.Lock, draft *store.Draft, m *store.Manifest) ([]check.Finding, error) {
	lower := filepath.Join(draft.Scratch(), "root")
	if err := os.Mkdir(lower, 0o755); err != nil {
		return nil, fmt.Errorf("assemble %s: %w", r.Name, err)
	}
	b.Progress.Step("assembling %d packages", len(pins.Packages))
	if err := dpkg.Assemble(ctx, pins.Packages, b.unpacked(), lower, pins.Arch); err != nil {
		return nil, fmt.Errorf("assemble %s: %w", r.Name, err)
	}
	session, err := chroot.Open(ctx, chroot.Config{Lower: lower, Work: draft.Scratch(), Arch: pins.Arch, Hostname: r.Name, Log: b.log()})
	if err != nil {
		return nil, fmt.Errorf("enter the root of %s: %w", r.Name, err)
	}
	defer session.Close()
	b.Progress.Step("configuring")
	if err := dpkg.Configure(ctx, session, b.log()); err != nil {
		return nil, fmt.Errorf("configure %s: %w", r.Name, err)
	}
	if err := customize.Apply(ctx, r, session, b.log()); err != nil {
		return nil, fmt.Errorf("customize %s: %w", r.Name, err)
	}

	fsys := os.DirFS(session.Root())
	findings := check.Run(fsys)
	for _, f := range findings {
		if f.Severity == check.Warning {
			b.log().Warn(f.Problem, "check", f.Check, "fix", f.Fix)
		}
	}
	if err := check.Fitness(r.Name, findings); err != nil {
		return findings, err
	}

	m.Arch, m.Cmdline, m.Writable, m.OverlaySize = pins.Arch, r.Kernel.Cmdline, r.Root.Writable, r.Root.Size
	if m.KernelRelease, err = b.kernelAndInitramfs(session.Root(), draft.Dir()); err != nil {
		return findings, err
	}
	b.Progress.Step("writing the image")
	stats, err := image.Write(ctx, filepath.Join(draft.Dir(), store.PartRoot), session.Root(), image.Options{Exclude: session.Mounts()})
	if err != nil {
		return findings, err
	}
	m.Parts = map[string]store.Part{store.PartRoot: {Size: stats.Bytes, SHA256: stats.SHA256}}
	b.log().Debug("image written", "files", stats.Files, "bytes", stats.Bytes)
	return findings, nil
}

// kernelAndInitramfs copies the root's kernel into dir and writes the initramfs beside it.
func (b *Builder) kernelAndInitramfs(root, dir string) (release string, err error) {
	fsys := os.DirFS(root)
	kernel, release, err := initramfs.Kernel(fsys, "")
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(root, kernel))
	if err != nil {
		return "", fmt.Errorf("copy the kernel: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, store.PartKernel), data, 0o640); err != nil {
		return "", fmt.Errorf("copy the kernel: %w", err)
	}
	b.Progress.Step("writing the initramfs for kernel %s", release)
	out, err := os.OpenFile(filepath.Join(dir, store.PartInitramfs), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return "", fmt.Errorf("write the initramfs: %w", err)
	}
	defer out.Close()
	if _, err := initramfs.Write(out, initramfs.Options{Root: fsys, Release: release, Log: b.log()}); err != nil {
		return "", fmt.Errorf("write the initramfs: %w", err)
	}
	return release, out.Close()
}

// loaderFiles are what a BIOS machine is sent before its kernel, and the package that each is in.
var loaderFiles = []struct{ pkg, path string }{
	{"pxelinux", "usr/lib/PXELINUX/pxelinux.0"},
	{"syslinux-common", "usr/lib/syslinux/modules/bios/ldlinux.c32"},
	{"syslinux-common", "usr/lib/syslinux/modules/bios/libcom32.c32"},
	{"syslinux-common", "usr/lib/syslinux/modules/bios/libutil.c32"},
	{"syslinux-common", "usr/lib/syslinux/modules/bios/menu.c32"},
}

// installLoader puts the boot loader files of the packages at debs (package name to .deb) into the store.
func (b *Builder) installLoader(debs map[string]string) error {
	for _, f := range loaderFiles {
		data, err := dpkg.ReadFile(debs[f.pkg], f.path)
		if err != nil {
			return fmt.Errorf("take the boot loader out of %s: %w", f.pkg, err)
		}
		if err := atomicfile.Write(filepath.Join(b.Store.LoaderDir(), filepath.Base(f.path)), data, 0o644); err != nil {
			return fmt.Errorf("install the boot loader: %w", err)
		}
	}
	return nil
}

func (b *Builder) log() *slog.Logger {
	if b.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return b.Log
}
