//go:build e2e

package boot_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"netroot/boot/vm"
)

const (
	labMirror = "10.77.0.3:3142"
	diskSays  = "the disk of this machine was started"
	// hash is that of "ubuntu".
	hash = "$6$exDY1mhS4KUYCE/2$zmn9ToZwTKLhCw.b4/b.ZRTIZM30JZ4QrOQ2aOXJ8yk96xpcCof0kxKwuX1kqLG/ygbJ1f8wxED22bTL4F46P0"
)

// The shipped recipe, with the components of the installer from the lab's own suite, which nobody has signed.
const installRecipe = `name: e2e-install
include: debian-12-install
kernel:
  cmdline: [DEBIAN_FRONTEND=text, mirror/suite=bookworm, mirror/udeb/suite=lab, debian-installer/allow_unauthenticated=true]
`

// The last component stands in for what partitions the disk and installs the base system, because mirrors that hold packages need not
// hold all components of the installer. What it does at the end is the installer's own: it runs the preseeded command.
const lastComponent = `#!/bin/sh
set -e
. /usr/share/debconf/confmodule
depmod -a
modprobe virtio_blk
wget -q -O /tmp/disk http://` + labMirror + `/lab/disk
dd if=/tmp/disk of=/dev/vda
sync
/usr/lib/finish-install.d/07preseed
echo "lab: the preseeded command has ended" > /dev/console
reboot -f
`

// bootSector is a program of the size of a disk's first sector that shows a line by the BIOS, which puts it on the serial port, too.
func bootSector(says string) []byte {
	code := []byte{
		0xfc,       // cld
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xbe, 0, 0, // mov si, text
		0xac,       // lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x09, // jz end
		0xb4, 0x0e, // mov ah, 14: teletype
		0xbb, 0x07, 0x00, // mov bx, 7
		0xcd, 0x10, // int 16
		0xeb, 0xf2, // jmp to lodsb
		0xf4,       // end: hlt
		0xeb, 0xfd, // jmp end
	}
	text := 0x7c00 + len(code)
	code[6], code[7] = byte(text), byte(text>>8)
	sector := make([]byte, 512)
	copy(sector, code)
	copy(sector[len(code):], says+"\r\n\x00")
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// download gets a file from a mirror, which may fail for a moment; nil means that the mirror does not have it.
func download(t *testing.T, url string) []byte {
	t.Helper()
	for try := 1; ; try++ {
		answer, err := http.Get(url)
		if err == nil {
			data, readErr := io.ReadAll(answer.Body)
			answer.Body.Close()
			switch {
			case answer.StatusCode == http.StatusNotFound:
				return nil
			case answer.StatusCode == http.StatusOK && readErr == nil:
				return data
			}
			err = errors.Join(errors.New(answer.Status), readErr)
		}
		if try == 5 {
			t.Fatalf("download %s: %v", url, err)
		}
	}
}

// components makes the suite lab, as files of the mirror: the installer's modules for this kernel that drive the disk, and the last component.
func components(t *testing.T, mirror, kernel string) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"DEBIAN/control": "Package: lab-last\nVersion: 1\nArchitecture: all\nSection: debian-installer\nPriority: standard\n" +
			"Maintainer: lab <lab@lab.test>\nInstaller-Menu-Item: 5000\nDepends: scsi-modules-" + kernel + "-di\nDescription: the last component\n",
		"DEBIAN/postinst": lastComponent,
	} {
		if err := os.MkdirAll(filepath.Join(dir, "DEBIAN"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "last.udeb")
	// As the installer's own unpacker reads it.
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", dir, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	last, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	control, err := os.ReadFile(filepath.Join(dir, "DEBIAN/control"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%sFilename: lab/last.udeb\nSize: %d\nSHA256: %x\n\n", control, len(last), sha256.Sum256(last))

	files := map[string][]byte{"/lab/last.udeb": last, "/lab/disk": bootSector(diskSays)}
	unpacked, err := xz.NewReader(bytes.NewReader(download(t, mirror+"/dists/bookworm/main/debian-installer/binary-amd64/Packages.xz")))
	if err != nil {
		t.Skipf("this host's mirror has no components of the Debian installer: %v", err)
	}
	all, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{}
	for stanza := range strings.SplitSeq(string(all), "\n\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(stanza), "Package: "), "\n")
		known[name] = stanza
	}
	want := []string{"scsi-modules-" + kernel + "-di"}
	for i := 0; i < len(want); i++ {
		stanza, ok := known[want[i]]
		if !ok {
			t.Skipf("this host's mirror has no %s, which the installer of this host's package needs", want[i])
		}
		fmt.Fprintf(&b, "%s\n\n", strings.TrimSpace(stanza))
		_, name, _ := strings.Cut(stanza, "\nFilename: ")
		name, _, _ = strings.Cut(name, "\n")
		if files["/"+name] = download(t, mirror+"/"+name); files["/"+name] == nil {
			t.Skipf("this host's mirror has no %s", name)
		}
		_, depends, _ := strings.Cut(stanza, "\nDepends: ")
		depends, _, _ = strings.Cut(depends, "\n")
		for d := range strings.SplitSeq(depends, ", ") {
			if strings.HasSuffix(d, "-di") && !strings.HasPrefix(d, "kernel-image") && !strings.Contains(strings.Join(want, " ")+" ", d+" ") {
				want = append(want, d)
			}
		}
	}
	packages := b.Bytes()
	files["/dists/lab/main/debian-installer/binary-amd64/Packages"] = packages
	files["/dists/lab/Release"] = fmt.Appendf(nil, "Suite: lab\nCodename: lab\nArchitectures: amd64\nComponents: main\nSHA256:\n %x %d main/debian-installer/binary-amd64/Packages\n",
		sha256.Sum256(packages), len(packages))
	return files
}

