package dpkg

import (
	"archive/tar"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/builder/need"
)

func dirs(names ...string) []thing {
	var all []thing
	for _, n := range names {
		all = append(all, thing{name: n})
	}
	return all
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var baseFiles = pkg{name: "base-files", fields: "Version: 12.4\nEssential: yes", ext: ".gz",
	files: append(dirs("", "etc/", "lib/", "bin/", "sbin/", "usr/", "usr/bin/", "usr/lib/", "usr/sbin/", "var/"), thing{name: "tmp/", mode: 0o1777})}

func TestMergedUsr(t *testing.T) {
	dir, err := build(t, Cache{t.TempDir()}, baseFiles,
		pkg{name: "libc6", fields: "Multi-Arch: same\nArchitecture: amd64", ext: ".xz", files: append(dirs("", "lib64/", "lib/", "lib/x/"),
			thing{name: "lib64/ld.so", link: "/lib/x/ld.so"}, thing{name: "lib/x/ld.so", data: "ld"})},
		pkg{name: "sh", ext: ".gz", files: append(dirs("", "bin/"), thing{name: "bin/sh", data: "sh"}, thing{name: "usr/bin/sh", link: "/bin/sh"})})
	if err != nil {
		t.Fatal(err)
	}
	for link, want := range map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"} {
		if got, err := os.Readlink(filepath.Join(dir, link)); err != nil || got != want {
			t.Errorf("/%s leads to %q, %v", link, got, err)
		}
	}
	for _, absent := range []string{"lib32", "libx32"} {
		if _, err := os.Lstat(filepath.Join(dir, absent)); err == nil {
			t.Errorf("/%s is there", absent)
		}
	}
	if got := read(t, dir, "usr/bin/sh"); got != "sh" {
		t.Errorf("a link to itself replaced the program: %q", got)
	}
	if got := read(t, dir, "usr/lib/x/ld.so"); got != "ld" {
		t.Errorf("got %q", got)
	}
	if got := read(t, dir, "var/lib/dpkg/info/libc6:amd64.list"); got != "/.\n/lib64\n/lib\n/lib/x\n/lib64/ld.so\n/lib/x/ld.so\n" {
		t.Errorf("list:\n%s", got)
	}
	if st, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || st.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("tmp: %v", st.Mode())
	}
	old := baseFiles
	old.fields = "Version: 9.9+deb9u13"
	dir, err = build(t, Cache{t.TempDir()}, old, pkg{name: "sh", ext: ".gz", files: append(dirs("", "bin/"), thing{name: "bin/sh", data: "sh"})})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(filepath.Join(dir, "bin")); err != nil || !st.IsDir() {
		t.Errorf("Debian 9 has no merged /usr: %v", st.Mode())
	}
	// Debian 13 ships the links.
	newer := pkg{name: "base-files", fields: "Version: 13.8", ext: ".gz", files: append(dirs("", "usr/", "usr/bin/"),
		thing{name: "bin", link: "usr/bin"}, thing{name: "usr/bin/sh", data: "sh"})}
	if dir, err = build(t, Cache{t.TempDir()}, newer); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.Readlink(filepath.Join(dir, "bin")); got != "usr/bin" {
		t.Errorf("bin -> %q", got)
	}
}

