//go:build e2e

package boot_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/store"
)

const originalRecipe = `name: e2e-original
include: debian-12
users:
  - {name: root, ssh_keys: [%q]}
`

// What is left out keeps an emulated machine from sending for minutes.
const twinRecipe = `name: e2e-twin
arch: amd64
from:
  copy:
    from: ssh://root@%s
    ssh_config: ssh_config
    exclude:
      - /usr/share/doc
      - /usr/share/locale
      - /usr/share/man
      - /usr/lib/modules/*/kernel/drivers/gpu
      - /usr/lib/modules/*/kernel/drivers/media
      - /usr/lib/modules/*/kernel/drivers/infiniband
      - /usr/lib/modules/*/kernel/drivers/scsi
      - /usr/lib/modules/*/kernel/drivers/net/wireless
      - /usr/lib/modules/*/kernel/sound
kernel:
  cmdline: [console=tty0, "console=ttyS0,115200"]
`

// settle makes the original look as if it had been installed on a disk.
const settle = `set -e; cd /
cat >etc/fstab <<X
UUID=11111111-2222 / ext4 errors=remount-ro 0 1
/dev/sda2 none swap sw 0 0
/swapfile none swap sw 0 0
tmpfs /scratch tmpfs size=10m 0 0
X
head -c 3000000 /dev/zero >swapfile; mkdir -p scratch
echo 'SUBSYSTEM=="net", ACTION=="add", ATTR{address}=="%s", NAME="eth7"' >etc/udev/rules.d/70-persistent-net.rules
mkdir -p etc/network; printf 'auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet static\n\taddress 10.77.0.200/24\n' >etc/network/interfaces
mkdir -p boot/grub; echo menu >boot/grub/grub.cfg; echo old >boot/initrd.img-old
cat /proc/sys/kernel/random/uuid | tr -d - >etc/machine-id
logger something; echo line >var/log/old.log
install -d -o 4711 -g 4712 -m 2750 home/lab; echo written on the original >home/lab/note; chown 4711:4712 home/lab/note
ln home/lab/note home/lab/again; cp bin/true usr/local/bin/raised; chmod 4755 usr/local/bin/raised; ln -s /etc/hostname etc/absolute
hostname original; echo original >etc/hostname
`

