package vm

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NSMachines is the namespace of a Lab for machines that are played by programs; Card makes it.
const NSMachines = "machines"

// Card puts a network card, called eth0 and so on, into the namespace NSMachines, at the end of a cable to a network. It has no
// address. link is as in MachineConfig.
func (l *Lab) Card(network int, link *Link) (name string, err error) {
	if l.ns[NSMachines] == nil {
		if l.ns[NSMachines], err = newNamespace(); err != nil {
			return "", fmt.Errorf("make network namespace %s: %w", NSMachines, err)
		}
		if err := l.Do(NSMachines, func() error { return up("lo") }); err != nil {
			return "", err
		}
	}
	name = cardName(network)
	if link == nil {
		err = l.wire(network, NSMachines)
	} else {
		err = l.badWire(network, link)
	}
	if err == nil {
		err = l.Do(NSMachines, func() error { return up(name) })
	}
	if err != nil {
		return "", fmt.Errorf("connect %s to network %d: %w", NSMachines, network, err)
	}
	return name, nil
}

// badWire joins two taps: one on the bridge, one that is the card.
func (l *Lab) badWire(network int, link *Link) error {
	far, err := l.openTap(network, 0)
	if err != nil {
		return err
	}
	defer far.Close()
	var near *os.File
	err = l.Do(NSMachines, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = cardName(network)
		tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1, Flags: netlink.TUNTAP_NO_PI}
		if err := netlink.LinkAdd(tap); err != nil {
			return fmt.Errorf("add a tap (needs /dev/net/tun): %w", err)
		}
		near = tap.Fds[0]
		return nil
	})
	if err != nil {
		return err
	}
	defer near.Close()
	a, err := newTapFrames(far)
	if err != nil {
		return err
	}
	b, err := newTapFrames(near)
	if err != nil {
		a.Close()
		return err
	}
	l.taps = append(l.taps, a, b)
	link.join(a, b)
	return nil
}

// newTapFrames takes a descriptor of its own: tap is still the caller's to close.
func newTapFrames(tap *os.File) (*tapFrames, error) {
	fd, err := unix.Dup(int(tap.Fd()))
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil { // for os.NewFile: only then does Close end a Read
		unix.Close(fd)
		return nil, err
	}
	return &tapFrames{File: os.NewFile(uintptr(fd), "tap")}, nil
}

// AddAddress gives a card one more address. It is for use in Do.
func AddAddress(card string, address netip.Prefix) error {
	link, err := netlink.LinkByName(card)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address)})
}
