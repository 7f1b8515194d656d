package proxydhcp

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/builder/golden"
)

// A question is a packet that comes in, and all its answer depends on.
type question struct {
	packet []byte
	from   netip.AddrPort
	role   Role
	config Config
	to     string // where the answer goes
}

// A quirk is a habit of firmware, where it is known from, and a packet that shows it. The answer is the golden file of its name.
type quirk struct {
	what, source string
	question
}

const (
	biosClass = "PXEClient:Arch:00000:UNDI:002001"
	efiClass  = "PXEClient:Arch:00007:UNDI:003000"
	toAll     = "255.255.255.255:68"
	pxe21     = "PXE 2.1"
)

var (
	leased = netip.MustParseAddrPort("10.77.0.150:68")
	relay  = netip.MustParseAddrPort("192.168.5.1:67")
)

// bios is what a BIOS ROM sends, but for the message type and the UUID.
func bios(xid uint32, kind byte) *client {
	return newClient(xid).opt(53, kind).str(60, biosClass).opt(93, 0, 0)
}

// overload makes the packet carry its class in the file field and its architecture in the server name's.
func overload(c *client) *client {
	copy(c.b[fileOff:], "\x3c\x20"+biosClass+"\xff")
	copy(c.b[snameOff:], "\x5d\x02\x00\x00\xff")
	return c
}

