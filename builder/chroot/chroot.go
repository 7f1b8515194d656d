// Package chroot runs programs inside the root folder of another operating system without touching the host: a
// re-executed copy of this program becomes PID 1 of new mount, PID, UTS and IPC namespaces, lays an overlay over the
// root folder, adds proc, a read-only sysfs, a minimal /dev and fresh /run and /tmp, and runs there what it is told.
//
// Nothing is ever mounted in the host's namespace, and every process ends with PID 1, which ends with the program that
// opened the session, be it killed with SIGKILL. The lower folder is never written to. The overlay is mounted
// "volatile" where the kernel can (5.10): fsync costs nothing and a session does not survive a crash, so the work
// folder of a session is to be thrown away, not kept.
//
// Limits: it needs root, it shares the host's network (apt-get inside a hook needs one), and it keeps services from
// being started only as far as Debian's own policy-rc.d and systemd's check for a chroot do; a script that runs a
// daemon by its path does run it, until Close. It is no sandbox: root inside is root outside.
package chroot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config says which root to open. Lower and Work are required.
type Config struct {
	Lower    string       // the root folder; it is only read
	Layers   []string     // changes of earlier sessions (see Changes) to lay over it, the last one uppermost; only read, too
	Work     string       // a folder for the session's own changes, on a file system that an overlay accepts; made when missing
	Arch     string       // Debian's or the recipe's word: amd64, i386, i686, arm64; empty is this machine's
	Hostname string       // inside the session; empty is "localhost"
	Log      *slog.Logger // nil is silent

	// Date is what day it is for programs that write it into files and ask SOURCE_DATE_EPOCH first, as useradd does for /etc/shadow: the
	// same packages make the same root on another day. The zero value leaves the clock to them.
	Date time.Time

	// Fill, when not nil, puts files into the folder of the session's changes before that is laid over the root: as further names of
	// files of the same file system, which the overlay itself cannot take.
	Fill func(changes string) error
}

// A Session is one opened root. Its methods may be called concurrently.
type Session struct {
	log   *slog.Logger
	pid   int
	conn  *net.UnixConn
	ended chan struct{} // closed when PID 1 is gone, and with it every process and mount

	send sync.Mutex // one request on the wire at a time

	mu      sync.Mutex
	next    int
	waiting map[int]chan reply
	closed  bool
	stderr  *tail
}

// Open lays the overlay and starts PID 1. The caller must Close the session.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("open root: making namespaces and mounts needs root: run as root or with sudo")
	}
	set, err := prepare(cfg)
	if err != nil {
		return nil, fmt.Errorf("open root %s: %w", cfg.Lower, err)
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root %s: socket pair: %w", cfg.Lower, err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "session")
	mine := os.NewFile(uintptr(pair[0]), "session")
	generic, err := net.FileConn(mine)
	mine.Close()
	if err != nil {
		theirs.Close()
		return nil, fmt.Errorf("open root %s: %w", cfg.Lower, err)
	}
	s := &Session{
		log:     log,
		conn:    generic.(*net.UnixConn),
		ended:   make(chan struct{}),
		waiting: map[int]chan reply{},
		stderr:  &tail{max: 4096},
	}
	started := make(chan error, 1)
	go s.keep(theirs, started)
	if err := <-started; err != nil {
		s.conn.Close()
		return nil, fmt.Errorf("open root %s: start the helper in new namespaces: %w", cfg.Lower, hint(err))
	}
	stop := context.AfterFunc(ctx, func() { s.conn.SetDeadline(time.Unix(1, 0)) })
	var ready reply
	if err = writeMessage(s.conn, set, nil); err == nil {
		err = readMessage(s.conn, &ready)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err != nil:
		s.conn.Close()
		<-s.ended
		err = fmt.Errorf("the helper ended: %w%s", err, s.stderr.after())
	case ready.Error != "":
		err = errors.New(ready.Error)
	}
	if err != nil {
		s.conn.Close()
		<-s.ended
		return nil, fmt.Errorf("open root %s: %w", cfg.Lower, err)
	}
	if ready.Note != "" {
		log.Info(ready.Note)
	}
	go s.receive()
	return s, nil
}

