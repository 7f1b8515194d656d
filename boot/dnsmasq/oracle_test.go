package dnsmasq

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"netroot/boot/host"
	"netroot/boot/proxydhcp"
	"netroot/boot/vm"
	"netroot/builder/need"
)

// quiet is how long nobody says anything before a server counts as silent.
const quiet = 250 * time.Millisecond

// TestBehavesTheSame runs the real dnsmasq on each file, then netroot's proxy DHCP with the policy made of it, and asks both as the
// same machines would, on both networks, as far as the file that they load: each listed one, the disabled ones, and one that no
// file names; the firmware's own ROM and iPXE.
func TestBehavesTheSame(t *testing.T) {
	need.Patience(t)
	lab := openLab(t)
	for _, file := range []string{"two-networks", "tags", "menu"} {
		t.Run(file, func(t *testing.T) {
			path, err := filepath.Abs("testdata/" + file + ".conf")
			if err != nil {
				t.Fatal(err)
			}
			f, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			yaml, _ := f.Translate()
			policy, err := host.Parse("netroot.yaml", yaml)
			if err != nil {
				t.Fatal(err)
			}
			asked := clients(f, policy)
			stop := lab.theirs(t, path)
			theirs := lab.ask(t, asked)
			stop()
			stop = lab.ours(t, policy)
			ours := lab.ask(t, asked)
			stop()
			answered := 0
			for _, c := range asked {
				// netroot sends pxelinux to a machine that is to boot its own disk, and that does it.
				if policy.Decide(host.Machine{MAC: c.mac, Interface: fmt.Sprintf("eth%d", c.network)}).Local && ours[c.xid].answered {
					ours[c.xid] = booted{answered: true, local: true}
				}
				if theirs[c.xid].answered {
					answered++
				}
				if theirs[c.xid] != ours[c.xid] {
					t.Errorf("%v on network %d, iPXE %v: dnsmasq has it boot %+v, netroot %+v", c.mac, c.network, c.ipxe, theirs[c.xid], ours[c.xid])
				}
				if want := f.expected(c); theirs[c.xid].answered != want {
					t.Errorf("%v on network %d: dnsmasq answers: %v, and the package thinks: %v", c.mac, c.network, theirs[c.xid].answered, want)
				}
			}
			if answered == 0 || answered == len(asked) {
				t.Errorf("dnsmasq answered %d of %d", answered, len(asked))
			}
		})
	}
}

// expected is what the package thinks dnsmasq does.
func (f *File) expected(c machineOn) bool {
	iface := fmt.Sprintf("eth%d", c.network)
	if !strings.Contains(strings.Join(f.interfaces, " "), iface) {
		return false
	}
	var network *addressRange
	for _, r := range f.ranges {
		if r.start.As4()[1] == byte(77+c.network) {
			network = r
		}
	}
	return f.outcome(client{mac: c.mac, iface: iface, network: network, ipxe: c.ipxe}).answered
}

// A machineOn asks on one of the networks.
type machineOn struct {
	mac     net.HardwareAddr
	network int
	ipxe    bool
	xid     uint32
}

// booted is what comes out of it.
type booted struct {
	answered, local bool
	server, file    string
}

func clients(f *File, policy *host.Policy) []machineOn {
	macs := []net.HardwareAddr{{2, 0x20, 0x38, 0xff, 0, 1}}
	for _, h := range policy.Hosts {
		macs = append(macs, h.MACs...)
	}
	var list []machineOn
	for _, mac := range macs {
		for network := range 2 {
			for _, ipxe := range []bool{false, true} {
				list = append(list, machineOn{mac, network, ipxe, uint32(0x1000 + len(list))})
			}
		}
	}
	return list
}

type testLab struct {
	*vm.Lab
	conns [2]net.PacketConn
}

