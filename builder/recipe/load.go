package recipe

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"netroot/builder/strictyaml"
	"netroot/recipes"
)

// Load reads a recipe and everything it includes.
func Load(path string) (*Recipe, error) {
	return load(origin{}, path)
}

// LoadFS is Load for a recipe inside fsys.
func LoadFS(fsys fs.FS, name string) (*Recipe, error) {
	return load(origin{fsys: fsys}, name)
}

// Find reads the recipe that a user names: a file, or a shipped recipe by its name.
func Find(name string) (*Recipe, error) {
	if isShipped(name) {
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return LoadFS(recipes.FS, name+".yaml")
		}
	}
	r, err := Load(name)
	if errors.Is(err, fs.ErrNotExist) {
		if l := strictyaml.List(err); len(l) == 1 && l[0].Line == 0 {
			l[0].WithHint("recipes are files or one of the shipped: %s", strings.Join(Shipped(), ", "))
		}
	}
	return r, err
}

// Shipped lists the names of the recipes that are part of the program.
func Shipped() []string {
	names, err := fs.Glob(recipes.FS, "*.yaml")
	if err != nil {
		panic(err) // only for a bad pattern
	}
	for i, n := range names {
		names[i] = strings.TrimSuffix(n, ".yaml")
	}
	return names
}

func isShipped(name string) bool { return slices.Contains(Shipped(), name) }

// An origin is where recipe files and what they refer to are read from: a file system, or the host's when fsys is nil.
type origin struct{ fsys fs.FS }

func (o origin) open(name string) (fs.File, error) {
	if o.fsys != nil {
		return o.fsys.Open(name)
	}
	return os.Open(name)
}

// beside returns the path of name as a file at from means it.
func (o origin) beside(from, name string) string {
	if o.fsys != nil {
		return path.Join(path.Dir(from), name)
	}
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(filepath.Dir(from), name)
}

func (o origin) shipped() bool { return o.fsys == fs.FS(recipes.FS) }

// A part is one recipe file: its document, for positions, and what it says.
type part struct {
	doc *strictyaml.Document
	*Recipe
}

func load(o origin, name string) (*Recipe, error) {
	parts, err := readParts(o, name, nil)
	if err != nil {
		return nil, err
	}
	merged := &Recipe{}
	for _, p := range slices.Backward(parts) {
		merge(merged, p.Recipe)
	}
	merged.Include = ""
	for _, p := range parts {
		merged.files = append(merged.files, p.doc.File)
	}
	if err := checkMerged(parts, merged); err != nil {
		return nil, err
	}
	if err := checkSeed(parts, merged); err != nil {
		return nil, err
	}
	fillIn(merged)
	return merged, nil
}

// readParts reads a file and, after it, what it includes. trail are the files that led here.
func readParts(o origin, name string, trail []string) ([]part, error) {
	data, err := read(o, name)
	if err != nil {
		return nil, strictyaml.Join(strictyaml.FileError(name, err))
	}
	doc, err := strictyaml.Parse(name, data)
	if err != nil {
		return nil, err
	}
	p := part{doc, &Recipe{}}
	if err := doc.Decode(p.Recipe); err != nil {
		return nil, err
	}
	if err := checkPart(p, o); err != nil {
		return nil, err
	}
	if p.Include == "" {
		return []part{p}, nil
	}
	next, target := o, o.beside(name, p.Include)
	if isShipped(p.Include) {
		if _, err := read(o, target); errors.Is(err, fs.ErrNotExist) {
			next, target = origin{fsys: recipes.FS}, p.Include+".yaml"
		}
	}
	trail = append(slices.Clone(trail), id(o, name))
	if i := slices.Index(trail, id(next, target)); i >= 0 {
		return nil, strictyaml.Join(doc.At("$.include", "include: goes round in a circle: %s", strings.Join(append(trail[i:], id(next, target)), " -> ")))
	}
	if _, err := read(next, target); err != nil {
		e := doc.At("$.include", "%s %s", target, strictyaml.FileError(target, err).Msg)
		e.Err = err
		if errors.Is(err, fs.ErrNotExist) {
			e.WithHint("include: is a file relative to %s, or one of the shipped: %s", name, strings.Join(Shipped(), ", "))
		}
		return nil, strictyaml.Join(e)
	}
	below, err := readParts(next, target, trail)
	if err != nil {
		return nil, err
	}
	return append([]part{p}, below...), nil
}

// id names a recipe file in one way, whatever way led to it.
func id(o origin, name string) string {
	if o.fsys != nil {
		return path.Clean(name)
	}
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	if abs, err := filepath.Abs(name); err == nil {
		name = abs
	}
	return name
}

// maxRecipe is more than strictyaml takes: it says so itself.
const maxRecipe = 2 << 20

func read(o origin, name string) ([]byte, error) {
	f, err := o.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	return io.ReadAll(io.LimitReader(f, maxRecipe))
}

