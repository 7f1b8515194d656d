package proxydhcp

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"netroot/boot/host"
)

// ErrSilent is wrapped by every reason for not answering that is nobody's mistake: the packet is for the site's own DHCP
// server, or is not a boot request at all. Such packets are most of what port 67 sees, so they are no events.
var ErrSilent = errors.New("not for a proxy")

// Config is what the answer depends on beside the request, the decision and the local address.
type Config struct {
	// Loader names the boot file for an architecture of RFC 4578, "" when there is none to give. nil: that of the decision,
	// else pxelinux.0, for BIOS.
	Loader func(arch uint16) string
	// Script returns the URL of the script for iPXE clients that can run it, unless the decision is against it. The others,
	// and with nil all of them, get the loader of their architecture as everybody else, named by a tftp: URL.
	Script func(local netip.Addr, mac net.HardwareAddr) string
}

// An Answer is a packet and where it goes.
type Answer struct {
	Packet []byte
	To     netip.AddrPort // 255.255.255.255:68 means: out of the interface the request came in on
	File   string         // the boot file named in it
	Ack    bool           // DHCPACK, else DHCPOFFER
}

// Boots says whether the request is one this package could answer at all, before anybody decides who the machine is: nil,
// an error that wraps ErrSilent, or an error that says why a machine that wants to boot cannot.
func (r *Request) Boots(role Role, local netip.Addr) error {
	class := r.Class()
	if len(class) >= len(httpClass) && class[:len(httpClass)] == httpClass {
		return errors.New("the firmware asks for UEFI HTTP boot, which is not served: choose PXE (IPv4) in its boot menu")
	}
	if len(class) < len(pxeClass) || class[:len(pxeClass)] != pxeClass {
		return fmt.Errorf("no PXE class in option 60: %w", ErrSilent)
	}
	if _, ok := r.Arch(); !ok {
		return fmt.Errorf("no architecture in option 93: %w", ErrSilent)
	}
	if r.HLen == 0 {
		return fmt.Errorf("no hardware address: %w", ErrSilent)
	}
	// Who carries the identifier of another server is talking to that one (RFC 2131, section 4.3.2).
	if id := r.Option(optServerID); len(id) == 4 && netip.AddrFrom4([4]byte(id)) != local {
		return fmt.Errorf("meant for server %v: %w", netip.AddrFrom4([4]byte(id)), ErrSilent)
	}
	switch {
	case r.Type == messageDiscover && role == Proxy:
		return nil
	case r.Type == messageInform:
		return nil
	case r.Type == messageRequest && role == BootServer:
		return nil
	case r.Type == messageRequest && (r.vendor(subBootItem) != nil || len(r.Option(optServerID)) == 4):
		// Boot server discovery by broadcast (PXE 2.1, section 2.2.3) goes to port 67 and names an item; any other
		// request there is the client taking the lease of the site's server.
		return nil
	}
	return fmt.Errorf("message type %d for port %d: %w", r.Type, role, ErrSilent)
}

// Machine returns what policy is asked about: who sent the request that came in on iface, where the server is local.
func (r *Request) Machine(iface string, local netip.Addr) host.Machine {
	arch, _ := r.Arch()
	m := host.Machine{MAC: r.MAC, UUID: r.UUID(), Arch: arch, Interface: iface, Near: local}
	if set(r.CIAddr) {
		m.Address = r.CIAddr
	}
	if set(r.GIAddr) {
		m.Near = r.GIAddr
	}
	return m
}

// Reply computes the answer to a request that came from the address from to the socket in that role of a machine that its
// network knows as local. It has no state and no side effect. The error is the reason for not answering: see Boots.
//
// Who forges a source gains nothing much by it: an answer is larger than its request by 20 bytes at most, or has the 300 that
// BOOTP wants, where the shortest request that is answered has 243.
func Reply(r *Request, d host.Decision, local netip.Addr, from netip.AddrPort, role Role, c Config) (*Answer, error) {
	if err := r.Boots(role, local); err != nil {
		return nil, err
	}
	if d.Ignore {
		if d.Reason == "" {
			return nil, errors.New("ignored by configuration")
		}
		return nil, errors.New(d.Reason)
	}
	arch, _ := r.Arch()
	server := local
	if d.Server.Is4() {
		server = d.Server
	}
	file, err := c.bootFile(r, d, arch, server)
	if err != nil {
		return nil, err
	}
	if len(file) > maxHeaderFile {
		return nil, fmt.Errorf("boot file name of %d bytes does not fit the packet, which holds %d: %s", len(file), maxHeaderFile, file)
	}
	m := reply{to: r, siaddr: server, file: file}
	kind := byte(messageAck)
	switch r.Type {
	case messageDiscover:
		kind = messageOffer
		if arch != archBIOS && !r.IPXE() {
			m.siaddr = local // EDK2 asks port 4011 of this address before it loads, and there only we answer
		}
	case messageRequest:
		// As dnsmasq answers: who chose a boot item is told its address as the one it got, who did not, as the one it told.
		if r.vendor(subBootItem) != nil {
			m.yiaddr = r.CIAddr
		} else {
			m.ciaddr = r.CIAddr
		}
	case messageInform:
		m.ciaddr = r.CIAddr // and yiaddr stays zero: RFC 2131, section 4.3.5
	}
	// The order is fixed: option 53 first, because there are ROMs that look no further for it.
	m.options = []option{
		{optMessageType, []byte{kind}},
		{optServerID, local.AsSlice()},
		{optClass, []byte(pxeClass)},
	}
	if id := r.Option(optMachineID); len(id) == machineIDLen {
		m.options = append(m.options, option{optMachineID, id}) // Intel ROMs send none and want none back
	}
	if v := vendorOptions(r, arch, kind); v != nil {
		m.options = append(m.options, option{optVendor, v})
	}
	if agent := r.Option(optRelayAgent); len(agent) > 0 && len(agent) < 256 && set(r.GIAddr) {
		m.options = append(m.options, option{optRelayAgent, agent}) // as it came, and last: RFC 3046, section 2.2
	}
	return &Answer{Packet: m.encode(), To: destination(r, from, role), File: file, Ack: kind == messageAck}, nil
}

