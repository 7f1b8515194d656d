// Package doctor says what would happen to a machine that boots on the networks of this server, and what is in the way.
//
// It looks at five things: who answers a DISCOVER as PXE firmware sends it, who holds the ports, whether the firewall lets clients
// in, the state of the store, and, for one machine, the exact offer and menu it would get and why. It takes no lease (it never
// sends a REQUEST), changes nothing, and writes nothing; serve knows by the packet that nobody boots, and remembers nothing of it.
//
// Its limits: IPv4. It needs root for the DISCOVER, for the names of other users' processes, and for nftables; what it cannot
// look at it says. It reads the firewall as rules and does not try them: rules that depend on what it does not model (marks, sets
// filled by rules, rate limits, time, eBPF) are reported as doubtful, and hooks other than prerouting and input are not
// read. A switch or access point that drops DHCP answers between two machines cannot be seen from here.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"netroot/boot/host"
	"netroot/boot/proxydhcp"
	"netroot/boot/tftpboot"
	"netroot/builder/store"
)

// Levels of a Finding.
const (
	OK    = "ok"
	Note  = "note"  // worth knowing, or could not be looked at
	Fault = "fault" // keeps machines from booting, or makes them boot something else
)

// A Finding is one thing that was looked at.
type Finding struct {
	Level  string `json:"level"`
	About  string `json:"about"` // an interface, a port, an image, …
	What   string `json:"what"`
	WayOut string `json:"way_out,omitempty"`
	// Text is the offer or the menu, when that is what was found.
	Text string `json:"text,omitempty"`
}

// A Doctor looks at one server. Store and Policy must be there.
type Doctor struct {
	Store  *store.Store
	Policy *host.Policy
	// Decide is the policy with all that serve remembers of machines; nil is the policy alone.
	Decide func(host.Machine) host.Decision
	// Forgot says why what serve remembers could not be read; nil: it was.
	Forgot error
	Ports  Ports
	Tree   *tftpboot.Tree   // that serve would hand out
	DHCP   proxydhcp.Config // that serve would answer with
	Wait   time.Duration    // for answers; 0 is 5 seconds

	// MAC is the machine to speak for; nil is one that nobody knows, and then no offer is shown.
	MAC  net.HardwareAddr
	UUID string // as host.ParseUUID returns it; "": it tells none, or serve knows it by its MAC
	Arch uint16 // of RFC 4578; 0 is x86 BIOS
	IPXE bool   // it runs iPXE already
}

func (d *Doctor) decide(m host.Machine) host.Decision {
	if d.Decide != nil {
		return d.Decide(m)
	}
	return d.Policy.Decide(m)
}

// A FaultError says that something is in the way.
type FaultError struct{ Faults int }

func (e *FaultError) Error() string {
	if e.Faults == 1 {
		return "one thing is in the way of machines that boot"
	}
	return fmt.Sprintf("%d things are in the way of machines that boot", e.Faults)
}