var quirks = map[string]quirk{
	// What the answer to a ROM of BIOS must be like.
	"bios-discover": {"no boot server discovery and no menu: the file of the offer (option 43: 6.1.8), NUL-terminated in the header; option 53 first",
		pxe21 + ", table 2-1, tag 6; netboot.xyz#1198; dnsmasq rfc2131.c", question{discover().end(), nobody, 67, Config{}, toAll}},
	"bios-discover-script":                 {"a script is for iPXE alone", "smee", question{discover().end(), nobody, 67, Config{Script: scripts}, toAll}},
	"bios-discover-without-broadcast-flag": {"no address yet, and no broadcast flag: nobody hears a unicast", "RFC 2131, section 4.1", question{discover().flags(0).end(), nobody, 67, Config{}, toAll}},

	// Packets that are not as the RFCs have them.
	"intel-rom-without-uuid": {"no option 97, and none wanted back", "danderson/pixiecore#21",
		question{newClient(7).flags(0x8000).opt(53, 1).str(60, "PXEClient:Arch:00000:UNDI:002000").opt(93, 0, 0).opt(94, 1, 2, 0).end(), nobody, 67, Config{}, toAll}},
	"uuid-of-zeros":      {"option 97 with a UUID of zeros: told back as it came", "SMBIOS 3, section 7.2.1", question{bios(7, 1).opt(97, make([]byte, 17)...).end(), nobody, 67, Config{}, toAll}},
	"no-end":             {"no END", "insomniacslk/dhcp refuses such packets, ROMs send them", question{discover().b, nobody, 67, Config{}, toAll}},
	"trailing-ff":        {"bytes 255 behind END", "netboot.xyz#1198", question{append(discover().end(), 255, 255), nobody, 67, Config{}, toAll}},
	"option-overload":    {"options in the file and server name fields", "RFC 2132, section 9.3", question{overload(newClient(7).opt(53, 1).opt(52, 3).opt(97, uuid...)).end(), nobody, 67, Config{}, toAll}},
	"option-in-parts":    {"an option in two parts", "RFC 3396", question{newClient(7).opt(53, 1).str(60, "PXEClient:Arch").opt(93, 0, 0).str(60, ":00000:UNDI:002001").end(), nobody, 67, Config{}, toAll}},
	"class-with-nul":     {"option 60 ends in NUL, and there is no option 93", "dnsmasq rfc2131.c", question{newClient(7).opt(53, 1).str(60, biosClass+"\x00").end(), nobody, 67, Config{}, toAll}},
	"hops-and-secs":      {"secs and hops are not told back, the hardware address is with its padding", "RFC 2131, table 3", question{padded(discover()).end(), nobody, 67, Config{}, toAll}},
	"ciaddr-in-discover": {"ciaddr set in a DISCOVER: the client has that address", "RFC 2131, section 4.1", question{discover().flags(0).addr(12, "10.77.0.150").end(), leased, 67, Config{}, "10.77.0.150:68"}},
	"ciaddr-and-broadcast-flag": {"ciaddr set in a DISCOVER that asks for a broadcast", "RFC 2131, section 4.1",
		question{discover().addr(12, "10.77.0.150").end(), nobody, 67, Config{}, toAll}},
	"ciaddr-of-no-machine": {"ciaddr is a group's address", "forged", question{discover().flags(0).addr(12, "224.0.0.1").end(), nobody, 67, Config{}, toAll}},

	"shortest": {"nothing but what an answer needs, and no END: the answer is larger by less than a quarter", "forged", question{shortest(), nobody, 67, Config{}, toAll}},

	// Boot servers.
	"bios-request-4011": {"boot server request with a boot item, from port 4011: told back, and sent there", pxe21 + ", section 2.2.3 and table 2-1, tag 71",
		question{bios(9, 3).addr(12, "10.77.0.150").opt(97, uuid...).opt(43, 71, 4, 0, 0, 0, 0, 255).end(), netip.MustParseAddrPort("10.77.0.150:4011"), 4011, Config{}, "10.77.0.150:4011"}},
	"ipxe-request-4011":       {"iPXE's boot server request: from port 68, transaction 0", "seen with QEMU's ROM", question{bootServerRequest().end(), leased, 4011, Config{}, "10.77.0.150:68"}},
	"boot-item-behind-others": {"the boot item stands behind padding and other options of 43, without their END", pxe21 + ", table 2-1", question{bios(9, 3).addr(12, "10.77.0.150").opt(43, 0, 12, 2, 1, 2, 71, 4, 0x80, 7, 0, 1).end(), leased, 4011, Config{}, "10.77.0.150:68"}},
	"boot-item-cut-off":       {"option 43 is cut off: there is no boot item to tell back", "fuzzing", question{bios(9, 3).addr(12, "10.77.0.150").opt(43, 71, 4, 0x80).end(), leased, 4011, Config{}, "10.77.0.150:68"}},
	"discovery-in-request":    {"a request that repeats our discovery control instead of an item", pxe21 + ", table 2-1, tag 6", question{bios(9, 3).addr(12, "10.77.0.150").opt(43, 6, 1, 8, 255).end(), leased, 4011, Config{}, "10.77.0.150:68"}},
	"boot-server-broadcast67": {"boot server discovery by broadcast comes to port 67", pxe21 + ", section 2.2.3", question{bios(3, 3).addr(12, "10.77.0.150").opt(43, 71, 4, 0, 0, 0, 0, 255).end(), leased, 67, Config{}, "10.77.0.150:68"}},
	"bios-inform-67":          {"DHCPINFORM: yiaddr stays empty", "RFC 2131, section 4.3.5", question{bios(8, 8).addr(12, "10.77.0.150").end(), leased, 67, Config{}, "10.77.0.150:68"}},
	"bios-inform-4011":        {"DHCPINFORM to the boot server", pxe21 + ", section 2.2.3", question{bios(8, 8).addr(12, "10.77.0.150").opt(97, uuid...).end(), leased, 4011, Config{}, "10.77.0.150:68"}},
	"nameless-4011":           {"a boot server request from no address", "RFC 2131, section 4.1", question{bios(8, 3).end(), nobody, 4011, Config{}, toAll}},

	// Relay agents.
	"relayed-discover": {"through a relay: to its port 67", "RFC 2131, section 4.1", question{discover().addr(24, "192.168.5.1").end(), relay, 67, Config{}, "192.168.5.1:67"}},
	"relayed-with-circuit": {"a relay's option 82 goes back unchanged and last", "RFC 3046, section 2.2",
		question{discover().addr(24, "192.168.5.1").opt(82, 1, 4, 0, 7, 0, 3).end(), relay, 67, Config{}, "192.168.5.1:67"}},
	"circuit-without-relay": {"option 82 that no relay put there is not told back", "RFC 3046, section 2.1", question{discover().opt(82, 1, 4, 0, 7, 0, 3).end(), nobody, 67, Config{}, toAll}},

	// iPXE.
	"ipxe-discover":         {"iPXE that is told to take the file of the offer wants a URL", "pixiecore dhcp.go; smee", question{discover().str(77, "iPXE").opt(175, 0xb1, 5, 1, 0x80, 0x86, 0x10, 0x0e).end(), nobody, 67, Config{}, toAll}},
	"ipxe-user-class-list":  {"the user class as RFC 3004 has it", "insomniacslk/dhcp#113", question{discover().str(77, "\x04iPXE").end(), nobody, 67, Config{}, toAll}},
	"ipxe-discover-script":  {"iPXE with HTTP and bzImage gets the script", "ltsp's dnsmasq.conf", question{discover().str(77, "iPXE").opt(175, features...).end(), nobody, 67, Config{Script: scripts}, toAll}},
	"ipxe-without-bzimage":  {"iPXE in VirtualBox: HTTP, but no Linux", "danderson/netboot#51, #52", question{discover().str(77, "iPXE").opt(175, 19, 1, 1, 33, 1, 1).end(), nobody, 67, Config{Script: scripts}, toAll}},
	"ipxe-without-http":     {"iPXE that loads by TFTP only", "ROMs of cards", question{discover().str(77, "iPXE").opt(175, 21, 1, 1, 24, 1, 1).end(), nobody, 67, Config{Script: scripts}, toAll}},
	"ipxe-without-features": {"iPXE that does not say what it can", "iPXE before 1.0", question{discover().str(77, "iPXE").end(), nobody, 67, Config{Script: scripts}, toAll}},
	"uefi-ipxe-script":      {"iPXE on UEFI runs a kernel as a program, not as bzImage", "iPXE features.h", question{newClient(6).opt(53, 1).str(60, "PXEClient:Arch:00007:UNDI:003010").opt(93, 0, 7).str(77, "iPXE").opt(175, 0xb1, 1, 1, 19, 1, 1, 36, 1, 1).end(), nobody, 67, Config{Script: scripts}, toAll}},

	// UEFI, where a loader for it is given.
	"uefi-discover-loader": {"EDK2 before 2017 drops the first offer with option 43, and asks siaddr's port 4011 without", "tianocore/edk2#6944",
		question{newClient(6).opt(53, 1).str(60, efiClass).opt(93, 0, 7).opt(97, uuid...).end(), nobody, 67, Config{Loader: efi}, toAll}},
	"uefi-request-4011": {"and there it gets the file, without option 43", "dnsmasq 2.76", question{newClient(6).opt(53, 3).str(60, efiClass).opt(93, 0, 7).opt(97, uuid...).end(), netip.MustParseAddrPort("10.77.0.151:68"), 4011, Config{Loader: efi}, "10.77.0.151:68"}},
}

