package kmod

import (
	"bytes"
	"fmt"
	"path"
	"strings"
)

// nfsModules are what an NFS version 3 mount over TCP and an overlay above it load. Which of them exist is the kernel's
// affair: nfsv3 and grace are newer than EL6, where nfs holds them.
var nfsModules = [...]string{"nfs", "nfsv3", "sunrpc", "lockd", "nfs_acl", "grace", "overlay", "af_packet"}

// busModules make network cards appear that sit behind a bus that is a module itself. Nothing depends on them, and the
// card is invisible without them.
var busModules = [...]string{
	"virtio_pci", "virtio_mmio", "hv_vmbus", "xen_netfront", "xen_platform_pci",
	"xhci_pci", "xhci_hcd", "ehci_pci", "ehci_hcd", "ohci_pci", "ohci_hcd", "uhci_hcd",
}

// notWired are the folders of drivers/net that hold no wired Ethernet cards.
var notWired = [...]string{
	"wireless", "wwan", "wan", "can", "wimax", "irda", "hamradio", "tokenring", "fddi", "hippi", "arcnet", "appletalk",
	"plip", "ppp", "slip", "ieee802154", "bonding", "team", "ipvlan", "ovpn", "wireguard", "dsa", "vxlan", "pcmcia",
	"netdevsim", "ipa", "thunderbolt", "phy", "mdio", "pcs", "pse-pd", "mctp", "netkit", "amt",
}

// notCards are in drivers/net/ethernet, but offload engines for other drivers, never cards.
var notCards = [...]string{"cnic"}

// mobileModems are in drivers/net/usb, and nobody boots from them.
var mobileModems = [...]string{
	"qmi_wwan", "cdc_mbim", "cdc_phonet", "hso", "sierra_net", "huawei_cdc_ncm", "kalmia", "lg_vl600", "ipheth",
}

// buses are the alias prefixes of devices that can be found by themselves.
var buses = [...]string{"pci:", "usb:", "virtio:", "vmbus:", "xen:", "of:", "acpi", "platform:", "ssb:", "bcma:", "eisa:", "pnp:", "isapnp:", "fsl-mc:"}

// Netboot chooses what a machine needs to find its network card and mount its root: NFS, overlay, all wired Ethernet
// drivers with their PHYs and buses, and extra (which must exist). They come with their dependencies, each after them.
func (x *Index) Netboot(extra []string) ([]*Module, error) {
	if !x.Has("nfs") {
		return nil, fmt.Errorf("kernel %s has no NFS client (no nfs.ko, not built in): it cannot mount its root; install its full package of modules (linux-image, kernel-modules)", x.Release)
	}
	var want []*Module
	for _, list := range [][]string{nfsModules[:], busModules[:]} {
		for _, name := range list {
			if m, ok := x.Module(name); ok {
				want = append(want, m)
			}
		}
	}
	for _, name := range extra {
		mods := x.lookup(name)
		if len(mods) == 0 && !x.Builtin(name) {
			return nil, fmt.Errorf("kernel %s has no module %s", x.Release, name)
		}
		want = append(want, mods...)
	}
	want = append(want, x.wiredCards()...)
	return x.Expand(want)
}

// DrivesCards tells that the kernel has a driver for any wired network card.
func (x *Index) DrivesCards() bool { return x.cards || len(x.wiredCards()) > 0 }

// wiredCards lists the modules that drive wired network cards.
func (x *Index) wiredCards() []*Module {
	hasBus := map[string]bool{}
	for _, a := range x.aliases {
		if !hasBus[a.module] && hasPrefix(a.pattern, buses[:]) {
			hasBus[a.module] = true
		}
	}
	return x.Modules(func(m *Module) bool { return x.wired(m, hasBus[m.Name]) })
}

// wired decides by folder, which kernels since 3.2 keep clean (drivers/net/ethernet). Older ones have everything in
// drivers/net: there a card is what has a bus. Modules from outside the kernel lie in no telling folder: they are
// cards when they call what only Ethernet drivers call.
func (x *Index) wired(m *Module, hasBus bool) bool {
	rest, ok := strings.CutPrefix(m.File, "kernel/drivers/net/")
	if !ok {
		if strings.HasPrefix(m.File, "kernel/") || !hasBus || strings.Contains(m.File, "/wireless/") {
			return false
		}
		b, err := x.Content(m)
		return err == nil && (bytes.Contains(b, []byte("eth_type_trans\x00")) || bytes.Contains(b, []byte("usbnet_probe\x00")))
	}
	top, _, inFolder := strings.Cut(rest, "/")
	switch {
	case top == "ethernet": // not all have a bus: mlx4_core asks for mlx4_en by name
		return !contains(notCards[:], m.Name)
	case top == "phy": // asked for by the kernel itself with an mdio: alias, when a card meets one
		return true
	case inFolder && contains(notWired[:], top):
		return false
	case contains(mobileModems[:], m.Name):
		return false
	}
	return hasBus
}

// aliasesOf returns the lines of modules.alias that lead to one of the modules.
func (x *Index) aliasesOf(mods map[string]bool) []alias {
	var list []alias
	for _, a := range x.aliases {
		if mods[a.module] {
			list = append(list, a)
		}
	}
	return list
}

// firmwareDirs are where the kernel's loader looks (drivers/base/firmware_loader/main.c), in that order.
func (x *Index) firmwareDirs() []string {
	return []string{"lib/firmware/updates/" + x.Release, "lib/firmware/updates", "lib/firmware/" + x.Release, "lib/firmware"}
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// dirOf is the folder of an index file in the root.
func (x *Index) dirOf(name string) string { return path.Join("lib/modules", x.Release, name) }
