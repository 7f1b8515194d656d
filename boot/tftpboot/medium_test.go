package tftpboot

import (
	"net/netip"
	"strings"
	"testing"

	"netroot/builder/store"
)

func TestMediumCmdline(t *testing.T) {
	usual := place{netip.MustParseAddr("10.0.0.3"), 2049, "http://10.0.0.3/", "u", 4}
	other := place{netip.MustParseAddr("10.0.0.3"), 20490, "http://10.0.0.3:8080/", "u", 4}
	for _, c := range []struct {
		medium store.Medium
		at     place
		name   string
		want   string
	}{
		{store.Medium{Family: store.Casper, Deliver: store.ByNFS}, usual, "", "boot=casper ip=dhcp fsck.mode=skip netboot=nfs nfsroot=10.0.0.3:/u@4"},
		{store.Medium{Family: store.Casper, Deliver: store.ByNFS}, other, "nuc.lab", "boot=casper ip=dhcp fsck.mode=skip netboot=nfs nfsroot=10.0.0.3:/u@4 hostname=nuc"},
		{store.Medium{Family: store.Casper, Deliver: store.ByHTTP}, other, "", "boot=casper ip=dhcp cloud-config-url=/dev/null url=http://10.0.0.3:8080/images/u/4/image.iso"},
		{store.Medium{Family: store.Live, Deliver: store.ByNFS, Live: "live/filesystem.squashfs"}, usual, "", "boot=live netboot=nfs nfsroot=10.0.0.3:/u@4"},
		{store.Medium{Family: store.Live, Deliver: store.ByNFS, Live: "live/filesystem.squashfs"}, other, "", "boot=live netboot=nfs nfsroot=10.0.0.3:/u@4 nfsopts=port=20490"},
		{store.Medium{Family: store.Live, Deliver: store.ByHTTP, Live: "live/filesystem.squashfs"}, usual, "", "boot=live fetch=http://10.0.0.3/images/u/4/iso/live/filesystem.squashfs"},
		{store.Medium{Family: store.Anaconda, Deliver: store.ByNFS}, other, "", "ip=dhcp inst.repo=nfs:vers=3,proto=tcp,nolock,port=20490,mountport=20490:10.0.0.3:/u@4"},
		{store.Medium{Family: store.Anaconda, Deliver: store.ByNFS, Old: true}, usual, "", "ip=dhcp repo=nfs:nolock:10.0.0.3:/u@4"},
		{store.Medium{Family: store.Anaconda, Deliver: store.ByHTTP}, usual, "", "ip=dhcp inst.repo=http://10.0.0.3/images/u/4/iso/"},
		{store.Medium{Family: store.DracutLive, Deliver: store.ByHTTP, Live: "LiveOS/squashfs.img"}, usual, "", "ip=dhcp root=live:http://10.0.0.3/images/u/4/iso/LiveOS/squashfs.img rd.live.image"},
		{store.Medium{Family: store.DebianInstaller}, usual, "", ""},
		{store.Medium{Family: store.Memtest}, usual, "", ""},
	} {
		if got := strings.Join(mediumCmdline(&c.medium, c.at, c.name), " "); got != c.want {
			t.Errorf("%s by %q:\n%s\nwant:\n%s", c.medium.Family, c.medium.Deliver, got, c.want)
		}
	}
}
