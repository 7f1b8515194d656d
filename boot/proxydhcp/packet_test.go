package proxydhcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// A client builds packets as ROMs send them, one option after the other.
type client struct {
	b []byte
}

func newClient(xid uint32) *client {
	b := make([]byte, headerLen)
	b[0], b[1], b[2] = 1, 1, 6
	binary.BigEndian.PutUint32(b[4:], xid)
	binary.BigEndian.PutUint16(b[8:], 4)
	copy(b[28:], net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56})
	return &client{binary.BigEndian.AppendUint32(b, magicCookie)}
}

func (c *client) opt(code byte, data ...byte) *client {
	c.b = append(append(c.b, code, byte(len(data))), data...)
	return c
}

func (c *client) str(code byte, s string) *client { return c.opt(code, []byte(s)...) }

func (c *client) addr(off int, a string) *client {
	copy(c.b[off:], netip.MustParseAddr(a).AsSlice())
	return c
}

func (c *client) flags(f uint16) *client {
	binary.BigEndian.PutUint16(c.b[10:], f)
	return c
}

func (c *client) end() []byte { return append(c.b, optEnd) }

var uuid = append([]byte{0}, []byte("\x58\xb4\x18\x15\x58\x1e\xc6\x2a\xd4\xe2\xf4\x4d\x30\x60\x64\x69")...)

// discover is what a BIOS ROM broadcasts.
func discover() *client {
	return newClient(0x486ed019).flags(0x8000).opt(53, 1).str(60, "PXEClient:Arch:00000:UNDI:002001").opt(93, 0, 0).opt(94, 1, 2, 1).
		opt(97, uuid...).opt(57, 5, 0xc0).opt(55, 1, 3, 6, 43, 54, 60, 66, 67, 128)
}

// bootServerRequest is what iPXE sends to port 4011: its menu's choice, and transaction 0.
func bootServerRequest() *client {
	return newClient(0).addr(12, "10.77.0.150").opt(53, 3).str(60, "PXEClient:Arch:00000:UNDI:002001").opt(93, 0, 0).opt(94, 1, 2, 1).
		opt(97, uuid...).str(77, "iPXE").opt(43, 71, 4, 0x80, 0, 0, 0, 255)
}

// shortest is the shortest packet that is answered: its options are in the fields for names.
func shortest() []byte {
	c := newClient(1).opt(optOverload, 3)
	copy(c.b[fileOff:], "\x35\x01\x01\x3c\x14PXEClient:Arch:00000\xff")
	return c.b
}

