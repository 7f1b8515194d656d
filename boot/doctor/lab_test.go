package doctor

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"netroot/boot/host"
	"netroot/boot/proxydhcp"
	"netroot/boot/vm"
	"netroot/builder/need"
)

// serveAs makes this test program be "netroot serve" as far as proxy DHCP goes: another process, with that name.
const serveAs = "DOCTOR_TEST_SERVE"

func TestMain(m *testing.M) {
	if policy := os.Getenv(serveAs); policy != "" {
		if err := serve(policy); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serve(policy string) error {
	if err := os.WriteFile("/proc/self/comm", []byte("netroot"), 0); err != nil {
		return err
	}
	p, err := host.Parse("netroot.yaml", []byte(policy))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := &proxydhcp.Server{Decide: p.Decide}
	var wg sync.WaitGroup
	for _, role := range []proxydhcp.Role{proxydhcp.Proxy, proxydhcp.BootServer} {
		conn, err := proxydhcp.Listen(ctx, role, uint16(role), nil)
		if err != nil {
			return err
		}
		wg.Go(func() {
			if err := s.Serve(ctx, conn, role); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		})
	}
	fmt.Println("serving")
	wg.Wait()
	return nil
}

// A testSite is a lab whose bridges have an address, from which other servers speak.
type testSite struct {
	*vm.Lab
	dir string
}

func openSite(t *testing.T, tools ...string) testSite {
	t.Helper()
	need.Root(t)
	need.Tools(t, append(tools, "dnsmasq")...)
	lab, err := vm.Open(context.Background(), vm.Config{Networks: []netip.Prefix{vm.DefaultNetwork, netip.MustParsePrefix("10.78.0.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	err = lab.Do(vm.NSLab, func() error {
		for i := range 2 {
			link, err := netlink.LinkByName(fmt.Sprintf("br%d", i))
			if err != nil {
				return err
			}
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, byte(77+i), 0, 4), Mask: net.CIDRMask(24, 32)}}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// A link runs some time after it was set up.
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		running := 0
		err := lab.Do(vm.NSServer, func() error {
			ifaces, _, err := (&Doctor{Policy: host.Default()}).interfaces()
			running = len(ifaces)
			return err
		})
		if err == nil && running == 2 {
			return testSite{lab, t.TempDir()}
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("%d links run, %v", running, err)
		}
	}
}

// start runs a program until it says that it is ready, and returns what stops it.
func (s testSite) start(t *testing.T, ns, ready string, cmd *exec.Cmd) (stop func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	p, err := s.Start(ns, cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.Contains(lines.Text(), ready) {
			go func() {
				for lines.Scan() {
				}
			}()
			return func() { p.Kill(); r.Close() }
		}
	}
	t.Fatalf("%s ended: %s", cmd.Path, strings.Join(said, "\n"))
	return nil
}

func (s testSite) dnsmasq(t *testing.T, ns, iface string, args ...string) (stop func()) {
	t.Helper()
	return s.dnsmasqPinging(t, ns, iface, append(args, "--no-ping")...)
}

// dnsmasqPinging tries for three seconds whether somebody has the address that it is about to offer.
func (s testSite) dnsmasqPinging(t *testing.T, ns, iface string, args ...string) (stop func()) {
	t.Helper()
	args = append([]string{"--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--port=0", "--user=root", "--group=root", "--pid-file=",
		"--dhcp-leasefile=" + filepath.Join(s.dir, "leases"), "--interface=" + iface, "--except-interface=lo", "--bind-interfaces"}, args...)
	return s.start(t, ns, "DHCP, ", exec.Command("dnsmasq", args...))
}

func (s testSite) netroot(t *testing.T, policy string) (stop func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serveAs+"="+policy)
	return s.start(t, vm.NSServer, "serving", cmd)
}

// look runs the doctor's look at the networks, and returns what it found on each interface.
func (s testSite) look(t *testing.T, policy string, mac net.HardwareAddr) map[string][]Finding {
	t.Helper()
	return s.lookFor(t, 600*time.Millisecond, policy, mac)
}

func (s testSite) lookFor(t *testing.T, wait time.Duration, policy string, mac net.HardwareAddr) map[string][]Finding {
	t.Helper()
	p, err := host.Parse("netroot.yaml", []byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	d := &Doctor{Policy: p, Ports: defaultPorts, Wait: wait, MAC: mac}
	found := map[string][]Finding{}
	err = s.Do(vm.NSServer, func() error {
		ifaces, list, err := d.interfaces()
		if err != nil {
			return err
		}
		list = append(list, d.networks(context.Background(), ifaces, d.Ports.look())...)
		for _, f := range list {
			found[f.About] = append(found[f.About], f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// expect compares findings with "level: part of what it says", in any order.
func expect(t *testing.T, when string, got []Finding, want ...string) {
	t.Helper()
	rest := slices.Clone(got)
	for _, w := range want {
		level, what, _ := strings.Cut(w, ": ")
		i := slices.IndexFunc(rest, func(f Finding) bool { return f.Level == level && strings.Contains(f.What, what) })
		if i < 0 {
			t.Errorf("%s: no %q in %s", when, w, show(got))
			continue
		}
		rest = slices.Delete(rest, i, i+1)
	}
	if len(rest) > 0 {
		t.Errorf("%s: besides, there is %s", when, show(rest))
	}
}

func show(list []Finding) string {
	var b strings.Builder
	for _, f := range list {
		fmt.Fprintf(&b, "\n\t%s %s: %s -> %s", f.Level, f.About, f.What, f.WayOut)
	}
	return b.String()
}

const (
	menuForAll = "default: menu\n"
	listed     = "default: ignore\nhosts: [{name: alpha, mac: \"02:00:00:00:00:07\"}]\n"
)

// What is found on a network, with servers of another make, and without any.
func TestNetworks(t *testing.T) {
	need.Patience(t)
	s := openSite(t)
	alpha := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	const (
		router0 = "ok: the DHCP server 10.77.0.2 offers 10.77.0.1"
		router1 = "ok: the DHCP server 10.78.0.2 offers 10.78.0.1"
		idle    = "note: netroot serve does not run"
	)
	got := s.look(t, menuForAll, nil)
	expect(t, "alone", got["eth0"], router0, idle)
	expect(t, "alone", got["eth1"], router1, idle)

	stop := s.netroot(t, listed)
	got = s.look(t, listed, nil)
	expect(t, "a stranger", got["eth0"], router0, "ok: netroot serve does not answer, as the policy wants: ")
	got = s.look(t, listed, alpha)
	expect(t, "a listed machine", got["eth1"], router1, "ok: netroot serve answers: boot file pxelinux.0 from 10.78.0.3")
	got = s.look(t, menuForAll, nil)
	expect(t, "another policy than serve's", got["eth0"], router0, "fault: netroot serve did not answer, though the policy would")

	stopRival := s.dnsmasq(t, vm.NSLab, "br0", "--dhcp-range=10.77.0.200,10.77.0.250,255.255.255.0,1h", "--dhcp-boot=evil.0,boot,10.77.0.9")
	stopProxy := s.dnsmasq(t, vm.NSLab, "br1", "--dhcp-range=10.78.0.0,proxy", "--pxe-service=x86PC,other,other.0")
	got = s.look(t, listed, alpha)
	expect(t, "a router that names a file", got["eth0"], router0, "ok: the DHCP server 10.77.0.4 offers 10.77.0.2", "ok: netroot serve answers",
		`fault: the DHCP server 10.77.0.4 names the boot file "evil.0" on 10.77.0.9`, "note: two DHCP servers answer")
	expect(t, "another proxy", got["eth1"], router1, "ok: netroot serve answers", "fault: another proxy-DHCP server, 10.78.0.4")
	got = s.look(t, listed, nil)
	expect(t, "another proxy for strangers", got["eth1"], router1, "ok: netroot serve does not answer", "note: another proxy-DHCP server, 10.78.0.4")
	stopRival()
	stopProxy()
	stop()

	stopRival = s.dnsmasq(t, vm.NSLab, "br0", "--dhcp-range=10.77.0.200,10.77.0.250,255.255.255.0,1h", "--dhcp-option-force=60,PXEClient")
	stopProxy = s.dnsmasq(t, vm.NSServer, "eth1", "--dhcp-range=10.78.0.0,proxy", "--pxe-service=x86PC,mine,mine.0")
	got = s.look(t, menuForAll, nil)
	expect(t, "a router with option 60", got["eth0"], router0, idle, "ok: the DHCP server 10.77.0.4",
		`fault: the DHCP server 10.77.0.4 calls itself a PXE server (option 60, "PXEClient")`, "note: two DHCP servers answer")
	expect(t, "a dnsmasq of this machine", got["eth1"], router1, "fault: on this very machine answers as a PXE server", idle)
	stopRival()
	stopProxy()

	leases, err := os.ReadFile(filepath.Join(s.dir, "leases"))
	if err != nil || len(leases) > 0 {
		t.Errorf("a lease was taken: %s, %v", leases, err)
	}
	got = s.look(t, "interfaces: [eth0, eno9]\n", nil)
	expect(t, "an interface that is not there", got["eno9"], "note: there is no such interface now: serve starts")
	expect(t, "no interface that is there", s.look(t, "interfaces: [eno8, eno9]\n", nil)["eno8"], "fault: there is no such interface, nor any other that is named")
	if got["eth1"] != nil {
		t.Errorf("an interface that is not named: %s", show(got["eth1"]))
	}
	err = s.Do(vm.NSLab, func() error {
		link, err := netlink.LinkByName("router1")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "no router", s.look(t, menuForAll, nil)["eth1"], "fault: no DHCP server answered within 1.2s", idle)
	s.dnsmasqPinging(t, vm.NSLab, "br1", "--dhcp-range=10.78.0.200,10.78.0.250,255.255.255.0,1h")
	got = s.lookFor(t, 2*time.Second, menuForAll, nil)
	expect(t, "a router that looks first whether the address is free", got["eth1"], "ok: the DHCP server 10.78.0.4 offers 10.78.0.2", idle)
}

// Who holds the ports: nobody, netroot, others that share and that do not.
func TestPorts(t *testing.T) {
	s := openSite(t)
	look := func() map[string][]Finding {
		found := map[string][]Finding{}
		err := s.Do(vm.NSServer, func() error {
			for _, f := range defaultPorts.judge(defaultPorts.look(), nil) {
				found[f.About] = append(found[f.About], f)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for about, list := range look() {
		expect(t, about, list, "ok: free")
	}
	stop := s.netroot(t, menuForAll)
	got := look()
	expect(t, "netroot's own", got["UDP 67"], "ok: held by netroot (pid ")
	expect(t, "netroot's own", got["UDP 4011"], "ok: held by netroot (pid ")
	stop()
	stop = s.dnsmasq(t, vm.NSServer, "eth1", "--dhcp-range=10.78.0.0,proxy", "--pxe-service=x86PC,mine,mine.0")
	got = look()
	expect(t, "dnsmasq's", got["UDP 67"], "note: held by dnsmasq (pid ")
	expect(t, "dnsmasq's", got["UDP 4011"], "fault: taken by dnsmasq (pid ")
	stop()
	var closers []func() error
	err := s.Do(vm.NSServer, func() error {
		for _, address := range []string{"udp 0.0.0.0:67", "udp 127.0.0.1:69", "tcp :80", "tcp 0.0.0.0:2049", "udp :111", "tcp :111"} {
			protocol, address, _ := strings.Cut(address, " ")
			if protocol == "udp" {
				c, err := net.ListenPacket(protocol, address)
				if err != nil {
					return err
				}
				closers = append(closers, c.Close)
				continue
			}
			l, err := net.Listen(protocol, address)
			if err != nil {
				return err
			}
			closers = append(closers, l.Close)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, c := range closers {
			c()
		}
	}()
	got = look()
	for about, want := range map[string]string{"UDP 67": "fault: taken by this very process", "UDP 69": "fault: taken by this very process at 127.0.0.1", "TCP 80": "fault: taken by",
		"TCP 2049": "fault: taken by", "UDP 111": "ok: which serve leaves it to", "TCP 111": "ok: which serve leaves it to", "UDP 4011": "ok: free"} {
		expect(t, about, got[about], want)
	}
}

// Rules that the kernel took, as nft shows them.
func TestFirewall(t *testing.T) {
	need.Patience(t)
	s := openSite(t, "nft")
	const all = "ok: lets machines in on all ports"
	chain := func(policy string, rules ...string) string {
		return "table inet filter { chain input { type filter hook input priority 0; policy " + policy + "; " + strings.Join(rules, "; ") + "; }\n}"
	}
	for name, c := range map[string]struct {
		rules string
		want  []string // on eth0
	}{
		"none":         {"", []string{all}},
		"empty accept": {chain("accept", "counter"), []string{all}},
		"policy drop": {chain("drop", "ct state established,related accept", "iif lo accept", "tcp dport 22 accept"),
			[]string{"fault: UDP 67, 4011, 69: the end of chain inet filter input", "fault: TCP 80, 2049"}},
		"some opened": {chain("drop", "udp dport { 67, 69 } accept", "tcp dport 1-100 accept", `iifname "eth*" tcp dport 2049 accept`),
			[]string{"fault: UDP 4011: the end of chain"}},
		"all opened, by sets and networks": {"table inet filter { set ports { type inet_service; flags interval; elements = { 60-70, 4011 } }\n" +
			"chain input { type filter hook input priority 0; policy drop; udp dport @ports accept; ip saddr 10.77.0.0/16 tcp dport { 80, 2049 } accept; }\n}",
			[]string{all}},
		"another network's": {chain("drop", "ip saddr 10.99.0.0/16 accept", "meta l4proto udp accept"), []string{"fault: TCP 80, 2049"}},
		"a drop rule":       {chain("accept", "udp dport 69 drop", `iifname "eth1" drop`), []string{`fault: UDP 69: rule "udp dport 69 drop" of chain inet filter input`}},
		"a reject rule":     {chain("accept", "tcp dport != 22 reject"), []string{`fault: TCP 80, 2049: rule "tcp dport != 22 reject`}},
		"broadcasts":        {chain("accept", "meta pkttype broadcast drop"), []string{"fault: UDP 67: rule"}},
		"from nowhere":      {chain("accept", "ip saddr 0.0.0.0/8 drop"), []string{"fault: UDP 67: rule"}},
		"fib":               {chain("accept", "fib daddr type local accept", "drop"), []string{`fault: UDP 67: rule "drop"`}},
		"jumps": {"table ip filter { chain guard { udp dport 67 return; tcp dport 80 accept; drop; }\n" +
			"chain input { type filter hook input priority 0; policy accept; ct state vmap { established : accept, invalid : drop }; " +
			"iifname vmap { \"eth0\" : jump guard, \"eth1\" : accept }; }\n}",
			[]string{`fault: UDP 4011, 69: rule "drop" of chain ip filter guard`, "fault: TCP 2049"}},
		"a jump that may be": {"table inet filter { chain guard { udp dport 69 return; tcp dport 80 accept; drop; }\n" +
			"chain input { type filter hook input priority 0; policy accept; meta mark 7 jump guard; }\n}",
			[]string{`note: UDP 67, 4011, which depends on more: rule "drop" of chain inet filter guard`, "note: TCP 2049, which depends on more"}},
		"part of a network": {chain("drop", "ip saddr 10.77.0.0/25 accept", "ip saddr 0.0.0.0 accept"), []string{"note: UDP 4011, 69, which depends on more", "note: TCP 80, 2049"}},
		"a rate":            {chain("accept", "udp dport 69 limit rate over 5/second drop"), []string{"note: UDP 69"}},
		"a mark":            {chain("drop", "meta mark 7 accept", "udp dport 1-65535 accept", "tcp dport 80 accept"), []string{"note: TCP 2049"}},
		"two chains, one drops": {"table inet a { chain input { type filter hook input priority -10; policy accept; accept; }\n}\n" +
			"table inet b { chain input { type filter hook input priority 10; policy accept; tcp dport 80 drop; }\n}", []string{"fault: TCP 80: rule"}},
		"before the input": {"table inet raw { chain pre { type filter hook prerouting priority -300; policy accept; udp dport 67-69 drop; }\n}", []string{"fault: UDP 67, 69: rule"}},
		"no IPv4":          {"table ip6 filter { chain input { type filter hook input priority 0; policy drop; }\n}", []string{all}},
		"forwarding only":  {"table inet filter { chain forward { type filter hook forward priority 0; policy drop; }\n}", []string{all}},
	} {
		var got []Finding
		err := s.Do(vm.NSServer, func() error {
			nft := exec.Command("nft", "-f", "-")
			nft.Stdin = strings.NewReader("flush ruleset\n" + c.rules + "\n")
			if out, err := nft.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			d := &Doctor{Policy: host.Default()}
			ifaces, _, err := d.interfaces()
			if err != nil {
				return err
			}
			for _, f := range lookFirewall(context.Background(), ifaces, defaultPorts.listeners()) {
				if f.About != "eth1" {
					got = append(got, f)
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		short := strings.NewReplacer("the firewall (nftables) drops what machines send to ", "", "the firewall (nftables) may drop what machines send to ", "",
			", which depends on more than can be told here", ", which depends on more")
		for i := range got { // so that ports and rules can be looked for together
			got[i].What = short.Replace(got[i].What)
		}
		expect(t, name, got, c.want...)
	}
}
