//go:build e2e

package tftpboot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"netroot/boot/host"
	"netroot/boot/httpd"
	"netroot/boot/proxydhcp"
	"netroot/boot/tftp"
	"netroot/boot/tftpboot"
	"netroot/builder/need"
	"netroot/builder/store"
)

// The machine, the site's DHCP server (dnsmasq, which knows nothing of booting) and this server are on one bridge, each in
// a network namespace that lives as long as a process of this test.

const (
	serverAddr = "10.77.0.3"
	clientMAC  = "52:54:00:12:34:56"
	assigned   = "52:54:00:12:34:57"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("NETROOT_E2E_STORE"); dir != "" {
		if err := serve(dir, os.Getenv("NETROOT_E2E_SCRIPT") != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve is the server side, run in a process of its own inside a namespace. Its events go to stdout.
func serve(dir string, script bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug}))
	st, err := store.Open(dir)
	if err != nil {
		return err
	}
	decide := func(m host.Machine) host.Decision {
		if m.MAC.String() == assigned {
			return host.Decision{Name: "alpha", Image: "tiny", Cmdline: []string{"from=policy"}}
		}
		return host.Decision{}
	}
	tree := &tftpboot.Tree{Store: st, Loader: st.LoaderDir(), Decide: decide, HTTPPort: 80}
	view := func(_, local netip.Addr) fs.FS { return tree.FS(local, host.Machine{}) }
	dhcp := &proxydhcp.Server{Decide: decide, Log: log}
	if script {
		dhcp.Config.Script = tree.ScriptURL
	}
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	run := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				errs <- err
				stop()
			}
		})
	}
	for _, role := range []proxydhcp.Role{proxydhcp.Proxy, proxydhcp.BootServer} {
		conn, err := proxydhcp.Listen(ctx, role, uint16(role), log)
		if err != nil {
			return err
		}
		run(func() error { return dhcp.Serve(ctx, conn, role) })
	}
	l, err := tftp.Listen(ctx, 69, nil)
	if err != nil {
		return err
	}
	run(func() error { return (&tftp.Server{FS: view, Log: log}).Serve(ctx, l) })
	ln, err := net.Listen("tcp4", ":80")
	if err != nil {
		return err
	}
	run(func() error { return (&httpd.Handler{FS: view, Log: log}).Serve(ctx, ln) })
	log.Info("ready")
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// namespace starts a process that holds a network namespace, and returns its pid.
func namespace(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	start(t, cmd)
	return cmd.Process.Pid
}

func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
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

func run(t *testing.T, pid int, line string) {
	t.Helper()
	if out, err := inside(pid, strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// output collects what a process prints, and wakes whoever waits for a part of it.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) wait(t *testing.T, want string, limit time.Duration) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if strings.Contains(o.String(), want) {
			return
		}
	}
	t.Fatalf("%q did not come within %v; there was:\n%s", want, limit, o)
}

type site struct {
	lab, srv int
	dir      string
	events   *output
}

// newSite builds the network and starts both servers.
func newSite(t *testing.T, env ...string) *site {
	t.Helper()
	need.Root(t)
	need.Tools(t, "qemu-system-x86_64", "dnsmasq", "nsenter", "ip", "cpio")
	s := &site{lab: namespace(t), srv: namespace(t), dir: fillStore(t), events: &output{}}
	router := namespace(t)
	for _, line := range []string{"ip link add br0 type bridge", "ip link set br0 up", "ip tuntap add tap0 mode tap", "ip link set tap0 master br0 up",
		fmt.Sprintf("ip link add r0 type veth peer name eth0 netns %d", router), fmt.Sprintf("ip link add s0 type veth peer name eth0 netns %d", s.srv),
		"ip link set r0 master br0 up", "ip link set s0 master br0 up"} {
		run(t, s.lab, line)
	}
	for pid, addr := range map[int]string{router: "10.77.0.2", s.srv: serverAddr} {
		run(t, pid, "ip link set lo up")
		run(t, pid, "ip addr add "+addr+"/24 dev eth0")
		run(t, pid, "ip link set eth0 up")
	}
	start(t, inside(router, "dnsmasq", "-d", "-C", "/dev/null", "--no-ping", "--port=0", "--dhcp-range=10.77.0.100,10.77.0.200,1h",
		"--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--user=root"))
	server := inside(s.srv, os.Args[0])
	server.Env = append(os.Environ(), append(env, "NETROOT_E2E_STORE="+s.dir)...)
	server.Stdout, server.Stderr = s.events, os.Stderr
	start(t, server)
	s.events.wait(t, `"ready"`, 10*time.Second)
	return s
}

// power switches the machine on.
func (s *site) power(t *testing.T, mac string) *output {
	t.Helper()
	console := &output{}
	vm := inside(s.lab, "qemu-system-x86_64", "-m", "512", "-nographic", "-monitor", "none", "-serial", "stdio", "-no-reboot",
		"-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no", "-device", "e1000,netdev=n0,mac="+mac, "-boot", "n")
	vm.Stdout, vm.Stderr = console, console
	start(t, vm)
	return console
}

