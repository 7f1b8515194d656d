// Package vm boots a machine without a disk on a private network, on one host, to see whether it comes up.
//
// A Lab is three network namespaces that have no name: `lab` holds one bridge per network and the taps of the
// machines, `router` a dnsmasq that is a plain DHCP and DNS server and knows nothing of PXE, `srv` the real
// `netroot serve`. A Machine is QEMU with its network cards on those bridges. Verify puts them together and
// follows the boot.
//
// Nothing is written under /run/netns and no process outlives this one: a namespace lives as long as the
// thread that entered it, a tap as long as QEMU holds it open, and every child is started with a parent death
// signal. So two labs never collide, and kill -9 leaves at most an empty-handed temporary folder behind.
//
// Its limits: Linux only, root only (network namespaces, taps and dnsmasq's port 67), x86 machines with BIOS
// firmware, IPv4. The router routes nowhere: a machine in the lab sees the lab and no more.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// Config says what a Lab looks like. The zero value is one network, 10.77.0.0/24.
type Config struct {
	Networks []netip.Prefix    // one bridge each; the router is host 2, the server host 3; /24 or wider
	Names    map[string]string // names that only the router's DNS knows -> IPv4 address
	Domain   string            // DNS domain the router hands out; default "lab.test"
	Log      *slog.Logger      // nil is silent
}

// DefaultNetwork is the network of a Lab whose Config names none.
var DefaultNetwork = netip.MustParsePrefix("10.77.0.0/24")

// Names of the namespaces of a Lab.
const (
	NSLab    = "lab"
	NSRouter = "router"
	NSServer = "srv"
)

// Lab is a private network with a router and a place for a boot server.
type Lab struct {
	cfg  Config
	log  *slog.Logger
	dir  string
	lock *os.File // on dir
	ns   map[string]*namespace
	ra   net.PacketConn
	taps []io.Closer // of bad cables
	mu   sync.Mutex
	proc []*Process
	done bool
}

// Open makes the namespaces, wires them and starts the router. Close must be called.
func Open(ctx context.Context, cfg Config) (*Lab, error) {
	if len(cfg.Networks) == 0 {
		cfg.Networks = []netip.Prefix{DefaultNetwork}
	}
	for i, n := range cfg.Networks {
		if !n.Addr().Is4() || n.Bits() > 24 {
			return nil, fmt.Errorf("set up the lab: network %s is not an IPv4 network of at least 256 addresses", n)
		}
		cfg.Networks[i] = n.Masked()
	}
	if cfg.Domain == "" {
		cfg.Domain = "lab.test"
	}
	l := &Lab{cfg: cfg, log: cfg.Log, ns: map[string]*namespace{}}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("set up the lab: network namespaces and taps need root; run this as root")
	}
	if err := require("dnsmasq"); err != nil {
		return nil, err
	}
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("set up the lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) open(ctx context.Context) error {
	var err error
	if l.dir, l.lock, err = newFolder(); err != nil {
		return err
	}
	for _, name := range []string{NSLab, NSRouter, NSServer} {
		if l.ns[name], err = newNamespace(); err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
	}
	for _, ns := range l.ns {
		if err := ns.do(func() error { return up("lo") }); err != nil {
			return err
		}
	}
	for i, network := range l.cfg.Networks {
		if err := l.ns[NSLab].do(func() error { return l.addBridge(i) }); err != nil {
			return err
		}
		for host, name := range map[byte]string{2: NSRouter, 3: NSServer} {
			if err := l.connect(i, name, hostAddr(network, host)); err != nil {
				return fmt.Errorf("connect %s to network %s: %w", name, network, err)
			}
		}
	}
	if err := l.announce(); err != nil {
		return err
	}
	return l.startRouter(ctx)
}

func bridgeName(network int) string { return fmt.Sprintf("br%d", network) }
func cardName(network int) string   { return fmt.Sprintf("eth%d", network) }

func (l *Lab) addBridge(network int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName(network)
	off := false
	// Without snooping and spanning tree a port forwards from its first frame: PXE firmware gives up early.
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("add bridge %s: %w", attrs.Name, err)
	}
	return up(attrs.Name)
}

// wire puts a veth between the bridge of a network and a namespace, where it is called eth0, eth1, …
func (l *Lab) wire(network int, ns string) error {
	target := l.ns[ns]
	return l.ns[NSLab].do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprintf("%s%d", ns, network)
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: cardName(network), PeerNamespace: netlink.NsFd(target.handle)}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth %s: %w", attrs.Name, err)
		}
		return enslave(attrs.Name, bridgeName(network))
	})
}

// connect wires a namespace to a network, where it gets an address.
func (l *Lab) connect(network int, ns string, addr netip.Prefix) error {
	if err := l.wire(network, ns); err != nil {
		return err
	}
	return l.ns[ns].do(func() error {
		if err := AddAddress(cardName(network), addr); err != nil {
			return fmt.Errorf("give %s to %s: %w", addr, cardName(network), err)
		}
		return up(cardName(network))
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

func enslave(port, bridge string) error {
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(link, br); err != nil {
		return fmt.Errorf("put %s on %s: %w", port, bridge, err)
	}
	return up(port)
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// hostAddr is the n-th address of a network with the network's own prefix length.
func hostAddr(network netip.Prefix, n byte) netip.Prefix {
	a := network.Addr().As4()
	a[3] += n
	return netip.PrefixFrom(netip.AddrFrom4(a), network.Bits())
}

// RouterAddr is the router's address on a network, ServerAddr the boot server's.
func (l *Lab) RouterAddr(network int) netip.Addr { return hostAddr(l.cfg.Networks[network], 2).Addr() }

// ServerAddr is the boot server's address on a network.
func (l *Lab) ServerAddr(network int) netip.Addr { return hostAddr(l.cfg.Networks[network], 3).Addr() }

// Dir is a temporary folder that lives as long as the Lab.
func (l *Lab) Dir() string { return l.dir }

// Do runs f on a thread that is in the namespace. Sockets that f opens belong to the namespace for good.
func (l *Lab) Do(ns string, f func() error) error {
	n, ok := l.ns[ns]
	if !ok {
		return fmt.Errorf("the lab has no namespace %q (it has %s, %s, %s)", ns, NSLab, NSRouter, NSServer)
	}
	return n.do(f)
}

// Start runs a command inside a namespace. It ends with the Lab at the latest.
func (l *Lab) Start(ns string, cmd *exec.Cmd) (*Process, error) {
	var p *Process
	err := l.Do(ns, func() (err error) {
		p, err = startProcess(cmd)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", cmd.Path, ns, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proc = append(l.proc, p)
	if l.done {
		p.Kill()
	}
	return p, nil
}

// Close ends every process that was started in the Lab, then the namespaces. It may be called twice.
func (l *Lab) Close() error {
	l.mu.Lock()
	proc := l.proc
	l.proc, l.done = nil, true
	l.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range proc {
		wg.Go(func() { _ = p.Stop(5 * time.Second) })
	}
	wg.Wait()
	if l.ra != nil {
		l.ra.Close()
	}
	for _, tap := range l.taps {
		tap.Close()
	}
	for _, ns := range l.ns {
		if ns != nil {
			ns.close()
		}
	}
	if l.dir == "" {
		return nil
	}
	l.lock.Close()
	return os.RemoveAll(l.dir)
}
