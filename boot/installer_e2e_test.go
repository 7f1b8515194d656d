//go:build e2e

package boot_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"netroot/boot/vm"
)

// The least that the Debian installer can install that boots by itself: its kernel for virtual machines, no recommended packages, no
// further suites.
const installRecipe = `name: e2e-install
include: debian-12-install
kernel: {cmdline: [DEBIAN_FRONTEND=text, "console=ttyS0,115200"]}
vars: {disk: /dev/vda, kernel: linux-image-cloud-amd64, packages: busybox, recommends: false, services: ""}
`

// mirror is this host's own Debian mirror, in the lab, where nothing else of the world is in reach. It counts the bytes it passes on.
func mirror(t *testing.T, lab *vm.Lab, address string) (bytes *atomic.Int64) {
	t.Helper()
	upstream, err := url.Parse(mainMirror(t))
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	if err := lab.Do(vm.NSServer, func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	bytes = &atomic.Int64{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Path = strings.TrimPrefix(r.In.URL.Path, "/debian")
			r.SetURL(upstream)
		},
		ModifyResponse: func(r *http.Response) error {
			bytes.Add(max(r.ContentLength, 0))
			return nil
		},
	}
	srv := &http.Server{Handler: proxy}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return bytes
}

// The Debian installer boots by PXE, installs a machine without a question, reports that, and the machine boots its own disk from then on,
// though it asks the network first.
func TestE2EDebianInstaller(t *testing.T) {
	b := needBench(t)
	recipe := filepath.Join(t.TempDir(), "install.yaml")
	if err := os.WriteFile(recipe, []byte(installRecipe), 0o644); err != nil {
		t.Fatal(err)
	}
	gen := b.build(t, recipe, "e2e-install")
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	lab, err := vm.Open(ctx, vm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}()
	const mirrorAddress = "10.77.0.3:3142"
	passed := mirror(t, lab, mirrorAddress)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 4<<30); err != nil {
		t.Fatal(err)
	}
	// "secret", by mkpasswd -m sha-512.
	const hash = "$6$exDY1mhS4KUYCE/2$zmn9ToZwTKLhCw.b4/b.ZRTIZM30JZ4QrOQ2aOXJ8yk96xpcCof0kxKwuX1kqLG/ygbJ1f8wxED22bTL4F46P0"
	server, err := lab.Serve(ctx, vm.ServerConfig{Program: b.program, Store: b.store, Policy: fmt.Sprintf(`default: ignore
hosts:
  - {name: installed, mac: "%s", image: e2e-install, boot: once, vars: {password: "%s", mirror: "%s"}}
`, vm.DefaultMAC, hash, mirrorAddress)})
	if err != nil {
		t.Fatal(err)
	}
	console := os.Stderr
	if path := os.Getenv("NETROOT_E2E_CONSOLE"); path != "" {
		if console, err = os.Create(path); err != nil {
			t.Fatal(err)
		}
		defer console.Close()
	}
	config := vm.MachineConfig{Spec: vm.Spec{NIC: "virtio-net-pci"}, Disk: disk}
	if console != os.Stderr {
		config.Console = console
	}
	machine, err := lab.Boot(config)
	if err != nil {
		t.Fatal(err)
	}
	wait := func(patience time.Duration, what string, match func(vm.Event) bool) vm.Event {
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
		e, err := server.WaitEvent(ctx, 0, match)
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, strings.Join(machine.ConsoleTail(60), "\n"))
		}
		t.Logf("%s: %.1f s after power-on", what, time.Since(machine.PowerOn).Seconds())
		return e
	}
	wait(5*time.Minute, "the preseed file is read", func(e vm.Event) bool {
		return e.Message == "read" && e.File == "seed/"+gen.Ref()+"/installed/preseed.cfg" && e.MAC == vm.DefaultMAC.String()
	})
	wait(30*time.Minute, "the machine reports that it is installed", func(e vm.Event) bool { return e.Message == "installed" })
	t.Logf("the mirror passed on %.1f MB", float64(passed.Load())/1e6)

	// It reboots by itself, asks the network first, and is sent to its disk.
	reported := len(machine.Console())
	ctxBoot, cancelBoot := context.WithTimeout(ctx, 8*time.Minute)
	defer cancelBoot()
	if _, err := machine.WaitConsole(ctxBoot, reported, "Debian GNU/Linux 12 installed ttyS0"); err != nil {
		t.Fatalf("it does not boot its disk: %v", err)
	}
	t.Logf("the login prompt of the installed system: %.1f s after power-on", time.Since(machine.PowerOn).Seconds())
	offers, kernels := 0, 0
	for _, e := range server.Events() {
		switch {
		case e.Message == "offer":
			offers++
		case e.Message == "read" && strings.HasSuffix(e.File, "/vmlinuz"):
			kernels++
		}
	}
	if offers < 2 || kernels != 1 {
		t.Errorf("%d offers and %d kernels, want at least two and one: the installer must run once", offers, kernels)
	}
	if _, stderr, exit := b.netroot(t, time.Minute, "nodes", "installed"); exit != 0 {
		t.Errorf("netroot nodes: %d %s", exit, stderr)
	}
	t.Run("kill -9, then another boot", func(t *testing.T) {
		server.Kill()
		if err := server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		from := len(machine.Console())
		if err := machine.Reset(ctx); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
		defer cancel()
		if _, err := machine.WaitConsole(ctx, from, "Debian GNU/Linux 12 installed ttyS0"); err != nil {
			t.Fatalf("it does not boot its disk again: %v", err)
		}
	})
}