// sourceSum opens a file that is to be copied and returns what its bytes hash to.
func sourceSum(o origin, name string) (string, error) {
	f, err := o.open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", errors.New("it is not a regular file")
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// merge lays what r says over what base holds: scalars are replaced, lists appended. An entry that has a name (a user, a file, a hook)
// replaces the one of the same name, in its place; a service that r enables is no longer disabled, and the other way round.
func merge(base, r *Recipe) {
	over := func(dst *string, s string) {
		if s != "" {
			*dst = s
		}
	}
	over(&base.Name, r.Name)
	over(&base.Arch, r.Arch)
	over(&base.Hostname, r.Hostname)
	over(&base.Root.Writable, r.Root.Writable)
	over(&base.Root.Size, r.Root.Size)
	base.Root.Folders = union(base.Root.Folders, r.Root.Folders)
	if r.From.Apt != nil {
		if base.From.Apt == nil {
			base.From = From{Apt: &Apt{}}
		}
		over(&base.From.Apt.Suite, r.From.Apt.Suite)
		over(&base.From.Apt.Mirror, r.From.Apt.Mirror)
		over(&base.From.Apt.Keyring, r.From.Apt.Keyring)
		base.From.Apt.Components = union(base.From.Apt.Components, r.From.Apt.Components)
	}
	if r.From.Yum != nil {
		mergeYum(&base.From, r.From.Yum)
	}
	mergeMedium(&base.From, &r.From)
	if r.From.Copy != nil {
		mergeCopy(&base.From, r.From.Copy)
	}
	over(&base.Kernel.Version, r.Kernel.Version)
	over(&base.Deliver, r.Deliver)
	mergeSeed(base, r)
	base.Packages = union(base.Packages, r.Packages)
	// Not united: the kernel heeds the last of a kind, so a parameter that is said again has to come again.
	base.Kernel.Cmdline = append(base.Kernel.Cmdline, r.Kernel.Cmdline...)
	base.Users = named(base.Users, r.Users, func(u User) string { return u.Name })
	base.Files = named(base.Files, r.Files, func(f File) string { return f.Path })
	base.Hooks = named(base.Hooks, r.Hooks, func(h Hook) string { return h.Name })
	base.Services.Enable = union(without(base.Services.Enable, r.Services.Disable), r.Services.Enable)
	base.Services.Disable = union(without(base.Services.Disable, r.Services.Enable), r.Services.Disable)
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

func without(a, b []string) []string {
	return slices.DeleteFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

func named[T any](a, b []T, name func(T) string) []T {
	for _, t := range b {
		if i := slices.IndexFunc(a, func(x T) bool { return name(x) == name(t) }); i >= 0 {
			a[i] = t
		} else {
			a = append(a, t)
		}
	}
	return a
}

// fillIn gives what was left out its default.
func fillIn(r *Recipe) {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	if y := r.From.Copy; y != nil {
		def(&y.HostKeys, "new")
		if y.FileSystems == nil {
			y.FileSystems = slices.Clone(defaultFileSystems)
		}
	}
	def(&r.Root.Writable, "overlay")
	def(&r.Root.Size, "50%")
	if r.Root.Folders = outermost(r.Root.Folders); r.Root.Writable == "bind" && len(r.Root.Folders) == 0 {
		r.Root.Folders = bindFolders
	}
	def(&r.Hostname, strings.Trim(strings.ReplaceAll(r.Name, ".", "-"), "-"))
	for i := range r.Files {
		def(&r.Files[i].Mode, "0644")
		def(&r.Files[i].Owner, "root:root")
	}
}

// Digest is the SHA-256, in hex, of everything in the recipe that changes what is built: what it says after merging and with
// defaults filled in, and the bytes of the files it copies. Comments, order of keys, and where the files lie do not count.
func (r *Recipe) Digest() string {
	n := *r
	if r.From.Apt != nil {
		// Which keys may sign an archive does not change what is in it.
		apt := *r.From.Apt
		apt.Keyring = ""
		n.From.Apt = &apt
	}
	if r.From.Yum != nil {
		yum := *r.From.Yum
		yum.Repos = slices.Clone(yum.Repos)
		for i := range yum.Repos {
			yum.Repos[i].GPGKey = nil
		}
		n.From.Yum = &yum
	}
	// What these files hold is in the lock.
	if r.From.ISO != nil {
		n.From.ISO = &ISO{Kernel: r.From.ISO.Kernel, Initrd: r.From.ISO.Initrd}
	}
	if r.From.Netboot != nil {
		n.From.Netboot = &Netboot{}
	}
	n.Autoinstall, n.Preseed, n.Kickstart, n.Vars = nil, nil, nil, nil // their texts are written below
	if r.From.Copy != nil {
		n.From.Copy = r.From.Copy.digestible()
	}
	n.Files = slices.Clone(r.Files)
	for i := range n.Files {
		if sum := n.Files[i].sum; sum != "" {
			n.Files[i].Source = "sha256:" + sum
		}
	}
	h := sha256.New()
	fmt.Fprintln(h, "netroot recipe 1")
	if err := json.NewEncoder(h).Encode(&n); err != nil {
		panic(err) // strings, numbers and lists always encode
	}
	r.writeSeed(h)
	return hex.EncodeToString(h.Sum(nil))
}
