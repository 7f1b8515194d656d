package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/boot/host"
	"netroot/boot/tftpboot"
	"netroot/boot/vm"
	"netroot/builder/need"
)

// accelerator is the policy of an accelerator's VME computers on two networks: each has two or three cards, of which one or the other
// boots, some are taken out for now, and nobody else is answered.
const accelerator = `interfaces: [eth0, eth1]
default: ignore
hosts:
  - {name: vmessd, mac: ["00:20:38:05:B6:BC", "00:20:38:05:B6:BD"], image: debian-12}
  - {name: vmepla, mac: ["00:20:38:06:46:AC", "00:20:38:06:46:AD", "00:20:38:06:46:AE"], image: debian-12}
  - {name: vmegr, mac: ["00:20:38:03:37:6C", "00:20:38:03:37:6E"], image: debian-12@1, cmdline: ["console=ttyS0,115200"]}
  - {name: vmegr3, mac: "00:20:38:03:37:6F", image: debian-12, disabled: true}
  - {name: vmehata, mac: "00:20:38:03:37:5B", image: debian-12, disabled: true}
  - {name: vmelas, mac: ["00:20:38:03:5D:DC", "00:20:38:03:5D:D9"], image: debian-12, disabled: true}
  - {name: vme-v7671-test, mac: ["00:20:38:01:B9:FE", "00:20:38:01:B9:FF"], image: debian-12}
`

// The server's addresses there, and those of the machine that asks. The DHCP server of each network is the lab's router.
var acceleratorSides = []struct{ network, server, machine string }{
	{"192.168.2.0/24", "192.168.2.82", "192.168.2.150"},
	{"172.16.192.0/18", "172.16.210.62", "172.16.209.19"},
}

const (
	machineMAC  = "00:20:38:03:37:6c" // vmegr's, of the one that asks
	strangerMAC = "02:00:00:00:00:09"
	machineUUID = "58b41815-581e-c62a-d4e2-f44d30606469" // in every DISCOVER here
)

