package check

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	closure "netroot/builder/elf"
	"netroot/builder/need"
	"netroot/builder/tree"
)

const (
	release = "6.1.0-1-test"
	card    = "kernel/drivers/net/ethernet/intel/e1000/e1000.ko:\n" // its line in modules.dep
)

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
		"lib/modules/" + release + "/modules.dep":                    file(card+"kernel/fs/nfs/nfsv3.ko:\nkernel/fs/overlayfs/overlay.ko:\n", 0o644),
		"lib/modules/" + release + "/kernel/fs/nfs/nfsv3.ko":         file("", 0o644),
		"lib/modules/" + release + "/kernel/fs/overlayfs/overlay.ko": file("", 0o644),
		"etc/fstab":            file("# no disks\ntmpfs /scratch tmpfs defaults 0 0\nserver:/home /home nfs defaults 0 0\n", 0o644),
		"etc/resolv.conf":      file("", 0o644),
		"etc/nsswitch.conf":    file("passwd: files\nhosts:   files mdns4_minimal dns # the network\n", 0o644),
		"etc/machine-id":       file("", 0o444),
		"etc/hosts":            file("127.0.0.1\tlocalhost\n", 0o644),
		"sbin/dhclient":        file("", 0o755),
		"sbin/dhclient-script": file("", 0o755),
	}
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp"} {
		root[dir] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	}
	host := os.DirFS("/")
	shell, err := closure.Resolve(host, "/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range shell.Files {
		data, err := tree.ReadFile(host, name)
		if err != nil {
			t.Fatal(err)
		}
		root[name] = &fstest.MapFile{Data: data, Mode: 0o755}
	}
	if _, ok := root["bin/sh"]; !ok {
		t.Fatalf("the closure of /bin/sh has no bin/sh: %v", shell.Files)
	}
	return root
}

// tiny is an ELF header that says what it is for, and has no segments.
func tiny(class elf.Class, machine elf.Machine) string {
	b := make([]byte, 64)
	copy(b, elf.ELFMAG)
	b[4], b[5], b[6] = byte(class), byte(elf.ELFDATA2LSB), 1
	binary.LittleEndian.PutUint16(b[16:], uint16(elf.ET_DYN))
	binary.LittleEndian.PutUint16(b[18:], uint16(machine))
	binary.LittleEndian.PutUint32(b[20:], 1)
	return string(b)
}

func TestNothingWrong(t *testing.T) {
	if found := Run(goodRoot(t), Facts{}); len(found) > 0 {
		t.Errorf("a good root: %v", found)
	}
}

