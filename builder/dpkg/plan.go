package dpkg

import (
	"archive/tar"
	"fmt"
	"path"
	"slices"
	"strings"

	"netroot/builder/deb"
)

// A source is a package on its way into a root.
type source struct {
	name, version, arch string
	sum                 string
	control             paragraph
	manifest            *manifest
	replaces            []deb.Relation
	held                bool            // the root's dpkg is to unpack it
	lost                map[string]bool // names, as in the package, of files that another package replaces
}

// full is the name that tells packages of one name and several architectures apart, as dpkg prints it.
func (s *source) full() string {
	if s.same() {
		return s.name + ":" + s.arch
	}
	return s.name
}

// relations returns what fields of the control file say of other packages. What cannot be read in them is left out:
// dpkg --configure has the last word on it, and here it matters for the order only, or for who may replace whose files.
func (s *source) relations(fields ...string) []deb.Dependency {
	var all []deb.Dependency
	for _, name := range fields {
		for group := range strings.SplitSeq(s.control.get(name), ",") {
			if d, err := deb.ParseDependencies(group, s.arch); err == nil {
				all = append(all, d...)
			}
		}
	}
	return all
}

// same tells whether the package can be there once for every architecture; its files in info/ then carry it.
func (s *source) same() bool { return strings.EqualFold(s.control.get("Multi-Arch"), "same") }

func (s *source) essential() bool { return strings.EqualFold(s.control.get("Essential"), "yes") }

// overwrites tells whether dpkg lets this package take files of another one.
func (s *source) overwrites(other *source) bool {
	for _, r := range s.replaces {
		if r.Name == other.name && r.Admits(other.version) {
			return true
		}
	}
	return false
}

// A node is one path of the root that is being planned.
type node struct {
	path  string
	owner *source // nil: made by us (usr-merge links, parents that no package ships)
	entry *entry
}

// A plan is every path of the new root, with its real name: no part of it but the last is a link.
type plan struct {
	nodes map[string]*node
	// same compares two files, for packages that exist for several architectures and share files.
	same func(a, b *node) (bool, error)
}

// maxLinks is the number of links one path may pass (MAXSYMLINKS, fs/namei.c).
const maxLinks = 40

