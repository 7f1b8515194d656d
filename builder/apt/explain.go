package apt

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"netroot/builder/deb"
)

// roots turns the base set and the wanted words into nodes: base first, sorted, then the wanted in their order.
func (u *Universe) roots(want []string, s *solver) ([]*node, error) {
	var roots []*node
	seen := make(map[string]*node)
	add := func(p *Package, why string) {
		if n := seen[p.Name]; n != nil {
			if why == "wanted" {
				n.pkg = p // a pinned version of a base package
			}
			return
		}
		n := &node{pkg: p, why: why}
		seen[p.Name] = n
		roots = append(roots, n)
	}
	for _, p := range u.base() {
		why := "in the base set"
		if p.Essential {
			why = "essential"
		}
		add(p, why)
	}
	for _, word := range want {
		if slices.Contains(u.cfg.Provided, word) {
			continue
		}
		p, err := u.wanted(word, s)
		if err != nil {
			return nil, err
		}
		add(p, "wanted")
	}
	return roots, nil
}

// base is debootstrap's minbase, see the package comment.
func (u *Universe) base() []*Package {
	var out []*Package
	for name, p := range u.candidates {
		if p.Essential || p.Priority == Required || name == "apt" || name == "usr-is-merged" {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// wanted finds the package that a word of the recipe means.
func (u *Universe) wanted(word string, s *solver) (*Package, error) {
	name, version, pinned := strings.Cut(word, "=")
	if base, arch, ok := strings.Cut(name, ":"); ok {
		if arch != u.cfg.Arch && arch != "native" && arch != "all" {
			return nil, fmt.Errorf("package %s: this root is %s, and holds packages of one architecture only", word, u.cfg.Arch)
		}
		name = base
	}
	p := u.candidates[name]
	if pinned && p != nil {
		offers := u.offers(name)
		for _, q := range offers {
			if q.Version == version {
				return q, nil
			}
		}
		versions := make([]string, len(offers))
		for i, q := range offers {
			versions[i] = q.Version + " (" + q.Repo + ")"
		}
		return nil, fmt.Errorf("package %s: no suite offers version %s, only %s", name, version, strings.Join(versions, ", "))
	}
	if p != nil {
		return p, nil
	}
	switch providers := s.candidates(deb.Dependency{{Name: name}}); {
	case len(providers) == 1:
		return providers[0], nil
	case len(providers) > 1:
		names := make([]string, len(providers))
		for i, q := range providers {
			names[i] = q.Name
		}
		return nil, fmt.Errorf("package %s is only a name that others provide: want one of %s", name, strings.Join(names, ", "))
	}
	where := strings.Join(u.Names(), ", ")
	if near := u.nearest(name); near != "" {
		return nil, fmt.Errorf("no package %s in %s; did you mean %s?", name, where, near)
	}
	return nil, fmt.Errorf("no package %s in %s (is its component among those of the recipe?)", name, where)
}

// offers lists all versions of a name.
func (u *Universe) offers(name string) []*Package {
	if all := u.versions[name]; all != nil {
		return all
	}
	if p := u.candidates[name]; p != nil {
		return []*Package{p}
	}
	return nil
}

// chain tells how one came to need d: "linux-image-amd64 needs linux-image-6.1.0-x (= 6.1), which needs kmod".
func chain(n *node, d deb.Dependency) string {
	var steps []string
	steps = append(steps, d.String())
	for ; n.parent != nil; n = n.parent {
		link := n.asked.String()
		if len(n.asked) > 1 || n.asked[0].Name != n.pkg.Name {
			link += " (taking " + n.pkg.Name + ")"
		}
		steps = append(steps, link)
	}
	slices.Reverse(steps)
	subject := n.pkg.Name
	if n.why != "wanted" {
		subject += " (" + n.why + ")"
	}
	return subject + " needs " + strings.Join(steps, ", which needs ")
}

// reason tells why a chosen package is there.
func (n *node) reason() string {
	if n.parent == nil {
		return n.why
	}
	return "needed by " + n.parent.pkg.Name
}

// missing says that nothing satisfies d, and what there is instead.
func (s *solver) missing(n *node, d deb.Dependency) string {
	text := chain(n, d) + ", which no suite offers"
	var instead []string
	for _, r := range d {
		if p := s.candidate(r.Name); p != nil {
			what := "version " + p.Version + " of " + r.Name
			if r.Arch != "" && r.Admits(p.Version) {
				what += " for " + p.Arch
			}
			instead = append(instead, what+" from "+p.Repo)
		}
	}
	if len(instead) > 0 {
		text += " (there is " + strings.Join(instead, ", ") + ")"
	}
	return text
}

// unsatisfiable makes one error of the reasons, the first five of them.
func unsatisfiable(notes []string) error {
	more := ""
	if len(notes) > 5 {
		more = fmt.Sprintf("\n(and %d more ways that end likewise)", len(notes)-5)
		notes = notes[:5]
	}
	return errors.New("the packages cannot be installed together: " + strings.Join(notes, "\n") + more)
}

// nearest finds the installable name that differs least from a mistyped one; none when all differ too much.
func (u *Universe) nearest(name string) string {
	best, bestDistance := "", max(1, len(name)/4)+1
	for other := range u.candidates {
		if d := len(other) - len(name); d >= bestDistance || -d >= bestDistance {
			continue
		}
		d := distance(name, other)
		if d < bestDistance || d == bestDistance && best != "" && other < best {
			best, bestDistance = other, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of neighbours between two words.
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
