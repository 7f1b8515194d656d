package proxydhcp

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"netroot/boot/host"
)

var (
	decision = host.Decision{}
	here     = netip.MustParseAddr("10.77.0.3")
	nobody   = netip.MustParseAddrPort("0.0.0.0:68")
)

func scripts(local netip.Addr, mac net.HardwareAddr) string {
	return "http://" + local.String() + ":80/ipxe/01-" + strings.ReplaceAll(mac.String(), ":", "-")
}

// features is what QEMU's iPXE says of itself: HTTP, bzImage and menus among other things.
var features = []byte{0xb1, 5, 1, 0x80, 0x86, 0x10, 0x0e, 17, 1, 1, 19, 1, 1, 24, 1, 1, 39, 1, 2, 0xff}

func efi(arch uint16) string {
	if arch == 7 {
		return "snponly.efi"
	}
	return ""
}

// What policy says beside the image: the loader, the server to name, and that iPXE is to have no script.
func TestRepliesByPolicy(t *testing.T) {
	ipxe, bios := discover().str(77, "iPXE").opt(175, features...).end(), discover().end()
	other := netip.MustParseAddr("192.168.2.82")
	for name, c := range map[string]struct {
		packet []byte
		d      host.Decision
		file   string
		siaddr netip.Addr
	}{
		"nothing said":          {ipxe, host.Decision{}, "http://10.77.0.3:80/ipxe/01-52-54-00-12-34-56", here},
		"pxelinux for iPXE":     {ipxe, host.Decision{IPXE: "pxelinux"}, "tftp://10.77.0.3/pxelinux.0", here},
		"lpxelinux":             {bios, host.Decision{Loader: "lpxelinux.0"}, "lpxelinux.0", here},
		"lpxelinux for iPXE":    {ipxe, host.Decision{IPXE: "pxelinux", Loader: "lpxelinux.0"}, "tftp://10.77.0.3/lpxelinux.0", here},
		"another server":        {bios, host.Decision{Server: other}, "pxelinux.0", other},
		"another's script":      {ipxe, host.Decision{Server: other}, "http://192.168.2.82:80/ipxe/01-52-54-00-12-34-56", other},
		"another's TFTP server": {ipxe, host.Decision{Server: other, IPXE: "pxelinux"}, "tftp://192.168.2.82/pxelinux.0", other},
	} {
		req, err := Parse(c.packet)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Reply(req, c.d, here, nobody, 67, Config{Script: scripts})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		fields, file, options, err := decode(a.Packet)
		if err != nil || file != c.file || a.File != c.file || fields[2] != c.siaddr {
			t.Errorf("%s: file %q from %v, %v; want %q from %v", name, file, fields[2], err, c.file, c.siaddr)
		}
		if id := options[1]; id.code != optServerID || !slices.Equal(id.data, here.AsSlice()) {
			t.Errorf("%s: the answer is signed %v", name, id)
		}
	}
}

// EDK2 asks the port 4011 of the offer's siaddr, and there only this server answers; the file is from the other one.
func TestUEFIAndAnotherServer(t *testing.T) {
	other := netip.MustParseAddr("192.168.2.82")
	for name, want := range map[string]netip.Addr{"edk2-discover": here, "edk2-bootserver": other} {
		q := fixture(t, name)
		req, err := Parse(q.packet)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Reply(req, host.Decision{Server: other}, here, q.from, q.role, Config{Loader: efi})
		if err != nil {
			t.Fatal(err)
		}
		if fields, _, _, err := decode(a.Packet); err != nil || fields[2] != want {
			t.Errorf("%s: siaddr %v, %v; want %v", name, fields[2], err, want)
		}
	}
}

