package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/builder/need"
)

func TestTake(t *testing.T) {
	ctx := context.Background()
	f := &Fetcher{Cache: Cache{Dir: t.TempDir()}}
	path := filepath.Join(t.TempDir(), "x.iso")
	data := make([]byte, 5*takeChunk+77)
	rand.NewChaCha8([32]byte{1}).Read(data)
	write := func(b []byte) string {
		t.Helper()
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", sha256.Sum256(b))
	}
	for _, b := range [][]byte{data, data[:takeChunk], data[:1], {}} {
		want := write(b)
		sum, size, err := f.Take(ctx, path)
		if err != nil || sum != want || size != int64(len(b)) {
			t.Fatalf("%d bytes: %s, %d, %v", len(b), sum, size, err)
		}
		if kept, err := os.ReadFile(f.Cache.Path(sum)); err != nil || !bytes.Equal(kept, b) {
			t.Errorf("%d bytes: the cache has %d, %v", len(b), len(kept), err)
		}
	}
	// What becomes of the file is nothing to the cache, also when it is written over in place.
	want := write(data)
	os.WriteFile(path, []byte("other"), 0o644)
	if kept, err := os.ReadFile(f.Cache.Path(want)); err != nil || !bytes.Equal(kept, data) {
		t.Errorf("the cache's bytes changed with the file: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(f.Cache.Dir, "sha256/in/*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, _, err := f.Take(ctx, filepath.Dir(path)); err == nil {
		t.Error("a folder was taken")
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	write(data[:takeChunk+1])
	if _, _, err := f.Take(stopped, path); err == nil {
		t.Error("it goes on after the end")
	}
}

// A file that nobody touched is not read again; one that was touched is, whatever its time says.
func TestTakeRemembers(t *testing.T) {
	need.Patience(t)
	ctx := context.Background()
	f := &Fetcher{Cache: Cache{Dir: t.TempDir()}}
	path := filepath.Join(t.TempDir(), "x.iso")
	if err := os.WriteFile(path, []byte("first"), 0o644); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	remembers := func() bool {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		_, ok := f.remembered(identify(path, st))
		return ok
	}
	first, _, err := f.Take(ctx, path)
	if err != nil || remembers() {
		t.Fatalf("just written, and remembered (%v), %v", remembers(), err)
	}
	time.Sleep(2100 * time.Millisecond)
	if _, _, err := f.Take(ctx, path); err != nil || !remembers() {
		t.Fatalf("not remembered, %v", err)
	}
	if sum, size, err := f.Take(ctx, path); err != nil || sum != first || size != 5 {
		t.Errorf("%s, %d, %v", sum, size, err)
	}
	if err := os.WriteFile(path, []byte("other"), 0o644); err != nil { // as long, and made to look as old
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	if sum, _, err := f.Take(ctx, path); err != nil || sum == first {
		t.Errorf("the old sum of a new file: %s, %v", sum, err)
	}
	if err := f.Cache.Remove(first); err != nil || remembers() {
		t.Errorf("remembers what is not there any more: %v", err)
	}
}

func TestSize(t *testing.T) {
	data := strings.Repeat("x", 12345)
	for name, h := range map[string]http.HandlerFunc{
		"ranges": func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(data))
		},
		"no ranges": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "12345")
			fmt.Fprint(w, data)
		},
	} {
		s := httptest.NewServer(h)
		if n, err := (&Fetcher{}).Size(context.Background(), s.URL+"/x.iso"); err != nil || n != 12345 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		s.Close()
	}
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	if _, err := (&Fetcher{}).Size(context.Background(), s.URL+"/x.iso"); !NotFound(err) || !strings.Contains(err.Error(), "/x.iso") {
		t.Errorf("%v", err)
	}
}
