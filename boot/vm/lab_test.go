package vm

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/builder/need"
)

// needLab looks where the lab does, which is not only in PATH.
func needLab(t *testing.T, programs ...string) {
	t.Helper()
	need.Root(t)
	need.That(t, require(append([]string{"dnsmasq"}, programs...)...))
}

func openLab(t *testing.T, cfg Config) *Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lab, err := Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// TestStockBoot boots through servers of another make only, up to the kernel's command line prompt of pxelinux:
// it proves the lab and the machine, not netroot.
func TestStockBoot(t *testing.T) {
	need.Patience(t)
	needLab(t, "qemu-system-x86_64")
	const pxelinux, ldlinux = "/usr/lib/PXELINUX/pxelinux.0", "/usr/lib/syslinux/modules/bios/ldlinux.c32"
	for _, f := range []string{pxelinux, ldlinux} {
		if _, err := os.Stat(f); err != nil {
			need.Missing(t, "needs the packages pxelinux and syslinux-common: %v", err)
		}
	}
	lab := openLab(t, Config{})
	tree := lab.Dir()
	for from, to := range map[string]string{pxelinux: "pxelinux.0", ldlinux: "ldlinux.c32"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, to), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	menu := "SERIAL 0 115200\nSAY the menu of the stock server\nPROMPT 1\nDEFAULT none\n"
	if err := os.MkdirAll(filepath.Join(tree, "pxelinux.cfg"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "pxelinux.cfg/default"), []byte(menu), 0o644); err != nil {
		t.Fatal(err)
	}
	path, err := lookPath("dnsmasq")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.Command(path, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--group=root",
		"--pid-file=", "--log-facility=-", "--log-dhcp", "--interface=eth0", "--bind-interfaces",
		"--dhcp-range=10.77.0.0,proxy", "--pxe-service=x86PC,netroot,pxelinux", "--enable-tftp", "--tftp-root="+tree)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := lab.Start(NSServer, cmd)
	if err != nil {
		t.Fatal(err)
	}
	m, err := lab.Boot(MachineConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	line, err := m.WaitConsole(ctx, 0, "the menu of the stock server")
	if err == nil {
		err = m.WaitPrompt(ctx, "boot:")
	}
	if err == nil {
		err = m.Type("typed-here\r")
	}
	if err == nil {
		_, err = m.WaitConsole(ctx, 0, "No such file or directory")
	}
	p.Kill()
	if err != nil {
		t.Fatalf("%v\nthe stock server said:\n%s", err, &out)
	}
	t.Logf("menu %.1f s after power-on", line.Time.Sub(m.PowerOn).Seconds())
	if err := m.Stop(); err != nil {
		t.Error(err)
	}
	if err := m.Wait(ctx); err != nil {
		t.Error(err)
	}
}

func TestTwoNetworksTwoLabs(t *testing.T) {
	needLab(t)
	cfg := Config{Networks: []netip.Prefix{DefaultNetwork, netip.MustParsePrefix("10.78.0.0/24")}}
	a, b := openLab(t, cfg), openLab(t, cfg)
	for _, lab := range []*Lab{a, b} {
		for network, want := range []string{"10.77.0.3", "10.78.0.3"} {
			if got := lab.ServerAddr(network).String(); got != want {
				t.Errorf("server on network %d: %s, want %s", network, got, want)
			}
		}
	}
}
