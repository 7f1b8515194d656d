package check

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"netroot/builder/elf"
	"netroot/builder/tree"
)

const release = "6.1.0-1-test"

func file(content string, mode fs.FileMode) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(content), Mode: mode}
}

func link(target string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
}

// goodRoot is a root in which nothing is wrong. Its shell and C library are those of the machine that runs the test.
func goodRoot(t *testing.T) fstest.MapFS {
	t.Helper()
	root := fstest.MapFS{
		"sbin/init":               link("/lib/init"),
		"lib/init":                file("init", 0o755),
		"boot/vmlinuz-" + release: file("kernel", 0o644),
		"lib/modules/" + release + "/modules.dep":                    file("kernel/fs/nfs/nfsv3.ko:\nkernel/fs/overlayfs/overlay.ko:\n", 0o644),
		"lib/modules/" + release + "/kernel/fs/nfs/nfsv3.ko":         file("", 0o644),
		"lib/modules/" + release + "/kernel/fs/overlayfs/overlay.ko": file("", 0o644),
		"etc/fstab":         file("# no disks\ntmpfs /scratch tmpfs defaults 0 0\nserver:/home /home nfs defaults 0 0\n", 0o644),
		"etc/resolv.conf":   file("", 0o644),
		"etc/nsswitch.conf": file("passwd: files\nhosts:   files mdns4_minimal dns # the network\n", 0o644),
		"etc/machine-id":    file("", 0o444),
	}
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp"} {
		root[dir] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	}
	host := os.DirFS("/")
	closure, err := elf.Resolve(host, "/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range closure.Files {
		data, err := tree.ReadFile(host, name)
		if err != nil {
			t.Fatal(err)
		}
		root[name] = &fstest.MapFile{Data: data, Mode: 0o755}
	}
	if _, ok := root["bin/sh"]; !ok {
		t.Fatalf("the closure of /bin/sh has no bin/sh: %v", closure.Files)
	}
	return root
}

func TestNothingWrong(t *testing.T) {
	if found := Run(goodRoot(t)); len(found) > 0 {
		t.Errorf("a good root: %v", found)
	}
}

