//go:build e2e

package boot_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/medium"
)

const netbootPackage = "debian-installer-13-netboot-amd64"

// The shipped recipe, with an initrd that trusts the lab's suite, too. The smallest system that debootstrap makes with an init and a
// login is installed, because an emulated machine takes its time. The installer's debconf speaks to the one in there, which needs
// debconf-i18n for that: without it no package after the first can be installed.
const debianRecipe = `name: e2e-debian-13
include: debian-13-install
from:
  netboot:
    kernel: {path: %s/linux}
    initrd: {path: %s/initrd.gz}
kernel:
  cmdline: [DEBIAN_FRONTEND=text, mirror/suite=trixie, mirror/udeb/suite=lab, base-installer/debootstrap_variant=minbase,
    "base-installer/includes=systemd-sysv,udev,ifupdown,iproute2,dhcpcd-base,debconf-i18n"]
`

// labLog sends the installer's own log to the console, where it tells what was done.
const labLog = "tail -f /var/log/syslog > /dev/ttyS0 2>/dev/null &\n"

// installerComponents is the suite lab: what the mirror has of the components of trixie's installer, and what it may lack, made of Debian's
// own packages. The modules are always made, because mirrors keep the components of the kernel of the last point release only.
func installerComponents(t *testing.T, trixie archive, mirror, release, initrd string) suite {
	t.Helper()
	trees := trixie.unpack(t, "linux-image-"+release, "e2fsprogs", "libext2fs2t64", "libcom-err2", "ntfs-3g", "libntfs-3g89t64")
	modules := func(name, provides string, patterns ...string) udeb {
		u := udeb{name: name + "-modules-" + release + "-di", version: "1", fields: "Provides: " + provides + "\nKernel-Version: " + release + "\n"}
		for _, p := range patterns {
			u.files = append(u.files, "usr/lib/modules/*/kernel/"+p)
		}
		return u
	}
	const libs = "usr/lib/x86_64-linux-gnu/"
	var made []stanza
	files := map[string][]byte{}
	for _, u := range []udeb{
		modules("ext4", "ext4-modules, ext3-modules, ext2-modules", "fs/ext4/ext4.ko*", "fs/jbd2/jbd2.ko*", "fs/mbcache.ko*"),
		modules("scsi", "scsi-modules", "drivers/block/virtio_blk.ko*"),
		{name: "e2fsprogs-udeb", version: "1", files: []string{"usr/sbin/mke2fs", "usr/sbin/mkfs.ext?", "usr/sbin/e2fsck", "usr/sbin/fsck.ext?",
			"usr/sbin/resize2fs", "usr/sbin/tune2fs", "usr/sbin/badblocks", "etc/mke2fs.conf", libs + "libext2fs.so.*", libs + "libe2p.so.*", libs + "libcom_err.so.*"}},
		{name: "ntfs-3g-udeb", version: "1", files: []string{"usr/*bin/ntfsresize", "usr/*bin/mkntfs", libs + "libntfs-3g.so.*"}},
	} {
		entry, data := u.make(t, trees)
		made = append(made, entry)
		files["/"+entry.file] = data
	}
	list := wholeComponents(t, mirror, udebIndex(t, mirror, "trixie"), made, initrdStatus(t, initrd))
	for _, need := range []string{"partman-base", "partman-auto", "partman-ext3", "user-setup-udeb", "bootstrap-base", "apt-setup-udeb", "grub-installer", "finish-install"} {
		if !slices.ContainsFunc(list, func(s stanza) bool { return s.name == need }) {
			t.Skipf("this host's mirror has not all of %s, which installs Debian 13", need)
		}
	}
	s := newSuite(t, "lab", list)
	maps.Copy(s.files, files)
	return s
}