func TestConflicts(t *testing.T) {
	file := func(name, data string) []thing {
		return append(dirs("", "usr/"), thing{name: name, data: data})
	}
	for _, tt := range []struct {
		name string
		pkgs []pkg
		want string // what /usr/x holds, or the error
		lost string // the package whose list must not have it
	}{
		{"no replaces", []pkg{{name: "a", files: file("usr/x", "a")}, {name: "b", files: file("usr/x", "b")}},
			"error: packages a and b both ship /usr/x", ""},
		{"later replaces", []pkg{{name: "a", files: file("usr/x", "a")}, {name: "b", fields: "Replaces: a (<< 2)", files: file("usr/x", "b")}}, "b", "a"},
		{"earlier replaces", []pkg{{name: "a", fields: "Replaces: z, b", files: file("usr/x", "a")}, {name: "b", files: file("usr/x", "b")}}, "a", "b"},
		{"replaces another version", []pkg{{name: "a", files: file("usr/x", "a")}, {name: "b", fields: "Replaces: a (<< 1.0)", files: file("usr/x", "b")}},
			"error: both ship /usr/x", ""},
		{"dependency decides the order", []pkg{{name: "a", fields: "Depends: b\nReplaces: b", files: file("usr/x", "a")}, {name: "b", fields: "Replaces: a", files: file("usr/x", "b")}}, "a", "b"},
		{"file where a folder is", []pkg{{name: "a", files: append(dirs("", "usr/", "usr/x/"), thing{name: "usr/x/y", data: "a"})}, {name: "b", files: file("usr/x", "b")}},
			"error: both ship /usr/x", ""},
		{"folder where a file is", []pkg{{name: "a", files: file("usr/x", "a")}, {name: "b", files: append(dirs("", "usr/", "usr/x/"), thing{name: "usr/x/y", data: "b"})}},
			"error: both ship /usr/x", ""},
		{"loop", []pkg{{name: "a", files: append(dirs("", "usr/"), thing{name: "usr/l", link: "m"}, thing{name: "usr/m", link: "l"})}, {name: "b", files: file("usr/l/x", "b")}},
			"error: too many levels", ""},
		{"below a file", []pkg{{name: "a", files: file("usr/x", "a")}, {name: "b", files: file("usr/x/y", "b")}}, "error: /usr/x is no folder", ""},
		{"out by a link", []pkg{{name: "a", files: append(dirs("", "usr/"), thing{name: "usr/l", link: "../../../.."})}, {name: "b", files: file("usr/l/usr/x", "inside")}}, "inside", ""},
	} {
		for i := range tt.pkgs {
			tt.pkgs[i].ext = ".gz"
		}
		dir, err := build(t, Cache{t.TempDir()}, tt.pkgs...)
		if want, ok := strings.CutPrefix(tt.want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", tt.name, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := read(t, dir, "usr/x"); got != tt.want {
			t.Errorf("%s: /usr/x is of %q", tt.name, got)
		}
		if tt.lost != "" && strings.Contains(read(t, dir, "var/lib/dpkg/info/"+tt.lost+".list"), "/usr/x\n") {
			t.Errorf("%s: %s still lists the file", tt.name, tt.lost)
		}
	}
}

// A package that diverts files waits for the root's dpkg, unless dpkg could not run without it: Debian 13's C library,
// base-files and dash divert, too.
func TestDivertingPackages(t *testing.T) {
	diverting := func(name, fields string) pkg {
		return pkg{name: name, fields: fields, ext: ".gz", files: append(dirs("", "usr/"), thing{name: "usr/" + name, data: name}),
			control: []thing{{name: "preinst", data: "#!/bin/sh\ndpkg-divert --no-rename --add /x\n", mode: 0o755}}}
	}
	dir, err := build(t, Cache{t.TempDir()}, diverting("dash", "Essential: yes\nPre-Depends: libc"), diverting("libc", "Depends: libgcc"),
		diverting("libgcc", ""), diverting("base-passwd", ""), diverting("client", "Depends: libc"))
	if err != nil {
		t.Fatal(err)
	}
	held, err := filepath.Glob(filepath.Join(dir, heldDir, "*"))
	if err != nil || len(held) != 1 || filepath.Base(held[0]) != "client_all.deb" {
		t.Errorf("held back: %v, %v", held, err)
	}
	for name, want := range map[string]bool{"dash": true, "libc": true, "libgcc": true, "base-passwd": true, "client": false} {
		_, err := os.Stat(filepath.Join(dir, "usr", name))
		if known := strings.Contains(read(t, dir, adminDir+"/status"), "Package: "+name+"\nStatus: install ok unpacked\n"); (err == nil) != want || known != want {
			t.Errorf("%s: %v, unpacked by dpkg's status: %v, want %v", name, err, known, want)
		}
	}
}

func TestSharedFolders(t *testing.T) {
	at := func(year int, mode int64) thing {
		return thing{name: "usr/share/", mode: mode, head: func(h *tar.Header) { h.ModTime = time.Date(year, 1, 1, 0, 0, 0, 7, time.UTC) }}
	}
	first := pkg{name: "a", ext: ".gz", files: []thing{{name: ""}, {name: "usr/"}, at(2030, 0o755), {name: "usr/share/a", data: "a"}}}
	second := pkg{name: "b", ext: ".gz", files: []thing{{name: ""}, {name: "usr/"}, at(2020, 0o700), {name: "usr/share/b", data: "b"}}}
	for _, order := range [][]pkg{{first, second}, {second, first}} {
		dir, err := build(t, Cache{t.TempDir()}, order...)
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(dir, "usr/share"))
		if err != nil || st.Mode().Perm() != 0o755 || st.ModTime().Year() != 2030 || st.ModTime().Nanosecond() != 7 {
			t.Errorf("folder: %v %v %v", st.Mode(), st.ModTime(), err)
		}
	}
}

