package host

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"netroot/builder/golden"
	"netroot/builder/strictyaml"
)

const lab = `interfaces: [eno1, eno2]
default: ignore
hosts:
  - name: vmegr
    mac: ["00:20:38:03:37:6c", 00-20-38-03-37-6E]
    image: slc68-v7768
    cmdline: ["console=ttyS0,115200"]
  - name: vmelas
    mac: 0020.3803.3770
    image: debian-12-i386@3
  - {name: old, mac: 002038033772, image: debian-12, disabled: true}
  - name: guest
    mac: 00:20:38:03:37:74
`

var addrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func TestDecide(t *testing.T) {
	p, err := Parse("netroot.yaml", []byte(lab))
	if err != nil {
		t.Fatal(err)
	}
	menu, err := Parse("netroot.yaml", []byte("hosts: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := Parse("n.yaml", []byte("# site\ndefault: debian-12@7\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		policy *Policy
		m      Machine
		want   Decision
	}{
		{"listed", p, Machine{MAC: mac("00:20:38:03:37:6c"), Interface: "eno1"},
			Decision{Name: "vmegr", Image: "slc68-v7768", Cmdline: []string{"console=ttyS0,115200"}, Reason: "00:20:38:03:37:6c is vmegr, listed in netroot.yaml:5"}},
		{"second address", p, Machine{MAC: mac("00:20:38:03:37:6e"), Interface: "eno2"},
			Decision{Name: "vmegr", Image: "slc68-v7768", Cmdline: []string{"console=ttyS0,115200"}, Reason: "00:20:38:03:37:6e is vmegr, listed in netroot.yaml:5"}},
		{"pinned, no interface known", p, Machine{MAC: mac("00:20:38:03:37:70")},
			Decision{Name: "vmelas", Image: "debian-12-i386@3", Reason: "00:20:38:03:37:70 is vmelas, listed in netroot.yaml:9"}},
		{"disabled", p, Machine{MAC: mac("00:20:38:03:37:72")},
			Decision{Ignore: true, Name: "old", Image: "debian-12", Reason: "00:20:38:03:37:72 is old, disabled in netroot.yaml:11"}},
		{"listed without image", p, Machine{MAC: mac("00:20:38:03:37:74")},
			Decision{Name: "guest", Reason: "00:20:38:03:37:74 is guest, listed in netroot.yaml:13"}},
		{"unlisted", p, Machine{MAC: mac("02:00:00:00:00:01"), Interface: "eno1"},
			Decision{Ignore: true, Reason: "02:00:00:00:00:01 is not listed, and default is ignore in netroot.yaml:2"}},
		{"other interface", p, Machine{MAC: mac("00:20:38:03:37:6c"), Interface: "wlan0"},
			Decision{Ignore: true, Reason: "00:20:38:03:37:6c came in on wlan0, which is not among the interfaces in netroot.yaml:1"}},
		{"no address", p, Machine{}, Decision{Ignore: true, Reason: "a machine whose MAC address is not known is not listed, and default is ignore in netroot.yaml:2"}},
		{"no default", menu, Machine{MAC: mac("02:00:00:00:00:01")}, Decision{Reason: "02:00:00:00:00:01 is not listed, and gets a menu"}},
		{"default image", image, Machine{MAC: mac("02:00:00:00:00:01"), Interface: "any"},
			Decision{Image: "debian-12@7", Reason: "02:00:00:00:00:01 is not listed, and default is debian-12@7 in n.yaml:2"}},
		{"no file", Default(), Machine{MAC: mac("02:00:00:00:00:01")}, Decision{Reason: "02:00:00:00:00:01 gets a menu, as everybody without a netroot.yaml"}},
		{"zero value", &Policy{}, Machine{MAC: mac("02:00:00:00:00:01")}, Decision{Reason: "02:00:00:00:00:01 gets a menu, as everybody without a netroot.yaml"}},
	} {
		if diff := cmp.Diff(c.want, c.policy.Decide(c.m), addrs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// What is found by which address, and what the network it is on changes.
const site = `default: ignore
ipxe: pxelinux
menu: {timeout: 0, serial: "ttyS1,9600"}
networks:
  - {network: 172.16.0.0/16, default: menu, server: 172.16.210.62, cmdline: [net=wide, who=net]}
  - {network: 172.16.192.0/18, default: lobby, loader: lpxelinux.0, cmdline: [net=narrow]}
  - {interface: eno2, default: local, ipxe: script}
hosts:
  - {name: card, mac: "00:20:38:03:37:6c", image: one, cmdline: [who=host]}
  - {name: board, uuid: 58B41815-581E-C62A-D4E2-F44D30606469, image: two@2}
  - {name: far, address: [10.9.0.5, 10.9.0.6], image: three}
  - {name: disk, mac: "00:20:38:03:37:6d", image: one@4, boot: local}
  - {name: gone, mac: "00:20:38:03:37:6e", uuid: 00000000000000000000000000000001, disabled: true}
monitors: [192.168.2.0/24, 10.1.1.1]
`

func TestDecideBySite(t *testing.T) {
	p, err := Parse("s.yaml", []byte(site))
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	menu := Menu{Seconds: -1, Serial: "ttyS1,9600"}
	card, stranger := mac("00:20:38:03:37:6c"), mac("02:00:00:00:00:01")
	const board, swapped = "58b41815-581e-c62a-d4e2-f44d30606469", "1518b458-1e58-2ac6-d4e2-f44d30606469"
	for name, c := range map[string]struct {
		m    Machine
		want Decision
	}{
		"by MAC before all else": {Machine{MAC: card, UUID: board, Address: addr("10.9.0.5")},
			Decision{Name: "card", Image: "one", IPXE: "pxelinux", Cmdline: []string{"who=host"}, Reason: "00:20:38:03:37:6c is card, listed in s.yaml:9"}},
		"by UUID before an address": {Machine{MAC: stranger, UUID: board, Address: addr("10.9.0.5")},
			Decision{Name: "board", Image: "two@2", IPXE: "pxelinux", Reason: "02:00:00:00:00:01 is board by its UUID, listed in s.yaml:10"}},
		"by UUID with its bytes as they lie in memory": {Machine{UUID: swapped},
			Decision{Name: "board", Image: "two@2", IPXE: "pxelinux", Reason: swapped + " is board by its UUID, listed in s.yaml:10"}},
		"by address": {Machine{MAC: stranger, Address: addr("10.9.0.6")},
			Decision{Name: "far", Image: "three", IPXE: "pxelinux", Reason: "02:00:00:00:00:01 is far by its address, listed in s.yaml:11"}},
		"its relay's or server's address is not its own": {Machine{MAC: stranger, Near: addr("10.9.0.6")},
			Decision{Ignore: true, IPXE: "pxelinux", Reason: "02:00:00:00:00:01 is not listed, and default is ignore in s.yaml:1"}},
		"its own disk": {Machine{MAC: mac("00:20:38:03:37:6d")},
			Decision{Name: "disk", Local: true, IPXE: "pxelinux", Reason: "00:20:38:03:37:6d is disk, listed in s.yaml:12"}},
		"disabled, by UUID": {Machine{MAC: stranger, UUID: "00000000-0000-0000-0000-000000000001"},
			Decision{Ignore: true, Name: "gone", IPXE: "pxelinux", Reason: "02:00:00:00:00:01 is gone by its UUID, disabled in s.yaml:13"}},
		"a UUID of zeros": {Machine{UUID: "00000000-0000-0000-0000-000000000000"},
			Decision{Ignore: true, IPXE: "pxelinux", Reason: "00000000-0000-0000-0000-000000000000 is not listed, and default is ignore in s.yaml:1"}},
		"a listed one on a network": {Machine{MAC: card, Near: addr("172.16.1.1")},
			Decision{Name: "card", Image: "one", IPXE: "pxelinux", Server: addr("172.16.210.62"), Cmdline: []string{"net=wide", "who=net", "who=host"}, Reason: "00:20:38:03:37:6c is card, listed in s.yaml:9"}},
		"the wide network": {Machine{MAC: stranger, Near: addr("172.16.1.1"), Interface: "eno2"},
			Decision{IPXE: "pxelinux", Server: addr("172.16.210.62"), Cmdline: []string{"net=wide", "who=net"}, Reason: "02:00:00:00:00:01 is not listed, and gets a menu in s.yaml:5"}},
		"the narrow network in it": {Machine{MAC: stranger, Near: addr("172.16.193.1")},
			Decision{Image: "lobby", IPXE: "pxelinux", Loader: "lpxelinux.0", Cmdline: []string{"net=narrow"}, Reason: "02:00:00:00:00:01 is not listed, and default is lobby in s.yaml:6"}},
		"its own address says more": {Machine{MAC: stranger, Near: addr("192.168.2.82"), Address: addr("172.16.193.9")},
			Decision{Image: "lobby", IPXE: "pxelinux", Loader: "lpxelinux.0", Cmdline: []string{"net=narrow"}, Reason: "02:00:00:00:00:01 is not listed, and default is lobby in s.yaml:6"}},
		"by interface when no addresses fit": {Machine{MAC: stranger, Near: addr("192.168.2.82"), Interface: "eno2"},
			Decision{Local: true, IPXE: "script", Reason: "02:00:00:00:00:01 is not listed, and default is local in s.yaml:7"}},
	} {
		c.want.Menu = menu
		if diff := cmp.Diff(c.want, p.Decide(c.m), addrs, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff([]netip.Prefix{netip.MustParsePrefix("192.168.2.0/24"), netip.MustParsePrefix("10.1.1.1/32")}, p.Monitors, addrs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"lobby", "one", "two@2", "three", "one@4"}, p.Images()); diff != "" {
		t.Error(diff)
	}
}

func TestParseUUID(t *testing.T) {
	for _, s := range []string{"58b41815-581e-c62a-d4e2-f44d30606469", "58B41815-581E-C62A-D4E2-F44D30606469", "58b41815581ec62ad4e2f44d30606469", " 58b41815-581e-c62a-d4e2-f44d30606469 "} {
		if got, err := ParseUUID(s); err != nil || got != "58b41815-581e-c62a-d4e2-f44d30606469" || Swapped(Swapped(got)) != got {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-", "58b41815-581e-c62a-d4e2-f44d3060646", "58b4-1815581e-c62a-d4e2-f44d30606469", "58b41815-581e-c62a-d4e2-f44d3060646g",
		"00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "ffffffffffffffffffffffffffffffff"} {
		if got, err := ParseUUID(s); err == nil {
			t.Errorf("%q is read as %v", s, got)
		}
	}
}

// A caller may change what it got without changing what the next one gets.
func TestDecisionIsACopy(t *testing.T) {
	p, err := Parse("netroot.yaml", []byte(lab))
	if err != nil {
		t.Fatal(err)
	}
	m := Machine{MAC: mac("00:20:38:03:37:6c")}
	p.Decide(m).Cmdline[0] = "changed"
	if got := p.Decide(m).Cmdline[0]; got == "changed" {
		t.Error("the policy was changed through a decision")
	}
}

func TestParseMAC(t *testing.T) {
	for _, s := range []string{
		"00:20:38:03:37:6c", "00:20:38:03:37:6C", "00-20-38-03-37-6C", "0020.3803.376c", "002038-03376c", "00203803376C",
		"01-00-20-38-03-37-6c", "0:20:38:3:37:6c", " 00:20:38:03:37:6c ", "00 20 38 03 37 6c",
	} {
		if got, err := ParseMAC(s); err != nil || got.String() != "00:20:38:03:37:6c" {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", ":", "00:20:38:03:37", "00:20:38:03:37:6c:00", "02-00-20-38-03-37-6c", "00:20:38:03:37:6g", "00:20:38:03:37:6cc", "0020.3803.376", "020:38:03:37:6c:00",
		"ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00", "0020380337", "日本",
	} {
		if got, err := ParseMAC(s); err == nil {
			t.Errorf("%q is read as %v", s, got)
		}
	}
}

// Every bad file gives the text beside it, in testdata/golden.
func TestBadFiles(t *testing.T) {
	t.Chdir("testdata/bad")
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d bad files, %v", len(files), err)
	}
	for _, file := range files {
		_, err := Load(file)
		var list strictyaml.Errors
		if !errors.As(err, &list) {
			t.Errorf("%s: %v is not strictyaml.Errors", file, err)
			continue
		}
		golden.Compare(t, filepath.Join("../golden", strings.TrimSuffix(file, ".yaml")+".txt"), err.Error()+"\n")
	}
}

// The README shows a policy that holds every key there is.
// Who boots an image once is sent to his own disk as soon as it is known that he did.
func TestOnce(t *testing.T) {
	p, err := Parse("netroot.yaml", []byte("networks: [{interface: eno1, vars: {a: 1, b: 2}}]\nhosts: [{name: nuc, mac: 00:20:38:03:37:6c, image: ubuntu, boot: once, vars: {b: 3}}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	m := Machine{MAC: mac("00:20:38:03:37:6c"), Interface: "eno1"}
	d := p.Decide(m)
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "3"}, d.Vars); diff != "" || d.Image != "ubuntu" || !d.Once || d.Local {
		t.Errorf("%+v %s", d, diff)
	}
	done := false
	live := Fixed(p)
	live.Knowing(func(name string) bool { return done && name == "nuc" })
	if d := live.Decide(m); d.Local {
		t.Errorf("not installed: %+v", d)
	}
	done = true
	if d := live.Decide(m); !d.Local || d.Image != "" || d.Name != "nuc" {
		t.Errorf("installed: %+v", d)
	}
}

// A policy that is found wanting does not come into force.
func TestRequire(t *testing.T) {
	file := filepath.Join(t.TempDir(), "netroot.yaml")
	if err := os.WriteFile(file, []byte("default: ignore\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	live, err := Open(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	bad := errors.New("menus are not wanted")
	err = live.Require(func(p *Policy) error {
		if p.Fallback == "menu" {
			return bad
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("default: menu\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := live.read(file); !errors.Is(err, bad) || live.Policy().Fallback != "ignore" {
		t.Errorf("%v, and %s is in force", err, live.Policy().Fallback)
	}
}

func TestREADME(t *testing.T) {
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "\n## Policy\n")
	_, text, _ = strings.Cut(text, "```yaml\n")
	text, _, _ = strings.Cut(text, "```\n")
	p, err := Parse("README.md", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Hosts) < 4 || p.Fallback != "ignore" {
		t.Errorf("read as %+v", p)
	}
	for _, c := range []any{config{}, menuEntry{}, networkEntry{}, hostEntry{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(c)) {
			key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if !strings.Contains(text, key+": ") && !strings.Contains(text, key+":\n") {
				t.Errorf("the example has no %s", key)
			}
		}
	}
}

func TestLoadMissing(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "netroot.yaml"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v; the caller must be able to tell that there is no file", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(lab))
	f.Add([]byte(site))
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("netroot.yaml", data)
		if err != nil {
			return
		}
		for _, h := range p.Hosts {
			for _, m := range h.MACs {
				if d := p.Decide(Machine{MAC: m}); d.Name != h.Name {
					t.Errorf("%v of %s is decided as %+v", m, h.Name, d)
				}
			}
			for _, a := range h.Addresses {
				if d := p.Decide(Machine{Address: a}); d.Name != h.Name || d.Ignore != h.Disabled {
					t.Errorf("%v of %s is decided as %+v", a, h.Name, d)
				}
			}
			if d := p.Decide(Machine{UUID: h.UUID}); h.UUID != "" && d.Name != h.Name {
				t.Errorf("%v of %s is decided as %+v", h.UUID, h.Name, d)
			}
		}
	})
}

func FuzzParseMAC(f *testing.F) {
	f.Add("00:20:38:03:37:6c")
	f.Add("0020.3803.376c")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			return
		}
		if again, err := ParseMAC(m.String()); err != nil || again.String() != m.String() {
			t.Errorf("%q is read as %v, and that as %v, %v", s, m, again, err)
		}
	})
}

func TestImages(t *testing.T) {
	p, err := Parse("netroot.yaml", []byte("default: lobby\nhosts:\n  - {name: a, mac: 00:20:38:03:37:6c, image: slc68@3}\n"+
		"  - {name: b, mac: 00:20:38:03:37:6d}\n  - {name: c, mac: 00:20:38:03:37:6e, image: slc68@2, disabled: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"lobby", "slc68@3", "slc68@2"}, p.Images()); diff != "" {
		t.Error(diff)
	}
	if got := Default().Images(); got != nil {
		t.Errorf("the policy without a file names %v", got)
	}
}
