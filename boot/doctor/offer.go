package doctor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"netroot/boot/proxydhcp"
)

// An offer is an answer to a DISCOVER.
type offer struct {
	from                 netip.Addr // the sender's
	xid                  uint32
	mac                  net.HardwareAddr
	your, server         netip.Addr // yiaddr, siaddr
	serverName, bootFile string     // in the header
	options              map[byte][]byte
}

const (
	optServerName, optFile = 66, 67
	messageOffer           = 2
)

// readFrame takes a packet out of Ethernet, IP and UDP.
func readFrame(b []byte) (offer, error) {
	if len(b) < 14+20 || binary.BigEndian.Uint16(b[12:]) != 0x0800 {
		return offer{}, errors.New("no IPv4 packet")
	}
	ip := b[14:]
	header := int(ip[0]&15) * 4
	if header < 20 || len(ip) < header+8 || ip[9] != 17 {
		return offer{}, errors.New("no UDP packet")
	}
	o, err := readOffer(ip[header+8:])
	o.from = netip.AddrFrom4([4]byte(ip[12:16]))
	return o, err
}

// readOffer reads a DHCPOFFER. It is laid out as a request is (RFC 2131, figure 1), so the lenient reader of those reads its
// options, wherever they stand.
func readOffer(p []byte) (offer, error) {
	if len(p) < 240 || p[0] != 2 {
		return offer{}, errors.New("not a reply")
	}
	as := slices.Clone(p)
	as[0] = 1
	r, err := proxydhcp.Parse(as)
	if err != nil {
		return offer{}, err
	}
	if r.Type != messageOffer {
		return offer{}, errors.New("not an offer")
	}
	o := offer{xid: r.XID, mac: slices.Clone(r.MAC), options: map[byte][]byte{}, your: netip.AddrFrom4([4]byte(p[16:20])), server: netip.AddrFrom4([4]byte(p[20:24]))}
	for code := byte(1); code < 255; code++ {
		if v := r.Option(code); v != nil {
			o.options[code] = v
		}
	}
	var overload byte
	if v := o.options[52]; len(v) == 1 {
		overload = v[0]
	}
	text := func(b []byte) string {
		b, _, _ = bytes.Cut(b, []byte{0})
		return shown(b)
	}
	if overload&1 == 0 {
		o.bootFile = text(p[108:236])
	}
	if overload&2 == 0 {
		o.serverName = text(p[44:108])
	}
	return o, nil
}

// shown is what a server says as it may be shown: nothing of it is for the terminal.
func shown(b []byte) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(string(b), "?"))
}

// same says whether another answer is this one again.
func (o offer) same(other offer) bool {
	return o.from == other.from && o.your == other.your && o.server == other.server && o.file() == other.file()
}

// pxe says whether the sender calls itself a PXE server.
func (o offer) pxe() bool { return bytes.HasPrefix(o.options[60], []byte("PXEClient")) }

// proxy says whether it is the answer of a proxy: it offers no address.
func (o offer) proxy() bool { return o.your.IsUnspecified() }

// file is the boot file that the sender names: option 67 counts before the header (PXE 2.1, section 2.4.5).
func (o offer) file() string {
	if v := o.options[optFile]; len(v) > 0 {
		return shown(bytes.TrimRight(v, "\x00\xff"))
	}
	return o.bootFile
}

// boots says what the sender would have a machine boot.
func (o offer) boots() string {
	if o.file() == "" {
		return "a menu of its own (option 43)"
	}
	return fmt.Sprintf("boot file %q from %v", o.file(), o.server)
}

// sender names who sent it.
func (o offer) sender() netip.Addr {
	if v := o.options[54]; len(v) == 4 {
		return netip.AddrFrom4([4]byte(v))
	}
	return o.from
}

// names are those of the options that are met in answers (RFC 2132, 4578, 3046).
var names = map[byte]string{1: "netmask", 3: "router", 6: "DNS server", 12: "host name", 15: "domain", 28: "broadcast address", 42: "NTP server", 43: "PXE",
	51: "lease time", 52: "overload", 53: "message type", 54: "server identifier", 58: "renewal time", 59: "rebinding time", 60: "class", 66: "server name", 67: "boot file",
	82: "relay", 93: "architecture", 94: "UNDI", 97: "machine identifier"}

// describe writes a packet as text, a field a line.
func describe(p []byte) string {
	o, err := readOffer(p)
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-24s %s\n", name, value) }
	line("your address (yiaddr)", o.your.String())
	line("next server (siaddr)", o.server.String())
	if o.serverName != "" {
		line("server name (sname)", o.serverName)
	}
	line("boot file", o.bootFile)
	for _, code := range slices.Sorted(maps.Keys(o.options)) {
		line(strings.TrimSpace(strconv.Itoa(int(code))+" "+names[code]), value(code, o.options[code]))
	}
	return b.String()
}

// value writes the data of an option in the way it is meant.
func value(code byte, data []byte) string {
	switch code {
	case 1, 3, 6, 28, 42, 54:
		var list []string
		for ; len(data) >= 4; data = data[4:] {
			list = append(list, netip.AddrFrom4([4]byte(data[:4])).String())
		}
		return strings.Join(list, " ")
	case 51, 58, 59:
		if len(data) == 4 {
			return strconv.FormatUint(uint64(binary.BigEndian.Uint32(data)), 10) + " s"
		}
	case 53:
		if len(data) == 1 && data[0] == messageOffer {
			return "OFFER"
		}
	case 12, 15, 60, 66, 67:
		return strconv.Quote(string(data))
	}
	return fmt.Sprintf("% x", data)
}
