package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"netroot/builder/need"
)

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func blob(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// serve runs a server of one handler and returns a fetcher with short pauses and the URL.
func serve(t *testing.T, h http.HandlerFunc) (*Fetcher, string) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &Fetcher{Cache: Cache{t.TempDir()}, Pause: time.Millisecond, Attempts: 4}, srv.URL
}

// content serves data as a real server would: with ranges, and 304.
func content(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x.deb", time.Unix(1e9, 0), bytes.NewReader(data))
	}
}

// wantFile asserts that the cache holds exactly data under its digest, and nothing else of any kind.
func wantFile(t *testing.T, f *Fetcher, data []byte) {
	t.Helper()
	got, err := os.ReadFile(f.Cache.Path(sumOf(data)))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("cache: %d bytes, %v; want %d bytes", len(got), err, len(data))
	}
	wantFiles(t, f, 1)
}

func wantFiles(t *testing.T, f *Fetcher, n int) {
	t.Helper()
	var names []string
	filepath.WalkDir(f.Cache.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, filepath.Base(path))
		}
		return nil
	})
	if len(names) != n {
		t.Errorf("cache holds %v, want %d files", names, n)
	}
}

func TestManyInParallel(t *testing.T) {
	const n = 60
	blobs := make(map[string][]byte)
	items := make([]Item, n)
	for i := range items {
		data := blob(uint64(i), 1000*i)
		blobs[fmt.Sprintf("/pool/%d.deb", i)] = data
		items[i] = Item{Name: fmt.Sprint("p", i), Size: int64(len(data)), Sum: sumOf(data)}
	}
	var connections atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Millisecond)
		content(blobs[r.URL.Path])(w, r)
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	for i := range items {
		items[i].URL = fmt.Sprintf("%s/pool/%d.deb", srv.URL, i)
	}
	f := &Fetcher{Cache: Cache{t.TempDir()}, Jobs: 4}
	for range 2 { // the second time everything is there
		var mu sync.Mutex
		seen := make(map[int]bool)
		err := f.Get(t.Context(), items, func(i int, path string) error {
			data, err := os.ReadFile(path)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || sumOf(data) != items[i].Sum || seen[i] {
				t.Errorf("done(%d): %v, again %v", i, err, seen[i])
			}
			seen[i] = true
			return err
		})
		if err != nil || len(seen) != n {
			t.Fatalf("%d of %d done: %v", len(seen), n, err)
		}
		srv.Close()
	}
	if n := connections.Load(); n > 4 {
		t.Errorf("%d connections for 4 jobs: they are not kept alive", n)
	}
}

func TestWrongBytes(t *testing.T) {
	data := blob(1, 5000)
	changed := bytes.Clone(data)
	changed[4000] ^= 1
	other := sumOf(changed)
	for name, c := range map[string]struct {
		serve []byte
		want  string
	}{
		"changed": {changed, "SHA-256 " + other + " instead of " + sumOf(data)},
		"short":   {data[:4990], "size 4990 instead of 5000"},
		"long":    {append(bytes.Clone(data), 'x'), "size more than 5000"},
		"empty":   {nil, "size 0 instead of 5000"},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			f, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				content(c.serve)(w, r)
			})
			err := f.Get(t.Context(), []Item{{Name: "coreutils", URL: url + "/pool/coreutils.deb", Size: 5000, Sum: sumOf(data)}}, func(int, string) error {
				t.Error("done was called")
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "coreutils from "+url+"/pool/coreutils.deb") {
				t.Errorf("error %v lacks %q", err, c.want)
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests; wrong bytes must not be asked for again", n)
			}
			wantFiles(t, f, 0)
		})
	}
}

// A connection that breaks in the middle is taken up again with a Range request.
func TestResumeAfterBreak(t *testing.T) {
	data := blob(2, 300_000)
	var ranges []string
	f, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) < 3 {
			w = &breaking{ResponseWriter: w, left: 100_000}
		}
		content(data)(w, r)
	})
	if err := f.Get(t.Context(), []Item{{Name: "x", URL: url, Size: int64(len(data)), Sum: sumOf(data)}}, nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, f, data)
	if len(ranges) != 3 || ranges[0] != "" || ranges[1] == "" || ranges[2] == "" {
		t.Errorf("ranges asked for: %q", ranges)
	}
}

