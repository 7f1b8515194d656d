package proxydhcp

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"netroot/boot/host"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// serveEnv makes the test program a server, for what needs one in a process of its own.
const serveEnv = "NETROOT_PROXYDHCP_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) == "" {
		os.Exit(m.Run())
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve answers on both ports until it is killed. Its events go to stdout.
func serve() error {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	server := &Server{Decide: host.Default().Decide, Log: log}
	errs := make(chan error)
	for _, port := range []uint16{portServer, portBootServer} {
		conn, err := Listen(context.Background(), port, log)
		if err != nil {
			return err
		}
		go func() { errs <- server.Serve(context.Background(), conn) }()
	}
	return <-errs
}

// A site is two network namespaces with a link between them: srv has 10.77.0.3, the machine 10.77.0.150. They live as long
// as two processes of the test.
type site struct{ srv, machine int }

func newSite(t testing.TB) site {
	t.Helper()
	needs(t, "ip", "nsenter")
	s := site{namespace(t), namespace(t)}
	runIn(t, s.srv, fmt.Sprintf("ip link add eth0 type veth peer name eth0 netns %d", s.machine))
	for pid, addr := range map[int]string{s.srv: "10.77.0.3/24", s.machine: "10.77.0.150/24"} {
		runIn(t, pid, "ip link set lo up")
		runIn(t, pid, "ip addr add "+addr+" dev eth0")
		runIn(t, pid, "ip link set eth0 up")
	}
	s.ready(t)
	return s
}

// ready waits until both ends of the link carry packets. The kernel gives an interface its queue some time after its other
// end came up, under load a second later, and drops what is sent before.
func (s site) ready(t testing.TB) {
	t.Helper()
	for _, pid := range []int{s.srv, s.machine} {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			out, err := inside(pid, "ip", "-o", "link", "show", "eth0").CombinedOutput()
			if err == nil && bytes.Contains(out, []byte(" state UP ")) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("eth0 does not come up: %v: %s", err, out)
			}
		}
	}
}

func namespace(t testing.TB) int {
	t.Helper()
	cmd := exec.Command("sleep", "300") // not for ever: should the test be killed, this goes too
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	startProcess(t, cmd)
	return cmd.Process.Pid
}

// startProcess ends a process with the test. Pdeathsig would end it with a thread of the test, and those come and go here.
func startProcess(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

func inside(pid int, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", fmt.Sprint(pid), "-n", "--"}, args...)...)
}

func runIn(t testing.TB, pid int, line string) {
	t.Helper()
	if out, err := inside(pid, strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// within runs f on a thread that is in the namespace of pid and dies afterwards.
func within(t testing.TB, pid int, f func()) {
	t.Helper()
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		t.Error(err)
		return
	}
	defer ns.Close()
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := netns.Set(ns); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	wg.Wait()
}

// serveOurs runs a Server on both ports, and returns when it has its sockets.
func (s site) serveOurs(t testing.TB, server *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	ready := make(chan error, 2)
	for _, port := range []uint16{67, 4011} {
		wg.Add(1)
		go within(t, s.srv, func() {
			defer wg.Done()
			conn, err := Listen(ctx, port, nil)
			ready <- err
			if err == nil {
				if err := server.Serve(ctx, conn); err != nil {
					t.Error(err)
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	for range 2 {
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
	}
}

// ask sends a packet as the machine, and returns the first answer, or nil when none comes.
func (s site) ask(t testing.TB, q question, wait time.Duration) []byte {
	t.Helper()
	var conn net.PacketConn
	within(t, s.machine, func() {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth0") })
		}}
		var err error
		if conn, err = lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf("0.0.0.0:%d", q.from.Port())); err != nil {
			t.Error(err)
		}
	})
	if conn == nil {
		t.FailNow()
	}
	defer conn.Close()
	to := net.IPv4bcast
	if q.port == 4011 {
		to = net.IPv4(10, 77, 0, 3)
	}
	if _, err := conn.WriteTo(q.packet, &net.UDPAddr{IP: to, Port: int(q.port)}); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 2000)
	n, from, err := conn.ReadFrom(buf)
	if err != nil {
		return nil
	}
	if from.String() != fmt.Sprintf("10.77.0.3:%d", q.port) {
		t.Errorf("the answer came from %v", from)
	}
	return slices.Clone(buf[:n])
}

func needs(t testing.TB, tools ...string) {
	t.Helper()
	reason := ""
	if os.Getuid() != 0 {
		reason = "network namespaces need root"
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			reason = err.Error()
		}
	}
	switch {
	case reason == "":
	case os.Getenv("CI") != "":
		t.Fatal(reason)
	default:
		t.Skip(reason)
	}
}

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

func (e *events) wait(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		e.mu.Lock()
		said := e.b.String()
		e.mu.Unlock()
		switch {
		case strings.Contains(said, want):
			return
		case time.Now().After(end):
			t.Errorf("no event %s in:\n%s", want, said)
			return
		}
	}
}