// happened says whether there is an event with all these values.
func (s *site) happened(t *testing.T, want map[string]string) {
	t.Helper()
	for line := range strings.Lines(s.events.String()) {
		var e map[string]any
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		ok := true
		for k, v := range want {
			ok = ok && fmt.Sprint(e[k]) == v
		}
		if ok {
			return
		}
	}
	t.Errorf("no event %v in:\n%s", want, s.events)
}

func TestE2EMenuBootsTheNewest(t *testing.T) {
	s := newSite(t)
	console := s.power(t, clientMAC)
	console.wait(t, "root=nfs:10.77.0.3:/tiny@2:vers=3,proto=tcp,nolock,nocto,actimeo=86400,port=2049,mountport=2049", 3*time.Minute)
	console.wait(t, "netroot-e2e: init runs", time.Minute)
	// QEMU's BIOS copies the screen to the serial line, where pxelinux writes as well: each letter of an entry comes twice.
	if !strings.Contains(console.String(), "Automatic boot in") {
		t.Errorf("no menu was drawn on the serial console:\n%q", console)
	}
	if !strings.Contains(console.String(), "BOOTIF=01-52-54-00-12-34-56") {
		t.Error("no BOOTIF on the command line")
	}
	s.happened(t, map[string]string{"msg": "offer", "service": "dhcp", "mac": clientMAC, "interface": "eth0"})
	for _, f := range []string{"pxelinux.0", "ldlinux.c32", "pxelinux.cfg/01-52-54-00-12-34-56", "menu.c32", "libutil.c32", "tiny/2/vmlinuz", "tiny/2/initrd.img"} {
		s.happened(t, map[string]string{"msg": "read", "service": "tftp", "file": f})
	}
}

func TestE2EAssignedImageBootsAtOnce(t *testing.T) {
	s := newSite(t)
	console := s.power(t, assigned)
	console.wait(t, "netroot.hostname=alpha", 3*time.Minute)
	console.wait(t, "from=policy", time.Second)
	console.wait(t, "netroot-e2e: init runs", time.Minute)
	if strings.Contains(s.events.String(), `"file":"menu.c32"`) {
		t.Error("a machine with one image got a menu")
	}
}

func TestE2EIPXEScript(t *testing.T) {
	s := newSite(t, "NETROOT_E2E_SCRIPT=1")
	console := s.power(t, assigned)
	console.wait(t, "netroot-e2e: init runs", 3*time.Minute)
	s.happened(t, map[string]string{"msg": "read", "service": "http", "file": "tiny/2/vmlinuz"})
	s.happened(t, map[string]string{"msg": "read", "service": "http", "file": "ipxe/01-52-54-00-12-34-57"})
}

// fillStore publishes two generations of an image with a real kernel and an initramfs that says that it runs.
func fillStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Prepare(); err != nil {
		t.Fatal(err)
	}
	kernel, initrd := kernelFile(t), initramfs(t)
	for n := 1; n <= 2; n++ {
		d, err := st.Begin("tiny")
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{store.PartKernel: kernel, store.PartInitramfs: initrd, store.PartRoot: []byte("not mounted here")} {
			if err := os.WriteFile(filepath.Join(d.Dir(), name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.Publish(store.Manifest{Arch: "amd64", Created: time.Now(), Cmdline: []string{"console=ttyS0,115200", "panic=-1"}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, from := range loaderSources() {
		data, err := os.ReadFile(from)
		if err != nil {
			need.Missing(t, "install pxelinux and syslinux-common: %v", err)
		}
		if err := os.WriteFile(filepath.Join(st.LoaderDir(), name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func loaderSources() map[string]string {
	m := map[string]string{}
	for _, f := range tftpboot.LoaderFiles() {
		m[f] = "/usr/lib/syslinux/modules/bios/" + f
	}
	m["pxelinux.0"] = "/usr/lib/PXELINUX/pxelinux.0"
	return m
}

// kernelFile returns Debian's kernel for virtual machines, from the archive this host uses.
func kernelFile(t *testing.T) []byte {
	t.Helper()
	need.Tools(t, "apt-get", "apt-cache", "dpkg-deb")
	dir := t.TempDir()
	out, err := exec.Command("sh", "-ec", `cd "$1"
p=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: *\(linux-image-[0-9].*\)/\1/p' | head -n 1)
apt-get -qq -o APT::Sandbox::User=root download "$p" >&2
dpkg-deb -x linux-image-*.deb root
cat root/boot/vmlinuz-*`, "sh", dir).Output()
	if err != nil {
		need.Missing(t, "download a kernel: %v", err)
	}
	return out
}

// initramfs holds one static program, which prints that it runs, and how the kernel was started, and switches the machine off.
func initramfs(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "main.go")
	const program = `package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	os.Mkdir("/proc", 0o755)
	syscall.Mount("proc", "/proc", "proc", 0, "")
	b, _ := os.ReadFile("/proc/cmdline")
	fmt.Printf("netroot-e2e: %snetroot-e2e: init runs\n", b)
	syscall.Sync()
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
}
`
	if err := os.WriteFile(src, []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", bin, src)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build init: %v: %s", err, out)
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	for _, h := range []*cpio.Header{{Name: "dev", Mode: cpio.TypeDir | 0o755, Links: 2}, {Name: "init", Mode: cpio.TypeReg | 0o755, Size: int64(len(data)), Links: 1}} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Name == "init" {
			w.Write(data)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
