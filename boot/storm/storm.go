// Package storm plays many machines that are switched on at once, to see what one boot server stands.
//
// Each machine goes through what a BIOS machine does: DHCP with the site's own server, an answer from the proxy, a question on
// port 4011, pxelinux and its files by TFTP (or the kernel by HTTP, when the configuration says so), a mount, and
// the NFS calls of a real boot, which were recorded. It is the network side alone: nothing is unpacked or run, so a machine here is
// quicker than a real one, and asks for more in the same time. All machines share one card, and so one MAC address towards the server
// once they have an address; their NFS calls go one after the other, where a real client has a few under way.
package storm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what is switched on. Everything but Trace, Check and Interval is needed.
type Config struct {
	Machines int
	Card     string                                              // network interface that they share
	Do       func(func() error) error                            // runs a function in the network namespace of Card
	Address  func(netip.Prefix) error                            // gives Card one more address; called inside Do
	Trace    []Call                                              // NFS calls after the mount; none: the mount is the end
	Check    func(path string, offset uint64, data []byte) error // looks at what READ gives; nil believes it
	Interval time.Duration                                       // between one machine and the next
	Mounted  func()                                              // called when a machine has mounted its root
}

// Stages of a machine, in order.
var Stages = []string{"offer", "lease", "server", "loader", "kernel", "initrd", "mount", "up"}

// Boot is what became of one machine: seconds since it was switched on at which each of Stages was reached.
type Boot struct {
	Number int
	After  map[string]time.Duration
	Resent int   // questions asked again, of DHCP and TFTP
	Broken int   // NFS connections that ended and were opened again
	Bytes  int64 // of files and NFS data
	Calls  int   // of NFS
	Err    error
}

// Run switches the machines on and waits for the last, or for ctx.
func Run(ctx context.Context, cfg Config) ([]Boot, error) {
	d, err := newDHCP(cfg)
	if err != nil {
		return nil, err
	}
	defer d.close()
	boots := make([]Boot, cfg.Machines)
	var wg sync.WaitGroup
	for i := range boots {
		wg.Go(func() {
			select {
			case <-time.After(time.Duration(i) * cfg.Interval):
			case <-ctx.Done():
			}
			boots[i] = boot(ctx, cfg, d, i)
		})
	}
	wg.Wait()
	var failed []error
	for _, b := range boots {
		if b.Err != nil {
			failed = append(failed, fmt.Errorf("machine %d: %w", b.Number, b.Err))
		}
	}
	if len(failed) > 3 {
		failed = append(failed[:3], fmt.Errorf("and %d more machines failed", len(failed)-3))
	}
	return boots, errors.Join(failed...)
}

// boot is the life of one machine.
func boot(ctx context.Context, cfg Config, d *dhcp, number int) Boot {
	m := &machine{cfg: cfg, Boot: Boot{Number: number, After: map[string]time.Duration{}}, began: time.Now()}
	m.Err = m.run(ctx, d)
	return m.Boot
}

type machine struct {
	Boot
	cfg     Config
	began   time.Time
	address netip.Addr
}

func (m *machine) reach(stage string) { m.After[stage] = time.Since(m.began) }

func (m *machine) run(ctx context.Context, d *dhcp) error {
	mac := [6]byte{0x02, 'n', 'e', 't', byte(m.Number >> 8), byte(m.Number)}
	lease, err := d.lease(ctx, m, mac)
	if err != nil {
		return err
	}
	m.address = lease.address.Addr()
	if err := m.cfg.Do(func() error { return m.cfg.Address(lease.address) }); err != nil {
		return fmt.Errorf("set the address %s: %w", lease.address, err)
	}
	if err := m.askServer(ctx, mac, lease); err != nil {
		return err
	}
	m.reach("server")
	at := func(name string) error {
		_, err := m.tftp(ctx, lease.server, name, nil)
		return err
	}
	if err := errors.Join(at(lease.file), at("ldlinux.c32")); err != nil {
		return err
	}
	var text []byte
	if _, err := m.tftp(ctx, lease.server, fmt.Sprintf("pxelinux.cfg/01-%02x-%02x-%02x-%02x-%02x-%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]), &text); err != nil {
		return err
	}
	m.reach("loader")
	entry, err := parseEntry(string(text))
	if err != nil {
		return err
	}
	for _, part := range []struct{ stage, file string }{{"kernel", entry.kernel}, {"initrd", entry.initrd}} {
		if err := m.fetch(ctx, lease.server, part.file); err != nil {
			return err
		}
		m.reach(part.stage)
	}
	n := &nfsClient{m: m, server: netip.AddrPortFrom(entry.server, entry.port), handles: map[string][]byte{}}
	defer n.close()
	if err := n.mount(ctx, entry.path); err != nil {
		return err
	}
	m.reach("mount")
	if m.cfg.Mounted != nil {
		m.cfg.Mounted()
	}
	for _, c := range m.cfg.Trace {
		if err := n.replay(ctx, c); err != nil {
			return err
		}
	}
	m.reach("up")
	return nil
}

// socket opens one in the namespace, bound to a local address.
func (c Config) socket(kind int, local netip.AddrPort, set func(fd int) error) (*os.File, error) {
	fd := -1
	err := c.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if set != nil {
			if err := set(fd); err != nil {
				return err
			}
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: local.Addr().As4(), Port: int(local.Port())})
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("open a socket at %s: %w", local, err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// refused says that nobody listens there at the moment, which is what a server that starts again looks like.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}