// Each row spoils a good root in one way, which must be found, and nothing else.
func TestFindings(t *testing.T) {
	need.Patience(t)
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
		{"folders", "/run missing", Warning, func(r fstest.MapFS) { delete(r, "run") }},
		{"init", "no /sbin/init", Error, func(r fstest.MapFS) { delete(r, "lib/init") }},
		{"init", "no /sbin/init", Error, func(r fstest.MapFS) { r["lib/init"].Mode = 0o644 }},
		{"kernel", "vmlinuz", Error, func(r fstest.MapFS) { delete(r, "boot/vmlinuz-"+release) }},
		{"nic-driver", "no driver for any wired network card", Error, func(r fstest.MapFS) {
			r["lib/modules/"+release+"/modules.dep"] = file("kernel/fs/nfs/nfsv3.ko:\nkernel/fs/overlayfs/overlay.ko:\n", 0o644)
		}},
		{"nfs-modules", "modules.dep", Error, func(r fstest.MapFS) { delete(r, "lib/modules/"+release+"/modules.dep") }},
		{"nfs-modules", "no module nfsv3", Error, func(r fstest.MapFS) {
			r["lib/modules/"+release+"/modules.dep"] = file(card+"kernel/fs/overlayfs/overlay.ko:\n", 0o644)
		}},
		{"nfs-modules", "no module overlay", Error, func(r fstest.MapFS) {
			r["lib/modules/"+release+"/modules.dep"] = file(card+"kernel/fs/nfs/nfsv3.ko:\n", 0o644)
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
		{"nsswitch", "does not ask files", Error, func(r fstest.MapFS) { r["etc/nsswitch.conf"] = file("hosts: dns\n", 0o644) }},
		{"name-modules", "is a 32-bit 386 library, and the C library a 64-bit X86_64 one", Error, func(r fstest.MapFS) {
			r["etc/nsswitch.conf"] = file("passwd: files sss\nhosts: files dns\n", 0o644)
			r["usr/lib/libnss_sss.so.2"] = file(tiny(elf.ELFCLASS32, elf.EM_386), 0o755)
		}},
		{"abi", "libc.so.6 runs on Linux 9.1.0 or newer, and the root's kernel is " + release, Error, func(r fstest.MapFS) {
			f := r[libc(r)]
			tag := bytes.Index(f.Data, []byte("GNU\x00\x00\x00\x00\x00\x03\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"))
			if tag < 0 {
				t.Fatal("the C library has no ABI tag of 3.2.0")
			}
			f.Data = bytes.Clone(f.Data)
			f.Data[tag+8], f.Data[tag+12] = 9, 1
		}},
		{"word-size", "/bin/mount is a 32-bit 386 program, and /bin/sh a 64-bit X86_64 one", Error, func(r fstest.MapFS) {
			r["bin/mount"] = file(tiny(elf.ELFCLASS32, elf.EM_386), 0o755)
		}},
		{"selinux", "SELINUX=enforcing", Error, func(r fstest.MapFS) { r["etc/selinux/config"] = file("SELINUX=enforcing # or not\n", 0o644) }},
		{"dhclient", "no /sbin/dhclient:", Warning, func(r fstest.MapFS) { delete(r, "sbin/dhclient") }},
		{"dhclient", "/sbin/dhclient cannot be executed", Error, func(r fstest.MapFS) { r["sbin/dhclient"].Mode = 0o644 }},
		{"dhclient", "no /sbin/dhclient-script", Warning, func(r fstest.MapFS) { r["sbin/dhclient-script"].Mode = 0o644 }},
		{"hosts", "no line for localhost", Warning, func(r fstest.MapFS) { r["etc/hosts"] = file("10.0.0.1 localhost.lab\n", 0o644) }},
		{"hosts", "no line for localhost", Warning, func(r fstest.MapFS) { delete(r, "etc/hosts") }},
		{"host.conf", `"hosts on"`, Warning, func(r fstest.MapFS) { r["etc/host.conf"] = file("multi on\nhosts on\n", 0o644) }},
		{"host.conf", `"multi yes", and`, Warning, func(r fstest.MapFS) { r["etc/host.conf"] = file("order hosts,bind\nmulti yes\n", 0o644) }},
		{"clock", "/etc/adjtime corrects the clock by -1.234567 seconds a day", Warning, func(r fstest.MapFS) {
			r["etc/adjtime"] = file("-1.234567 1400000000 0.000000\n1400000000\nUTC\n", 0o644)
		}},
		{"clock", "/var/lib/systemd/timesync/clock is of 2999-01-02", Warning, func(r fstest.MapFS) {
			r["var/lib/systemd/timesync/clock"] = &fstest.MapFile{Mode: 0o644, ModTime: time.Date(2999, 1, 2, 0, 0, 0, 0, time.UTC)}
		}},
		{"name-cache", "/var/db/nscd/hosts is in the image", Warning, func(r fstest.MapFS) { r["var/db/nscd/hosts"] = file("x", 0o600) }},
		{"ld.so.cache", "/etc/ld.so.cache is missing", Error, func(r fstest.MapFS) {
			r["etc/ld.so.conf"] = file("include ld.so.conf.d/*.conf\n", 0o644)
			r["etc/ld.so.conf.d/mysql.conf"] = file("/usr/lib/mysql\n", 0o644)
			r["usr/lib/mysql/libc.so.6"] = r[libc(r)]
		}},
		{"ld.so.cache", "does not know /usr/lib/mysql/libc.so.6", Error, func(r fstest.MapFS) {
			r["etc/ld.so.conf"] = file("/usr/lib/mysql\n", 0o644)
			r["usr/lib/mysql/libc.so.6"] = r[libc(r)]
			r["etc/ld.so.cache"] = file("ld.so-1.7.0\x00/lib/libm.so.6\x00", 0o644)
		}},
		{"ssh-host-keys", "/etc/ssh/ssh_host_rsa_key", Warning, func(r fstest.MapFS) { r["etc/ssh/ssh_host_rsa_key"] = file("", 0o600) }},
		{"name-service", "/bin/sh", Error, func(r fstest.MapFS) { delete(r, libc(r)) }},
		{"persistent-net", "70-persistent-net.rules", Error, func(r fstest.MapFS) { r["etc/udev/rules.d/70-persistent-net.rules"] = file("", 0o644) }},
		{"machine-id", "is set", Warning, func(r fstest.MapFS) { r["etc/machine-id"] = file("0123456789abcdef0123456789abcdef\n", 0o444) }},
	} {
		root := goodRoot(t)
		c.spoil(root)
		found := Run(root, Facts{})
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

// What is known of a root besides its files.
func TestFacts(t *testing.T) {
	root := goodRoot(t)
	root["lib/modules/"+release+"/modules.alias"] = file("alias pci:v00008086d00001076sv*sd*bc*sc*i* nfsv3\n", 0o644)
	root["lib/modules/"+release+"/modules.builtin.modinfo"] = file("e1000.license=GPL\x00e1000.alias=pci:v00008086d0000100Esv*sd*bc*sc*i*\x00", 0o644)
	root["etc/selinux/config"] = file("SELINUX=enforcing\n", 0o644)
	facts := Facts{
		Cmdline: []string{"selinux=0"}, PCI: []string{"8086:1076", "8086:100e", "10ec:8168"},
		Notes: []string{"no package has it, so the build did: wrote /etc/x", "package grumpy-1-1.noarch: its %post scriptlet failed with exit code 3"},
	}
	want := []Finding{
		{Error, "nic-driver", "kernel " + release + " has no driver for the PCI device 10ec:8168", "take a kernel that has one, or another card"},
		{Warning, "scriptlets", "package grumpy-1-1.noarch: its %post scriptlet failed with exit code 3", "see what it does (rpm -q --scripts); do what it could not in `hooks`"},
	}
	if got := Run(root, facts); !slices.Equal(got, want) {
		t.Errorf("found %v", got)
	}
}

// A module of the name service switch that needs a library which is not there: one of mount's does as such.
func TestNameModuleWithoutItsLibrary(t *testing.T) {
	host := os.DirFS("/")
	mount, err := closure.Resolve(host, "/bin/mount")
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(mount.Files, func(name string) bool { return strings.Contains(name, "/libmount.so.") })
	if at < 0 {
		t.Fatalf("mount has no libmount: %v", mount.Files)
	}
	library, err := tree.ReadFile(host, mount.Files[at])
	if err != nil {
		t.Fatal(err)
	}
	root := goodRoot(t)
	root["etc/nsswitch.conf"] = file("passwd: files sss\nhosts: files dns\n", 0o644)
	root["usr/lib/libnss_sss.so.2"] = file(string(library), 0o755)
	found := Run(root, Facts{})
	if len(found) != 1 || found[0].Check != "name-modules" || !strings.Contains(found[0].Problem, "usr/lib/libnss_sss.so.2 needs libblkid.so.1") {
		t.Errorf("found %v", found)
	}
}

// Folders that are copied into memory must fit.
func TestFoldersFit(t *testing.T) {
	root := goodRoot(t)
	root[folderList] = file("/etc\n/var\n", 0o644)
	root["var/lib/rpm/Packages"] = file(strings.Repeat("x", 5<<20), 0o644)
	for size, want := range map[string]string{"": "", "50%": "", "6m": "", "4g": "", "8388608": "", "5000k": "the writable folders hold 5 MB, and `root: size:` allows 5000k: /etc, /var"} {
		got := ""
		for _, f := range Run(root, Facts{Size: size}) {
			got += f.Problem
		}
		if got != want {
			t.Errorf("%q: %s", size, got)
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
			"lib/modules/" + release + "/modules.dep": file(card+"kernel/fs/nfs/nfsv3.ko:\n", 0o644),
			folderList: file("/etc\n", 0o644),
		},
		"a clock that is right, and words for another C library": {
			"etc/adjtime": file("0.0 0 0.0\n0\nLOCAL\n", 0o644), "etc/host.conf": file("order hosts, bind\nmulti on\nspoof off\n", 0o644),
			"usr/lib/clock-epoch": &fstest.MapFile{Mode: 0o644, ModTime: time.Now()},
		},
		"resolvconf":        {"etc/resolv.conf": link("/run/resolvconf/resolv.conf")},
		"no nsswitch.conf":  {"etc/nsswitch.conf": nil},
		"uninitialized id":  {"etc/machine-id": file("uninitialized\n", 0o444)},
		"init as a program": {"sbin/init": file("init", 0o755)},
	} {
		root := goodRoot(t)
		maps.Copy(root, change)
		maps.DeleteFunc(root, func(_ string, f *fstest.MapFile) bool { return f == nil })
		if found := Run(root, Facts{}); len(found) > 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
}
