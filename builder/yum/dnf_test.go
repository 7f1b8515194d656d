package yum

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"netroot/builder/fetch"
	"netroot/builder/need"
)

// resolveByDNF has dnf resolve sets of wanted packages for an empty root, each in the same process.
const resolveByDNF = `
import dnf, json, sys
repo, root, arch, sets = sys.argv[1], sys.argv[2], sys.argv[3], json.load(sys.stdin)
out = []
for want in sets:
    base = dnf.Base()
    c = base.conf
    c.installroot, c.cachedir, c.reposdir, c.pluginpath = root, root + "/cache", [], []
    c.install_weak_deps, c.gpgcheck, c.best = False, False, True
    c.arch = arch
    c.substitutions["releasever"] = "1"
    base.repos.add_new_repo("fixture", c, baseurl=["file://" + repo])
    base.fill_sack(load_system_repo=False)
    try:
        for w in want:
            if w.startswith("@"):
                base.read_comps()
                base.environment_or_group = base.comps.group_by_pattern(w[1:])
                base.group_install(base.environment_or_group.id, ("mandatory", "default", "conditional"))
            else:
                base.install(w)
        base.resolve()
        out.append(sorted("%s-%s%s-%s.%s" % (p.name, (str(p.e) + ":") if p.e else "", p.v, p.r, p.arch) for p in base.transaction.install_set))
    except dnf.exceptions.Error as e:
        out.append(str(e))
    base.close()
json.dump(out, sys.stdout)
`

func byDNF(t *testing.T, repo, arch string, sets [][]string) []json.RawMessage {
	t.Helper()
	const python = "/usr/bin/python3" // the one that Debian's dnf is written for
	if err := exec.Command(python, "-c", "import dnf").Run(); err != nil {
		need.Missing(t, "dnf is not installed: %v", err)
	}
	in, err := json.Marshal(sets)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", resolveByDNF, repo, t.TempDir(), arch)
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("dnf: %v\n%s", err, stderr.Bytes())
	}
	var answers []json.RawMessage
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatalf("%v: %.300s", err, out)
	}
	return answers
}

func openRepo(t testing.TB, dir, arch string, files ...string) *Universe {
	t.Helper()
	u, err := Open(t.Context(), Config{Repos: []Repo{{Name: "fixture", BaseURL: "file://" + dir}}, Arch: arch, Files: files}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// seeds reach most of what a distribution has: servers, desktops, languages, kernels.
var seeds = []string{
	"bash", "coreutils", "systemd-sysv", "openssh-server", "python3", "perl", "vim", "emacs-nox", "postgresql", "mariadb-server",
	"apache2", "nginx", "git", "gcc", "g++", "make", "cmake", "golang-go", "openjdk-17-jre-headless", "ruby", "nodejs", "php",
	"linux-image-amd64", "firmware-linux-free", "nfs-kernel-server", "rpcbind", "samba", "bind9", "dnsmasq", "postfix", "exim4", "dovecot-imapd",
	"xserver-xorg", "xfce4", "gnome-core", "lightdm", "libreoffice-calc", "gimp", "ffmpeg", "docker.io", "qemu-system-x86", "libvirt-daemon-system",
	"texlive-latex-base", "r-base-core", "octave", "root-system-bin", "gnuplot-nox", "tcsh", "ksh", "rsyslog", "cron", "chrony", "network-manager",
}

// TestDNF compares what is resolved with what dnf resolves. Where several packages provide a name and nothing but the order in
// which libsolv numbers names decides, the sets may differ; then dnf has to find that ours needs nothing added.
func TestDNF(t *testing.T) {
	need.Patience(t)
	packages := debianAsRPM(t, "i686", seeds)
	dir := t.TempDir()
	writeRepo(t, dir, packages, "")
	u := openRepo(t, dir, "i686")
	var sets [][]string
	for _, s := range seeds {
		if u.byName[s] != nil {
			sets = append(sets, []string{s})
		}
	}
	sets = append(sets, []string{"bash", "openssh-server", "postfix", "python3"}, []string{"systemd-sysv", "chrony", "cron"}, []string{"python3", "nginx", "dnsmasq"})
	equal := 0
	var others [][]string
	var names []string
	for i, answer := range byDNF(t, dir, "i686", sets) {
		name := strings.Join(sets[i], "+")
		packages, err := u.Resolve(Want{Packages: sets[i]})
		var theirs, ours []string
		if json.Unmarshal(answer, &theirs) != nil {
			if err == nil {
				t.Errorf("%s: resolved to %d packages, dnf says %s", name, len(packages), answer)
			} else {
				equal++
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: dnf finds %d packages, and we: %v", name, len(theirs), err)
			continue
		}
		for _, p := range packages {
			ours = append(ours, p.String())
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		if slices.Equal(ours, theirs) {
			equal++
			continue
		}
		names, others = append(names, name), append(others, ours)
	}
	t.Logf("%d of %d sets of %d packages are equal", equal, len(sets), len(packages))
	if equal < 50 {
		t.Errorf("only %d of %d sets are equal; the others: %v", equal, len(sets), names)
	}
	for i, answer := range byDNF(t, dir, "i686", others) {
		var theirs []string
		if json.Unmarshal(answer, &theirs) != nil || !slices.Equal(theirs, others[i]) {
			t.Errorf("%s: of our %d packages dnf says: %.300s", names[i], len(others[i]), answer)
		}
	}
}
