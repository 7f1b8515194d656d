package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// startRouter runs dnsmasq as the site's DHCP and DNS server. It is told nothing of PXE, TFTP or boot files.
func (l *Lab) startRouter(ctx context.Context) error {
	path, err := lookPath("dnsmasq")
	if err != nil {
		return err
	}
	log := newLineLog()
	cmd := exec.Command(path, routerArgs(l.cfg)...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := l.Start(NSRouter, cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	go func() { <-p.Done(); log.Close() }()
	// The DHCP socket is open before dnsmasq says this.
	_, _, err = log.lines.wait(ctx, 0, func(s Line) bool { return strings.Contains(s.Text, "DHCP, IP range") })
	if err != nil {
		said := strings.TrimSpace(strings.Join(log.tail(5), "; "))
		return fmt.Errorf("start the lab's DHCP server: %w: dnsmasq said %q", notStarted(err), said)
	}
	return nil
}

func notStarted(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("not ready after 20 s")
	}
	return errors.New("it ended")
}

// routerArgs is the command line of the site's DHCP and DNS server.
func routerArgs(cfg Config) []string {
	args := []string{
		"--keep-in-foreground", "--log-facility=-", "--log-dhcp",
		"--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		// Changing the user would clear the parent death signal (kernel/cred.c, commit_creds).
		"--user=root", "--group=root",
		"--pid-file=", "--leasefile-ro", // nothing on disk
		"--no-ping", // else each offer waits 3 s for an echo of the address
		"--dhcp-authoritative", "--dhcp-lease-max=10000",
		"--bind-interfaces", "--except-interface=lo",
		"--domain=" + cfg.Domain, "--local=/" + cfg.Domain + "/",
	}
	for i, network := range cfg.Networks {
		card := cardName(i)
		lo, hi := hostAddr(network, 100).Addr(), hostAddr(network, 199).Addr()
		if network.Bits() < 24 { // a network for many machines
			hi = lastAddr(network).Prev()
		}
		args = append(args, "--interface="+card,
			fmt.Sprintf("--dhcp-range=set:%s,%s,%s,%s,1h", card, lo, hi, netmask(network)),
			fmt.Sprintf("--dhcp-option=tag:%s,option:router,%s", card, hostAddr(network, 2).Addr()),
			fmt.Sprintf("--dhcp-option=tag:%s,option:dns-server,%s", card, hostAddr(network, 2).Addr()),
		)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Names)) {
		args = append(args, "--host-record="+name+","+cfg.Names[name])
	}
	return args
}

// lastAddr is the broadcast address of a network.
func lastAddr(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | ^uint32(0)>>p.Bits()
	binary.BigEndian.PutUint32(a[:], n)
	return netip.AddrFrom4(a)
}

func netmask(p netip.Prefix) netip.Addr {
	m := ^uint32(0) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)})
}
