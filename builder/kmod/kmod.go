// Package kmod chooses kernel modules out of a foreign root without running its programs: it reads what depmod(8) left
// in lib/modules/RELEASE (modules.dep, modules.alias, modules.softdep, modules.builtin), answers what a module
// needs, finds the firmware that modules ask for, and writes the same index files again for a chosen part of them.
//
// Limits: install and remove commands of modprobe.d are not followed, and modules are never loaded from here.
package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"netroot/builder/tree"
)

// A Module is one loadable module.
type Module struct {
	Name string   // as the kernel spells it: with underscores
	File string   // below lib/modules/RELEASE: kernel/drivers/net/ethernet/intel/e1000/e1000.ko.xz
	Deps []string // files, in the order of modules.dep; all of them, not only the direct ones
	line string   // as in modules.dep
}

type alias struct {
	pattern, module string
	line            int // priority: the first in the file wins
}

type softdep struct {
	pre, post []string
	line      string
}

// An Index is what depmod knows about the modules of one kernel.
type Index struct {
	Release string

	fsys    fs.FS
	dir     string // resolved lib/modules/RELEASE
	byName  map[string]*Module
	byFile  map[string]*Module
	order   []*Module // as in modules.dep
	aliases []alias
	soft    map[string]softdep
	builtin map[string]bool
	cards   bool         // a driver of a wired card is built in
	content bytes.Buffer // of the module that was read last
}

// Releases lists the kernels that the root has modules for, oldest first.
func Releases(fsys fs.FS) ([]string, error) {
	dir, err := tree.Resolve(fsys, "lib/modules")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for kernel modules: %w", err)
	}
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("look for kernel modules: %w", err)
	}
	var list []string
	for _, e := range entries {
		// A removed kernel may leave its folder behind with nothing but indexes in it.
		if tree.Exists(fsys, path.Join(dir, e.Name(), "kernel")) || tree.Exists(fsys, path.Join(dir, e.Name(), "modules.dep")) {
			list = append(list, e.Name())
		}
	}
	slices.SortFunc(list, CompareReleases)
	return list, nil
}

// CompareReleases orders kernel releases by their numbers: 6.1.0-9 before 6.1.0-10.
func CompareReleases(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// Open reads the index of one kernel.
func Open(fsys fs.FS, release string) (*Index, error) {
	dir, err := tree.Resolve(fsys, path.Join("lib/modules", release))
	if err != nil {
		return nil, fmt.Errorf("modules of kernel %s: %w; is the kernel's package installed in this root?", release, err)
	}
	x := &Index{Release: release, fsys: fsys, dir: dir, byName: map[string]*Module{}, byFile: map[string]*Module{}, soft: map[string]softdep{}, builtin: map[string]bool{}}
	b, err := x.read("modules.dep")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("/lib/modules/%s has no modules.dep: depmod did not run there; run: chroot ROOT depmod %s", release, release)
	}
	if err != nil {
		return nil, err
	}
	x.parseDep(string(b))
	for name, parse := range map[string]func(string){"modules.alias": x.parseAlias, "modules.softdep": x.parseSoftdep, "modules.builtin": x.parseBuiltin} {
		b, err := x.read(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // EL6 has no modules.softdep, older kernels no modules.builtin
			return nil, err
		}
		parse(string(b))
	}
	return x, nil
}

func (x *Index) read(name string) ([]byte, error) {
	b, err := tree.ReadFile(x.fsys, path.Join(x.dir, name))
	if err != nil {
		return nil, fmt.Errorf("read the module index of kernel %s: %w", x.Release, err)
	}
	return b, nil
}

// Name is the module name of a file name.
func Name(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return normalize(name)
}

// normalize replaces dashes by underscores, except inside brackets: modules and aliases are looked up so.
func normalize(s string) string {
	if !strings.Contains(s, "-") {
		return s
	}
	b := []byte(s)
	inside := false
	for i, c := range b {
		switch {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case c == '-' && !inside:
			b[i] = '_'
		}
	}
	return string(b)
}

func (x *Index) parseDep(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		file, deps, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		// module-init-tools (EL6 and older) may write absolute paths.
		prefix := "/lib/modules/" + x.Release + "/"
		m := &Module{Name: Name(file), File: strings.TrimPrefix(file, prefix), line: line}
		for _, d := range strings.Fields(deps) {
			m.Deps = append(m.Deps, strings.TrimPrefix(d, prefix))
		}
		if _, ok := x.byName[m.Name]; ok {
			continue
		}
		x.byName[m.Name], x.byFile[m.File] = m, m
		x.order = append(x.order, m)
	}
}

