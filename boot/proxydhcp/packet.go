package proxydhcp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// DHCP options by the names the RFCs give them (RFC 2132, 3004, 4578).
const (
	optPad          = 0
	optVendor       = 43
	optOverload     = 52
	optMessageType  = 53
	optServerID     = 54
	optClass        = 60
	optUserClass    = 77
	optRelayAgent   = 82 // RFC 3046
	optArch         = 93
	optMachineID    = 97
	optIPXE         = 175 // iPXE's own encapsulated options, "Etherboot" in the IANA table
	optEnd          = 255
	subDiscovery    = 6  // PXE_DISCOVERY_CONTROL
	subBootItem     = 71 // PXE_BOOT_ITEM
	magicCookie     = 0x63825363
	headerLen       = 236 // RFC 951: everything before the options
	snameOff        = 44
	fileOff         = 108
	minReply        = 300 // BOOTP's size; some ROMs and relays drop less (RFC 1542, section 2.1)
	opRequest       = 1
	opReply         = 2
	broadcastFlag   = 0x8000
	pxeClass        = "PXEClient"
	httpClass       = "HTTPClient"
	machineIDLen    = 17
	archBIOS        = 0
	classArchPrefix = "PXEClient:Arch:"
	maxChaddr       = 16
	overloadFile    = 1
	overloadSname   = 2
	skipDiscovery   = 8 // PXE 2.1, table 2-1, tag 6, bit 3: take the boot file of this very offer
	messageDiscover = 1
	messageOffer    = 2
	messageRequest  = 3
	messageAck      = 5
	messageInform   = 8
	portServer      = 67
	portClient      = 68
	defaultBootFile = "pxelinux.0"
	// Features that iPXE lists in its own options (its src/include/ipxe/features.h).
	featureHTTP    = 19
	featureBzImage = 24
	featureEFI     = 36
	maxHeaderFile  = 127 // 128 bytes with the NUL that "buggy PXE" ROMs need
)

// A Request is what a client sent, after lenient reading.
type Request struct {
	HType, HLen, Hops byte
	XID               uint32
	Secs, Flags       uint16
	CIAddr, GIAddr    netip.Addr // 0.0.0.0 when unset
	MAC               net.HardwareAddr
	Type              byte // option 53; 0 when missing

	chaddr [maxChaddr]byte
	at     [optEnd]byte // where in values the option of that code is, counted from 1
	values [][]byte
}

// Option returns the value of an option, nil when it is missing.
func (r *Request) Option(code byte) []byte {
	if code == optEnd || r.at[code] == 0 {
		return nil
	}
	return r.values[r.at[code]-1]
}

// Parse reads a client's packet. It takes what ROMs really send: no END, garbage behind it, an option cut off by the
// end of the packet, options repeated to hold more than 255 bytes (RFC 3396), and options that continue in the file and
// server name fields (option 52). It refuses what is not a request of a DHCP client at all, among it every reply. The
// options of the request stay where they are in p.
func Parse(p []byte) (*Request, error) {
	if len(p) < headerLen+4 {
		return nil, errors.New("packet of " + strconv.Itoa(len(p)) + " bytes is too short for DHCP")
	}
	if p[0] != opRequest {
		return nil, errors.New("not a request (op " + strconv.Itoa(int(p[0])) + ")")
	}
	if binary.BigEndian.Uint32(p[headerLen:]) != magicCookie {
		return nil, errors.New("BOOTP without DHCP options")
	}
	r := &Request{
		HType: p[1], HLen: p[2], Hops: p[3],
		XID:  binary.BigEndian.Uint32(p[4:]),
		Secs: binary.BigEndian.Uint16(p[8:]), Flags: binary.BigEndian.Uint16(p[10:]),
		CIAddr: netip.AddrFrom4([4]byte(p[12:16])),
		GIAddr: netip.AddrFrom4([4]byte(p[24:28])),
		values: make([][]byte, 0, 20),
	}
	copy(r.chaddr[:], p[28:44])
	if r.HLen > maxChaddr {
		return nil, errors.New("hardware address of " + strconv.Itoa(int(r.HLen)) + " bytes")
	}
	r.MAC = net.HardwareAddr(r.chaddr[:r.HLen])
	r.read(p[headerLen+4:])
	// RFC 3396, section 5: the options field first, then file, then sname. What stands in file or sname cannot ask for
	// more overloading.
	if o := r.Option(optOverload); len(o) == 1 {
		if o[0]&overloadFile != 0 {
			r.read(p[fileOff:headerLen])
		}
		if o[0]&overloadSname != 0 {
			r.read(p[snameOff:fileOff])
		}
	}
	if t := r.Option(optMessageType); len(t) == 1 {
		r.Type = t[0]
	}
	return r, nil
}

