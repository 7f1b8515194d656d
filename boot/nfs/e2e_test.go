//go:build e2e

package nfs

import (
	"bufio"
	"crypto/md5"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/builder/need"
)

// TestE2ELinux has the kernel's own client mount, compare and go on over a restart of the server. The machine is QEMU with a Debian kernel
// and busybox; 10.0.2.2 is this host, as QEMU's user networking has it.
func TestE2ELinux(t *testing.T) {
	need.Root(t)
	need.Tools(t, "qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb", "cpio", "mkfs.erofs")
	r := start(t, map[string]string{"/debian-12@3": planted.image(t)})
	dir := planted.dir
	kernel, modules := debianKernel(t, "virtio_net", "virtio_pci", "nfsv3")
	initrd := initramfs(t, modules, strings.ReplaceAll(clientScript, "PORT", r.port))

	cmd := exec.Command("qemu-system-x86_64", "-m", "512", "-nographic", "-monitor", "none", "-serial", "stdio", "-no-reboot",
		"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=", "-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1")
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	watchdog := time.AfterFunc(5*time.Minute, func() { cmd.Process.Kill() })
	defer watchdog.Stop()

	files, sums, notes := map[string]string{}, map[string]string{}, map[string]string{}
	var console strings.Builder
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		kind, rest, _ := strings.Cut(line, "|")
		name, value, _ := strings.Cut(rest, "|")
		switch kind {
		case "FILE":
			files[name] = value
		case "SUM":
			sums[name] = value
		case "NOTE":
			notes[name] = value
		case "RESTART":
			r.stop()
			first := r
			r = startExports(t, first.exports, first.addr)
			io.WriteString(stdin, "\n")
		default:
			fmt.Fprintln(&console, line)
		}
	}
	cmd.Wait()
	if notes["done"] != "yes" {
		t.Fatalf("the machine did not get to the end; notes %v, console:\n%s", notes, console.String())
	}

	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		must(t, err)
		st := info.Sys().(*syscall.Stat_t)
		major, minor := splitDevice(st.Rdev)
		size, nlink := fmt.Sprint(st.Size), fmt.Sprint(st.Nlink)
		got := strings.Split(files[name], "|")
		if d.IsDir() && len(got) == 8 { // other file systems count these in other ways
			size, nlink = got[4], got[1]
		}
		want := fmt.Sprintf("%x|%s|%d|%d|%s|%x|%x|%d", st.Mode, nlink, st.Uid, st.Gid, size, major, minor, st.Mtim.Sec)
		if files[name] != want {
			t.Errorf("%s: the machine sees %q, want %q", name, files[name], want)
		}
		delete(files, name)
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			must(t, err)
			if want := fmt.Sprintf("%x", md5.Sum(b)); sums[name] != want {
				t.Errorf("%s: the machine reads something else (%q)", name, sums[name])
			}
		}
		return nil
	})
	must(t, err)
	for name := range files {
		t.Errorf("%s is seen by the machine and not there", name)
	}
	for name, want := range map[string]string{
		"link": "usr/bin", "write": "Read-only file system", "user": "Permission denied", "restart": "same", "cold": fmt.Sprintf("%x", md5.Sum(pattern(5000))),
	} {
		if !strings.Contains(notes[name], want) {
			t.Errorf("%s: %q, want %q", name, notes[name], want)
		}
	}
	stages := r.seen(Stage)
	if len(stages) != 1 || stages[0].Stage != "up" || stages[0].Image != "debian-12@3" {
		t.Errorf("events %+v", stages)
	}
	t.Logf("kernel %s; mounted after %s s, tree read in %s s; stats %+v", notes["kernel"], notes["mounted"], notes["read"], r.Stats())
}

