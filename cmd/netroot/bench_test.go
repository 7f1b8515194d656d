//go:build e2e

package main

import (
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	var cold, warm, configured, unchanged, peer time.Duration
	for b.Loop() {
		store := filepath.Join(dir, "store")
		cold += timed(program, "build", "debian-12", "--store", store, "--progress", "none")
		configured += timed(program, "build", "debian-12", "--store", store, "--progress", "none", "--force")
		if err := os.RemoveAll(filepath.Join(store, "cache", "installed")); err != nil {
			b.Fatal(err)
		}
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
	b.ReportMetric(configured.Seconds()/n, "configured-s")
	b.ReportMetric(unchanged.Seconds()/n, "unchanged-s")
	b.ReportMetric(peer.Seconds()/n, "mmdebstrap-s")
	b.ReportMetric(cold.Seconds()/peer.Seconds(), "cold/mmdebstrap")
	b.ReportMetric(warm.Seconds()/peer.Seconds(), "warm/mmdebstrap")
}

// BenchmarkISOBuild times a build from an ISO of Ubuntu's layout and size, 1.3 GB, that nothing of is cached yet, against sha256sum of the
// same file, in turn, both with the file in the page cache. The figure to quote is what a build takes beyond hashing; it cannot be less
// than the disk needs beyond hashing, which dd tells.
func BenchmarkISOBuild(b *testing.B) {
	sha256sum, dd, xorriso := need.Tool(b, "sha256sum"), need.Tool(b, "dd"), need.Tool(b, "xorriso")
	dir := b.TempDir()
	program, image, recipe := filepath.Join(dir, "netroot"), filepath.Join(dir, "u.iso"), filepath.Join(dir, "u.yaml")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	random := rand.NewChaCha8([32]byte{})
	for name, size := range map[string]int64{"vmlinuz": 12e6, "initrd": 85e6, "filesystem.squashfs": 400e6, "installer.squashfs": 803e6} {
		if err := os.MkdirAll(filepath.Join(dir, "medium/casper"), 0o755); err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(filepath.Join(dir, "medium/casper", name))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyN(f, random, size); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
	if out, err := exec.Command(xorriso, "-as", "mkisofs", "-quiet", "-R", "-J", "-o", image, filepath.Join(dir, "medium")).CombinedOutput(); err != nil {
		b.Fatalf("xorriso: %v\n%s", err, out)
	}
	if err := os.WriteFile(recipe, []byte("name: u\narch: amd64\nfrom: {iso: {path: u.iso}}\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	timed := func(name string, args ...string) float64 {
		start := time.Now()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			b.Fatalf("%s: %v\n%s", name, err, out)
		}
		return time.Since(start).Seconds()
	}
	var hash, disk, build []float64
	timed(sha256sum, image)
	for b.Loop() {
		for range 3 {
			hash = append(hash, timed(sha256sum, image))
			copied, store := filepath.Join(dir, "copied"), filepath.Join(dir, "store")
			disk = append(disk, timed(dd, "if="+image, "of="+copied, "bs=1M", "conv=fsync"))
			build = append(build, timed(program, "build", recipe, "--store", store, "--progress", "none"))
			for _, made := range []string{copied, store} {
				if err := os.RemoveAll(made); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	median := func(list []float64) float64 {
		slices.Sort(list)
		return list[len(list)/2]
	}
	b.ReportMetric(median(hash), "sha256sum-s")
	b.ReportMetric(median(disk), "dd-fsync-s")
	b.ReportMetric(median(build), "build-s")
	b.ReportMetric(median(build)-median(hash), "beyond-s")
}
