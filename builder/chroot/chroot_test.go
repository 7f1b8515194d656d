package chroot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/builder/need"
)

// victimEnv makes this test binary open a session and wait to be killed.
const victimEnv = "NETROOT_TEST_VICTIM"

func TestMain(m *testing.M) {
	Main()
	if spec := os.Getenv(victimEnv); spec != "" {
		victim(spec)
	}
	os.Exit(m.Run())
}

// victim opens a session, starts a program with a child that left its process group, and prints PID 1's number.
func victim(spec string) {
	lower, work, _ := strings.Cut(spec, "|")
	s, err := Open(context.Background(), Config{Lower: lower, Work: work})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println(s.pid)
	s.Run(context.Background(), Command{Args: []string{"sh", "-c", "setsid sleep 1000 & sleep 1000"}})
}

// newRoot makes a small root of the host's busybox and the libraries it needs.
func newRoot(t *testing.T) string {
	t.Helper()
	need.Root(t)
	busybox := need.Tool(t, "busybox")
	root := filepath.Join(t.TempDir(), "root, with: signs") // separators of overlay's options
	for _, dir := range []string{"usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Symlink("usr/bin", filepath.Join(root, "bin"))
	copyIn := func(from, to string) {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to = filepath.Join(root, to)
		os.MkdirAll(filepath.Dir(to), 0o755)
		if err := os.WriteFile(to, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyIn(busybox, "usr/bin/busybox")
	libs, _ := exec.Command("ldd", busybox).CombinedOutput() // a static one has none
	for _, lib := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(libs), -1) {
		copyIn(lib[1], lib[1])
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			os.Symlink("busybox", filepath.Join(root, "usr/bin", name))
		}
	}
	return root
}

func open(t *testing.T, cfg Config) *Session {
	t.Helper()
	if cfg.Lower == "" {
		cfg.Lower = newRoot(t)
	}
	if cfg.Work == "" {
		cfg.Work = filepath.Join(t.TempDir(), "work")
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func sh(t *testing.T, s *Session, script string) string {
	t.Helper()
	var out bytes.Buffer
	if err := s.Run(t.Context(), Command{Args: []string{"sh", "-c", script}, Output: &out}); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	return out.String()
}

// mounts are those at, or of, the test's own folders: tests of other packages mount, too, at the same time.
func mounts(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Dir(t.TempDir()) + "/"
	var found strings.Builder
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, own) {
			found.WriteString(line)
		}
	}
	return found.String()
}

func TestNothingIsLeft(t *testing.T) {
	lower := newRoot(t)
	s := open(t, Config{Lower: lower})
	sh(t, s, "echo x > /etc/x; echo y > /usr/bin/busybox-copy; rm /bin/cat; mkdir /new; touch /run/r /tmp/t /dev/d")
	if during := mounts(t); during != "" {
		t.Errorf("the host sees mounts:\n%s", during)
	}
	if got, err := os.ReadFile(s.Tree() + "/etc/x"); err != nil || string(got) != "x\n" {
		t.Errorf("the change is not in the tree: %q %v", got, err)
	}
	for _, name := range []string{"run/r", "tmp/t", "dev/d", "dev/null", "proc/1", "usr/sbin/policy-rc.d"} {
		if _, err := os.Lstat(filepath.Join(s.Tree(), name)); !os.IsNotExist(err) {
			t.Errorf("%s is in the tree: %v", name, err)
		}
	}
	for _, name := range []string{"run/r", "tmp/t", "dev/null", "proc/1"} {
		if _, err := os.Lstat(filepath.Join(s.Root(), name)); err != nil {
			t.Errorf("%s is not in the live root: %v", name, err)
		}
	}
	sh(t, s, "setsid sleep 1000 >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 & true")
	ours := append(sleepers(s.pid), s.pid)
	for end := time.Now().Add(5 * time.Second); len(ours) < 3 && time.Now().Before(end); ours = append(sleepers(s.pid), s.pid) {
		time.Sleep(10 * time.Millisecond)
	}
	if len(ours) != 3 {
		t.Errorf("the daemons do not run: %v", ours)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range ours {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
			t.Errorf("process %d is left", pid)
		}
	}
	if after := mounts(t); after != "" {
		t.Errorf("mounts are left:\n%s", after)
	}
	for _, name := range []string{"etc/x", "new", "usr/bin/busybox-copy"} {
		if _, err := os.Lstat(filepath.Join(lower, name)); !os.IsNotExist(err) {
			t.Errorf("%s was written into the lower folder: %v", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(lower, "usr/bin/cat")); err != nil {
		t.Errorf("the lower folder lost a file: %v", err)
	}
	if err := s.Run(t.Context(), Command{Args: []string{"true"}}); err == nil {
		t.Error("a closed session runs programs")
	}
}

func TestKilledParent(t *testing.T) {
	need.Patience(t)
	lower, work := newRoot(t), filepath.Join(t.TempDir(), "work")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimEnv+"="+lower+"|"+work)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the victim says %q", line)
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(sleepers(pid)) < 2 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	children := sleepers(pid)
	if len(children) != 2 {
		t.Fatalf("the victim's programs do not run: %v", children)
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	gone := func() bool {
		for _, p := range append(children, pid) {
			if _, err := os.Stat("/proc/" + strconv.Itoa(p)); err == nil {
				return false
			}
		}
		return true
	}
	for !gone() && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if !gone() {
		t.Errorf("processes outlived their killed parent: PID 1 is %d, programs %v", pid, children)
	}
	if after := mounts(t); after != "" {
		t.Errorf("mounts are left:\n%s", after)
	}
	// The work folder, which the kernel marked as volatile, serves again.
	s := open(t, Config{Lower: lower, Work: work})
	sh(t, s, "true")
}

// sleepers finds the sleeps in the PID namespace of pid.
func sleepers(pid int) []int {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return nil
	}
	var found []int
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if link, _ := os.Readlink(p + "/ns/pid"); link != ns {
			continue
		}
		if cmdline, _ := os.ReadFile(p + "/cmdline"); strings.HasPrefix(string(cmdline), "sleep\x00") {
			n, _ := strconv.Atoi(filepath.Base(p))
			found = append(found, n)
		}
	}
	return found
}

func TestExit(t *testing.T) {
	s := open(t, Config{})
	for _, tt := range []struct {
		script string
		want   ExitError
	}{
		{"echo one; echo two >&2; exit 7", ExitError{Code: 7, Tail: "one\ntwo"}},
		{"kill -TERM $$", ExitError{Code: 143, Signal: "SIGTERM"}},
		{"exit 255", ExitError{Code: 255}},
	} {
		err := s.Run(t.Context(), Command{Args: []string{"sh", "-c", tt.script}})
		var got *ExitError
		if !errors.As(err, &got) {
			t.Errorf("%s: got %v", tt.script, err)
			continue
		}
		if got.Code != tt.want.Code || got.Signal != tt.want.Signal || got.Tail != tt.want.Tail {
			t.Errorf("%s: got %+v", tt.script, got)
		}
	}
	for _, tt := range []struct {
		cmd  Command
		want string
	}{
		{Command{Args: []string{"no-such-program"}}, "no such program"},
		{Command{Args: []string{"/etc"}}, "permission denied"},
		{Command{Args: []string{"sh", "-c", "true"}, Dir: "/missing"}, "/missing"},
		{Command{}, "no program"},
	} {
		if err := s.Run(t.Context(), tt.cmd); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want %q", tt.cmd, err, tt.want)
		}
	}
	if got := sh(t, s, "true"); got != "" {
		t.Errorf("after failures: %q", got)
	}
}

