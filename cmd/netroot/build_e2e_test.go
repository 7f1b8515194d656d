//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/builder/check"
	"netroot/builder/image"
	"netroot/builder/need"
	"netroot/builder/store"
)

// A site is a store and a recipe that is built again and again: packages come once from the host's own mirror.
type site struct {
	program, store, recipe string
}

// newSite makes a store, which NETROOT_E2E_STORE can supply to save the downloads, and a small recipe.
func newSite(t *testing.T) *site {
	t.Helper()
	need.Root(t)
	dir := t.TempDir()
	s := &site{program: os.Getenv("NETROOT"), store: os.Getenv("NETROOT_E2E_STORE"), recipe: filepath.Join(dir, "small.yaml")}
	if s.program == "" {
		s.program = filepath.Join(dir, "netroot")
		if out, err := exec.Command("go", "build", "-o", s.program, ".").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	if s.store == "" {
		s.store = filepath.Join(dir, "store")
	}
	s.write(t, "")
	return s
}

// write writes the recipe, with more lines at its end.
func (s *site) write(t *testing.T, more string) {
	t.Helper()
	const text = "name: small\narch: amd64\nfrom: {apt: {suite: bookworm, components: [main]}}\n" +
		"packages: [linux-image-amd64, systemd-sysv, iproute2, isc-dhcp-client, kmod]\n"
	if err := os.WriteFile(s.recipe, []byte(text+more), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s *site) command(args ...string) *exec.Cmd {
	return exec.Command(s.program, append(args, "--store", s.store, "--progress", "none")...)
}

// run runs a verb, which must end with the exit code, and returns what it said.
func (s *site) run(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := s.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("netroot %s: exit code %d, not %d\n%s%s", strings.Join(args, " "), got, code, out.String(), errOut.String())
	}
	return out.String(), errOut.String()
}

func (s *site) current(t *testing.T) store.Generation {
	t.Helper()
	st, err := store.Open(s.store)
	if err != nil {
		t.Fatal(err)
	}
	g, err := st.Resolve("small")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// leftovers finds mounts and processes that a build left behind.
func (s *site) leftovers(t *testing.T) string {
	t.Helper()
	var found []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), s.store) {
		found = append(found, "a mount below the store")
	}
	roots, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range roots {
		data, _ := os.ReadFile(path)
		if strings.Contains(string(data), s.store) {
			found = append(found, fmt.Sprintf("process %s: %q", filepath.Base(filepath.Dir(path)), data))
		}
	}
	return strings.Join(found, ", ")
}

