package doctor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/boot/host"
	"netroot/boot/portowner"
	"netroot/boot/proxydhcp"
	"netroot/boot/tftpboot"
	"netroot/builder/golden"
	"netroot/builder/image"
	"netroot/builder/store"
)

var (
	alpha        = net.HardwareAddr{2, 0, 0, 0, 0, 7}
	defaultPorts = Ports{DHCP: 67, PXE: 4011, TFTP: 69, HTTP: 80, NFS: 2049, Portmap: 111}

	eth0 = iface{net.Interface{Name: "eth0"}, []netip.Prefix{netip.MustParsePrefix("10.77.0.3/24")}}
)

// reply builds a DHCPOFFER from a server.
func reply(your, server, file string, options ...string) []byte {
	p := make([]byte, 240)
	p[0], p[1], p[2] = 2, 1, 6
	for at, a := range map[int]string{16: your, 20: server} {
		copy(p[at:], netip.MustParseAddr(a).AsSlice())
	}
	copy(p[28:], alpha)
	copy(p[108:], file)
	binary.BigEndian.PutUint32(p[236:], 0x63825363)
	p = append(p, 53, 1, 2)
	for _, o := range options {
		p = append(p, o[0], byte(len(o)-1))
		p = append(p, o[1:]...)
	}
	return append(p, 255)
}

func mustRead(t *testing.T, from string, p []byte) offer {
	t.Helper()
	o, err := readOffer(p)
	if err != nil {
		t.Fatal(err)
	}
	o.from = netip.MustParseAddr(from)
	return o
}

