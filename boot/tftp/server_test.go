package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	pin "github.com/pin/tftp/v3"

	"netroot/builder/need"
)

// events is a log that can be waited for.
type events struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (e *events) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.b.Write(p)
}

// forget gives the memory back.
func (e *events) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.b = bytes.Buffer{}
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.b.String()
}

func (e *events) wait(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(e.String(), want) {
			return
		}
	}
	t.Errorf("no event %s in:\n%s", want, e)
}

// serve starts a server for fsys on every address, and returns its port.
func serve(t *testing.T, fsys fs.FS) (port int, said *events) {
	t.Helper()
	l, err := Listen(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	said, _ = serveOn(t, l, &Server{FS: func(_, _ netip.Addr) fs.FS { return fsys }})
	return l.Addr().(*net.UDPAddr).Port, said
}

// serveOn runs a server until stop or the end of the test.
func serveOn(t *testing.T, l *Listener, s *Server) (said *events, stop func()) {
	t.Helper()
	said = &events{}
	s.Log = slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return said, stop
}

func pattern(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestFilesArriveWhole(t *testing.T) {
	need.Patience(t)
	t.Parallel()
	fsys := fstest.MapFS{}
	for _, n := range []int{0, 1, 511, 512, 513, 1467, 1468, 1469, 100000} {
		fsys[fmt.Sprintf("image/%d", n)] = &fstest.MapFile{Data: pattern(n)}
	}
	port, said := serve(t, fsys)
	get := func(port int, name string, blksize int) []byte {
		c, err := pin.NewClient(fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		c.SetBlockSize(blksize)
		c.RequestTSize(true)
		wt, err := c.Receive(name, "octet")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var b bytes.Buffer
		if _, err := wt.WriteTo(&b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return b.Bytes()
	}
	for name, f := range fsys {
		for _, blksize := range []int{512, 1428, 1468} {
			if !bytes.Equal(get(port, "/"+name, blksize), f.Data) {
				t.Errorf("%s with blocks of %d came out different", name, blksize)
			}
		}
	}
	said.wait(t, "msg=read service=tftp client=127.0.0.1 file=/image/100000 bytes=100000")
	// More than 65535 blocks: their number rolls over, to 0.
	data := pattern(600 << 10)
	port, said = serve(t, fstest.MapFS{"f": {Data: data}})
	if !bytes.Equal(newROM(t, "127.0.0.1", port).download(8, 64, 0), data) {
		t.Error("a file of more than 65535 blocks came out different")
	}
	said.wait(t, fmt.Sprintf("bytes=%d", len(data)))
}

// A rom asks packet by packet.
type rom struct {
	t    *testing.T
	conn *net.UDPConn
	peer *net.UDPAddr
}

func newROM(t *testing.T, server string, port int) *rom {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &rom{t, conn, &net.UDPAddr{IP: net.ParseIP(server), Port: port}}
}

func (r *rom) send(p []byte) {
	r.t.Helper()
	if _, err := r.conn.WriteToUDP(p, r.peer); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rom) request(op byte, words ...string) {
	r.t.Helper()
	r.send([]byte("\x00" + string(op) + strings.Join(words, "\x00") + "\x00"))
}

func (r *rom) ack(block uint16) { r.send(binary.BigEndian.AppendUint16([]byte{0, 4}, block)) }

// receive reads one packet, and answers to its sender from then on.
func (r *rom) receive() (op byte, rest []byte) {
	r.t.Helper()
	buf := make([]byte, 70000)
	r.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	n, from, err := r.conn.ReadFromUDP(buf)
	if err != nil || n < 4 {
		r.t.Fatalf("no answer: %v", err)
	}
	r.peer = from
	return buf[1], buf[2:n]
}

func TestOptions(t *testing.T) {
	port, said := serve(t, fstest.MapFS{"pxelinux.0": {Data: pattern(42430)}})
	for name, c := range map[string]struct{ words, want []string }{
		"blksize too large":    {[]string{"pxelinux.0", "octet", "blksize", "65464"}, []string{"blksize", "65464"}},
		"tsize":                {[]string{"pxelinux.0", "octet", "tsize", "0"}, []string{"tsize", "42430"}},
		"blksize":              {[]string{"/pxelinux.0", "octet", "blksize", "1024"}, []string{"blksize", "1024"}},
		"unknown ones ignored": {[]string{"pxelinux.0", "octet", "tsize", "0", "windowsize", "16", "x-y", "1", "rollover", "0"}, []string{"tsize", "42430", "windowsize", "16"}},
	} {
		r := newROM(t, "127.0.0.1", port)
		r.request(1, c.words...)
		op, rest := r.receive()
		if op != 6 || string(rest) != strings.Join(c.want, "\x00")+"\x00" {
			t.Errorf("%s: got op %d %q", name, op, rest)
		}
		// The client knows enough and hangs up, as UEFI does. Nothing was aborted.
		r.send([]byte("\x00\x05\x00\x00TFTP Aborted\x00"))
	}
	said.wait(t, "msg=probe")
	if strings.Contains(said.String(), "msg=aborted") {
		t.Errorf("a probe is told as an error:\n%s", said)
	}
}

func TestAbortInTheMiddle(t *testing.T) {
	port, said := serve(t, fstest.MapFS{"initrd.img": {Data: pattern(10000)}})
	r := newROM(t, "127.0.0.1", port)
	r.request(1, "initrd.img", "octet")
	if op, _ := r.receive(); op != 3 {
		t.Fatalf("got op %d", op)
	}
	r.ack(1)
	r.receive()
	r.send([]byte("\x00\x05\x00\x03disk full\x00"))
	said.wait(t, "msg=aborted service=tftp client=127.0.0.1 file=initrd.img bytes=512")
	said.wait(t, "disk full")
}

func TestLostPacketsAreSentAgain(t *testing.T) {
	t.Parallel()
	port, _ := serve(t, fstest.MapFS{"f": {Data: pattern(1200)}})
	r := newROM(t, "127.0.0.1", port)
	r.request(1, "f", "octet")
	_, first := r.receive()
	start := time.Now()
	_, again := r.receive() // no acknowledgement was sent
	if !bytes.Equal(first, again) || time.Since(start) > 2*firstWait {
		t.Error("the block did not come again in time")
	}
	r.ack(1)
	_, second := r.receive()
	r.ack(1) // a doubled acknowledgement must not double the rest (the Sorcerer's Apprentice)
	r.ack(2)
	_, third := r.receive()
	r.ack(3)
	if !bytes.Equal(append(append(first[2:], second[2:]...), third[2:]...), pattern(1200)) {
		t.Error("the file came out different")
	}
}

func TestRefusals(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(secret, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	port, said := serve(t, os.DirFS(secret))
	for name, c := range map[string]struct {
		op    byte
		code  byte
		event string
	}{
		"write":                           {2, 2, "level=WARN msg=refused service=tftp client=127.0.0.1 file=write reason=\"write request"},
		"../etc/shadow":                   {1, 2, "file=../etc/shadow reason=\"the name leaves the served tree\""},
		"a/../../etc/shadow":              {1, 2, "file=a/../../etc/shadow reason"},
		`..\boot.ini`:                     {1, 2, `boot.ini reason="the name leaves`},
		"pxelinux.cfg/01-aa":              {1, 1, "level=DEBUG msg=refused service=tftp client=127.0.0.1 file=pxelinux.cfg/01-aa reason=\"not found\""},
		"folder":                          {1, 1, "file=folder reason=\"not found\""},
		"":                                {1, 2, "reason=\"not a file name\""},
		"x/" + strings.Repeat("long", 80): {1, 1, "…"},
	} {
		r := newROM(t, "127.0.0.1", port)
		r.request(c.op, name, "octet")
		op, rest := r.receive()
		if op != 5 || rest[1] != c.code || len(rest) < 4 {
			t.Errorf("%q: got op %d %q, want an error with code %d", name, op, rest, c.code)
		}
		said.wait(t, c.event)
	}
}

func TestUnreadableFile(t *testing.T) {
	port, said := serve(t, broken{})
	r := newROM(t, "127.0.0.1", port)
	r.request(1, "f", "octet")
	if op, rest := r.receive(); op != 5 || !strings.Contains(string(rest), "cannot read file") || strings.Contains(string(rest), "secret") {
		t.Errorf("got op %d %q", op, rest)
	}
	said.wait(t, "level=WARN msg=refused")
	said.wait(t, "disk error at /secret/place")
}

type broken struct{}

func (broken) Open(string) (fs.File, error) { return nil, errors.New("disk error at /secret/place") }

// Each address of a machine with several answers for itself, and is what the tree is asked with.
func TestAnswersFromTheAddressThatWasAsked(t *testing.T) {
	need.Patience(t)
	t.Parallel()
	l, err := Listen(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := &Server{FS: func(client, local netip.Addr) fs.FS {
		return fstest.MapFS{"who": {Data: []byte(client.String() + " asked " + local.String())}}
	}}
	go func() { done <- s.Serve(ctx, l) }()
	for _, addr := range []string{"127.0.0.1", "127.0.0.2", "127.5.5.5"} {
		r := newROM(t, addr, l.Addr().(*net.UDPAddr).Port)
		r.request(1, "who", "octet")
		op, rest := r.receive()
		r.ack(1)
		if op != 3 || !strings.HasSuffix(string(rest), " asked "+addr) || r.peer.IP.String() != addr {
			t.Errorf("%s: got op %d %q from %v", addr, op, rest, r.peer)
		}
	}
	// One transfer hangs: its client has been switched off. Stopping does not wait for it long.
	r := newROM(t, "127.0.0.1", l.Addr().(*net.UDPAddr).Port)
	r.request(1, "who", "octet")
	r.receive()
	start := time.Now()
	cancel()
	if err := <-done; err != nil || time.Since(start) > shutdownGrace+time.Second {
		t.Errorf("stopped after %v: %v", time.Since(start), err)
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	need.Patience(t)
	data := pattern(100 << 10)
	port, _ := serve(t, fstest.MapFS{"vmlinuz": {Data: data}})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			c, err := pin.NewClient(fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Error(err)
				return
			}
			c.SetBlockSize(1428)
			c.SetTimeout(time.Second)
			wt, err := c.Receive("vmlinuz", "octet")
			if err != nil {
				t.Error(err)
				return
			}
			var b bytes.Buffer
			if _, err := wt.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), data) {
				t.Errorf("got %d bytes: %v", b.Len(), err)
			}
		})
	}
	wg.Wait()
}

// Two clients of other make, and text mode.
func TestForeignClients(t *testing.T) {
	data := pattern(50000)
	port, said := serve(t, fstest.MapFS{"pxelinux.0": {Data: data}, "text": {Data: []byte("a\nb\n")}})
	get := func(tool string, args ...string) []byte {
		need.Tools(t, tool)
		cmd := exec.Command(tool, args...)
		cmd.Dir = t.TempDir()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", tool, err, out)
		}
		b, err := os.ReadFile(filepath.Join(cmd.Dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if !bytes.Equal(get("curl", "-s", "--tftp-blksize", "1468", "-o", "out", fmt.Sprintf("tftp://127.0.0.1:%d/pxelinux.0", port)), data) {
		t.Error("curl got another file")
	}
	p := fmt.Sprint(port)
	if !bytes.Equal(get("tftp", "-m", "binary", "127.0.0.1", p, "-c", "get", "pxelinux.0", "out"), data) {
		t.Error("tftp-hpa got another file")
	}
	// atftp knows windows.
	if !bytes.Equal(get("atftp", "--option", "blksize 1428", "--option", "windowsize 16", "-g", "-r", "pxelinux.0", "-l", "out", "127.0.0.1", p), data) {
		t.Error("atftp got another file")
	}
	said.wait(t, "file=pxelinux.0 bytes=50000 blksize=1428 windowsize=16")
	if got := get("tftp", "-m", "ascii", "127.0.0.1", p, "-c", "get", "text", "out"); string(got) != "a\nb\n" {
		t.Errorf("in text mode tftp-hpa got %q", got)
	}
}

// A request that came in before Serve does not say which address it asked.
func TestEarlyRequest(t *testing.T) {
	l, err := Listen(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newROM(t, "127.0.0.1", l.Addr().(*net.UDPAddr).Port)
	r.request(1, "who", "octet")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := &Server{FS: func(_, local netip.Addr) fs.FS { return fstest.MapFS{"who": {Data: []byte(local.String())}} }}
	go func() { done <- s.Serve(ctx, l) }()
	if op, rest := r.receive(); op != 3 || string(rest[2:]) != "127.0.0.1" {
		t.Errorf("got op %d %q", op, rest)
	}
	r.ack(1)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