// drafts waits until a build has begun a generation.
func (s *site) drafts(t *testing.T) {
	t.Helper()
	for range 3000 {
		if begun, _ := filepath.Glob(filepath.Join(s.store, "work", "small@*")); len(begun) > 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the build begins no generation")
}

// settled waits for killed children to be gone, which a busy machine does not look after at once.
func (s *site) settled(t *testing.T) {
	t.Helper()
	var found string
	for range 200 {
		if found = s.leftovers(t); found == "" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("left behind: %s", found)
}

// same compares generations that were made of the same.
func (s *site) same(t *testing.T, a, b store.Generation) {
	t.Helper()
	for _, part := range []string{store.PartKernel, store.PartInitramfs, store.PartRoot} {
		if a.Manifest.Parts[part] != b.Manifest.Parts[part] {
			t.Errorf("%s of %s and %s differs", part, a.Ref(), b.Ref())
		}
	}
}

// forget takes away what is kept of the last build but its packages.
func (s *site) forget(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(s.store, "cache", "installed")); err != nil {
		t.Fatal(err)
	}
}

func TestE2EBuild(t *testing.T) {
	s := newSite(t)

	start := time.Now()
	stdout, _ := s.run(t, 0, "build", s.recipe)
	cold := time.Since(start)
	first := s.current(t)
	if want := first.Ref() + " is published\n"; stdout != want {
		t.Errorf("build said %q, not %q", stdout, want)
	}
	if err := first.Verify(context.Background()); err != nil {
		t.Error(err)
	}

	start = time.Now()
	stdout, _ = s.run(t, 0, "build", s.recipe)
	unchanged := time.Since(start)
	if want := first.Ref() + " is up to date\n"; stdout != want {
		t.Errorf("build of what had not changed said %q, not %q", stdout, want)
	}

	start = time.Now()
	s.run(t, 0, "build", "--force", s.recipe)
	configured := time.Since(start)
	second := s.current(t)
	s.same(t, first, second)

	t.Run("verbs", func(t *testing.T) {
		dir := t.TempDir()
		same := func(file, part string) {
			t.Helper()
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(second.Path(part))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not the %s of %s", file, part, second.Ref())
			}
		}
		s.run(t, 0, "check", "small")
		report := filepath.Join(dir, "report.tar.gz")
		s.run(t, 0, "report", "small", "--output", report)
		packed, err := exec.Command("tar", "-xzOf", report, "small-report/check.json").Output()
		if err != nil {
			t.Fatal(err)
		}
		var reported, found []check.Finding
		if err := json.Unmarshal(packed, &reported); err != nil {
			t.Fatal(err)
		}
		stdout, _ := s.run(t, 0, "check", "--json", "small")
		for line := range strings.Lines(stdout) {
			var f check.Finding
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				t.Fatal(err)
			}
			found = append(found, f)
		}
		if !slices.Equal(reported, found) {
			t.Errorf("the report has %v, check says %v", reported, found)
		}
		if stdout, _ := s.run(t, 0, "show", "small"); !strings.Contains(stdout, "linux-image-amd64 ") {
			t.Errorf("show does not list the packages:\n%s", stdout)
		}
		if stdout, stderr := s.run(t, 0, "diff", first.Ref(), second.Ref()); stdout != "" || !strings.Contains(stderr, "same packages") {
			t.Errorf("diff of the same packages: %q, %q", stdout, stderr)
		}
		initrd := filepath.Join(dir, "initrd.img")
		s.run(t, 0, "initramfs", "--root", "small", "--output", initrd)
		same(initrd, store.PartInitramfs)
		s.run(t, 0, "export", "small", filepath.Join(dir, "export"))
		for part := range second.Manifest.Parts {
			same(filepath.Join(dir, "export", part), part)
		}
		tree := filepath.Join(dir, "tftp")
		for _, want := range []string{" 0 unchanged, 0 removed\n", " 0 files written, "} {
			if stdout, _ := s.run(t, 0, "tftpboot", tree, "--server", "192.0.2.1"); !strings.Contains(stdout, want) {
				t.Errorf("tftpboot said %q, not %q", stdout, want)
			}
		}
		same(filepath.Join(tree, "small", fmt.Sprint(second.Number), "vmlinuz"), store.PartKernel)
		menu, err := os.ReadFile(filepath.Join(tree, "pxelinux.cfg", "default"))
		if err != nil || !strings.Contains(string(menu), "root=nfs:192.0.2.1:/"+second.Ref()) {
			t.Errorf("the menu does not name the server and the generation: %v\n%s", err, menu)
		}
		for _, loader := range []string{"pxelinux.0", "ldlinux.c32", "libcom32.c32", "libutil.c32", "menu.c32"} {
			if _, err := os.Stat(filepath.Join(tree, loader)); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("rollback", func(t *testing.T) {
		s.run(t, 0, "rollback", "small")
		if g := s.current(t); g.Number != first.Number {
			t.Errorf("after rollback %s is current", g.Ref())
		}
		stdout, stderr := s.run(t, 0, "build", s.recipe)
		if !strings.Contains(stdout, second.Ref()+" is up to date") || !strings.Contains(stderr, "netroot promote "+second.Ref()) {
			t.Errorf("build after a rollback said %q and %q", stdout, stderr)
		}
		s.run(t, 0, "promote", second.Ref())
	})

	t.Run("locked", func(t *testing.T) {
		_, stderr := s.run(t, 1, "build", "--locked", s.recipe)
		if !strings.Contains(stderr, "netroot lock") {
			t.Errorf("without a lock file: %q", stderr)
		}
		s.run(t, 0, "lock", s.recipe)
		stdout, _ := s.run(t, 0, "build", "--locked", s.recipe)
		if stdout != second.Ref()+" is up to date\n" {
			t.Errorf("build of the same lock said %q", stdout)
		}
	})

	t.Run("failing hook", func(t *testing.T) {
		before := s.current(t)
		s.write(t, "hooks: [{name: doomed, script: 'echo going down; exit 7'}]\n")
		defer s.write(t, "")
		_, stderr := s.run(t, 1, "build", s.recipe)
		for _, want := range []string{"doomed", "7", "going down"} {
			if !strings.Contains(stderr, want) {
				t.Errorf("the error does not say %q:\n%s", want, stderr)
			}
		}
		if g := s.current(t); g.Ref() != before.Ref() {
			t.Errorf("a failed build made %s current", g.Ref())
		}
		s.settled(t)
	})

	t.Run("unfit", func(t *testing.T) {
		s.write(t, "files: [{path: /etc/fstab, content: \"/dev/sda1 / ext4 defaults 0 1\\n\"}]\n")
		defer s.write(t, "")
		_, stderr := s.run(t, 3, "build", s.recipe)
		if !strings.Contains(stderr, "/etc/fstab mounts /dev/sda1") {
			t.Errorf("the error is %q", stderr)
		}
		s.settled(t)
	})

	// Over what the last build had configured comes out what comes out without it, whatever is done to the root afterwards.
	var warm time.Duration
	t.Run("kept", func(t *testing.T) {
		s.forget(t)
		start := time.Now()
		s.run(t, 0, "build", "--force", s.recipe)
		warm = time.Since(start)
		s.same(t, second, s.current(t))
		t.Logf("cold %.1f s, from the cache %.1f s, what is configured kept %.1f s, unchanged %.2f s", cold.Seconds(), warm.Seconds(), configured.Seconds(), unchanged.Seconds())

		s.write(t, `files: [{path: /etc/motd, content: "hello\n"}]
hooks:
- name: all
  script: |
    mv /usr/share/perl5 /usr/share/perl6 && ln -s perl6 /usr/share/perl5
    chmod 600 /etc/hostname && ln /bin/bash /bin/linked && chown daemon /bin/ip && chmod u+s /bin/ip
    rm -r /usr/share/doc/kmod && dpkg -P --force-depends debian-archive-keyring && dpkg -l | wc -l > /etc/count
    mkdir -p /var/cache/apt/archives && echo x > /var/cache/apt/archives/x_1_all.deb && echo mine > /var/log/mine
`)
		defer s.write(t, "")
		s.run(t, 0, "build", s.recipe)
		over := s.current(t)
		if over.Manifest.Parts[store.PartRoot] == second.Manifest.Parts[store.PartRoot] {
			t.Error("the hook changed nothing")
		}
		img, err := image.Open(over.Path(store.PartRoot))
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		for name, there := range map[string]bool{"var/log/mine": true, "var/log/dpkg.log": false, "var/cache/apt/archives/x_1_all.deb": false} {
			if _, err := fs.Stat(img.FS(), name); (err == nil) != there {
				t.Errorf("/%s: %v", name, err)
			}
		}
		s.forget(t)
		s.run(t, 0, "build", "--force", s.recipe)
		s.same(t, over, s.current(t))
	})

	t.Run("interrupted", func(t *testing.T) {
		s.forget(t)
		cmd := s.command("build", "--force", s.recipe)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s.drafts(t)
		time.Sleep(time.Duration(float64(warm) * 0.2)) // into the middle, even if the machine is less busy now than it was
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("interrupted, it ended with exit code %d", code)
		}
		s.settled(t)
		if left, _ := filepath.Glob(filepath.Join(s.store, "work", "small@*")); len(left) > 0 {
			t.Errorf("left in the store: %v", left)
		}
	})

	t.Run("two at once", func(t *testing.T) {
		cmd := s.command("build", "--force", s.recipe)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Signal(syscall.SIGTERM)
		s.drafts(t)
		_, stderr := s.run(t, 4, "build", s.recipe)
		if !strings.Contains(stderr, "small") {
			t.Errorf("the error is %q", stderr)
		}
	})

	t.Run("killed", func(t *testing.T) {
		before := s.current(t)
		for i := range 4 {
			if i < 3 {
				s.forget(t)
			}
			cmd := s.command("build", "--force", s.recipe)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rand.Float64() * float64(warm)))
			cmd.Process.Kill()
			cmd.Wait()
			s.settled(t)
			if g := s.current(t); g.Number < before.Number || g.Verify(context.Background()) != nil {
				t.Errorf("after a kill %s is current: %v", g.Ref(), g.Verify(context.Background()))
			}
		}
		s.run(t, 0, "build", "--force", "--keep", "1", s.recipe)
		s.same(t, second, s.current(t))
		if left, _ := filepath.Glob(filepath.Join(s.store, "work", "small@*")); len(left) > 0 {
			t.Errorf("the next build left %v of the killed ones", left)
		}
		stdout, _ := s.run(t, 0, "images")
		if n := strings.Count(stdout, "\nsmall"); n != 1 {
			t.Errorf("--keep 1 left %d generations:\n%s", n, stdout)
		}
	})
}
