package vm

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

// startSh runs sh behind a connection, as /init does behind a serial line: after a while, interactive, and on a
// terminal that echoes.
func startSh(t *testing.T, far *os.File, tty bool, after time.Duration) {
	t.Helper()
	cmd := exec.Command("sh", "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: tty, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	time.AfterFunc(after, func() { started <- cmd.Start() })
	t.Cleanup(func() {
		if err := <-started; err != nil {
			t.Error(err)
			return
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		far.Close()
	})
}

func openPty(t *testing.T) (near, far *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	near = os.NewFile(uintptr(fd), "ptmx")
	far, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

func TestShell(t *testing.T) {
	need.Patience(t)
	t.Run("pty", func(t *testing.T) {
		near, far := openPty(t)
		startSh(t, far, true, 300*time.Millisecond)
		testShell(t, NewShell(near))
	})
	t.Run("socket", func(t *testing.T) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		near := os.NewFile(uintptr(fds[0]), "near")
		conn, err := net.FileConn(near)
		near.Close()
		if err != nil {
			t.Fatal(err)
		}
		startSh(t, os.NewFile(uintptr(fds[1]), "far"), false, 0)
		testShell(t, NewShell(conn))
	})
}

func testShell(t *testing.T, s *Shell) {
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, tt := range []struct {
		command, want string
		exit          int
	}{
		{"echo hello", "hello\n", 0},
		{"printf 'no line end'", "no line end", 0},
		{"true", "", 0},
		{"exit 7", "", 7},
		{"echo out; echo err >&2; false", "out\nerr\n", 1},
		{"echo 'it''s' \"$((6*7))\" '$HOME' \\\\", "its 42 $HOME \\\n", 0},
		{"cat", "", 0}, // standard input is empty: it must not eat what follows
		{"echo one\necho two\n# three", "one\ntwo\n", 0},
		{"printf '\\1\\2\\3\\4\\21\\23\\32\\r\\n\\377\\t'", "\x01\x02\x03\x04\x11\x13\x1a\r\n\xff\t", 0},
		{"printf 'netroot-end-%s 0;\\n' 1; echo more", "netroot-end-1 0;\nmore\n", 0},
		{"i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done", strings.Repeat("0123456789\n", 20000), 0},
		{"printf %s " + strings.Repeat("x", 9000), strings.Repeat("x", 9000), 0}, // longer than a line of a cooked terminal
	} {
		out, exit, err := s.Run(ctx, tt.command)
		if err != nil || out != tt.want || exit != tt.exit {
			t.Errorf("%.60q: %.80q (%d bytes), %d, %v; want %.80q (%d bytes), %d", tt.command, out, len(out), exit, err, tt.want, len(tt.want), tt.exit)
		}
	}
	if out, exit, err := s.Run(ctx, "if then"); err != nil || exit == 0 || out == "" {
		t.Errorf("a syntax error: %q, %d, %v", out, exit, err)
	}
	short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	if _, _, err := s.Run(short, "sleep 1; echo late"); err == nil {
		t.Error("a command that takes too long: no error")
	}
	if out, exit, err := s.Run(ctx, "echo after"); out != "after\n" || exit != 0 || err != nil {
		t.Errorf("after a command that was given up: %q, %d, %v", out, exit, err)
	}
}

func TestShellNobodyThere(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	s := NewShell(near)
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, _, err := s.Run(ctx, "true")
	if err == nil || !strings.Contains(err.Error(), "no shell answers on the second serial line") {
		t.Errorf("error %v", err)
	}
}
