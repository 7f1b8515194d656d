package proxydhcp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/boot/host"
)

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

func TestAgainstDnsmasq(t *testing.T) {
	s := newSite(t)
	needs(t, "dnsmasq")
	questions := map[string]question{}
	theirs := map[string]map[string]string{}
	for name, q := range asked {
		questions[name] = q
	}
	dnsmasq := inside(s.srv, "dnsmasq", "-d", "-C", "/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces", "--user=root", "--dhcp-range=10.77.0.0,proxy",
		"--dhcp-boot=pxelinux.0", "--pxe-service=x86PC,netroot,pxelinux", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"))
	var said bytes.Buffer
	dnsmasq.Stderr = &said
	startProcess(t, dnsmasq)
	for name, q := range questions {
		var p []byte
		for try := 0; p == nil && try < 10; try++ { // it may still be starting
			p = s.ask(t, q, 300*time.Millisecond)
			if try >= 2 && q.to == "" {
				break
			}
		}
		theirs[name] = fields(p)
	}
	dnsmasq.Process.Kill()
	dnsmasq.Wait()
	s.serveOurs(t, &Server{Decide: func(host.Machine) host.Decision { return host.Decision{} }, Log: slog.New(slog.DiscardHandler)})
	for name, q := range questions {
		got := differ(fields(s.ask(t, q, 300*time.Millisecond)), theirs[name])
		if !slices.Equal(got, known[name]) {
			t.Errorf("%s: differs from dnsmasq in\n\t%s\nwant\n\t%s\ndnsmasq said:\n%s", name, strings.Join(got, "\n\t"), strings.Join(known[name], "\n\t"), &said)
		}
	}
}

// asked is what both servers are asked.
var asked = map[string]question{
	"discover":             {packet: discover().end(), from: nobody, port: 67, to: "x"},
	"discover without END": {packet: discover().b, from: nobody, port: 67, to: "x"},
	"intel":                {packet: newClient(7).flags(0x8000).opt(53, 1).str(60, "PXEClient:Arch:00000:UNDI:002000").opt(93, 0, 0).opt(94, 1, 2, 0).end(), from: nobody, port: 67, to: "x"},
	"boot server":          {packet: bootServerRequest().end(), from: netip.MustParseAddrPort("10.77.0.150:68"), port: 4011, to: "x"},
	"boot server, port":    {packet: bootServerRequest().end(), from: netip.MustParseAddrPort("10.77.0.150:4011"), port: 4011, to: "x"},
	"a laptop":             {packet: newClient(1).opt(53, 1).str(60, "MSFT 5.0").opt(55, 1, 3, 6).end(), from: nobody, port: 67},
	"a lease":              {packet: newClient(1).opt(53, 3).str(60, "PXEClient:Arch:00000:UNDI:002001").opt(93, 0, 0).opt(54, 10, 77, 0, 2).opt(50, 10, 77, 0, 150).end(), from: nobody, port: 67},
}

// Where the two differ, ours | theirs, and why.
var (
	// RFC 2131, table 3: a server sets secs to 0. dnsmasq leaves the client's.
	secs = "secs: 0000 | 0004"
	// dnsmasq sends a menu (prompt, boot server, item) and the client then asks port 4011. We say in the offer itself: no
	// discovery, take this file from this server. It is one round trip less, and menus are a known source of loops.
	vendor = "option 43: 060108ff | 0601030a040050584508078000010a4d0003090a8000076e6574726f6f74ff"
	siaddr = "siaddr: 0a4d0003 | 00000000"
	// iPXE: a URL, because old ones take the server of a bare name from the site's DHCP server.
	file  = "file: tftp://10.77.0.3/pxelinux.0 | pxelinux.0"
	known = map[string][]string{
		"discover":             {vendor, secs, siaddr},
		"discover without END": {vendor, secs, siaddr},
		"intel":                {vendor, secs, siaddr},
		"boot server":          {file, secs},
		"boot server, port":    {file, secs},
	}
)

// tshark is a third reader of every golden packet.
func TestTsharkReadsEveryReply(t *testing.T) {
	needs(t, "tshark")
	dir := t.TempDir()
	pcap := filepath.Join(dir, "replies.pcap")
	b := []byte{0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 101} // link type 101: raw IP
	var names []string
	for name, q := range questions {
		req, err := Parse(q.packet)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Reply(req, decision, here, q.from, q.port, q.config)
		if err != nil {
			t.Fatal(err)
		}
		n := len(a.Packet)
		b = binary.BigEndian.AppendUint32(append(b, make([]byte, 8)...), uint32(n+28))
		b = binary.BigEndian.AppendUint32(b, uint32(n+28))
		b = append(b, 0x45, 0, byte((n+28)>>8), byte(n+28), 0, 0, 0, 0, 64, 17, 0, 0)
		b = append(append(b, here.AsSlice()...), a.To.Addr().AsSlice()...)
		for _, v := range []uint16{q.port, a.To.Port(), uint16(n + 8), 0} {
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
