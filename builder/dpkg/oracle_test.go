//go:build e2e

package dpkg

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"netroot/builder/chroot"
	"netroot/builder/lock"
	"netroot/builder/need"
)

// The packages of a diskless machine, and some that prove a point: iputils-ping sets a capability in its postinst,
// ca-certificates is worked off by a trigger.
const include = "netroot-initramfs,usr-is-merged,linux-image-amd64,systemd-sysv,iproute2,isc-dhcp-client,openssh-server,apt,iputils-ping,ca-certificates"

// hostSources are the files of the host's apt that name a Debian archive.
func hostSources(t *testing.T, suite string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			if data, err := os.ReadFile(name); err == nil && strings.Contains(string(data), "bookworm") && strings.Contains(string(data), "main") {
				if suite != "bookworm" { // the same mirrors have the releases beside each other
					name = filepath.Join(t.TempDir(), filepath.Base(name))
					if err := os.WriteFile(name, []byte(strings.ReplaceAll(string(data), "bookworm", suite)), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				found = append(found, name)
			}
		}
	}
	if len(found) == 0 {
		need.Missing(t, "this host's apt has no sources of Debian 12")
	}
	return found
}

// standInRepository is an apt repository of one package: what Assemble writes as a record only.
func standInRepository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	p := pkg{name: standIn, ext: ".gz", plain: true, fields: "Version: 1\nMulti-Arch: foreign\nProvides: " + StandInProvides, files: dirs("")}
	data := p.bytes(t)
	sum := sha256.Sum256(data)
	os.WriteFile(filepath.Join(dir, "s.deb"), data, 0o644)
	index := fmt.Sprintf("%sFilename: ./s.deb\nSize: %d\nSHA256: %x\n", p.text(), len(data), sum)
	os.WriteFile(filepath.Join(dir, "Packages"), []byte(index), 0o644)
	list := filepath.Join(dir, "s.list")
	os.WriteFile(list, []byte("deb [trusted=yes] copy://"+dir+" ./\n"), 0o644)
	return list
}

// mmdebstrap makes the tree to compare with, and hands out the very packages it is made of.
func mmdebstrap(t *testing.T, work, suite string) (tree string, debs []string) {
	t.Helper()
	need.Root(t)
	need.Tools(t, "mmdebstrap", "unshare")
	tree, cache := filepath.Join(work, "oracle"), filepath.Join(work, "debs")
	os.MkdirAll(cache, 0o755)
	// What mmdebstrap mounts goes with it when it is killed, before the folder is removed through it to the host's own /sys and /dev/shm.
	args := []string{"--mount", "mmdebstrap", "--mode=root", "--variant=minbase", "--include=" + include,
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		"--skip=download/empty", "--skip=essential/unlink", "--dpkgopt=force-unsafe-io",
		`--setup-hook=mkdir -p "$1/etc/apt/preferences.d"; printf 'Package: usrmerge\nPin: release *\nPin-Priority: -1\n' > "$1/etc/apt/preferences.d/oracle"`,
		"--customize-hook=sync-out /var/cache/apt/archives " + cache,
		`--customize-hook=rm "$1/etc/apt/preferences.d/oracle" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"`,
		suite, tree}
	args = append(append(args, hostSources(t, suite)...), standInRepository(t))
	start := time.Now()
	out, err := exec.CommandContext(t.Context(), "unshare", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, tailOf(out))
	}
	t.Logf("mmdebstrap, downloads included: %v", time.Since(start).Round(100*time.Millisecond))
	debs, _ = filepath.Glob(cache + "/*.deb")
	return tree, slices.DeleteFunc(debs, func(d string) bool { return strings.HasPrefix(filepath.Base(d), standIn) })
}

func tailOf(out []byte) string {
	if len(out) > 3000 {
		out = out[len(out)-3000:]
	}
	return string(out)
}

// pinned makes of files what the resolver would say of them.
func pinned(t *testing.T, debs []string) []lock.Package {
	t.Helper()
	var all []lock.Package
	for _, file := range debs {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d, err := openDeb(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		text, err := controlText(d)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		c, err := parseControl(text)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		sum := sha256.Sum256(data)
		all = append(all, lock.Package{Name: c.get("Package"), Version: c.get("Version"), Arch: c.get("Architecture"),
			Path: file, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])})
	}
	slices.SortFunc(all, func(a, b lock.Package) int { return int(b.Size - a.Size) }) // the kernel first
	return all
}

