package check

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"netroot/builder/lock"
	"netroot/builder/need"
	"netroot/builder/rpmdb"
)

// el6Root is a root with initscripts in which nothing is wrong.
func el6Root(t *testing.T) fstest.MapFS {
	root := goodRoot(t)
	for name, f := range map[string]*fstest.MapFile{
		"etc/init.d":                       link("rc.d/init.d"),
		"etc/rc.d/init.d/network":          file("#!/bin/bash\n", 0o755),
		"etc/rc.d/rc3.d/S10network":        link("../init.d/network"),
		"etc/rc.d/rc3.d/K84NetworkManager": link("../init.d/NetworkManager"),
		"etc/inittab":                      file("id:3:initdefault:\n", 0o644),
		"etc/sysconfig/network":            file("NETWORKING=yes\nHOSTNAME=x\n", 0o644),
		networkScripts + "/ifcfg-lo":       file("DEVICE=lo\n", 0o644),
		networkScripts + "/ifcfg-eth0":     file("DEVICE=eth0\nONBOOT=no\n", 0o644),
		"etc/sysconfig/readonly-root":      file("READONLY=no\nTEMPORARY_STATE=no\n", 0o644),
		"etc/rwtab":                        file("files\t/etc/resolv.conf\n", 0o644),
		"etc/sysconfig/iptables":           file("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j REJECT\n", 0o600),
	} {
		root[name] = f
	}
	return root
}

