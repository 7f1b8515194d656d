//go:build e2e

package boot_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/foreign"
	"netroot/builder/need"
	"netroot/builder/rpmfixture"
	"netroot/builder/store"
)

// buildRPM builds a shipped recipe of RPM packages from a distribution that is made for it. The keys that the recipe names are put
// into /etc/netroot/keys, which the program alone sees.
func (b *bench) buildRPM(t *testing.T, image, key string, d rpmfixture.Distribution) store.Generation {
	t.Helper()
	need.Tools(t, "rpmbuild", "rpmsign", "createrepo_c", d.Signing.Program)
	folder, err := rpmfixture.Folder()
	if err != nil {
		t.Fatal(err)
	}
	lock, _ := building.LoadOrStore(image, new(sync.Mutex))
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	began := time.Now()
	repo, err := d.Make(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("distribution %s: %.1f s", d.Name, time.Since(began).Seconds())
	etc := t.TempDir()
	data, err := os.ReadFile(repo.Key)
	if err == nil {
		err = os.MkdirAll(filepath.Join(etc, "netroot/keys"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(etc, "netroot/keys", key), data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-ec", `mount -t overlay overlay -o "lowerdir=$1:/etc" /etc; shift; exec "$@"`, "sh", etc,
		b.program, "build", image, "--mirror", repo.Mirror, "--store", b.store)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began = time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	t.Logf("netroot build %s: %.1f s", image, time.Since(began).Seconds())
	gen, err := b.current(image)
	if err != nil {
		t.Fatal(err)
	}
	return gen
}

// changed are files that scriptlets and netroot change in every root; rpm -V says so of all that are configuration.
const changed = `(\S{9}  c /etc/(passwd|group|shadow|gshadow|inittab|rwtab|sysconfig/readonly-root|selinux/config|machine-id)\n?)*`

// TestE2ESLC6 builds the shipped recipe for the V7768 from a distribution of the same shape, with 32-bit programs, and boots it as that
// board would: Core Duo, 1 GB, two e1000 on two networks.
func TestE2ESLC6(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	foreign.Need(t)
	const image = "slc68-v7768"
	gen := b.buildRPM(t, image, "RPM-GPG-KEY-cern", rpmfixture.EL6())
	// It compares the digests of all files; over NFS rpm does so with those of a few packages here, and with all in TestE2ENotes.
	if stdout, stderr, exit := b.netroot(t, time.Minute, "check", gen.Ref()); exit != 0 || stdout != "" {
		t.Errorf("check ended with %d\n%s%s", exit, stdout, stderr)
	}
	lab := openLab(t, vm.Config{
		Networks: []netip.Prefix{vm.DefaultNetwork, netip.MustParsePrefix("10.78.0.0/24")}, Names: map[string]string{secretName: secretAddress},
	})
	s := &site{lab: lab, patience: 10 * time.Minute}
	s.serve(t, b, vm.Policy(vm.DefaultMAC.String(), "vmegr", image))
	spec, err := vm.ParseSpec("arch=i386,cpu=coreduo,memory=1024,nic=e1000")
	if err != nil {
		t.Fatal(err)
	}
	if s.machine, err = lab.Boot(vm.MachineConfig{Spec: spec, Networks: []int{0, 1}}); err != nil {
		t.Fatal(err)
	}
	defer s.machine.Stop()
	s.await(t, gen, 0, s.machine.PowerOn)

	s.expect(t, "uname -m; uname -r", `i686\n.*-686`)
	s.expect(t, "hostname", "vmegr")
	s.expect(t, "getent hosts "+secretName, secretAddress+`\s+`+secretName)
	s.expect(t, "getent hosts localhost | grep -c .", "1")
	s.expect(t, "ls /sys/class/net", `eth0\neth1\nlo`)
	s.expect(t, "ip -4 -o addr show scope global | tr -s ' ' | cut -d' ' -f2,4", `eth0 10\.77\.0\.1\d\d/24`)
	s.expect(t, "grep ' / ' /proc/mounts | tail -n 1 | cut -d' ' -f3; grep -c overlay /proc/mounts || :", "nfs\n0")
	s.expect(t, "echo here >/etc/x && cat /etc/x; touch /usr/x 2>/dev/null || echo read-only", "here\nread-only")
	s.expect(t, "rpm -qa | wc -l", fmt.Sprint(len(gen.Manifest.Lock.Packages)))
	s.expect(t, "rpm -Va --nofiledigest 2>&1 || :", changed)
	s.expect(t, "rpm -V bash rpm glibc initscripts openssh-server chkconfig kernel 2>&1 || :", changed)
	s.expect(t, "stat -c '%a %U:%G' /etc/sysconfig/sshd /var/empty/sshd/etc/localtime /var/spool/mail; cat /var/lib/openssh-server.trigger", "640 root:sshd\n600 sshd:sshd\n775 root:mail\ntriggered 1 1")
	s.expect(t, "ldconfig -p | grep -c 'libc.so.6 '; pidof sshd >/dev/null && echo sshd runs", "[1-9]\\d*\nsshd runs")
	t.Run("reboot", func(t *testing.T) {
		from, since := len(s.server.Events()), time.Now()
		s.run(t, time.Minute, "(sleep 1; reboot) </dev/null >/dev/null 2>&1 &")
		s.await(t, gen, from, since)
		s.expect(t, "test -e /etc/x || echo gone", "gone")
	})
	t.Run("poweroff", func(t *testing.T) {
		off, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		s.run(t, time.Minute, "(sleep 1; poweroff) </dev/null >/dev/null 2>&1 &")
		if err := s.machine.Wait(off); err != nil {
			t.Errorf("%v\n%s", err, strings.Join(s.machine.ConsoleTail(30), "\n"))
		}
	})
}

// TestE2EAlmaLinux builds the shipped recipe from a distribution of the same shape, with rich dependencies and zstd payloads, and
// boots it.
func TestE2EAlmaLinux(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	const image = "almalinux-9"
	gen := b.buildRPM(t, image, "RPM-GPG-KEY-AlmaLinux-9", rpmfixture.EL9())
	stdout, stderr, exit := b.netroot(t, 10*time.Minute, "verify", image, "--run", "getent hosts localhost && rpm -q glibc systemd && rpm -V glibc rpm openssh-server && touch /etc/x",
		"--run", fmt.Sprintf("test $(rpm -qa | wc -l) = %d", len(gen.Manifest.Lock.Packages)))
	if exit != 0 {
		t.Fatalf("exit code %d\n%s\n%s", exit, stdout, stderr)
	}
	t.Log(stdout)
}