// Verdict is a *FaultError when one of the findings is a fault.
func Verdict(findings []Finding) error {
	n := 0
	for _, f := range findings {
		if f.Level == Fault {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return &FaultError{n}
}

// An iface is an interface that is served.
type iface struct {
	net.Interface
	addrs []netip.Prefix
}

// Run looks at everything. The error is about what could not be looked at in any way.
func (d *Doctor) Run(ctx context.Context) ([]Finding, error) {
	ifaces, findings, err := d.interfaces()
	if err != nil {
		return nil, err
	}
	ports := d.Ports.look()
	findings = append(findings, d.networks(ctx, ifaces, ports)...)
	askers, _ := tftpboot.Askers(d.Store) // what cannot be read is told with the store
	findings = append(findings, d.Ports.judge(ports, askers)...)
	findings = append(findings, lookFirewall(ctx, ifaces, d.Ports.listeners())...)
	findings = append(findings, d.store()...)
	if d.MAC != nil {
		for _, i := range ifaces {
			findings = append(findings, d.offer(i)...)
		}
	}
	return findings, ctx.Err()
}

// interfaces finds those that would be served.
func (d *Doctor) interfaces() (list []iface, findings []Finding, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("list the interfaces: %w", err)
	}
	var have []string
	for _, i := range all {
		have = append(have, i.Name)
	}
	findings = missing(d.Policy.Interfaces, have)
	for _, i := range all {
		named := slices.Contains(d.Policy.Interfaces, i.Name)
		if i.Flags&net.FlagLoopback != 0 || len(d.Policy.Interfaces) > 0 && !named {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			return nil, nil, fmt.Errorf("list the addresses of %s: %w", i.Name, err)
		}
		x := iface{Interface: i}
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				x.addrs = append(x.addrs, p)
			}
		}
		switch {
		case len(x.addrs) == 0:
			if named {
				findings = append(findings, Finding{Level: Fault, About: i.Name, What: "it has no IPv4 address: machines there are not answered",
					WayOut: "give it an address of its network"})
			}
		case i.Flags&net.FlagUp == 0 || i.Flags&net.FlagRunning == 0:
			level := Note
			if named {
				level = Fault
			}
			findings = append(findings, Finding{Level: level, About: i.Name, What: "it is down, or has no carrier", WayOut: "ip link set " + i.Name + " up; look at the cable and the switch"})
		default:
			list = append(list, x)
		}
	}
	if len(list) == 0 {
		findings = append(findings, Finding{Level: Fault, About: "interfaces", What: "there is none with an IPv4 address that is up: nobody can be served"})
	}
	return list, findings, nil
}

// missing looks for interfaces that are not there. Such a one may come, and serve waits for it; only when none is there it does not
// start.
func missing(names, have []string) (findings []Finding) {
	for _, name := range names {
		if slices.Contains(have, name) {
			continue
		}
		f := Finding{Level: Note, About: name, What: "there is no such interface now: serve starts, and answers there when it comes",
			WayOut: "correct the name, unless it is one that comes and goes; this machine has " + strings.Join(have, ", ")}
		if !slices.ContainsFunc(names, func(n string) bool { return slices.Contains(have, n) }) {
			f.Level, f.What = Fault, "there is no such interface, nor any other that is named: serve does not start"
			f.WayOut = "correct the name; this machine has " + strings.Join(have, ", ")
		}
		findings = append(findings, f)
	}
	return findings
}

// networks asks on all interfaces at once.
func (d *Doctor) networks(ctx context.Context, ifaces []iface, ports map[port]holding) []Finding {
	answers := make([][]Finding, len(ifaces))
	var wg sync.WaitGroup
	for n, i := range ifaces {
		mac := d.MAC
		if mac == nil {
			mac = randomMAC()
		}
		fail := func(err error) {
			answers[n] = []Finding{{Level: Note, About: i.Name, What: "who answers there was not looked at: " + err.Error(), WayOut: needsRoot(err)}}
		}
		p, err := openProbe(i.Interface, question{mac: mac, uuid: d.UUID, arch: d.Arch, ipxe: d.IPXE, port: cmp.Or(d.Ports.DHCP, 67)})
		if err != nil {
			fail(err)
			continue
		}
		wg.Go(func() {
			defer p.close()
			offers, err := p.ask(ctx, d.wait())
			if err != nil {
				fail(err)
				return
			}
			decision := d.decide(host.Machine{MAC: mac, UUID: d.UUID, Arch: d.Arch, Interface: i.Name, Near: i.addrs[0].Addr()})
			answers[n] = judge(i, offers, site{decision: decision, off: d.Ports.DHCP == 0, holder: ports[port{"udp", uint16(d.Ports.DHCP)}], wait: patience * d.wait(), known: d.MAC != nil})
		})
	}
	wg.Wait()
	return slices.Concat(answers...)
}

func (d *Doctor) wait() time.Duration {
	if d.Wait > 0 {
		return d.Wait
	}
	return 5 * time.Second
}

// ownAddress says whether this machine has an address.
func ownAddress(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(x net.Addr) bool {
		p, err := netip.ParsePrefix(x.String())
		return err == nil && p.Addr() == a
	})
}