func TestEL6(t *testing.T) {
	if found := Run(el6Root(t), Facts{}); len(found) > 0 {
		t.Errorf("a good root: %v", found)
	}
	for _, c := range []struct {
		check, problem string
		severity       Severity
		spoil          func(fstest.MapFS)
	}{
		{"sysconfig-network", "/etc/sysconfig/network is missing", Error, func(r fstest.MapFS) { delete(r, "etc/sysconfig/network") }},
		{"sysconfig-network", "NETWORKING=no", Error, func(r fstest.MapFS) { r["etc/sysconfig/network"] = file("NETWORKING=\"no\"\n", 0o644) }},
		{"network-service", "no link S10network in /etc/rc.d/rc3.d", Error, func(r fstest.MapFS) { delete(r, "etc/rc.d/rc3.d/S10network") }},
		{"network-service", "no link S10network in /etc/rc.d/rc5.d", Error, func(r fstest.MapFS) {
			r["etc/inittab"] = file("id:5:initdefault:\n", 0o644)
			r["etc/rc.d/rc5.d/K90network"] = link("../init.d/network")
		}},
		{"network-manager", "NetworkManager is started", Error, func(r fstest.MapFS) { r["etc/rc.d/rc3.d/S23NetworkManager"] = link("../init.d/NetworkManager") }},
		{"ifcfg", "no /etc/sysconfig/network-scripts/ifcfg-* but that of lo", Warning, func(r fstest.MapFS) { delete(r, networkScripts+"/ifcfg-eth0") }},
		{"ifcfg", "HWADDR=00:20:38:03:37:6C", Warning, func(r fstest.MapFS) {
			r[networkScripts+"/ifcfg-eth0"] = file("DEVICE=eth0\nHWADDR=\"00:20:38:03:37:6C\"\n", 0o644)
		}},
		{"firewall", "-A INPUT -j REJECT", Error, func(r fstest.MapFS) { r["etc/rc.d/rc3.d/S08iptables"] = link("../init.d/iptables") }},
		{"firewall", ":INPUT DROP", Error, func(r fstest.MapFS) {
			r["etc/rc.d/rc3.d/S08iptables"] = link("../init.d/iptables")
			r["etc/sysconfig/iptables"] = file("*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\n", 0o600)
		}},
		{"firewall", "--sport 53", Error, func(r fstest.MapFS) {
			r["etc/rc.d/rc3.d/S08iptables"] = link("../init.d/iptables")
			r["etc/sysconfig/iptables"] = file("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --sport 53 -j DROP\n", 0o600)
		}},
		{"peer-dns", "PEERDNS=no for every card that comes up at boot (/etc/sysconfig/network-scripts/ifcfg-eth0, /etc/sysconfig/network-scripts/ifcfg-eth1)", Warning, func(r fstest.MapFS) {
			r["etc/sysconfig/network"] = file("NETWORKING=yes\nPEERDNS=no\n", 0o644)
			r[networkScripts+"/ifcfg-eth0"] = file("DEVICE=eth0\nONBOOT=yes\nBOOTPROTO=dhcp\nPEERDNS=\"no\"\n", 0o644)
			r[networkScripts+"/ifcfg-eth1"] = file("DEVICE=eth1\nBOOTPROTO=dhcp\n", 0o644)
		}},
		{"readonly-root", "/etc/rwtab.d/sssd mounts something over /var/lib/sss/db", Warning, func(r fstest.MapFS) {
			r[folderList], r["var"] = file("/var\n", 0o644), &fstest.MapFile{Mode: os.ModeDir | 0o755}
			r["etc/sysconfig/readonly-root"] = file("READONLY=yes\n", 0o644)
			r["etc/rwtab.d/sssd"] = file("empty\t/various\nempty\t/var/lib/sss/db/\n", 0o644)
		}},
		{"readonly-root", "does not say READONLY=yes", Warning, func(r fstest.MapFS) { r[folderList] = file("/etc\n", 0o644) }},
		{"readonly-root", "/etc/rwtab mounts something over /etc/resolv.conf", Warning, func(r fstest.MapFS) {
			r[folderList] = file("/etc\n", 0o644)
			r["etc/sysconfig/readonly-root"] = file("READONLY=yes\n", 0o644)
		}},
	} {
		root := el6Root(t)
		c.spoil(root)
		found := Run(root, Facts{})
		if len(found) != 1 || found[0].Check != c.check || found[0].Severity != c.severity || !strings.Contains(found[0].Problem, c.problem) || found[0].Fix == "" {
			t.Errorf("%s, %q: found %v", c.check, c.problem, found)
		}
	}
	// Name servers come some way.
	for _, change := range []map[string]string{
		{"usr/lib/netroot/lease": "#!/bin/sh\n"}, {"etc/resolv.conf": "nameserver 10.0.0.1\n"}, {networkScripts + "/ifcfg-eth1": "DEVICE=eth1\nDNS1=10.0.0.1\n"},
		{networkScripts + "/ifcfg-eth0": "DEVICE=eth0\nONBOOT=no\nPEERDNS=no\n"},
	} {
		root := el6Root(t)
		root[networkScripts+"/ifcfg-eth0"] = file("DEVICE=eth0\nPEERDNS=no\n", 0o644)
		for name, text := range change {
			root[name] = file(text, 0o644)
		}
		if found := Run(root, Facts{}); len(found) > 0 {
			t.Errorf("%v: %v", change, found)
		}
	}
	// A firewall as an installer writes it is none in the way.
	root := el6Root(t)
	root["etc/rc.d/rc3.d/S08iptables"] = link("../init.d/iptables")
	root["etc/sysconfig/iptables"] = file("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n", 0o600)
	if found := Run(root, Facts{}); len(found) > 0 {
		t.Errorf("an installer's firewall: %v", found)
	}
}

// demoDatabase is what rpm writes when it has installed one package.
var demoDatabase = sync.OnceValues(func() ([]byte, error) { return databaseWith() })