func TestSharedAcrossArchitectures(t *testing.T) {
	lib := func(arch, doc string) pkg {
		return pkg{name: "lib", ext: ".gz", fields: "Multi-Arch: same\nArchitecture: " + arch,
			files: append(dirs("", "usr/"), thing{name: "usr/doc", data: doc}, thing{name: "usr/lib-" + arch, data: arch})}
	}
	dir, err := build(t, Cache{t.TempDir()}, lib("amd64", "same"), lib("i386", "same"))
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, "var/lib/dpkg/arch"); got != "amd64\ni386\n" {
		t.Errorf("arch: %q", got)
	}
	if _, err := build(t, Cache{t.TempDir()}, lib("amd64", "one"), lib("i386", "other")); err == nil || !strings.Contains(err.Error(), "lib:amd64 and lib:i386") {
		t.Errorf("different files: %v", err)
	}
}

func TestDatabase(t *testing.T) {
	need.Tools(t, "dpkg")
	c := Cache{t.TempDir()}
	dir, err := build(t, c, baseFiles,
		pkg{name: "kernel", ext: ".gz", fields: "Depends: linux-initramfs-tool | other\nDescription: a kernel", control: []thing{
			{name: "conffiles", data: "/etc/kernel.conf\nremove-on-upgrade /etc/gone\n"},
			{name: "triggers", data: "# heard\ninterest-noawait /lib/modules\ninterest update-initramfs\nactivate-noawait ldconfig\n"},
			{name: "postinst", data: "#!/bin/sh\n", mode: 0o755},
		}, files: append(dirs("", "etc/", "usr/"), thing{name: "etc/kernel.conf", data: "conf"}, thing{name: "usr/k", data: "k"})},
		pkg{name: "summed", ext: ".gz", control: []thing{{name: "md5sums", data: "0cc175b9c0f1b6a831c399e269772661  usr/a\n"}},
			files: append(dirs("", "usr/"), thing{name: "usr/a", data: "a"})})
	if err != nil {
		t.Fatal(err)
	}
	status := read(t, dir, "var/lib/dpkg/status")
	for _, want := range []string{
		"Package: kernel\nStatus: install ok unpacked\n",
		"Conffiles:\n /etc/kernel.conf 3ae0cb9bb3a4b3e1e95d5d1ea3fae73e\n",
		"Package: netroot-initramfs\nStatus: install ok installed\n",
	} {
		want = strings.ReplaceAll(want, "3ae0cb9bb3a4b3e1e95d5d1ea3fae73e", md5Of("conf"))
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	for name, want := range map[string]string{
		"triggers/File":             "/lib/modules kernel/noawait\n",
		"triggers/update-initramfs": "kernel\n",
		"info/kernel.md5sums":       md5Of("k") + "  usr/k\n",
		"info/summed.md5sums":       "0cc175b9c0f1b6a831c399e269772661  usr/a\n",
		"info/kernel.list":          "/.\n/etc\n/usr\n/etc/kernel.conf\n/usr/k\n",
		"info/format":               "1\n",
		"arch":                      "amd64\n",
	} {
		if got := read(t, dir, "var/lib/dpkg/"+name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// dpkg itself reads it.
	admin := "--admindir=" + filepath.Join(dir, "var/lib/dpkg")
	out, err := exec.Command("dpkg-query", admin, "-W", "-f", "${Package} ${db:Status-Status} ${Conffiles}\n").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "kernel unpacked  /etc/kernel.conf "+md5Of("conf")) || !strings.Contains(string(out), "netroot-initramfs installed") {
		t.Errorf("dpkg-query: %v\n%s", err, out)
	}
	out, err = exec.Command("dpkg", admin, "--root="+dir, "--verify", "summed").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("dpkg --verify: %v\n%s", err, out)
	}
	// No file that the cache owns was written to, and all are linked.
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(dir, "usr/k"), &st); err != nil || st.Nlink != 2 {
		t.Errorf("%d links, %v", st.Nlink, err)
	}
	if err := Assemble(t.Context(), Root{Cache: c, Dir: dir, Arch: "amd64"}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("into a full folder: %v", err)
	}
}

func TestRelations(t *testing.T) {
	s := &source{arch: "amd64", control: paragraph{
		{"Pre-Depends", "libc6 (>= 2.36), a:any (= 1:2-3) |\n b, , c(<<1)"},
		{"Depends", "broken (>= 2, %b | d, e (=> 1), f"},
	}}
	var got []string
	for _, d := range s.relations("Pre-Depends", "Recommends", "Depends") {
		got = append(got, d.String())
	}
	if want := []string{"libc6 (>= 2.36)", "a:any (= 1:2-3) | b", "c (<< 1)", "f"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