// openAccelerator serves a policy on those networks.
func openAccelerator(t *testing.T, text string) (s *guarded, policy, store string) {
	t.Helper()
	need.Root(t)
	need.Tools(t, "dnsmasq", "curl", "ip")
	var networks []netip.Prefix
	for _, side := range acceleratorSides {
		networks = append(networks, netip.MustParsePrefix(side.network))
	}
	lab, err := vm.Open(t.Context(), vm.Config{Networks: networks})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	s = &guarded{lab: lab}
	for i, side := range acceleratorSides {
		bits := side.network[strings.Index(side.network, "/"):]
		s.sh(t, vm.NSServer, fmt.Sprintf("ip addr flush dev eth%d && ip addr add %s%s dev eth%d", i, side.server, bits, i))
		s.sh(t, vm.NSLab, fmt.Sprintf("ip link set br%d address %s && ip addr add %s%s dev br%d", i, machineMAC, side.machine, bits, i))
	}
	policy, store = filepath.Join(t.TempDir(), "netroot.yaml"), testStore(t)
	if err := os.WriteFile(policy, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range tftpboot.LoaderFiles() {
		if err := os.WriteFile(filepath.Join(store, "loader", name), []byte("this is "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if s.server, err = lab.Serve(ctx, vm.ServerConfig{Program: program(t), Store: store, Args: []string{"--config", policy}}); err != nil {
		t.Fatal(err)
	}
	return s, policy, store
}

// discover broadcasts what a BIOS ROM does on one of the networks, for each MAC, and returns "server file" of every offer. The last
// one is of a machine that is answered, and requests are answered in turn: when its offer is here, all the others are.
func (s *guarded) discover(t *testing.T, network int, macs ...string) map[string]string {
	t.Helper()
	offers := map[string]string{}
	err := s.lab.Do(vm.NSLab, func() error {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 68})
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		var failed error
		if err := raw.Control(func(fd uintptr) {
			if failed = unix.BindToDevice(int(fd), fmt.Sprintf("br%d", network)); failed == nil {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			}
		}); err != nil || failed != nil {
			return fmt.Errorf("%w %w", err, failed)
		}
		for _, mac := range macs {
			hw, err := net.ParseMAC(mac)
			if err != nil {
				return err
			}
			p := make([]byte, 320)
			p[0], p[1], p[2], p[10] = 1, 1, 6, 0x80
			copy(p[28:], hw)
			copy(p[236:], "\x63\x82\x53\x63\x35\x01\x01\x5d\x02\x00\x00\x5e\x03\x01\x02\x01\x3c\x20PXEClient:Arch:00000:UNDI:002001\x61\x11\x00\x58\xb4\x18\x15\x58\x1e\xc6\x2a\xd4\xe2\xf4\x4d\x30\x60\x64\x69\xff")
			if _, err := conn.WriteTo(p, &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
				return err
			}
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		for offers[macs[len(macs)-1]] == "" {
			p := make([]byte, 1500)
			n, _, err := conn.ReadFrom(p)
			if err != nil {
				return fmt.Errorf("the offers were %v: %w", offers, err)
			}
			if n < 300 || binary.BigEndian.Uint32(p[236:]) != 0x63825363 || string(p[240:245]) != "\x35\x01\x02\x36\x04" || p[16] != 0 {
				continue // the router's, which gives an address
			}
			if net.IP(p[245:249]).String() != net.IP(p[20:24]).String() {
				return fmt.Errorf("the offer is signed %v and names %v", net.IP(p[245:249]), net.IP(p[20:24]))
			}
			offers[net.HardwareAddr(p[28:34]).String()] = net.IP(p[20:24]).String() + " " + strings.TrimRight(string(p[108:236]), "\x00")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return offers
}

// load gets a file from the server, by TFTP or HTTP.
func (s *guarded) load(t *testing.T, url string) string {
	t.Helper()
	out, err := s.run(t, vm.NSLab, "curl", "-s", "-S", "-f", "-m", "10", url)
	if err != nil {
		t.Errorf("%s: %v: %s", url, err, out)
	}
	return out
}

// Each machine is told the server's address on its own network, whichever of its cards asks and wherever it is; all others are
// ignored, and so are those taken out, until they are put in again.
func TestTwoNetworks(t *testing.T) {
	need.Patience(t)
	t.Parallel()
	s, policy, store := openAccelerator(t, accelerator)
	listed := []string{"00:20:38:05:b6:bc", "00:20:38:05:b6:bd", "00:20:38:06:46:ac", "00:20:38:06:46:ad", "00:20:38:06:46:ae",
		"00:20:38:03:37:6e", "00:20:38:01:b9:fe", "00:20:38:01:b9:ff", machineMAC}
	disabled := []string{"00:20:38:03:37:6f", "00:20:38:03:37:5b", "00:20:38:03:5d:dc", "00:20:38:03:5d:d9"}
	asking := append(append([]string{strangerMAC, "00:20:38:03:37:6d"}, disabled...), listed...)
	for i, side := range acceleratorSides {
		offers := s.discover(t, i, asking...)
		if len(offers) != len(listed) {
			t.Errorf("on network %d %d machines are answered, and %d are listed: %v", i, len(offers), len(listed), offers)
		}
		for _, mac := range listed {
			if want := side.server + " pxelinux.0"; offers[mac] != want {
				t.Errorf("%s on network %d is offered %q, want %q", mac, i, offers[mac], want)
			}
		}
		root := fmt.Sprintf("root=nfs:%s:/debian-12@1:vers=3,proto=tcp,nolock,nocto,actimeo=86400,port=2049,mountport=2049 ", side.server)
		for _, url := range []string{"tftp://" + side.server + "/", "http://" + side.server + "/"} {
			if got := s.load(t, url+"pxelinux.cfg/01-00-20-38-03-37-6c"); !strings.Contains(got, root) || !strings.Contains(got, "netroot.hostname=vmegr console=ttyS0,115200\n") {
				t.Errorf("%s: the configuration of vmegr is\n%s", url, got)
			}
			if got := s.load(t, url+"debian-12/1/vmlinuz"); got != "the kernel" {
				t.Errorf("%s: the kernel is %q", url, got)
			}
		}
	}

	// vmehata is put in again, for a moment with a fault in the file.
	edit := func(old, new, message string) {
		t.Helper()
		text := strings.Replace(accelerator, old, new, 1)
		if text == accelerator {
			t.Fatalf("no %q to edit", old)
		}
		from := len(s.server.Events())
		if err := os.WriteFile(policy, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := s.server.WaitEvent(ctx, from, func(e vm.Event) bool { return e.Message == message && e.Service == "policy" && e.File == policy }); err != nil {
			t.Fatalf("no %q: %v", message, err)
		}
	}
	hata := `"00:20:38:03:37:5B", image: debian-12, disabled: true`
	edit(hata, `"00:20:38:03:37:5B", image: debian-12, disabled: no-more`, "not reloaded")
	if offers := s.discover(t, 0, "00:20:38:03:37:5b", machineMAC); len(offers) != 1 {
		t.Errorf("with a fault in the file the offers are %v", offers)
	}
	edit(hata, `"00:20:38:03:37:5B", image: debian-12`, "reloaded")
	if offers := s.discover(t, 1, "00:20:38:03:37:5b", machineMAC); offers["00:20:38:03:37:5b"] != "172.16.210.62 pxelinux.0" {
		t.Errorf("vmehata is listed again, and the offers are %v", offers)
	}

	edit("default: ignore", "default: menu", "reloaded")
	t.Run("laid out", func(t *testing.T) { laidOut(t, s, policy, store) })
}

// A machine that is listed by its UUID alone tells it by DHCP; what it loads then is asked for by its MAC, also from a server that
// was started since.
func TestKnownByUUID(t *testing.T) {
	need.Patience(t)
	t.Parallel()
	s, _, _ := openAccelerator(t, "default: ignore\nhosts:\n  - {name: board, uuid: "+machineUUID+", image: debian-12}\n")
	server := acceleratorSides[0].server
	if out, err := s.run(t, vm.NSLab, "curl", "-s", "-f", "-m", "10", "tftp://"+server+"/debian-12/1/vmlinuz"); err == nil {
		t.Errorf("somebody of whom nothing is known loads %q", out)
	}
	if got := s.discover(t, 0, machineMAC)[machineMAC]; got != server+" pxelinux.0" {
		t.Errorf("it is offered %q", got)
	}
	loads := func() {
		t.Helper()
		if got := s.load(t, "tftp://"+server+"/pxelinux.cfg/"+machineUUID); !strings.Contains(got, "netroot.hostname=board\n") {
			t.Errorf("its configuration is\n%s", got)
		}
		if got := s.load(t, "http://"+server+"/debian-12/1/vmlinuz"); got != "the kernel" {
			t.Errorf("the kernel is %q", got)
		}
	}
	loads()
	s.server.Kill()
	if err := s.server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	loads()
}

// laidOut compares the tree that tftpboot writes with what the server sends to a machine that is not listed, byte by byte.
func laidOut(t *testing.T, s *guarded, policy, store string) {
	p, err := host.Load(policy)
	if err != nil {
		t.Fatal(err)
	}
	for i, side := range acceleratorSides {
		s.sh(t, vm.NSLab, fmt.Sprintf("ip link set br%d address %s", i, strangerMAC))
		s.sh(t, vm.NSServer, fmt.Sprintf("ip neigh flush dev eth%d", i))
		dir := t.TempDir()
		if out, err := s.run(t, vm.NSServer, program(t), "tftpboot", dir, "--server", side.server, "--config", policy, "--store", store); err != nil {
			t.Fatalf("tftpboot: %v: %s", err, out)
		}
		var names []string
		if err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && name != tftpboot.ManifestName {
				names = append(names, name)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for _, protocol := range []string{"tftp", "http"} {
			sent := t.TempDir()
			args := []string{"curl", "-s", "-S", "-m", "20", "--create-dirs"}
			for _, name := range names {
				args = append(args, protocol+"://"+side.server+"/"+name, "-o", filepath.Join(sent, name))
			}
			if out, err := s.run(t, vm.NSLab, args...); err != nil {
				t.Errorf("load all by %s: %v: %s", protocol, err, out)
			}
			for _, name := range names {
				want, err1 := os.ReadFile(filepath.Join(dir, name))
				got, err2 := os.ReadFile(filepath.Join(sent, name))
				if err1 != nil || err2 != nil || string(got) != string(want) {
					t.Errorf("%s by %s is\n%s%v\nand in the folder\n%s%v", name, protocol, got, err2, want, err1)
				}
			}
		}
		if want := len(tftpboot.LoaderFiles()) + 2*len(p.Machines()) + 2 + 2; len(names) != want { // two for each MAC, two without, and the image
			t.Errorf("%d files were compared, want %d", len(names), want)
		}
	}
}
