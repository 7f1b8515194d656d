package customize

import (
	"path"
	"slices"
	"strings"

	"netroot/builder/tree"
)

// leftovers are files and folders of a system that was installed on a disk. The last part may be a pattern.
var leftovers = []struct{ name, why string }{
	{"/etc/udev/rules.d/*persistent-net.rules", "it names the network cards of the original"},
	{"/etc/udev/rules.d/*persistent-cd.rules", "it names the drives of the original"},
	{"/etc/lvm/archive/*", "it is about disks of the original"},
	{"/etc/lvm/backup/*", "it is about disks of the original"},
	{"/etc/lvm/cache/*", "it is about disks of the original"},
	{"/etc/lvm/devices/*", "it is about disks of the original"},
	{"/etc/multipath/bindings", "it is about disks of the original"},
	{"/etc/multipath/wwids", "it is about disks of the original"},
	{"/etc/zfs/zpool.cache", "it is about disks of the original"},
	{"/etc/blkid.tab*", "it is about disks of the original"},
	{"/etc/blkid/*", "it is about disks of the original"},
	{"/etc/systemd/system/*.swap", "there is no disk to swap to"},
	// What was made for the original; files of the loader's package stay, or rpm -V would miss them.
	{"/boot/grub/grub.cfg", "the machine is not started by it"},
	{"/boot/grub/grub.conf", "the machine is not started by it"},
	{"/boot/grub/menu.lst", "the machine is not started by it"},
	{"/boot/grub/grubenv", "the machine is not started by it"},
	{"/boot/grub/device.map", "the machine is not started by it"},
	{"/boot/grub2/grub.cfg", "the machine is not started by it"},
	{"/boot/grub2/grubenv", "the machine is not started by it"},
	{"/boot/grub2/device.map", "the machine is not started by it"},
	{"/boot/loader/entries/*", "the machine is not started by it"},
	{"/etc/lilo.conf", "the machine is not started by it"},
	{"/boot/initrd*", "the machine gets netroot's"},
	{"/boot/initramfs-*", "the machine gets netroot's"},
	{"/initrd.img*", "the machine gets netroot's"},
	{"/etc/initramfs-tools/conf.d/resume", "there is no disk to resume from"},
	{"/var/lib/dhclient/*", "it is a lease of the original"},
	{"/var/lib/dhcp/*lease*", "it is a lease of the original"},
	{"/var/lib/dhcp3/*lease*", "it is a lease of the original"},
	{"/var/lib/dhcpcd/*lease*", "it is a lease of the original"},
	{"/var/lib/NetworkManager/*", "it is about networks and leases of the original"},
	{"/var/lib/random-seed", "a seed must not be the same on two machines"}, // EL6; others are taken away from every root
	{"/var/lib/cloud", "it is about the original as an instance of a cloud"},
	{"/.autofsck", "there is no disk to check"},
	{"/forcefsck", "there is no disk to check"},
	{"/.autorelabel", "NFS has no labels"},
	{"/var/lib/readahead/*", "it is about a disk of the original"},
}

// diskServices look after disks, volumes, boot loaders or crash dumps. The name is that of a unit of systemd, which is masked, and,
// without its type, of a script of sysvinit, which is not started any more.
var diskServices = []string{
	"lvm2-monitor.service", "lvm2-lvmpolld.socket", "lvm2-lvmpolld.service", "lvm2-lvmetad.socket", "lvm2-lvmetad.service",
	"lvm2-activation.service", "lvm2-activation-early.service", "lvm2-activation-net.service", "lvm2.service", "dm-event.socket", "dm-event.service",
	"blk-availability.service", "mdmonitor.service", "mdadm.service", "mdadm-raid.service", "mdadm-shutdown.service", "mdadm-waitidle.service",
	"raid-check.timer", "dmraid-activation.service", "dmraid.service", "multipathd.service", "multipathd.socket", "multipath-tools.service",
	"multipath-tools-boot.service", "smartd.service", "smartmontools.service", "hdparm.service", "hddtemp.service", "cryptdisks.service",
	"cryptdisks-early.service", "xfs_scrub_all.timer", "zfs-import-cache.service", "zfs-import-scan.service", "zfs-mount.service",
	"zfs-volume-wait.service", "stratisd.service", "dphys-swapfile.service", "grub-common.service", "grub-initrd-fallback.service",
	"kdump.service", "kdump-tools.service", "dracut-shutdown.service", "quota.service",
}

// waiters wait for a card to be configured, and nobody configures the one that / comes over: it was before they began.
var waiters = []string{"systemd-networkd-wait-online.service"}

func (c *copiedRoot) leftovers() error {
	for _, l := range leftovers {
		for _, name := range c.glob(path.Dir(l.name), path.Base(l.name)) {
			if err := c.drop(name, l.why); err != nil {
				return err
			}
		}
	}
	// A file on EL6, which programs write to; elsewhere a link to /proc.
	if c.link("/etc/mtab") == "" && c.contents("/etc/mtab") != "" {
		if err := c.overwrite("etc/mtab", nil); err != nil {
			return err
		}
		c.note("/etc/mtab emptied, it lists what the original had mounted")
	}
	// cloud-init's own switch (cloud-init documentation, "Disable cloud-init"). Without a data source it waits, and then makes users anew.
	if c.exists("/etc/cloud") && !c.exists("/etc/cloud/cloud-init.disabled") && !enables(c.rec, "cloud-init.service") {
		if err := c.writeString("/etc/cloud/cloud-init.disabled", ""); err != nil {
			return err
		}
		c.note("cloud-init disabled, the copy is no instance of a cloud")
	}
	// NFS version 3 has no labels, and a system that enforces without any does not come up.
	return c.edit("/etc/selinux/config", "NFS has no labels", func(line string) (string, bool) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && key == "SELINUX" && value != "disabled" {
			return "SELINUX=disabled", true
		}
		return line, true
	})
}

// hasUnit tells that a package has brought a unit, which is not masked there.
func (c *copiedRoot) hasUnit(unit string) bool {
	for _, dir := range []string{"/usr/lib/systemd/system/", "/lib/systemd/system/"} {
		if info, err := tree.Stat(c.fsys, dir+unit); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// services keeps those that look after disks from being started.
func (c *copiedRoot) services() error {
	for _, unit := range slices.Concat(diskServices, waiters) {
		if enables(c.rec, unit) {
			continue
		}
		why := "there is no disk to look after"
		if slices.Contains(waiters, unit) {
			if why = "the network is there before it"; c.link("/etc/systemd/system/network-online.target.wants/"+unit) == "" {
				continue
			}
		}
		name, _, _ := strings.Cut(unit, ".")
		var done bool
		own := "/etc/systemd/system/" + unit
		if c.hasUnit(unit) && c.link(own) != "/dev/null" {
			if err := c.symlink("/dev/null", own); err != nil {
				return err
			}
			done = true
		}
		for _, dir := range slices.Concat(c.glob("/etc", "rc?.d"), c.glob("/etc/rc.d", "rc?.d")) {
			for _, start := range c.glob(dir, "S[0-9][0-9]"+name) {
				if err := c.remove(start); err != nil {
					return err
				}
				done = true
			}
		}
		if done {
			c.note("service %s is not started, %s", name, why)
		}
	}
	return nil
}