// breaking closes the connection after so many bytes.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	n, err := b.ResponseWriter.Write(p[:min(len(p), b.left)])
	b.left -= n
	if b.left == 0 {
		b.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// What an earlier run left is used when it is right, and thrown away when it is not.
func TestOldPart(t *testing.T) {
	data := blob(3, 200_000)
	bad := bytes.Clone(data)
	bad[10] ^= 1
	for name, c := range map[string]struct {
		part     []byte
		noRanges bool
		requests []string // the Range of each
	}{
		"good start":      {part: data[:150_000], requests: []string{"bytes=150000-"}},
		"whole":           {part: data, requests: nil},
		"bad start":       {part: bad[:150_000], requests: []string{"bytes=150000-", ""}},
		"whole but bad":   {part: bad, requests: []string{""}},
		"too long":        {part: append(bytes.Clone(data), 1), requests: []string{""}},
		"server sans 206": {part: data[:150_000], noRanges: true, requests: []string{"bytes=150000-"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			f, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = append(got, r.Header.Get("Range"))
				if c.noRanges {
					w.Write(data)
					return
				}
				content(data)(w, r)
			})
			path := f.Cache.Path(sumOf(data))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path+".part", c.part, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := f.Get(t.Context(), []Item{{Name: "x", URL: url, Size: int64(len(data)), Sum: sumOf(data)}}, nil); err != nil {
				t.Fatal(err)
			}
			wantFile(t, f, data)
			if fmt.Sprint(got) != fmt.Sprint(c.requests) {
				t.Errorf("requests with ranges %q, want %q", got, c.requests)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	data := blob(4, 1000)
	var n atomic.Int64
	f, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		switch {
		case r.URL.Path == "/gone":
			http.NotFound(w, r)
		case r.URL.Path == "/busy", n.Load() < 3:
			http.Error(w, "busy", http.StatusServiceUnavailable)
		default:
			content(data)(w, r)
		}
	})
	item := Item{Name: "x", URL: url + "/x", Size: 1000, Sum: sumOf(data)}
	if err := f.Get(t.Context(), []Item{item}, nil); err != nil || n.Load() != 3 {
		t.Errorf("503, 503, 200: %v after %d requests", err, n.Load())
	}
	wantFile(t, f, data)
	f.Cache = Cache{t.TempDir()}
	n.Store(0)
	item.URL = url + "/gone"
	err := f.Get(t.Context(), []Item{item}, nil)
	if !NotFound(err) || n.Load() != 1 || !strings.Contains(err.Error(), "fetch x from "+url+"/gone: the server answered 404") {
		t.Errorf("404: %v after %d requests", err, n.Load())
	}
	n.Store(0)
	item.URL = url + "/busy"
	err = f.Get(t.Context(), []Item{item}, nil)
	if err == nil || NotFound(err) || n.Load() != 4 || !strings.Contains(err.Error(), "tried 4 times: the server answered 503") {
		t.Errorf("503 for ever: %v after %d requests", err, n.Load())
	}
}

// A server that falls silent, before its headers or in the middle, is given up and asked again.
func TestStall(t *testing.T) {
	data := blob(5, 100_000)
	for _, when := range []string{"header", "body"} {
		t.Run(when, func(t *testing.T) {
			var n atomic.Int64
			f, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1) > 1 {
					content(data)(w, r)
					return
				}
				if when == "body" {
					w.Header().Set("Content-Length", strconv.Itoa(len(data)))
					w.Write(data[:50_000])
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			})
			f.Stall = 50 * time.Millisecond
			if err := f.Get(t.Context(), []Item{{Name: "x", URL: url, Size: int64(len(data)), Sum: sumOf(data)}}, nil); err != nil {
				t.Fatal(err)
			}
			wantFile(t, f, data)
			f.Cache, f.Attempts = Cache{t.TempDir()}, 1
			n.Store(0)
			err := f.Get(t.Context(), []Item{{Name: "x", URL: url, Size: int64(len(data)), Sum: sumOf(data)}}, nil)
			if err == nil || !strings.Contains(err.Error(), "the server sent nothing for 50ms") {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// A server that is slow but never silent is not given up.
func TestSlowIsNotStalled(t *testing.T) {
	data := blob(6, 10)
	f, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for _, b := range data {
			w.Write([]byte{b})
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	f.Stall = 100 * time.Millisecond
	if err := f.Get(t.Context(), []Item{{Name: "x", URL: url, Size: 10, Sum: sumOf(data)}}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestCancelLeavesOnlyAPart(t *testing.T) {
	data := blob(7, 100_000)
	ctx, cancel := context.WithCancel(t.Context())
	f, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			content(data)(w, r)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data[:50_000])
		w.(http.Flusher).Flush()
		time.Sleep(20 * time.Millisecond)
		cancel()
		<-r.Context().Done()
	})
	item := Item{Name: "x", URL: url, Size: int64(len(data)), Sum: sumOf(data)}
	if err := f.Get(ctx, []Item{item}, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	if f.Cache.Has(item.Sum) {
		t.Error("an unfinished file has its final name")
	}
	if info, err := os.Stat(f.Cache.Path(item.Sum) + ".part"); err != nil || info.Size() != 50_000 {
		t.Errorf("part: %v, %v", info, err)
	}
	if err := f.Get(t.Context(), []Item{item}, nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, f, data)
}

func TestErrorOfDoneEndsAll(t *testing.T) {
	data := blob(8, 10)
	f, url := serve(t, content(data))
	boom := errors.New("unpack failed")
	items := []Item{{Name: "x", URL: url, Size: 10, Sum: sumOf(data)}}
	for range 2 {
		if err := f.Get(t.Context(), items, func(int, string) error { return boom }); !errors.Is(err, boom) {
			t.Errorf("error is %v", err)
		}
	}
}

// Two programs that want the same file share one download's result and do not write into each other's file.
func TestTwoAtOnce(t *testing.T) {
	data := blob(9, 500_000)
	f, url := serve(t, content(data))
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			g := &Fetcher{Cache: f.Cache}
			x := Item{Name: "x", URL: url, Size: int64(len(data)), Sum: sumOf(data)}
			if err := g.Get(t.Context(), []Item{x, x}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantFile(t, f, data)
}

func TestDamagedBlobIsFetchedAgain(t *testing.T) {
	data := blob(10, 1000)
	f, url := serve(t, content(data))
	items := []Item{{Name: "x", URL: url, Size: 1000, Sum: sumOf(data)}}
	if err := f.Get(t.Context(), items, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f.Cache.Path(items[0].Sum), 10); err != nil {
		t.Fatal(err)
	}
	if err := f.Get(t.Context(), items, nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, f, data)
}

func TestFileURL(t *testing.T) {
	data := blob(11, 1000)
	path := filepath.Join(t.TempDir(), "a b+c.deb")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f := &Fetcher{Cache: Cache{t.TempDir()}}
	if err := f.Get(t.Context(), []Item{{Name: "x", URL: "file://" + strings.ReplaceAll(path, " ", "%20"), Size: 1000, Sum: sumOf(data)}}, nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, f, data)
	f.Cache = Cache{t.TempDir()}
	for url, want := range map[string]string{
		"file:///nowhere/x.deb":        "no such file",
		"file://" + filepath.Dir(path): "not a regular file",
		"file://elsewhere/x.deb":       "with host",
		"ftp://elsewhere/x.deb":        `not "ftp"`,
		":":                            "only http:, https: and file:",
	} {
		if err := f.Get(t.Context(), []Item{{Name: "x", URL: url, Size: 1000, Sum: sumOf(data)}}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v lacks %q", url, err, want)
		}
	}
}

func TestNothingToVerifyWith(t *testing.T) {
	f := &Fetcher{Cache: Cache{t.TempDir()}}
	for _, sum := range []string{"", "abc", strings.Repeat("g", 64), "../../etc/passwd", strings.Repeat("A", 64)} {
		if err := f.Get(t.Context(), []Item{{Name: "x", URL: "http://127.0.0.1:1/", Size: 1, Sum: sum}}, nil); err == nil || !strings.Contains(err.Error(), "no checksum") {
			t.Errorf("%q: %v", sum, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for url, want := range map[string]string{
		"http://me:secret@host/x": "http://me:xxxxx@host/x", "HTTPS://:secret@host/x": "https://:xxxxx@host/x", "https://secret@host/x": "https://xxxxx@host/x", "https://secret:@host/x": "https://xxxxx@host/x",
		"http://me:sec/ret@host/x": "a URL that cannot be read", "http://host/linux@6.1": "http://host/linux@6.1",
	} {
		if got := Redact(url); got != want {
			t.Errorf("%s became %s, not %s", url, got, want)
		}
	}
}

// The pauses grow, and Retry-After is heeded.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &Fetcher{Attempts: 4}
		start := time.Now()
		err := f.retry(t.Context(), "x", func() error { return errors.New("connection refused") })
		if took := time.Since(start); err == nil || took != 500*time.Millisecond+time.Second+2*time.Second {
			t.Errorf("gave up after %s: %v", took, err)
		}
		start = time.Now()
		n := 0
		err = f.retry(t.Context(), "x", func() error {
			if n++; n == 1 {
				return &StatusError{Code: 503, after: 7 * time.Second}
			}
			return nil
		})
		if took := time.Since(start); err != nil || took != 7*time.Second {
			t.Errorf("waited %s: %v", took, err)
		}
	})
}

// A disk that is full: the error says so, and the part is removed, which gives the space back.
func TestFullDisk(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		need.Missing(t, "mount a tmpfs: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	data := blob(12, 1<<20)
	f, url := serve(t, content(data))
	f.Cache = Cache{dir}
	err := f.Get(t.Context(), []Item{{Name: "x", URL: url, Size: 1 << 20, Sum: sumOf(data)}}, nil)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "fetch x from") {
		t.Errorf("error is %v", err)
	}
	wantFiles(t, f, 0)
}

func TestDocument(t *testing.T) {
	text := []byte("Origin: Debian\n")
	var statuses []int
	f, url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w, status: 200}
		content(text)(rec, r)
		statuses = append(statuses, rec.status)
	})
	get := func() {
		t.Helper()
		got, err := f.Document(t.Context(), url+"/InRelease", 100)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	get()
	get() // not modified
	path := f.documentPath(url + "/InRelease")
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, kept[:len(kept)-3], 0o644); err != nil { // a damaged copy is not used
		t.Fatal(err)
	}
	get()
	if fmt.Sprint(statuses) != "[200 304 200]" {
		t.Errorf("statuses %v", statuses)
	}
	if _, err := f.Document(t.Context(), url+"/other", 5); err == nil || !strings.Contains(err.Error(), "size more than 5") {
		t.Errorf("too long: %v", err)
	}
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// TestMirrors takes a file from the only one of several servers that has it; the one that does not answer is asked once, not for each file.
func TestMirrors(t *testing.T) {
	right := map[string][]byte{"/a": blob(1, 5000), "/b": blob(2, 3000), "/c": blob(3, 100)}
	var broken, gone, lying atomic.Int64
	server := func(h http.HandlerFunc) string {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	servers := []string{
		server(func(w http.ResponseWriter, r *http.Request) { broken.Add(1); panic(http.ErrAbortHandler) }),
		server(func(w http.ResponseWriter, r *http.Request) { gone.Add(1); http.NotFound(w, r) }),
		server(func(w http.ResponseWriter, r *http.Request) { lying.Add(1); content(make([]byte, 5000))(w, r) }),
		server(func(w http.ResponseWriter, r *http.Request) { content(right[r.URL.Path])(w, r) }),
	}
	item := func(path string, servers ...string) Item {
		it := Item{Name: path[1:], Size: int64(len(right[path])), Sum: sumOf(right[path])}
		for _, s := range servers {
			it.Also = append(it.Also, s+path)
		}
		it.URL, it.Also = it.Also[0], it.Also[1:]
		return it
	}
	f := &Fetcher{Cache: Cache{t.TempDir()}, Pause: time.Millisecond, Jobs: 1}
	if err := f.Get(t.Context(), []Item{item("/a", servers...), item("/b", servers...), item("/c", servers...)}, nil); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, f, 3)
	if broken.Load() != 1 || gone.Load() != 3 || lying.Load() != 3 {
		t.Errorf("asked the broken server %d times, the one without it %d, the lying one %d", broken.Load(), gone.Load(), lying.Load())
	}

	f = &Fetcher{Cache: Cache{t.TempDir()}, Pause: time.Millisecond}
	err := f.Get(t.Context(), []Item{item("/a", servers[1], servers[2])}, nil)
	if err == nil || !NotFound(err) || !Mismatch(err) || !strings.Contains(err.Error(), "fetch a from any of 2 servers") || !strings.Contains(err.Error(), servers[2]) {
		t.Errorf("from nowhere: %v", err)
	}

	// One that is busy is worth a second look even if another has nothing.
	var asked atomic.Int64
	busy := server(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		content(right[r.URL.Path])(w, r)
	})
	if err := f.Get(t.Context(), []Item{item("/a", busy, servers[1])}, nil); err != nil {
		t.Error(err)
	}
}
