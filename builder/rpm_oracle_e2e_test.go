//go:build e2e

package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/chroot"
	"netroot/builder/need"
	"netroot/builder/recipe"
	"netroot/builder/rpmfixture"
	"netroot/builder/store"
)

// recipeOf writes a recipe.
func recipeOf(t testing.TB, repo rpmfixture.Repository, packages []string) string {
	t.Helper()
	text := fmt.Sprintf("name: oracle\narch: amd64\nfrom: {yum: {groups: [core], repos: [{name: os, baseurl: \"file://%s\", gpgkey: %s}]}}\npackages: [%s]\n", repo.Dir, repo.Key, strings.Join(packages, ", "))
	file := filepath.Join(t.TempDir(), "oracle.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// differ are paths that need not be as dnf leaves them, each with the reason.
var differ = []struct{ pattern, reason string }{
	{`^/(etc|var/(lib|cache|log))/dnf`, "dnf's own"},
	{`^/var/spool/mail$`, "dnf unpacks it before the list of groups is there, and gives it to root instead of mail"},
	{`^/var/log/(dnf|hawkey)`, "dnf's own"},
	{`^/(dev|proc|sys|run|tmp)(/|$)`, "other file systems while a root is made"},
	{`^/var/lib/rpm(/|$)`, "ours is written by the root's rpm, and asked below; dnf's by the host's"},
	{`^/root/\.rpmdb`, "where Debian's dnf puts the database of an empty root"},
	{`^/usr/lib/sysimage`, "where other rpms put it"},
	{`^/etc/machine-id$`, "random"},
	{`^/var/cache/ldconfig/aux-cache$`, "has inode numbers in it"},
	{`^/(etc/(passwd|group|shadow|gshadow)-?)$`, "users that systemd-sysusers makes get their numbers in the order of the transaction"},
	{`^/(etc/\.pwd\.lock|var/lib/systemd/catalog/database)$`, "made as a side effect, with the time in it"},
}

// likeEL9 is a recipe's source of packages from a distribution of EL 9's shape, and the same for dnf.
func likeEL9(t testing.TB) (src *yumSource, repo rpmfixture.Repository, packages []string) {
	t.Helper()
	need.Root(t)
	need.Tools(t, "dnf", "rpmbuild", "createrepo_c")
	folder, err := rpmfixture.Folder()
	if err != nil {
		t.Fatal(err)
	}
	if repo, err = rpmfixture.EL9().Make(t.Context(), folder); err != nil {
		t.Fatal(err)
	}
	packages = []string{"almalinux-release", "kernel", "rpm", "iproute", "dhcp-client", "openssh-server", "shadow-utils", "oddities"}
	r, err := recipe.Find(recipeOf(t, repo, packages))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err == nil {
		err = s.Prepare()
	}
	if err != nil {
		t.Fatal(err)
	}
	if src, err = (&Builder{Store: s}).yumSource(r); err != nil {
		t.Fatal(err)
	}
	return src, repo, packages
}

// BenchmarkRPMRoot times a root, from the metadata to the last scriptlet, against dnf with the same packages; anew, the cache has the
// packages, and warm, all that the build before left in it. Both are given a repository on the disk, and neither pays for what others
// have yet to write to it. Nothing is deleted before the end: for five minutes ext4 goes round inodes that were freed (recently_deleted in
// fs/ext4/ialloc.c), and whoever makes files next to a tree that is just gone takes up to twice as long.
//
// Memory is what the largest process of each had, those that it starts included: here of a whole "netroot build", which also checks the
// root and writes initramfs and image; there of dnf, which does none of that.
func BenchmarkRPMRoot(b *testing.B) {
	src, repo, packages := likeEL9(b)
	program := filepath.Join(b.TempDir(), "netroot")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", program, "netroot/cmd/netroot").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	make := func() time.Duration {
		unix.Sync()
		began := time.Now()
		pins, err := src.resolve(b.Context())
		if err == nil {
			err = src.fetch(b.Context(), pins)
		}
		var made *root
		if err == nil {
			made, err = src.assemble(b.Context(), "oracle", pins, b.TempDir())
		}
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		made.session.Close()
		return took
	}
	build := func(dir string) int64 {
		cmd := exec.CommandContext(b.Context(), program, "build", "--store", dir, "--force", recipeOf(b, repo, packages))
		memory, out, err := run(cmd)
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		return memory
	}
	var cold, anew, warm, peer time.Duration
	var coldMemory, warmMemory, peerMemory int64
	for b.Loop() {
		cold += make()
		if err := os.Rename(filepath.Join(src.fetcher.Cache.Dir, "installed"), filepath.Join(b.TempDir(), "installed")); err != nil {
			b.Fatal(err)
		}
		anew += make()
		warm += make()
		unix.Sync()
		took, memory := byDNF(b, repo, filepath.Join(b.TempDir(), "dnf"), packages)
		peer += took
		dir := filepath.Join(b.TempDir(), "store")
		peerMemory, coldMemory, warmMemory = max(peerMemory, memory), max(coldMemory, build(dir)), max(warmMemory, build(dir))
	}
	n := float64(b.N)
	b.ReportMetric(cold.Seconds()/n, "cold-s")
	b.ReportMetric(anew.Seconds()/n, "anew-s")
	b.ReportMetric(warm.Seconds()/n, "warm-s")
	b.ReportMetric(peer.Seconds()/n, "dnf-s")
	b.ReportMetric(cold.Seconds()/peer.Seconds(), "cold/dnf")
	b.ReportMetric(anew.Seconds()/peer.Seconds(), "anew/dnf")
	b.ReportMetric(warm.Seconds()/peer.Seconds(), "warm/dnf")
	b.ReportMetric(float64(coldMemory)/1e6, "cold-MB")
	b.ReportMetric(float64(warmMemory)/1e6, "warm-MB")
	b.ReportMetric(float64(peerMemory)/1e6, "dnf-MB")
}

// run runs a program and returns the memory, in bytes, that the largest of its processes had. The kernel's own account of a child
// (ru_maxrss) begins with what its parent had when it forked, and says nothing here.
func run(cmd *exec.Cmd) (memory int64, out []byte, err error) {
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return memory, text.Bytes(), err
		case <-tick.C:
			memory = max(memory, largest(cmd.Process.Pid))
		}
	}
}

