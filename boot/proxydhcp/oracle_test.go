package proxydhcp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/boot/host"
	"netroot/builder/need"
)

// A fixture is the packet of a client as a file has it: where it is from, then the bytes.
func fixture(t testing.TB, name string) question {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "clients", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	comment, rest, _ := strings.Cut(string(text), "\n")
	way, digits, _ := strings.Cut(rest, "\n")
	var q question
	var from string
	if _, err := fmt.Sscanf(way, "from %s to %d", &from, &q.role); err != nil || !strings.HasPrefix(comment, "# ") {
		t.Fatalf("%s: want a comment and \"from ADDRESS to PORT\": %v", name, err)
	}
	q.from = netip.MustParseAddrPort(from)
	if q.packet, err = hex.DecodeString(strings.ReplaceAll(digits, "\n", "")); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return q
}

// told shows a packet of a client as golden files do.
func told(t *testing.T, q question) string {
	t.Helper()
	r, err := Parse(q.packet)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "from %v to %d, %d bytes\n", q.from, q.role, len(q.packet))
	fmt.Fprintf(&b, "xid=%#08x secs=%d flags=%#x ciaddr=%v giaddr=%v chaddr=%v\n", r.XID, r.Secs, r.Flags, r.CIAddr, r.GIAddr, r.MAC)
	for code := range byte(optEnd) {
		switch v := r.Option(code); code {
		case optClass, optUserClass, 12:
			if v != nil {
				fmt.Fprintf(&b, "option %d: %q\n", code, v)
			}
		default:
			if v != nil {
				fmt.Fprintf(&b, "option %d: % x\n", code, v)
			}
		}
	}
	return b.String()
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

// What the two servers differ in, as "field: ours | theirs", and why.
var reasons = map[string]string{
	"secs: 0000 | 0004": "RFC 2131, table 3: a server sets secs to 0; dnsmasq leaves the client's",
	"option 43: 060108ff | 0601030a040050584508078000010a4d0003090a8000076e6574726f6f74ff": "dnsmasq sends a menu (prompt, boot server, item) and the client then asks port 4011; " +
		"ours says in the offer: no discovery, take this file. It is a round trip less, and menus are a known source of loops (ipxe#908)",
	"siaddr: 0a4d0003 | 00000000":                    "the server of that file; dnsmasq names it after the menu only",
	"file: tftp://10.77.0.3/pxelinux.0 | pxelinux.0": "iPXE gets a URL: old ones take the server of a bare name from the site's DHCP server (netboot.xyz#736)",
	"flags: 0000 | 8000":                             "RFC 2131, table 3: flags are the client's; dnsmasq sets the broadcast flag when it broadcasts",
	"file: snponly.efi | ":                           "the file is in the offer too, for firmware that does not ask port 4011",
	"sname:  | 10.77.0.3":                            "siaddr says it; sname is for names, and ROMs were seen to look it up",
}

// The packets of firmwares are put to this server and to dnsmasq. The differences are exact: one that is not
// known fails, and so does one that is not there any more. pxelinux is not among them, because it sends no DHCP packet of its
// own: it reads those that the ROM kept.
func TestAgainstDnsmasq(t *testing.T) {
	need.Root(t)
	need.Tools(t, "dnsmasq", "ip", "nsenter")
	ours, theirs := newSite(t), newSite(t)
	ours.serveOurs(t, &Server{Decide: func(host.Machine) host.Decision { return host.Decision{} }, Config: Config{Loader: bothLoaders}})
	theirs.dnsmasq(t)
	files, err := filepath.Glob("testdata/clients/*.hex")
	if err != nil || len(files) == 0 {
		t.Fatal("no packets", err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".hex")
		t.Run(name, func(t *testing.T) {
			q := fixture(t, name)
			our, their := ours.answer(t, q), theirs.answer(t, q)
			text := told(t, q) + "\nno answer\n"
			if our != nil {
				text = told(t, q) + "\n" + dump(t, our)
			}
			text += "\ndnsmasq differs (field: ours | theirs):\n"
			for _, d := range differ(fields(our), fields(their)) {
				seen[d] = true
				if reasons[d] == "" {
					t.Errorf("differs from dnsmasq for no known reason: %s", d)
				}
				text += d + "\n    " + reasons[d] + "\n"
			}
			compare(t, "clients/"+name, text)
		})
	}
	for d := range reasons {
		if !seen[d] {
			t.Errorf("no packet shows this difference any more: %s", d)
		}
	}
}

func bothLoaders(arch uint16) string {
	if arch == archBIOS {
		return defaultBootFile
	}
	return efi(arch)
}

// tshark is a third reader of every golden packet, and of the answers to the packets of firmwares.
func TestTsharkReadsEveryReply(t *testing.T) {
	need.Root(t)
	need.Tools(t, "tshark")
	dir := t.TempDir()
	pcap := filepath.Join(dir, "replies.pcap")
	b := []byte{0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 101} // link type 101: raw IP
	var names []string
	questions := map[string]question{}
	for name, q := range quirks {
		questions[name] = q.question
	}
	files, err := filepath.Glob("testdata/clients/*.hex")
	if err != nil || len(files) == 0 {
		t.Fatal("no packets", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".hex")
		for kind, c := range map[string]Config{"loader": {Loader: bothLoaders}, "script": {Loader: bothLoaders, Script: scripts}} {
			q := fixture(t, name)
			q.config = c
			questions["client "+name+", "+kind] = q
		}
	}
	silent := 0
	for name, q := range questions {
		req, err := Parse(q.packet)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Reply(req, decision, here, q.from, q.role, q.config)
		if errors.Is(err, ErrSilent) && strings.HasPrefix(name, "client ") {
			silent++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		n := len(a.Packet)
		b = binary.BigEndian.AppendUint32(append(b, make([]byte, 8)...), uint32(n+28))
		b = binary.BigEndian.AppendUint32(b, uint32(n+28))
		b = append(b, 0x45, 0, byte((n+28)>>8), byte(n+28), 0, 0, 0, 0, 64, 17, 0, 0)
		b = append(append(b, here.AsSlice()...), a.To.Addr().AsSlice()...)
		for _, v := range []uint16{uint16(q.role), a.To.Port(), uint16(n + 8), 0} {
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
	if silent != 4 { // two packets that are not for a proxy
		t.Errorf("%d packets of clients are not answered", silent)
	}
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