// resolve follows the links that the plan holds so far. Of the last part it follows the link only when it leads to a
// folder and follow is set. The result is where the name ends up; parents that are missing are taken as folders.
func (p *plan) resolve(name string, follow bool) (string, error) {
	todo := strings.Split(name, "/")
	done := "."
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		n := p.nodes[next]
		if n == nil || n.entry.Type != tar.TypeSymlink || (len(todo) == 0 && !follow) {
			if n != nil && n.entry.Type != tar.TypeDir && n.entry.Type != tar.TypeSymlink && len(todo) > 0 {
				return "", fmt.Errorf("/%s is no folder, but has something below it", next)
			}
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("/%s: too many levels of links", name)
		}
		target := n.entry.Link
		if strings.HasPrefix(target, "/") {
			done = "."
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return done, nil
}

// add puts one entry of a package into the plan, as dpkg would when it unpacks the package after those before it.
func (p *plan) add(s *source, e *entry) error {
	at, err := p.resolve(e.Name, false)
	if err != nil {
		return fmt.Errorf("package %s, entry /%s: %w", s.full(), e.Name, err)
	}
	for dir := path.Dir(at); p.nodes[dir] == nil; dir = path.Dir(dir) {
		p.nodes[dir] = &node{path: dir, entry: folder(dir)}
	}
	old := p.nodes[at]
	if old == nil {
		p.nodes[at] = &node{path: at, owner: s, entry: e}
		return nil
	}
	isDir, wasDir := e.Type == tar.TypeDir, old.entry.Type == tar.TypeDir
	switch {
	case isDir && wasDir:
		// Shared. The first package decides on mode and owner, as dpkg leaves existing folders alone. The time is the
		// latest any package gives, so that it does not hang on the order.
		if old.owner == nil {
			p.nodes[at] = &node{path: at, owner: s, entry: e}
		} else if e.mtime().After(old.entry.mtime()) {
			merged := *old.entry
			merged.Sec, merged.Nsec = e.Sec, e.Nsec
			old.entry = &merged
		}
		return nil
	case isDir && old.entry.Type == tar.TypeSymlink:
		// A link to a folder serves as one (usr-merge).
		to, err := p.resolve(at, true)
		if n := p.nodes[to]; err == nil && n != nil && n.entry.Type == tar.TypeDir {
			return nil
		}
	case e.Type == tar.TypeSymlink && wasDir:
		// dpkg keeps an existing folder when a package has a link in its place.
		return nil
	case e.Type == tar.TypeSymlink && old.owner == nil && old.entry.Type == tar.TypeSymlink:
		// base-files of Debian 13 ships the usr-merge links itself.
		if path.Clean(strings.TrimPrefix(e.Link, "/")) == path.Clean(old.entry.Link) {
			p.nodes[at] = &node{path: at, owner: s, entry: e}
			return nil
		}
	}
	if old.owner == s {
		// Two names of one place, such as /bin/which and /usr/bin/which. dpkg lets the later one win; a link is likely
		// to lead to the other name, that is to itself, and loses.
		if e.Type != tar.TypeSymlink {
			p.nodes[at] = &node{path: at, owner: s, entry: e}
		}
		return nil
	}
	if old.owner == nil {
		return fmt.Errorf("package %s ships /%s, where a root with merged /usr has a link to %s", s.full(), e.Name, old.entry.Link)
	}
	switch {
	case s.name == old.owner.name && s.same() && old.owner.same():
		if ok, err := p.same(old, &node{path: at, owner: s, entry: e}); err != nil {
			return err
		} else if ok {
			return nil
		}
	case s.overwrites(old.owner):
		old.owner.lost[old.entry.Name] = true
		p.nodes[at] = &node{path: at, owner: s, entry: e}
		return nil
	case old.owner.overwrites(s):
		s.lost[e.Name] = true
		return nil
	}
	return fmt.Errorf("packages %s and %s both ship /%s, and neither Replaces the other: leave one of them out",
		old.owner.full(), s.full(), at)
}

// folder is a folder that no package describes.
func folder(name string) *entry {
	return &entry{Name: name, Type: tar.TypeDir, Mode: 0o755}
}

// newPlan makes the plan of all packages, which are in the order in which dpkg would unpack them.
func newPlan(sources []*source, same func(a, b *node) (bool, error)) (*plan, error) {
	p := &plan{nodes: map[string]*node{".": {path: ".", entry: folder(".")}}, same: same}
	if mergesUsr(sources) {
		for _, name := range mergedFolders(sources) {
			p.nodes[name] = &node{path: name, entry: &entry{Name: name, Type: tar.TypeSymlink, Mode: 0o777, Link: "usr/" + name}}
			for _, dir := range []string{"usr", "usr/" + name} {
				if p.nodes[dir] == nil {
					p.nodes[dir] = &node{path: dir, entry: folder(dir)}
				}
			}
		}
	}
	for _, s := range sources {
		if s.held {
			continue
		}
		for i := range s.manifest.Entries {
			if err := p.add(s, &s.manifest.Entries[i]); err != nil {
				return nil, err
			}
		}
	}
	// What no package dates gets the time of the newest thing in it, or in all.
	var newest entry
	for _, n := range p.nodes {
		if n.owner != nil && n.entry.mtime().After(newest.mtime()) {
			newest = *n.entry
		}
	}
	for _, n := range p.nodes {
		if n.owner == nil {
			n.entry.Sec, n.entry.Nsec = newest.Sec, newest.Nsec
		}
	}
	return p, nil
}

// mergesUsr tells whether /bin, /lib and /sbin are links: debootstrap's default since Debian 10, whose base-files is
// 10.x, and the only layout that Debian 12 supports. Roots without base-files have nothing to merge.
func mergesUsr(sources []*source) bool {
	for _, s := range sources {
		if s.name == "base-files" {
			return deb.CompareVersions(s.version, "10~") >= 0
		}
	}
	return false
}

// mergedFolders names the top-level folders that become links into /usr: bin, lib and sbin, and the libraries of further
// word sizes that some package ships. The preinst of a multilib package installed later makes the others itself.
func mergedFolders(sources []*source) []string {
	names := []string{"bin", "lib", "sbin"}
	for _, s := range sources {
		for i := range s.manifest.Entries {
			top, _, _ := strings.Cut(s.manifest.Entries[i].Name, "/")
			switch top {
			case "lib32", "lib64", "libx32", "libo32":
				if !slices.Contains(names, top) {
					names = append(names, top)
				}
			}
		}
	}
	return names
}

// inOrder sorts packages as they would be unpacked: base-files first, because it gives the folders of the root their
// modes; then what is essential, then the rest, dependencies before what needs them as far as there is no circle.
func inOrder(sources []*source) []*source {
	sorted := slices.Clone(sources)
	slices.SortFunc(sorted, func(a, b *source) int { return strings.Compare(a.full(), b.full()) })
	provides := providers(sorted)
	var order []*source
	done := map[*source]bool{}
	for _, s := range sorted {
		if s.name == "base-files" {
			done[s] = true
			order = append(order, s)
		}
	}
	for _, s := range sorted {
		if s.essential() {
			order = withNeeds(order, s, provides, done)
		}
	}
	for _, s := range sorted {
		order = withNeeds(order, s, provides, done)
	}
	return order
}

// holdDiverting leaves packages that divert files to the root's dpkg, but for those without which it could not run: as
// debootstrap does, they are there before any script runs, and their diversions are for names that nobody has in a new
// root (the C library, base-files and dash of Debian 13 guard the merged /usr of an upgraded one).
func holdDiverting(sources []*source) {
	provides, needed := providers(sources), map[*source]bool{}
	for _, s := range sources {
		if s.essential() || s.name == "base-passwd" {
			withNeeds(nil, s, provides, needed)
		}
	}
	for _, s := range sources {
		s.held = s.manifest.Diverts && !needed[s]
	}
}

// withNeeds appends a package to order, and before it what it needs, unless they are done.
func withNeeds(order []*source, s *source, provides map[string][]*source, done map[*source]bool) []*source {
	if done[s] {
		return order
	}
	done[s] = true
	for _, d := range s.relations("Pre-Depends", "Depends") {
		if dep := satisfier(d, provides); dep != nil {
			order = withNeeds(order, dep, provides, done)
		}
	}
	return append(order, s)
}

// providers lists, for every package name, real or virtual, who is it or provides it, real ones first.
func providers(sources []*source) map[string][]*source {
	all := map[string][]*source{}
	for _, s := range sources {
		all[s.name] = append(all[s.name], s)
	}
	for _, s := range sources {
		for _, d := range s.relations("Provides") {
			all[d[0].Name] = append(all[d[0].Name], s)
		}
	}
	return all
}

// satisfier finds the package that fulfils a dependency, nil when none does.
func satisfier(d deb.Dependency, provides map[string][]*source) *source {
	for _, r := range d {
		for _, s := range provides[r.Name] {
			if s.name != r.Name || r.Admits(s.version) {
				return s
			}
		}
	}
	return nil
}