// session unpacks, assembles and opens.
func session(t *testing.T, work string, pkgs []lock.Package, suite, arch string) *chroot.Session {
	t.Helper()
	c := Cache{filepath.Join(work, "cache")}
	start := time.Now()
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(4)
	for _, p := range pkgs {
		g.Go(func() error { return Unpack(ctx, p.Path, p.SHA256, c) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("unpack: %v", time.Since(start).Round(10*time.Millisecond))
	start = time.Now()
	var sources []byte
	for _, name := range hostSources(t, suite) {
		data, _ := os.ReadFile(name)
		sources = append(append(sources, data...), '\n')
	}
	lower := filepath.Join(work, "root")
	if err := Assemble(t.Context(), Root{Packages: pkgs, Cache: c, Dir: lower, Arch: arch, Sources: sources}); err != nil {
		t.Fatal(err)
	}
	t.Logf("assemble: %v", time.Since(start).Round(10*time.Millisecond))
	s, err := chroot.Open(t.Context(), chroot.Config{Lower: lower, Work: filepath.Join(work, "overlay"), Arch: arch})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func configure(t *testing.T, s *chroot.Session) {
	t.Helper()
	start := time.Now()
	steps := 0
	if err := Configure(t.Context(), s, Options{Progress: func(done, total int, name string) { steps = done }}); err != nil {
		t.Fatal(err)
	}
	t.Logf("configure: %v, %d packages", time.Since(start).Round(10*time.Millisecond), steps)
}

func run(t *testing.T, s *chroot.Session, script string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	err := s.Run(ctx, chroot.Command{Args: []string{"sh", "-c", script}, Output: &out})
	return out.String(), err
}

// TestE2EAgainstMmdebstrap compares a configured root, path by path, with what dpkg itself makes of the same packages.
func TestE2EAgainstMmdebstrap(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) { againstMmdebstrap(t, suite) })
	}
}

func againstMmdebstrap(t *testing.T, suite string) {
	work := t.TempDir()
	oracle, debs := mmdebstrap(t, work, suite)
	s := session(t, work, pinned(t, debs), suite, "amd64")
	configure(t, s)
	t.Run("tree", func(t *testing.T) { compare(t, oracle, s.Tree()) })
	t.Run("dpkg", func(t *testing.T) { useDpkg(t, s, suite) })
	t.Run("lower", func(t *testing.T) {
		// The cache is untouched: what is linked still has the checksums of the packages.
		for _, p := range pinned(t, debs) {
			if p.Name != "libc-bin" && p.Name != "passwd" {
				continue
			}
			c := Cache{filepath.Join(work, "cache")}
			m, err := c.load(p.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			for i, e := range m.Entries {
				if e.Type != '0' {
					continue
				}
				st, err := os.Stat(filepath.Join(c.entry(p.SHA256), "files", fmt.Sprint(e.File)))
				if err != nil || st.Size() != e.Size || !st.ModTime().Equal(e.mtime()) {
					t.Errorf("%s, entry %d (%s) changed in the cache", p.Name, i, e.Name)
				}
			}
		}
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	// Tests of other packages mount, too, at the same time.
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(mounts, []byte(work)) {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
}

// explained are the differences that have a reason. A pattern is a path, or a folder with everything below it.
var explained = map[string]string{
	"dev":                              "device nodes are made by mmdebstrap; a booted machine has devtmpfs",
	"run":                              "a tmpfs, here and on the machine",
	"etc/apt/sources.list.d":           "apt sources are the caller's",
	"etc/apt/sources.list":             "apt sources are the caller's",
	"etc/hostname":                     "copied from the host by mmdebstrap; customizing writes it",
	"etc/resolv.conf":                  "copied from the host by mmdebstrap; customizing writes it",
	"etc/fstab":                        "written by mmdebstrap; customizing writes it",
	"etc/machine-id":                   "emptied by mmdebstrap; customizing empties it",
	"etc/ssh/ssh_host_ecdsa_key":       "random",
	"etc/ssh/ssh_host_ecdsa_key.pub":   "random",
	"etc/ssh/ssh_host_ed25519_key":     "random",
	"etc/ssh/ssh_host_ed25519_key.pub": "random",
	"etc/ssh/ssh_host_rsa_key":         "random",
	"etc/ssh/ssh_host_rsa_key.pub":     "random",
	"etc/ld.so.cache":                  "the order of libraries of the same kind follows the order of folders on the disk",
	"lib32":                            "debootstrap's hook makes empty folders for word sizes nobody uses",
	"lib64":                            "linked either way; mmdebstrap's hook dates it today",
	"libx32":                           "see lib32",
	"usr/lib32":                        "see lib32",
	"usr/libx32":                       "see lib32",
	"var/cache/apt":                    "made by apt when it runs",
	"var/cache/debconf":                "the order of questions; backups",
	"var/cache/ldconfig":               "inode numbers",
	"var/lib/apt":                      "made by apt when it runs; which packages were asked for is not recorded",
	"var/lib/dpkg/available":           "optional, empty",
	"var/lib/dpkg/arch-native":         "optional, the same word as in arch",
	"var/lib/dpkg/statoverride":        "optional, empty",
	"var/lib/dpkg/diversions-old":      "a backup",
	"var/lib/dpkg/status-old":          "a backup",
	"var/lib/dpkg/status":              "compared field by field",
	"var/lib/dpkg/info/netroot-initramfs.md5sums": "of the record that stands for a package",
	"var/lib/dpkg/triggers":                       "the order of lines",
	"var/lib/ucf":                                 "names of temporary files, backups",
	"var/lib/systemd":                             "the order in which units were enabled",
	"var/log":                                     "emptied",
}

// sorted are files in which the order of lines follows the order in which packages were set up.
var sorted = []string{"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/shells", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-"}

func excuse(name string) (string, bool) {
	for p := name; p != "."; p = filepath.Dir(p) {
		if why, ok := explained[p]; ok {
			return why, true
		}
	}
	return "", false
}

// describe lists every path of a tree with its attributes. Times count where the oracle took them from a package.
func describe(t *testing.T, root string) (paths map[string]string, times map[string]time.Time) {
	t.Helper()
	paths, times = map[string]string{}, map[string]time.Time{}
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("mode %o owner %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFLNK:
			to, _ := os.Readlink(p)
			// Units that were enabled before and after systemd was there are found under two names of one folder.
			to = strings.Replace(to, "/usr/lib/systemd/system/", "/lib/systemd/system/", 1)
			text += " -> " + to
		case syscall.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if slices.Contains(sorted, name) {
				lines := strings.Split(strings.TrimSpace(string(data)), "\n")
				slices.Sort(lines)
				if strings.HasSuffix(name, "-") {
					lines = nil // one step behind, whichever was last
				}
				data = []byte(strings.Join(lines, "\n"))
			}
			text += fmt.Sprintf(" size %d sha256 %x", len(data), sha256.Sum256(data))
			if other, ok := first[st.Ino]; ok {
				text += " linked to " + other
			}
			first[st.Ino] = name
		case syscall.S_IFCHR, syscall.S_IFBLK:
			text += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		buf := make([]byte, 256)
		if n, err := unix.Lgetxattr(p, "security.capability", buf); err == nil {
			text += fmt.Sprintf(" capability %x", buf[:n])
		}
		paths[name] = text
		if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			times[name] = time.Unix(st.Mtim.Sec, 0)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths, times
}

func compare(t *testing.T, oracle, tree string) {
	want, wantTimes := describe(t, oracle)
	got, gotTimes := describe(t, tree)
	bad, excused := 0, 0
	report := func(name, what string) {
		if _, ok := excuse(name); ok {
			excused++
			return
		}
		if bad++; bad <= 40 {
			t.Errorf("%s: %s", name, what)
		}
	}
	dayAgo := time.Now().Add(-24 * time.Hour)
	for name, w := range want {
		g, ok := got[name]
		switch {
		case !ok:
			report(name, "is missing; mmdebstrap has "+w)
		case g != w && strings.Split(g, " linked to ")[0] == strings.Split(w, " linked to ")[0]:
			// mmdebstrap extracts essential packages and then lets dpkg unpack them once more, which splits hard links.
			if !strings.Contains(g, "linked to") {
				report(name, "is no hard link any more: "+w)
			}
		case g != w:
			report(name, "\n  "+g+"\n  mmdebstrap: "+w)
		case wantTimes[name].Before(dayAgo) && !wantTimes[name].Equal(gotTimes[name]):
			report(name, fmt.Sprintf("is dated %v, mmdebstrap's %v", gotTimes[name], wantTimes[name]))
		}
	}
	for name, g := range got {
		if _, ok := want[name]; !ok {
			report(name, "mmdebstrap has no such file: "+g)
		}
	}
	t.Logf("%d paths compared, %d differences explained, %d not", len(want), excused, bad)
	compareStatus(t, oracle, tree)
}

var goneConffile = regexp.MustCompile(` \S+ newconffile remove-on-upgrade\n`)

// compareStatus compares what dpkg knows, field by field.
func compareStatus(t *testing.T, oracle, tree string) {
	load := func(root string) map[string]string {
		out, err := exec.Command("dpkg-query", "--admindir="+root+"/var/lib/dpkg", "-W", "-f",
			"${binary:Package}|${Status}|${Version}|${Architecture}|${Multi-Arch}|${Essential}|${Pre-Depends}|${Depends}|${Provides}|${Conffiles}\x01").Output()
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for record := range strings.SplitSeq(string(out), "\x01") {
			name, rest, _ := strings.Cut(record, "|")
			// A conffile that is not there, and that an upgrade would remove, need not be known (deb-conffiles(5)).
			rest = goneConffile.ReplaceAllString(rest, "")
			all[name] = rest
		}
		return all
	}
	want, got := load(oracle), load(tree)
	for name, w := range want {
		if got[name] != w {
			t.Errorf("package %s:\n  %s\n  mmdebstrap: %s", name, got[name], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d packages, mmdebstrap has %d", len(got), len(want))
	}
}

// useDpkg does in the root what its owner may do.
func useDpkg(t *testing.T, s *chroot.Session, suite string) {
	ls := map[string]string{"bookworm": "/bin/ls", "trixie": "/usr/bin/ls"}[suite] // where coreutils says that it is
	for _, tt := range []struct{ script, want string }{
		{"dpkg -l | grep '^[a-z]' | grep -v '^ii'; true", ""},
		{"dpkg --audit", ""},
		{"dpkg -V", ""},
		{"apt-get check -qq", ""},
		{"dpkg -S /bin/ls /usr/bin/ls 2>/dev/null | sort -u", "coreutils: " + ls + "\n"},
		{"invoke-rc.d ssh start; echo $?", "Running in chroot, ignoring request.\ninvoke-rc.d: policy-rc.d denied execution of start.\n0\n"},
		{"test -e /var/lib/dpkg/netroot-held || test -e /var/lib/dpkg/tmp.ci; echo $?", "1\n"},
		{"getent passwd sshd | cut -d: -f1,6", "sshd:/run/sshd\n"},
		{"ls /lib/modules/*/modules.dep | wc -l", "1\n"},
		{"perl -e 'print 6*7'", "42"},
		{"python3 -c 1; echo $?", "sh: 1: python3: not found\n127\n"},
	} {
		got, err := run(t, s, tt.script)
		if err != nil || got != tt.want {
			t.Errorf("%s: %v\ngot  %q\nwant %q", tt.script, err, got, tt.want)
		}
	}
	// One more package, from the network, with a dependency and a trigger.
	resolv, _ := os.ReadFile("/etc/resolv.conf")
	root, err := os.OpenRoot(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.WriteFile("etc/resolv.conf", resolv, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, s, "apt-get -qq update && apt-get install -qq --no-install-recommends -y jq && echo '{\"a\":7}' | jq .a"); err != nil || !strings.HasSuffix(out, "\n7\n") {
		t.Errorf("apt-get install jq: %v\n%s", err, tailOf([]byte(out)))
	}
	if out, err := run(t, s, "apt-get install -qq -y --reinstall libpam-modules adduser && apt-get purge -qq -y jq && dpkg --audit && dpkg -V && apt-get check -qq"); err != nil || strings.Contains(out, "conffile") {
		t.Errorf("reinstall and purge: %v\n%s", err, tailOf([]byte(out)))
	}
	tree, err := os.OpenRoot(s.Tree())
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := Clean(tree); err != nil {
		t.Fatal(err)
	}
	if lists, _ := fs.Glob(tree.FS(), "var/lib/apt/lists/*_*"); len(lists) > 0 {
		t.Errorf("apt's lists are left: %v", lists)
	}
}
