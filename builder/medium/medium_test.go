package medium

import (
	"debug/pe"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/store"
)

func tree(names ...string) fs.FS {
	m := fstest.MapFS{}
	for _, n := range names {
		name, text, _ := strings.Cut(n, "=")
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

// The layouts are those of the media that are named; only the files that tell them are listed.
func TestFind(t *testing.T) {
	for name, c := range map[string]struct {
		iso            fs.FS
		kernel, initrd string
		want           store.Medium
	}{
		"ubuntu-20.04-live-server": {tree("casper/vmlinuz", "casper/initrd", "casper/hwe-vmlinuz", "casper/hwe-initrd", "casper/filesystem.squashfs", "pool/x", "dists/x"), "", "",
			store.Medium{Family: store.Casper, Kernel: "casper/vmlinuz", Initrd: "casper/initrd"}},
		"hwe, named": {tree("casper/vmlinuz", "casper/initrd", "casper/hwe-vmlinuz", "casper/hwe-initrd"), "/casper/hwe-vmlinuz", "",
			store.Medium{Family: store.Casper, Kernel: "casper/hwe-vmlinuz", Initrd: "casper/hwe-initrd"}},
		"ubuntu-16.04-desktop": {tree("casper/vmlinuz.efi", "casper/initrd.lz", "install/mt86plus"), "", "",
			store.Medium{Family: store.Casper, Kernel: "casper/vmlinuz.efi", Initrd: "casper/initrd.lz"}},
		"debian-live-12": {tree("live/vmlinuz-6.1.0-9-amd64", "live/initrd.img-6.1.0-9-amd64", "live/vmlinuz-6.1.0-18-amd64", "live/initrd.img-6.1.0-18-amd64", "live/filesystem.squashfs", "install/vmlinuz", "install/initrd.gz"), "", "",
			store.Medium{Family: store.Live, Kernel: "live/vmlinuz-6.1.0-18-amd64", Initrd: "live/initrd.img-6.1.0-18-amd64", Live: "live/filesystem.squashfs"}},
		"gparted": {tree("live/vmlinuz", "live/initrd.img", "live/filesystem.squashfs"), "", "",
			store.Medium{Family: store.Live, Kernel: "live/vmlinuz", Initrd: "live/initrd.img", Live: "live/filesystem.squashfs"}},
		"debian-12-netinst": {tree("install.amd/vmlinuz", "install.amd/initrd.gz", "install.amd/gtk/vmlinuz", "install.amd/gtk/initrd.gz", "pool/x"), "", "",
			store.Medium{Family: store.DebianInstaller, Kernel: "install.amd/vmlinuz", Initrd: "install.amd/initrd.gz"}},
		"debian mini.iso": {tree("linux", "initrd.gz", "isolinux.bin"), "", "",
			store.Medium{Family: store.DebianInstaller, Kernel: "linux", Initrd: "initrd.gz"}},
		"alma-9": {tree("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", "images/install.img", ".treeinfo=[general]\nfamily = AlmaLinux\nversion = 9.3\n", ".discinfo"), "", "",
			store.Medium{Family: store.Anaconda, Kernel: "images/pxeboot/vmlinuz", Initrd: "images/pxeboot/initrd.img"}},
		"centos-6": {tree("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", "images/install.img", ".treeinfo=[general]\nfamily = CentOS\nversion = 6.8\n"), "", "",
			store.Medium{Family: store.Anaconda, Kernel: "images/pxeboot/vmlinuz", Initrd: "images/pxeboot/initrd.img", Old: true}},
		"fedora-workstation-live": {tree("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", "LiveOS/squashfs.img"), "", "",
			store.Medium{Family: store.DracutLive, Kernel: "images/pxeboot/vmlinuz", Initrd: "images/pxeboot/initrd.img", Live: "LiveOS/squashfs.img"}},
		"memtest86+ 6": {tree("boot/memtest", "efi/boot/bootx64.efi"), "", "",
			store.Medium{Family: store.Memtest, Kernel: "boot/memtest"}},
		"named, of no kind": {tree("arch/boot/x86_64/vmlinuz-linux", "arch/boot/x86_64/initramfs-linux.img"), "arch/boot/x86_64/vmlinuz-linux", "arch/boot/x86_64/initramfs-linux.img",
			store.Medium{Family: store.Other, Kernel: "arch/boot/x86_64/vmlinuz-linux", Initrd: "arch/boot/x86_64/initramfs-linux.img"}},
		"named, in casper's own folder": {tree("casper/vmlinuz-rt", "casper/initrd-rt", "casper/vmlinuz", "casper/initrd"), "casper/vmlinuz-rt", "casper/initrd-rt",
			store.Medium{Family: store.Casper, Kernel: "casper/vmlinuz-rt", Initrd: "casper/initrd-rt"}},
	} {
		got, err := Find(c.iso, c.kernel, c.initrd)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestFindNothing(t *testing.T) {
	for name, c := range map[string]struct {
		iso            fs.FS
		kernel, initrd string
		want           string
	}{
		"windows":        {tree("bootmgr", "sources/install.wim"), "", "", "but at its top bootmgr, sources"},
		"empty":          {tree(), "", "", "casper/vmlinuz, "},
		"no initrd":      {tree("casper/vmlinuz"), "", "", "no initrd for it (looked for casper/initrd, "},
		"named, missing": {tree("casper/vmlinuz"), "casper/vmlinux", "", "it has no file casper/vmlinux"},
		"named, folder":  {tree("casper/vmlinuz"), "casper", "", "casper is not a file"},
		"initrd missing": {tree("casper/vmlinuz"), "casper/vmlinuz", "casper/gone", "it has no file casper/gone"},
	} {
		_, err := Find(c.iso, c.kernel, c.initrd)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}

// The release is the one that uname tells, for a kernel that this host has installed.
func TestKernelRelease(t *testing.T) {
	kernels, _ := filepath.Glob("/boot/vmlinuz-*")
	for _, path := range kernels {
		if f, err := pe.Open(path); err != nil || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			continue // closed to others than root
		}
		if got, want := KernelRelease(data), strings.TrimPrefix(filepath.Base(path), "vmlinuz-"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	header := make([]byte, 0x300)
	copy(header[0x202:], "HdrS")
	header[0x20e], header[0x20f] = 0x80, 0
	copy(header[0x280:], "6.1.0-18-amd64 (debian-kernel@lists.debian.org) #1\x00")
	if got := KernelRelease(header); got != "6.1.0-18-amd64" {
		t.Errorf("%q", got)
	}
	for _, b := range [][]byte{nil, []byte("MZ"), make([]byte, 0x300), header[:0x282]} {
		if got := KernelRelease(b); got != "" {
			t.Errorf("of %d bytes: %q", len(b), got)
		}
	}
}

func FuzzKernelRelease(f *testing.F) {
	f.Add(make([]byte, 0x300))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r := KernelRelease(b); strings.ContainsAny(r, " \n") {
			t.Errorf("%q", r)
		}
	})
}