// TestE2EDebianIsInstalled is the shipped recipe at work: the Debian installer boots by PXE, partitions an empty disk, installs Debian
// from a mirror and a boot loader, and reports; the machine restarts and Debian boots from its disk, though it asks the network first.
func TestE2EDebianIsInstalled(t *testing.T) {
	if os.Getenv("NETROOT_E2E_LONG") == "" {
		t.Skip("takes long without KVM: set NETROOT_E2E_LONG=1, or run make e2e-long")
	}
	b := needBench(t)
	mirror := strings.TrimRight(mainMirror(t), "/")
	trixie := openArchive(t, "trixie")
	images := filepath.Join(trixie.unpack(t, netbootPackage)[netbootPackage], "usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64")
	kernel, err := os.ReadFile(filepath.Join(images, "linux"))
	if err != nil {
		t.Fatal(err)
	}
	release := medium.KernelRelease(kernel)
	own := installerComponents(t, trixie, mirror, release, filepath.Join(images, "initrd.gz"))
	keys, err := os.ReadFile("/usr/share/keyrings/debian-archive-keyring.gpg")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Rename(filepath.Join(images, "linux"), filepath.Join(dir, "linux")); err != nil {
		t.Fatal(err)
	}
	appendArchive(t, filepath.Join(images, "initrd.gz"), filepath.Join(dir, "initrd.gz"), map[string][]byte{
		"usr/share/keyrings/archive.gpg":                append(keys, own.keyring...),
		"usr/lib/debian-installer-startup.d/S99lab-log": []byte(labLog),
	})
	recipe := filepath.Join(dir, "install.yaml")
	if err := os.WriteFile(recipe, fmt.Appendf(nil, debianRecipe, dir, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	gen := b.build(t, recipe, "e2e-debian-13")

	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Minute)
	defer cancel()
	lab := openLab(t, vm.Config{})
	serveMirror(t, lab, own.files)
	server, err := lab.Serve(ctx, vm.ServerConfig{Program: b.program, Store: b.store, Policy: fmt.Sprintf(`default: ignore
hosts:
  - name: debian
    mac: "%s"
    image: e2e-debian-13
    boot: once
    vars: {password: "%s", mirror: "%s", disk: /dev/vda, kernel: linux-image-cloud-amd64, recommends: "false", packages: "", services: none,
      cmdline: "console=tty0 console=ttyS0,115200"}
`, vm.DefaultMAC, hash, labMirror)})
	if err != nil {
		t.Fatal(err)
	}
	machine, err := lab.Boot(vm.MachineConfig{Disk: emptyDisk(t, 4<<30)})
	if err != nil {
		t.Fatal(err)
	}
	since := func(what string) { t.Logf("%s: %.0f s after power-on", what, time.Since(machine.PowerOn).Seconds()) }
	// The installer asks and waits where it fails.
	goes, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		if _, err := machine.WaitConsole(goes, 0, "!! ERROR"); err == nil {
			stop()
		}
	}()
	shown := func(text, what string) {
		t.Helper()
		if _, err := machine.WaitConsole(goes, 0, text); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		since(what)
	}
	event := func(what string, match func(vm.Event) bool) {
		t.Helper()
		ctx, cancel := context.WithCancel(goes)
		defer cancel()
		go func() {
			select {
			case <-machine.Done():
				cancel()
			case <-ctx.Done():
			}
		}()
		if _, err := server.WaitEvent(ctx, 0, match); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, strings.Join(machine.ConsoleTail(60), "\n"))
		}
		since(what)
	}
	event("the preseed file is read", func(e vm.Event) bool {
		return e.Message == "read" && e.File == "seed/"+gen.Ref()+"/debian/preseed.cfg" && e.MAC == vm.DefaultMAC.String()
	})
	shown("Menu item 'bootstrap-base' selected", "the disk has its partitions")
	shown("Menu item 'apt-setup-udeb' selected", "the base system and a kernel are installed")
	shown("Menu item 'grub-installer' selected", "the mirror is in the list of sources")
	event("the machine reports that it is installed", func(e vm.Event) bool { return e.Message == "installed" })

	// The installer has things to do yet: it adds what this hardware is better off with, and writes the initramfs once more.
	prompt, cancel := context.WithTimeout(ctx, 25*time.Minute)
	defer cancel()
	loggedIn(t, prompt, machine, "findmnt -no SOURCE,FSTYPE /; systemctl is-system-running --wait; . /etc/os-release; echo on $VERSION_CODENAME",
		"/dev/vda1 ext4", "running", "on trixie")
	since("Debian runs from its disk")
	kernels := 0
	for _, e := range server.Events() {
		if e.Message == "read" && strings.HasSuffix(e.File, "/vmlinuz") {
			kernels++
		}
	}
	if kernels != 1 {
		t.Errorf("%d kernels were loaded from the network, want one: the installer runs once", kernels)
	}
}

// loggedIn waits until a machine asks who logs in, does so as root, and has a command say what is wanted.
func loggedIn(t *testing.T, ctx context.Context, machine *vm.Machine, command string, wanted ...string) {
	t.Helper()
	for _, step := range []struct{ prompt, answer string }{{"debian login:", "root"}, {"Password:", "ubuntu"}, {"root@debian:~#", command}} {
		if err := machine.WaitPrompt(ctx, step.prompt); err != nil {
			t.Fatalf("%v\n%s", err, strings.Join(machine.ConsoleTail(60), "\n"))
		}
		if err := machine.Type(step.answer + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	from := len(machine.Console())
	for _, want := range wanted {
		if _, err := machine.WaitConsole(ctx, from, want); err != nil {
			t.Fatalf("%v\n%s", err, strings.Join(machine.ConsoleTail(60), "\n"))
		}
	}
}
