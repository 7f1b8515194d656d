//go:build e2e

package boot_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/iso"
	"netroot/builder/need"
	"netroot/builder/store"
)

// livePackages make a live system of Debian's: live-boot in the initramfs finds the medium and puts an overlay over it.
const livePackages = "linux-image-amd64,systemd-sysv,udev,live-boot,live-boot-initramfs-tools,procps"

// shellUnit puts a root shell on the second serial line, which the tests talk to.
const shellUnit = `[Unit]
Description=Shell for the tests
[Service]
ExecStart=/bin/sh
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
[Install]
WantedBy=multi-user.target
`

// modulesHook puts what a machine in the lab needs into the initrd.
const modulesHook = `#!/bin/sh
[ "$1" = prereqs ] && exit
. /usr/share/initramfs-tools/hook-functions
manual_add_modules e1000 nfs nfsv3 squashfs overlay loop
`

// unreadSize is in the live system and is read by nobody.
const unreadSize = 128 << 20

// liveISOs makes two ISOs of one live system: laid out as Debian's live images are, and as Ubuntu's.
//
//	NETROOT_E2E_LIVE=…   a folder with both, to use again
func liveISOs(t *testing.T) (debian, ubuntu string) {
	t.Helper()
	dir := cmp.Or(os.Getenv("NETROOT_E2E_LIVE"), t.TempDir())
	debian, ubuntu = filepath.Join(dir, "live.iso"), filepath.Join(dir, "casper.iso")
	if exists(debian) && exists(ubuntu) {
		return debian, ubuntu
	}
	need.Tools(t, "mmdebstrap", "unshare", "mksquashfs", "xorriso")
	root, medium := filepath.Join(dir, "root"), filepath.Join(dir, "medium")
	run := func(name string, args ...string) {
		t.Helper()
		began := time.Now()
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out[max(0, len(out)-3000):])
		}
		t.Logf("%s: %.1f s", name, time.Since(began).Seconds())
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hook := filepath.Join(dir, "hook")
	if err := os.WriteFile(hook, []byte(modulesHook), 0o755); err != nil {
		t.Fatal(err)
	}
	// What mmdebstrap mounts goes with it when it is killed, before the folder is removed through it to the host's own /sys and /dev/shm.
	// mkinitramfs takes a minute, so it runs once, when all is set up, and not for the kernel and for a trigger; and several with the
	// hundreds of drivers that live-boot wants for any card there is.
	run("env", "INITRD=No", "unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", "--include="+livePackages,
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--dpkgopt=force-unsafe-io",
		`--aptopt=APT::Sandbox::User "root"`, // the test's folder is closed to the user _apt
		`--customize-hook=echo MODULES=list > "$1/etc/initramfs-tools/conf.d/e2e"; cp -p `+hook+` "$1/etc/initramfs-tools/hooks/e2e"`,
		`--customize-hook=sed -i '/^auto_add_modules/d' "$1/usr/share/initramfs-tools/hooks/live"; chroot "$1" update-initramfs -c -k all`,
		"bookworm", root)
	write("etc/hostname", "live\n")
	write("etc/systemd/system/shell.service", shellUnit)
	wants := filepath.Join(root, "etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../shell.service", filepath.Join(wants, "shell.service")); err != nil {
		t.Fatal(err)
	}
	// What cannot be compressed shows what is moved.
	run("dd", "if=/dev/urandom", "of="+filepath.Join(root, "unread"), "bs=1M", fmt.Sprintf("count=%d", unreadSize>>20))
	if err := os.MkdirAll(filepath.Join(medium, "live"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vmlinuz", "initrd.img"} {
		found, err := filepath.Glob(filepath.Join(root, "boot", name+"-*"))
		if err != nil || len(found) != 1 {
			t.Fatalf("the root has the kernels %v, %v", found, err)
		}
		if err := os.Rename(found[0], filepath.Join(medium, "live", filepath.Base(found[0]))); err != nil {
			t.Fatal(err)
		}
	}
	run("mksquashfs", root, filepath.Join(medium, "live/filesystem.squashfs"), "-comp", "zstd", "-Xcompression-level", "3", "-noappend", "-quiet", "-no-progress",
		"-e", "boot", "var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man")
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	run("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-V", "NETROOT LIVE", "-o", debian, medium)

	casper := filepath.Join(medium, "casper")
	if err := os.Rename(filepath.Join(medium, "live"), casper); err != nil {
		t.Fatal(err)
	}
	for pattern, name := range map[string]string{"vmlinuz-*": "vmlinuz", "initrd.img-*": "initrd"} {
		found, err := filepath.Glob(filepath.Join(casper, pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("the medium has %v, %v", found, err)
		}
		if err := os.Rename(found[0], filepath.Join(casper, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{".disk", "pool", "dists"} {
		if err := os.Mkdir(filepath.Join(medium, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(medium, ".disk/info"), []byte("Ubuntu-Server 20.04.3 LTS \"Focal Fossa\" - Release amd64 (20210824)"), 0o644); err != nil {
		t.Fatal(err)
	}
	run("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-V", "NETROOT CASPER", "-o", ubuntu, medium)
	return debian, ubuntu
}

// A liveBoot is one boot of a live system, and what it took.
type liveBoot struct {
	iso, deliver, family string
	recipe               string // what else it says
	moved                int64  // bytes of its file system that went over the network
	squashfs             int64  // bytes of that
	available            int64  // bytes of memory at the login prompt
	words                string
}

// TestE2ELive boots a live system both ways, and says what each took. By NFS it is laid out as Ubuntu's is; its initrd is live-boot's, as
// there is no casper here, so the recipe's last words make live-boot look where casper would.
func TestE2ELive(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	debian, ubuntu := liveISOs(t)
	published := t.TempDir()
	b = &bench{program: b.program, store: published}
	byNFS := &liveBoot{iso: ubuntu, deliver: store.ByNFS, family: store.Casper, recipe: "kernel: {cmdline: [boot=live, live-media-path=casper]}\n"}
	byHTTP := &liveBoot{iso: debian, deliver: store.ByHTTP, family: store.Live}
	for _, l := range []*liveBoot{byNFS, byHTTP} {
		t.Run(l.deliver, func(t *testing.T) { l.boot(t, b) })
	}
	for _, l := range []*liveBoot{byNFS, byHTTP} {
		t.Logf("by %s: %s", l.deliver, l.words)
	}
	if byNFS.available == 0 || byHTTP.available == 0 {
		return // one of them has not booted
	}
	if byNFS.moved > byHTTP.moved-unreadSize {
		t.Errorf("NFS moved %d bytes and HTTP %d: it has read what nobody asked for", byNFS.moved, byHTTP.moved)
	}
	if saved := byNFS.available - byHTTP.available; saved < byHTTP.squashfs*5/6 || saved > byHTTP.squashfs*5/4 {
		t.Errorf("by NFS %d MB more memory are available than by HTTP, want about the %d MB of the file system", saved>>20, byHTTP.squashfs>>20)
	}
}

// boot boots the system.
func (l *liveBoot) boot(t *testing.T, b *bench) {
	recipe := filepath.Join(t.TempDir(), "live.yaml")
	text := fmt.Sprintf("name: e2e-live\narch: amd64\nfrom: {iso: {path: %s}}\ndeliver: %s\n%s", l.iso, l.deliver, l.recipe)
	if err := os.WriteFile(recipe, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	gen := b.build(t, recipe, "e2e-live")
	t.Logf("built in %.1f s", time.Since(began).Seconds())
	if m := gen.Manifest.Medium; m == nil || m.Family != l.family || m.Deliver != l.deliver || !strings.HasPrefix(gen.Manifest.KernelRelease, "6.") {
		t.Fatalf("it is %+v with the kernel %q", m, gen.Manifest.KernelRelease)
	}
	img, err := iso.Open(gen.Path(store.PartISO))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	squashfs, err := fs.Stat(img.FS(), l.family+"/filesystem.squashfs")
	if err != nil {
		t.Fatal(err)
	}
	l.squashfs = squashfs.Size()

	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	lab := openLab(t, vm.Config{})
	s := &site{lab: lab}
	s.serve(t, b, vm.Policy(vm.DefaultMAC.String(), "diskless", "e2e-live"))
	s.boot(t, vm.MachineConfig{Spec: vm.Spec{Memory: 1536}})
	defer s.machine.Stop()
	if err := s.machine.WaitPrompt(ctx, "login:"); err != nil {
		t.Fatalf("no login: %v\n%s", err, strings.Join(s.machine.ConsoleTail(60), "\n"))
	}
	up := time.Since(s.machine.PowerOn)
	s.expect(t, "grep -c ' / overlay ' /proc/mounts", "1")
	s.expect(t, "ls /sys/block | grep -v -e ^loop -e ^ram -e ^fd | wc -l", "0")
	// What the medium takes of the memory: a file system in memory that holds what was downloaded.
	held := s.run(t, time.Minute, "df -k --output=fstype,used /run/live/medium | tail -n 1; grep -E 'MemTotal|MemAvailable' /proc/meminfo")
	t.Logf("the medium and the memory:\n%s", held)
	wantType := map[string]string{store.ByNFS: "nfs", store.ByHTTP: "ramfs"}[l.deliver]
	s.expect(t, "grep ' /run/live/medium ' /proc/mounts | cut -d' ' -f3", wantType)

	for _, e := range s.server.Events() {
		if e.Service == "http" && e.Message == "read" && strings.Contains(e.File, "/iso/") {
			l.moved += e.Bytes
		}
	}
	l.moved += metric(t, lab, "netroot_nfs_read_bytes_total")
	for line := range strings.Lines(held) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			l.available = kb << 10
		}
	}
	l.words = fmt.Sprintf("login after %.0f s, %d MB of the ISO's %d MB moved, %d MB of 1536 MB available",
		up.Seconds(), l.moved/1e6, gen.Manifest.Parts[store.PartISO].Size/1e6, l.available>>20)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// metric reads one figure of the server's.
func metric(t *testing.T, lab *vm.Lab, name string) int64 {
	t.Helper()
	var out bytes.Buffer
	curl := exec.Command("curl", "-sSf", "http://127.0.0.1/metrics")
	curl.Stdout, curl.Stderr = &out, &out
	p, err := lab.Start(vm.NSServer, curl)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	for line := range strings.Lines(out.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int64(n)
		}
	}
	t.Fatalf("there is no %s in\n%s", name, out.String())
	return 0
}

// BenchmarkISO compares a file of 1 GiB, and a walk of 17,300 entries, out of an ISO with the same out of an EROFS image, by NFS
// from one server.
func BenchmarkISO(b *testing.B) {
	need.Tools(b, "nfs-cat", "nfs-ls", "xorriso")
	c, netroot := newContest(b)
	s, err := store.Open(c.store)
	check(b, err)
	d, err := s.Begin("iso")
	check(b, err)
	defer d.Abort()
	out, err := exec.Command("xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", filepath.Join(d.Dir(), store.PartISO), c.folder).CombinedOutput()
	if err != nil {
		b.Fatalf("xorriso: %v\n%s", err, out)
	}
	check(b, os.WriteFile(filepath.Join(d.Dir(), store.PartKernel), []byte("kernel"), 0o644))
	_, err = d.Publish(store.Manifest{Medium: &store.Medium{Family: store.Other, File: "bench.iso"}})
	check(b, err)
	for b.Loop() {
		for _, work := range []struct {
			label, path string
			rounds      int
			program     []string
		}{
			{"iso-read", "/data/big", 5, []string{"nfs-cat"}},
			{"iso-walk", "", 3, []string{"nfs-ls", "-R"}},
		} {
			at := func(export string) side {
				return side{netroot, func() time.Duration {
					return c.clients(b, 1, work.program[0], append(work.program[1:], nfsURL(export, netrootNFS, netrootNFS, work.path))...)
				}}
			}
			compare(b, work.label, work.rounds, at("/iso"), at(c.image))
		}
	}
}

// TestE2EISOClients has other people's clients take files out of an ISO: libnfs, which asks the portmapper as the mount program in a
// live system's initrd does, and curl.
func TestE2EISOClients(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	need.Tools(t, "xorriso", "nfs-cat", "nfs-ls", "curl")
	dir := t.TempDir()
	src, iso := filepath.Join(dir, "src"), filepath.Join(dir, "u.iso")
	squashfs := make([]byte, 20<<20+123)
	rand.NewChaCha8([32]byte{7}).Read(squashfs)
	for name, data := range map[string][]byte{"casper/vmlinuz": []byte("kernel"), "casper/initrd": []byte("initrd"), "casper/filesystem.squashfs": squashfs, ".disk/info": []byte("info")} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-o", iso, src).CombinedOutput(); err != nil {
		t.Fatalf("xorriso: %v\n%s", err, out)
	}
	recipe := filepath.Join(dir, "u.yaml")
	if err := os.WriteFile(recipe, []byte("name: u\narch: amd64\nfrom: {iso: {path: u.iso}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b = &bench{program: b.program, store: filepath.Join(dir, "store")}
	b.build(t, recipe, "u")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	lab := openLab(t, vm.Config{})
	server, err := lab.Serve(ctx, vm.ServerConfig{Program: b.program, Store: b.store, Policy: "default: menu\n"})
	if err != nil {
		t.Fatal(err)
	}
	client := func(name string, args ...string) []byte {
		t.Helper()
		var out, said bytes.Buffer
		cmd := exec.Command(name, args...)
		cmd.Stdout, cmd.Stderr = &out, &said
		p, err := lab.Start(vm.NSServer, cmd)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
		case <-ctx.Done():
			t.Fatalf("%s did not end", name)
		}
		if _, err := p.Exited(); err != nil {
			t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, said.String())
		}
		return out.Bytes()
	}
	at := "nfs://" + lab.ServerAddr(0).String() + "/u@1/"
	if got := client("nfs-cat", at+"casper/filesystem.squashfs?version=3"); !bytes.Equal(got, squashfs) {
		t.Errorf("NFS gave %d bytes, which are not the file's %d", len(got), len(squashfs))
	}
	if got := string(client("nfs-ls", "-R", at+"?version=3")); !strings.Contains(got, "vmlinuz") || !strings.Contains(got, "info") {
		t.Errorf("nfs-ls lists\n%s", got)
	}
	// klibc's program, which the initrd of casper and of live-boot has, asks the portmapper and the server itself; whether this host's
	// kernel then knows NFS is not the point.
	if program := "/usr/lib/klibc/bin/nfsmount"; exists(program) {
		from := len(server.Events())
		client("unshare", "-m", "sh", "-c", fmt.Sprintf("%s -o nolock -o ro %s:/u@1 %s; exit 0", program, lab.ServerAddr(0), dir))
		soon, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		if _, err := server.WaitEvent(soon, from, func(e vm.Event) bool { return e.Message == "mount" && e.Image == "u@1" }); err != nil {
			t.Errorf("klibc's nfsmount did not get what it asked for: %v", err)
		}
	}
	url := "http://" + lab.ServerAddr(0).String() + "/images/u/1/"
	if got := client("curl", "-sSf", url+"iso/casper/filesystem.squashfs"); !bytes.Equal(got, squashfs) {
		t.Errorf("HTTP gave %d bytes, which are not the file's %d", len(got), len(squashfs))
	}
	if got := client("curl", "-sSf", "-r", "1048576-3145727", url+"iso/casper/filesystem.squashfs"); !bytes.Equal(got, squashfs[1<<20:3<<20]) {
		t.Errorf("a range of HTTP gave %d other bytes", len(got))
	}
	whole, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	if got := client("curl", "-sSf", url+"image.iso"); !bytes.Equal(got, whole) {
		t.Errorf("HTTP gave %d bytes of the ISO's %d", len(got), len(whole))
	}
	if err := server.Stop(); err != nil {
		t.Error(err)
	}
}