// What a DHCP server says about booting, and what comes of it.
func TestRivals(t *testing.T) {
	const mask, id, pxe = "\x01\xff\xff\xff\x00", "\x36\x0a\x4d\x00\x02", "\x3cPXEClient"
	for name, c := range map[string]struct {
		p    []byte
		want []string
	}{
		"plain":                        {reply("10.77.0.9", "0.0.0.0", "", mask, id, "\x33\x00\x00\x0e\x10", "\x03\x0a\x4d\x00\x01"), []string{"ok: 10.77.0.9 in 10.77.0.0/24 for 3600 seconds, router 10.77.0.1"}},
		"itself as next server":        {reply("10.77.0.9", "10.77.0.2", "", mask, id), []string{"ok: "}},
		"another next server":          {reply("10.77.0.9", "10.77.0.5", "", mask, id), []string{"ok: ", "note: names a boot server, 10.77.0.5 (option 66, or next-server), and no file"}},
		"option 66":                    {reply("10.77.0.9", "0.0.0.0", "", mask, id, "\x42tftp.test\x00"), []string{"ok: ", "note: names a boot server, tftp.test"}},
		"option 66 for the terminal":   {reply("10.77.0.9", "0.0.0.0", "", mask, id, "\x42a\x1b[2J\nok \xff"), []string{"ok: ", "note: names a boot server, a?[2J?ok ? (option 66"}},
		"option 67":                    {reply("10.77.0.9", "0.0.0.0", "", mask, id, "\x43grub.efi\xff"), []string{"ok: ", `fault: names the boot file "grub.efi" on 10.77.0.2 (option 67`}},
		"file in the header":           {reply("10.77.0.9", "10.77.0.8", "x.0", mask, id), []string{"ok: ", `fault: names the boot file "x.0" on 10.77.0.8`}},
		"option 60":                    {reply("10.77.0.9", "0.0.0.0", "", mask, id, pxe), []string{"ok: ", "fault: calls itself a PXE server"}},
		"option 60 and file":           {reply("10.77.0.9", "0.0.0.0", "x.0", mask, id, pxe), []string{"ok: ", `fault: with boot file "x.0"`}},
		"option 60 of something else":  {reply("10.77.0.9", "0.0.0.0", "", mask, id, "\x3cMSFT 5.0"), []string{"ok: "}},
		"file field full of options":   {reply("10.77.0.9", "0.0.0.0", "\x42\x04boot\xff", mask, id, "\x34\x01"), []string{"ok: ", "note: names a boot server, boot"}},
		"terminal in the header":       {reply("10.77.0.9", "10.77.0.8", "x\x1b\u009b.0", mask, id), []string{"ok: ", `fault: names the boot file "x??.0" on 10.77.0.8`}},
		"a proxy with a menu":          {reply("0.0.0.0", "0.0.0.0", "", id, pxe, "\x2b\x03\x06\x01\x03"), []string{"fault: no DHCP server answered within 5s: ", "fault: another proxy-DHCP server, 10.77.0.2, offers a menu of its own (option 43): a machine"}},
		"neither address nor anything": {reply("0.0.0.0", "0.0.0.0", "", id), []string{"fault: no DHCP server answered within 5s: ", "note: offers neither an address nor to boot"}},
	} {
		got := judge(eth0, []offer{mustRead(t, "10.77.0.2", c.p)}, site{wait: 5 * time.Second})
		expect(t, name, got, append(c.want, "note: netroot serve does not run on this machine")...)
	}
	menu := mustRead(t, "10.77.0.2", reply("0.0.0.0", "0.0.0.0", "", id, pxe, "\x2b\x03\x06\x01\x03"))
	expect(t, "a proxy for a machine that netroot ignores", judge(eth0, []offer{menu}, site{wait: 5 * time.Second, decision: host.Decision{Ignore: true, Reason: "not listed"}}),
		"fault: no DHCP server answered within 5s: ", "note: another proxy-DHCP server, 10.77.0.2, offers a menu of its own (option 43); netroot leaves this machine alone: not listed",
		"note: netroot serve does not run on this machine")
	one := mustRead(t, "10.77.0.2", reply("10.77.0.9", "0.0.0.0", "", mask, id))
	two := mustRead(t, "10.77.0.4", reply("192.168.1.9", "0.0.0.0", "", mask, "\x36\xc0\xa8\x01\x01"))
	expect(t, "two networks", judgeServers(eth0, []offer{one, two, one}, site{}), "ok: 10.77.0.2", "ok: 192.168.1.1", "ok: 10.77.0.2",
		"fault: two DHCP servers answer, 10.77.0.2 and 192.168.1.1: which of the two a machine takes is chance, and so is its network, 10.77.0.0/24 or 192.168.1.0/24")
	if f := judgeServers(eth0, nil, site{}); !strings.Contains(f[0].WayOut, "--mac") {
		t.Errorf("no server for a stranger, and the way out is %q", f[0].WayOut)
	}
}

func TestUnreadStore(t *testing.T) {
	for level, err := range map[string]error{Note: &fs.PathError{Op: "open", Path: "images", Err: fs.ErrPermission}, Fault: &fs.PathError{Op: "read", Path: "images", Err: syscall.EIO}} {
		if f := unread("store", err); f.Level != level || (f.WayOut == "run it as root") != (level == Note) {
			t.Errorf("%v: %+v", err, f)
		}
	}
}

func TestReadOffer(t *testing.T) {
	good := reply("10.77.0.9", "0.0.0.0", "x.0")
	for name, p := range map[string][]byte{
		"short":     good[:200],
		"a request": question{mac: alpha}.discover(),
		"no cookie": append(append([]byte{}, good[:236]...), 1, 2, 3, 4, 53, 1, 2, 255),
		"an ack":    append(append([]byte{}, good[:240]...), 53, 1, 5, 255),
	} {
		if o, err := readOffer(p); err == nil {
			t.Errorf("%s: read as %+v", name, o)
		}
	}
	if o := mustRead(t, "10.77.0.2", reply("10.77.0.9", "0.0.0.0", "from-header", "\x43from-option")); o.file() != "from-option" || o.sender().String() != "10.77.0.2" {
		t.Errorf("file %q of %v", o.file(), o.sender())
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(frame(make([]byte, 6), reply("10.77.0.9", "10.77.0.2", "x.0", "\x34\x03", "\x3cPXEClient")))
	f.Add(frame(make([]byte, 6), question{mac: alpha, ipxe: true}.discover()))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := readFrame(b)
		if err != nil {
			return
		}
		judge(eth0, []offer{o, o}, site{})
		describe(b[min(42, len(b)):])
	})
}