// TestE2ECopy copies a machine that runs, and boots the copy beside it.
func TestE2ECopy(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	for _, tool := range []string{"ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f", filepath.Join(dir, "key")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	key, err := os.ReadFile(filepath.Join(dir, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	original := b.build(t, write("original.yaml", fmt.Sprintf(originalRecipe, strings.TrimSpace(string(key)))), "e2e-original")

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	lab := openLab(t, vm.Config{Names: map[string]string{secretName: secretAddress}})
	twinMAC, _ := net.ParseMAC("52:54:00:6e:72:77")
	policy := vm.Policy(vm.DefaultMAC.String(), "old", "e2e-original")
	_, second, _ := strings.Cut(vm.Policy(twinMAC.String(), "twin", "e2e-twin"), "hosts:\n")
	server, err := lab.Serve(ctx, vm.ServerConfig{Program: b.program, Store: b.store, Policy: policy + second})
	if err != nil {
		t.Fatal(err)
	}
	one := &site{lab: lab, server: server}
	if one.machine, err = lab.Boot(vm.MachineConfig{}); err != nil {
		t.Fatal(err)
	}
	one.await(t, original, 0, one.machine.PowerOn)
	one.run(t, time.Minute, fmt.Sprintf(settle, vm.DefaultMAC))
	address := one.run(t, time.Minute, "ip -o -4 address show dev eth0 | sed 's/.* inet //; s,/.*,,'")
	hostKey := one.run(t, time.Minute, "systemctl is-active ssh >/dev/null; until [ -s /etc/ssh/ssh_host_ed25519_key.pub ]; do sleep 1; done; cat /etc/ssh/ssh_host_ed25519_key.pub")
	write("known", address+" "+hostKey+"\n")
	write("ssh_config", fmt.Sprintf("Host *\n  IdentityFile %[1]s/key\n  IdentitiesOnly yes\n  UserKnownHostsFile %[1]s/known\n  GlobalKnownHostsFile none\n", dir))
	recipe := write("twin.yaml", fmt.Sprintf(twinRecipe, address))

	// The first time the connection is lost when a good part has come.
	build := func() (*vm.Process, *bytes.Buffer) {
		t.Helper()
		said := &bytes.Buffer{}
		cmd := exec.Command(b.program, "build", recipe, "--store", b.store, "--progress", "plain")
		cmd.Stdout, cmd.Stderr = said, said
		p, err := lab.Start(vm.NSServer, cmd)
		if err != nil {
			t.Fatal(err)
		}
		return p, said
	}
	began := time.Now()
	p, said := build()
	for came(b.store) < 40e6 {
		select {
		case <-p.Done():
			t.Fatalf("the build ended before it could be broken off:\n%s", said)
		case <-time.After(100 * time.Millisecond):
		}
	}
	killSSH(t, p.Pid())
	<-p.Done()
	if _, err := p.Exited(); err == nil || !strings.Contains(said.String(), "run it again") {
		t.Fatalf("the broken off build: %v\n%s", err, said)
	}
	before := came(b.store)
	t.Logf("broken off after %.1f s, with %.1f MB", time.Since(began).Seconds(), float64(before)/1e6)

	began = time.Now()
	p, said = build()
	<-p.Done()
	if _, err := p.Exited(); err != nil {
		t.Fatalf("the second build: %v\n%s", err, said)
	}
	t.Logf("the second time %.1f s\n%s", time.Since(began).Seconds(), said)
	sent := number(t, said.String(), `copied .* bytes=(\d+)`)
	if whole := came(b.store); sent > whole-before+20e6 {
		t.Errorf("of %d bytes %d were here, and %d more were sent", whole, before, sent)
	}
	twin, err := b.current("e2e-twin")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"70-persistent-net.rules removed", "/etc/machine-id emptied", "SSH host keys removed", `"/swapfile none swap sw 0 0" taken out`} {
		if !noted(twin, want) {
			t.Errorf("no note says %q: %q", want, twin.Manifest.Notes)
		}
	}

	// What moves on a running machine is little.
	p, said = build()
	<-p.Done()
	if _, err := p.Exited(); err != nil {
		t.Fatalf("the third build: %v\n%s", err, said)
	}
	if again := number(t, said.String(), `copied .* bytes=(\d+)`); again > 12e6 {
		t.Errorf("the third time %d bytes were sent", again)
	} else {
		t.Logf("the third time %d bytes were sent", again)
	}
	if twin, err = b.current("e2e-twin"); err != nil {
		t.Fatal(err)
	}

	two := &site{lab: lab, server: server, mac: twinMAC}
	from := len(server.Events())
	if two.machine, err = lab.Boot(vm.MachineConfig{Spec: vm.Spec{MAC: twinMAC}}); err != nil {
		t.Fatal(err)
	}
	two.await(t, twin, from, two.machine.PowerOn)
	two.expect(t, "cat /home/lab/note; stat -c '%u:%g %a' /home/lab; stat -c '%a' /usr/local/bin/raised; readlink /etc/absolute", "written on the original\n4711:4712 2750\n4755\n/etc/hostname")
	two.expect(t, "stat -c %h /home/lab/again", "2")
	two.expect(t, "hostname; getent hosts "+secretName, "twin\n"+secretAddress+`\s+`+secretName)
	two.expect(t, "grep -v '^#' /etc/fstab; ls /etc/udev/rules.d/* /swapfile /boot/grub/grub.cfg /var/log/old.log 2>/dev/null; true", "tmpfs /scratch tmpfs size=10m 0 0")
	two.expect(t, "cat /etc/network/interfaces", "auto lo\niface lo inet loopback")
	two.expect(t, "for i in $(seq 60); do s=$(systemctl is-system-running); [ $s = starting ] || break; sleep 1; done; echo $s; systemctl --failed --no-legend", "running")
	for _, question := range []string{"cat /etc/machine-id", "cat /etc/ssh/ssh_host_ed25519_key.pub", "ip -o -4 address show dev eth0 | sed 's/.* inet //; s,/.*,,'"} {
		if a, b := one.run(t, time.Minute, question), two.run(t, time.Minute, question); a == b || a == "" || b == "" {
			t.Errorf("%s: the original says %q, the copy %q", question, a, b)
		}
	}
	one.expect(t, "hostname; cat /home/lab/note", "original\nwritten on the original")
}

// came counts the bytes of the twin's copy in the cache of a store.
func came(dir string) (bytes int64) {
	folders, _ := filepath.Glob(filepath.Join(dir, "cache/copies/e2e-twin-*/root"))
	for _, folder := range folders {
		filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					bytes += info.Size()
				}
			}
			return nil
		})
	}
	return bytes
}

func noted(g store.Generation, want string) bool {
	return strings.Contains(strings.Join(g.Manifest.Notes, "\n"), want)
}

func number(t *testing.T, text, pattern string) int64 {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("nothing matches %s:\n%s", pattern, text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// killSSH kills the ssh that a process has started.
func killSSH(t *testing.T, parent int) {
	t.Helper()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		data, _ := os.ReadFile(stat)
		name, rest, _ := strings.Cut(string(data), ") ")
		if f := strings.Fields(rest); len(f) < 2 || f[1] != strconv.Itoa(parent) || !strings.HasSuffix(name, "(ssh") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := os.FindProcess(pid); err != nil || p.Kill() != nil {
			t.Fatalf("kill ssh, process %d: %v", pid, err)
		}
		return
	}
	t.Fatalf("process %d has no ssh", parent)
}