func TestSurroundings(t *testing.T) {
	need.Patience(t)
	t.Setenv("NETROOT_SECRET", "of the host")
	s := open(t, Config{Hostname: "built", Date: time.Unix(1700000000, 0)})
	sh(t, s, "test -c /dev/null && echo x > /dev/null && test -c /dev/pts/ptmx && test -d /proc/1 && test -d /sys/kernel")
	if got := sh(t, s, "hostname; umask; echo $HOME $DEBIAN_FRONTEND $LC_ALL; pwd"); got != "built\n0022\n/root noninteractive C.UTF-8\n/\n" {
		t.Errorf("got %q", got)
	}
	if got := sh(t, s, "env"); strings.Contains(got, "SECRET") {
		t.Errorf("the host's environment leaks: %s", got)
	}
	if got := sh(t, s, "echo $SOURCE_DATE_EPOCH"); got != "1700000000\n" {
		t.Errorf("the session's date is %q", got)
	}
	if err := s.Run(t.Context(), Command{Args: []string{"sh", "-c", "echo x > /sys/kernel/mm/ksm/run"}}); err == nil {
		t.Error("/sys can be written to")
	}
	var out bytes.Buffer
	err := s.Run(t.Context(), Command{
		Args: []string{"sh", "-c", "cat; pwd; echo $A $HOME"}, Env: []string{"A=1", "HOME=/h"}, Dir: "/etc",
		Stdin: strings.NewReader("typed\n"), Output: &out,
	})
	if err != nil || out.String() != "typed\n/etc\n1 /h\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if got := s.Mounts(); !slices.IsSorted(got) || len(got) != 5 {
		t.Errorf("mounts %v", got)
	}
	host, _ := os.Hostname()
	if host == "built" {
		t.Error("the host was renamed")
	}
	if got := sh(t, s, "for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.0$i &); done; kill -HUP 1; kill -TERM 1; kill -KILL 1; sleep 0.3; ps -o stat,comm | grep -c '^Z' || true"); got != "0\n" {
		t.Errorf("orphans are not reaped: %q zombies", got)
	}
}

