package boot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"netroot/builder/image"
	"netroot/builder/need"
	"netroot/builder/store"
)

// publish makes a generation of an image whose root holds one file.
func publish(t *testing.T, s *store.Store, name, content string) store.Generation {
	t.Helper()
	return publishFile(t, s, name, "file", content)
}

func publishFile(t *testing.T, s *store.Store, name, file, content string) store.Generation {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, filepath.Dir(file)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, file), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := s.Begin(name)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Abort()
	if _, err := image.Write(context.Background(), filepath.Join(d.Dir(), store.PartRoot), root, image.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{store.PartKernel, store.PartInitramfs} {
		if err := os.WriteFile(filepath.Join(d.Dir(), part), []byte(part), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g, err := d.Publish(store.Manifest{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Machines of an image that is open do not wait for a disk that another one is opened on.
func TestSlowImage(t *testing.T) {
	s := openStore(t)
	publish(t, s, "fast", "fast")
	root := publish(t, s, "slow", "slow").Path(store.PartRoot)
	if err := errors.Join(os.Rename(root, root+".true"), syscall.Mkfifo(root, 0o644)); err != nil { // whoever opens it waits
		t.Fatal(err)
	}
	e := &exports{store: s}
	id, _, err := e.Open("/fast")
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan error)
	go func() {
		_, _, err := e.Open("/slow")
		opened <- err
	}()
	for e.opening.TryLock() { // until it waits there
		e.opening.Unlock()
		time.Sleep(time.Millisecond)
	}
	mine := make(chan error, 1)
	go func() {
		_, err := e.ByID(id)
		mine <- err
	}()
	select {
	case err := <-mine:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("waits for another image")
	}
	pipe, err := os.OpenFile(root, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if err := <-opened; err == nil {
		t.Error("a pipe is an image")
	}
}

func TestExports(t *testing.T) {
	s := openStore(t)
	publish(t, s, "debian-12", "old")
	publish(t, s, "debian-12", "new")
	publish(t, s, "other", "else")
	e := &exports{store: s}

	want := []string{"/debian-12", "/other", "/debian-12@1", "/debian-12@2", "/other@1"}
	if got := e.List(); !slices.Equal(got, want) {
		t.Errorf("List() = %v, want %v", got, want)
	}
	current, _, err := e.Open("/debian-12")
	if err != nil {
		t.Fatal(err)
	}
	pinned, _, err := e.Open("debian-12@2")
	if err != nil || pinned != current {
		t.Errorf("the current generation has the ID %x, generation 2 has %x: %v", current, pinned, err)
	}
	old, img, err := e.Open("/debian-12@1")
	if err != nil || old == current {
		t.Errorf("generation 1 has the ID %x, as generation 2: %v", old, err)
	}
	if data, err := fs.ReadFile(img.FS(), "file"); err != nil || string(data) != "old" {
		t.Errorf("generation 1 holds %q: %v", data, err)
	}
	for _, path := range []string{"/debian-13", "/debian-12@9", "/debian-12/usr", "/", "/../x", "/debian-12@x"} {
		if _, _, err := e.Open(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q) = %v, want an error that wraps fs.ErrNotExist", path, err)
		}
	}
}

// A server that was started again finds the images of the handles that machines still hold, and does not call an image
// gone only because it looked for another one a moment ago.
func TestExportsAfterRestart(t *testing.T) {
	need.Patience(t)
	s := openStore(t)
	a, b := publish(t, s, "a", "a"), publish(t, s, "b", "b")
	idA, err := imageID(a)
	if err != nil {
		t.Fatal(err)
	}
	idB, err := imageID(b)
	if err != nil {
		t.Fatal(err)
	}
	e := &exports{store: s}
	// All machines that run ask at once, of whatever images they are. Nobody has to ask again.
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if _, err := e.ByID([][16]byte{idA, idB}[i%2]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	idC, err := imageID(publish(t, s, "c", "c"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.ByID(idC); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("within the rescan interval: %v, want an error that does not wrap fs.ErrNotExist", err)
	}
	time.Sleep(rescanInterval)
	if _, err := e.ByID(idC); err != nil {
		t.Error(err)
	}
	time.Sleep(rescanInterval)
	if _, err := e.ByID([16]byte{1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an image that is nowhere: %v, want an error that wraps fs.ErrNotExist", err)
	}
}

// gc leaves what the server has open.
func TestExportsAreHeld(t *testing.T) {
	s := openStore(t)
	publish(t, s, "a", "1")
	publish(t, s, "a", "2")
	publish(t, s, "a", "3")
	e := &exports{store: s}
	if _, _, err := e.Open("/a@1"); err != nil {
		t.Fatal(err)
	}
	removed, err := s.GC("a", 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(removed) != 1 || removed[0].Number != 2 {
		t.Errorf("gc removed %v, want generation 2 alone", removed)
	}
	if _, _, err := e.Open("/a@1"); err != nil {
		t.Error(err)
	}
}
