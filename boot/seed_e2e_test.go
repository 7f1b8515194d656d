//go:build e2e

package boot_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
)

// The vendor's configuration touches a file early, the user's late; the four documents are not the same for every machine.
const cloudRecipe = `name: e2e-cloud-init
include: debian-12
packages: [cloud-init]
vars: {word: of the recipe, other: of the recipe}
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
    ethernets: {card: {match: {macaddress: "{{.MAC}}"}, dhcp4: true}}
`

// cloud-init itself starts a machine by what it is told under the seed's URL.
func TestE2ECloudInit(t *testing.T) {
	b := needBench(t)
	recipe := filepath.Join(t.TempDir(), "cloud.yaml")
	if err := os.WriteFile(recipe, []byte(cloudRecipe), 0o644); err != nil {
		t.Fatal(err)
	}
	gen := b.build(t, recipe, "e2e-cloud-init")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
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
	s := &site{lab: lab, patience: 10 * time.Minute}
	s.server, err = lab.Serve(ctx, vm.ServerConfig{Program: b.program, Store: b.store,
		Policy: vm.Policy(vm.DefaultMAC.String(), "clouded", gen.Image) + "    vars: {word: of the host}\n"})
	if err != nil {
		t.Fatal(err)
	}
	if s.machine, err = lab.Boot(vm.MachineConfig{}); err != nil {
		t.Fatal(err)
	}
	s.await(t, gen, 0, s.machine.PowerOn)

	status := s.run(t, 10*time.Minute, "cloud-init status --wait --long")
	t.Logf("cloud-init status:\n%s\n%s", status, s.run(t, time.Minute, "cloud-init --version; cat /proc/cmdline; cat /run/cloud-init/result.json; grep -e WARN -e ERROR /var/log/cloud-init.log || true"))
	if !strings.Contains(status, "status: done") || !strings.Contains(status, "DataSourceNoCloudNet") {
		t.Errorf("cloud-init: %s", status)
	}
	s.expect(t, "cat /run/seed-user /run/seed-other; ls /run/seed-vendor /run/seed-ran", "of the hostof the recipe/run/seed-ran\n/run/seed-vendor")
	s.expect(t, "cloud-init query v1.instance_id v1.local_hostname 2>/dev/null || cloud-init query --format '{{v1.instance_id}} {{v1.local_hostname}}'", "clouded-of-"+gen.Ref()+" clouded-17")
	s.expect(t, `python3 -c 'import json; print(json.load(open("/run/cloud-init/result.json"))["v1"]["errors"])'`, `\[\]`)

	var got []string
	for _, e := range s.server.Events() {
		if strings.Contains(e.Raw, "404") || e.Message == "refused" && e.Service == "http" {
			t.Errorf("refused: %s", e.Raw)
		}
		if dir, name := filepath.Split(e.File); strings.HasPrefix(dir, "seed/") && e.Message == "read" {
			got = append(got, name)
			if dir != "seed/"+gen.Ref()+"/clouded/" || e.MAC != vm.DefaultMAC.String() {
				t.Errorf("a seed was read: %s", e.Raw)
			}
		}
	}
	for _, name := range []string{"user-data", "meta-data", "vendor-data"} {
		if n := len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s != name })); n != 1 {
			t.Errorf("%s was read %d times, want once: %v", name, n, got)
		}
	}
	// cloud-init 22.4 of Debian 12 does not ask for this one; later ones do.
	s.expect(t, `python3 -c 'import urllib.request, re; u = re.search("s=(http\S+)", open("/proc/cmdline").read())[1]; print(urllib.request.urlopen(u + "network-config").read().decode())'`,
		`version: 2\nethernets: \{card: \{match: \{macaddress: "`+vm.DefaultMAC.String()+`"\}, dhcp4: true\}\}`)

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
u = re.search("s=(http\S+)", open("/proc/cmdline").read())[1]
try: urllib.request.urlopen(u + "user-data")
except Exception as e: print(e)'`, "HTTP Error 403: Forbidden")
		if _, err := s.server.WaitEvent(ctx, 0, func(e vm.Event) bool {
			return e.Message == "refused" && strings.HasSuffix(e.File, "/clouded/user-data") && strings.Contains(e.Reason, "did not ask what to boot in the last hour")
		}); err != nil {
			t.Error(err)
		}
	})
}
