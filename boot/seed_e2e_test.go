//go:build e2e

package boot_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/need"
)

// The vendor's configuration touches a file early, the user's late; the four documents are not the same for every machine. The network's
// is about the card that / comes over, too, which it must not touch.
const cloudRecipe = `name: e2e-cloud-init
include: debian-13
packages: [cloud-init, systemd-resolved]
vars: {word: of the recipe, other: of the recipe, second: "52:54:00:6e:72:02"}
autoinstall:
  user-data: |
    #cloud-config
    write_files:
      - {path: /run/seed-user, content: {{printf "%q" .Vars.word}}}
      - {path: /run/seed-other, content: {{printf "%q" .Vars.other}}}
    runcmd:
      - [touch, /run/seed-ran]
  meta-data: |
    instance-id: {{.Name}}-of-{{.Image}}
    local-hostname: {{.Name}}-{{.MAC | len}}
  vendor-data: |
    #cloud-config
    bootcmd:
      - [touch, /run/seed-vendor]
  network-config: |
    version: 2
    ethernets:
      boot: {match: {macaddress: "{{.MAC}}"}, addresses: [192.0.2.7/24]}
      second: {match: {macaddress: {{printf "%q" .Vars.second}}}, addresses: [10.78.0.99/24]}
`

// cloud-init itself starts a machine by what it is told under the seed's URL, which comes through pxelinux with its semicolon.
func TestE2ECloudInit(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	recipe := filepath.Join(t.TempDir(), "cloud.yaml")
	if err := os.WriteFile(recipe, []byte(cloudRecipe), 0o644); err != nil {
		t.Fatal(err)
	}
	gen := b.build(t, recipe, "e2e-cloud-init")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	lab := openLab(t, vm.Config{Networks: []netip.Prefix{vm.DefaultNetwork, netip.MustParsePrefix("10.78.0.0/24")}, Names: map[string]string{secretName: secretAddress}})
	s := &site{lab: lab, patience: 10 * time.Minute}
	s.serve(t, b, "ipxe: pxelinux\n"+vm.Policy(vm.DefaultMAC.String(), "clouded", gen.Image)+"    vars: {word: of the host}\n")
	s.boot(t, vm.MachineConfig{Networks: []int{0, 1}})
	s.await(t, gen, 0, s.machine.PowerOn)

	status := s.run(t, 10*time.Minute, "cloud-init status --wait --long || :") // its exit code is 2 for a warning
	t.Logf("cloud-init status:\n%s\n%s", status, s.run(t, time.Minute, "cloud-init --version; cat /proc/cmdline; cat /run/cloud-init/result.json; grep -e WARN -e ERROR /var/log/cloud-init.log || true"))
	for _, want := range []string{"\nextended_status: done\n", "\ndetail: DataSourceNoCloudNet ", "\nerrors: []\n", "\nrecoverable_errors: {}"} {
		if !strings.Contains(status, want) {
			t.Errorf("cloud-init does not say %q", want)
		}
	}
	s.expect(t, "grep -o 'ds=[^ ]*' /proc/cmdline", `ds=nocloud;s=http://10\.77\.0\.3/seed/`+gen.Ref()+`/clouded/`)
	if !slices.ContainsFunc(s.server.Events(), func(e vm.Event) bool {
		return e.Service == "tftp" && e.Message == "read" && e.File == "pxelinux.cfg/01-52-54-00-6e-72-01"
	}) {
		t.Error("pxelinux has not read the machine's configuration")
	}
	s.expect(t, "cat /run/seed-user /run/seed-other; ls /run/seed-vendor /run/seed-ran", "of the hostof the recipe/run/seed-ran\n/run/seed-vendor")
	s.expect(t, "cloud-init query v1.instance_id v1.local_hostname 2>/dev/null || cloud-init query --format '{{v1.instance_id}} {{v1.local_hostname}}'", "clouded-of-"+gen.Ref()+" clouded-17")
	s.expect(t, `python3 -c 'import json; print(json.load(open("/run/cloud-init/result.json"))["v1"]["errors"])'`, `\[\]`)

	var got []string
	for _, e := range s.server.Events() {
		if e.Message == "refused" && e.Service == "http" { // what is not found, too
			t.Errorf("refused: %s", e.Raw)
		}
		if dir, name := filepath.Split(e.File); strings.HasPrefix(dir, "seed/") && e.Message == "read" {
			got = append(got, name)
			if dir != "seed/"+gen.Ref()+"/clouded/" || e.MAC != vm.DefaultMAC.String() {
				t.Errorf("a seed was read: %s", e.Raw)
			}
		}
	}
	for _, name := range []string{"user-data", "meta-data", "vendor-data", "network-config"} {
		if n := len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s != name })); n != 1 {
			t.Errorf("%s was read %d times, want once: %v", name, n, got)
		}
	}
	// The network it was told of is there, and the card that / comes over is as the initramfs left it.
	s.expect(t, "ip -4 -o addr show scope global | awk '{print $4}' | sort", `10\.77\.0\.\d+/24\n10\.78\.0\.99/24`)
	s.expect(t, ". /run/netroot/boot; networkctl --no-legend list $IFACE | awk '{print $5}'; ls /etc/systemd/network", `unmanaged\n10-cloud-init-\S+\.network\n10-cloud-init-\S+\.network`)
	s.expect(t, "systemctl is-active systemd-networkd; systemctl --failed --no-legend; getent hosts "+secretName, `active\n`+secretAddress+`\s+`+secretName)

	t.Run("not for who has not just begun to boot", func(t *testing.T) {
		if err := s.server.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(b.store, "state", "booted.clouded")); err != nil {
			t.Fatal(err)
		}
		if err := s.server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		s.expect(t, `python3 -c 'import urllib.request, re
u = re.search(r"s=(http\S+)", open("/proc/cmdline").read())[1]
try: urllib.request.urlopen(u + "user-data")
except Exception as e: print(e)'`, "HTTP Error 403: Forbidden")
		if _, err := s.server.WaitEvent(ctx, 0, func(e vm.Event) bool {
			return e.Message == "refused" && strings.HasSuffix(e.File, "/clouded/user-data") && strings.Contains(e.Reason, "did not ask what to boot in the last hour")
		}); err != nil {
			t.Error(err)
		}
	})
}