// Each row spoils a good root in one way, which must be found, and nothing else.
func TestFindings(t *testing.T) {
	libc := func(root fstest.MapFS) string {
		for name := range root {
			if path.Base(name) == "libc.so.6" {
				return name
			}
		}
		t.Fatal("no libc.so.6")
		return ""
	}
	for _, c := range []struct {
		check, problem string
		severity       Severity
		spoil          func(fstest.MapFS)
	}{
		{"folders", "/proc missing", Error, func(r fstest.MapFS) { delete(r, "proc") }},
		{"init", "no /sbin/init", Error, func(r fstest.MapFS) { delete(r, "lib/init") }},
		{"init", "no /sbin/init", Error, func(r fstest.MapFS) { r["lib/init"].Mode = 0o644 }},
		{"kernel", "vmlinuz", Error, func(r fstest.MapFS) { delete(r, "boot/vmlinuz-"+release) }},
		{"nfs-modules", "modules.dep", Error, func(r fstest.MapFS) { delete(r, "lib/modules/"+release+"/modules.dep") }},
		{"nfs-modules", "no module nfsv3", Error, func(r fstest.MapFS) {
			r["lib/modules/"+release+"/modules.dep"] = file("kernel/fs/overlayfs/overlay.ko:\n", 0o644)
		}},
		{"nfs-modules", "no module overlay", Error, func(r fstest.MapFS) {
			r["lib/modules/"+release+"/modules.dep"] = file("kernel/fs/nfs/nfsv3.ko:\n", 0o644)
		}},
		{"writable-folders", "into memory /var of 94 MB (/var/cache/yum alone has 67)", Warning, func(r fstest.MapFS) {
			r[folderList] = file("# all\n/var\n/etc\n", 0o644)
			r["var/cache/yum/a"] = file(strings.Repeat("x", 64<<20), 0o644)
			r["var/lib/rpm/Packages"] = file(strings.Repeat("x", 26<<20), 0o644)
		}},
		{"writable-folders", "/home is to be writable, and is not there", Warning, func(r fstest.MapFS) { r[folderList] = file("/home\n", 0o644) }},
		{"fstab", "/dev/sda1 on /", Error, func(r fstest.MapFS) { r["etc/fstab"] = file("/dev/sda1 / ext4 defaults 0 1\n", 0o644) }},
		{"fstab", "UUID=12-34 on /boot", Error, func(r fstest.MapFS) { r["etc/fstab"] = file("UUID=12-34 /boot vfat defaults 0 1\n", 0o644) }},
		{"resolv.conf", "missing", Warning, func(r fstest.MapFS) { delete(r, "etc/resolv.conf") }},
		{"resolv.conf", "mode 0600", Error, func(r fstest.MapFS) { r["etc/resolv.conf"].Mode = 0o600 }},
		{"resolv.conf", "not installed", Error, func(r fstest.MapFS) { r["etc/resolv.conf"] = link("../run/systemd/resolve/stub-resolv.conf") }},
		{"resolv.conf", "/etc/other", Error, func(r fstest.MapFS) { r["etc/resolv.conf"] = link("/etc/other") }},
		{"nsswitch", "does not ask dns", Error, func(r fstest.MapFS) { r["etc/nsswitch.conf"] = file("hosts: files\n", 0o644) }},
		{"name-service", "libnss_files.so.2", Error, func(r fstest.MapFS) {
			// A C library from before 2.34, which loads its sources.
			f := r[libc(r)]
			f.Data = bytes.ReplaceAll(f.Data, []byte("_nss_dns_gethostbyname4_r"), []byte("_old_dns_gethostbyname4_r"))
		}},
		{"name-service", "/bin/sh", Error, func(r fstest.MapFS) { delete(r, libc(r)) }},
		{"persistent-net", "70-persistent-net.rules", Error, func(r fstest.MapFS) { r["etc/udev/rules.d/70-persistent-net.rules"] = file("", 0o644) }},
		{"machine-id", "is set", Warning, func(r fstest.MapFS) { r["etc/machine-id"] = file("0123456789abcdef0123456789abcdef\n", 0o444) }},
	} {
		root := goodRoot(t)
		c.spoil(root)
		found := Run(root)
		if len(found) != 1 || found[0].Check != c.check || found[0].Severity != c.severity || !strings.Contains(found[0].Problem, c.problem) {
			t.Errorf("%s, %q: found %v", c.check, c.problem, found)
			continue
		}
		if found[0].Fix == "" {
			t.Errorf("%s: no way out: %v", c.check, found[0])
		}
		var unfit *UnfitError
		if err := Fitness("image", found); errors.As(err, &unfit) != (c.severity == Error) {
			t.Errorf("%s: Fitness says %v", c.check, err)
		}
	}
}

// What is made at boot need not be there.
func TestNotWrong(t *testing.T) {
	for name, change := range map[string]fstest.MapFS{
		"resolved is installed": {
			"etc/resolv.conf":                      link("../run/systemd/resolve/stub-resolv.conf"),
			"usr/lib/systemd/systemd-resolved":     file("", 0o755),
			"lib/systemd/systemd-resolved-comment": file("", 0o644),
		},
		"a kernel without overlayfs, and no need of it": {
			"lib/modules/" + release + "/modules.dep": file("kernel/fs/nfs/nfsv3.ko:\n", 0o644),
			folderList: file("/etc\n", 0o644),
		},
		"resolvconf":        {"etc/resolv.conf": link("/run/resolvconf/resolv.conf")},
		"no nsswitch.conf":  {"etc/nsswitch.conf": nil},
		"uninitialized id":  {"etc/machine-id": file("uninitialized\n", 0o444)},
		"init as a program": {"sbin/init": file("init", 0o755)},
	} {
		root := goodRoot(t)
		maps.Copy(root, change)
		maps.DeleteFunc(root, func(_ string, f *fstest.MapFile) bool { return f == nil })
		if found := Run(root); len(found) > 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
}
