package apt

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/builder/fetch"
	"netroot/builder/need"
)

// hostSuite is the suite of the machine's own Debian.
func hostSuite(t *testing.T) string {
	t.Helper()
	data, _ := os.ReadFile("/etc/os-release")
	m := regexp.MustCompile(`(?m)^VERSION_CODENAME="?([a-z]+)`).FindSubmatch(data)
	if m == nil {
		need.Missing(t, "this machine's distribution has no code name")
	}
	return string(m[1])
}

// openHost opens the host's own archive, or skips.
func openHost(t *testing.T, cfg Config, dir string) *Universe {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	u, err := Open(ctx, cfg, &fetch.Fetcher{Cache: fetch.Cache{Dir: dir}, Attempts: 2})
	if err != nil {
		need.Missing(t, "the host's apt sources cannot be used: %v", err)
	}
	return u
}

// aptGet is a real apt-get on an empty system: no dpkg status, state and cache of its own.
type aptGet struct {
	dir  string
	arch string
}

// newAptGet lets apt-get read the same repositories as u.
func newAptGet(t *testing.T, u *Universe) aptGet {
	t.Helper()
	need.Tools(t, "apt-get")
	a := aptGet{dir: t.TempDir(), arch: u.cfg.Arch}
	// apt-get drops its rights to the user _apt while it downloads.
	if err := os.Chmod(a.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "etc/preferences.d"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var list strings.Builder
	for _, r := range u.repos {
		fmt.Fprintf(&list, "deb [trusted=yes] %s %s %s\n", r.base, r.suite, strings.Join(r.components, " "))
	}
	for name, text := range map[string]string{"etc/sources.list": list.String(), "status": ""} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := a.run("update"); err != nil {
		need.Missing(t, "apt-get update: %v\n%s", err, out)
	}
	return a
}

func (a aptGet) run(args ...string) (string, error) {
	cmd := exec.Command("apt-get", append([]string{
		"-o", "Dir::State=" + a.dir + "/state", "-o", "Dir::State::status=" + a.dir + "/status",
		"-o", "Dir::Cache=" + a.dir + "/cache", "-o", "Dir::Cache::pkgcache=pkgcache.bin", "-o", "Dir::Cache::srcpkgcache=srcpkgcache.bin",
		"-o", "Dir::Etc::sourcelist=" + a.dir + "/etc/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::Etc::preferences=/dev/null", "-o", "Dir::Etc::preferencesparts=" + a.dir + "/etc/preferences.d",
		"-o", "APT::Architecture=" + a.arch, "-o", "APT::Architectures=" + a.arch, "-o", "APT::Update::Post-Invoke-Success::=", "-o", "Acquire::Languages=none",
		"-o", "APT::Install-Recommends=false", "-o", "APT::Sandbox::User=root", "-o", "Acquire::GzipIndexes=false",
	}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The file names that --print-uris ends its lines with: name_version_arch.deb, the colon of an epoch written %3a. It is
// used instead of -s because simulating makes apt-get build its cache anew each time.
var printedURI = regexp.MustCompile(`(?m)^'[^']+' ([^_]+)_([^_]+)_[a-z0-9]+\.deb `)

// install returns "name version" of everything apt-get would install.
func (a aptGet) install(names []string) ([]string, error) {
	out, err := a.run(append([]string{"-y", "--print-uris", "--no-install-recommends", "install"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	var got []string
	for _, m := range printedURI.FindAllStringSubmatch(out, -1) {
		got = append(got, m[1]+" "+strings.ReplaceAll(m[2], "%3a", ":"))
	}
	slices.Sort(got)
	return got, nil
}

// The wanted sets that are compared with apt-get's choice.
var oracleSets = map[string][]string{
	"amd64": {
		"", "linux-image-amd64", "systemd-sysv iproute2 openssh-server",
		"linux-image-amd64 systemd-sysv nfs-common iproute2 isc-dhcp-client busybox",
		"linux-image-cloud-amd64 linux-headers-amd64", "sysvinit-core openrc", "init", "nginx", "apache2 php", "postgresql", "mariadb-server",
		"exim4", "postfix", "build-essential", "default-jre-headless",
		"xorg openbox", "task-gnome-desktop", "task-kde-desktop", "xfce4 lightdm", "firefox-esr",
		"qemu-system-x86", "samba", "dnsmasq", "network-manager",
		"ca-certificates curl wget git", "lvm2 mdadm cryptsetup-initramfs", "grub-pc", "pxelinux syslinux-common", "initramfs-tools", "dracut",
		"chromium", "nodejs npm", "slurmd", "ansible",
		"postfix exim4-daemon-light", "dbus-broker", "libpam-ldapd sssd",
	},
	"i386": {
		"", "linux-image-686", "linux-image-686-pae systemd-sysv iproute2 openssh-server isc-dhcp-client", "nginx", "xorg openbox", "build-essential", "sysvinit-core", "default-mta",
	},
}

var nextSets = []string{"", "linux-image-amd64 systemd-sysv udev libpam-systemd iproute2 isc-dhcp-client openssh-server", "cloud-init", "nginx", "task-xfce-desktop", "build-essential", "sysvinit-core"}

// Packages that ask first for a name which only others provide, several of them and none better than the next. There
// apt-get's choice and the one made here may differ, so apt-get is given the whole result instead: it must not want
// anything more, nor refuse.
var oracleTies = []string{"wireguard", "libtesseract-dev", "sa-exim", "kde-telepathy-minimal", "libow-php7"}

func TestOracleAptGet(t *testing.T) {
	need.Patience(t)
	suite := hostSuite(t)
	cache := t.TempDir()
	if suite == "bookworm" { // the release after it, from the same mirror
		u := openHost(t, Config{Suite: "trixie", Arch: "amd64"}, cache)
		sets := nextSets
		if os.Getenv("CI") == "" {
			sets = sets[:2]
		}
		compareWithAptGet(t, u, newAptGet(t, u), sets)
	}
	for _, arch := range []string{"amd64", "i386"} {
		cfg := Config{Suite: suite, Arch: arch}
		if arch == "i386" { // through an explicit mirror, for the sake of that way
			m, err := NewMirrors(cfg)
			if err != nil {
				need.Missing(t, "%v", err)
			}
			cfg.Mirror = m.repos[0].base
		}
		u := openHost(t, cfg, cache)
		apt, sets, ties := newAptGet(t, u), oracleSets[arch], oracleTies
		if os.Getenv("CI") == "" {
			sets, ties = sets[:4], ties[:1]
		}
		compareWithAptGet(t, u, apt, sets)
		if arch == "amd64" {
			for _, want := range ties {
				pkgs, err := u.Resolve([]string{want})
				if err != nil {
					t.Errorf("want %s: %v", want, err)
					continue
				}
				var names, ours []string
				for _, p := range pkgs {
					names, ours = append(names, p.Name), append(ours, p.String())
				}
				slices.Sort(ours)
				if theirs, err := apt.install(names); err != nil || !slices.Equal(ours, theirs) {
					t.Errorf("want %s: apt-get does not take the result as it is: %v\n%v\n%v", want, err, ours, theirs)
				}
			}
		}
	}
}

func compareWithAptGet(t *testing.T, u *Universe, apt aptGet, sets []string) {
	var base []string
	for _, p := range u.base() {
		base = append(base, p.Name)
	}
	var wg sync.WaitGroup
	limit := make(chan bool, runtime.GOMAXPROCS(0))
	for _, set := range sets {
		wg.Go(func() {
			limit <- true
			defer func() { <-limit }()
			want := strings.Fields(set)
			theirs, theirErr := apt.install(append(slices.Clone(base), want...))
			pkgs, err := u.Resolve(want)
			if (err == nil) != (theirErr == nil) {
				t.Errorf("%s, want %q: %v; apt-get: %v", u.cfg.Arch, set, err, theirErr)
				return
			}
			if err != nil {
				t.Logf("%s, want %q: refused by both: %v", u.cfg.Arch, set, err)
				return
			}
			ours := make([]string, len(pkgs))
			for i, p := range pkgs {
				ours[i] = p.String()
			}
			slices.Sort(ours)
			only := func(a, b []string) []string {
				return slices.DeleteFunc(slices.Clone(a), func(x string) bool { return slices.Contains(b, x) })
			}
			if !slices.Equal(ours, theirs) {
				t.Errorf("%s, want %q: %d packages; only here: %v; only apt-get: %v", u.cfg.Arch, set, len(ours), only(ours, theirs), only(theirs, ours))
				return
			}
			t.Logf("%s, want %q: %d packages, the same", u.cfg.Arch, set, len(ours))
		})
	}
	wg.Wait()
}
