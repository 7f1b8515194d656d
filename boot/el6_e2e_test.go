//go:build e2e

package boot_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/foreign"
	"netroot/builder/image"
	"netroot/builder/need"
	"netroot/builder/rpmfixture"
	"netroot/builder/store"
)

// withoutNetroot makes of a built root what packages alone would have left: it takes out what the build put in.
const withoutNetroot = `cd "$1"
rm -r usr/lib/netroot etc/rc.d/init.d/netroot* etc/rc.d/rc?.d/*netroot*
rm etc/sysconfig/network etc/sysconfig/network-scripts/ifcfg-eth0 etc/resolv.conf etc/fstab etc/hosts
sed -i s/READONLY=yes/READONLY=no/ etc/sysconfig/readonly-root
printf 'dirs\t/var/log\nfiles\t/etc/resolv.conf\n' >etc/rwtab
`

// installed makes of that root one that an installer has set up on the disk of a machine with the MAC $2, at a site whose server $3 has
// something to mount, $4; and stops the machine, by pulling the plug.
const installed = `cd "$1"
printf 'NETWORKING=yes\nHOSTNAME=vmegr.site\nGATEWAY=192.168.99.1\n' >etc/sysconfig/network
printf 'DEVICE=eth0\nBOOTPROTO=static\nHWADDR=%s\nIPADDR=192.168.99.7\nNETMASK=255.255.255.0\nONBOOT=yes\nDNS1=192.168.99.2\n' "$2" >etc/sysconfig/network-scripts/ifcfg-eth0
printf 'SUBSYSTEM=="net", ACTION=="add", ATTR{address}=="%s", KERNEL=="eth*", NAME="eth5"\n' "$2" >etc/udev/rules.d/70-persistent-net.rules
printf 'nameserver 192.168.99.2\n' >etc/resolv.conf
printf '127.0.0.1 localhost\n192.168.99.5 fileserver\n' >etc/hosts
printf '%s\n' '/dev/mapper/vg-root / ext4 defaults 1 1' '/dev/mapper/vg-swap swap swap defaults 0 0' 'proc /proc proc defaults 0 0' \
	"$3:$4 /srv nfs ro,nolock,vers=3,proto=tcp,addr=$3 0 0" >etc/fstab
printf '%s\n' '-1.5 1400000000 0.0' 1400000000 LOCAL >etc/adjtime
mkdir -p var/run/dbus; chown 81:81 var/run/dbus
echo 1 >var/run/sshd.pid; : >var/lock/subsys/network; : >var/lock/subsys/sshd; : >var/run/dbus/pid
mkdir -p etc/rwtab.d; printf 'empty\t/var/lib/dhclient\n' >etc/rwtab.d/site
echo old >var/log/messages; mkdir -p home/lab; echo 'written on the disk' >home/lab/note; chown 4711:4712 home/lab/note
`

const copyRecipe = `name: e2e-el6-copy
arch: i686
from: {copy: %s}
kernel: {cmdline: [selinux=0, console=tty0, "console=ttyS0,115200"]}
root: {writable: bind}
`

