package chroot

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// helperName is argv[0] of the re-executed program, and what ps shows.
const helperName = "netroot-chroot"

// perLinux32 is PER_LINUX32 of personality(2): uname says i686.
const perLinux32 = 0x0008

// environment is what every program starts with.
var environment = []string{
	"PATH=" + searchPath,
	"HOME=/root",
	"LC_ALL=C.UTF-8",
	"TERM=dumb",
	"DEBIAN_FRONTEND=noninteractive",
	"DEBCONF_NONINTERACTIVE_SEEN=true",
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Main takes over when this process is the re-executed helper, and then never returns. It is the first thing that main
// does, and TestMain of every package that opens a session.
func Main() {
	if len(os.Args) != 1 || os.Args[0] != helperName || os.Getpid() != 1 {
		return
	}
	// The thread keeps its personality, and forks every program.
	runtime.LockOSThread()
	if err := helper(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// server is the state of PID 1.
type server struct {
	conn *net.UnixConn
	env  []string   // of every program
	out  sync.Mutex // one reply on the wire at a time

	mu      sync.Mutex  // held across fork, so that no program is reaped before it is known
	running map[int]int // process id to request id
}

func helper() error {
	// With a handler the dispositions of our children are the default ones, and "telinit u" or "kill 1" of a
	// maintainer script does nothing: Go's own default for these signals would end the session.
	ignored := make(chan os.Signal, 16)
	signal.Notify(ignored)
	go func() {
		for range ignored {
		}
	}()
	syscall.CloseOnExec(3)
	f := os.NewFile(3, "session")
	generic, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("socket to the parent: %w", err)
	}
	s := &server{conn: generic.(*net.UnixConn), running: map[int]int{}}
	var set setup
	if err := readMessage(s.conn, &set); err != nil {
		return fmt.Errorf("read the setup: %w", err)
	}
	s.env = append(slices.Clip(environment), set.Env...)
	note, err := enter(set)
	if err == nil && set.Linux32 {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PERSONALITY, perLinux32, 0, 0); errno != 0 {
			err = fmt.Errorf("set the linux32 personality: %w", errno)
		}
	}
	ready := reply{Note: note}
	if err != nil {
		ready.Error = err.Error()
	}
	if werr := writeMessage(s.conn, ready, nil); werr != nil || err != nil {
		return nil // the parent has the error
	}
	syscall.Umask(0o022)
	// Programs that close every descriptor up to the limit (dpkg, apt, Python 2) take minutes with a limit of 2^30.
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = min(1024, limit.Max)
		limit.Max = min(1<<19, limit.Max)
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			s.reap()
		}
	}()
	for {
		var r request
		fds, err := readMessageFiles(s.conn, &r)
		if err != nil {
			break // the parent closed the session, or is dead
		}
		if r.Kill {
			s.kill(r.ID)
		} else {
			s.start(r, fds)
		}
		for _, fd := range fds {
			syscall.Close(fd)
		}
	}
	leave()
	return nil
}

// reply tells the parent. That it is gone shows when the next request is read.
func (s *server) reply(r reply) {
	s.out.Lock()
	defer s.out.Unlock()
	writeMessage(s.conn, r, nil)
}

// start forks a program with the two descriptors as its input and output.
func (s *server) start(r request, fds []int) {
	if len(fds) != 2 {
		s.reply(reply{ID: r.ID, Error: fmt.Sprintf("got %d files with the request, want 2", len(fds))})
		return
	}
	dir := r.Dir
	if dir == "" {
		dir = "/"
	}
	attr := &syscall.ProcAttr{
		Dir:   dir,
		Env:   merge(s.env, r.Env),
		Files: []uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[1])},
		Sys:   &syscall.SysProcAttr{Chroot: liveDir, Setsid: true},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) == 0 {
		if err := denyServices(); err != nil {
			s.reply(reply{ID: r.ID, Error: err.Error()})
			return
		}
	}
	pid, err := 0, error(syscall.ENOENT)
	for _, name := range candidates(r.Args[0], attr.Env) {
		if pid, err = syscall.ForkExec(name, r.Args, attr); err == nil {
			s.running[pid] = r.ID
			return
		}
		if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.ENOTDIR) {
			break
		}
	}
	if len(s.running) == 0 {
		allowServices()
	}
	s.reply(reply{ID: r.ID, Error: explain(err, dir)})
}

// explain says what execve(2) means by its errors.
func explain(err error, dir string) string {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fmt.Sprintf("there is no such program in the root, or its interpreter or the folder %s is missing", dir)
	case errors.Is(err, syscall.ENOEXEC):
		return "this kernel cannot run it: its architecture is another one (32-bit programs on an amd64 kernel need CONFIG_IA32_EMULATION)"
	}
	return err.Error()
}

// candidates is where a program may be: its path, or its name in every folder of PATH.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var all []string
	for _, e := range env {
		if list, ok := strings.CutPrefix(e, "PATH="); ok {
			all = nil
			for _, dir := range strings.Split(list, ":") {
				all = append(all, path.Join("/", dir, name))
			}
		}
	}
	return all
}

// merge replaces variables of base by those of more.
func merge(base, more []string) []string {
	env := append([]string(nil), base...)
next:
	for _, m := range more {
		key, _, _ := strings.Cut(m, "=")
		for i, e := range env {
			if strings.HasPrefix(e, key+"=") {
				env[i] = m
				continue next
			}
		}
		env = append(env, m)
	}
	return env
}

// reap waits for every process that ended: programs, and orphans that became ours.
func (s *server) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		id, ours := s.running[pid]
		if !ours {
			continue
		}
		delete(s.running, pid)
		if len(s.running) == 0 {
			allowServices()
		}
		r := reply{ID: id, Code: status.ExitStatus()}
		if status.Signaled() {
			r.Code = 128 + int(status.Signal())
			r.Signal = unix.SignalName(status.Signal())
		}
		s.reply(r)
	}
}

// kill ends a program with all its descendants. Processes that were orphaned meanwhile have lost their ancestry: they
// are found when no other program runs.
func (s *server) kill(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid, of := range s.running {
		if of != id {
			continue
		}
		if len(s.running) == 1 {
			syscall.Kill(-1, syscall.SIGKILL) // everything in this namespace but PID 1
			return
		}
		// Stopped processes start no others while the tree is walked.
		syscall.Kill(-pid, syscall.SIGSTOP)
		tree := append(descendants(pid), pid)
		for _, p := range tree {
			syscall.Kill(p, syscall.SIGKILL)
		}
		syscall.Kill(-pid, syscall.SIGKILL)
	}
}

// descendants reads the process tree below pid from /proc.
func descendants(pid int) []int {
	entries, _ := os.ReadDir(liveDir + "/proc")
	children := map[int][]int{}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("%s/proc/%d/stat", liveDir, child))
		if err != nil {
			continue
		}
		// pid (comm) state ppid: comm may hold anything, so look behind its last parenthesis (proc(5)).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	var all []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		all = append(all, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return all
}