// largest is the highest mark that the memory of a process, or of one that it started, has reached (proc(5), VmHWM).
func largest(pid int) (memory int64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	if _, rest, ok := strings.Cut(string(status), "\nVmHWM:"); ok {
		fmt.Sscan(rest, &memory)
	}
	memory <<= 10
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return memory
	}
	for _, name := range lists {
		children, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(word); err == nil {
				memory = max(memory, largest(child))
			}
		}
	}
	return memory
}

// TestE2ERootIsAsDNFMakesIt compares a root path by path with one that dnf makes of the same packages, on the same machine.
func TestE2ERootIsAsDNFMakesIt(t *testing.T) {
	src, repo, packages := likeEL9(t)
	pins, err := src.resolve(t.Context())
	if err == nil {
		err = src.fetch(t.Context(), pins)
	}
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ours, err := src.assemble(t.Context(), "oracle", pins, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.session.Close()
	t.Logf("%d packages, %.1f s", len(pins.Packages), time.Since(began).Seconds())
	if len(ours.notes) > 0 {
		t.Errorf("notes: %q", ours.notes)
	}
	theirs := filepath.Join(t.TempDir(), "dnf")
	byDNF(t, repo, theirs, packages)

	packaged := files(t, ours.session)
	a, b := paths(t, ours.session.Tree(), packaged), paths(t, theirs, packaged)
	// What would make the comparison one of nothing.
	for name, want := range map[string]string{
		"/usr/bin/raw": "capabilities 00000002002000", "/usr/bin/bind": "100750 0:4 ", "/usr/lib/oddities/null": "20666 0:0, device 1:3",
		"/usr/lib/oddities/loop": "60640 0:6, device 7:200", "/usr/share/oddities/about": "at 1",
	} {
		if !strings.Contains(a[name], want) {
			t.Errorf("%s: %q, not %q", name, a[name], want)
		}
	}
	if _, ok := a["/usr/share/oddities-later/about"]; ok {
		t.Error("a conditional package came without its condition")
	}
	reported := 0
	for _, name := range union(a, b) {
		if a[name] == b[name] || slices.ContainsFunc(differ, func(d struct{ pattern, reason string }) bool { return regexp.MustCompile(d.pattern).MatchString(name) }) {
			continue
		}
		if reported++; reported < 50 {
			t.Errorf("%s\n  here: %s\n  dnf:  %s", name, a[name], b[name])
		}
	}
	t.Logf("%d paths, %d differences", len(a), reported)
	var out bytes.Buffer
	err = ours.session.Run(t.Context(), chroot.Command{Args: []string{"sh", "-c", "rpm -qa | wc -l; rpm -Va"}, Output: &out})
	if ee := (*chroot.ExitError)(nil); err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	count, rest, _ := strings.Cut(out.String(), "\n")
	if count != fmt.Sprint(len(pins.Packages)) || !regexp.MustCompile(`^(\S{9}  c /etc/(passwd|group|shadow|gshadow)\n)*$`).MatchString(rest) {
		t.Errorf("rpm knows %s packages of %d; -Va:\n%s", count, len(pins.Packages), rest)
	}

	// Who has the root can go on with its rpm.
	later, err := filepath.Glob(filepath.Join(repo.Dir, "Packages/oddities-later-1-1.noarch.rpm"))
	if err != nil || len(later) != 1 {
		t.Fatalf("%q, %v", later, err)
	}
	if err := copyFile(later[0], filepath.Join(ours.session.Tree(), "var/tmp/later.rpm")); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	// Debian's rpm has a warning of its own on standard error.
	err = ours.session.Run(t.Context(), chroot.Command{Args: []string{"sh", "-ec", "rpm -i --nosignature /var/tmp/later.rpm 2> /dev/null; rpm -V oddities-later; cat /var/lib/oddities-later; rpm -q --whatprovides oddities-later; rpm -qa | wc -l"}, Output: &out})
	if want := fmt.Sprintf("later\noddities-later-1-1.noarch\n%d\n", len(pins.Packages)+1); err != nil || out.String() != want {
		t.Errorf("rpm -i of a further package: %v\n%s\nwant %s", err, out.String(), want)
	}
}

// files lists the paths that come with packages, and are as they came: no ghosts.
func files(t *testing.T, s *chroot.Session) map[string]bool {
	t.Helper()
	var out bytes.Buffer
	if err := s.Run(t.Context(), chroot.Command{Args: []string{"rpm", "-qa", "--qf", "[%{FILEFLAGS} %{FILENAMES}\n]"}, Output: &out}); err != nil {
		t.Fatal(err)
	}
	const ghost = 1 << 6 // RPMFILE_GHOST
	names := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		flags, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(flags); err == nil && n&ghost == 0 {
			names[name] = true
		}
	}
	return names
}

