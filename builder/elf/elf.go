// Package elf finds the shared libraries that programs of a foreign root need, without running anything of that root:
// it reads DT_NEEDED, RPATH, RUNPATH and the interpreter, and searches where ld.so(8) would.
//
// Limits: of the variants of a library for certain processors (glibc-hwcaps, and the older i686/cmov and tls folders) it
// takes the plain one, which runs on every processor, and a variant only when there is nothing else. Libraries that a
// program opens by itself with dlopen(3), NSS modules among them, are the caller's to name: a closure takes libraries as
// well as programs. /etc/ld.so.cache is not read: it is made from what is read here, and may be stale.
package elf

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"netroot/builder/tree"
)

// A Closure is what a set of programs needs to run in a folder of its own.
type Closure struct {
	// Files holds the programs, their interpreters and libraries under the names they are looked for, without leading
	// slash, sorted. Links on the way to them are not resolved.
	Files []string
	// Links are symbolic links to make (name to target) so that ld.so finds libraries of folders that only
	// /etc/ld.so.conf names: without its cache ld.so searches nothing but its built-in folders.
	Links map[string]string
}

// Resolve returns the closure of the named programs or libraries of fsys.
func Resolve(fsys fs.FS, programs ...string) (*Closure, error) {
	r := &resolver{fsys: fsys, objects: map[string]*object{}, found: map[string]string{}, files: map[string]bool{}}
	var err error
	if r.confDirs, err = ldSoConf(fsys); err != nil {
		return nil, err
	}
	type need struct {
		name string
		obj  *object
		// chain is who asked for obj, the program first: RPATH of all of them counts (DT_RPATH is inherited).
		chain []*object
	}
	var queue []need
	for _, p := range programs {
		obj, err := r.open(p)
		if err != nil {
			return nil, err
		}
		r.files[strings.TrimLeft(path.Clean(p), "/")] = true
		queue = append(queue, need{name: p, obj: obj})
	}
	confOnly := map[string]string{} // soname to path
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		if n.obj.interp != "" {
			if _, err := r.open(n.obj.interp); err != nil {
				return nil, fmt.Errorf("%s needs the interpreter %s: %w; is the C library's package installed in this root?", n.name, n.obj.interp, err)
			}
			r.files[strings.TrimLeft(path.Clean(n.obj.interp), "/")] = true
		}
		chain := append(slices.Clip(n.chain), n.obj)
		for _, lib := range n.obj.needed {
			file, conf := r.find(lib, chain)
			if file == "" {
				return nil, fmt.Errorf("%s needs %s: no %s library of that name in this root; install the package it is in", n.name, lib, n.obj.kind())
			}
			if conf {
				confOnly[lib] = file
			}
			if r.files[file] {
				continue
			}
			r.files[file] = true
			obj, err := r.open(file)
			if err != nil {
				return nil, err
			}
			queue = append(queue, need{name: file, obj: obj, chain: chain})
		}
	}
	c := &Closure{Links: map[string]string{}}
	for f := range r.files {
		c.Files = append(c.Files, f)
	}
	slices.Sort(c.Files)
	if len(confOnly) > 0 {
		home := r.libcDir(c.Files)
		for lib, file := range confOnly {
			if home != "" && path.Dir(file) != home {
				c.Links[path.Join(home, lib)] = "/" + file
			}
		}
	}
	return c, nil
}

// An object is what is read of one ELF file.
type object struct {
	class   elf.Class
	machine elf.Machine
	interp  string
	needed  []string
	rpath   []string // inherited by what it loads; ignored when there is a RUNPATH
	runpath []string
}

func (o *object) kind() string {
	return strings.TrimPrefix(o.class.String(), "ELFCLASS") + "-bit " + strings.TrimPrefix(o.machine.String(), "EM_")
}

type resolver struct {
	fsys     fs.FS
	confDirs []string
	objects  map[string]*object // by resolved path; nil: not an ELF file
	found    map[string]string  // by kind and name: libraries found in the common folders
	files    map[string]bool
}