// vendorOptions returns option 43. BIOS ROMs get "discovery control 8": no boot servers to look for and no menu, take the
// file of this offer. UEFI gets none in an offer, because EDK2 before 2017 drops the first offer that has it and asks port
// 4011 of one that has not. An acknowledgement repeats the boot item that was asked for (PXE 2.1, table 2-1, tag 71).
func vendorOptions(r *Request, arch uint16, kind byte) []byte {
	if kind == messageAck {
		if item := r.vendor(subBootItem); len(item) == 4 {
			return append(append([]byte{subBootItem, 4}, item...), optEnd)
		}
	}
	if arch != archBIOS {
		return nil
	}
	return []byte{subDiscovery, 1, skipDiscovery, optEnd}
}

// bootFile names what the client loads next.
func (c Config) bootFile(r *Request, d host.Decision, arch uint16, server netip.Addr) (string, error) {
	if c.Script != nil && d.IPXE != "pxelinux" && r.RunsScript() {
		return c.Script(server, r.MAC), nil
	}
	file := ""
	switch {
	case c.Loader != nil:
		file = c.Loader(arch)
	case arch == archBIOS:
		file = cmp.Or(d.Loader, defaultBootFile)
	}
	if file == "" {
		return "", fmt.Errorf("no boot loader for a machine of type %d (%s): set its firmware to legacy BIOS boot, or boot an iPXE with HTTP on it",
			arch, archName(arch))
	}
	if r.IPXE() {
		return "tftp://" + server.String() + "/" + file, nil
	}
	return file, nil
}

// destination follows RFC 2131, section 4.1: to the relay if there was one, to the address of a client that has one, else to
// everybody on the link. A proxy hands out no address, so a client that did not set the broadcast flag cannot be reached
// in any other way either. What comes in on 4011 goes back to where it came from. An address that cannot be that of one
// machine is taken for none.
func destination(r *Request, from netip.AddrPort, role Role) netip.AddrPort {
	switch {
	case single(r.GIAddr):
		return netip.AddrPortFrom(r.GIAddr, portServer)
	case role == BootServer && single(from.Addr()):
		return from
	case role == BootServer && from.Port() != 0 && !single(r.CIAddr):
		return netip.AddrPortFrom(everybody, from.Port())
	case r.Flags&broadcastFlag != 0 && r.Type == messageDiscover:
		return netip.AddrPortFrom(everybody, portClient)
	case single(r.CIAddr):
		return netip.AddrPortFrom(r.CIAddr, portClient)
	}
	return netip.AddrPortFrom(everybody, portClient)
}

var everybody = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func set(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }

// single says whether a can be the address of a machine on a network.
func single(a netip.Addr) bool {
	return set(a) && a != everybody && !a.IsMulticast() && !a.IsLoopback()
}

// archName names the architectures of RFC 4578 and IANA's registry that are met in the field. 7 and 9 are swapped in
// the RFC; both are x86-64.
func archName(arch uint16) string {
	switch arch {
	case archBIOS:
		return "x86 BIOS"
	case 6:
		return "32-bit x86 UEFI"
	case 7, 9:
		return "x86-64 UEFI"
	case 10:
		return "32-bit ARM UEFI"
	case 11:
		return "64-bit ARM UEFI"
	case 15, 16, 17, 18, 19:
		return "UEFI HTTP"
	}
	return "not x86"
}

// pickLocal chooses the address a client is told: the one it wrote to, else the one on its own network, else the first.
func pickLocal(addrs []netip.Prefix, dst, client netip.Addr) (netip.Addr, bool) {
	for _, a := range addrs {
		if a.Addr() == dst {
			return a.Addr(), true
		}
	}
	if set(client) {
		for _, a := range addrs {
			if a.Contains(client) {
				return a.Addr(), true
			}
		}
	}
	for _, a := range addrs {
		if !a.Addr().IsLinkLocalUnicast() {
			return a.Addr(), true
		}
	}
	if len(addrs) > 0 {
		return addrs[0].Addr(), true
	}
	return netip.Addr{}, false
}