func padded(c *client) *client {
	c.b[3] = 3                     // hops
	copy(c.b[34:44], "0123456789") // behind the address
	return c
}

func TestQuirks(t *testing.T) {
	for name, q := range quirks {
		t.Run(name, func(t *testing.T) {
			if q.what == "" || q.source == "" {
				t.Error("a quirk that nobody knows from anywhere")
			}
			req, err := Parse(q.packet)
			if err != nil {
				t.Fatal(err)
			}
			a, err := Reply(req, decision, here, q.from, q.role, q.config)
			if err != nil {
				t.Fatal(err)
			}
			if a.To.String() != q.to {
				t.Errorf("goes to %v, want %v", a.To, q.to)
			}
			if len(a.Packet) > max(minReply, len(q.packet)) {
				t.Errorf("%d bytes in answer to %d", len(a.Packet), len(q.packet))
			}
			compare(t, name, fmt.Sprintf("# %s (%s)\nto %v\n%s", q.what, q.source, a.To, dump(t, a.Packet)))
			again, err := Reply(req, decision, here, q.from, q.role, q.config)
			if err != nil || !slices.Equal(a.Packet, again.Packet) {
				t.Error("the same question got another answer")
			}
		})
	}
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := quirks[strings.TrimSuffix(filepath.Base(f), ".txt")]; !ok {
			t.Errorf("%s is the answer to nothing", f)
		}
	}
}

// compare compares got with the golden file of that name.
func compare(t *testing.T, name, got string) {
	t.Helper()
	golden.Compare(t, filepath.Join("testdata", name+".txt"), got)
}
