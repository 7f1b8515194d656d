//go:build e2e

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"netroot/builder/need"
)

// BenchmarkBuild times the shipped Debian root, kernel and initramfs against mmdebstrap with the same packages and
// initramfs-tools, on the same machine in the same run. Both fetch from the host's own mirror. The figures to quote are
// the ratios.
func BenchmarkBuild(b *testing.B) {
	need.Root(b)
	mmdebstrap := need.Tool(b, "mmdebstrap")
	dir := b.TempDir()
	program := filepath.Join(dir, "netroot")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	timed := func(name string, args ...string) time.Duration {
		start := time.Now()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			b.Fatalf("%s: %v\n%s", name, err, out)
		}
		return time.Since(start)
	}
	var cold, warm, unchanged, peer time.Duration
	for b.Loop() {
		store := filepath.Join(dir, "store")
		cold += timed(program, "build", "debian-12", "--store", store, "--progress", "none")
		warm += timed(program, "build", "debian-12", "--store", store, "--progress", "none", "--force")
		unchanged += timed(program, "build", "debian-12", "--store", store, "--progress", "none")
		root := filepath.Join(dir, "mmdebstrap")
		peer += timed(mmdebstrap, "--quiet", "--variant=apt", "--include=linux-image-amd64,initramfs-tools,systemd-sysv,udev,dbus,libpam-systemd,"+
			"iproute2,isc-dhcp-client,kmod,ca-certificates,iputils-ping,less,netbase,procps,openssh-server", "bookworm", root)
		for _, made := range []string{store, root} {
			if err := os.RemoveAll(made); err != nil {
				b.Fatal(err)
			}
		}
	}
	n := float64(b.N)
	b.ReportMetric(cold.Seconds()/n, "cold-s")
	b.ReportMetric(warm.Seconds()/n, "warm-s")
	b.ReportMetric(unchanged.Seconds()/n, "unchanged-s")
	b.ReportMetric(peer.Seconds()/n, "mmdebstrap-s")
	b.ReportMetric(cold.Seconds()/peer.Seconds(), "cold/mmdebstrap")
	b.ReportMetric(warm.Seconds()/peer.Seconds(), "warm/mmdebstrap")
}
