package proxydhcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"netroot/boot/host"
	"netroot/builder/need"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// serveEnv makes the test program a server, one of servers, for what needs it in a process of its own.
const serveEnv = "NETROOT_PROXYDHCP_SERVE"

var servers = map[string]func() error{"netroot": serve}

func TestMain(m *testing.M) {
	run := servers[os.Getenv(serveEnv)]
	if run == nil {
		os.Exit(m.Run())
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve answers machines whose MAC starts with 52 on both ports until it is killed. Its events go to stdout.
func serve() error {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	server := &Server{Log: log, Decide: func(m host.Machine) host.Decision {
		return host.Decision{Ignore: m.MAC[0] != 0x52}
	}}
	errs := make(chan error)
	for _, role := range []Role{Proxy, BootServer} {
		conn, err := Listen(context.Background(), role, uint16(role), log)
		if err != nil {
			return err
		}
		go func() { errs <- server.Serve(context.Background(), conn, role) }()
	}
	return <-errs
}

// A site is two network namespaces with a link between them: srv has 10.77.0.3, the machine 10.77.0.150. They live as long
// as two processes of the test.
type site struct{ srv, machine int }

func newSite(t testing.TB) site {
	t.Helper()
	need.Root(t)
	need.Tools(t, "ip", "nsenter")
	s := site{namespace(t), namespace(t)}
	for _, pid := range []int{s.srv, s.machine} {
		runIn(t, pid, "ip link set lo up")
	}
	s.connect(t)
	return s
}

// connect makes the link, and waits until it is up.
func (s site) connect(t testing.TB) {
	t.Helper()
	runIn(t, s.srv, fmt.Sprintf("ip link add eth0 type veth peer name eth0 netns %d", s.machine))
	for pid, addr := range map[int]string{s.srv: "10.77.0.3/24", s.machine: "10.77.0.150/24"} {
		runIn(t, pid, "ip addr add "+addr+" dev eth0")
		runIn(t, pid, "ip link set eth0 up")
	}
	s.ready(t)
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

// serveOurs runs a Server on both ports, and returns when it has its sockets. It ends by stop, or with the test.
func (s site) serveOurs(t testing.TB, server *Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	ready := make(chan error, 2)
	for _, role := range []Role{Proxy, BootServer} {
		wg.Add(1)
		go within(t, s.srv, func() {
			defer wg.Done()
			conn, err := Listen(ctx, role, uint16(role), nil)
			ready <- err
			if err == nil {
				if err := server.Serve(ctx, conn, role); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	for range 2 {
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
	}
	return stop
}

// serveApart runs a server in a process of its own, its events going to a file, and returns when it answers.
func (s site) serveApart(t testing.TB) *exec.Cmd {
	t.Helper()
	cmd := s.program("netroot")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	startProcess(t, cmd)
	s.await(t)
	return cmd
}

// program is this program as one of servers.
func (s site) program(server string) *exec.Cmd {
	cmd := inside(s.srv, os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+server)
	return cmd
}

// await waits for the first answer.
func (s site) await(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); s.ask(t, asked["discover"], 50*time.Millisecond) == nil; {
		if time.Now().After(end) {
			t.Fatal("the server does not answer")
		}
	}
}

// dnsmasq runs the other proxy-DHCP server, with the same file for the same machines, and returns when it listens.
func (s site) dnsmasq(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := inside(s.srv, append([]string{"dnsmasq", "-k", "-C", "/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces", "--user=root", "--pid-file=",
		"--dhcp-range=10.77.0.0,proxy", "--dhcp-boot=pxelinux.0", "--pxe-service=x86PC,netroot,pxelinux", "--pxe-service=X86-64_EFI,netroot,snponly.efi",
		"--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases")}, args...)...)
	startProcess(t, cmd)
	s.await(t)
	return cmd
}

// asked are questions of two clients.
var asked = map[string]question{
	"discover":    {packet: discover().end(), from: nobody, role: Proxy},
	"intel":       {packet: newClient(7).flags(0x8000).opt(53, 1).str(60, "PXEClient:Arch:00000:UNDI:002000").opt(93, 0, 0).opt(94, 1, 2, 0).end(), from: nobody, role: Proxy},
	"boot server": {packet: bootServerRequest().end(), from: leased, role: BootServer},
}

// socket opens one of the machine.
func (s site) socket(t testing.TB, port uint16) *net.UDPConn {
	t.Helper()
	var conn net.PacketConn
	within(t, s.machine, func() {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth0")
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
			})
		}}
		var err error
		if conn, err = lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf("0.0.0.0:%d", port)); err != nil {
			t.Error(err)
		}
	})
	if conn == nil {
		t.FailNow()
	}
	return conn.(*net.UDPConn)
}

// target is where a question is sent to.
func (q question) target() *net.UDPAddr {
	if q.role == BootServer {
		return &net.UDPAddr{IP: here.AsSlice(), Port: int(BootServer)}
	}
	return &net.UDPAddr{IP: net.IPv4bcast, Port: portServer}
}

// ask sends a packet as the machine, and returns the first answer, or nil when none comes.
func (s site) ask(t testing.TB, q question, wait time.Duration) []byte {
	t.Helper()
	conn := s.socket(t, q.from.Port())
	defer conn.Close()
	if _, err := conn.WriteTo(q.packet, q.target()); err != nil {
		t.Fatal(err)
	}
	return receive(t, conn, q.role, wait, xid(q.packet))
}

func xid(p []byte) uint32 { return binary.BigEndian.Uint32(p[4:]) }

// receive returns the next packet of one of these transactions. It must come from the address that it says is its server's.
func receive(t testing.TB, conn *net.UDPConn, role Role, wait time.Duration, ids ...uint32) []byte {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 2000)
	n, from, err := conn.ReadFrom(buf)
	for err == nil && !slices.Contains(ids, xid(buf)) { // late answers to somebody before
		n, from, err = conn.ReadFrom(buf)
	}
	if err != nil {
		return nil
	}
	id, _ := hex.DecodeString(fields(buf[:n])["option 54"])
	if server, _ := netip.AddrFromSlice(id); from.String() != netip.AddrPortFrom(server, uint16(role)).String() {
		t.Errorf("an answer of server %v came from %v", server, from)
	}
	return slices.Clone(buf[:n])
}

// answer returns the answer to a packet, or nil when there is none. On port 67, where there may be none, it is followed by one
// that is surely answered, so that nobody has to wait.
func (s site) answer(t testing.TB, q question) []byte {
	t.Helper()
	if q.role == BootServer {
		return s.ask(t, q, 5*time.Second)
	}
	conn := s.socket(t, q.from.Port())
	defer conn.Close()
	const last = 0x0badcafe
	control := slices.Clone(asked["intel"].packet)
	binary.BigEndian.PutUint32(control[4:], last)
	for _, p := range [][]byte{q.packet, control} {
		if _, err := conn.WriteTo(p, q.target()); err != nil {
			t.Fatal(err)
		}
	}
	p := receive(t, conn, q.role, 10*time.Second, xid(q.packet), last)
	switch {
	case p == nil:
		t.Fatal("not even the packet that is surely answered was")
	case xid(p) == last:
		return receive(t, conn, q.role, 50*time.Millisecond, xid(q.packet)) // should it have been overtaken
	}
	return p
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
