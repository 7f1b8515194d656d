//go:build e2e

package boot_test

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/boot/vm"
	"netroot/builder/need"
	"netroot/builder/store"
)

// peerPackages are those of recipes/debian-12.yaml, and what the hand-made way makes its initramfs with.
const peerPackages = "linux-image-amd64,initramfs-tools,busybox,systemd-sysv,udev,dbus,libpam-systemd," +
	"iproute2,isc-dhcp-client,kmod,ca-certificates,iputils-ping,less,netbase,procps,openssh-server"

// BenchmarkBoot times a whole boot, from the first question for a file to the login prompt, in QEMU: netroot by each of
// its loaders against the hand-made way, which is dnsmasq as proxy and TFTP server, nfs-ganesha, Debian's own
// initramfs and a root by mmdebstrap with the same packages. They take turns in the same run, because a machine without KVM
// takes what time the host has left for it: the figures to quote are the ratios.
//
//	NETROOT_PEER_ROOT=…   a root made by mmdebstrap to use again
func BenchmarkBoot(b *testing.B) {
	need.Root(b)
	need.Tools(b, "mmdebstrap", "ganesha.nfsd", "rpcbind", "dnsmasq", "unshare", "qemu-system-x86_64")
	bench, err := setUp()
	if err != nil {
		b.Fatal(err)
	}
	gen := benchImage(b, bench)
	peer := peerRoot(b)
	ways := []struct {
		name string
		boot func(b *testing.B, lab *vm.Lab)
	}{
		{"handmade", func(b *testing.B, lab *vm.Lab) { servePeer(b, lab, peer) }},
		{"tftp", bench.serving(gen, "ipxe: pxelinux")},
		{"lpxelinux", bench.serving(gen, "ipxe: pxelinux\nloader: lpxelinux.0")},
		{"http", bench.serving(gen, "ipxe: script")},
	}
	total := map[string]time.Duration{}
	for b.Loop() {
		for _, way := range ways {
			total[way.name] += timeBoot(b, way.name, way.boot)
		}
	}
	b.ReportMetric(0, "ns/op") // of all ways together: no figure to quote
	for _, way := range ways {
		b.ReportMetric(total[way.name].Seconds()/float64(b.N), way.name+"-s")
		if way.name != "handmade" {
			b.ReportMetric(total[way.name].Seconds()/total["handmade"].Seconds(), way.name+"/handmade")
		}
	}
}

func benchImage(b *testing.B, bench *bench) store.Generation {
	gen, err := bench.current("debian-12")
	if err == nil {
		return gen
	}
	if out, err := exec.Command(bench.program, "build", "debian-12", "--store", bench.store, "--progress", "none").CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	if gen, err = bench.current("debian-12"); err != nil {
		b.Fatal(err)
	}
	return gen
}

func peerRoot(b *testing.B) string {
	if root := os.Getenv("NETROOT_PEER_ROOT"); root != "" {
		return root
	}
	root := filepath.Join(b.TempDir(), "root")
	if out, err := exec.Command("mmdebstrap", "--quiet", "--variant=apt", "--include="+peerPackages, "bookworm", root).CombinedOutput(); err != nil {
		b.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	return root
}

// timeBoot boots a machine on whatever serve starts, and returns the time from the first question for a file to the login prompt.
func timeBoot(b *testing.B, name string, serve func(*testing.B, *vm.Lab)) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	lab, err := vm.Open(ctx, vm.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer lab.Close()
	serve(b, lab)
	first, stop := firstQuestion(b, lab)
	defer stop()
	m, err := lab.Boot(vm.MachineConfig{Spec: vm.Spec{Accel: "tcg"}})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Stop()
	work := followWork(m)
	// What waits for a person: Debian's initramfs, the ROM.
	for _, text := range []string{"No init found", "No more network devices"} {
		go func() {
			if _, err := m.WaitConsole(ctx, 0, text); err == nil {
				cancel()
			}
		}()
	}
	if err := m.WaitPrompt(ctx, "login:"); err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	up := time.Now()
	from := <-first
	var report strings.Builder
	at := func(what string, when time.Time) {
		fmt.Fprintf(&report, "  %-28s %6.1f s  %6.1f s of processor\n", what, when.Sub(from).Seconds(), (work(when) - work(from)).Seconds())
	}
	for _, l := range m.Console() {
		for _, word := range []string{"Linux version", "Run /init as init", "stage=network", "stage=nfs-root", "running in system mode", "Reached target multi-user", "Reached target sysinit"} {
			if strings.Contains(l.Text, word) {
				at(word, l.Time)
			}
		}
	}
	at("login", up)
	b.Logf("%s\n%s", name, report.String())
	return up.Sub(from)
}

// followWork tells, for any time in the past, how much processor time the machine had taken by then.
func followWork(m *vm.Machine) func(time.Time) time.Duration {
	type sample struct {
		at   time.Time
		work time.Duration
	}
	var mu sync.Mutex
	var samples []sample
	go func() {
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-m.Done():
				return
			case now := <-tick.C:
				work, err := m.CPUTime()
				if err != nil {
					return
				}
				mu.Lock()
				samples = append(samples, sample{now, work})
				mu.Unlock()
			}
		}
	}()
	return func(at time.Time) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		var last time.Duration
		for _, s := range samples {
			if s.at.After(at) {
				break
			}
			last = s.work
		}
		return last
	}
}