// keep starts PID 1 and waits for it, on one thread that lives as long: PR_SET_PDEATHSIG fires when the thread that
// forked ends, not the process (prctl(2)).
func (s *Session) keep(theirs *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{helperName},
		Env:        []string{},
		Dir:        "/",
		Stderr:     s.stderr,
		ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
			Setsid:     true, // Ctrl-C on the terminal is for the parent, which then ends the session in order
			Pdeathsig:  syscall.SIGKILL,
		},
		WaitDelay: time.Second,
	}
	err := cmd.Start()
	theirs.Close()
	if err != nil {
		close(s.ended)
		started <- err
		return
	}
	s.pid = cmd.Process.Pid
	started <- nil
	cmd.Wait() // its exit status says nothing that the socket does not
	close(s.ended)
}

// hint adds what usually is behind a clone that is refused.
func hint(err error) error {
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%w (in a container: it needs CAP_SYS_ADMIN and an unconfined seccomp profile)", err)
	}
	return err
}

// Root is the merged tree as seen from outside, with what the session mounted in it: what a file is to the programs
// that Run starts, it is there. Valid until Close. Absolute links in it lead to the host when the kernel follows them:
// resolve paths with package tree or os.Root.
func (s *Session) Root() string { return fmt.Sprintf("/proc/%d/root%s", s.pid, liveDir) }

// Tree is the merged tree without anything that the session mounted: an image is written from here. Valid until Close.
func (s *Session) Tree() string { return fmt.Sprintf("/proc/%d/root%s", s.pid, treeDir) }

// Mounts names the folders of Root that the session mounted something on, without leading slash, sorted. Their
// contents are no part of the tree; Tree shows what is below.
func (s *Session) Mounts() []string { return []string{"dev", "proc", "run", "sys", "tmp"} }

// Close ends every process of the session and waits until the last is gone; the mounts go with them.
func (s *Session) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.conn.CloseWrite() // PID 1 reads the end of file, kills, unmounts and exits
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		// A process in uninterruptible sleep delays the end; the kill is pending and nothing more can be done.
		if p, err := os.FindProcess(s.pid); err == nil {
			p.Kill()
		}
		select {
		case <-s.ended:
		case <-time.After(10 * time.Second):
			return fmt.Errorf("close root: process %d does not end: one of its programs hangs in the kernel", s.pid)
		}
	}
	s.conn.Close()
	return nil
}

// Changes is the folder that holds what a session with this work folder has changed: good, once that is closed, as a layer of other
// sessions over the same root, until the machine is switched off. Nothing in it was synced.
func Changes(work string) string { return filepath.Join(work, upperDir) }

const upperDir = "upper"

// A setup is the first message to PID 1.
type setup struct {
	Lower          []string // folders, uppermost first
	Work, Hostname string
	Linux32        bool
	Env            []string // of every program, beside environment
}