// The question is one that netroot itself understands, for every type of firmware.
func TestQuestion(t *testing.T) {
	for _, arch := range []uint16{0, 6, 7, 11} {
		for _, ipxe := range []bool{false, true} {
			p := question{mac: alpha, arch: arch, ipxe: ipxe, xid: 5}.discover()
			if len(p) < 300 || !bytes.HasSuffix(p, append([]byte{255}, proxydhcp.Trial...)) {
				t.Errorf("a packet of %d bytes that does not say who asks:\n%q", len(p), p)
			}
			r, err := proxydhcp.Parse(p)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := r.Arch()
			if !ok || got != arch || r.IPXE() != ipxe || r.RunsScript() != ipxe || r.XID != 5 || r.MAC.String() != alpha.String() || r.Flags != 0x8000 {
				t.Errorf("arch %d, iPXE %v is read as %+v", arch, ipxe, r)
			}
			if err := r.Boots(67, netip.MustParseAddr("10.77.0.3")); err != nil {
				t.Errorf("arch %d: %v", arch, err)
			}
		}
	}
	if mac := randomMAC(); mac[0]&3 != 2 {
		t.Errorf("%v is not locally administered, or is a multicast address", mac)
	}
	if b := frame(alpha, []byte("packet")); len(b) != 14+28+6 || b[14+10] == 0 && b[14+11] == 0 {
		t.Errorf("frame: % x", b)
	}
}

func TestIPTables(t *testing.T) {
	const head = "*nat\n:PREROUTING DROP [0:0]\n-A INPUT -j DROP\nCOMMIT\n*filter\n"
	for name, c := range map[string]struct {
		rules string
		want  []string
	}{
		"open":       {":INPUT ACCEPT [0:0]\n", []string{"ok: "}},
		"drop":       {":INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n", []string{"fault: UDP 67, 4011, 69: the end of chain iptables INPUT", "fault: TCP 80, 2049"}},
		"opened":     {":INPUT DROP [0:0]\n-A INPUT -i eth+ -p udp -m multiport --dports 67,69,4000:5000 -j ACCEPT\n-A INPUT -s 10.77.0.0/24 -p tcp -j ACCEPT\n", []string{"ok: "}},
		"a chain":    {":INPUT ACCEPT [0:0]\n:ufw-user - [0:0]\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -j ufw-user\n-A ufw-user -p udp -m udp --dport 67 -m comment --comment \"dhcp -j DROP\" -j RETURN\n-A ufw-user -p udp -j REJECT --reject-with icmp-port-unreachable\n", []string{"fault: UDP 4011, 69: rule"}},
		"negation":   {":INPUT ACCEPT [0:0]\n-A INPUT ! -i eth1 -p tcp ! --dport 80 -j DROP\n", []string{"fault: TCP 2049: rule"}},
		"unknown":    {":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m hashlimit --hashlimit-above 5/sec --hashlimit-name x -j DROP\n", []string{"note: UDP 67, 4011, 69"}},
		"log":        {":INPUT ACCEPT [0:0]\n-A INPUT -j LOG --log-prefix \"in \"\n", []string{"ok: "}},
		"broadcast":  {":INPUT ACCEPT [0:0]\n-A INPUT -m pkttype --pkt-type broadcast -j DROP\n-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT\n-A INPUT -j DROP\n", []string{"fault: UDP 67: rule"}},
		"may jump":   {":INPUT ACCEPT [0:0]\n:a - [0:0]\n-A INPUT -m hashlimit --hashlimit-above 5/sec -j a\n-A a -p udp --dport 69 -j RETURN\n-A a -p tcp --dport 80 -j ACCEPT\n-A a -p udp -g b\n-A a -p tcp -j DROP\n-A a -j DROP\n:b - [0:0]\n-A b -p udp --dport 67 -j DROP\n", []string{"note: UDP 67, which", "note: TCP 2049, which"}},
		"may return": {":INPUT DROP [0:0]\n-A INPUT -p udp --dport 67 -m hashlimit --hashlimit-above 5/sec -j RETURN\n-A INPUT -j ACCEPT\n-A INPUT -j DROP\n", []string{"note: UDP 67, which depends on more than can be told here: the end of chain"}},
		"goto":       {":INPUT DROP [0:0]\n:a - [0:0]\n-A INPUT -p udp -g a\n-A INPUT -j ACCEPT\n-A a -p udp -m udp --sport 68 -j ACCEPT\n-A a -d 10.77.0.3/32 -j ACCEPT\n", []string{"ok: "}},
	} {
		got := judgeFirewall(readIPTables([]byte(head+c.rules+"COMMIT\n")), []iface{eth0}, defaultPorts.listeners())
		for i := range got {
			got[i].What = strings.Replace(strings.Replace(got[i].What, "the firewall (iptables) drops what machines send to ", "", 1), "the firewall (iptables) may drop what machines send to ", "", 1)
		}
		expect(t, name, got, c.want...)
		if name == "a chain" && !strings.HasPrefix(got[0].WayOut, "ufw allow in on eth0 to any port 4011,69 proto udp") {
			t.Errorf("the way out of ufw's rule is %q", got[0].WayOut)
		}
	}
}

