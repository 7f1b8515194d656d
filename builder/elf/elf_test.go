package elf

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"netroot/builder/need"
	"netroot/builder/tree"
)

type dyn struct {
	tag   elf.DynTag
	value string
}

// object64 makes the smallest ELF file that has a dynamic section: header, strings, dynamic entries, section headers.
func object64(machine elf.Machine, interp string, entries ...dyn) *fstest.MapFile {
	strtab := []byte{0}
	var dynamic bytes.Buffer
	for _, e := range entries {
		must(binary.Write(&dynamic, binary.LittleEndian, elf.Dyn64{Tag: int64(e.tag), Val: uint64(len(strtab))}))
		strtab = append(append(strtab, e.value...), 0)
	}
	must(binary.Write(&dynamic, binary.LittleEndian, elf.Dyn64{}))
	const ehsize, phsize, shsize = 64, 56, 64
	strOff := uint64(ehsize + phsize)
	dynOff := strOff + uint64(len(strtab))
	interpOff := dynOff + uint64(dynamic.Len())
	shOff := interpOff + uint64(len(interp)+1)
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1, Phoff: ehsize, Shoff: shOff, Ehsize: ehsize, Phentsize: phsize, Phnum: 1, Shentsize: shsize, Shnum: 3}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	prog := elf.Prog64{Type: uint32(elf.PT_INTERP), Off: interpOff, Filesz: uint64(len(interp) + 1)}
	if interp == "" {
		prog.Type = uint32(elf.PT_NULL)
	}
	var b bytes.Buffer
	must(binary.Write(&b, binary.LittleEndian, h))
	must(binary.Write(&b, binary.LittleEndian, prog))
	b.Write(strtab)
	b.Write(dynamic.Bytes())
	b.WriteString(interp + "\x00")
	must(binary.Write(&b, binary.LittleEndian, []elf.Section64{
		{},
		{Type: uint32(elf.SHT_STRTAB), Off: strOff, Size: uint64(len(strtab))},
		{Type: uint32(elf.SHT_DYNAMIC), Off: dynOff, Size: uint64(dynamic.Len()), Link: 1, Entsize: 16},
	}))
	return &fstest.MapFile{Data: b.Bytes(), Mode: 0o755}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func needed(lib string) dyn { return dyn{elf.DT_NEEDED, lib} }

const amd64 = elf.EM_X86_64

// root has libraries in all the places that ld.so knows, and one that only ld.so.conf names.
func root() fstest.MapFS {
	link := func(target string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink}
	}
	return fstest.MapFS{
		"lib":     link("usr/lib"),
		"lib64":   link("/usr/lib64"),
		"usr/bin": {Mode: fs.ModeDir | 0o755},
		"usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": object64(amd64, ""),
		"usr/lib64/ld-linux-x86-64.so.2":                link("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
		"usr/lib/x86_64-linux-gnu/libc.so.6":            object64(amd64, "/lib64/ld-linux-x86-64.so.2"),
		"usr/lib/x86_64-linux-gnu/liba.so.1":            link("liba.so.1.2"),
		"usr/lib/x86_64-linux-gnu/liba.so.1.2":          object64(amd64, "", needed("libc.so.6"), needed("libb.so.1")),
		"usr/lib/libb.so.1":                             object64(elf.EM_AARCH64, ""), // first found by name, of another machine
		"usr/lib64/libb.so.1":                           object64(amd64, "", needed("liba.so.1")),
		"opt/x/lib/libp.so":                             object64(amd64, "", needed("libq.so")),
		"opt/x/lib/libq.so":                             object64(amd64, ""),
		"etc/ld.so.conf":                                {Data: []byte("# comment\ninclude /etc/ld.so.conf.d/*.conf\n")},
		"etc/ld.so.conf.d/db.conf":                      {Data: []byte("/usr/lib/db\n")},
		"etc/ld.so.conf.d/loop.conf":                    {Data: []byte("include /etc/ld.so.conf\n")},
		"usr/lib/db/libdb.so":                           object64(amd64, "", needed("libc.so.6")),
		"usr/lib64/glibc-hwcaps/x86-64-v2/libfast.so":   object64(amd64, ""),
		"usr/lib64/glibc-hwcaps/x86-64-v3/libfast.so":   object64(amd64, ""),
		"usr/bin/plain":                                 object64(amd64, "/lib64/ld-linux-x86-64.so.2", needed("liba.so.1")),
		"usr/bin/static":                                object64(amd64, ""),
		"usr/bin/runpath":                               object64(amd64, "", dyn{elf.DT_RUNPATH, "$ORIGIN/../../opt/x/lib"}, needed("libp.so")),
		"usr/bin/rpath":                                 object64(amd64, "", dyn{elf.DT_RPATH, "/nowhere:${ORIGIN}/../../opt/x/$LIB:/opt/x/lib"}, needed("libp.so")),
		"usr/bin/conf":                                  object64(amd64, "", needed("libdb.so"), needed("libc.so.6")),
		"usr/bin/hwcaps":                                object64(amd64, "", needed("libfast.so")),
		"usr/bin/path":                                  object64(amd64, "", needed("/opt/x/lib/libq.so")),
		"usr/bin/lacking":                               object64(amd64, "", needed("libgone.so.3")),
		"usr/bin/lacking2":                              object64(amd64, "", needed("libviagone.so")),
		"usr/lib64/libviagone.so":                       object64(amd64, "", needed("libgone.so.3")),
		"usr/bin/nointerp":                              object64(amd64, "/lib/ld-musl-x86_64.so.1"),
		"usr/bin/script":                                {Data: []byte("#!/bin/sh\n"), Mode: 0o755},
		"usr/bin/empty":                                 {Mode: 0o755},
	}
}

