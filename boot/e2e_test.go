//go:build e2e

package boot_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/boot/nodes"
	"netroot/boot/vm"
	"netroot/builder/chroot"
	"netroot/builder/foreign"
	"netroot/builder/need"
	"netroot/builder/store"
)

// The end-to-end tests: real packages from the host's own mirror, real images, real machines without a disk, and
// dnsmasq as the site's DHCP and DNS server.
//
//	NETROOT=…             the binary to test; without it, it is built
//	NETROOT_E2E_STORE=…   a store to use again, with its downloads; without it, a temporary one

// bench is what the tests share: the binary and a store.
type bench struct {
	program, store string
	temporary      []string
}

var setUp = sync.OnceValues(func() (*bench, error) {
	b := &bench{program: os.Getenv("NETROOT"), store: os.Getenv("NETROOT_E2E_STORE")}
	if b.program == "" {
		dir, err := os.MkdirTemp("", "netroot-e2e-bin-")
		if err != nil {
			return nil, err
		}
		b.temporary = append(b.temporary, dir)
		b.program = filepath.Join(dir, "netroot")
		cmd := exec.Command("go", "build", "-o", b.program, "netroot/cmd/netroot")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile does
		if out, err := cmd.CombinedOutput(); err != nil {
			return b, fmt.Errorf("build netroot: %w\n%s", err, out)
		}
	}
	if b.store == "" {
		dir, err := os.MkdirTemp("", "netroot-e2e-store-")
		if err != nil {
			return b, err
		}
		b.temporary = append(b.temporary, dir)
		b.store = dir
	}
	shared, err := store.Open(b.store)
	if err != nil {
		return b, err
	}
	return b, shared.Prepare()
})