// read adds the options in p, stopping at END, at the end, or at an option that claims more bytes than there are.
func (r *Request) read(p []byte) {
	for len(p) > 0 {
		code := p[0]
		switch {
		case code == optPad:
			p = p[1:]
			continue
		case code == optEnd, len(p) < 2, len(p) < 2+int(p[1]):
			return
		}
		n := int(p[1])
		if value := p[2 : 2+n : 2+n]; r.at[code] == 0 {
			r.values = append(r.values, value)
			r.at[code] = byte(len(r.values))
		} else {
			whole := &r.values[r.at[code]-1]
			*whole = append(*whole, value...) // its capacity ends with it, so this is never written into the packet
		}
		p = p[2+n:]
	}
}

// Class returns option 60, without the NULs some ROMs append.
func (r *Request) Class() string { return strings.TrimRight(string(r.Option(optClass)), "\x00") }

// Arch returns the client system architecture of RFC 4578: option 93, or what the class "PXEClient:Arch:00000:UNDI:002001"
// says when a ROM leaves that out.
func (r *Request) Arch() (arch uint16, ok bool) {
	if a := r.Option(optArch); len(a) >= 2 {
		return binary.BigEndian.Uint16(a), true // a list in order of preference; the first is what runs now
	}
	if rest, found := strings.CutPrefix(r.Class(), classArchPrefix); found && len(rest) >= 5 {
		if n, err := strconv.ParseUint(rest[:5], 10, 16); err == nil {
			return uint16(n), true
		}
	}
	return 0, false
}

// IPXE says whether iPXE is asking, not the firmware's own ROM: its user class (option 77, sent raw or as an RFC 3004 list)
// or its encapsulated options.
func (r *Request) IPXE() bool {
	uc := string(r.Option(optUserClass))
	return uc == "iPXE" || uc == "\x04iPXE" || len(r.Option(optIPXE)) > 0
}

// RunsScript says whether it is iPXE with all that a script of ours needs: HTTP, and Linux as a kernel of BIOS machines or
// as a program of UEFI ones. VirtualBox's has HTTP and no bzImage; ROMs of cards often have neither.
func (r *Request) RunsScript() bool {
	kernel := byte(featureBzImage)
	if arch, _ := r.Arch(); arch != archBIOS {
		kernel = featureEFI
	}
	return r.IPXE() && r.feature(featureHTTP) && r.feature(kernel)
}

// feature looks for one of iPXE's own options.
func (r *Request) feature(code byte) bool { return len(find(r.Option(optIPXE), code)) > 0 }

// UUID returns the machine identifier of option 97 in the byte order in which pxelinux asks for pxelinux.cfg/UUID, or "".
// One of zeros or of ones only is what boards have whose maker wrote none (SMBIOS 3, section 7.2.1), and so names nobody.
func (r *Request) UUID() string {
	id := r.Option(optMachineID)
	if len(id) != machineIDLen || id[0] != 0 {
		return ""
	}
	if n := bytes.Count(id[1:], id[1:2]); n == machineIDLen-1 && (id[1] == 0 || id[1] == 0xff) {
		return ""
	}
	h := hex.EncodeToString(id[1:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// vendor returns one of PXE's own options, encapsulated in option 43.
func (r *Request) vendor(code byte) []byte { return find(r.Option(optVendor), code) }

// find looks for one of the options that are encapsulated in another, nil when it is not there.
func find(p []byte, code byte) []byte {
	for len(p) > 1 && p[0] != optEnd {
		if p[0] == optPad {
			p = p[1:]
			continue
		}
		n := int(p[1])
		if len(p) < 2+n {
			return nil
		}
		if p[0] == code {
			return p[2 : 2+n]
		}
		p = p[2+n:]
	}
	return nil
}

// An option as it goes out: fixed order matters, so a reply is a list and not a map.
type option struct {
	code byte
	data []byte
}

// A reply before it is bytes. siaddr, file and sname are for the next step of the client, ciaddr and yiaddr say whom it is for.
type reply struct {
	to             *Request
	ciaddr, yiaddr netip.Addr
	siaddr         netip.Addr
	file           string
	options        []option
}

// encode writes the packet. The boot file is always in the header and always NUL-terminated: a file name in option 67
// without a NUL makes some ROMs ask for a name with the byte 255 behind it, and ROMs that know no overloading ignore it.
func (m *reply) encode() []byte {
	b := make([]byte, headerLen, minReply)
	b[0], b[1], b[2] = opReply, m.to.HType, m.to.HLen
	binary.BigEndian.PutUint32(b[4:], m.to.XID)
	binary.BigEndian.PutUint16(b[10:], m.to.Flags)
	for i, a := range []netip.Addr{m.ciaddr, m.yiaddr, m.siaddr, m.to.GIAddr} {
		if a.Is4() {
			copy(b[12+4*i:], a.AsSlice())
		}
	}
	copy(b[28:], m.to.chaddr[:])
	copy(b[fileOff:headerLen-1], m.file)
	b = binary.BigEndian.AppendUint32(b, magicCookie)
	for _, o := range m.options {
		b = append(b, o.code, byte(len(o.data)))
		b = append(b, o.data...)
	}
	b = append(b, optEnd)
	if len(b) < minReply {
		b = append(b, make([]byte, minReply-len(b))...)
	}
	return b
}
