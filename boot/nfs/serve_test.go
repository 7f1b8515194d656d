package nfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"netroot/builder/image"
)

// fixed are exports that do not change.
type fixed struct {
	mu     sync.Mutex
	paths  []string
	images map[string]*image.Image
	ids    map[string][16]byte
	down   error // what ByID answers while it is set
}

func (f *fixed) Open(path string) ([16]byte, *image.Image, error) {
	img, ok := f.images[path]
	if !ok {
		return [16]byte{}, nil, fmt.Errorf("no image %q: %w", path, fs.ErrNotExist)
	}
	return f.ids[path], img, nil
}

func (f *fixed) ByID(id [16]byte) (*image.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return nil, f.down
	}
	for path, have := range f.ids {
		if have == id {
			return f.images[path], nil
		}
	}
	return nil, fmt.Errorf("no such image: %w", fs.ErrNotExist)
}

func (f *fixed) List() []string { return f.paths }

func (f *fixed) setDown(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

// newFixed opens images by their export path.
func newFixed(files map[string]string) (*fixed, error) {
	f := &fixed{images: map[string]*image.Image{}, ids: map[string][16]byte{}}
	for path, file := range files {
		img, err := image.Open(file)
		if err != nil {
			return nil, err
		}
		r, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		h := sha256.New()
		if _, err := io.CopyN(h, r, 64<<10); err != nil && err != io.EOF {
			return nil, err
		}
		r.Close()
		f.images[path], f.ids[path] = img, [16]byte(h.Sum(nil))
		f.paths = append(f.paths, path)
	}
	slices.Sort(f.paths)
	return f, nil
}

// serveEnv turns the test binary into a server: the image, a listen address, and optionally a profile to write.
const serveEnv = "NETROOT_NFS_TEST_SERVE"

func TestMain(m *testing.M) {
	if arg := os.Getenv(serveEnv); arg != "" {
		if err := serveMain(strings.Fields(arg)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	planted.remove()
	os.Exit(code)
}

func serveMain(args []string) error {
	exports, err := newFixed(map[string]string{"/debian-12": args[0], "/debian-12@3": args[0]})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	if len(args) > 2 {
		stop, err := profile(args[2])
		if err != nil {
			return err
		}
		defer stop()
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	fmt.Println(l.Addr())
	s := &Server{Exports: exports, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	err = s.Serve(ctx, l)
	fmt.Fprintf(os.Stderr, "%+v\n", s.Stats())
	return err
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// running is a server inside the test.
type running struct {
	*Server
	addr    string
	port    string
	exports *fixed
	mu      sync.Mutex
	events  []Event
	stop    func()
}

func start(t testing.TB, files map[string]string) *running {
	t.Helper()
	exports, err := newFixed(files)
	must(t, err)
	return startExports(t, exports, "127.0.0.1:0")
}

func startExports(t testing.TB, exports *fixed, addr string) *running {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	must(t, err)
	r := &running{addr: l.Addr().String(), exports: exports}
	_, r.port, _ = net.SplitHostPort(r.addr)
	r.Server = &Server{Exports: exports, Event: func(e Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, l) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("serve did not end")
		}
	})
	t.Cleanup(r.stop)
	return r
}

// seen returns the events of one kind.
func (r *running) seen(kind string) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Event
	for _, e := range r.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

const manyFiles = 350

// plant makes the folder dir to be served.
func plant(t testing.TB, dir string) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o755))
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Chmod(dir, 0o755))
	must(t, os.MkdirAll(at("usr/bin"), 0o755))
	must(t, os.Mkdir(at("tmp"), 0o777))
	must(t, os.Chmod(at("tmp"), 0o777|os.ModeSticky))
	must(t, os.Mkdir(at("secret"), 0o700))
	must(t, os.WriteFile(at("secret/key"), []byte("key\n"), 0o600))
	must(t, os.Mkdir(at("many"), 0o755))
	for i := range manyFiles {
		must(t, os.WriteFile(at(fmt.Sprintf("many/%s%04d", strings.Repeat("n", i%180), i)), nil, 0o644))
	}
	for _, n := range []int{0, 1, 3, 4096, 5001, smallRead, smallRead + 1, 100_003, 1 << 20, 3<<20 + 2} {
		must(t, os.WriteFile(at(fmt.Sprintf("size-%d", n)), pattern(n), 0o644))
	}
	must(t, os.WriteFile(at("usr/bin/su"), pattern(5000), 0o755))
	must(t, os.Chmod(at("usr/bin/su"), 0o711|os.ModeSetuid))
	must(t, os.Link(at("usr/bin/su"), at("usr/bin/su-again")))
	must(t, os.Symlink("usr/bin", at("bin")))
	must(t, syscall.Mkfifo(at("fifo"), 0o620))
	if os.Getuid() == 0 {
		must(t, os.Lchown(at("size-1"), 1000, 70000))
		must(t, syscall.Mknod(at("null"), syscall.S_IFCHR|0o666, 1<<8|3))
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>12) ^ byte(i*7)
	}
	return b
}

var errDown = errors.New("the store is away")
