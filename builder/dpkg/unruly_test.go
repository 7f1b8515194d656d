//go:build e2e

package dpkg

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/builder/foreign"
	"netroot/builder/need"
)

// TestE2EUnruly configures packages that dpkg would have trouble with, beside a minimal Debian.
func TestE2EUnruly(t *testing.T) {
	need.Root(t)
	work := t.TempDir()
	debs := download(t, work, "amd64", "usr-is-merged")
	add := func(p pkg) {
		p.ext, p.plain = ".xz", true
		file := filepath.Join(work, p.name+".deb")
		if err := os.WriteFile(file, p.bytes(t), 0o644); err != nil {
			t.Fatal(err)
		}
		debs = append(debs, file)
	}
	script := func(name, text string) thing {
		return thing{name: name, data: "#!/bin/sh\nset -e\n" + text, mode: 0o755}
	}
	file := func(name, text string) []thing {
		return append(dirs("", "usr/", "usr/bin/"), thing{name: name, data: text, mode: 0o755})
	}
	add(pkg{name: "original", files: file("usr/bin/tool", "#!/bin/sh\necho original\n")})
	add(pkg{name: "diverting", fields: "Pre-Depends: original", files: file("usr/bin/tool", "#!/bin/sh\necho diverted\n"),
		control: []thing{script("preinst", `test "$1" = install
dpkg-divert --package diverting --add --rename --divert /usr/bin/tool.original /usr/bin/tool
`)}})
	add(pkg{name: "curious", fields: "Depends: diverting", files: dirs(""), control: []thing{
		script("preinst", `env | grep ^DPKG_ | sort > /var/tmp/preinst-env; echo "$0 $*" >> /var/tmp/preinst-env; ls /var/lib/dpkg/tmp.ci >> /var/tmp/preinst-env
`), script("postinst", `echo "$@" > /var/tmp/postinst-args; (sleep 1000 &) ; systemctl daemon-reload || true
`)}})
	s := session(t, work, pinned(t, debs), "bookworm", "amd64")
	configure(t, s)
	for _, tt := range []struct{ script, want string }{
		{"tool; tool.original", "diverted\noriginal\n"},
		{"dpkg-divert --list | grep tool", "diversion of /usr/bin/tool to /usr/bin/tool.original by diverting\n"},
		{"cat /var/tmp/postinst-args", "configure \n"},
		{"grep -v RUNNING_VERSION /var/tmp/preinst-env", "DPKG_ADMINDIR=/var/lib/dpkg\nDPKG_MAINTSCRIPT_ARCH=all\nDPKG_MAINTSCRIPT_DEBUG=0\n" +
			"DPKG_MAINTSCRIPT_NAME=preinst\nDPKG_MAINTSCRIPT_PACKAGE=curious\nDPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1\nDPKG_ROOT=\n/var/lib/dpkg/tmp.ci/preinst install\ncontrol\nmd5sums\npostinst\npreinst\n"},
		{"dpkg -V; dpkg --audit; ls /var/lib/dpkg/ | grep held; true", ""},
	} {
		if got, err := run(t, s, tt.script); err != nil || got != tt.want {
			t.Errorf("%s: %v\ngot  %q\nwant %q", tt.script, err, got, tt.want)
		}
	}

	for _, which := range []string{"preinst", "postinst"} {
		work := t.TempDir()
		add(pkg{name: "failing", files: dirs(""), control: []thing{script(which, "echo about to fail\nexit 42\n")}})
		s := session(t, work, pinned(t, debs), "bookworm", "amd64")
		err := Configure(t.Context(), s, Options{})
		var e *ScriptError
		if !errors.As(err, &e) || e.Package != "failing" || e.Script != which || e.Code != 42 || !strings.Contains(e.Tail, "about to fail") {
			t.Errorf("a failing %s: %v", which, err)
		}
		debs = debs[:len(debs)-1]
		s.Close()
	}
}

// TestE2EI386 configures a 32-bit root with the kernel for machines without PAE.
func TestE2EI386(t *testing.T) {
	need.Root(t)
	foreign.Need(t)
	work := t.TempDir()
	debs := download(t, work, "i386", "usr-is-merged", "linux-image-686", "systemd-sysv", "isc-dhcp-client", "openssh-server", "apt")
	s := session(t, work, pinned(t, debs), "bookworm", "i386")
	configure(t, s)
	for _, tt := range []struct{ script, want string }{
		{"uname -m; dpkg --print-architecture", "i686\ni386\n"},
		{"dpkg -V; dpkg --audit; apt-get check -qq", ""},
		{"readlink /lib /bin /sbin; ls -d /lib64; true", "usr/lib\nusr/bin\nusr/sbin\nls: cannot access '/lib64': No such file or directory\n"},
		{"ls /boot/vmlinuz-* | grep -c 686$", "1\n"},
	} {
		if got, err := run(t, s, tt.script); err != nil || got != tt.want {
			t.Errorf("%s: %v\ngot  %q\nwant %q", tt.script, err, got, tt.want)
		}
	}
}

// download lets the host's apt choose and fetch packages for an empty machine.
func download(t *testing.T, work, arch string, want ...string) []string {
	t.Helper()
	need.Tools(t, "apt-get")
	hostSources(t, "bookworm")
	dir := filepath.Join(work, "apt")
	for _, sub := range []string{"lists/partial", "archives/partial"} {
		os.MkdirAll(filepath.Join(dir, sub), 0o755)
	}
	os.WriteFile(filepath.Join(dir, "status"), []byte(standInIs), 0o644)
	options := []string{"-o", "APT::Architecture=" + arch, "-o", "APT::Architectures::=" + arch, "-o", "Dir::State=" + dir,
		"-o", "Dir::State::status=" + dir + "/status", "-o", "Dir::Cache=" + dir, "-o", "APT::Install-Recommends=false",
		"-o", "APT::Sandbox::User=root", "-o", "Acquire::By-Hash=force", "-o", "Acquire::Retries=3", "-qq"}
	// A mirror of which one index is being replaced is good enough: the other suites have all packages, too.
	if out, err := exec.CommandContext(t.Context(), "apt-get", append(slices.Clone(options), "update")...).CombinedOutput(); err != nil {
		t.Logf("apt-get update: %v\n%s", err, tailOf(out))
	}
	args := append([]string{"-y", "--download-only", "install", "?essential", "?priority(required)"}, want...)
	if out, err := exec.CommandContext(t.Context(), "apt-get", append(options, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("apt-get %v: %v\n%s", args, err, tailOf(out))
	}
	debs, _ := filepath.Glob(dir + "/archives/*.deb")
	return debs
}
