package boot

import (
	"context"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"netroot/boot/host"
	"netroot/boot/neighbor"
)

// A guard lets in who belongs here. TFTP, HTTP and NFS know a client by its address only; the guard finds the machine behind
// it by the MAC that the network names, and asks the policy. A machine that is behind a router has no MAC that could be seen,
// and is found by its address.
//
// Who asks from this very machine gets what the policy gives to machines that are not listed, so that with "default: ignore"
// a user here who may not read the store cannot have it from the server.
type guard struct {
	neighbors *neighbor.Table
	decide    func(host.Machine) host.Decision
}

// refusal is why a client is not let in.
type refusal string

func (r refusal) Error() string        { return string(r) }
func (r refusal) Is(target error) bool { return target == fs.ErrPermission }

// unsure is why a client that may be another one is not let in now. It is told nothing that it would take for the last word.
type unsure string

func (u unsure) Error() string        { return string(u) }
func (u unsure) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// machine is what the policy is asked about.
func machine(p neighbor.Peer, local netip.Addr) host.Machine {
	if p.Self {
		return host.Machine{}
	}
	return host.Machine{MAC: p.MAC, Interface: p.Link.Name, Address: p.Client, Near: local}
}

// admit asks who a client is and whether it is let in. It may take a moment, when the network has to be asked; a machine that
// has just made a connection has its MAC in the kernel's table.
func (g *guard) admit(client, local netip.Addr) (host.Machine, error) {
	p := g.neighbors.Locate(context.Background(), client, local)
	m := machine(p, local)
	return m, judge(p, g.decide(m))
}

func judge(p neighbor.Peer, d host.Decision) error {
	switch {
	case p.Busy:
		return unsure("its MAC address is not known, and too many machines are asked for theirs; it has to ask again")
	case !d.Ignore:
		return nil
	case p.Self:
		return refusal("asked from this machine itself: " + d.Reason)
	case p.Near && p.MAC == nil:
		return unsure(d.Reason + "; it did not tell its MAC address")
	}
	return refusal(d.Reason)
}

// files are what tree returns for the clients that are let in.
func (g *guard) files(tree func(m host.Machine, local netip.Addr) fs.FS) func(client, local netip.Addr) fs.FS {
	return func(client, local netip.Addr) fs.FS {
		m, err := g.admit(client, local)
		if err != nil {
			return closed{err}
		}
		return tree(m, local)
	}
}

// connections says why a client gets no connection, nil when it gets one.
func (g *guard) connections(client, local netip.Addr) error {
	_, err := g.admit(client, local)
	return err
}

// known tells whether admit answers at once.
func (g *guard) known(client, local netip.Addr) bool {
	p := g.neighbors.Known(client, local)
	return p.MAC != nil || !p.Near
}

// name tells at once what is known of a client, for records of what it did.
func (g *guard) name(client netip.Addr) (mac net.HardwareAddr, name string, self bool) {
	p := g.neighbors.Known(client, netip.Addr{})
	return p.MAC, g.decide(machine(p, netip.Addr{})).Name, p.Self
}

// closed is the tree for those who are not let in.
type closed struct{ err error }

func (c closed) Open(string) (fs.File, error) { return nil, c.err }
