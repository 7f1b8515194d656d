package apt

import (
	"fmt"
	"slices"
	"strings"

	"netroot/builder/deb"
)

// maxSteps bounds the search. The largest real sets (a desktop, some 3,000 packages) take about as many steps as they
// have dependencies and go back a handful of times.
const maxSteps = 2_000_000

// Resolve returns what has to be installed so that every wanted package works: the base set, the wanted and all they
// depend on, sorted by name. A wanted word is a name, or name=version.
func (u *Universe) Resolve(want []string) ([]*Package, error) {
	s := &solver{u: u, chosen: make(map[string]*node), against: make(map[string][]negative), fields: make(map[*Package]*fields)}
	roots, err := u.roots(want, s)
	if err != nil {
		return nil, err
	}
	for _, r := range roots {
		if note, _ := s.forbidden(r.pkg); note != "" {
			return nil, unsatisfiable([]string{note})
		}
		s.choose(r)
	}
	var agenda *task
	for _, r := range slices.Backward(roots) {
		agenda = &task{node: r, next: agenda}
	}
	if err := s.search(agenda); err != nil {
		return nil, err
	}
	out := make([]*Package, 0, len(s.trail))
	for _, n := range s.trail {
		out = append(out, n.pkg)
	}
	slices.SortFunc(out, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// A node is a package that was chosen, and why.
type node struct {
	pkg    *Package
	why    string // of a root: "wanted", "essential"
	parent *node  // who asked for it
	asked  deb.Dependency
	level  int // the choice that chose it, counted from 1; 0 for roots, which nothing takes back
}

// A negative is a Conflicts or Breaks of a chosen package.
type negative struct {
	node *node
	rel  deb.Relation
	verb string
}

// fields are the parsed dependency fields of a package.
type fields struct {
	err       error            // one of the fields cannot be read: the package must not be installed
	needs     []deb.Dependency // Pre-Depends, then Depends
	conflicts []deb.Dependency
	breaks    []deb.Dependency
	provides  []deb.Dependency
}

// A task is what is still to do: the dependencies of node from the i-th on, then next. Tasks are never changed, so a
// choice keeps the place to go back to by keeping a pointer.
type task struct {
	node *node
	i    int
	next *task
}

// A choice is one dependency that was satisfied by one of several packages.
type choice struct {
	by     *node
	dep    deb.Dependency
	rest   []*Package // not tried yet
	agenda *task
	trail  int             // length of the trail before it
	blame  map[int]bool    // levels of choices because of which earlier candidates failed
	notes  []string        // why, in words
	seen   map[string]bool // notes that are there already
}

type solver struct {
	u       *Universe
	chosen  map[string]*node
	trail   []*node
	choices []*choice // choices[i] has level i+1
	against map[string][]negative
	fields  map[*Package]*fields
}

func (s *solver) parsed(p *Package) *fields {
	if f, ok := s.fields[p]; ok {
		return f
	}
	f := new(fields)
	read := func(name, field string) []deb.Dependency {
		d, err := deb.ParseDependencies(field, s.u.cfg.Arch)
		if err != nil && f.err == nil {
			f.err = fmt.Errorf("its %s field cannot be read: %w", name, err)
		}
		return d
	}
	f.needs = slices.Concat(read("Pre-Depends", p.preDepends), read("Depends", p.depends))
	f.conflicts, f.breaks, f.provides = read("Conflicts", p.conflicts), read("Breaks", p.breaks), read("Provides", p.provides)
	s.fields[p] = f
	return f
}

// matches says whether p, by its own name or by one it provides, is what r names.
func (s *solver) matches(p *Package, r deb.Relation) bool {
	switch r.Arch {
	case "", "native", s.u.cfg.Arch:
	case "any": // deb-control(5): satisfied only by packages that allow it
		if p.multiArch != multiArchAllowed {
			return false
		}
	default:
		return false
	}
	if p.Name == r.Name && r.Admits(p.Version) {
		return true
	}
	if p.provides == "" {
		return false
	}
	for _, d := range s.parsed(p).provides {
		// A provided name without a version satisfies only relations without one.
		if d[0].Name == r.Name && (r.Op == "" || d[0].Op == "=" && r.Admits(d[0].Version)) {
			return true
		}
	}
	return false
}

// satisfied says whether the root as it is so far satisfies d.
func (s *solver) satisfied(d deb.Dependency) bool {
	for _, r := range d {
		if r.Op == "" && slices.Contains(s.u.cfg.Provided, r.Name) {
			return true
		}
		if n := s.chosen[r.Name]; n != nil && s.matches(n.pkg, r) {
			return true
		}
		for _, p := range s.u.providers[r.Name] {
			if n := s.chosen[p.Name]; n != nil && n.pkg == p && s.matches(p, r) {
				return true
			}
		}
	}
	return false
}

// candidates lists what would satisfy d, in the order of apt-get's preference (CompareProviders in its depcache.cc).
func (s *solver) candidates(d deb.Dependency) []*Package {
	var out []*Package
	for _, r := range d {
		from := len(out)
		if p := s.candidate(r.Name); p != nil && s.matches(p, r) {
			out = append(out, p)
		}
		for _, p := range s.u.providers[r.Name] {
			if s.candidate(p.Name) == p && p.Name != r.Name && s.matches(p, r) {
				out = append(out, p)
			}
		}
		slices.SortStableFunc(out[from:], func(a, b *Package) int { return comparePreference(a, b, r.Name) })
	}
	return out
}

// candidate is the only version of a name that may be installed: the one chosen already (it may be pinned), or the highest.
func (s *solver) candidate(name string) *Package {
	if n := s.chosen[name]; n != nil {
		return n.pkg
	}
	return s.u.candidates[name]
}

func comparePreference(a, b *Package, name string) int {
	if (a.Name == name) != (b.Name == name) {
		return before(a.Name == name)
	}
	if a.Essential != b.Essential {
		return before(a.Essential)
	}
	if a.Priority != b.Priority {
		return int(a.Priority) - int(b.Priority)
	}
	return strings.Compare(a.Name, b.Name)
}

func before(first bool) int {
	if first {
		return -1
	}
	return 1
}

// forbidden says in words why p cannot join what is chosen, and the level of the choice that is in its way.
func (s *solver) forbidden(p *Package) (note string, level int) {
	f := s.parsed(p)
	if f.err != nil {
		return fmt.Sprintf("%s cannot be installed: %v", p, f.err), 0
	}
	for _, list := range []struct {
		deps []deb.Dependency
		verb string
	}{{f.conflicts, "conflicts with"}, {f.breaks, "breaks"}} {
		for _, d := range list.deps {
			r := d[0]
			if n := s.chosen[r.Name]; n != nil && n.pkg.Name != p.Name && s.matches(n.pkg, r) {
				return fmt.Sprintf("%s %s %s, which is %s", p, list.verb, r, n.reason()), n.level
			}
			for _, q := range s.u.providers[r.Name] {
				if n := s.chosen[q.Name]; n != nil && n.pkg == q && q.Name != p.Name && s.matches(q, r) {
					return fmt.Sprintf("%s %s %s (that is %s), which is %s", p, list.verb, r, q.Name, n.reason()), n.level
				}
			}
		}
	}
	names := []string{p.Name}
	for _, d := range f.provides {
		names = append(names, d[0].Name)
	}
	for _, name := range names {
		for _, neg := range s.against[name] {
			if neg.node.pkg.Name != p.Name && s.matches(p, neg.rel) {
				return fmt.Sprintf("%s, which is %s, %s %s", neg.node.pkg, neg.node.reason(), neg.verb, neg.rel), neg.node.level
			}
		}
	}
	return "", 0
}

func (s *solver) choose(n *node) {
	s.chosen[n.pkg.Name] = n
	s.trail = append(s.trail, n)
	f := s.parsed(n.pkg)
	for _, d := range f.conflicts {
		s.against[d[0].Name] = append(s.against[d[0].Name], negative{n, d[0], "conflicts with"})
	}
	for _, d := range f.breaks {
		s.against[d[0].Name] = append(s.against[d[0].Name], negative{n, d[0], "breaks"})
	}
}

// undo takes back everything behind the first length nodes.
func (s *solver) undo(length int) {
	for _, n := range slices.Backward(s.trail[length:]) {
		delete(s.chosen, n.pkg.Name)
		f := s.parsed(n.pkg)
		for _, list := range [][]deb.Dependency{f.conflicts, f.breaks} {
			for _, d := range list {
				l := s.against[d[0].Name]
				s.against[d[0].Name] = l[:len(l)-1]
			}
		}
	}
	s.trail = s.trail[:length]
}

// search works the agenda off, depth-first as apt-get does. When a dependency cannot be satisfied it goes back to the
// latest choice that had a part in it (not merely the latest one), and tries that one's next candidate.
func (s *solver) search(agenda *task) error {
	for range maxSteps {
		if agenda == nil {
			return nil
		}
		n, needs := agenda.node, s.parsed(agenda.node.pkg).needs
		if agenda.i == len(needs) {
			agenda = agenda.next
			continue
		}
		d := needs[agenda.i]
		agenda = &task{n, agenda.i + 1, agenda.next}
		if s.satisfied(d) {
			continue
		}
		c := &choice{by: n, dep: d, rest: s.candidates(d), agenda: agenda, trail: len(s.trail), blame: make(map[int]bool), seen: make(map[string]bool)}
		if len(c.rest) == 0 {
			c.note(s.missing(n, d))
		}
		for {
			next := s.advance(c)
			if next != nil {
				agenda = &task{node: next, next: c.agenda}
				break
			}
			// c is exhausted. Who had a part in it: those its candidates failed for, and whoever asked.
			c.blame[c.by.level] = true
			latest := 0
			for level := range c.blame {
				latest = max(latest, level)
			}
			if latest == 0 {
				return unsatisfiable(c.notes)
			}
			back := s.choices[latest-1]
			s.choices = s.choices[:latest-1]
			s.undo(back.trail)
			for level := range c.blame {
				if level != latest {
					back.blame[level] = true
				}
			}
			for _, note := range c.notes {
				back.note(note)
			}
			c = back
		}
	}
	return errTooHard
}

// advance chooses the next candidate of c that nothing forbids; nil when there is none.
func (s *solver) advance(c *choice) *node {
	for len(c.rest) > 0 {
		p := c.rest[0]
		c.rest = c.rest[1:]
		if note, level := s.forbidden(p); note != "" {
			c.blame[level] = true
			c.note(fmt.Sprintf("%s, but %s", chain(c.by, c.dep), note))
			continue
		}
		s.choices = append(s.choices, c)
		n := &node{pkg: p, parent: c.by, asked: c.dep, level: len(s.choices)}
		s.choose(n)
		return n
	}
	return nil
}

func (c *choice) note(s string) {
	if !c.seen[s] {
		c.seen[s] = true
		c.notes = append(c.notes, s)
	}
}
