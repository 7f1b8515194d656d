package httpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"netroot/builder/need"
)

type events struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (e *events) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.b.Write(p)
}

func (e *events) wait(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		e.mu.Lock()
		said := e.b.String()
		e.mu.Unlock()
		if strings.Contains(said, want) {
			return
		}
		if time.Now().After(end) {
			t.Errorf("no event %s in:\n%s", want, said)
			return
		}
	}
}

// serve starts a server for fsys on loopback.
func serve(t testing.TB, fsys fs.FS) (addr string, said *events) {
	t.Helper()
	return serveHandler(t, &Handler{}, fsys)
}

func serveHandler(t testing.TB, h *Handler, fsys fs.FS) (addr string, said *events) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	said = &events{}
	h.Log = slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.FS = func(client, local netip.Addr) fs.FS {
		if client.String() != "127.0.0.1" || local.String() != "127.0.0.1" {
			t.Errorf("asked for the tree of %v at %v", client, local)
		}
		return fsys
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, ln) }()
	t.Cleanup(func() {
		start := time.Now()
		cancel()
		if err := <-done; err != nil || time.Since(start) > shutdownGrace+time.Second {
			t.Errorf("stopped after %v: %v", time.Since(start), err)
		}
	})
	return ln.Addr().String(), said
}

func ask(t *testing.T, method, addr, path string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "image", "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat("0123456789", 1000)
	if err := os.WriteFile(filepath.Join(dir, "image", "1", "vmlinuz"), []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	addr, said := serve(t, os.DirFS(dir))
	resp, got := ask(t, "GET", addr, "/image/1/vmlinuz")
	if resp.StatusCode != 200 || got != body || resp.ContentLength != 10000 || resp.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("GET: %v, %d bytes", resp.Status, len(got))
	}
	said.wait(t, "msg=read service=http client=127.0.0.1 file=image/1/vmlinuz bytes=10000 status=200")
	modified := resp.Header.Get("Last-Modified")
	for name, c := range map[string]struct {
		method string
		header []string
		status int
		body   string
	}{
		"head":              {"HEAD", nil, 200, ""},
		"range":             {"GET", []string{"Range", "bytes=5-9"}, 206, "56789"},
		"the end":           {"GET", []string{"Range", "bytes=-3"}, 206, "789"},
		"range behind end":  {"GET", []string{"Range", "bytes=20000-"}, 416, "invalid range: failed to overlap\n"},
		"not modified":      {"GET", []string{"If-Modified-Since", modified}, 304, ""},
		"resume, unchanged": {"GET", []string{"Range", "bytes=9998-", "If-Range", modified}, 206, "89"},
		"resume, changed":   {"GET", []string{"Range", "bytes=9998-", "If-Range", "Mon, 02 Jan 2006 15:04:05 GMT"}, 200, body},
	} {
		resp, got := ask(t, c.method, addr, "/image/1/vmlinuz", c.header...)
		if resp.StatusCode != c.status || got != c.body {
			t.Errorf("%s: %v, %d bytes", name, resp.Status, len(got))
		}
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree", "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	addr, said := serve(t, os.DirFS(filepath.Join(dir, "tree")))
	for _, path := range []string{"/", "/folder", "/folder/", "/absent", "/../secret", "/folder/../../secret", "/%2e%2e/secret", "//etc/passwd", "/folder//x", `/..\secret`, "/a%00b"} {
		resp, got := ask(t, "GET", addr, path)
		if resp.StatusCode != 404 || got != "no such file here\n" {
			t.Errorf("%s: %v %q", path, resp.Status, got)
		}
	}
	said.wait(t, `msg=refused service=http client=127.0.0.1 file=absent reason="not found"`)
	for _, method := range []string{"PUT", "POST", "DELETE", "OPTIONS"} {
		if resp, _ := ask(t, method, addr, "/x"); resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %v", method, resp.Status)
		}
	}
	if resp, got := ask(t, "GET", addr, "/healthz"); resp.StatusCode != 200 || got != "ok\n" {
		t.Errorf("/healthz: %v %q", resp.Status, got)
	}
}

// failing is a tree that cannot be opened.
type failing struct{ err error }

func (f failing) Open(string) (fs.File, error) { return nil, f.err }