func TestNoServices(t *testing.T) {
	lower := newRoot(t)
	own := filepath.Join(lower, "usr/sbin/policy-rc.d")
	if err := os.WriteFile(own, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	stamp := time.Unix(1700000000, 0)
	os.Chtimes(filepath.Join(lower, "usr/sbin"), stamp, stamp)
	s := open(t, Config{Lower: lower})
	if got := sh(t, s, "/usr/sbin/policy-rc.d ssh start; echo $?"); got != "101\n" {
		t.Errorf("the policy answers %q", got)
	}
	if got, err := os.ReadFile(s.Tree() + "/usr/sbin/policy-rc.d"); err != nil || string(got) != "#!/bin/sh\nexit 0\n" {
		t.Errorf("the root's own policy afterwards: %q %v", got, err)
	}
	if st, err := os.Stat(s.Tree() + "/usr/sbin"); err != nil || !st.ModTime().Equal(stamp) {
		t.Errorf("usr/sbin is dated %v, %v", st.ModTime(), err)
	}
}

func TestCancel(t *testing.T) {
	need.Patience(t)
	s := open(t, Config{})
	for _, script := range []string{
		"sleep 1000",
		"trap '' TERM INT; (setsid sleep 1000; sleep 1000) & (sleep 1000 &) ; sleep 1000",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		start := time.Now()
		err := s.Run(ctx, Command{Args: []string{"sh", "-c", script}})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
			t.Errorf("%s: %v after %v", script, err, time.Since(start))
		}
		if left := sleepers(s.pid); len(left) > 0 {
			t.Errorf("%s: %v are left", script, left)
		}
	}
	// The other of two programs lives on.
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context(), Command{Args: []string{"sleep", "1"}}) }()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Run(ctx, Command{Args: []string{"sh", "-c", "setsid sleep 500 & sleep 600"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the other program: %v", err)
	}
	if left := sleepers(s.pid); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

func TestDaemonDoesNotBlock(t *testing.T) {
	need.Patience(t)
	s := open(t, Config{})
	start := time.Now()
	if got := sh(t, s, "(sleep 1000 &); echo done"); got != "done\n" {
		t.Errorf("got %q", got)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("Run waited %v for a daemon", d)
	}
	// Much output is complete all the same.
	if got := sh(t, s, "yes | head -n 500000"); len(got) != 1000000 {
		t.Errorf("%d bytes of output", len(got))
	}
	long := strings.Repeat("x", 100_000)
	if got := sh(t, s, "echo "+long); len(got) != len(long)+1 {
		t.Errorf("%d bytes of %d", len(got), len(long))
	}
}

func TestLinux32(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("linux32 is a matter of amd64")
	}
	lower := newRoot(t)
	for arch, want := range map[string]string{"i386": "i686\n", "i686": "i686\n", "amd64": "x86_64\n"} {
		if want == "i686\n" && !Runs32() {
			t.Logf("%s is left out: the kernel has 32-bit programs switched off", arch)
			continue
		}
		s := open(t, Config{Lower: lower, Arch: arch})
		for range 20 { // whichever thread forks
			if got := sh(t, s, "uname -m"); got != want {
				t.Fatalf("%s: uname says %q", arch, got)
			}
		}
		s.Close()
	}
}

func TestMachine(t *testing.T) {
	rules := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(rules, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		arch, host, rule string
		linux32          bool
		err              string
	}{
		{"amd64", "amd64", "", false, ""},
		{"i386", "amd64", "", true, ""},
		{"i686", "386", "", false, ""},
		{"arm64", "amd64", "", false, "qemu-user-static"},
		{"arm64", "amd64", "disabled\n", false, "qemu-user-static"},
		{"arm64", "amd64", "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\n", false, ""},
		{"arm64", "amd64", "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: \n", false, "flag F"},
		{"sparc", "amd64", "", false, "unknown architecture"},
		{"", "arm64", "", false, ""},
	} {
		os.Remove(filepath.Join(rules, "qemu-aarch64"))
		if tt.rule != "" {
			write("qemu-aarch64", tt.rule)
		}
		linux32, err := machine(tt.arch, tt.host, func() bool { return true }, rules)
		if (tt.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.err) || linux32 != tt.linux32 {
			t.Errorf("%+v: got %v, %v", tt, linux32, err)
		}
	}
}

// A kernel may have 32-bit programs switched off; an emulator then does.
func TestMachineWithout32Bits(t *testing.T) {
	rules := t.TempDir()
	no := func() bool { return false }
	if _, err := machine("i386", "amd64", no, rules); err == nil || !strings.Contains(err.Error(), "ia32_emulation=on") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(rules, "qemu-i386"), []byte("enabled\ninterpreter /usr/bin/qemu-i386-static\nflags: OCF\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if linux32, err := machine("i686", "amd64", no, rules); err != nil || linux32 {
		t.Errorf("with an emulator: %v, %v", linux32, err)
	}
	if _, err := machine("amd64", "amd64", no, rules); err != nil {
		t.Error(err)
	}
}

// TestRuns32 compares with what the kernel says of a 32-bit program on the disk.
func TestRuns32(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("32-bit programs are of interest on amd64")
	}
	name := filepath.Join(t.TempDir(), "exit32")
	if err := os.WriteFile(name, exit32(), 0o755); err != nil {
		t.Fatal(err)
	}
	err := exec.Command(name).Run()
	if ran := err == nil; ran != Runs32() {
		t.Errorf("Runs32 is %v, and the kernel says %v", Runs32(), err)
	}
	if err != nil && !errors.Is(err, syscall.ENOEXEC) {
		t.Errorf("the kernel says %v: the program is broken", err)
	}
}

