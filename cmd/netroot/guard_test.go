package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netroot/boot/vm"
	"netroot/builder/image"
	"netroot/builder/need"
	"netroot/builder/store"
)

// A guarded network is a lab with the real serve, asked by other people's clients.
type guarded struct {
	lab    *vm.Lab
	server *vm.Server
	store  string
	pid    string // file with the server's process ID
}

const (
	listedMAC   = "02:00:00:00:00:01"
	unlistedMAC = "02:00:00:00:00:02"
	secret      = "root:$y$j9T$" // what is in the root image
)

// openGuarded makes the networks 10.77.0.0/24 and 10.78.0.0/24. The host router (10.77.0.2, with listedMAC) stands for a machine,
// and the lab's bridge (10.77.0.151, with unlistedMAC) for another; 10.99.0.0/24 is behind the router.
func openGuarded(t *testing.T, policy string, args ...string) *guarded {
	t.Helper()
	lab := openLab(t)
	s := &guarded{lab: lab}
	s.sh(t, vm.NSRouter, "ip link set eth0 address "+listedMAC+" && ip addr add 10.99.0.5/32 dev lo && ip addr add 10.99.0.6/32 dev lo")
	s.sh(t, vm.NSLab, "ip link set br0 address "+unlistedMAC+" && ip addr add 10.77.0.151/24 dev br0 && ip link set br1 address 02:00:00:00:00:03 && ip addr add 10.78.0.151/24 dev br1")
	s.sh(t, vm.NSServer, "ip route add 10.99.0.0/24 via 10.77.0.2")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s.pid = filepath.Join(t.TempDir(), "pid")
	s.store = testStoreIn(t, lab.Dir())
	config := vm.ServerConfig{Program: programWithUser(t, s.pid), Store: s.store, Policy: policy, Args: append([]string{"--user", "netroot"}, args...)}
	server, err := lab.Serve(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	s.server = server
	return s
}

func openLab(t *testing.T) *vm.Lab {
	t.Helper()
	need.Root(t)
	need.Tools(t, "dnsmasq", "curl", "nfs-cat", "ip", "unshare")
	lab, err := vm.Open(t.Context(), vm.Config{Networks: []netip.Prefix{vm.DefaultNetwork, netip.MustParsePrefix("10.78.0.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// program is this test, called by the name under which it is netroot.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "netroot")
	if err := os.Symlink(self, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// programWithUser is a script that runs program where there is a user netroot. Its policy is readable for that user, unless
// PRIVATE is set.
func programWithUser(t *testing.T, pid string) string {
	t.Helper()
	return programAmong(t, pid, "netroot")
}

// programAmong is programWithUser with a user of that name, or without the user netroot.
func programAmong(t *testing.T, pid, user string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"passwd", "group"} {
		data, err := os.ReadFile("/etc/" + name)
		if err != nil {
			t.Fatal(err)
		}
		entry := map[string]string{"passwd": user + ":x:54321:54321::/nonexistent:/usr/sbin/nologin\n", "group": user + ":x:54321:\n"}
		if user == "" {
			clear(entry)
			data = regexp.MustCompile(`(?m)^netroot:.*\n`).ReplaceAll(data, nil)
		}
		if err := os.WriteFile(filepath.Join(dir, name), append(data, entry[name]...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf(`#!/bin/sh
# netroot serve --json --store STORE --config FILE …
chmod 711 "$(dirname "$6")"
[ "$PRIVATE" ] || chmod 644 "$6"
echo $$ > %[3]s
exec unshare -m sh -c 'mount --bind %[1]s/passwd /etc/passwd; mount --bind %[1]s/group /etc/group; exec %[2]s "$@"' sh "$@"
`, dir, program(t), pid)
	name := filepath.Join(dir, "serve")
	if err := os.WriteFile(name, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// testStore is a store with one image.
func testStore(t *testing.T) string { return testStoreIn(t, t.TempDir()) }

func testStoreIn(t *testing.T, dir string) string {
	t.Helper()
	s, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Begin("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Abort()
	root := t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(root, "shadow"): secret, filepath.Join(d.Dir(), store.PartKernel): "the kernel", filepath.Join(d.Dir(), store.PartInitramfs): "the initramfs",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := image.Write(t.Context(), filepath.Join(d.Dir(), store.PartRoot), root, image.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Publish(store.Manifest{}); err != nil {
		t.Fatal(err)
	}
	return s.Dir()
}

// run runs a command in a namespace and returns what it printed.
func (s *guarded) run(t *testing.T, ns string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = t.TempDir()
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := s.lab.Start(ns, cmd)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		p.Kill()
		t.Fatalf("%v does not end", args)
	}
	_, err = p.Exited()
	return out.String(), err
}

func (s *guarded) sh(t *testing.T, ns, script string) {
	t.Helper()
	if out, err := s.run(t, ns, "sh", "-c", script); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// fetch gets a file by every protocol, and returns what each said: the content, or how it was refused.
func (s *guarded) fetch(t *testing.T, ns, from, server string) map[string]string {
	t.Helper()
	got := map[string]string{}
	var curl []string
	if from != "" {
		curl = []string{"--interface", from}
	}
	http, _ := s.run(t, ns, append([]string{"curl", "-s", "-m", "10", "-w", " %{http_code}", "http://" + server + "/debian-12/1/vmlinuz"}, curl...)...)
	got["http"] = http
	tftp, _ := s.run(t, ns, append([]string{"curl", "-s", "-S", "-m", "2", "tftp://" + server + "/debian-12/1/vmlinuz"}, curl...)...)
	got["tftp"] = tftp
	if from == "" {
		nfs, err := s.run(t, ns, "timeout", "10", "nfs-cat", "nfs://"+server+"/debian-12/shadow?version=3&nfsport=2049&mountport=2049")
		if got["nfs"] = nfs; err != nil {
			got["nfs"] = "refused"
		}
	}
	return got
}

// admitted and refused are what fetch returns.
func (s *guarded) admitted(t *testing.T, who string, got map[string]string) {
	t.Helper()
	want := map[string]string{"http": "the kernel 200", "tftp": "the kernel", "nfs": secret}
	for service, said := range got {
		if said != want[service] {
			t.Errorf("%s by %s: %q", who, service, said)
		}
	}
}

func (s *guarded) refused(t *testing.T, who string, got map[string]string) {
	t.Helper()
	for service, said := range got {
		if strings.Contains(said, "the kernel") || strings.Contains(said, secret) ||
			service == "http" && !strings.HasSuffix(said, " 403") ||
			service == "tftp" && !strings.HasPrefix(said, "curl: (69)") && !strings.HasPrefix(said, "curl: (28)") || // an access violation, or nothing at all
			service == "nfs" && said != "refused" {
			t.Errorf("%s by %s: %q", who, service, said)
		}
	}
}

// logged waits for a refusal.
func (s *guarded) logged(t *testing.T, service, client, mac, reason string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := s.server.WaitEvent(ctx, 0, func(e vm.Event) bool {
		return e.Message == "refused" && e.Service == service && e.Client == client && e.MAC == mac && strings.Contains(e.Reason, reason)
	}); err != nil {
		t.Errorf("the refusal of %s by %s is not logged: %+v", client, service, s.server.Events())
	}
}

// With default: ignore, machines that are listed are served, and nobody else, not even a user of the server itself.
func TestGuard(t *testing.T) {
	need.Patience(t)
	t.Parallel()
	s := openGuarded(t, `default: ignore
hosts:
  - {name: listed, mac: "`+listedMAC+`", image: debian-12}
  - {name: remote, address: 10.99.0.5, image: debian-12}
`)
	const server = "10.77.0.3"
	s.admitted(t, "the listed machine", s.fetch(t, vm.NSRouter, "", server))
	s.admitted(t, "the listed machine behind a router", s.fetch(t, vm.NSRouter, "10.99.0.5", server))
	s.refused(t, "a machine behind a router that is not listed", s.fetch(t, vm.NSRouter, "10.99.0.6", server))
	s.refused(t, "a neighbour", s.fetch(t, vm.NSLab, "", server))
	s.refused(t, "a user of the server", s.fetch(t, vm.NSServer, "", "127.0.0.1"))
	s.refused(t, "a user of the server", s.fetch(t, vm.NSServer, "", server))
	for _, service := range []string{"http", "tftp", "nfs"} {
		s.logged(t, service, "10.77.0.151", unlistedMAC, "is not listed, and default is ignore")
		s.logged(t, service, "127.0.0.1", "", "asked from this machine itself")
	}
	s.logged(t, "http", "10.99.0.6", "", "is not listed")
	if out, err := s.run(t, vm.NSServer, "curl", "-s", "http://127.0.0.1/healthz"); err != nil || out != "ok\n" {
		t.Errorf("healthz: %q, %v", out, err)
	}
	// What the listed machine did is told with its name.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	for _, message := range []string{"read", "mount"} {
		if _, err := s.server.WaitEvent(ctx, 0, func(e vm.Event) bool {
			return e.Message == message && e.MAC == listedMAC && strings.Contains(e.Raw, `"host":"listed"`)
		}); err != nil {
			t.Errorf("no %s by the listed machine: %v", message, err)
		}
	}

	// The server was killed and has forgotten, and so has the kernel: nobody who is listed is refused.
	s.server.Kill()
	s.sh(t, vm.NSServer, "ip neigh flush all")
	if err := s.server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.admitted(t, "the listed machine after a restart", s.fetch(t, vm.NSRouter, "", server))

	t.Run("forged", func(t *testing.T) {
		forged(t, s, server)
	})
	t.Run("flood", func(t *testing.T) {
		flood(t, s, server)
	})
}

// forged has the neighbour ask with the addresses of others: it sees nothing of the answers.
func forged(t *testing.T, s *guarded, server string) {
	for _, from := range []string{"10.77.0.2", "10.77.0.99", "10.99.0.5"} {
		var got int
		err := s.lab.Do(vm.NSLab, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1); err != nil {
				return err
			}
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}); err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 2000, Addr: netip.MustParseAddr(from).As4()}); err != nil {
				return err
			}
			request := append([]byte{0, 1}, "debian-12/1/vmlinuz\x00octet\x00"...)
			if err := unix.Sendto(fd, request, 0, &unix.SockaddrInet4{Port: 69, Addr: netip.MustParseAddr(server).As4()}); err != nil {
				return err
			}
			got, _, err = unix.Recvfrom(fd, make([]byte, 2000), 0)
			if errors.Is(err, unix.EAGAIN) {
				err = nil
			}
			return err
		})
		if err != nil || got > 0 {
			t.Errorf("a request with the address %s forged: %d bytes, %v", from, got, err)
		}
	}
	s.logged(t, "tftp", "10.77.0.99", "", "it did not tell its MAC address")
}

// getport asks the portmapper where NFS is (RFC 1833, section 3).
var getport = func() (call []byte) {
	for _, word := range []uint32{1, 0, 2, 100000, 2, 3, 0, 0, 0, 0, 100003, 3, 6, 0} {
		call = binary.BigEndian.AppendUint32(call, word)
	}
	return call
}()

// flood has the neighbour ask by TFTP and the portmapper with the addresses of machines that are not there: one that is listed does not
// notice.
func flood(t *testing.T, s *guarded, server string) {
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		sent := 0
		stopped <- s.lab.Do(vm.NSLab, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			to := netip.MustParseAddr(server).As4()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for ; ; sent++ {
				select {
				case <-stop:
					if sent < 500 {
						return fmt.Errorf("only %d packets were sent", sent)
					}
					return nil
				case <-tick.C:
				}
				from := [4]byte{10, 77, 0, byte(20 + sent/2%100)}
				packet := udp(from, to, 69, append([]byte{0, 1}, "debian-12/1/vmlinuz\x00octet\x00"...))
				if sent%2 == 1 {
					packet = udp(from, to, 111, getport)
				}
				if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: to}); err != nil {
					return err
				}
			}
		})
	}()
	time.Sleep(time.Second)
	for range 5 {
		began := time.Now()
		if out, err := s.run(t, vm.NSRouter, "curl", "-s", "-S", "-m", "5", "tftp://"+server+"/debian-12/1/vmlinuz"); err != nil || out != "the kernel" {
			t.Errorf("by TFTP the listed machine gets %q, %v", out, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("by TFTP the listed machine waits %s", took)
		}
		began = time.Now()
		if err := s.lab.Do(vm.NSRouter, func() error {
			conn, err := net.Dial("udp4", server+":111")
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := conn.Write(getport); err != nil {
				return err
			}
			answer := make([]byte, 100)
			n, err := conn.Read(answer)
			if err == nil && !bytes.HasSuffix(answer[:n], []byte{0, 0, 2049 >> 8, 2049 & 0xff}) {
				err = fmt.Errorf("the portmapper says %x", answer[:n])
			}
			return err
		}); err != nil || time.Since(began) > time.Second {
			t.Errorf("the portmapper's answer after %s: %v", time.Since(began), err)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// udp is a datagram with its IP header, without checksums.
func udp(from, to [4]byte, port uint16, data []byte) []byte {
	p := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	p = append(append(p, from[:]...), to[:]...)
	p = binary.BigEndian.AppendUint16(p, 2000)
	p = binary.BigEndian.AppendUint16(p, port)
	p = binary.BigEndian.AppendUint16(p, uint16(8+len(data)))
	p = append(append(p, 0, 0), data...)
	return p
}

// With interfaces given, who comes in by another one is refused, whichever address he asks.
func TestGuardInterfaces(t *testing.T) {
	need.Patience(t)
	t.Parallel()
	s := openGuarded(t, "interfaces: [eth0, eth5]\nhosts:\n  - {name: listed, mac: \""+listedMAC+"\", disabled: true}\n")
	s.sh(t, vm.NSLab, "ip route add 10.77.0.3/32 via 10.78.0.3 src 10.78.0.151")
	for _, server := range []string{"10.77.0.3", "10.78.0.3"} {
		s.refused(t, "a machine on the other network, at "+server, s.fetch(t, vm.NSLab, "", server))
	}
	s.logged(t, "http", "10.78.0.151", "02:00:00:00:00:03", "came in on eth1, which is not among the interfaces")
	s.sh(t, vm.NSLab, "ip route del 10.77.0.3/32")
	s.admitted(t, "a machine that is not listed", s.fetch(t, vm.NSLab, "", "10.77.0.3"))
	s.admitted(t, "a user of the server", s.fetch(t, vm.NSServer, "", "10.77.0.3"))
	s.refused(t, "a machine that is disabled", s.fetch(t, vm.NSRouter, "", "10.77.0.3"))

	// The interface that was missing comes, changes its address, and goes.
	s.sh(t, vm.NSLab, "ip link add port5 type veth peer name far5 && ip addr add 10.55.0.9/24 dev far5 && ip addr add 10.56.0.9/24 dev far5 && ip link set far5 up")
	ns := 0
	if err := s.lab.Do(vm.NSServer, func() error { ns = unix.Gettid(); return nil }); err != nil {
		t.Fatal(err)
	}
	s.sh(t, vm.NSLab, fmt.Sprintf("ip link set port5 netns /proc/%d/task/%d/ns/net", os.Getpid(), ns))
	for _, network := range []string{"10.55.0", "10.56.0"} {
		s.sh(t, vm.NSServer, "ip link show eth5 >/dev/null 2>&1 || ip link set port5 name eth5; ip addr flush dev eth5; ip addr add "+network+".1/24 dev eth5; ip link set eth5 up")
		s.admitted(t, "a machine on the interface that came", s.fetch(t, vm.NSLab, "", network+".1"))
	}
	if err := s.lab.Do(vm.NSServer, func() error {
		link, err := netlink.LinkByName("eth5")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	}); err != nil {
		t.Fatal(err)
	}
	s.admitted(t, "a machine that is not listed", s.fetch(t, vm.NSLab, "", "10.77.0.3"))
}