// TestE2ENotes is what the site that this program was made for had written down. A root made of packages alone boots, and resolves no name,
// and check says why before anybody boots it. A copy of a system that was installed on a disk resolves names. That the recipe's build
// of the same packages does, too, is TestE2ESLC6.
func TestE2ENotes(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	foreign.Need(t)
	need.Tools(t, "fsck.erofs", "tar")
	gen := b.buildRPM(t, "slc68-v7768", "RPM-GPG-KEY-cern", rpmfixture.EL6())
	work := t.TempDir()
	root := filepath.Join(work, "root")
	sh := func(script string, args ...string) {
		t.Helper()
		if out, err := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	unpackRoot(t, gen, root)
	sh(withoutNetroot, root)
	alone := b.publishRoot(t, "e2e-el6-packages", root, gen)
	// The server of the lab stands in for the site's.
	const server = "10.77.0.3"
	sh(installed, root, vm.DefaultMAC.String(), server, "/"+gen.Ref())
	tarball, recipe := filepath.Join(work, "vmegr.tar"), filepath.Join(work, "copy.yaml")
	sh(`tar -C "$1" --numeric-owner -cf "$2" .`, root, tarball)
	if err := os.WriteFile(recipe, fmt.Appendf(nil, copyRecipe, tarball), 0o600); err != nil {
		t.Fatal(err)
	}
	twin := b.build(t, recipe, "e2e-el6-copy")

	stdout, stderr, exit := b.netroot(t, time.Minute, "check", alone.Ref())
	if exit != 3 {
		t.Errorf("check of a root of packages ended with %d\n%s", exit, stderr)
	}
	for _, want := range []string{
		"error: sysconfig-network: /etc/sysconfig/network is missing, without which /etc/init.d/network ends at once: no card comes up, not even lo, and no name server is learned; an installer writes it",
		"warning: ifcfg: no /etc/sysconfig/network-scripts/ifcfg-* but that of lo", "warning: hosts: /etc/hosts has no line for localhost", "warning: resolv.conf: /etc/resolv.conf is missing",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("check does not say %q:\n%s", want, stdout)
		}
	}
	if stdout, stderr, exit := b.netroot(t, time.Minute, "check", twin.Ref()); exit != 0 || stdout != "" {
		t.Errorf("check of the copy ended with %d\n%s%s", exit, stdout, stderr)
	}
	for _, want := range []string{"persistent-net.rules removed", `"/dev/mapper/vg-root / ext4 defaults 1 1" taken out`, "emptied /etc/rwtab, /etc/rwtab.d/site", "HWADDR=", "/etc/resolv.conf emptied"} {
		if !noted(twin, want) {
			t.Errorf("no note says %q: %q", want, twin.Manifest.Notes)
		}
	}

	lab := openLab(t, vm.Config{Names: map[string]string{secretName: secretAddress}})
	twinMAC, _ := net.ParseMAC("52:54:00:6e:72:78")
	_, second, _ := strings.Cut(vm.Policy(twinMAC.String(), "twin", twin.Image), "hosts:\n")
	one := &site{lab: lab}
	one.serve(t, b, vm.Policy(vm.DefaultMAC.String(), "packages", alone.Image)+second)
	two := &site{lab: lab, server: one.server, mac: twinMAC}
	for _, s := range []*site{one, two} {
		s.patience = 10 * time.Minute
		spec, err := vm.ParseSpec("arch=i386,cpu=coreduo,memory=1024,nic=e1000")
		if err != nil {
			t.Fatal(err)
		}
		spec.MAC = s.mac
		if s.machine, err = lab.Boot(vm.MachineConfig{Spec: spec}); err != nil {
			t.Fatal(err)
		}
		defer s.machine.Stop()
	}

	two.await(t, twin, 0, two.machine.PowerOn)
	two.expect(t, "hostname; uname -m; getent hosts "+secretName, "twin\ni686\n"+secretAddress+`\s+`+secretName)
	two.expect(t, "cat /home/lab/note; stat -c %u:%g /home/lab/note /var/run/dbus; getent hosts fileserver", `written on the disk\n4711:4712\n81:81\n192.168.99.5\s+fileserver`)
	// The file systems of the site's servers are mounted, and services have left the files by which rc stops them.
	two.expect(t, "grep -c "+server+" /etc/fstab; test -e /srv/etc/passwd && echo mounted; ls /var/lock/subsys; ls /etc/rc.d/rc0.d | grep netroot", "1\nmounted\nnetfs\nnetroot\n(netroot-up\n)?network\nsshd\nK99netroot")
	two.expect(t, "ls /sys/class/net; ip -o link show lo up | grep -c .; ls /var/run/sshd.pid /var/log/messages 2>/dev/null || echo gone", "eth0\nlo\n1\ngone")
	// Every file of every package, with its digest, read over NFS.
	began := time.Now()
	if out := two.run(t, 5*time.Minute, "rpm -Va 2>&1 || :"); !regexp.MustCompile(`^` + changed + `$`).MatchString(out) {
		t.Errorf("rpm -Va says\n%s", out)
	}
	t.Logf("rpm -Va: %.1f s", time.Since(began).Seconds())

	// Nothing of netroot's tells how far this one is; init lets people log in when rc has started all services.
	one.run(t, 5*time.Minute, "until pidof agetty >/dev/null; do sleep 1; done")
	one.expect(t, "getent hosts "+secretName+" || echo no such name; ip -o link show lo up | grep -c . || :; ls /etc/resolv.conf 2>/dev/null || echo none", "no such name\n0\nnone")
	// The card is up and has its address, and the server that would have answered is known.
	one.expect(t, "ip -4 -o addr show dev eth0 | grep -c inet; grep -c nameserver /run/netroot/resolv.conf; grep ' / ' /proc/mounts | tail -n 1 | cut -d' ' -f3", "1\n1\nnfs")
	var console bytes.Buffer
	for _, line := range one.machine.Console() {
		fmt.Fprintln(&console, line.Text)
	}
	if !strings.Contains(console.String(), "/etc/resolv.conf of the root cannot be written") {
		t.Errorf("the console says\n%s", console.String())
	}
}

// unpackRoot makes a folder of the root of a generation.
func unpackRoot(t *testing.T, gen store.Generation, dir string) {
	t.Helper()
	if out, err := exec.Command("fsck.erofs", "--extract="+dir, "--preserve", gen.Path(store.PartRoot)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	img, err := image.Open(gen.Path(store.PartRoot))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	// It gives the owner last (erofs-utils 1.5), which takes setuid away.
	err = fs.WalkDir(img.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) == 0 {
			return err
		}
		return os.Chmod(filepath.Join(dir, name), info.Mode())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// publishRoot makes an image of a folder that was taken out of one and changed, without the checks of a build. It is read-only.
func (b *bench) publishRoot(t *testing.T, name, root string, of store.Generation) store.Generation {
	t.Helper()
	s, err := store.Open(b.store)
	if err != nil {
		t.Fatal(err)
	}
	draft, err := s.Begin(name)
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Abort()
	if _, err := image.Write(t.Context(), filepath.Join(draft.Dir(), store.PartRoot), root, image.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{store.PartKernel, store.PartInitramfs} {
		data, err := os.ReadFile(of.Path(part))
		if err == nil {
			err = os.WriteFile(filepath.Join(draft.Dir(), part), data, 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m := of.Manifest
	g, err := draft.Publish(store.Manifest{Arch: m.Arch, KernelRelease: m.KernelRelease, Cmdline: m.Cmdline, Writable: "no", Lock: m.Lock})
	if err != nil {
		t.Fatal(err)
	}
	return g
}
