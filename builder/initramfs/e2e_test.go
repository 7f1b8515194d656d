//go:build e2e

package initramfs

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"netroot/builder/need"
)

// debianRoot makes a small Debian with a kernel, by mmdebstrap, which takes the host's own apt sources.
func debianRoot(t *testing.T) string {
	t.Helper()
	need.Tools(t, "mmdebstrap", "qemu-system-x86_64", "modprobe", "depmod", "cpio")
	need.Root(t)
	root := filepath.Join(t.TempDir(), "root")
	// Nothing of it is configured, which would take minutes; only depmod, which the kernel's package would run, is run.
	out, err := exec.Command("mmdebstrap", "--variant=extract", "--include=linux-image-amd64,dash,util-linux,mount,kmod,iproute2,isc-dhcp-client,coreutils", "bookworm", root).CombinedOutput()
	if err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	_, release, err := Kernel(os.DirFS(root), "")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("depmod", "-b", root, release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v\n%s", err, out)
	}
	return root
}

// Every way in which a boot can fail before the root is there, on a real kernel: what the console says must name the
// cause and the way out, and the machine must reboot by itself.
func TestE2EFailuresOnTheConsole(t *testing.T) {
	root := debianRoot(t)
	dir := t.TempDir()
	initrd := filepath.Join(dir, "initrd.img")
	f, err := os.Create(initrd)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := Write(f, Options{Root: os.DirFS(root)})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("initramfs: %d bytes, %d modules", rep.Size, rep.Modules)
	kernel, _, err := Kernel(os.DirFS(root), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("modprobe", func(t *testing.T) { sameAsModprobe(t, root, rep.Release) })
	const user, silent = "user,restrict=on,id=n0", "hubport,hubid=0,id=n0"
	const nfs = "root=nfs:10.0.2.2:/x:port=1,mountport=1 ip=dhcp rd.overlay netroot.image=debian-12@3 "
	for _, c := range []struct{ name, netdev, cmdline, cause, advice string }{
		{"no NFS server", user, nfs + "rd.retry=1", "server 10.0.2.2 is up, but nothing answers on its NFS port 1", "is netroot serve running there"},
		{"no DHCP server", silent, nfs + "rd.net.dhcp.retry=1 rd.net.timeout.dhcp=2", "no DHCP answer on eth0 .52:54:00:12:34:56. after 1 tries", "is there a DHCP server"},
		{"no driver", user, nfs + "modprobe.blacklist=e1000 rd.net.timeout.iflink=2 BOOTIF=01-52-54-00-12-34-56", "no network card with the address 52:54:00:12:34:56 .BOOTIF., but one without a driver", "kernel that has a driver"},
		{"wrong BOOTIF", user, nfs + "rd.net.timeout.iflink=2 BOOTIF=01-52-54-00-12-34-99", "there is: eth0 .52:54:00:12:34:56.", "check BOOTIF="},
		{"not NFS", user, "root=/dev/sda1", "root=/dev/sda1 is not an NFS root", "root=nfs:SERVER:/IMAGE"},
		{"server by name", user, "root=nfs:server1:/x ip=dhcp", "server1, which is no IPv4 address", "write root=nfs:ADDRESS:/IMAGE"},
		{"bad ip", user, nfs + "ip=10.0.2.9", "ip=10.0.2.9 has no netmask", "GATEWAY:MASK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-m", "512", "-nographic", "-monitor", "none", "-serial", "stdio", "-no-reboot",
				"-netdev", c.netdev, "-device", "e1000,netdev=n0,mac=52:54:00:12:34:56,romfile=", "-kernel", filepath.Join(root, kernel), "-initrd", initrd,
				"-append", "console=ttyS0 loglevel=3 rd.reboot=1 "+c.cmdline)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("the machine did not reboot by itself: %v", err)
			}
			console := strings.ReplaceAll(string(out), "\r", "")
			for _, want := range []string{"(?m)^netroot: cannot go on: .*" + c.cause, "(?m)^netroot: what to do: .*" + regexp.QuoteMeta(c.advice), "(?m)^netroot: rebooting$"} {
				if !regexp.MustCompile(want).MatchString(console) {
					t.Errorf("the console has no %q:\n%s", want, console)
				}
			}
		})
	}
}

// sameAsModprobe compares depmod's index with the one in the archive, asked by modprobe.
func sameAsModprobe(t *testing.T, root, release string) {
	var archive strings.Builder
	if _, err := Write(&archive, Options{Root: os.DirFS(root), Compression: "none"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cpio(t, dir, []byte(archive.String()), "-idm", "--quiet")
	show := func(root, name string) string {
		cmd := exec.Command("modprobe", "-d", root, "-S", release, "-C", t.TempDir(), "--show-depends", name)
		cmd.Stderr = io.Discard
		out, err := cmd.Output()
		if err != nil {
			return err.Error()
		}
		return strings.ReplaceAll(string(out), root, "")
	}
	for _, name := range []string{
		"nfs", "nfsv3", "overlay", "af_packet", "virtio_net", "bnx2x", "mlx5_core", "mlx4_en", "r8169", "libcrc32c", "igb", "tg3", "hv_netvsc", "vmxnet3", "no_such_module",
		"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00", "pci:v000010ECd00008168sv00001043sd000085AAbc02sc00i00", "pci:v000014E4d00001657sv0000103Csd0000169Dbc02sc00i00",
		"virtio:d00000001v00001AF4", "usb:v0BDAp8153d3100dc00dsc00dp00icFFiscFFip00in00", "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00",
	} {
		if want, got := show(root, name), show(dir, name); got != want {
			t.Errorf("modprobe --show-depends %s:\n%swith depmod's index:\n%s", name, got, want)
		}
	}
}