// clientScript is the machine's /init.
const clientScript = `#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
stty -echo < /dev/console
for m in $(cat /modules/order); do insmod /modules/$m || echo "insmod $m failed"; done
now() { cut -d' ' -f1 /proc/uptime; }
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
sleep 1; echo; echo "NOTE|kernel|$(uname -r)"
mount -t nfs -o ro,vers=3,nolock,proto=tcp,port=PORT,mountport=PORT,addr=10.0.2.2 10.0.2.2:/debian-12@3 /mnt || { echo "mount failed"; dmesg | tail -20; poweroff -f; }
echo "NOTE|mounted|$(now)"
cd /mnt
exec 3< size-3145730
head -c 100 <&3 > /dev/null
start=$(now)
find . ! -path ./usr/bin/su-again | cut -c3- | sed 's/^$/./' | while read -r f; do
	stat -c 'FILE|%n|%f|%h|%u|%g|%s|%t|%T|%Y' "$f"
	case $f in usr/bin/su) continue ;; esac
	if [ -f "$f" ] && [ ! -L "$f" ]; then s=$(md5sum "$f"); echo "SUM|$f|${s%% *}"; fi
done
echo "NOTE|read|$(echo "$(now) $start" | awk '{print $1-$2}')"
echo "NOTE|link|$(readlink bin)"
echo "NOTE|write|$(touch size-1 2>&1)"
echo "NOTE|user|$(start-stop-daemon -S -c 1000 -x /bin/cat -- /mnt/secret/key 2>&1)"
echo "RESTART"
read -r _
echo 3 > /proc/sys/vm/drop_caches
if [ "$(cat <&3 | md5sum)" = "$(tail -c +101 size-3145730 | md5sum)" ]; then echo "NOTE|restart|same"; fi
s=$(md5sum usr/bin/su); s=${s%% *}
echo "NOTE|cold|$s"
echo "SUM|usr/bin/su|$s"; echo "SUM|usr/bin/su-again|$s"
stat -c 'FILE|%n|%f|%h|%u|%g|%s|%t|%T|%Y' usr/bin/su-again
[ -e ".netroot.stage=up,up=$(now)" ]
cd /; exec 3<&-
umount /mnt
echo "NOTE|done|yes"
poweroff -f
`

// debianKernel downloads the kernel that this host's Debian would install on a virtual machine and returns it with the files of the
// modules and of what they depend on, in the order they load in.
func debianKernel(t *testing.T, want ...string) (kernel string, modules []string) {
	t.Helper()
	dir := t.TempDir()
	var pkg string
	for line := range strings.Lines(run(t, "apt-cache", "depends", "linux-image-cloud-amd64")) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "Depends:" {
			pkg = f[1]
			break
		}
	}
	get := exec.Command("apt-get", "-q", "download", pkg)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		t.Fatalf("download %s: %v\n%s", pkg, err, out)
	}
	debs, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	run(t, "dpkg-deb", "-x", debs[0], dir)
	kernels, _ := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	root := filepath.Join(dir, "lib/modules", release)
	run(t, "depmod", "-b", dir, release)
	deps := map[string][]string{}
	byName := map[string]string{}
	text, err := os.ReadFile(filepath.Join(root, "modules.dep"))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		file, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		deps[file] = strings.Fields(rest)
		name := strings.ReplaceAll(filepath.Base(file), "-", "_")
		name, _, _ = strings.Cut(name, ".ko")
		byName[name] = file
	}
	var add func(file string)
	add = func(file string) {
		for _, d := range deps[file] {
			add(d)
		}
		if full := filepath.Join(root, file); !slices.Contains(modules, full) {
			modules = append(modules, full)
		}
	}
	for _, name := range want {
		if file, ok := byName[name]; ok { // or built in
			add(file)
		}
	}
	return kernels[0], modules
}

func initramfs(t *testing.T, modules []string, script string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"bin", "dev", "proc", "sys", "mnt", "modules", "etc"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	run(t, "cp", busybox, filepath.Join(dir, "bin/busybox"))
	var order []string
	for _, m := range modules {
		run(t, "cp", m, filepath.Join(dir, "modules"))
		order = append(order, filepath.Base(m))
	}
	must(t, os.WriteFile(filepath.Join(dir, "modules/order"), []byte(strings.Join(order, "\n")), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "init"), []byte(script), 0o755))
	out := filepath.Join(t.TempDir(), "initrd")
	cmd := exec.Command("sh", "-c", "find . | cpio -o -H newc --quiet > "+out)
	cmd.Dir = dir
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, b)
	}
	return out
}
