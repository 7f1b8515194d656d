package tftpboot

import (
	"net/netip"
	"strconv"
	"strings"

	"netroot/boot/host"
	"netroot/boot/install"
	"netroot/builder/seed"
	"netroot/builder/store"
)

// seed returns the arguments by which a machine finds what it is told. Only a host that the policy sends to the image gets them: who
// chooses it in a menu is asked by the installer, and no disk is written for want of a key pressed in time.
func (t *Tree) seed(server netip.Addr, g store.Generation, d host.Decision) []string {
	if g.Manifest.Seed == "" || d.Name == "" || d.Image == "" || t.HTTPPort == 0 {
		return nil
	}
	args := seedArguments(seed.Kind(g.Manifest.Seed), "http://"+install.Authority(server, t.HTTPPort)+"/"+install.Path(g.Ref(), d.Name), d.Name)
	if oneNoCloud(g.Manifest.PackageVersion("cloud-init")) {
		for i := range args {
			args[i] = strings.Replace(args[i], "ds=nocloud-net;", "ds=nocloud;", 1)
		}
	}
	if m := g.Manifest.Medium; m != nil && m.Old {
		for i := range args {
			args[i] = strings.TrimPrefix(args[i], "inst.")
		}
	}
	return args
}

// oneNoCloud tells that this version of cloud-init is 24.1 or later, for which nocloud-net is a deprecated name that makes it call the boot
// degraded. Older ones need that name, to know that the URL is to be read when there is a network (DataSourceNoCloud.py).
func oneNoCloud(version string) bool {
	if _, after, ok := strings.Cut(version, ":"); ok {
		version = after
	}
	year, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(year)
	return err == nil && n >= 24
}

// seedArguments are what each program reads the URL of a folder with its seed from. cloud-init puts the names of its documents right
// behind it, so the slash at its end is part of it; and it takes it from behind a semicolon, which pxelinux and iPXE leave alone
// and GRUB does not.
func seedArguments(kind seed.Kind, url, name string) []string {
	short, _, _ := strings.Cut(name, ".")
	switch kind {
	case seed.Autoinstall:
		return []string{"autoinstall", "ds=nocloud-net;s=" + url}
	case seed.CloudInit:
		return []string{"ds=nocloud-net;s=" + url}
	case seed.KindPreseed:
		// With the file on the network the first questions come before it: auto puts them off, critical has those about the network
		// answered by default, and "auto" is the card that BOOTIF names (netcfg).
		return []string{"auto=true", "priority=critical", "interface=auto", "netcfg/hostname=" + short, "url=" + url + seed.Preseed}
	case seed.KindKickstart:
		return []string{"inst.ks=" + url + seed.Kickstart}
	}
	return nil
}
