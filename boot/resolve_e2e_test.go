//go:build e2e

package boot_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"netroot/boot/vm"
	rootcheck "netroot/builder/check"
	"netroot/builder/chroot"
	"netroot/builder/customize"
	"netroot/builder/elf"
	"netroot/builder/initramfs"
	"netroot/builder/need"
	"netroot/builder/recipe"
	"netroot/builder/tree"
)

// packagesOnly makes what packages of an EL6-like distribution leave: the start of the network is there, and none of the files that an
// installer writes. Programs and libraries are this host's.
func packagesOnly(t *testing.T) string {
	t.Helper()
	const release = "6.1.0-test"
	root, host := t.TempDir(), os.DirFS("/")
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		at := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range [][2]string{{"usr/bin", "bin"}, {"usr/sbin", "sbin"}, {"usr/lib", "lib"}, {"usr/lib64", "lib64"}, {"rc.d/init.d", "etc/init.d"}} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(link[1])), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(link[0], filepath.Join(root, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc/rc.d/init.d", "etc/rc.d/rc3.d", "proc", "sys", "dev", "tmp", "root", "home", "var/lock/subsys", "var/lib/dhcp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var programs []string
	for _, p := range []string{"sh", "ip", "dhclient", "getent", "cat", "rm", "mkdir", "cp", "ls", "sleep", "mount"} {
		name, ok := tree.LookPath(host, p)
		if !ok {
			need.Missing(t, "needs %s", p)
		}
		programs = append(programs, name)
	}
	closure, err := elf.Resolve(host, programs...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range closure.Files {
		data, err := tree.ReadFile(host, name)
		if err != nil {
			t.Fatal(err)
		}
		put(name, string(data), 0o755)
	}
	put("usr/sbin/init", "#!/bin/sh\n", 0o755)
	put("usr/sbin/dhclient-script", "#!/bin/sh\n", 0o755)
	put("boot/vmlinuz-"+release, "", 0o644)
	put("lib/modules/"+release+"/modules.dep", "kernel/fs/nfs/nfsv3.ko:\nkernel/drivers/net/ethernet/intel/e1000/e1000.ko:\n", 0o644)
	for _, module := range []string{"fs/nfs/nfsv3.ko", "drivers/net/ethernet/intel/e1000/e1000.ko"} {
		put("lib/modules/"+release+"/kernel/"+module, "", 0o644)
	}
	put("etc/redhat-release", "Like EL release 6\n", 0o644)
	put("etc/nsswitch.conf", "passwd: files\nhosts: files dns\n", 0o644)
	put("etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644)
	put("etc/group", "root:x:0:\n", 0o644)
	put("etc/inittab", "id:3:initdefault:\n", 0o644)
	put("etc/sysconfig/network-scripts/ifcfg-lo", "DEVICE=lo\n", 0o644)
	// What matters of that of initscripts: it does nothing at all without its file.
	put("etc/rc.d/init.d/network", `#!/bin/sh
# chkconfig: 2345 10 90
[ -f /etc/sysconfig/network ] || exit 6
. /etc/sysconfig/network
[ "$NETWORKING" = yes ] || exit 6
ip link set lo up
for file in /etc/sysconfig/network-scripts/ifcfg-*; do
	ONBOOT=yes
	. "$file"
	[ "$DEVICE" = lo ] || [ "$ONBOOT" = no ] || echo "brought up $DEVICE"
done
`, 0o755)
	return root
}

// startRoot starts the services of a root in the lab, behind an initramfs, and returns what it is asked there. The interface is up and
// has an address, as any initramfs leaves it.
func startRoot(t *testing.T, lab *vm.Lab, root, initramfs string) string {
	t.Helper()
	script := `set -e
mount --make-rprivate /
cd "$1"
mount -t proc proc proc
mount -t sysfs sys sys
mount -t tmpfs dev dev
for d in "null 1 3" "urandom 1 9"; do set -- $d; mknod -m 666 dev/$1 c $2 $3; done
: >dev/kmsg
: >dev/console
[ ! -d run ] || { mount -t tmpfs run run; mkdir run/netroot; }
mkdir -p tmp/netroot
ip link set lo down
exec chroot . /bin/sh -c '` + initramfs + `
for link in /etc/rc.d/rc3.d/S*; do "$link" start; echo "${link##*/} ended with $?"; done
getent hosts ` + secretName + ` || echo no such name
ip -o link show lo up | { read -r _ lo _ || lo=; echo "up: $lo"; }
'`
	cmd := exec.Command("sh", "-c", script, "machine", root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL}
	var out []byte
	err := lab.Do(vm.NSServer, func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// The site's own failure without a machine (TestE2ENotes boots one): a root made of packages resolves no name. check names the cause, and
// what every build adds by itself cures it. The names are asked for in the root, in a network whose DNS server alone knows one of them.
func TestE2EResolve(t *testing.T) {
	t.Parallel()
	needBench(t)
	lab := openLab(t, vm.Config{Names: map[string]string{secretName: secretAddress}})
	root := packagesOnly(t)
	if err := os.Symlink("../init.d/network", filepath.Join(root, "etc/rc.d/rc3.d/S10network")); err != nil {
		t.Fatal(err)
	}

	if said, want := startRoot(t, lab, root, ""), "S10network ended with 6\nno such name\nup: \n"; said != want {
		t.Errorf("the root of packages alone says\n%s\nwant\n%s", said, want)
	}
	causes := map[string]string{}
	for _, f := range rootcheck.Run(os.DirFS(root), rootcheck.Facts{}) {
		causes[f.Check] = f.String()
		t.Log(f)
	}
	for name, want := range map[string]string{
		"sysconfig-network": "error: sysconfig-network: /etc/sysconfig/network is missing, without which /etc/init.d/network ends at once",
		"resolv.conf":       "/etc/resolv.conf is missing",
		"ifcfg":             "ifcfg-* but that of lo",
		"hosts":             "/etc/hosts has no line for localhost",
	} {
		if !strings.Contains(causes[name], want) {
			t.Errorf("check %s says %q, want %q", name, causes[name], want)
		}
	}

	file := filepath.Join(t.TempDir(), "like-el6.yaml")
	text := "name: like-el6\narch: amd64\nfrom: {yum: {repos: [{name: os, baseurl: 'file:///nowhere', gpgcheck: false}]}}\npackages: [kernel]\nroot: {writable: bind}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	rec, err := recipe.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	session, err := chroot.Open(t.Context(), chroot.Config{Lower: root, Work: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	provided, err := customize.Apply(t.Context(), rec, session, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.Join(provided, "\n"))
	cured := filepath.Join(t.TempDir(), "root")
	if out, err := exec.Command("cp", "-a", session.Tree(), cured).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if found := rootcheck.Run(os.DirFS(cured), rootcheck.Facts{}); len(found) > 0 {
		t.Errorf("after the build: %v", found)
	}
	for name, data := range initramfs.Scripts() {
		if name == "init" {
			name = "netroot/init.sh" // as /init it would begin to run
		}
		if err := os.MkdirAll(filepath.Join(cured, "netroot"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cured, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const ours = `. /netroot/init.sh; init_defaults; new= lower= image=like-el6 generation=1 server=10.77.0.3 method=dhcp found=eth0
configure_dhcp; mac=$(mac_of eth0) dns=$dhcp_dns domain=$dhcp_domain hostname=vmegr; hand_over; stop_dhcp`
	said := startRoot(t, lab, cured, ours)
	want := "S01netroot ended with 0\nS10network ended with 0\nS99netroot-up ended with 0\n" + secretAddress + "      " + secretName + "\nup: lo:\n"
	if !strings.HasSuffix(said, want) {
		t.Errorf("the cured root says\n%s\nwant\n%s", said, want)
	}
	if data, err := os.ReadFile(filepath.Join(cured, "etc/sysconfig/network")); err != nil || string(data) != "NETWORKING=yes\nHOSTNAME=vmegr\n" {
		t.Errorf("/etc/sysconfig/network holds %q (%v)", data, err)
	}
	_, err = os.Stat(filepath.Join(cured, "etc/sysconfig/network-scripts/ifcfg-eth0"))
	if !os.IsNotExist(err) {
		t.Errorf("ifcfg-eth0 is where initscripts looks for it: %v", err)
	}
}