// prepare checks what can be checked from outside and makes the folders of the overlay.
func prepare(cfg Config) (setup, error) {
	if cfg.Lower == "" || cfg.Work == "" {
		return setup{}, errors.New("no root folder or no work folder was named")
	}
	linux32, err := machine(cfg.Arch, runtime.GOARCH, Runs32, "/proc/sys/fs/binfmt_misc")
	if err != nil {
		return setup{}, err
	}
	var lower []string
	for _, dir := range append([]string{cfg.Lower}, cfg.Layers...) {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return setup{}, err
		}
		lower = slices.Insert(lower, 0, dir)
	}
	work, err := filepath.Abs(cfg.Work)
	if err != nil {
		return setup{}, err
	}
	for _, dir := range lower {
		if st, err := os.Stat(dir); err != nil {
			return setup{}, err
		} else if !st.IsDir() {
			return setup{}, fmt.Errorf("%s is not a folder", dir)
		}
	}
	for _, dir := range []string{upperDir, "work", "mnt"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
			return setup{}, err
		}
	}
	// A volatile overlay leaves this mark, and the kernel refuses to mount over it
	// (Documentation/filesystems/overlayfs.rst, "Volatile mount"). Without a crash in between the data is good.
	if err := os.RemoveAll(filepath.Join(work, "work", "work", "incompat")); err != nil {
		return setup{}, err
	}
	if cfg.Fill != nil {
		if err := cfg.Fill(Changes(work)); err != nil {
			return setup{}, err
		}
	}
	// The root of the merged tree takes its mode and owner from the upper folder.
	if st, err := os.Stat(lower[0]); err == nil {
		upper := Changes(work)
		sys := st.Sys().(*syscall.Stat_t)
		if err := os.Chown(upper, int(sys.Uid), int(sys.Gid)); err != nil {
			return setup{}, err
		}
		if err := os.Chmod(upper, st.Mode()&(os.ModePerm|os.ModeSticky|os.ModeSetgid|os.ModeSetuid)); err != nil {
			return setup{}, err
		}
		if err := os.Chtimes(upper, time.Time{}, st.ModTime()); err != nil {
			return setup{}, err
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(work, &fs); err == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return setup{}, fmt.Errorf("the work folder %s lies on an overlay, and the kernel lays no overlay upon another's "+
			"changes: put the store on ext4, xfs, btrfs or tmpfs (in a container: on a volume)", work)
	}
	host := cfg.Hostname
	if host == "" {
		host = "localhost"
	}
	set := setup{Lower: lower, Work: work, Hostname: host, Linux32: linux32}
	if !cfg.Date.IsZero() {
		set.Env = []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(cfg.Date.Unix(), 10)}
	}
	return set, nil
}

// CanRun says why programs of an architecture do not run on this machine; nil when they do.
func CanRun(arch string) error {
	_, err := machine(arch, runtime.GOARCH, Runs32, "/proc/sys/fs/binfmt_misc")
	return err
}

// machine tells whether programs of arch run on a host (Go's word) and whether they want the linux32 personality. runs32 says
// whether the host's kernel runs 32-bit programs.
func machine(arch, host string, runs32 func() bool, binfmt string) (linux32 bool, err error) {
	emulator := ""
	switch arch {
	case "", "all":
		return false, nil
	case "amd64", "x86_64":
		if host == "amd64" {
			return false, nil
		}
		emulator = "qemu-x86_64"
	case "i386", "i586", "i686":
		if host == "386" || host == "amd64" && runs32() {
			return host == "amd64", nil
		}
		emulator = "qemu-i386"
	case "arm64", "aarch64":
		if host == "arm64" {
			return false, nil
		}
		emulator = "qemu-aarch64"
	default:
		return false, fmt.Errorf("unknown architecture %q: want amd64, i386 (i686) or arm64", arch)
	}
	rule, err := os.ReadFile(filepath.Join(binfmt, emulator))
	found := err == nil && bytes.HasPrefix(rule, []byte("enabled"))
	if !found && host == "amd64" && emulator == "qemu-i386" {
		return false, errors.New("32-bit programs do not run on this machine, because its kernel has that switched off: boot it with " +
			"ia32_emulation=on on the kernel's command line, or build on another machine")
	}
	if !found {
		return false, fmt.Errorf("this %s machine cannot run %s programs: install qemu-user-static and binfmt-support, "+
			"which register %s with binfmt_misc", host, arch, emulator)
	}
	for line := range strings.Lines(string(rule)) {
		if flags, ok := strings.CutPrefix(line, "flags:"); ok && strings.Contains(flags, "F") {
			return false, nil
		}
	}
	return false, fmt.Errorf("binfmt_misc knows %s, but without the flag F, so that it is not found inside a root: "+
		"install qemu-user-static, whose rule has it", emulator)
}

// A tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	max int
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - t.max; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// after is the text as an addition to an error.
func (t *tail) after() string {
	if s := strings.TrimSpace(t.String()); s != "" {
		return ": " + s
	}
	return ""
}

var _ io.Writer = (*tail)(nil)
