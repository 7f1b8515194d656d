package httpd

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/boot/crowd"
)

const secret = "the password hashes"

// servePlanted serves a folder beside a secret; links inside the folder lead out of it.
func servePlanted(tb testing.TB) (addr string, dir string) {
	tb.Helper()
	dir = tb.TempDir()
	tree := filepath.Join(dir, "tree")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(tree, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "secret"), []byte(secret), 0o644),
		os.WriteFile(filepath.Join(tree, "file"), []byte("public"), 0o644),
		os.WriteFile(filepath.Join(tree, "sub", "file"), []byte("public"), 0o644),
		os.Symlink("../secret", filepath.Join(tree, "relative")),
		os.Symlink(filepath.Join(dir, "secret"), filepath.Join(tree, "absolute")),
		os.Symlink("..", filepath.Join(tree, "up")),
	} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	root, err := os.OpenRoot(tree) // as tftpboot serves what lies on disk: a link cannot lead out
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { root.Close() })
	addr, _ = serve(tb, root.FS())
	return addr, dir
}

// raw sends a request line as it is, which a client library would tidy up.
func raw(addr, target string) (status int, body string, err error) {
	nc, err := net.Dial("tcp4", addr)
	if err != nil {
		return 0, "", err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: netroot\r\nConnection: close\r\n\r\n", target); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// Nothing outside the tree can be had, however the path is written.
func TestTraversal(t *testing.T) {
	addr, dir := servePlanted(t)
	targets := map[string]int{ // to the status; 0 is any refusal
		"/file": 200, "/sub/file": 200, "/%66ile": 200, "/sub%2ffile": 200, "http://other.example/file": 200,
		"/file/": 404, "/sub": 404, "/": 404, "*": 404, "file": 400, "": 400,
		"/relative": 0, "/absolute": 0, "/up/secret": 0, "/up/tree/file": 0,
		"/" + strings.Repeat("a/", 3000) + "file": 404, "/" + strings.Repeat("a", 70_000): 431,
	}
	for _, up := range []string{
		"..", "%2e%2e", ".%2e", "%2E.", "%252e%252e", "..%00", "..%5c", `..\`, "..%2f", "..%c0%af", "%c0%ae%c0%ae", "..;", "....//", ".%00.", "%uff0e%uff0e",
	} {
		for _, path := range []string{"/" + up + "/secret", "/sub/" + up + "/" + up + "/secret", "/" + up + "secret", "//" + up + "/secret", "/./" + up + "/secret"} {
			targets[path] = 0
		}
	}
	for _, path := range []string{dir + "/secret", "/" + dir + "/secret", "/file:" + dir + "/secret", "/file%00.txt", "/" + strings.Repeat("../", 40) + dir + "/secret"} {
		targets[path] = 0
	}
	for target, want := range targets {
		status, body, err := raw(addr, target)
		if err != nil {
			t.Errorf("%.60q: %v", target, err)
			continue
		}
		if strings.Contains(body, secret) || status != want && (want != 0 || status < 400) {
			t.Errorf("%.60q: %d %q, want %d", target, status, body, want)
		}
	}
}

// Clients that send their request a byte at a time, that send headers without end, or that never read what they asked for: others are
// served at once.
func TestHostileClients(t *testing.T) {
	addr, dir := servePlanted(t)
	f, err := os.Create(filepath.Join(dir, "tree", "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(256 << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for i := range crowd.PerClient - 10 {
		nc, err := net.Dial("tcp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetWriteDeadline(time.Now().Add(time.Second))
		switch i % 3 {
		case 0:
			io.WriteString(nc, "GET /fi")
		case 1:
			io.WriteString(nc, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
		case 2:
			nc.Write(append([]byte("GET /file HTTP/1.1\r\nX: "), bytes.Repeat([]byte("x"), 40_000)...))
		}
	}
	start := time.Now()
	if status, body, err := raw(addr, "/file"); err != nil || status != 200 || body != "public" {
		t.Errorf("another client: %d %q, %v", status, body, err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("another client waited for %v", took)
	}
}

// Ten thousand connections of one machine that never ask anything: another one is served.
func TestSilentConnections(t *testing.T) {
	addr, _ := servePlanted(t)
	silent := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 7)}, Timeout: 10 * time.Second}
	var open []net.Conn
	defer func() {
		for _, nc := range open {
			nc.Close()
		}
	}()
	closed := 0
	for range 10_000 {
		nc, err := silent.Dial("tcp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		nc.(*net.TCPConn).SetLinger(0)
		if open = append(open, nc); len(open) > crowd.PerClient+100 { // by now those beyond its share were closed
			last := open[crowd.PerClient]
			last.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("a connection too many stays open: %v", err)
			}
			last.Close()
			open = slices.Delete(open, crowd.PerClient, crowd.PerClient+1)
			closed++
		}
	}
	start := time.Now()
	if status, body, err := raw(addr, "/file"); err != nil || status != 200 || body != "public" {
		t.Errorf("another client: %d %q, %v", status, body, err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("another client waited for %v", took)
	}
	t.Logf("%d of the 10,000 were closed", closed)
}

var malformed = flag.Int("malformed", 30_000, "how many malformed requests TestMalformedRequests sends")

// A flood of requests that are nearly right, and of bytes that are none. Memory stays, and others are served.
func TestMalformedRequests(t *testing.T) {
	addr, _ := servePlanted(t)
	seeds := []string{
		"GET /file HTTP/1.1\r\nHost: x\r\nRange: bytes=1-3\r\n\r\n", "HEAD /sub/file HTTP/1.0\r\nIf-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n",
		"POST /file HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "GET http://[::1]:80/%2e%2e/ HTTP/1.1\r\nHost:\r\n\r\n",
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(client), 3))
			for sent := 0; sent < *malformed/4; {
				nc, err := net.Dial("tcp4", addr)
				if err != nil {
					t.Error(err)
					return
				}
				go io.Copy(io.Discard, nc)
				nc.SetWriteDeadline(time.Now().Add(10 * time.Second))
				for err == nil && sent < *malformed/4 { // until the server has had enough of this connection
					p := []byte(seeds[rnd.IntN(len(seeds))])
					for range rnd.IntN(4) {
						p[rnd.IntN(len(p))] = byte(rnd.Uint32())
					}
					sent++
					_, err = nc.Write(p[:rnd.IntN(len(p)+1)])
				}
				nc.(*net.TCPConn).SetLinger(0)
				nc.Close()
			}
		})
	}
	wg.Wait()
	if status, body, err := raw(addr, "/file"); err != nil || status != 200 || body != "public" {
		t.Errorf("another client: %d %q, %v", status, body, err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}

// FuzzPath asks for any path: never a panic, never what lies outside.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/file", "/../secret", "/%2e%2e/secret", "/sub/../file", "/up/secret", "//", "/\x00", `/..\secret`} {
		f.Add(s)
	}
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret), 0o644); err != nil {
		f.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tree"), 0o755); err != nil {
		f.Fatal(err)
	}
	h := &Handler{FS: func(_, _ netip.Addr) fs.FS { return os.DirFS(filepath.Join(dir, "tree")) }}
	f.Fuzz(func(t *testing.T, target string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			return
		}
		w := &recorder{header: http.Header{}}
		h.ServeHTTP(w, req)
		if strings.Contains(w.body.String(), secret) {
			t.Errorf("%q gives what lies outside of the tree", target)
		}
	})
}

type recorder struct {
	header http.Header
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) WriteHeader(int)             {}