func TestMain(m *testing.M) {
	chroot.Main()
	code := m.Run()
	if b, _ := setUp(); b != nil {
		for _, dir := range b.temporary {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// needBench returns a bench with a store whose images and cache are those of all tests, and whose state is its own: what one
// test's server knows of machines is nothing to another's beside it.
func needBench(t *testing.T) *bench {
	t.Helper()
	need.Root(t)
	b, err := setUp()
	if err != nil {
		t.Fatal(err)
	}
	own := &bench{program: b.program, store: t.TempDir()}
	for _, name := range []string{"cache", "images", "loader", "work"} {
		if err := os.Symlink(filepath.Join(b.store, name), filepath.Join(own.store, name)); err != nil {
			t.Fatal(err)
		}
	}
	return own
}

// netroot runs the program and returns what it wrote and its exit code.
func (b *bench) netroot(t *testing.T, timeout time.Duration, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, b.program, append(args, "--store", b.store)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	began := time.Now()
	err := cmd.Run()
	t.Logf("netroot %s: %.1f s", strings.Join(args, " "), time.Since(began).Seconds())
	if ee := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

var building sync.Map // of *sync.Mutex, by image

// build builds a recipe and returns the generation that is current then. Tests that want the same image make it once.
func (b *bench) build(t *testing.T, recipe, image string) store.Generation {
	t.Helper()
	lock, _ := building.LoadOrStore(image, new(sync.Mutex))
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	_, stderr, exit := b.netroot(t, 20*time.Minute, "build", recipe)
	if exit != 0 && strings.Contains(stderr, "does not hold what its own InRelease says") {
		// Partial mirrors exist whose security suite is whole for one architecture only. The suite itself will do here.
		t.Logf("once more without the updates, because of the mirror:\n%s", stderr)
		_, stderr, exit = b.netroot(t, 20*time.Minute, "build", recipe, "--mirror", mainMirror(t))
	}
	if exit != 0 {
		t.Fatalf("exit code %d\n%s", exit, stderr)
	}
	gen, err := b.current(image)
	if err != nil {
		t.Fatal(err)
	}
	return gen
}

// mainMirror is where this host's apt has bookworm itself from.
func mainMirror(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if uri, ok := strings.CutPrefix(line, "bookworm "); ok {
			return strings.TrimSpace(uri)
		}
	}
	t.Fatalf("this host's apt has no bookworm:\n%s", out)
	return ""
}

func (b *bench) current(image string) (store.Generation, error) {
	s, err := store.Open(b.store)
	if err != nil {
		return store.Generation{}, err
	}
	return s.Resolve(image)
}

// site is a machine in a lab and what serves it.
type site struct {
	lab      *vm.Lab
	server   *vm.Server
	machine  *vm.Machine
	patience time.Duration    // until a machine is up; 0 is 6 minutes
	mac      net.HardwareAddr // of the machine; nil when it is the only one
}

// serve starts the program in the lab, with the bench's store and this policy.
func (s *site) serve(t *testing.T, b *bench, policy string) {
	t.Helper()
	var err error
	if s.server, err = s.lab.Serve(t.Context(), vm.ServerConfig{Program: b.program, Store: b.store, Policy: policy}); err != nil {
		t.Fatal(err)
	}
}

// await waits until the machine is up, for the given generation, counting from an event and a point in time.
func (s *site) await(t *testing.T, gen store.Generation, from int, since time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(s.patience, 6*time.Minute))
	defer cancel()
	go func() {
		select {
		case <-s.machine.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	mac := vm.DefaultMAC.String()
	if s.mac != nil {
		mac = s.mac.String()
	}
	_, err := s.server.WaitEvent(ctx, from, func(e vm.Event) bool {
		return e.Message == "stage" && e.Stage == "up" && (s.mac == nil || e.MAC == mac)
	})
	timeline := vm.Assemble(since, mac, s.machine.Console(), s.server.Events())
	t.Logf("%s\n%s", gen.Ref(), timeline)
	if err != nil {
		t.Fatalf("not up: %v\n%s", err, strings.Join(s.machine.ConsoleTail(40), "\n"))
	}
	want := fmt.Sprintf("netroot: image=%s generation=%d stage=initramfs", gen.Image, gen.Number)
	for _, line := range s.machine.Console() {
		if line.End.After(since) && strings.Contains(line.Text, want) {
			return
		}
	}
	t.Errorf("the console never showed %q", want)
}

// run runs a command in the machine that must succeed.
func (s *site) run(t *testing.T, timeout time.Duration, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	out, exit, err := s.machine.Shell.Run(ctx, command)
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(s.machine.ConsoleTail(20), "\n"))
	}
	if exit != 0 {
		t.Errorf("%s: status %d\n%s", command, exit, out)
	}
	return strings.TrimSpace(out)
}

// expect runs a command in the machine and compares all of its output with a pattern. Several emulated machines share few processors, so
// some commands, which wait until systemd has started everything, take a while.
func (s *site) expect(t *testing.T, command, pattern string) {
	t.Helper()
	if out := s.run(t, 3*time.Minute, command); !regexp.MustCompile(`^(?s:` + pattern + `)$`).MatchString(out) {
		t.Errorf("%s: %q does not match %s", command, out, pattern)
	}
}

const (
	recipeText = `name: e2e-debian-12
include: debian-12
files:
  - path: /etc/e2e
    content: "%s\n"
  - path: /usr/share/e2e/unread
    content: "unread %s\n"
`
	secretName, secretAddress = "only-here.lab.test", "10.77.0.77"
)

func writeRecipe(t *testing.T, word string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "e2e.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, recipeText, word, word), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// openLab opens a lab that is closed when the test has ended.
func openLab(t *testing.T, cfg vm.Config) *vm.Lab {
	t.Helper()
	lab, err := vm.Open(t.Context(), cfg)
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

// emptyDisk is a disk of so many bytes that nobody has written to.
func emptyDisk(t *testing.T, size int64) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// bootRecipe builds an image of a recipe, which is given without its name, and boots it on a machine that is its own lab's.
func bootRecipe(t *testing.T, image, recipe string) (*site, store.Generation) {
	t.Helper()
	b := needBench(t)
	path := filepath.Join(t.TempDir(), image+".yaml")
	if err := os.WriteFile(path, []byte("name: "+image+"\n"+recipe), 0o600); err != nil {
		t.Fatal(err)
	}
	gen := b.build(t, path, image)
	lab := openLab(t, vm.Config{Names: map[string]string{secretName: secretAddress}})
	s := &site{lab: lab}
	policy := vm.Policy(vm.DefaultMAC.String(), image, image)
	s.serve(t, b, policy)
	s.boot(t, vm.MachineConfig{})
	s.await(t, gen, 0, s.machine.PowerOn)
	return s, gen
}

func TestE2EDebian(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	const image = "e2e-debian-12"
	first := b.build(t, writeRecipe(t, "one"), image)

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	lab := openLab(t, vm.Config{Names: map[string]string{secretName: secretAddress}})
	s := &site{lab: lab}
	s.serve(t, b, vm.Policy(vm.DefaultMAC.String(), "diskless", image))
	s.boot(t, vm.MachineConfig{})
	s.await(t, first, 0, s.machine.PowerOn)

	t.Run("netroot nodes", func(t *testing.T) {
		var m nodes.Machine
		for range 20 { // it is written a second after the last change
			stdout, stderr, exit := b.netroot(t, time.Minute, "nodes", "diskless", "--json")
			if err := json.Unmarshal([]byte(stdout), &m); exit != 0 && !strings.Contains(stderr, "seen") || exit == 0 && err != nil {
				t.Fatalf("exit code %d, %v\n%s\n%s", exit, err, stdout, stderr)
			}
			if m.Stage == "up" {
				break
			}
			time.Sleep(500 * time.Millisecond)
		}
		if m.MAC != vm.DefaultMAC.String() || m.Name != "diskless" || m.Ref() != first.Ref() || m.Stage != "up" || m.Stalled || len(m.Stages) < len(nodes.Stages)-2 {
			t.Errorf("the machine is known as %+v", m)
		}
		var metrics bytes.Buffer
		curl := exec.Command("curl", "-sSf", "http://127.0.0.1/metrics")
		curl.Stdout, curl.Stderr = &metrics, &metrics
		p, err := lab.Start(vm.NSServer, curl)
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		for _, want := range []string{`netroot_boot_stages_total{stage="up"} 1`, `netroot_machines{stage="up"} 1`} {
			if !strings.Contains(metrics.String(), want+"\n") {
				t.Errorf("metrics have no %s:\n%s", want, metrics.String())
			}
		}
	})
	t.Run("name that only the site knows", func(t *testing.T) {
		s.expect(t, "getent hosts "+secretName, secretAddress+`\s+`+secretName)
		s.expect(t, "hostname", "diskless")
	})
	t.Run("root is overlay on NFS", func(t *testing.T) {
		s.expect(t, "grep ' / ' /proc/mounts | tail -n 1 | cut -d' ' -f3", "overlay")
		// The address in hexadecimal, as the kernel's NFS client lists its servers.
		s.expect(t, "grep -c '^v3 0a4d0003 ' /proc/fs/nfsfs/volumes", "1")
		s.expect(t, "ls /sys/block | grep -v -e ^loop -e ^ram -e ^fd | wc -l", "0")
		s.expect(t, "touch /etc/x && echo changed >> /etc/e2e && ls /etc/x && cat /etc/e2e", "/etc/x\none\nchanged")
	})
	t.Run("setuid", func(t *testing.T) {
		s.expect(t, "su nobody -s /bin/sh -c 'id -un'", "nobody")
		// Reads /etc/shadow, which nobody may not.
		s.expect(t, "su nobody -s /bin/sh -c 'cat /etc/shadow >/dev/null 2>&1 || passwd -S'", "nobody L .*")
	})
	t.Run("no unit failed", func(t *testing.T) {
		s.expect(t, "for i in $(seq 60); do s=$(systemctl is-system-running); [ $s = starting ] || break; sleep 1; done; echo $s; systemctl --failed --no-legend", "running")
		s.expect(t, "systemctl is-active ssh", "active")
	})
	t.Run("serve is killed while every file is read", func(t *testing.T) {
		// dpkg -V reads every file of every package; most were never opened before.
		s.run(t, time.Minute, "(dpkg -V > /tmp/dpkg-V 2>&1; echo status $? >> /tmp/dpkg-V) </dev/null >/dev/null 2>&1 &")
		time.Sleep(3 * time.Second)
		s.server.Kill()
		time.Sleep(2 * time.Second)
		if err := s.server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		s.expect(t, "cat /usr/share/e2e/unread", "unread one")
		out := s.run(t, 8*time.Minute, "until grep -q ^status /tmp/dpkg-V; do sleep 1; done; cat /tmp/dpkg-V")
		if out != "status 0" {
			t.Errorf("dpkg -V:\n%s", out)
		}
	})
	var second store.Generation
	t.Run("new generation leaves the machine alone", func(t *testing.T) {
		second = b.build(t, writeRecipe(t, "two"), image)
		if second.Number <= first.Number {
			t.Fatalf("generation %d came after %d", second.Number, first.Number)
		}
		s.run(t, time.Minute, "sync; echo 3 > /proc/sys/vm/drop_caches")
		s.expect(t, "cat /usr/share/e2e/unread", "unread one")
		s.expect(t, "dpkg -V base-files coreutils && echo clean", "clean")
	})
	t.Run("reboot", func(t *testing.T) {
		from, since := len(s.server.Events()), time.Now()
		s.run(t, time.Minute, "(sleep 1; systemctl reboot) </dev/null >/dev/null 2>&1 &")
		s.await(t, second, from, since)
		s.expect(t, "cat /etc/e2e", "two")
		s.expect(t, "test -e /etc/x || echo gone", "gone")
	})
	t.Run("poweroff", func(t *testing.T) {
		began := time.Now()
		s.run(t, time.Minute, "(sleep 1; systemctl poweroff) </dev/null >/dev/null 2>&1 &")
		off, cancel := context.WithTimeout(ctx, 60*time.Second)
		defer cancel()
		if err := s.machine.Wait(off); err != nil {
			t.Fatal(err)
		}
		t.Logf("off after %.1f s", time.Since(began).Seconds())
	})
	if err := s.server.Stop(); err != nil {
		t.Errorf("serve after SIGTERM: %v", err)
	}
}

// TestE2EDebian32 goes through the command line as a person would: a 32-bit machine, a 32-bit QEMU.
func TestE2EDebian32(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	foreign.Need(t)
	const image = "debian-12-i386"
	gen := b.build(t, image, image)
	console := filepath.Join(t.TempDir(), "console")
	stdout, stderr, exit := b.netroot(t, 10*time.Minute, "verify", image, "--json",
		"--machine", "arch=i386,cpu=coreduo,memory=1024,nic=e1000", "--console", console,
		"--run", "dpkg --print-architecture; uname -m", "--run", "touch /etc/x && passwd -S nobody")
	if exit != 0 {
		t.Fatalf("exit code %d\n%s\n%s", exit, stdout, stderr)
	}
	var result vm.Result
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatalf("%v\n%s", err, stdout)
	}
	t.Logf("%s@%d on %s\n%s", result.Image, result.Generation, result.Machine, result.Timeline)
	if !result.Up || result.Image != image || result.Generation != gen.Number {
		t.Errorf("the result is of %s@%d, up: %v", result.Image, result.Generation, result.Up)
	}
	if len(result.Run) != 2 || result.Run[0].Output != "i386\ni686\n" || !strings.HasPrefix(result.Run[1].Output, "nobody L ") {
		t.Errorf("the commands gave %+v", result.Run)
	}
	for _, p := range result.Proof {
		t.Logf("# %s\n%s", p.Command, p.Output)
		if p.Exit != 0 {
			t.Errorf("%s: status %d", p.Command, p.Exit)
		}
	}
	if data, err := os.ReadFile(console); err != nil || !bytes.Contains(data, []byte("stage=up")) {
		t.Errorf("the console file has no stage=up: %v", err)
	}
}

// TestE2EUnfit boots an image whose initrd is cut off.
func TestE2EUnfit(t *testing.T) {
	t.Parallel()
	b := needBench(t)
	good := b.build(t, wordsImage, wordsImage)
	broken := &bench{program: b.program, store: t.TempDir()}
	dir := filepath.Join(broken.store, "images", "broken", "1")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"root.erofs", "vmlinuz", "initrd.img", "image.json"} {
		data, err := os.ReadFile(good.Path(part))
		if err != nil {
			t.Fatal(err)
		}
		switch part {
		case "initrd.img":
			data = data[:len(data)/3]
		case "image.json":
			var m map[string]any
			if err := json.Unmarshal(data, &m); err != nil {
				t.Fatal(err)
			}
			m["image"], m["generation"] = "broken", 1
			if data, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, part), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("1", filepath.Join(broken.store, "images", "broken", "current")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(broken.store, "loader"), os.DirFS(filepath.Join(b.store, "loader"))); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, exit := broken.netroot(t, 6*time.Minute, "verify", "broken")
	t.Logf("%s\n%s", stdout, stderr)
	if exit != 3 {
		t.Errorf("exit code %d, want 3", exit)
	}
	for _, want := range []string{"broken@1 did not come up", "stage initramfs was not reached", "Kernel panic"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("the error does not say %q", want)
		}
	}
}
