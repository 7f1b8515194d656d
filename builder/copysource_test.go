package builder

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netroot/builder/lock"
	"netroot/builder/need"
	"netroot/builder/recipe"
	"netroot/builder/store"
)

// copyFixture is a small system in a folder, and the source that copies it.
func copyFixture(t *testing.T) (folder string, src *copySource) {
	t.Helper()
	need.Root(t)
	dir := t.TempDir()
	folder = filepath.Join(dir, "old")
	for name, text := range map[string]string{"etc/hostname": "old\n", "usr/share/x": "x\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "twin.yaml")
	if err := os.WriteFile(file, []byte("name: twin\narch: amd64\nfrom: {copy: old}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := recipe.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	return folder, (&Builder{Store: s}).copySource(r)
}

// A lock pins the files of a copy as a whole: they come out of the cache as long as it has them, and from an original that
// has changed they do not come.
func TestCopyLock(t *testing.T) {
	folder, src := copyFixture(t)
	ctx := t.Context()
	pins, err := src.resolve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "twin.lock")
	if err := pins.Write(file); err != nil {
		t.Fatal(err)
	}
	if pins, err = lock.Read(file); err != nil {
		t.Fatal(err)
	}
	if installed := pins.Installed(); len(installed) > 0 {
		t.Errorf("the lock lists packages: %v", installed)
	}
	if data, err := os.ReadFile(file); err != nil || strings.Contains(string(data), folder) {
		t.Errorf("the lock names the folder: %s, %v", data, err)
	}
	name := filepath.Join(folder, "etc/hostname")
	old, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("new\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := src.fetch(ctx, pins); err != nil {
		t.Errorf("what is locked is in the cache: %v", err)
	}
	newer, err := src.resolve(ctx)
	if err != nil || newer.Digest() == pins.Digest() {
		t.Fatalf("after a change the lock is the same, %v", err)
	}
	changed := (*changedError)(nil)
	if err := src.fetch(ctx, pins); !errors.As(err, &changed) || !strings.Contains(err.Error(), "netroot lock") {
		t.Errorf("of an original that has changed: %v", err)
	}
	// As it was, to the time of the file.
	if err := os.WriteFile(name, []byte("old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, old.ModTime(), old.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := src.fetch(ctx, pins); err != nil {
		t.Errorf("of an original that is as it was again: %v", err)
	}
	if err := src.fetch(ctx, &lock.Lock{Packages: []lock.Package{{Name: "bash"}, {Name: "vim"}}}); err == nil || !strings.Contains(err.Error(), "not that of a copy") {
		t.Errorf("the lock of another source: %v", err)
	}
}

// A recipe that names the wrong processor is told so before anything of the copy runs.
func TestCopyArch(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	program, err := os.ReadFile(sh)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := rightArch(os.DirFS(root), "amd64"); err == nil || !strings.Contains(err.Error(), "no shell") {
		t.Errorf("without a shell: %v", err)
	}
	if err := unix.Mkfifo(filepath.Join(root, "bin/sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := rightArch(os.DirFS(root), "amd64"); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a pipe for a shell: %v", err)
	}
	if err := os.Remove(filepath.Join(root, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/sh"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprint(rightArch(os.DirFS(root), "amd64"), rightArch(os.DirFS(root), "i386"))
	if want := "the copied system is for "; strings.Count(head, want) != 1 || !strings.Contains(head, "correct arch:") {
		t.Errorf("%s", head)
	}
}
