package customize

import (
	"context"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/chroot"
	"netroot/builder/need"
)

// grow makes a small root of files; a text that begins with "-> " is a link, a name that ends with / a folder.
func grow(t *testing.T, files map[string]string) rootDir {
	t.Helper()
	dir := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(files[name], "-> "); ok {
			err = os.Symlink(target, path)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(files[name]), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return openRoot(dir)
}

// el6 is what packages of EL6 leave of what this package looks at.
func el6() map[string]string {
	return map[string]string{
		"etc/rc.d/init.d/network":          "#!/bin/bash\n# network\n#\n# chkconfig: 2345 10 90\n# description: x\n",
		"etc/rc.d/init.d/netfs":            "#!/bin/bash\n# chkconfig: 345 25 75\n",
		"etc/rc.d/init.d/NetworkManager":   "#!/bin/sh\n# chkconfig: - 23 84\n",
		"etc/rc.d/rc3.d/S23NetworkManager": "-> ../init.d/NetworkManager", "etc/rc.d/rc5.d/S23NetworkManager": "-> ../init.d/NetworkManager",
		"etc/init.d": "-> rc.d/init.d", "etc/redhat-release": "Scientific Linux CERN SLC release 6.8 (Carbon)\n",
		"etc/sysconfig/network-scripts/ifcfg-lo": "DEVICE=lo\n",
		"etc/sysconfig/readonly-root":            "# Set to 'yes' to mount the system filesystems read-only.\nREADONLY=no\n# Set to 'yes' to mount various temporary state as either tmpfs\nTEMPORARY_STATE=no\nRW_MOUNT=/var/lib/stateless/writable\n",
		"etc/rwtab":                              "dirs\t/var/log\nfiles\t/etc/resolv.conf\n", "etc/statetab": "# nothing\n",
		"etc/rwtab.d/sssd": "empty\t/var/lib/sss/db\n", "etc/statetab.d/": "",
		"etc/selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n",
		"etc/init/rc.conf":   "x", "etc/init/rcS.conf": "x", "etc/init/serial.conf": "x", "etc/inittab": "id:3:initdefault:\n",
		"etc/passwd": "root:x:0:0::/root:/bin/bash\n", "etc/group": "root:x:0:\n",
		"etc/securetty": "console\ntty1\n", "sbin/agetty": "", "var/lock/subsys/": "",
	}
}

func apply(t *testing.T, r rootDir, recipe string) (notes, ran []string) {
	t.Helper()
	c := customizer{ctx: t.Context(), rec: load(t, recipe), root: r, log: slog.New(slog.DiscardHandler)}
	c.run = func(_ context.Context, cmd chroot.Command) error {
		ran = append(ran, strings.Join(cmd.Args, " "))
		return nil
	}
	if err := c.apply(); err != nil {
		t.Fatal(err)
	}
	return c.notes, ran
}

func (r rootDir) links(t *testing.T, dir string) string {
	t.Helper()
	entries, err := fs.ReadDir(r.fsys, strings.TrimPrefix(dir, "/"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

const el6Recipe = `
kernel: {cmdline: [console=tty0, "console=ttyS1,9600n8", "console=ttyS0,115200"]}
`

func TestEL6(t *testing.T) {
	r := grow(t, el6())
	notes, ran := apply(t, r, el6Recipe+"root: {writable: bind, folders: [/etc, /var, /srv/data]}\n")
	want := []string{
		"wrote /etc/sysconfig/network",
		"wrote /etc/sysconfig/network-scripts/ifcfg-eth0",
		"added the file systems of the kernel to /etc/fstab: /dev/shm, /dev/pts, /sys, /proc",
		"set READONLY=yes in /etc/sysconfig/readonly-root",
		"emptied /etc/rwtab, /etc/rwtab.d/sssd, because the initramfs makes folders writable as a whole",
		"switched services: network on, netfs on, NetworkManager off",
		"set SELINUX=disabled in /etc/selinux/config",
		"wrote /etc/init/ttyS1.conf",
		"added ttyS1, ttyS0 to /etc/securetty",
		"had init start netroot and netroot-up",
	}
	for i := range want {
		want[i] = "no package has it, so the build did: " + want[i]
	}
	if diff := cmp.Diff(want, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	if ran != nil {
		t.Errorf("ran %q in a root without chkconfig", ran)
	}
	for name, want := range map[string]string{
		"/etc/sysconfig/network":       "NETWORKING=yes\nHOSTNAME=lab\n",
		"/etc/selinux/config":          "SELINUX=disabled\nSELINUXTYPE=targeted\n",
		"/etc/resolv.conf":             "",
		"/etc/hosts":                   "127.0.0.1\tlocalhost\n127.0.1.1\tlab\n::1\tlocalhost ip6-localhost ip6-loopback\n",
		"/etc/sysconfig/readonly-root": "# Set to 'yes' to mount the system filesystems read-only.\nREADONLY=yes\n# Set to 'yes' to mount various temporary state as either tmpfs\nTEMPORARY_STATE=no\nRW_MOUNT=/var/lib/stateless/writable\n",
		"/etc/statetab":                "# nothing\n",
		"/etc/rwtab.d/sssd":            "# See /etc/sysconfig/readonly-root: the initramfs makes the root writable.\n",
		"/etc/fstab": "# No disks: / comes over the network and is mounted before this is read.\ntmpfs   /dev/shm  tmpfs   defaults        0 0\ndevpts  /dev/pts  devpts  gid=5,mode=620  0 0\n" +
			"sysfs   /sys      sysfs   defaults        0 0\nproc    /proc     proc    defaults        0 0\n",
		"/etc/init/ttyS1.conf": "# A login on ttyS1, which console= on the kernel's command line names.\nstart on stopped rc RUNLEVEL=[2345]\nstop on runlevel [S016]\nrespawn\nexec /sbin/agetty -L /dev/ttyS1 9600 vt100\n",
		"/etc/securetty":       "console\ntty1\nttyS1\nttyS0\n",
		folderList:             "# Copied into memory by the initramfs, and writable: root: {writable: bind, folders: …} in the recipe.\n/etc\n/var\n/srv/data\n",
	} {
		if got := r.read(t, name); got != want {
			t.Errorf("%s holds\n%s\nwant\n%s", name, got, want)
		}
	}
	if text := r.read(t, "/etc/sysconfig/network-scripts/ifcfg-eth0"); !strings.Contains(text, "\nONBOOT=no\nNM_CONTROLLED=no\n") {
		t.Errorf("ifcfg-eth0 holds\n%s", text)
	}
	for dir, want := range map[string]string{
		"/etc/rc.d/rc0.d": "K84NetworkManager K99netroot",
		"/etc/rc.d/rc1.d": "K84NetworkManager",
		"/etc/rc.d/rc2.d": "K84NetworkManager S01netroot S10network S99netroot-up",
		"/etc/rc.d/rc3.d": "K84NetworkManager S01netroot S10network S25netfs S99netroot-up",
		"/etc/rc.d/rc6.d": "K84NetworkManager K99netroot",
	} {
		if got := r.links(t, dir); got != want {
			t.Errorf("%s has %s, want %s", dir, got, want)
		}
	}
	if target := r.link("/etc/rc.d/rc3.d/S01netroot"); target != "../init.d/netroot" {
		t.Errorf("S01netroot -> %q", target)
	}
	if r.exists("/usr/lib/systemd") || !r.exists("/srv/data") {
		t.Error("units in a root without systemd, or a writable folder that was not made")
	}
	if again, _ := apply(t, r, el6Recipe+"root: {writable: bind, folders: [/etc, /var, /srv/data]}\n"); len(again) != 3 {
		t.Errorf("done once more, it did: %q", again)
	}
}

// What the recipe says itself, and what a copied root brings along, stays.
func TestEL6KeepsWhatIsThere(t *testing.T) {
	files := el6()
	files["etc/sysconfig/network"] = "NETWORKING=yes\nHOSTNAME=old\n"
	files["etc/sysconfig/network-scripts/ifcfg-eth1"] = "DEVICE=eth1\n"
	files["sbin/chkconfig"] = ""
	r := grow(t, files)
	notes, ran := apply(t, r, `
root: {writable: overlay}
services: {enable: [NetworkManager]}
files:
  - {path: /etc/fstab, content: "mine\n"}
  - {path: /etc/selinux/config, content: "SELINUX=permissive\n"}
  - {path: /etc/rwtab, content: "files /etc/mine\n"}
  - {path: /etc/rwtab.d/sssd, content: "empty /var/mine\n"}
`)
	for name, want := range map[string]string{
		"/etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=old\n", "/etc/fstab": "mine\n", "/etc/selinux/config": "SELINUX=permissive\n", "/etc/rwtab": "files /etc/mine\n", "/etc/rwtab.d/sssd": "empty /var/mine\n",
	} {
		if got := r.read(t, name); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if r.exists("/etc/sysconfig/network-scripts/ifcfg-eth0") || r.exists(folderList) {
		t.Error("a file that nobody needs was written")
	}
	if strings.Contains(r.read(t, "/etc/sysconfig/readonly-root"), "READONLY=yes") {
		t.Error("a root under an overlay was declared read-only")
	}
	if want := []string{"chkconfig NetworkManager on", "chkconfig network on", "chkconfig netfs on"}; !slices.Equal(ran, want) {
		t.Errorf("ran %q, want %q", ran, want)
	}
	for _, n := range notes {
		if strings.Contains(n, "NetworkManager") || strings.Contains(n, "sysconfig/network") {
			t.Errorf("note %q", n)
		}
	}
}

// A copy's network file systems survive the whole way, first copied, then applied.
func TestEL6Copy(t *testing.T) {
	files := el6()
	files["etc/fstab"] = "/dev/mapper/vg-root / ext4 defaults 1 1\nfileserver:/home /home nfs rw,hard 0 0\n//nas/data /data cifs credentials=/etc/nas 0 0\n" +
		"proc\t/proc/ proc hidepid=2 0 0\n# the last\ntmpfs /dev/shm tmpfs size=100m 0 0"
	files["var/run/"], files["var/log/"] = "", ""
	r := grow(t, files)
	rec := copyRecipe(t, "new}}\nroot: {writable: bind}")
	if _, err := r.copied(rec); err != nil {
		t.Fatal(err)
	}
	c := customizer{ctx: t.Context(), rec: rec, root: r, log: slog.New(slog.DiscardHandler)}
	if err := c.apply(); err != nil {
		t.Fatal(err)
	}
	const want = "fileserver:/home /home nfs rw,hard 0 0\n//nas/data /data cifs credentials=/etc/nas 0 0\nproc\t/proc/ proc hidepid=2 0 0\n# the last\ntmpfs /dev/shm tmpfs size=100m 0 0\n" +
		"devpts  /dev/pts  devpts  gid=5,mode=620  0 0\nsysfs   /sys      sysfs   defaults        0 0\n"
	if got := r.read(t, "/etc/fstab"); got != want {
		t.Errorf("fstab holds\n%s\nwant\n%s", got, want)
	}
	if !r.exists("/var/run/utmp") || !r.exists("/var/log/wtmp") {
		t.Error("who logs in is written down nowhere")
	}
}

// Init of the System V kind, with Debian's own way to order its scripts.
func TestSysvinit(t *testing.T) {
	r := grow(t, map[string]string{
		"etc/init.d/ssh": "", "etc/inittab": "id:2:initdefault:\n#T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100", "sbin/getty": "", "usr/sbin/update-rc.d": "", "etc/rc2.d/": "",
	})
	_, ran := apply(t, r, "kernel: {cmdline: [\"console=ttyS0,115200n8\"]}\n")
	if want := []string{"update-rc.d netroot defaults", "update-rc.d netroot-up defaults"}; !slices.Equal(ran, want) {
		t.Errorf("ran %q, want %q", ran, want)
	}
	if text := r.read(t, "/etc/inittab"); !strings.HasSuffix(text, " vt100\nS0:2345:respawn:/sbin/getty -L 115200 ttyS0 vt100\n") {
		t.Errorf("inittab holds\n%s", text)
	}
	if !r.exists("/etc/init.d/netroot") || r.link("/etc/rc6.d/K99netroot") == "" || r.exists("/etc/selinux/config") || r.exists("/etc/sysconfig") {
		t.Error("netroot's script is missing, or what belongs into another family is there")
	}
}

// Folders are listed where they are, and systemd leaves them mounted.
func TestWritable(t *testing.T) {
	r := grow(t, map[string]string{
		"usr/lib/systemd/systemd": "", "etc/": "", "var/tmp/": "", "tmp": "-> /var/tmp", "home": "-> usr/home-2", "usr/home-2/": "", "srv": "-> /run/srv", "run/srv/": "",
	})
	if err := r.writable(load(t, "root: {writable: bind, folders: [/etc, /tmp, /var, /home, /srv, /new/x]}\n")); err != nil {
		t.Fatal(err)
	}
	if _, list, _ := strings.Cut(r.read(t, folderList), "\n"); list != "/etc\n/var\n/usr/home-2\n/new/x\n" {
		t.Errorf("the list holds %q", list)
	}
	for _, unit := range []string{"etc", "var", `usr-home\x2d2`, "new-x"} {
		if text := r.read(t, units+unit+".mount.d/netroot.conf"); !strings.Contains(text, "DefaultDependencies=no") {
			t.Errorf("%s: %q", unit, text)
		}
	}
	if err := r.writable(load(t, "")); err != nil || r.exists(folderList) {
		t.Errorf("an overlay with a list of folders: %v", err)
	}
}

// Every machine runs these scripts, with whatever shell it has.
func TestShellcheck(t *testing.T) {
	need.Tools(t, "shellcheck")
	scripts, err := filepath.Glob("root/usr/lib/netroot/*")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("root/etc/init.d/*")
	if err != nil || len(scripts)+len(more) < 6 {
		t.Fatalf("%d scripts, %v", len(scripts)+len(more), err)
	}
	if out, err := exec.Command("shellcheck", append([]string{"-s", "sh"}, append(scripts, more...)...)...).CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}