func FuzzFirewall(f *testing.F) {
	f.Add([]byte(`{"nftables":[{"chain":{"family":"inet","table":"f","name":"c","type":"filter","hook":"input","prio":0,"policy":"drop"}},{"set":{"family":"inet","table":"f","name":"s","elem":["@s",{"range":[1,70]}]}},` +
		`{"rule":{"family":"inet","table":"f","chain":"c","handle":2,"expr":[{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":"@s"}},{"jump":{"target":"c"}}]}},` +
		`{"rule":{"family":"inet","table":"f","chain":"c","handle":3,"expr":[{"vmap":{"key":{"ct":{"key":"state"}},"data":{"set":[["new",{"accept":null}]]}}}]}}]}`))
	f.Add([]byte("*filter\n:INPUT DROP\n-A INPUT ! -s 10.0.0.0/8 -p udp --dports 1:,:5,x -j INPUT\n-A INPUT -g INPUT"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if fw, err := readNFT(data, data); err == nil {
			judgeFirewall(fw, []iface{eth0}, defaultPorts.listeners())
		}
		judgeFirewall(readIPTables(data), []iface{eth0}, defaultPorts.listeners())
	})
}

// A store with every fault.
func TestStore(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	policy := func(text string) *host.Policy {
		p, err := host.Parse("netroot.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	d := &Doctor{Store: s, Policy: host.Default()}
	expect(t, "empty", d.store(), "fault: it holds no image", "fault: files of pxelinux are missing: pxelinux.0")
	publish(t, s, "good")
	torn := publish(t, s, "torn")
	old := publish(t, s, "old")
	publish(t, s, "old")
	none := publish(t, s, "none")
	for _, name := range append(tftpboot.LoaderFiles(), "memtest86+") {
		if err := os.WriteFile(filepath.Join(s.LoaderDir(), name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range []store.Generation{torn, old} {
		if err := os.Truncate(g.Path(store.PartKernel), 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(filepath.Dir(none.Dir), "current")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	d.Policy = policy("default: good\nloader: lpxelinux.0\nhosts: [{name: a, mac: \"02:00:00:00:00:01\", image: gone}, {name: b, mac: \"02:00:00:00:00:02\", image: good@9}]\n")
	got := d.store()
	expect(t, "faulty", got, "ok: good@1 is current, of 1 generations", "fault: it is broken: vmlinuz has 1 bytes and had 7", "ok: torn@1 is current", "note: it is broken: vmlinuz has 1 bytes",
		"ok: old@2 is current, of 2", "fault: none of its 1 generations is current", "fault: the policy names it, and the store has it not", "fault: the policy names it, and the store has it not",
		"ok: pxelinux is there", "fault: the policy has machines load lpxelinux.0", "fault: everybody on this machine may look into it (mode 0755)", "ok: MB are free")
	var faults *FaultError
	if err := Verdict(got); !errors.As(err, &faults) || faults.Faults != 6 {
		t.Errorf("the verdict is %v", err)
	}
	if err := Verdict([]Finding{{Level: OK}, {Level: Note}}); err != nil {
		t.Errorf("nothing in the way, and the verdict is %v", err)
	}
	if got := (&Doctor{Store: s, Policy: host.Default()}).folder(1 << 60); len(got) != 2 || got[1].Level != Note || !strings.Contains(got[1].What, "may not fit") {
		t.Errorf("a full disk: %s", show(got))
	}
}

func publish(t *testing.T, s *store.Store, name string) store.Generation {
	t.Helper()
	d, err := s.Begin(name)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Abort()
	if _, err := image.Write(context.Background(), filepath.Join(d.Dir(), store.PartRoot), t.TempDir(), image.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{store.PartKernel, store.PartInitramfs} {
		if err := os.WriteFile(filepath.Join(d.Dir(), part), []byte(part), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g, err := d.Publish(store.Manifest{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// The exact offer and menu of one machine, for each firmware; the text is in testdata.
func TestOffer(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, "debian-12")
	policy, err := host.Parse("netroot.yaml", []byte("default: ignore\nnetworks: [{network: 10.99.0.0/24, server: 192.0.2.7}]\n"+
		"hosts:\n  - {name: alpha, mac: \"02:00:00:00:00:07\", image: debian-12}\n  - {name: beta, mac: \"02:00:00:00:00:08\", disabled: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	// Beside it a policy that lists a machine by UUID, and what serve has learned of one.
	dir := t.TempDir()
	const board = "58b41815-581e-c62a-d4e2-f44d30606469"
	if err := os.WriteFile(filepath.Join(dir, "netroot.yaml"), []byte("default: ignore\nhosts: [{name: alpha, uuid: "+board+", image: debian-12}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "uuids"), []byte("02:00:00:00:00:0a "+board+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := host.Open(filepath.Join(dir, "netroot.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Recall(dir); err != nil {
		t.Fatal(err)
	}
	byUUID := live.Policy()
	if err != nil {
		t.Fatal(err)
	}
	tree := &tftpboot.Tree{Store: s, Loader: s.LoaderDir(), Decide: policy.Decide, HTTPPort: 80}
	elsewhere := &tftpboot.Tree{Store: s, Loader: s.LoaderDir(), Decide: live.Decide, HTTPPort: 8080, NFSPort: 20490}
	far := iface{net.Interface{Name: "eth9"}, []netip.Prefix{netip.MustParsePrefix("10.99.0.3/24")}}
	var b strings.Builder
	for _, c := range []struct {
		name string
		d    Doctor
		on   iface
	}{
		{"BIOS", Doctor{MAC: alpha}, eth0},
		{"iPXE", Doctor{MAC: alpha, IPXE: true}, eth0},
		{"UEFI", Doctor{MAC: alpha, Arch: 7}, eth0},
		{"disabled", Doctor{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 8}}, eth0},
		{"unlisted", Doctor{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}}, eth0},
		{"sent elsewhere", Doctor{MAC: alpha}, far},
		{"no DHCP", Doctor{MAC: alpha, Ports: Ports{HTTP: 80}}, eth0},
		{"by a UUID that serve knows", Doctor{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 10}, Policy: byUUID}, eth0},
		{"by a UUID that is not known", Doctor{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 11}, Policy: byUUID, Forgot: fs.ErrPermission}, eth0},
		{"by its UUID", Doctor{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 12}, UUID: board, Policy: byUUID}, eth0},
		{"by its UUID, iPXE", Doctor{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 13}, UUID: board, IPXE: true, Policy: byUUID}, eth0},
	} {
		if c.d.Ports == (Ports{}) {
			c.d.Ports = defaultPorts
		}
		if c.d.Policy == byUUID {
			c.d.Store, c.d.Decide, c.d.Tree, c.d.DHCP = s, live.Decide, elsewhere, proxydhcp.Config{Script: elsewhere.ScriptURL}
		} else {
			c.d.Store, c.d.Policy, c.d.Tree, c.d.DHCP = s, policy, tree, proxydhcp.Config{Script: tree.ScriptURL}
		}
		fmt.Fprintf(&b, "== %s\n", c.name)
		for _, f := range c.d.offer(c.on) {
			if strings.HasPrefix(f.What, "it would read") { // the menu is another package's to word
				for _, part := range []string{"debian-12/1/vmlinuz", "root=nfs:10.77.0.3:/debian-12@1", "netroot.hostname=alpha"} {
					if !strings.Contains(f.Text, part) {
						t.Errorf("%s: no %s in %s", c.name, part, f.Text)
					}
				}
				f.Text = ""
			}
			fmt.Fprintf(&b, "%s %s: %s\n%s", f.Level, f.About, f.What, f.Text)
		}
	}
	golden.Compare(t, "testdata/offers.txt", strings.ReplaceAll(b.String(), dir+"/", ""))
}

// What an ordinary user cannot see is no fault.
func TestHiddenHolders(t *testing.T) {
	hidden := holding{holders: []portowner.Holder{{Address: netip.IPv4Unspecified()}}, hidden: true}
	ports := map[port]holding{{"tcp", 80}: hidden, {"udp", 111}: hidden}
	for _, f := range (Ports{HTTP: 80, Portmap: 111}).judge(ports, []string{"live@1"}) {
		if f.About == "TCP 111" {
			continue
		}
		if f.Level != Note || f.WayOut != "run it as root" || !strings.Contains(f.What, "may be netroot itself") {
			t.Errorf("%+v", f)
		}
	}
	mine := mustRead(t, "10.77.0.3", reply("0.0.0.0", "10.77.0.3", "pxelinux.0", "\x3cPXEClient"))
	const silence = "fault: no DHCP server answered within"
	expect(t, "an answer from here", judge(eth0, []offer{mine}, site{holder: hidden}), silence, "ok: another process on this very machine answers: boot file pxelinux.0")
	expect(t, "no answer", judge(eth0, nil, site{holder: hidden}), silence, "note: whether netroot serve runs here cannot be seen")
	expect(t, "no DHCP", judge(eth0, nil, site{off: true}), silence, "note: serve with --no-dhcp tells machines nothing")
}

// The ports are those that serve is started with.
func TestChosenPorts(t *testing.T) {
	var list []string
	for _, l := range (Ports{DHCP: 1067, PXE: 4011, HTTP: 8080}).listeners() {
		list = append(list, l.String()+" "+l.service)
	}
	if got := strings.Join(list, ", "); got != "UDP 1067 dhcp, UDP 4011 dhcp, TCP 8080 http" {
		t.Error(got)
	}
	foreign := holding{holders: []portowner.Holder{{Process: portowner.Process{PID: 7, Name: "nginx"}, Address: netip.IPv4Unspecified()}}}
	for _, f := range (Ports{HTTP: 8080}).judge(map[port]holding{{"tcp", 80}: foreign}, nil) {
		if f.Level != OK {
			t.Errorf("%+v", f)
		}
	}
	got := judgeFirewall(readIPTables([]byte("*filter\n:INPUT DROP\n-A INPUT -p tcp -m tcp --dport 8080 -j ACCEPT\nCOMMIT\n")), []iface{eth0}, Ports{HTTP: 8080, NFS: 20490}.listeners())
	expect(t, "the firewall", got, "fault: drops what machines send to TCP 20490: ")
}