// open reads the ELF file that name leads to.
func (r *resolver) open(name string) (*object, error) {
	p, err := tree.Resolve(r.fsys, name)
	if err != nil {
		return nil, err
	}
	if o, ok := r.objects[p]; ok {
		return o, nil
	}
	o, err := read(r.fsys, p)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	dir := path.Dir(p)
	for _, list := range [][]string{o.rpath, o.runpath} {
		for i, d := range list {
			list[i] = expand(d, dir, o.class)
		}
	}
	r.objects[p] = o
	return o, nil
}

// find searches one library as ld.so(8) does: RPATH of the object and of those that loaded it, RUNPATH, then the common
// folders. conf tells that only /etc/ld.so.conf names the folder.
func (r *resolver) find(lib string, chain []*object) (file string, conf bool) {
	self := chain[len(chain)-1]
	if strings.Contains(lib, "/") {
		if r.fits(lib, self) {
			return strings.TrimLeft(path.Clean(lib), "/"), false
		}
		return "", false
	}
	var own []string
	if len(self.runpath) == 0 {
		for i := len(chain) - 1; i >= 0; i-- {
			if len(chain[i].runpath) == 0 {
				own = append(own, chain[i].rpath...)
			}
		}
	}
	own = append(own, self.runpath...)
	if f := r.search(own, lib, self); f != "" {
		return f, false
	}
	key := self.kind() + " " + lib
	if f, ok := r.found[key]; ok {
		return f, false
	}
	defaults := defaultDirs(self)
	f := r.search(defaults, lib, self)
	if f == "" {
		if f = r.search(r.confDirs, lib, self); f != "" {
			conf = true
		}
	}
	if f == "" {
		f = r.searchVariants(append(slices.Clone(r.confDirs), defaults...), lib, self)
	}
	if f != "" {
		r.found[key] = f
	}
	return f, conf
}

func (r *resolver) search(dirs []string, lib string, like *object) string {
	for _, d := range dirs {
		if f := path.Join(strings.TrimLeft(d, "/"), lib); r.fits(f, like) {
			return f
		}
	}
	return ""
}

// searchVariants looks for a library that exists only for certain processors, the least demanding first: their
// names sort so (x86-64-v2 before x86-64-v3, i586 before i686).
func (r *resolver) searchVariants(dirs []string, lib string, like *object) string {
	for _, d := range dirs {
		for _, sub := range []string{"glibc-hwcaps", "tls", "i686", "."} {
			folder, err := tree.Resolve(r.fsys, path.Join(d, sub))
			if err != nil {
				continue
			}
			entries, err := fs.ReadDir(r.fsys, folder)
			if err != nil {
				continue
			}
			for _, e := range entries {
				if e.IsDir() && (sub != "." || e.Name() == "i686" || e.Name() == "tls" || e.Name() == "sse2") {
					if f := path.Join(strings.TrimLeft(d, "/"), sub, e.Name(), lib); r.fits(f, like) {
						return f
					}
				}
			}
		}
	}
	return ""
}

// fits tells that file exists and is for the same machine: a 64-bit root may hold 32-bit libraries of the same name.
func (r *resolver) fits(file string, like *object) bool {
	o, err := r.open(file)
	return err == nil && o.class == like.class && o.machine == like.machine
}

// libcDir is the folder of the C library: surely one of ld.so's built-in folders.
func (r *resolver) libcDir(files []string) string {
	for _, f := range files {
		if b := path.Base(f); strings.HasPrefix(b, "libc.so.") || strings.HasPrefix(b, "libc.musl-") {
			return path.Dir(f)
		}
	}
	return ""
}

