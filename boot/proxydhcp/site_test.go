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

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"netroot/boot/host"
)

// A site is two network namespaces with a link between them: srv has 10.77.0.3, the machine 10.77.0.150. They live as long
// as two processes of the test.
type site struct{ srv, machine int }

func newSite(t *testing.T) site {
	t.Helper()
	needs(t, "ip", "nsenter")
	s := site{namespace(t), namespace(t)}
	runIn(t, s.srv, fmt.Sprintf("ip link add eth0 type veth peer name eth0 netns %d", s.machine))
	for pid, addr := range map[int]string{s.srv: "10.77.0.3/24", s.machine: "10.77.0.150/24"} {
		runIn(t, pid, "ip link set lo up")
		runIn(t, pid, "ip addr add "+addr+" dev eth0")
		runIn(t, pid, "ip link set eth0 up")
	}
	return s
}

func namespace(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "300") // not for ever: should the test be killed, this goes too
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	startProcess(t, cmd)
	return cmd.Process.Pid
}

// startProcess ends a process with the test. Pdeathsig would end it with a thread of the test, and those come and go here.
func startProcess(t *testing.T, cmd *exec.Cmd) {
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

func runIn(t *testing.T, pid int, line string) {
	t.Helper()
	if out, err := inside(pid, strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// within runs f on a thread that is in the namespace of pid and dies afterwards.
func within(t *testing.T, pid int, f func()) {
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
func (s site) serveOurs(t *testing.T, server *Server) {
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
func (s site) ask(t *testing.T, q question, wait time.Duration) []byte {
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

func needs(t *testing.T, tools ...string) {
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

// fields takes a reply apart for comparison. dnsmasq's packets need not end in zeros, so this reads like a client.
func fields(p []byte) map[string]string {
	m := map[string]string{}
	if p == nil {
		return map[string]string{"answer": "none"}
	}
	for name, at := range map[string][2]int{"op": {0, 1}, "xid": {4, 8}, "secs": {8, 10}, "flags": {10, 12}, "ciaddr": {12, 16}, "yiaddr": {16, 20},
		"siaddr": {20, 24}, "giaddr": {24, 28}, "chaddr": {28, 44}} {
		m[name] = hex.EncodeToString(p[at[0]:at[1]])
	}
	m["sname"] = string(bytes.TrimRight(p[snameOff:fileOff], "\x00"))
	m["file"] = string(bytes.TrimRight(p[fileOff:headerLen], "\x00"))
	order := ""
	for o := p[headerLen+4:]; len(o) > 1 && o[0] != optEnd; o = o[2+o[1]:] {
		m[fmt.Sprintf("option %d", o[0])] = hex.EncodeToString(o[2 : 2+o[1]])
		order += fmt.Sprintf(" %d", o[0])
	}
	m["order"] = order
	return m
}

// differ lists where two replies differ, as "field: ours | theirs".
func differ(ours, theirs map[string]string) []string {
	var d []string
	for k, v := range ours {
		if theirs[k] != v {
			d = append(d, fmt.Sprintf("%s: %s | %s", k, v, theirs[k]))
		}
	}
	for k, v := range theirs {
		if _, ok := ours[k]; !ok {
			d = append(d, fmt.Sprintf("%s:  | %s", k, v))
		}
	}
	slices.Sort(d)
	return d
}

func TestAgainstDnsmasq(t *testing.T) {
	s := newSite(t)
	needs(t, "dnsmasq")
	questions := map[string]question{}
	theirs := map[string]map[string]string{}
	for name, q := range asked {
		questions[name] = q
	}
	dnsmasq := inside(s.srv, "dnsmasq", "-d", "-C", "/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces", "--user=root", "--dhcp-range=10.77.0.0,proxy",
		"--dhcp-boot=pxelinux.0", "--pxe-service=x86PC,netroot,pxelinux", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"))
	var said bytes.Buffer
	dnsmasq.Stderr = &said
	startProcess(t, dnsmasq)
	for name, q := range questions {
		var p []byte
		for try := 0; p == nil && try < 10; try++ { // it may still be starting
			p = s.ask(t, q, 300*time.Millisecond)
			if try >= 2 && q.to == "" {
				break
			}
		}
		theirs[name] = fields(p)
	}
	dnsmasq.Process.Kill()
	dnsmasq.Wait()
	s.serveOurs(t, &Server{Decide: func(host.Machine) host.Decision { return host.Decision{} }, Log: slog.New(slog.DiscardHandler)})
	for name, q := range questions {
		got := differ(fields(s.ask(t, q, 300*time.Millisecond)), theirs[name])
		if !slices.Equal(got, known[name]) {
			t.Errorf("%s: differs from dnsmasq in\n\t%s\nwant\n\t%s\ndnsmasq said:\n%s", name, strings.Join(got, "\n\t"), strings.Join(known[name], "\n\t"), &said)
		}
	}
}

// asked is what both servers are asked.
var asked = map[string]question{
	"discover":             {packet: discover().end(), from: nobody, port: 67, to: "x"},
	"discover without END": {packet: discover().b, from: nobody, port: 67, to: "x"},
	"intel":                {packet: newClient(7).flags(0x8000).opt(53, 1).str(60, "PXEClient:Arch:00000:UNDI:002000").opt(93, 0, 0).opt(94, 1, 2, 0).end(), from: nobody, port: 67, to: "x"},
	"boot server":          {packet: bootServerRequest().end(), from: netip.MustParseAddrPort("10.77.0.150:68"), port: 4011, to: "x"},
	"boot server, port":    {packet: bootServerRequest().end(), from: netip.MustParseAddrPort("10.77.0.150:4011"), port: 4011, to: "x"},
	"a laptop":             {packet: newClient(1).opt(53, 1).str(60, "MSFT 5.0").opt(55, 1, 3, 6).end(), from: nobody, port: 67},
	"a lease":              {packet: newClient(1).opt(53, 3).str(60, "PXEClient:Arch:00000:UNDI:002001").opt(93, 0, 0).opt(54, 10, 77, 0, 2).opt(50, 10, 77, 0, 150).end(), from: nobody, port: 67},
}

// Where the two differ, ours | theirs, and why.
var (
	// RFC 2131, table 3: a server sets secs to 0. dnsmasq leaves the client's.
	secs = "secs: 0000 | 0004"
	// dnsmasq sends a menu (prompt, boot server, item) and the client then asks port 4011. We say in the offer itself: no
	// discovery, take this file from this server. It is one round trip less, and menus are a known source of loops.
	vendor = "option 43: 060108ff | 0601030a040050584508078000010a4d0003090a8000076e6574726f6f74ff"
	siaddr = "siaddr: 0a4d0003 | 00000000"
	// iPXE: a URL, because old ones take the server of a bare name from the site's DHCP server.
	file  = "file: tftp://10.77.0.3/pxelinux.0 | pxelinux.0"
	known = map[string][]string{
		"discover":             {vendor, secs, siaddr},
		"discover without END": {vendor, secs, siaddr},
		"intel":                {vendor, secs, siaddr},
		"boot server":          {file, secs},
		"boot server, port":    {file, secs},
	}
)

// tshark is a third reader of every golden packet.
func TestTsharkReadsEveryReply(t *testing.T) {
	needs(t, "tshark")
	dir := t.TempDir()
	pcap := filepath.Join(dir, "replies.pcap")
	b := []byte{0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 101} // link type 101: raw IP
	var names []string
	for name, q := range questions {
		req, err := Parse(q.packet)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Reply(req, decision, here, q.from, q.port, q.config)
		if err != nil {
			t.Fatal(err)
		}
		n := len(a.Packet)
		b = binary.BigEndian.AppendUint32(append(b, make([]byte, 8)...), uint32(n+28))
		b = binary.BigEndian.AppendUint32(b, uint32(n+28))
		b = append(b, 0x45, 0, byte((n+28)>>8), byte(n+28), 0, 0, 0, 0, 64, 17, 0, 0)
		b = append(append(b, here.AsSlice()...), a.To.Addr().AsSlice()...)
		for _, v := range []uint16{q.port, a.To.Port(), uint16(n + 8), 0} {
			b = binary.BigEndian.AppendUint16(b, v)
		}
		b = append(b, a.Packet...)
		names = append(names, name)
	}
	if err := os.WriteFile(pcap, b, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tshark", "-r", pcap, "-d", "udp.port==4011,dhcp", "-T", "fields", "-e", "frame.number", "-e", "dhcp.option.dhcp", "-e", "dhcp.file",
		"-e", "_ws.malformed", "-e", "_ws.expert.message", "-E", "separator=;").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(names) {
		t.Fatalf("%d packets, tshark shows %d:\n%s", len(names), len(lines), out)
	}
	for i, line := range lines {
		f := strings.Split(line, ";")
		if (f[1] != "2" && f[1] != "5") || f[2] == "" || f[3] != "" || f[4] != "" {
			t.Errorf("%s: tshark reads %s", names[i], line)
		}
	}
}

func TestOnlyOnChosenInterfaces(t *testing.T) {
	s := newSite(t)
	s.serveOurs(t, &Server{Decide: func(host.Machine) host.Decision { return host.Decision{} }, Interfaces: []string{"lo", "eth7"}})
	if p := s.ask(t, asked["discover"], 300*time.Millisecond); p != nil {
		t.Errorf("answered on an interface that was not chosen:\n%s", dump(t, p))
	}
}

func TestEventsOfAnswers(t *testing.T) {
	s := newSite(t)
	said := &events{}
	log := slog.New(slog.NewTextHandler(said, nil))
	s.serveOurs(t, &Server{Log: log, Decide: func(m host.Machine) host.Decision {
		if m.Interface != "eth0" || m.UUID != "58b41815-581e-c62a-d4e2-f44d30606469" {
			return host.Decision{Ignore: true, Reason: fmt.Sprintf("asked about %+v", m)}
		}
		return host.Decision{Name: "alpha"}
	}})
	if s.ask(t, asked["discover"], time.Second) == nil || s.ask(t, asked["boot server"], time.Second) == nil {
		t.Error("no answer")
	}
	s.ask(t, asked["intel"], 200*time.Millisecond)
	for _, want := range []string{
		`msg=offer service=dhcp mac=52:54:00:12:34:56 interface=eth0 host=alpha arch=0 ipxe=false server=10.77.0.3 file=pxelinux.0`,
		`msg=ack service=dhcp mac=52:54:00:12:34:56 interface=eth0 host=alpha arch=0 ipxe=true server=10.77.0.3 file=tftp://10.77.0.3/pxelinux.0`,
		`msg=refused service=dhcp mac=52:54:00:12:34:56 interface=eth0 arch=0 reason="asked about`,
	} {
		said.wait(t, want)
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

// The port is taken: by a process that does not share it, and by one that does.
func TestPortTaken(t *testing.T) {
	s := newSite(t)
	needs(t, "dnsmasq", "python3")
	within(t, s.srv, func() {
		const hold = `import socket,sys,time
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,int(sys.argv[2]))
s.bind(("0.0.0.0",int(sys.argv[1])))
print("bound",flush=True)
time.sleep(100)`
		for _, c := range []struct {
			port  uint16
			reuse string
			ok    bool
		}{{67, "0", false}, {67, "1", true}, {4011, "1", false}} {
			holder := inside(s.srv, "python3", "-c", hold, fmt.Sprint(c.port), c.reuse)
			out, err := holder.StdoutPipe()
			if err != nil {
				t.Error(err)
				return
			}
			startProcess(t, holder)
			out.Read(make([]byte, 10))
			var said bytes.Buffer
			conn, err := Listen(context.Background(), c.port, slog.New(slog.NewTextHandler(&said, nil)))
			want := fmt.Sprintf("(pid %d)", holder.Process.Pid)
			switch {
			case (err == nil) != c.ok:
				t.Errorf("port %d, reuse %s: %v", c.port, c.reuse, err)
			case err != nil && !strings.Contains(err.Error(), want):
				t.Errorf("%v does not name %s", err, want)
			case err == nil && !strings.Contains(said.String(), want):
				t.Errorf("%s does not name %s", &said, want)
			}
			if err == nil {
				conn.Close()
			}
			holder.Process.Kill()
			holder.Wait()
		}
	})
}