// byDNF has the host's dnf install packages into a folder, with the file systems that its scriptlets expect. It returns how long that
// took, and the memory it had.
func byDNF(t testing.TB, repo rpmfixture.Repository, root string, packages []string) (time.Duration, int64) {
	t.Helper()
	const script = `root=$1; repo=$2; key=$3; cache=$4; shift 4
mkdir -p "$root/proc" "$root/sys" "$root/dev"
for d in proc sys dev; do mount --rbind /$d "$root/$d"; done
exec dnf -q -y --installroot="$root" --releasever=9 --setopt=reposdir=/none --setopt=pluginpath=/none --setopt=cachedir="$cache" --setopt=install_weak_deps=0 \
	--repofrompath=f,file://"$repo" --setopt=f.gpgcheck=1 --setopt=f.gpgkey=file://"$key" install @core "$@"`
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	began := time.Now()
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "sh", "-ec", script, "sh", root, repo.Dir, repo.Key, t.TempDir()}, packages...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	memory, out, err := run(cmd)
	if err != nil {
		t.Fatalf("dnf: %v\n%s", err, out)
	}
	took := time.Since(began)
	t.Logf("dnf: %.1f s", took.Seconds())
	return took, memory
}

func union(a, b map[string]string) []string {
	var names []string
	for name := range a {
		names = append(names, name)
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// paths describes every path of a root: type, mode, owner, link, device, capabilities, contents, how many names it has. Of files that come
// with a package it has the time, too.
func paths(t *testing.T, root string, packaged map[string]bool) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root+"/", func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.Clean("/" + strings.TrimPrefix(at, root))
		if d.IsDir() && slices.Contains([]string{"/proc", "/sys", "/dev"}, name) {
			return fs.SkipDir
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(at, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFLNK:
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			text += " -> " + target
		case syscall.S_IFCHR, syscall.S_IFBLK:
			text += fmt.Sprintf(", device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case syscall.S_IFREG:
			data, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			caps := make([]byte, 64)
			n, _ := unix.Lgetxattr(at, "security.capability", caps)
			text += fmt.Sprintf(" %d names, %d bytes, %x, capabilities %x", st.Nlink, len(data), sha256.Sum256(data), caps[:max(n, 0)])
			if packaged[name] {
				text += fmt.Sprintf(", at %d", st.Mtim.Sec)
			}
		}
		all[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