func read(fsys fs.FS, p string) (*object, error) {
	file, err := tree.Open(fsys, p)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	at, ok := file.(io.ReaderAt)
	if !ok {
		b, err := io.ReadAll(file)
		if err != nil {
			return nil, err
		}
		at = bytes.NewReader(b)
	}
	magic := make([]byte, 4)
	if _, err := at.ReadAt(magic, 0); err != nil || string(magic) != elf.ELFMAG {
		if string(magic[:2]) == "#!" {
			return nil, errors.New("a script, not an ELF program")
		}
		return nil, errors.New("not an ELF file")
	}
	f, err := elf.NewFile(at)
	if err != nil {
		return nil, err
	}
	o := &object{class: f.Class, machine: f.Machine}
	for _, prog := range f.Progs {
		if prog.Type != elf.PT_INTERP {
			continue
		}
		if prog.Filesz > 4096 {
			return nil, errors.New("the interpreter's name is longer than a path can be")
		}
		b := make([]byte, prog.Filesz)
		if _, err := prog.ReadAt(b, 0); err != nil {
			return nil, err
		}
		o.interp = string(bytes.TrimRight(b, "\x00"))
	}
	if f.SectionByType(elf.SHT_DYNAMIC) == nil {
		return o, nil // static
	}
	if o.needed, err = f.DynString(elf.DT_NEEDED); err != nil {
		return nil, err
	}
	for tag, list := range map[elf.DynTag]*[]string{elf.DT_RPATH: &o.rpath, elf.DT_RUNPATH: &o.runpath} {
		v, err := f.DynString(tag)
		if err != nil {
			return nil, err
		}
		for _, s := range v {
			for _, d := range strings.Split(s, ":") {
				if d != "" {
					*list = append(*list, d)
				}
			}
		}
	}
	return o, nil
}

// expand replaces what ld.so(8) calls dynamic string tokens.
func expand(dir, origin string, class elf.Class) string {
	lib := "lib"
	if class == elf.ELFCLASS64 {
		lib = "lib64"
	}
	for token, value := range map[string]string{"ORIGIN": "/" + origin, "LIB": lib} {
		dir = strings.ReplaceAll(dir, "$"+token, value)
		dir = strings.ReplaceAll(dir, "${"+token+"}", value)
	}
	return dir
}

// defaultDirs are the folders that the C libraries of the distributions have built in: Debian's multiarch folders, lib64
// of the EL family, plain lib of 32-bit systems and of musl.
func defaultDirs(o *object) []string {
	var triplet string
	switch {
	case o.machine == elf.EM_X86_64 && o.class == elf.ELFCLASS64:
		triplet = "x86_64-linux-gnu"
	case o.machine == elf.EM_X86_64:
		triplet = "x86_64-linux-gnux32"
	case o.machine == elf.EM_386:
		triplet = "i386-linux-gnu"
	case o.machine == elf.EM_AARCH64:
		triplet = "aarch64-linux-gnu"
	case o.machine == elf.EM_ARM:
		triplet = "arm-linux-gnueabihf"
	}
	var dirs []string
	for _, base := range []string{"lib", "usr/lib"} {
		if triplet != "" {
			dirs = append(dirs, base+"/"+triplet)
		}
		if o.class == elf.ELFCLASS64 {
			dirs = append(dirs, base+"64")
		}
		dirs = append(dirs, base)
	}
	return append(dirs, "usr/local/lib") // musl
}

// ldSoConf returns the folders that /etc/ld.so.conf names, includes followed.
func ldSoConf(fsys fs.FS) ([]string, error) {
	var dirs []string
	seen := map[string]bool{}
	var readConf func(name string) error
	readConf = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		b, err := tree.ReadFile(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the library folders of the root: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune(" \t\r\n,:", c) })
			if len(words) == 0 || words[0] == "hwcap" {
				continue
			}
			if words[0] != "include" {
				for _, d := range words {
					d, _, _ = strings.Cut(d, "=") // "dir=TYPE" of libc5 days
					dirs = append(dirs, d)
				}
				continue
			}
			for _, pattern := range words[1:] {
				if !path.IsAbs(pattern) {
					pattern = path.Join(path.Dir(name), pattern)
				}
				folder, err := tree.Resolve(fsys, path.Dir(pattern))
				if err != nil {
					continue
				}
				entries, err := fs.ReadDir(fsys, folder)
				if err != nil {
					continue
				}
				for _, e := range entries {
					if ok, _ := path.Match(path.Base(pattern), e.Name()); ok {
						if err := readConf(path.Join("/", folder, e.Name())); err != nil {
							return err
						}
					}
				}
			}
		}
		return nil
	}
	return dirs, readConf("/etc/ld.so.conf")
}
