package sendfile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

func bigFile(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "big"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSend(t *testing.T) {
	const size = 24<<20 + 5
	f := bigFile(t, size)
	src, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		off, n int64
		warm   bool
		pause  time.Duration // of the client, before it reads
	}{
		{"whole", 0, size, false, 0},
		{"whole, warm", 0, size, true, 0},
		{"an odd part", 4097, size - 5000, true, 0},
		{"a client that is late", 1, size - 1, false, 50 * time.Millisecond},
		{"nothing", 7, 0, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, client := pair(t)
			var s Sender
			var waits atomic.Int32
			s.Wait = func() { waits.Add(1) }
			if !s.Init(server) {
				t.Fatal("a TCP connection was not taken")
			}
			got := make(chan []byte)
			go func() {
				time.Sleep(test.pause)
				h := sha256.New()
				io.Copy(h, client)
				got <- h.Sum(nil)
			}()
			n, err := s.Send(src, test.off, test.n, test.warm)
			server.Close()
			if n != test.n || err != nil {
				t.Errorf("sent %d bytes of %d: %v", n, test.n, err)
			}
			want := sha256.New()
			io.Copy(want, io.NewSectionReader(f, test.off, test.n))
			if !bytes.Equal(<-got, want.Sum(nil)) {
				t.Error("the client got other bytes")
			}
			if test.pause > 0 && waits.Load() == 0 {
				t.Error("Wait was not called although the client was late")
			}
		})
	}
}

// A file may be shorter than it was, and a client may go: both end the sending.
func TestSendBreaksOff(t *testing.T) {
	f := bigFile(t, 100)
	src, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	server, client := pair(t)
	var s Sender
	s.Init(server)
	var failed *Error
	if n, err := s.Send(src, 0, 101, false); n != 100 || !errors.Is(err, io.ErrUnexpectedEOF) || !errors.As(err, &failed) {
		t.Errorf("a file that is too short: %d bytes, %v", n, err)
	}
	client.(*net.TCPConn).SetLinger(0)
	client.Close()
	var sent error
	for range 1000 {
		if _, sent = s.Send(src, 0, 100, true); sent != nil {
			break
		}
	}
	if !errors.As(sent, &failed) {
		t.Errorf("a client that has gone: %v", sent)
	}
	server.Close()
	if _, err := s.Send(src, 0, 100, true); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed connection: %v", err)
	}
}

// A deadline ends a wait for a client that takes nothing.
func TestDeadline(t *testing.T) {
	f := bigFile(t, 32<<20)
	src, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	server, _ := pair(t)
	server.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	var s Sender
	s.Init(server)
	n, err := s.Send(src, 0, 32<<20, false)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 32<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func congestion(t *testing.T, of syscall.Conn) (name string) {
	t.Helper()
	raw, err := of.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION) })
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// BBR alone is replaced, and accepted connections have what the listener has.
func TestListen(t *testing.T) {
	plain, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	host := congestion(t, plain.(syscall.Conn))
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if got := congestion(t, server.(syscall.Conn)); (got == host) == strings.HasPrefix(host, "bbr") {
		t.Errorf("a connection has %s where the host's is %s", got, host)
	}

	raw, err := client.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ has, want string }{{"reno", "reno"}, {"bbr", "cubic reno"}} {
		raw.Control(func(fd uintptr) {
			if err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, test.has); err == nil {
				unpaced(fd)
			}
		})
		if err != nil {
			t.Logf("this kernel does not give %s: %v", test.has, err)
			continue
		}
		if got := congestion(t, client.(syscall.Conn)); !strings.Contains(test.want, got) {
			t.Errorf("%s became %s, want %s", test.has, got, test.want)
		}
	}
}

// A way that loses nothing stays as Listen made it, however often the client is waited for.
func TestPaceLeavesGoodWaysAlone(t *testing.T) {
	f := bigFile(t, 24<<20)
	src, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	server, client := pair(t)
	raw, err := server.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(unpaced)
	before := congestion(t, server.(syscall.Conn))
	var s Sender
	s.Init(server)
	go func() {
		time.Sleep(20 * time.Millisecond)
		io.Copy(io.Discard, client)
	}()
	if _, err := s.Send(src, 0, 24<<20, false); err != nil {
		t.Fatal(err)
	}
	if after := congestion(t, server.(syscall.Conn)); after != before || s.full == 0 || s.paced {
		t.Errorf("%s became %s after the socket was full %d times, settled: %v", before, after, s.full, s.paced)
	}
}

func TestNoSocket(t *testing.T) {
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	if new(Sender).Init(one) {
		t.Error("a pipe was taken for a socket")
	}
}