func openLab(t *testing.T) *testLab {
	t.Helper()
	need.Root(t)
	need.Tools(t, "dnsmasq")
	networks := []netip.Prefix{vm.DefaultNetwork, netip.MustParsePrefix("10.78.0.0/24")}
	lab, err := vm.Open(context.Background(), vm.Config{Networks: networks})
	if err != nil {
		t.Fatal(err)
	}
	l := &testLab{Lab: lab}
	t.Cleanup(func() {
		for _, c := range l.conns {
			if c != nil {
				c.Close()
			}
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	err = lab.Do(vm.NSLab, func() error {
		for i := range networks {
			bridge := fmt.Sprintf("br%d", i)
			link, err := netlink.LinkByName(bridge)
			if err != nil {
				return err
			}
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, byte(77+i), 0, 150), Mask: net.CIDRMask(24, 32)}}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
			lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) {
					unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, bridge)
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
				})
			}}
			if l.conns[i], err = lc.ListenPacket(context.Background(), "udp4", "0.0.0.0:68"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// theirs runs dnsmasq until stop is called.
func (l *testLab) theirs(t *testing.T, conf string) (stop func()) {
	t.Helper()
	cmd := exec.Command("dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file="+conf, "--user=root", "--group=root", "--pid-file=",
		"--dhcp-leasefile="+filepath.Join(l.Dir(), "leases"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	p, err := l.Start(vm.NSServer, cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(r)
	for said.Scan() { // its sockets are open before it says this
		if strings.Contains(said.Text(), "DHCP, proxy on subnet") {
			go func() {
				for said.Scan() {
				}
			}()
			return func() { p.Kill(); r.Close() }
		}
	}
	t.Fatal("dnsmasq ended")
	return nil
}

// ours serves the policy until stop is called.
func (l *testLab) ours(t *testing.T, policy *host.Policy) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	script := func(local netip.Addr, mac net.HardwareAddr) string { return "http://" + local.String() + "/script" }
	server := &proxydhcp.Server{Decide: policy.Decide, Interfaces: policy.Interfaces, Config: proxydhcp.Config{Script: script}}
	var wg sync.WaitGroup
	for _, role := range []proxydhcp.Role{proxydhcp.Proxy, proxydhcp.BootServer} {
		var conn *net.UDPConn
		var ns netns.NsHandle
		err := l.Do(vm.NSServer, func() (err error) {
			if ns, err = netns.Get(); err == nil {
				conn, err = proxydhcp.Listen(ctx, role, uint16(role), nil)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer ns.Close()
			runtime.LockOSThread() // it looks interfaces up, so its thread has to be there too, and ends with it
			err := netns.Set(ns)
			if err == nil {
				err = server.Serve(ctx, conn, role)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// ask has every machine boot, and returns what each of them loads, by xid.
func (l *testLab) ask(t *testing.T, list []machineOn) map[uint32]booted {
	t.Helper()
	result := map[uint32]booted{}
	asking := map[uint32]machineOn{}
	for _, c := range list {
		asking[c.xid] = c
		l.send(t, c, "255.255.255.255:67", 1)
	}
	second := map[uint32]uint32{} // the 4011 requests, which iPXE sends without an xid of its own
	l.listen(t, func(xid uint32, p []byte) {
		c, known := asking[xid]
		o := options(p[240:])
		if !known || !strings.HasPrefix(string(o[60]), "PXEClient") {
			return // the router's
		}
		b, item, server := read(p, o)
		result[c.xid] = b
		if item != nil {
			second[c.xid] = c.xid
			l.send(t, c, server+":4011", 3, item...)
		}
	})
	for xid, b := range result {
		b.file = strings.TrimPrefix(b.file, "tftp://"+b.server+"/") // as netroot names it for iPXE
		if strings.HasPrefix(b.file, "http://") {
			b.file, b.server = "a script", ""
		}
		if i := strings.LastIndex(b.file, "/"); i >= 0 {
			b.file = b.file[i+1:]
		}
		result[xid] = b
	}
	return result
}

// read is how a PXE client understands an answer. When it is a menu, item is the first entry, which the boot server at server has.
func read(p []byte, o map[byte][]byte) (b booted, item []byte, server string) {
	b.answered = true
	b.file = strings.TrimRight(string(p[108:236]), "\x00")
	if b.server = net.IP(p[20:24]).String(); b.server == "0.0.0.0" {
		b.server = net.IP(o[54]).String()
	}
	sub := options(o[43])
	if sub[71] != nil || len(sub[9]) < 3 || len(sub[6]) == 1 && sub[6][0]&8 != 0 {
		return b, nil, ""
	}
	item = append(append([]byte{71, 4}, sub[9][:2]...), 0, 0, 255)
	if item[2] == 0 && item[3] == 0 {
		return booted{answered: true, local: true}, nil, ""
	}
	for s := sub[8]; len(s) >= 7; s = s[3+4*int(s[2]):] {
		if s[0] == item[2] && s[1] == item[3] {
			server = net.IP(s[3:7]).String()
		}
	}
	return b, item, server
}

func (l *testLab) send(t *testing.T, c machineOn, to string, kind byte, item ...byte) {
	t.Helper()
	p := make([]byte, 240, 400)
	p[0], p[1], p[2] = 1, 1, 6
	binary.BigEndian.PutUint32(p[4:], c.xid)
	copy(p[28:], c.mac)
	copy(p[236:], "\x63\x82\x53\x63")
	if kind == 3 {
		copy(p[12:], []byte{10, byte(77 + c.network), 0, 150})
	} else {
		p[10] = 0x80
	}
	p = append(p, 53, 1, kind, 93, 2, 0, 0, 94, 3, 1, 2, 1, 60, 32)
	p = append(p, "PXEClient:Arch:00000:UNDI:002001"...)
	if c.ipxe {
		p = append(p, "\x4d\x04iPXE\xaf\x06\x13\x01\x01\x18\x01\x01"...) // features: HTTP, bzImage
	}
	if item != nil {
		p = append(append(p, 43, byte(len(item))), item...)
	}
	addr, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.conns[c.network].WriteTo(append(p, 255), addr); err != nil {
		t.Fatal(err)
	}
}

// listen calls f for each answer until it is quiet.
func (l *testLab) listen(t *testing.T, f func(xid uint32, p []byte)) {
	t.Helper()
	packets := make(chan []byte)
	var wg sync.WaitGroup
	for _, conn := range l.conns {
		conn.SetReadDeadline(time.Time{})
		wg.Go(func() {
			for {
				p := make([]byte, 1500)
				n, _, err := conn.ReadFrom(p)
				if err != nil {
					return
				}
				packets <- p[:n]
			}
		})
	}
	for {
		select {
		case p := <-packets:
			if len(p) > 240 {
				f(binary.BigEndian.Uint32(p[4:]), p)
			}
		case <-time.After(quiet):
			for _, conn := range l.conns {
				conn.SetReadDeadline(time.Now())
			}
			go func() { wg.Wait(); close(packets) }()
			for range packets {
			}
			return
		}
	}
}

func options(p []byte) map[byte][]byte {
	m := map[byte][]byte{}
	for len(p) > 1 && p[0] != 255 {
		if p[0] == 0 {
			p = p[1:]
			continue
		}
		n := min(int(p[1]), len(p)-2)
		m[p[0]], p = p[2:2+n], p[2+n:]
	}
	return m
}
