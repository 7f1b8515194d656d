package vm

import (
	"fmt"
	"net"

	"golang.org/x/net/ipv6"
)

// announce makes the router answer IPv6 router solicitations, as the router of a site with IPv6 does.
//
// The answer offers nothing: no prefix, no default route (RFC 4861, 4.2: lifetime 0), no DHCPv6. But it ends
// the wait for one in iPXE, and so in the PXE ROM of every QEMU card, which holds up the IPv4 boot by 13 s
// where nobody answers. dnsmasq announces only prefixes that its interface has an address of.
func (l *Lab) announce() error {
	return l.Do(NSRouter, func() error {
		conn, err := net.ListenPacket("ip6:ipv6-icmp", "::")
		if err != nil {
			return fmt.Errorf("answer router solicitations: %w", err)
		}
		l.ra = conn
		p := ipv6.NewPacketConn(conn)
		var filter ipv6.ICMPFilter
		filter.SetAll(true)
		filter.Accept(ipv6.ICMPTypeRouterSolicitation)
		if err := p.SetICMPFilter(&filter); err != nil {
			return fmt.Errorf("answer router solicitations: %w", err)
		}
		if err := p.SetControlMessage(ipv6.FlagInterface, true); err != nil {
			return fmt.Errorf("answer router solicitations: %w", err)
		}
		for i := range l.cfg.Networks {
			card, err := net.InterfaceByName(cardName(i))
			if err == nil {
				err = p.JoinGroup(card, &net.IPAddr{IP: net.IPv6linklocalallrouters})
			}
			if err != nil {
				return fmt.Errorf("answer router solicitations on %s: %w", cardName(i), err)
			}
		}
		go func() {
			buf := make([]byte, 1500)
			for {
				_, cm, from, err := p.ReadFrom(buf)
				if err != nil {
					return // closed
				}
				if cm == nil {
					continue
				}
				// Type 134; the kernel fills the checksum in. Hop limit 255 is what makes it believed.
				advert := []byte{134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
				to := &ipv6.ControlMessage{IfIndex: cm.IfIndex, HopLimit: 255}
				if _, err := p.WriteTo(advert, to, from); err != nil {
					l.log.Debug("router advertisement not sent", "to", from.String(), "reason", err)
				}
			}
		}()
		return nil
	})
}