func (x *Index) parseAlias(text string) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "alias ")
		if !ok {
			continue
		}
		// The pattern may hold blanks (some DMI strings do), the module never.
		i := strings.LastIndexByte(rest, ' ')
		if i < 0 {
			continue
		}
		x.aliases = append(x.aliases, alias{pattern: rest[:i], module: normalize(rest[i+1:]), line: n})
	}
}

func (x *Index) parseSoftdep(text string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "softdep" {
			continue
		}
		name := normalize(f[1])
		s := x.soft[name]
		s.line += strings.TrimSpace(line) + "\n"
		var list *[]string
		for _, w := range f[2:] {
			switch w {
			case "pre:":
				list = &s.pre
			case "post:":
				list = &s.post
			default:
				if list != nil { // modprobe ignores words before the first pre: or post:
					*list = append(*list, w)
				}
			}
		}
		x.soft[name] = s
	}
}

func (x *Index) parseBuiltin(text string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			x.builtin[Name(line)] = true
			x.cards = x.cards || strings.Contains(line, "/drivers/net/ethernet/") || Name(line) == "virtio_net"
		}
	}
}

// Module returns the module of that name.
func (x *Index) Module(name string) (*Module, bool) {
	m, ok := x.byName[normalize(name)]
	return m, ok
}

// Builtin tells that the kernel itself holds the module.
func (x *Index) Builtin(name string) bool { return x.builtin[normalize(name)] }

// Has tells that the kernel can do what the module does, by a module or without.
func (x *Index) Has(name string) bool {
	_, ok := x.Module(name)
	return ok || x.Builtin(name)
}

// Modules returns every module whose file the function accepts, in the order of modules.dep.
func (x *Index) Modules(accept func(m *Module) bool) []*Module {
	var list []*Module
	for _, m := range x.order {
		if accept(m) {
			list = append(list, m)
		}
	}
	return list
}

// Drives tells that the kernel has a driver, built in or loadable, for a device that calls itself by an alias (its file modalias in
// /sys).
func (x *Index) Drives(alias string) bool {
	if len(x.lookup(alias)) > 0 {
		return true
	}
	// Since Linux 5.2 there is a list of what built-in modules say of themselves.
	text, err := x.read("modules.builtin.modinfo")
	if err != nil {
		return false
	}
	for field := range strings.SplitSeq(string(text), "\x00") {
		if _, pattern, ok := strings.Cut(field, ".alias="); ok {
			if ok, err := path.Match(normalize(pattern), normalize(alias)); err == nil && ok {
				return true
			}
		}
	}
	return false
}

// lookup finds what modprobe would load for a name: the module, or else all that have it as alias.
func (x *Index) lookup(name string) []*Module {
	name = normalize(name)
	if m, ok := x.byName[name]; ok {
		return []*Module{m}
	}
	var list []*Module
	for _, a := range x.aliases {
		if ok, err := path.Match(normalize(a.pattern), name); err == nil && ok {
			if m, ok := x.byName[a.module]; ok && !slices.Contains(list, m) {
				list = append(list, m)
			}
		}
	}
	return list
}

// Expand returns the given modules with everything they need, soft dependencies included, each before what needs
// it. Soft dependencies that the kernel does not have are left out, as modprobe does.
func (x *Index) Expand(mods []*Module) ([]*Module, error) {
	var (
		out  []*Module
		done = map[*Module]bool{}
		add  func(m *Module) error
	)
	softs := func(names []string) error {
		for _, n := range names {
			for _, m := range x.lookup(n) {
				if err := add(m); err != nil {
					return err
				}
			}
		}
		return nil
	}
	add = func(m *Module) error {
		if done[m] {
			return nil
		}
		done[m] = true // before its dependencies: soft ones may go in circles
		if err := softs(x.soft[m.Name].pre); err != nil {
			return err
		}
		for _, f := range slices.Backward(m.Deps) { // modprobe inserts them from the last to the first
			d, ok := x.byFile[f]
			if !ok {
				return fmt.Errorf("module %s of kernel %s needs %s, which modules.dep does not know; run: chroot ROOT depmod %s", m.Name, x.Release, f, x.Release)
			}
			if err := add(d); err != nil {
				return err
			}
		}
		out = append(out, m)
		return softs(x.soft[m.Name].post)
	}
	for _, m := range mods {
		if err := add(m); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Path is where the file of a module is in the root.
func (x *Index) Path(m *Module) string { return path.Join("lib/modules", x.Release, m.File) }