func TestResolve(t *testing.T) {
	const gnu = "lib/x86_64-linux-gnu/"
	for _, c := range []struct {
		program string
		files   string
		links   map[string]string
		err     string
	}{
		{program: "/usr/bin/plain", files: gnu + "liba.so.1 " + gnu + "libc.so.6 lib64/ld-linux-x86-64.so.2 lib64/libb.so.1 usr/bin/plain"},
		{program: "usr/bin/static", files: "usr/bin/static"},
		{program: "/usr/bin/rpath", files: "opt/x/lib/libp.so opt/x/lib/libq.so usr/bin/rpath"}, // RPATH is inherited by libp.so
		{program: "/usr/bin/runpath", err: "opt/x/lib/libp.so needs libq.so"},                   // RUNPATH is not
		{program: "/usr/bin/conf", files: gnu + "libc.so.6 lib/db/libdb.so lib64/ld-linux-x86-64.so.2 usr/bin/conf",
			links: map[string]string{"lib/x86_64-linux-gnu/libdb.so": "/lib/db/libdb.so"}},
		{program: "/usr/bin/hwcaps", files: "lib64/glibc-hwcaps/x86-64-v2/libfast.so usr/bin/hwcaps"},
		{program: "/usr/bin/path", files: "opt/x/lib/libq.so usr/bin/path"},
		{program: "/usr/bin/lacking", err: "/usr/bin/lacking needs libgone.so.3: no 64-bit X86_64 library"},
		{program: "/usr/bin/lacking2", err: "lib64/libviagone.so needs libgone.so.3"},
		{program: "/usr/bin/nointerp", err: "/usr/bin/nointerp needs the interpreter /lib/ld-musl-x86_64.so.1"},
		{program: "/usr/bin/script", err: "read /usr/bin/script: a script"},
		{program: "/usr/bin/empty", err: "read /usr/bin/empty: not an ELF file"},
		{program: "/usr/bin/absent", err: "/usr/bin/absent"},
	} {
		got, err := Resolve(root(), c.program)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.program, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.program, err)
			continue
		}
		// The folder of a configured library is named as it is configured.
		files := strings.ReplaceAll(strings.Join(got.Files, " "), "usr/lib/db/", "lib/db/")
		want := strings.Fields(c.files)
		have := strings.Fields(files)
		slices.Sort(want)
		slices.Sort(have)
		if !slices.Equal(have, want) {
			t.Errorf("%s: files %v, want %v", c.program, have, want)
		}
		links := maps.Clone(got.Links)
		for k, v := range links {
			links[k] = strings.Replace(v, "/usr/lib/db/", "/lib/db/", 1)
		}
		if len(links) != len(c.links) || !maps.Equal(links, c.links) && len(c.links) > 0 {
			t.Errorf("%s: links %v, want %v", c.program, links, c.links)
		}
	}
}

// ld.so itself is the oracle: for programs of this machine it must load exactly the files of the closure.
func TestResolveAsLdSoDoes(t *testing.T) {
	need.Tools(t, "ldd")
	fsys := os.DirFS("/")
	lib := regexp.MustCompile(`(/\S+) \(0x`)
	n := 0
	for _, name := range []string{"sh", "ip", "mount", "modprobe", "curl", "git", "qemu-system-x86_64", "tshark"} {
		program, ok := tree.LookPath(fsys, name)
		if !ok {
			continue
		}
		out, err := exec.Command("ldd", "/"+program).Output()
		if err != nil {
			continue // static
		}
		n++
		var want []string
		for _, m := range lib.FindAllStringSubmatch(string(out), -1) {
			p, err := tree.Resolve(fsys, m[1])
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, p)
		}
		c, err := Resolve(fsys, program)
		if err != nil {
			t.Errorf("%s: %v", program, err)
			continue
		}
		var got []string
		for _, f := range c.Files {
			if f == program {
				continue
			}
			p, err := tree.Resolve(fsys, f)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, p)
		}
		slices.Sort(got)
		slices.Sort(want)
		got, want = slices.Compact(got), slices.Compact(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: closure and ldd differ\n%v\n%v", program, got, want)
		}
	}
	if n == 0 {
		t.Fatal("not one program to compare with")
	}
}

func FuzzResolve(f *testing.F) {
	f.Add(root()["usr/bin/plain"].Data, "include /etc/ld.so.conf.d/*.conf\n/a/b")
	f.Add(root()["usr/bin/rpath"].Data, "include [\n")
	f.Fuzz(func(t *testing.T, program []byte, conf string) {
		fsys := root()
		fsys["usr/bin/plain"] = &fstest.MapFile{Data: program}
		fsys["etc/ld.so.conf"] = &fstest.MapFile{Data: []byte(conf)}
		c, err := Resolve(fsys, "usr/bin/plain")
		if err != nil {
			return
		}
		for _, file := range c.Files {
			if !tree.Exists(fsys, file) {
				t.Fatalf("%s is in the closure and not in the root", file)
			}
		}
	})
}
