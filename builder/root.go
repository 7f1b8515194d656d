package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"netroot/builder/check"
	"netroot/builder/customize"
	"netroot/builder/dpkg"
	"netroot/builder/image"
	"netroot/builder/initramfs"
	"netroot/builder/lock"
	"netroot/builder/recipe"
	"netroot/builder/store"
)

// root assembles the root of a recipe from the packages of its source, checks it, and writes kernel, initramfs and image into
// the draft. It fills in of m what the generation must know about itself.
func (b *Builder) root(ctx context.Context, r *recipe.Recipe, pins *lock.Lock, src rootSource, draft *store.Draft, m *store.Manifest) ([]check.Finding, error) {
	root, err := src.assemble(ctx, r.Name, pins, draft.Scratch())
	if err != nil {
		return nil, err
	}
	session := root.session
	defer func() {
		session.Close()
		if root.release != nil {
			root.release()
		}
	}()
	// What is in /usr came with the packages, whenever they were put together.
	at := unix.NsecToTimespec(root.newest.UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(session.Tree(), "usr"), []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, fmt.Errorf("configure %s: %w", r.Name, err)
	}
	provided, err := customize.Apply(ctx, r, session, b.log())
	if err != nil {
		return nil, fmt.Errorf("customize %s: %w", r.Name, err)
	}
	if r.From.Apt != nil && len(r.Hooks) > 0 {
		if err := tidy(session.Tree()); err != nil {
			return nil, fmt.Errorf("customize %s: %w", r.Name, err)
		}
	}

	fsys := os.DirFS(session.Tree())
	findings := check.Run(fsys, check.Facts{Size: r.Root.Size, Kernel: r.Kernel.Version, Packages: pins.Installed(), Cmdline: r.Kernel.Cmdline, Notes: root.notes})
	for _, f := range findings {
		if f.Severity == check.Warning {
			b.log().Warn(f.Problem, "check", f.Check, "fix", f.Fix)
		}
	}
	if err := check.Fitness(r.Name, findings); err != nil {
		return findings, err
	}

	m.Arch, m.Cmdline, m.Writable, m.OverlaySize, m.Notes = pins.Arch, r.Kernel.Cmdline, r.Root.Writable, r.Root.Size, append(root.notes, provided...)
	b.Progress.Step("writing the initramfs and the image")
	var stats image.Stats
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		m.KernelRelease, err = b.kernelAndInitramfs(session.Tree(), r.Kernel.Version, draft.Dir())
		return err
	})
	g.Go(func() (err error) {
		stats, err = image.Write(ctx, filepath.Join(draft.Dir(), store.PartRoot), session.Tree(), image.Options{BuildTime: root.newest})
		return err
	})
	if err := g.Wait(); err != nil {
		return findings, err
	}
	m.Parts = map[string]store.Part{store.PartRoot: {Size: stats.Size, SHA256: stats.SHA256}}
	return findings, nil
}

// tidy takes away what packages that hooks installed left in a root of Debian packages.
func tidy(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return dpkg.Tidy(root)
}

// kernelAndInitramfs copies the root's kernel into dir and writes the initramfs beside it.
func (b *Builder) kernelAndInitramfs(root, version, dir string) (release string, err error) {
	fsys := os.DirFS(root)
	kernel, release, err := initramfs.Kernel(fsys, version)
	if err != nil {
		return "", err
	}
	if err := copyFile(filepath.Join(root, kernel), filepath.Join(dir, store.PartKernel)); err != nil {
		return "", fmt.Errorf("copy the kernel: %w", err)
	}
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

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