// A client that is not admitted learns that it is refused, but not why; one that reads the node list may be another.
func TestNotAdmitted(t *testing.T) {
	nodes := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "nodes of "+r.RemoteAddr[:9]) })
	tree := failing{fmt.Errorf("00:20:38:03:37:6c is not listed: %w", fs.ErrPermission)}
	addr, said := serveHandler(t, &Handler{Handle: map[string]http.Handler{"/v1/nodes": nodes}}, tree)
	for _, path := range []string{"/pxelinux.cfg/default", "/absent", "/v1"} {
		resp, got := ask(t, "GET", addr, path)
		if resp.StatusCode != 403 || got != "this server has nothing for this machine; its log says why\n" {
			t.Errorf("%s: %v %q", path, resp.Status, got)
		}
	}
	said.wait(t, `level=WARN msg=refused service=http client=127.0.0.1 file=absent reason="00:20:38:03:37:6c is not listed: permission denied"`)
	if resp, got := ask(t, "GET", addr, "/v1/nodes"); resp.StatusCode != 200 || got != "nodes of 127.0.0.1" {
		t.Errorf("/v1/nodes: %v %q", resp.Status, got)
	}
	if resp, _ := ask(t, "POST", addr, "/v1/nodes"); resp.StatusCode != 405 {
		t.Errorf("POST: %v", resp.Status)
	}
}

func TestNotKnownYet(t *testing.T) {
	addr, said := serve(t, failing{fmt.Errorf("not known: %w", os.ErrDeadlineExceeded)})
	resp, got := ask(t, "GET", addr, "/f")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "2" || got != "this server does not know yet who asks\n" {
		t.Errorf("%v %q", resp.Status, got)
	}
	said.wait(t, `level=WARN msg=refused service=http client=127.0.0.1 file=f reason="not known: i/o timeout"`)
}

func TestUnreadableFile(t *testing.T) {
	addr, said := serve(t, failing{errors.New("disk error at /secret/place")})
	resp, got := ask(t, "GET", addr, "/f")
	if resp.StatusCode != 500 || strings.Contains(got, "secret") {
		t.Errorf("%v %q", resp.Status, got)
	}
	said.wait(t, "level=WARN msg=refused service=http client=127.0.0.1 file=f reason=\"disk error at /secret/place\"")
}

// A client that hangs up is told as such, and a client that says nothing is not waited for when the server stops.
func TestClientsThatStop(t *testing.T) {
	need.Patience(t)
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(64 << 20)
	f.Close()
	var silent net.Conn
	t.Cleanup(func() { silent.Close() }) // after the server has stopped
	addr, said := serve(t, os.DirFS(dir))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
	io.ReadFull(c, make([]byte, 1000))
	c.Close()
	said.wait(t, "msg=aborted service=http client=127.0.0.1 file=big")
	if silent, err = net.Dial("tcp", addr); err != nil {
		t.Fatal(err)
	}
}

// A deadlined is an answer that remembers until when it had to be taken.
type deadlined struct {
	*httptest.ResponseRecorder
	until time.Time
}

func (d *deadlined) SetWriteDeadline(until time.Time) error {
	d.until = until
	return nil
}

// Every answer has its own time to be taken in: without, a client that asks on and on and takes nothing keeps its connection for ever, and one
// that goes on asking by the connection of an earlier file finds that file's time over.
func TestEveryAnswerHasATimeout(t *testing.T) {
	files := fstest.MapFS{"file": {Data: []byte("twelve bytes")}, "large": {Data: make([]byte, 30*slowestRate)}}
	h := &Handler{
		FS:     func(_, _ netip.Addr) fs.FS { return files },
		Handle: map[string]http.Handler{"/metrics": http.NotFoundHandler()},
		Post:   map[string]http.Handler{"/report": http.NotFoundHandler()},
	}
	for _, test := range []struct {
		method, path string
		want         time.Duration
	}{
		{"GET", "/file", answerTimeout}, {"HEAD", "/file", answerTimeout}, {"GET", "/large", answerTimeout + 30*time.Second},
		{"GET", "/nosuch", answerTimeout}, {"GET", "/healthz", answerTimeout}, {"GET", "/metrics", answerTimeout},
		{"POST", "/report", answerTimeout}, {"PUT", "/file", answerTimeout},
	} {
		w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
		start := time.Now()
		h.ServeHTTP(w, httptest.NewRequest(test.method, test.path, nil))
		if got := w.until.Sub(start); got < test.want || got > test.want+time.Second {
			t.Errorf("%s %s: until %v after it came, want %v", test.method, test.path, got, test.want)
		}
	}
}