// An asker is the router of a lab, as a machine that boots.
type asker struct {
	lab *vm.Lab
	mac string
}

func newAsker(t *testing.T) *asker {
	t.Helper()
	a := &asker{lab: openLab(t, vm.Config{})}
	if err := a.lab.Do(vm.NSRouter, func() error {
		card, err := net.InterfaceByName("eth0")
		if err == nil {
			a.mac = card.HardwareAddr.String()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return a
}

// configuration is where pxelinux would find what to boot.
func (a *asker) configuration() string {
	return "tftp://10.77.0.3/pxelinux.cfg/01-" + strings.ReplaceAll(a.mac, ":", "-")
}

// run returns what a program says there.
func (a *asker) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := a.lab.Start(vm.NSRouter, cmd)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	return out.String()
}

// Documents that a recipe does not give are there and empty: what is missing cloud-init asks for ten times.
func TestE2ESeedsAreWhole(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	need.Tools(t, "curl")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"kernel": "kernel", "initrd": "initrd",
		"r.yaml": "name: e2e-whole\narch: amd64\nfrom: {netboot: {kernel: {path: kernel}, initrd: {path: initrd}}}\nautoinstall:\n  user-data: |\n    #cloud-config\n    autoinstall:\n      version: 1\n      user-data: {}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	gen := b.build(t, filepath.Join(dir, "r.yaml"), "e2e-whole")
	a := newAsker(t)
	policy := fmt.Sprintf("default: ignore\nhosts:\n  - {name: asker, mac: %q, image: e2e-whole, boot: once}\n", a.mac)
	if _, err := a.lab.Serve(t.Context(), vm.ServerConfig{Program: b.program, Store: b.store, Policy: policy, Args: []string{"--no-dhcp"}}); err != nil {
		t.Fatal(err)
	}
	seed := "http://10.77.0.3/seed/" + gen.Ref() + "/asker/"
	if got := a.run(t, "curl", "-sS", "-m", "20", a.configuration()); !strings.Contains(got, "autoinstall ds=nocloud-net;s="+seed) {
		t.Errorf("the configuration is %s", got)
	}
	for _, name := range []string{"meta-data", "vendor-data", "network-config"} {
		if got := a.run(t, "curl", "-sS", "-m", "20", "-w", "status %{http_code}, %{size_download} bytes", seed+name); got != "status 200, 0 bytes" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := a.run(t, "curl", "-sS", "-m", "20", seed+"user-data"); !strings.HasPrefix(got, "#cloud-config\n") || !strings.Contains(got, "/v1/installed") {
		t.Errorf("user-data: %s", got)
	}
}

// What is known of a machine outlives a server that is killed: that it began to boot, and that it is installed. The machine is the
// router, which asks with curl.
func TestE2ESeedsSurviveKill(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"kernel": "kernel", "initrd": "initrd",
		"r.yaml": "name: e2e-seed\narch: amd64\nfrom: {netboot: {kernel: {path: kernel}, initrd: {path: initrd}}}\npreseed: |\n  d-i a/b string {{.Vars.word}}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	gen := b.build(t, filepath.Join(dir, "r.yaml"), "e2e-seed")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	a := newAsker(t)
	policy := fmt.Sprintf("default: ignore\nhosts:\n  - {name: asker, mac: %q, image: e2e-seed, boot: once, vars: {word: for-asker}}\n", a.mac)
	config := filepath.Join(dir, "netroot.yaml")
	if err := os.WriteFile(config, []byte(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	server, err := a.lab.Serve(ctx, vm.ServerConfig{Program: b.program, Store: b.store, Policy: policy, Args: []string{"--no-dhcp"}})
	if err != nil {
		t.Fatal(err)
	}
	kill := func() {
		t.Helper()
		server.Kill()
		if err := server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
	curl := func(want string, args ...string) {
		t.Helper()
		if got := a.run(t, "curl", append([]string{"-sS", "-m", "20", "-w", " status %{http_code}"}, args...)...); !strings.Contains(got, want) {
			t.Errorf("curl %v: %q, want %q", args, got, want)
		}
	}
	seed := "http://10.77.0.3/seed/" + gen.Ref() + "/asker/preseed.cfg"
	boot := a.configuration()
	const report = "http://10.77.0.3/v1/installed"
	netroot := func(args ...string) {
		t.Helper()
		if _, stderr, exit := b.netroot(t, time.Minute, append(args, "--config", config)...); exit != 0 {
			t.Errorf("%v: %d %s", args, exit, stderr)
		}
	}
	netroot("nodes", "--reinstall", "asker")

	kill()
	curl("status 403", seed)
	curl("status 403", "-X", "POST", report)
	curl("url="+seed, boot)
	curl("d-i a/b string for-asker", seed)
	kill()
	curl("d-i a/b string for-asker", seed)
	curl("status 403", strings.Replace(seed, "asker", "other", 1))
	curl("status 405", "-X", "PUT", report)
	curl("status 200", "-X", "POST", report)
	kill()
	curl("LOCALBOOT 0", boot)
	curl("status 403", seed)
	curl("status 200", "-X", "POST", report) // its answer may have been lost
	netroot("nodes", "--reinstall", "asker")
	curl("url="+seed, boot)
	curl("d-i a/b string for-asker", seed)
	for _, e := range server.Events() {
		if strings.HasPrefix(e.File, "seed/") && (e.MAC != a.mac || !strings.Contains(e.Raw, `"host":"asker"`)) {
			t.Errorf("who asked is not in the record: %s", e.Raw)
		}
	}
}