// databaseWith is the same with more packages, which have no files.
func databaseWith(more ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "netroot-rpmdb-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	const spec = `Name: demo
Version: 1
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
x
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/etc %{buildroot}/opt/demo
echo demo >%{buildroot}/usr/bin/demo
ln -s demo %{buildroot}/usr/bin/alias
echo conf >%{buildroot}/etc/demo.conf
touch %{buildroot}/opt/demo/ghost
%files
%attr(4755,root,root) /usr/bin/demo
/usr/bin/alias
%config /etc/demo.conf
%dir %attr(1777,root,root) /opt/demo
%ghost /opt/demo/ghost
`
	if err := os.WriteFile(dir+"/demo.spec", []byte(spec), 0o644); err != nil {
		return nil, err
	}
	commands := [][]string{}
	for _, name := range append([]string{"demo"}, more...) {
		if name != "demo" {
			text := fmt.Sprintf("Name: %s\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n%%description\nx\n%%files\n", name)
			if err := os.WriteFile(dir+"/"+name+".spec", []byte(text), 0o644); err != nil {
				return nil, err
			}
		}
		commands = append(commands,
			[]string{"rpmbuild", "-bb", "--define", "_topdir " + dir, "--define", "_rpmdir " + dir, "--define", "_rpmfilename " + name + ".rpm", "--define", "_dbpath " + dir + "/none", dir + "/" + name + ".spec"},
			[]string{"rpm", "-i", "--justdb", "--nodeps", "--define", "_db_backend sqlite", "--dbpath", dir + "/db", dir + "/" + name + ".rpm"})
	}
	for _, args := range commands {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%v: %w\n%s", args, err, out)
		}
	}
	return os.ReadFile(filepath.Join(dir, "db", rpmdb.Files[rpmdb.SQLite]))
}

// rpmRoot is a root with one package, in a database that the host's rpm wrote (sqlite).
func rpmRoot(t *testing.T) fstest.MapFS {
	t.Helper()
	need.Tools(t, "rpm", "rpmbuild")
	db, err := demoDatabase()
	if err != nil {
		t.Fatal(err)
	}
	root := goodRoot(t)
	root["usr/bin/rpm"] = file(string(root["bin/sh"].Data), 0o755)
	root["usr/lib/rpm/macros"] = file("%_dbpath\t%{_var}/lib/rpm\n%_db_backend\t      sqlite\n", 0o644)
	root["var/lib/rpm/rpmdb.sqlite"] = file(string(db), 0o644)
	root["usr/bin/demo"] = file("demo\n", 0o755|os.ModeSetuid)
	root["usr/bin/alias"] = link("demo")
	root["etc/demo.conf"] = file("changed\n", 0o600)
	root["opt/demo"] = &fstest.MapFile{Mode: os.ModeDir | os.ModeSticky | 0o777}
	return root
}

func TestPackages(t *testing.T) {
	need.Patience(t)
	const fix = "install with the root's own rpm"
	for _, c := range []struct {
		check, problem string
		severity       Severity
		spoil          func(fstest.MapFS)
	}{
		{"", "", "", func(fstest.MapFS) {}},
		{"rpm-database", "the root's rpm reads Berkeley DB, and the list of packages is in /var/lib/rpm/rpmdb.sqlite, which is sqlite", Error, func(r fstest.MapFS) {
			delete(r, "usr/lib/rpm/macros") // as on EL6
		}},
		{"rpm-database", "in /root/.rpmdb, where Debian's rpm has it", Error, func(r fstest.MapFS) {
			r["root/.rpmdb/rpmdb.sqlite"] = r["var/lib/rpm/rpmdb.sqlite"]
			delete(r, "var/lib/rpm/rpmdb.sqlite")
		}},
		{"rpm-database", "there is no list of installed packages", Error, func(r fstest.MapFS) { delete(r, "var/lib/rpm/rpmdb.sqlite") }},
		{"rpm-database", "is no database of rpm's", Error, func(r fstest.MapFS) { r["var/lib/rpm/rpmdb.sqlite"] = file(strings.Repeat("x", 100), 0o644) }},
		{"rpm-database", "cannot be read", Error, func(r fstest.MapFS) {
			r["var/lib/rpm/rpmdb.sqlite"].Data = r["var/lib/rpm/rpmdb.sqlite"].Data[:8192]
		}},
		{"package-files", "1 files are not as their packages have them: /usr/bin/demo (mode 0755, not 4755)", Warning, func(r fstest.MapFS) { r["usr/bin/demo"].Mode = 0o755 }},
		{"package-files", "/usr/bin/demo (other content)", Warning, func(r fstest.MapFS) { r["usr/bin/demo"].Data = []byte("Demo\n") }},
		{"package-files", "/usr/bin/demo (4 bytes, not 5)", Warning, func(r fstest.MapFS) { r["usr/bin/demo"].Data = []byte("demo") }},
		{"package-files", "/usr/bin/alias (missing)", Warning, func(r fstest.MapFS) { delete(r, "usr/bin/alias") }},
		{"package-files", "/usr/bin/alias (not a link to demo)", Warning, func(r fstest.MapFS) { r["usr/bin/alias"] = link("other") }},
		{"package-files", "/opt/demo (mode 0777, not 1777)", Warning, func(r fstest.MapFS) { r["opt/demo"].Mode = os.ModeDir | 0o777 }},
	} {
		root := rpmRoot(t)
		c.spoil(root)
		found := Run(root, Facts{Packages: []lock.Package{{Name: "demo", Version: "1-1", Arch: "noarch"}}})
		if c.check == "" {
			if len(found) > 0 {
				t.Errorf("a good root: %v", found)
			}
			continue
		}
		if len(found) != 1 || found[0].Check != c.check || found[0].Severity != c.severity || !strings.Contains(found[0].Problem, c.problem) {
			t.Errorf("%s, %q: found %v", c.check, c.problem, found)
		}
	}
	found := Run(rpmRoot(t), Facts{Packages: []lock.Package{{Name: "demo", Version: "1-1", Arch: "noarch"}, {Name: "glibc", Version: "2.12-1", Arch: "i686"}}})
	if len(found) != 1 || !strings.Contains(found[0].Problem, "rpm knows 1 packages, and 2 should be there; it does not know glibc.i686") || !strings.Contains(found[0].Fix, fix) {
		t.Errorf("a package that rpm does not know: %v", found)
	}
	// More than was planned: a package that a hook added, and one that it replaced by another version.
	for name, c := range map[string]struct {
		add     []string
		planned lock.Package
		problem string
	}{
		"added":    {[]string{"extra"}, lock.Package{Name: "demo", Version: "1-1", Arch: "noarch"}, "rpm knows 2 packages, and 1 should be there; nobody planned extra-1-1.noarch"},
		"replaced": {nil, lock.Package{Name: "demo", Version: "0.9-1", Arch: "noarch"}, "rpm knows 1 packages, and 1 should be there; nobody planned demo-1-1.noarch"},
	} {
		db, err := databaseWith(c.add...)
		if err != nil {
			t.Fatal(err)
		}
		root := rpmRoot(t)
		root["var/lib/rpm/rpmdb.sqlite"] = file(string(db), 0o644)
		found := Run(root, Facts{Packages: []lock.Package{c.planned}})
		if len(found) != 1 || found[0].Check != "rpm-database" || found[0].Severity != Warning || !strings.Contains(found[0].Problem, c.problem) || !strings.Contains(found[0].Fix, "list it in `packages`") {
			t.Errorf("%s: %v", name, found)
		}
		if found := Run(root, Facts{}); len(found) > 0 {
			t.Errorf("%s, in a root that nobody planned: %v", name, found)
		}
	}
}

// What MapFS cannot have: owners.
func TestPackageOwners(t *testing.T) {
	need.Root(t)
	root := rpmRoot(t)
	root["etc/passwd"], root["etc/group"] = file("root:x:0:0::/root:/bin/sh\nhost:x:7:7::/:/bin/sh\n", 0o644), file("root:x:0:\n", 0o644)
	dir := t.TempDir()
	if err := os.CopyFS(dir, root); err != nil {
		t.Fatal(err)
	}
	demo := filepath.Join(dir, "usr/bin/demo")
	for _, c := range []struct {
		uid, gid int
		want     string
	}{
		{0, 0, ""}, {7, 0, "/usr/bin/demo (belongs to user 7, not root)"}, {0, 7, "/usr/bin/demo (belongs to group 7, not root)"},
	} {
		if err := errors.Join(os.Chown(demo, c.uid, c.gid), os.Chmod(demo, 0o755|os.ModeSetuid), os.Chmod(filepath.Join(dir, "opt/demo"), 0o777|os.ModeSticky)); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range Run(os.DirFS(dir), Facts{}) {
			got += f.Check + ": " + f.Problem
		}
		if want := "package-files: 1 files are not as their packages have them: " + c.want; got != want && (c.want != "" || got != "") {
			t.Errorf("%d:%d: %q, want %q", c.uid, c.gid, got, want)
		}
	}
}