// serveMirror is this host's Debian mirror in the lab, where nothing else of the world is in reach, with files of the lab's own.
func serveMirror(t *testing.T, lab *vm.Lab, own map[string][]byte) {
	t.Helper()
	upstream := mainMirror(t)
	target, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Path = strings.TrimPrefix(r.In.URL.Path, "/debian")
		r.SetURL(target)
	}}
	var l net.Listener
	if err := lab.Do(vm.NSServer, func() (err error) {
		l, err = net.Listen("tcp4", labMirror)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Logf("the mirror is asked for %s", r.URL.Path)
		if data, ok := own[strings.TrimPrefix(r.URL.Path, "/debian")]; ok {
			http.ServeContent(w, r, path.Base(r.URL.Path), time.Time{}, bytes.NewReader(data))
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
}

// The Debian installer boots by PXE, takes its answers from the seed, loads its components and reports by the command that netroot
// added; the machine is sent to its own disk from then on, though it asks the network first.
func TestE2EDebianInstaller(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	recipe := filepath.Join(t.TempDir(), "install.yaml")
	if err := os.WriteFile(recipe, []byte(installRecipe), 0o644); err != nil {
		t.Fatal(err)
	}
	gen := b.build(t, recipe, "e2e-install")
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	lab := openLab(t, vm.Config{})
	serveMirror(t, lab, components(t, strings.TrimRight(mainMirror(t), "/"), gen.Manifest.KernelRelease))
	serve := func(loader string) (*vm.Server, error) {
		return lab.Serve(ctx, vm.ServerConfig{Program: b.program, Store: b.store, Policy: fmt.Sprintf(`default: ignore
ipxe: %s
hosts:
  - {name: installed, mac: "%s", image: e2e-install, boot: once, vars: {password: "%s", mirror: "%s", disk: /dev/vda}}
`, loader, vm.DefaultMAC, hash, labMirror)})
	}
	server, err := serve("script")
	if err != nil {
		t.Fatal(err)
	}
	machine, err := lab.Boot(vm.MachineConfig{Disk: emptyDisk(t, 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	wait := func(patience time.Duration, what string, match func(vm.Event) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, patience)
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
		t.Logf("%s: %.1f s after power-on", what, time.Since(machine.PowerOn).Seconds())
	}
	wait(8*time.Minute, "the preseed file is read", func(e vm.Event) bool {
		return e.Message == "read" && e.File == "seed/"+gen.Ref()+"/installed/preseed.cfg" && e.MAC == vm.DefaultMAC.String()
	})
	wait(10*time.Minute, "the machine reports that it is installed", func(e vm.Event) bool { return e.Message == "installed" })
	started := func(what string, from int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
		defer cancel()
		if _, err := machine.WaitConsole(ctx, from, diskSays); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s: %.1f s after power-on", what, time.Since(machine.PowerOn).Seconds())
	}
	started("by iPXE's script it boots its own disk", 0)
	// Whoever serves next knows that it is installed, also when this one is killed.
	server.Kill()
	next, err := serve("pxelinux")
	if err != nil {
		t.Fatal(err)
	}
	from := len(machine.Console())
	if err := machine.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	started("after kill -9 and a reset it boots its own disk by pxelinux", from)
	kernels := 0
	for _, e := range append(server.Events(), next.Events()...) {
		if e.Message == "read" && strings.HasSuffix(e.File, "/vmlinuz") {
			kernels++
		}
	}
	if kernels != 1 {
		t.Errorf("%d kernels were loaded, want one: the installer runs once", kernels)
	}
	if !slices.ContainsFunc(next.Events(), func(e vm.Event) bool { return e.Message == "read" && e.File == "pxelinux.0" }) {
		t.Error("the last boot was not by pxelinux")
	}
	stdout, stderr, exit := b.netroot(t, time.Minute, "nodes", "installed")
	if exit != 0 || !strings.Contains(stdout, "e2e") && !strings.Contains(stdout, "menu") {
		t.Errorf("netroot nodes: %d\n%s%s", exit, stdout, stderr)
	}
	t.Log(stdout)
}