func TestParseWhatRomsSend(t *testing.T) {
	long := strings.Repeat("x", 200)
	overloaded := newClient(1).opt(53, 1).opt(52, 3)
	copy(overloaded.b[fileOff:], "\x3c\x09PXEClient\x5d\x02\x00\x07\xff")
	copy(overloaded.b[snameOff:], "\x4d\x04iPXE\xff")
	for name, c := range map[string]struct {
		packet []byte
		check  func(*Request) bool
	}{
		"plain":                   {discover().end(), func(r *Request) bool { return r.XID == 0x486ed019 && r.Type == 1 && r.Secs == 4 }},
		"no END":                  {discover().b, func(r *Request) bool { return r.Type == 1 && r.Class() != "" }},
		"garbage after END":       {append(discover().end(), "\x35\x01\x07garbage"...), func(r *Request) bool { return r.Type == 1 }},
		"padding between options": {append(append(newClient(1).b, 0, 0, 0), 53, 1, 1, 255), func(r *Request) bool { return r.Type == 1 }},
		"no options at all":       {newClient(1).b, func(r *Request) bool { return r.Type == 0 }},
		"option cut off":          {append(discover().b, 61, 20, 1, 2), func(r *Request) bool { return r.Option(61) == nil && r.Type == 1 }},
		"code without length":     {append(discover().b, 61), func(r *Request) bool { return r.Type == 1 }},
		"repeated option, RFC 3396": {newClient(1).str(60, "PXEClient").str(60, ":Arch:00009"+long).end(),
			func(r *Request) bool { a, ok := r.Arch(); return ok && a == 9 && len(r.Class()) == 220 }},
		"overloaded": {overloaded.end(), func(r *Request) bool {
			a, ok := r.Arch()
			return ok && a == 7 && r.IPXE() && r.Class() == "PXEClient"
		}},
		"architecture from the class": {newClient(1).str(60, "PXEClient:Arch:00006:UNDI:003016\x00").end(),
			func(r *Request) bool { a, ok := r.Arch(); return ok && a == 6 }},
		"several architectures": {newClient(1).opt(93, 0, 9, 0, 7).end(), func(r *Request) bool { a, _ := r.Arch(); return a == 9 }},
		"user class as a list":  {newClient(1).str(77, "\x04iPXE").end(), (*Request).IPXE},
		"iPXE's own options":    {newClient(1).opt(175, 0xb1, 5, 1, 0x80, 0x86, 0x10, 0x0e).end(), (*Request).IPXE},
		"UUID":                  {discover().end(), func(r *Request) bool { return r.UUID() == "58b41815-581e-c62a-d4e2-f44d30606469" }},
		"UUID of zeros":         {newClient(1).opt(97, make([]byte, 17)...).end(), func(r *Request) bool { return r.UUID() == "" }},
		"UUID of ones":          {newClient(1).opt(97, append([]byte{0}, bytes.Repeat([]byte{0xff}, 16)...)...).end(), func(r *Request) bool { return r.UUID() == "" }},
		"UUID of a wrong kind":  {newClient(1).opt(97, 0, 1, 2).end(), func(r *Request) bool { return r.UUID() == "" }},
		"empty message type":    {newClient(1).opt(53).end(), func(r *Request) bool { return r.Type == 0 }},
	} {
		r, err := Parse(c.packet)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !c.check(r) {
			t.Errorf("%s: read as %+v", name, r)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	reply := discover().end()
	reply[0] = 2
	bootp := discover().end()
	bootp[headerLen] = 0
	chaddr := discover().end()
	chaddr[2] = 200
	for name, p := range map[string][]byte{"nothing": nil, "short": make([]byte, 239), "a reply": reply, "BOOTP": bootp, "hardware address": chaddr} {
		if _, err := Parse(p); err == nil {
			t.Errorf("%s was taken for a request", name)
		}
	}
}

// decode reads a reply back, strictly.
func decode(p []byte) (fields [4]netip.Addr, file string, options []option, err error) {
	if len(p) < minReply || len(p) > 548 || p[0] != 2 || binary.BigEndian.Uint32(p[headerLen:]) != magicCookie {
		return fields, "", nil, fmt.Errorf("not a reply of 300 to 548 bytes: %d", len(p))
	}
	for i := range fields {
		fields[i] = netip.AddrFrom4([4]byte(p[12+4*i:]))
	}
	file, _, ok := strings.Cut(string(p[fileOff:headerLen]), "\x00")
	if !ok {
		return fields, "", nil, errors.New("the file name is not terminated")
	}
	for o := p[headerLen+4:]; ; o = o[2+o[1]:] {
		switch {
		case len(o) > 0 && o[0] == optEnd:
			if len(bytes.TrimRight(o[1:], "\x00")) != 0 {
				return fields, "", nil, errors.New("bytes behind END")
			}
			return fields, file, options, nil
		case len(o) < 2 || len(o) < 2+int(o[1]):
			return fields, "", nil, errors.New("an option is cut off, or END is missing")
		}
		options = append(options, option{o[0], o[2 : 2+o[1]]})
	}
}

// dump is how golden files show a packet.
func dump(t *testing.T, p []byte) string {
	t.Helper()
	fields, file, options, err := decode(p)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "op=%d hw=%d/%d hops=%d xid=%#x secs=%d flags=%#x chaddr=%v\n", p[0], p[1], p[2], p[3], p[4:8],
		binary.BigEndian.Uint16(p[8:]), binary.BigEndian.Uint16(p[10:]), net.HardwareAddr(p[28:max(34, 28+len(bytes.TrimRight(p[28:44], "\x00")))]))
	fmt.Fprintf(&b, "ciaddr=%v yiaddr=%v siaddr=%v giaddr=%v sname=%q file=%q\n", fields[0], fields[1], fields[2], fields[3],
		bytes.TrimRight(p[snameOff:fileOff], "\x00"), file)
	names := map[byte]string{53: "message type", 82: "relay agent", 54: "server", 60: "class", 97: "machine id", 43: "PXE"}
	for _, o := range options {
		fmt.Fprintf(&b, "option %d (%s): ", o.code, names[o.code])
		if o.code == optClass {
			fmt.Fprintf(&b, "%q\n", o.data)
		} else {
			fmt.Fprintf(&b, "% x\n", o.data)
		}
	}
	fmt.Fprintf(&b, "%d bytes\n", len(p))
	return b.String()
}

func FuzzParse(f *testing.F) {
	f.Add(discover().end())
	f.Add(discover().b)
	f.Add(bootServerRequest().end())
	f.Add(newClient(1).opt(53, 1).opt(52, 3).end())
	f.Add(shortest())
	f.Add([]byte{1, 1, 6})
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := Parse(p)
		if err != nil {
			return
		}
		total := 0
		for _, v := range r.values {
			total += len(v)
		}
		if total > len(p) {
			t.Fatalf("%d bytes of options out of a packet of %d", total, len(p))
		}
		for _, role := range []Role{Proxy, BootServer} {
			a, err := Reply(r, decision, netip.MustParseAddr("10.77.0.3"), netip.MustParseAddrPort("10.77.0.150:68"), role, Config{})
			if err != nil {
				continue
			}
			if len(a.Packet) > max(minReply, len(p)+20) || len(p) < 243 {
				t.Fatalf("%d bytes in answer to %d", len(a.Packet), len(p))
			}
			if _, _, options, err := decode(a.Packet); err != nil || options[0].code != optMessageType {
				t.Fatalf("a reply nobody can read: %v: % x", err, a.Packet)
			}
		}
	})
}