func TestOpenErrors(t *testing.T) {
	need.Patience(t)
	lower := newRoot(t)
	work := filepath.Join(t.TempDir(), "work")
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o644)
	linked := newRoot(t)
	os.Remove(filepath.Join(linked, "dev"))
	os.Symlink("/etc", filepath.Join(linked, "dev"))
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Work: work}, "no root folder"},
		{Config{Lower: "/no/such/root", Work: work}, "no such file"},
		{Config{Lower: file, Work: work}, "not a folder"},
		{Config{Lower: lower, Work: work, Arch: "vax"}, "unknown architecture"},
		{Config{Lower: lower, Work: "/proc/netroot"}, "/proc/netroot"},
		{Config{Lower: linked, Work: work}, "/dev in the root is not a folder"},
	} {
		s, err := Open(t.Context(), tt.cfg)
		if err == nil {
			s.Close()
			t.Errorf("%+v: opened", tt.cfg)
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.cfg, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Config{Lower: lower, Work: work}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// What a session changed, removals included, can lie under the next one, which leaves it alone.
func TestLayers(t *testing.T) {
	need.Patience(t)
	lower, work := newRoot(t), t.TempDir()
	s := open(t, Config{Lower: lower, Work: work})
	sh(t, s, "echo one > /etc/one; echo kept > /etc/kept; mkdir /etc/folder; echo two > /etc/folder/two")
	s.Close()
	first := Changes(work)
	work = t.TempDir()
	s = open(t, Config{Lower: lower, Layers: []string{first}, Work: work})
	if got := sh(t, s, "cat /etc/one /etc/folder/two; rm -r /etc/one /etc/folder; chmod 600 /etc/kept"); got != "one\ntwo\n" {
		t.Errorf("over a layer: %q", got)
	}
	s.Close()
	for _, c := range []struct {
		layers []string
		want   string
	}{{nil, ""}, {[]string{first}, "folder kept one"}, {[]string{first, Changes(work)}, "kept"}} {
		s := open(t, Config{Lower: lower, Layers: c.layers, Work: t.TempDir()})
		if got := sh(t, s, "cd /etc; echo $(ls -d folder kept one 2>/dev/null)"); got != c.want+"\n" {
			t.Errorf("over %d layers: %q, want %q", len(c.layers), got, c.want)
		}
		s.Close()
	}
	_, err := Open(t.Context(), Config{Lower: lower, Layers: []string{first + "/etc/kept"}, Work: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "kept is not a folder") {
		t.Errorf("a file as a layer: %v", err)
	}
}
