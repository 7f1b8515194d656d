package builder

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"netroot/builder/chroot"
	"netroot/builder/copytree"
	"netroot/builder/customize"
	"netroot/builder/lock"
	"netroot/builder/recipe"
	"netroot/builder/tree"
)

// copyName is the one package in the lock of a copy: what it holds is pinned as a whole.
const copyName = lock.RepoCopy

// A copySource takes a root from an installed system.
type copySource struct {
	b    *Builder
	rec  *recipe.Recipe
	copy copytree.Copy

	report copytree.Report // of the update that this build made
}

func (b *Builder) copySource(r *recipe.Recipe) *copySource {
	from := r.From.Copy
	return &copySource{b: b, rec: r, copy: copytree.Copy{
		From: from.From, FileSystems: from.FileSystems, Exclude: from.Exclude, SSHConfig: from.SSHConfig, SSHOptions: from.SSHOptions,
		Dir:   filepath.Join(b.Store.CacheDir(), "copies", copytree.Folder(r.Name, from.From)),
		Avoid: []string{b.Store.Dir()}, Progress: b.Progress, Log: b.log(),
	}}
}

// resolve brings the copy up to date and pins it: what a copy is made of is known when it has been read.
func (s *copySource) resolve(ctx context.Context) (*lock.Lock, error) {
	report, err := s.copy.Update(ctx)
	if err != nil {
		return nil, err
	}
	s.report = report
	t, err := s.copy.Hold(ctx)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return &lock.Lock{Arch: debianArch[s.rec.Arch], Packages: []lock.Package{{
		Name: copyName, Version: t.Digest[:12], Arch: debianArch[s.rec.Arch], Repo: lock.RepoCopy, Path: ".", Size: t.Size, SHA256: t.Digest,
	}}}, nil
}

// fetch makes sure that the cache holds what is pinned. When it does, the original is not asked; when it does not, the copy
// is brought up to date, for the original may be as it was.
func (s *copySource) fetch(ctx context.Context, pins *lock.Lock) error {
	t, err := s.holdPinned(ctx, pins)
	if err == nil {
		return t.Close()
	}
	if changed := (*changedError)(nil); !errors.As(err, &changed) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.report, err = s.copy.Update(ctx); err != nil {
		return err
	}
	if t, err = s.holdPinned(ctx, pins); err != nil {
		return err
	}
	return t.Close()
}

// A changedError says that a copy is not the one that is pinned.
type changedError struct{ from, have, want string }

func (e *changedError) Error() string {
	return fmt.Sprintf("%s has changed since it was locked: its files have the digest %s, in the lock stands %s; build without --locked, or pin it as it is now with netroot lock",
		e.from, e.have, e.want)
}

// holdPinned opens the copy, which must be the pinned one.
func (s *copySource) holdPinned(ctx context.Context, pins *lock.Lock) (*copytree.Tree, error) {
	if len(pins.Packages) != 1 || pins.Packages[0].Name != copyName {
		return nil, errors.New("the lock is not that of a copy: write it again with netroot lock")
	}
	t, err := s.copy.Hold(ctx)
	if err != nil {
		return nil, err
	}
	if want := pins.Packages[0].SHA256; t.Digest != want {
		t.Close()
		return nil, &changedError{s.copy.From, t.Digest[:12], want[:12]}
	}
	return t, nil
}

// assemble lays a session over the copy, which stays as it is, and makes it one that lives without a disk.
func (s *copySource) assemble(ctx context.Context, name string, pins *lock.Lock, scratch string) (_ *root, err error) {
	t, err := s.holdPinned(ctx, pins)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if err := rightArch(os.DirFS(t.Root), pins.Arch); err != nil {
		return nil, err
	}
	session, err := chroot.Open(ctx, chroot.Config{Lower: t.Root, Work: filepath.Join(scratch, "changes"), Arch: pins.Arch, Hostname: name, Log: s.b.log()})
	if err != nil {
		return nil, err
	}
	changes, err := customize.Copied(s.rec, session)
	if err != nil {
		session.Close()
		return nil, fmt.Errorf("make the copy diskless: %w", err)
	}
	notes := append(s.report.Notes, changes...)
	for _, note := range notes {
		s.b.log().Info(note)
	}
	return &root{session: session, newest: time.Unix(t.Newest, 0).UTC(), notes: notes, release: func() { t.Close() }}, nil
}

// elfArch is Debian's word for what an ELF file runs on.
var elfArch = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_386: "i386", elf.EM_AARCH64: "arm64"}

// rightArch tells from its shell whether a root is for the processor that the recipe names.
func rightArch(root fs.FS, want string) error {
	program, err := tree.ReadFile(root, "/bin/sh")
	if err != nil {
		return fmt.Errorf("the copied system has no shell: %w", err)
	}
	head, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("the copied system's shell is no program: %w", err)
	}
	if have := elfArch[head.Machine]; have != want {
		return fmt.Errorf("the copied system is for %s, and the recipe says %s: correct arch: in the recipe", recipeArch(head.Machine), recipeArchOf(want))
	}
	return nil
}

// recipeArch is the recipe's word for a machine of ELF.
func recipeArch(m elf.Machine) string {
	if word := recipeArchOf(elfArch[m]); word != "" {
		return word
	}
	return m.String()
}

func recipeArchOf(debian string) string {
	for word, d := range debianArch {
		if d == debian {
			return word
		}
	}
	return ""
}
