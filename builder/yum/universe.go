package yum

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"netroot/builder/rpm"
)

// A Universe is every package that the chosen repositories offer for one architecture.
type Universe struct {
	arch     string // of the root
	repos    []*Repo
	packages []*Package
	byName   map[string][]*Package // best first
	provides map[string][]*Package // by every name that is provided, without their own
	files    map[string][]*Package // by the paths that are known
	replaced map[string][]*Package // by the names that they obsolete
	groups   []Group
	sources  []*source
}

// newUniverse puts the lists of all repositories together. Of a name that several repositories offer, those of the best
// priority count alone (dnf.conf(5), priority: lower is better).
func newUniverse(arch string, repos []*Repo, packages []*Package) *Universe {
	u := &Universe{arch: arch, repos: repos, byName: map[string][]*Package{}, provides: map[string][]*Package{}, files: map[string][]*Package{}, replaced: map[string][]*Package{}}
	best := map[string]int{}
	for _, p := range packages {
		if n, ok := best[p.Name]; !ok || p.priority < n {
			best[p.Name] = p.priority
		}
	}
	seen := map[string]bool{}
	for _, p := range packages {
		// The same package may be in two repositories; the first is as good as the other.
		if p.priority != best[p.Name] || seen[p.String()] {
			continue
		}
		seen[p.String()] = true
		u.packages = append(u.packages, p)
		u.byName[p.Name] = append(u.byName[p.Name], p)
		for _, r := range p.provides {
			if !slices.Contains(u.provides[r.Name], p) {
				u.provides[r.Name] = append(u.provides[r.Name], p)
			}
		}
		for _, f := range p.files {
			u.files[f] = append(u.files[f], p)
		}
		for _, r := range p.obsoletes {
			u.replaced[r.Name] = append(u.replaced[r.Name], p)
		}
	}
	for _, list := range u.byName {
		slices.SortStableFunc(list, u.better)
	}
	return u
}

// better orders packages of one name: family of the root first, then the highest version, then the best architecture.
func (u *Universe) better(a, b *Package) int {
	if c := strings.Compare(rpm.Family(a.Arch, u.arch), rpm.Family(b.Arch, u.arch)); c != 0 {
		return c
	}
	if c := b.EVR.Compare(a.EVR); c != 0 {
		return c
	}
	return rpm.Better(a.Arch, b.Arch, u.arch)
}

// offers says whether p is what r names: by its name, by what it provides, or by a file it has.
func offers(p *Package, r rpm.Relation) bool {
	for _, have := range p.provides {
		if r.Overlaps(have) {
			return true
		}
	}
	if r.IsFile() {
		return slices.Contains(p.files, r.Name)
	}
	// Every package provides its own name; old metadata may leave that out.
	return r.Overlaps(rpm.Relation{Name: p.Name, Op: rpm.Equal, EVR: p.EVR})
}

// obsoleters lists the packages that take the place of p.
func (u *Universe) obsoleters(p *Package) []*Package {
	return slices.DeleteFunc(slices.Clone(u.replaced[p.Name]), func(q *Package) bool { return !obsoletes(q, p) })
}

// providers lists every package that offers r.
func (u *Universe) providers(r rpm.Relation) []*Package {
	var out []*Package
	add := func(list []*Package) {
		for _, p := range list {
			if offers(p, r) && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	add(u.provides[r.Name])
	if r.IsFile() {
		add(u.files[r.Name])
	} else {
		add(u.byName[r.Name])
	}
	return out
}

// unknownFiles lists the paths that are wanted, or that packages require, and that primary metadata does not tell: it has those
// in /etc and in folders called bin, and few others.
func (u *Universe) unknownFiles(wanted []string) map[string]bool {
	missing := map[string]bool{}
	look := func(name string) {
		if u.files[name] == nil && u.provides[name] == nil && !inPrimary(name) {
			missing[name] = true
		}
	}
	for _, name := range wanted {
		look(name)
	}
	for _, p := range u.packages {
		for _, c := range p.requires {
			for _, r := range c.Relations() {
				if r.IsFile() {
					look(r.Name)
				}
			}
		}
	}
	return missing
}

// elsewhere says, as the end of a sentence, for which other architectures packages of these names are offered: all packages
// when there is nothing at all for this one.
func (u *Universe) elsewhere(names ...string) string {
	var arches []string
	for _, s := range u.sources {
		for _, name := range names {
			arches = append(arches, s.foreign[name]...)
		}
	}
	if len(arches) == 0 && !slices.ContainsFunc(u.packages, func(p *Package) bool { return p.Arch != rpm.NoArch }) {
		for _, s := range u.sources {
			arches = append(arches, archesOf(s.foreign)...)
		}
	}
	if len(arches) == 0 {
		return ""
	}
	slices.Sort(arches)
	return fmt.Sprintf(" for architecture %s: what is there is for %s", u.arch, strings.Join(slices.Compact(arches), ", "))
}

func (u *Universe) addFile(p *Package, name string) {
	p.files = append(p.files, name)
	u.files[name] = append(u.files[name], p)
}

// addGroups adds groups of a repository; one that is there already gets the further members.
func (u *Universe) addGroups(groups []Group) {
	for _, g := range groups {
		i := slices.IndexFunc(u.groups, func(old Group) bool { return old.ID == g.ID })
		if i < 0 {
			u.groups = append(u.groups, g)
			continue
		}
		for _, m := range g.Members {
			if !slices.ContainsFunc(u.groups[i].Members, func(old Member) bool { return old.Name == m.Name }) {
				u.groups[i].Members = append(u.groups[i].Members, m)
			}
		}
	}
}

// inPrimary says whether createrepo puts a path into primary metadata (cr_is_primary, createrepo_c's src/misc.c).
func inPrimary(name string) bool {
	return strings.HasPrefix(name, "/etc/") || name == "/usr/lib/sendmail" || strings.Contains(path.Dir(name)+"/", "bin/")
}

// Group finds a group by its id or its name, whatever the case.
func (u *Universe) Group(name string) (Group, bool) {
	for _, same := range []func(g Group) bool{
		func(g Group) bool { return g.ID == name },
		func(g Group) bool { return g.Name == name },
		func(g Group) bool { return strings.EqualFold(g.ID, name) || strings.EqualFold(g.Name, name) },
	} {
		if i := slices.IndexFunc(u.groups, same); i >= 0 {
			return u.groups[i], true
		}
	}
	return Group{}, false
}
