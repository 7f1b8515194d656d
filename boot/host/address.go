package host

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// ParseMAC reads an Ethernet address in any of the notations in use: 00:20:38:03:37:6c, 00-20-38-03-37-6C, 0020.3803.376c,
// 002038-03376c, 00203803376c, and pxelinux's 01-00-20-38-03-37-6c.
func ParseMAC(s string) (net.HardwareAddr, error) {
	text := strings.TrimSpace(s)
	groups := strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '-' || r == '.' || r == ' ' })
	switch len(groups) {
	case 7: // ARP's hardware type 1, as pxelinux writes it
		if groups[0] == "01" {
			groups = groups[1:]
		}
	case 6:
		for i, g := range groups {
			if len(g) == 1 { // Solaris and arp(8) of macOS leave out leading zeros
				groups[i] = "0" + g
			}
		}
	}
	length := map[int]int{1: 12, 2: 6, 3: 4, 6: 2}[len(groups)]
	for _, g := range groups {
		if len(g) != length {
			length = 0
		}
	}
	mac, err := hex.DecodeString(strings.Join(groups, ""))
	switch {
	case err != nil || length == 0 || len(mac) != 6:
		return nil, fmt.Errorf("%q is not a MAC address, as in 00:20:38:03:37:6c", s)
	case string(mac) == "\x00\x00\x00\x00\x00\x00":
		return nil, errors.New("the MAC address of zeros belongs to no machine")
	case mac[0]&1 != 0:
		return nil, fmt.Errorf("%s is a multicast address, and no machine's own", net.HardwareAddr(mac))
	}
	return mac, nil
}

// ParseUUID reads the identifier of a machine, with hyphens or without, and returns it in lower case with hyphens, as
// pxelinux asks for it. Boards whose maker forgot to give one say that it is all zeros or all ones.
func ParseUUID(s string) (string, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	if groups := strings.Split(text, "-"); len(groups) == 5 && len(groups[0]) == 8 && len(groups[1]) == 4 && len(groups[2]) == 4 && len(groups[3]) == 4 {
		text = strings.Join(groups, "")
	}
	id, err := hex.DecodeString(text)
	switch {
	case err != nil || len(id) != 16:
		return "", fmt.Errorf("%q is not a UUID, as in 58b41815-581e-c62a-d4e2-f44d30606469", s)
	case text == strings.Repeat("0", 32), text == strings.Repeat("f", 32):
		return "", fmt.Errorf("the UUID %s is that of every board without one", text[:8]+"…")
	}
	return hyphens(id), nil
}

func hyphens(id []byte) string {
	h := hex.EncodeToString(id)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Swapped is the same UUID with the bytes of its first three fields in the other order. Firmware sends them as they lie in
// memory, little-endian since SMBIOS 2.6 (section 7.2.1 there), while dmidecode and /sys/class/dmi turn them round: which of
// the two a machine asks by cannot be told from the outside.
func Swapped(uuid string) string {
	id, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(id) != 16 {
		return uuid
	}
	id[0], id[1], id[2], id[3] = id[3], id[2], id[1], id[0]
	id[4], id[5], id[6], id[7] = id[5], id[4], id[7], id[6]
	return hyphens(id)
}

// parseAddress reads the IPv4 address of one machine.
func parseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	switch {
	case err != nil || !a.Is4():
		return netip.Addr{}, fmt.Errorf("%q is not an IPv4 address, as in 192.168.2.82", s)
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.As4()[0] >= 240: // the last are class E and 255.255.255.255
		return netip.Addr{}, fmt.Errorf("%s is not the address of a machine on a network", a)
	}
	return a, nil
}

// parseNetwork reads ADDRESS/BITS.
func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(s))
	switch {
	case err != nil || !p.Addr().Is4():
		return netip.Prefix{}, fmt.Errorf("%q is not an IPv4 network, as in 192.168.2.0/24", s)
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("%s is an address in the network %s: write that", p, p.Masked())
	}
	return p, nil
}