// What policy is asked about: the client's own address, and one on its network.
func TestMachine(t *testing.T) {
	for name, c := range map[string]struct {
		packet        []byte
		address, near string
	}{
		"no address yet": {discover().end(), "invalid IP", "10.77.0.3"},
		"has an address": {bootServerRequest().end(), "10.77.0.150", "10.77.0.3"},
		"behind a relay": {discover().addr(24, "192.168.5.1").end(), "invalid IP", "192.168.5.1"},
	} {
		req, err := Parse(c.packet)
		if err != nil {
			t.Fatal(err)
		}
		m := req.Machine("eno1", here)
		if m.Interface != "eno1" || m.MAC.String() != "52:54:00:12:34:56" || m.UUID != "58b41815-581e-c62a-d4e2-f44d30606469" || m.Address.String() != c.address || m.Near.String() != c.near {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

// What must not be answered, and whether anybody hears why.
func TestNoAnswer(t *testing.T) {
	pxe := func(kind byte) *client {
		return newClient(1).opt(53, kind).str(60, "PXEClient:Arch:00000:UNDI:002001").opt(93, 0, 0)
	}
	tests := map[string]struct {
		packet []byte
		role   Role
		d      host.Decision
		reason string // "" is silence
	}{
		"a laptop":                           {newClient(1).opt(53, 1).str(60, "MSFT 5.0").opt(55, 1, 3, 6).end(), 67, decision, ""},
		"nothing known":                      {newClient(1).opt(53, 1).end(), 67, decision, ""},
		"class without architecture":         {newClient(1).opt(53, 1).str(60, "PXEClient").end(), 67, decision, ""},
		"the lease of the site's server":     {pxe(3).opt(54, 10, 77, 0, 2).opt(50, 10, 77, 0, 150).end(), 67, decision, ""},
		"a lease of no server in particular": {pxe(3).opt(50, 10, 77, 0, 150).end(), 67, decision, ""},
		"another boot server's":              {pxe(3).opt(54, 10, 77, 0, 9).opt(43, 71, 4, 0, 0, 0, 0).end(), 4011, decision, ""},
		"release":                            {pxe(7).end(), 67, decision, ""},
		"decline":                            {pxe(4).end(), 67, decision, ""},
		"offer from a broken server":         {pxe(2).end(), 67, decision, ""},
		"discover on 4011":                   {pxe(1).end(), 4011, decision, ""},
		"BOOTP with a class":                 {newClient(1).str(60, "PXEClient:Arch:00000").end(), 67, decision, ""},
		"ignored":                            {pxe(1).end(), 67, host.Decision{Ignore: true, Reason: "not listed"}, "not listed"},
		"ignored without a reason":           {pxe(1).end(), 67, host.Decision{Ignore: true}, "ignored by configuration"},
		"UEFI":                               {newClient(1).opt(53, 1).str(60, "PXEClient:Arch:00007").opt(93, 0, 7).end(), 67, decision, "no boot loader for a machine of type 7 (x86-64 UEFI)"},
		"UEFI HTTP":                          {newClient(1).opt(53, 1).str(60, "HTTPClient:Arch:00016").opt(93, 0, 16).end(), 67, decision, "UEFI HTTP boot"},
	}
	for name, c := range tests {
		req, err := Parse(c.packet)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		a, err := Reply(req, c.d, here, nobody, c.role, Config{})
		switch {
		case err == nil:
			t.Errorf("%s was answered:\n%s", name, dump(t, a.Packet))
		case errors.Is(err, ErrSilent) != (c.reason == ""):
			t.Errorf("%s: %v", name, err)
		case !strings.Contains(err.Error(), c.reason):
			t.Errorf("%s: %q does not say %q", name, err, c.reason)
		}
	}
}

func TestLongFileName(t *testing.T) {
	req, _ := Parse(discover().end())
	for n, ok := range map[int]bool{127: true, 128: false} {
		a, err := Reply(req, decision, here, nobody, 67, Config{Loader: func(uint16) string { return strings.Repeat("a", n) }})
		if (err == nil) != ok {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err == nil && a.Packet[headerLen-1] != 0 {
			t.Error("the file name is not terminated")
		}
	}
}

func TestPickLocal(t *testing.T) {
	addrs := []netip.Prefix{netip.MustParsePrefix("169.254.3.4/16"), netip.MustParsePrefix("10.1.0.1/24"), netip.MustParsePrefix("10.2.0.1/24")}
	for _, c := range []struct{ dst, client, want string }{
		{"255.255.255.255", "0.0.0.0", "10.1.0.1"},
		{"255.255.255.255", "10.2.0.77", "10.2.0.1"},
		{"10.2.0.1", "0.0.0.0", "10.2.0.1"},
		{"10.2.0.1", "10.1.0.9", "10.2.0.1"},
		{"255.255.255.255", "172.16.0.1", "10.1.0.1"},
	} {
		if got, _ := pickLocal(addrs, netip.MustParseAddr(c.dst), netip.MustParseAddr(c.client)); got.String() != c.want {
			t.Errorf("to %s from %s: %v, want %s", c.dst, c.client, got, c.want)
		}
	}
	if a, ok := pickLocal(addrs[:1], here, here); !ok || a.String() != "169.254.3.4" {
		t.Errorf("only a link-local address: %v", a)
	}
	if _, ok := pickLocal(nil, here, here); ok {
		t.Error("an interface without addresses has one")
	}
}
