package yum

import (
	"cmp"
	"slices"
	"strings"

	"netroot/builder/rpm"
)

// matching lists the packages that a condition of one package's own (a relation, or several joined by with, without, or or)
// is true of.
func (u *Universe) matching(c rpm.Condition) []*Package {
	switch c.Word {
	case "":
		return u.providers(c.Relation)
	case "with":
		out := u.matching(c.Args[0])
		for _, a := range c.Args[1:] {
			both := u.matching(a)
			out = slices.DeleteFunc(out, func(p *Package) bool { return !slices.Contains(both, p) })
		}
		return out
	case "without":
		not := u.matching(c.Args[1])
		return slices.DeleteFunc(u.matching(c.Args[0]), func(p *Package) bool { return slices.Contains(not, p) })
	}
	var out []*Package
	for _, a := range c.Args {
		for _, p := range u.matching(a) {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// holds says whether a condition is true of a set of packages.
func (u *Universe) holds(c rpm.Condition, has func(*Package) bool) bool {
	is := func(i int) bool { return u.holds(c.Args[i], has) }
	switch c.Word {
	case "and":
		return !slices.ContainsFunc(c.Args, func(a rpm.Condition) bool { return !u.holds(a, has) })
	case "or":
		return slices.ContainsFunc(c.Args, func(a rpm.Condition) bool { return u.holds(a, has) })
	case "if":
		if is(1) {
			return is(0)
		}
		return len(c.Args) < 3 || is(2)
	case "unless":
		if is(1) {
			return len(c.Args) == 3 && is(2)
		}
		return is(0)
	}
	return slices.ContainsFunc(u.matching(c), has)
}

// candidates lists the packages any of which brings a set nearer to a condition that it does not satisfy.
func (u *Universe) candidates(c rpm.Condition, has func(*Package) bool) []*Package {
	switch c.Word {
	case "and":
		for _, a := range c.Args {
			if !u.holds(a, has) {
				return u.candidates(a, has)
			}
		}
		return nil
	case "or":
		var out []*Package
		for _, a := range c.Args {
			for _, p := range u.candidates(a, has) {
				if !slices.Contains(out, p) {
					out = append(out, p)
				}
			}
		}
		return out
	case "if", "unless":
		switch met := u.holds(c.Args[1], has); {
		case met == (c.Word == "if"):
			return u.candidates(c.Args[0], has)
		case len(c.Args) == 3:
			return u.candidates(c.Args[2], has)
		}
		return nil
	}
	return u.matching(c)
}

// prefer sorts candidates as dnf takes them (policy_filter_unwanted, libsolv's src/policy.c): those of the root's own word size; none that
// another candidate obsoletes; of a name the highest version and best architecture first, the others of it at the end. Of
// several names it takes one that needs none of the others, and then the first in the order of the alphabet.
func (u *Universe) prefer(list []*Package) []*Package {
	sorted, _ := u.ranked(list)
	return sorted
}

// best lists the candidates among which only their names decide.
func (u *Universe) best(list []*Package) []*Package {
	sorted, n := u.ranked(list)
	return sorted[:n]
}

func (u *Universe) ranked(list []*Package) (sorted []*Package, best int) {
	sorted = slices.Clone(list)
	slices.SortStableFunc(sorted, u.better)
	rank := map[*Package]int{}
	named := map[string]bool{}
	for _, p := range sorted {
		switch {
		case slices.ContainsFunc(sorted, func(q *Package) bool { return obsoletes(q, p) }):
			rank[p] = 4
		case rpm.Family(p.Arch, u.arch) != rpm.Family(sorted[0].Arch, u.arch):
			rank[p] = 3
		case named[p.Name]:
			rank[p] = 2
		case slices.ContainsFunc(sorted, func(q *Package) bool { return q.Name != p.Name && needs(p, q) && !needs(q, p) }):
			rank[p] = 1
		default:
			best++
		}
		named[p.Name] = true
	}
	slices.SortStableFunc(sorted, func(a, b *Package) int {
		return cmp.Or(rank[a]-rank[b], strings.Compare(a.Name, b.Name))
	})
	return sorted, best
}

// needs says whether q is what one of p's requirements asks for.
func needs(p, q *Package) bool {
	return slices.ContainsFunc(p.requires, func(c rpm.Condition) bool { return c.Word == "" && offers(q, c.Relation) })
}

// rivals says whether two packages take each other's place: two versions of one name, or one for two architectures of one
// word size. Libraries of one version for two word sizes stand side by side.
func (u *Universe) rivals(p, q *Package) bool {
	return p != q && p.Name == q.Name && (p.EVR.Compare(q.EVR) != 0 || rpm.Family(p.Arch, u.arch) == rpm.Family(q.Arch, u.arch))
}