// firstQuestion gives the time when the server got the first packet that asks for a file by TFTP or opens a connection to
// its HTTP port.
func firstQuestion(b *testing.B, lab *vm.Lab) (<-chan time.Time, func()) {
	b.Helper()
	fd := -1
	err := lab.Do(vm.NSServer, func() error {
		card, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		ip := bits.ReverseBytes16(unix.ETH_P_IP)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(ip)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: card.Index})
	})
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	}
	if err != nil {
		b.Fatal(err)
	}
	found, over := make(chan time.Time, 1), make(chan struct{})
	go func() {
		defer unix.Close(fd)
		for buf := make([]byte, 128); ; {
			select {
			case <-over:
				return
			default:
			}
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				return
			}
			head := 0
			if n > 0 {
				head = int(buf[0]&15) * 4
			}
			if n < head+4 || head < 20 {
				continue
			}
			port := int(buf[head+2])<<8 | int(buf[head+3])
			if buf[9] == unix.IPPROTO_UDP && port == 69 || buf[9] == unix.IPPROTO_TCP && port == 80 {
				found <- time.Now()
				return
			}
		}
	}()
	return found, func() { close(over) }
}

// serving starts netroot serve with one more line of policy.
func (s *bench) serving(gen store.Generation, policy string) func(*testing.B, *vm.Lab) {
	return func(b *testing.B, lab *vm.Lab) {
		_, err := lab.Serve(b.Context(), vm.ServerConfig{Program: s.program, Store: s.store,
			Policy: policy + "\n" + vm.Policy(vm.DefaultMAC.String(), "diskless", gen.Ref())})
		if err != nil {
			b.Fatal(err)
		}
	}
}

const peerMenu = `DEFAULT linux
SERIAL 0 115200
LABEL linux
  KERNEL vmlinuz
  INITRD initrd.img
  APPEND root=/dev/nfs nfsroot=10.77.0.3:%s,vers=3,tcp,nolock,port=2049 ip=dhcp rw console=tty0 console=ttyS0,115200
`

const peerExport = `NFS_CORE_PARAM { Protocols = 3; NFS_Port = 2049; MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = false; }
EXPORT { Export_Id = 1; Path = %[1]s; Pseudo = %[1]s; Protocols = 3; Transports = TCP; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; FSAL { Name = VFS; } }
`

// servePeer starts the hand-made way in the server's place. rpcbind and nfs-ganesha get a /run and a process namespace of
// their own: they cannot meet those of this host, and they end when their parent does.
func servePeer(b *testing.B, lab *vm.Lab, root string) {
	b.Helper()
	dir := b.TempDir()
	tree := filepath.Join(dir, "tftp")
	put := func(name string, data []byte) {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
			b.Fatal(err)
		}
	}
	for name, pattern := range map[string]string{
		"vmlinuz": root + "/boot/vmlinuz-*", "initrd.img": root + "/boot/initrd.img-*",
		"pxelinux.0": "/usr/lib/PXELINUX/pxelinux.0", "ldlinux.c32": "/usr/lib/syslinux/modules/bios/ldlinux.c32",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) != 1 {
			b.Fatalf("%s: %v %v", pattern, found, err)
		}
		data, err := os.ReadFile(found[0])
		if err != nil {
			b.Fatal(err)
		}
		put("tftp/"+name, data)
	}
	put("tftp/pxelinux.cfg/default", fmt.Appendf(nil, peerMenu, root))
	put("ganesha.conf", fmt.Appendf(nil, peerExport, root))
	start := func(cmd *exec.Cmd) {
		if _, err := lab.Start(vm.NSServer, cmd); err != nil {
			b.Fatal(err)
		}
	}
	start(exec.Command("dnsmasq", "--keep-in-foreground", "--log-facility=/dev/null", "--conf-file=/dev/null", "--user=root", "--group=root", "--port=0", "--pid-file=",
		"--leasefile-ro", "--dhcp-range=10.77.0.0,proxy", "--pxe-service=x86PC,linux,pxelinux", "--enable-tftp", "--tftp-root="+tree))
	start(exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
		"mount -t tmpfs tmpfs /run && mkdir -p /run/rpcbind /run/ganesha && rpcbind -w && exec ganesha.nfsd -F -N WARN -L "+dir+"/ganesha.log -p /run/ganesha.pid -f "+dir+"/ganesha.conf"))
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := lab.Do(vm.NSServer, func() error {
			c, err := net.Dial("tcp4", "127.0.0.1:2049")
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(dir + "/ganesha.log")
			b.Fatalf("nfs-ganesha does not listen: %v\n%s", err, log)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
