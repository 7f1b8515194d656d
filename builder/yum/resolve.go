package yum

import (
	"fmt"
	"slices"
	"strings"

	"netroot/builder/rpm"
)

// A Want is what a root shall hold.
type Want struct {
	Groups   []string // ids or names of comps groups
	Packages []string // NAME, NAME.ARCH, NAME-VERSION, NAME-VERSION-RELEASE, NAME-VERSION-RELEASE.ARCH, something provided, a path
	Exclude  []string // patterns of names (path.Match) that must not be there
}

// Resolve returns everything that has to be installed so that every wanted package works, sorted by name.
//
// It goes the way of dnf's solver (libsolv): what is without alternative comes first, then the open requirements are decided in the
// order in which they came up, each by the candidate that dnf would prefer. When that way ends in a contradiction it is
// gone again, and a SAT solver says before every step whether the rest can still be satisfied; when nothing can satisfy it, the solver's
// core of the contradiction becomes the sentences of the error. Packages that nobody needs stay out.
func (u *Universe) Resolve(w Want) ([]*Package, error) {
	wants, err := u.wants(w)
	if err != nil {
		return nil, err
	}
	s := newSearch(u, w.Exclude)
	err = s.run(wants)
	if err != nil {
		o := newOracle(u, w.Exclude, wants)
		if why := o.contradiction(); len(why) > 0 {
			return nil, unsatisfiable(why)
		}
		s = newSearch(u, w.Exclude)
		s.possible = o.possible
		if err = s.run(wants); err != nil {
			return nil, err
		}
	}
	out := make([]*Package, 0, len(s.order))
	for _, n := range s.order {
		out = append(out, n.pkg)
	}
	slices.SortFunc(out, func(a, b *Package) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

// A want is one thing that the root shall have: a condition, or one of several packages.
type want struct {
	word string
	cond rpm.Condition // when among is nil
	list []*Package
}

// A node is a package that was chosen, and why.
type node struct {
	pkg    *Package
	word   string // of a want
	parent *node
	asked  rpm.Condition
}

// A goal is a requirement of a chosen package, or a want, that may still be open.
type goal struct {
	by   *node // nil for a want
	want *want
	cond rpm.Condition
}

// search is one way through the choices.
type search struct {
	u        *Universe
	exclude  []string
	possible func(chosen []*node, p *Package) bool // nil: everything is

	nodes   map[*Package]*node
	names   map[string][]*node
	order   []*node
	goals   []goal             // in the order in which they came up
	later   []goal             // conditions with if: they may become open again
	against map[string][]*node // chosen packages that conflict with, or obsolete, what has this name
}

func newSearch(u *Universe, exclude []string) *search {
	return &search{u: u, exclude: exclude, nodes: map[*Package]*node{}, names: map[string][]*node{}, against: map[string][]*node{}}
}

// deadEnd is a requirement that this way through the choices cannot satisfy.
type deadEnd struct{ why string }

func (e *deadEnd) Error() string { return e.why }

func (s *search) run(wants []*want) error {
	for _, w := range wants {
		g := goal{want: w, cond: w.cond}
		s.goals = append(s.goals, g)
		if w.cond.Word != "" {
			s.later = append(s.later, g)
		}
	}
	for {
		if err := s.forced(); err != nil {
			return err
		}
		if len(s.goals) == 0 && !s.wake() {
			return s.standing()
		}
		if len(s.goals) == 0 {
			continue
		}
		// A goal for which one candidate is the best comes before those among which only the order of names decides.
		next := 0
		for i, g := range s.goals {
			if list, _ := s.open(g); len(s.u.best(list)) == 1 {
				next = i
				break
			}
		}
		g := s.goals[next]
		s.goals = slices.Delete(s.goals, next, next+1)
		list, _ := s.open(g)
		p := s.take(list)
		if p == nil {
			return &deadEnd{s.explain(g)}
		}
		s.choose(p, g)
	}
}

// forced drops the goals that are satisfied and chooses what has no alternative, until all goals that are left leave a choice.
func (s *search) forced() error {
	for progress := true; progress; {
		progress = false
		goals := s.goals
		s.goals = nil
		for _, g := range goals {
			list, ok := s.open(g)
			switch {
			case ok:
			case len(list) == 0:
				return &deadEnd{s.explain(g)}
			case len(list) == 1:
				s.choose(list[0], g)
				progress = true
			default:
				s.goals = append(s.goals, g)
			}
		}
	}
	return nil
}

// wake brings back conditions that what was chosen since made open.
func (s *search) wake() bool {
	for _, g := range s.later {
		if _, ok := s.open(g); !ok {
			s.goals = append(s.goals, g)
		}
	}
	return len(s.goals) > 0
}

// standing makes sure that no chosen package conflicts with what was chosen after it, by a condition that only the whole tells.
func (s *search) standing() error {
	for _, n := range s.order {
		for _, c := range n.pkg.conflicts {
			if c.Word != "" && s.holds(c) {
				return &deadEnd{fmt.Sprintf("%s, which is %s, conflicts with %s", n.pkg, n.reason(), c)}
			}
		}
	}
	return nil
}

// take returns the candidate that dnf prefers, of those with which the rest can be satisfied.
func (s *search) take(list []*Package) *Package {
	for _, p := range s.u.prefer(list) {
		if s.possible == nil || s.possible(s.order, p) {
			return p
		}
	}
	return nil
}

// open says whether a goal is satisfied; if not, it lists what could take it a step further.
func (s *search) open(g goal) (list []*Package, ok bool) {
	if g.want != nil && g.want.list != nil {
		if slices.ContainsFunc(g.want.list, s.has) {
			return nil, true
		}
		return s.allowed(g.want.list), false
	}
	if s.holds(g.cond) {
		return nil, true
	}
	return s.allowed(s.u.candidates(g.cond, s.has)), false
}

func (s *search) has(p *Package) bool { return s.nodes[p] != nil }

func (s *search) holds(c rpm.Condition) bool { return s.u.holds(c, s.has) }

// allowed drops the candidates that cannot stand beside what is chosen.
func (s *search) allowed(list []*Package) []*Package {
	return slices.DeleteFunc(slices.Clone(list), func(p *Package) bool { return s.forbidden(p) != "" })
}

// forbidden says in words why p cannot be chosen, if it cannot.
func (s *search) forbidden(p *Package) string {
	if s.nodes[p] != nil {
		return ""
	}
	if s.u.excluded(p, s.exclude) {
		return p.String() + " is excluded by the recipe"
	}
	if p.broken != nil {
		return fmt.Sprintf("%s cannot be installed: %v", p, p.broken)
	}
	for _, n := range s.names[p.Name] {
		if s.u.rivals(n.pkg, p) {
			return fmt.Sprintf("%s is %s, and there can be only one %s", n.pkg, n.reason(), p.Name)
		}
	}
	for _, c := range p.conflicts {
		if c.Word != "" {
			if s.holds(c) {
				return fmt.Sprintf("%s conflicts with %s", p, c)
			}
			continue
		}
		for _, q := range s.u.providers(c.Relation) {
			if n := s.nodes[q]; n != nil && q.Name != p.Name {
				return fmt.Sprintf("%s conflicts with %s, which is %s", p, c, n.reason())
			}
		}
	}
	for _, r := range p.obsoletes {
		for _, n := range s.names[r.Name] {
			if obsoletes(p, n.pkg) {
				return fmt.Sprintf("%s obsoletes %s, which is %s", p, n.pkg, n.reason())
			}
		}
	}
	names := []string{p.Name}
	for _, r := range p.provides {
		names = append(names, r.Name)
	}
	for _, name := range append(names, p.files...) {
		for _, n := range s.against[name] {
			if why := clash(n.pkg, p); why != "" {
				return fmt.Sprintf("%s, which is %s, %s", n.pkg, n.reason(), why)
			}
		}
	}
	return ""
}

// clash says how p, which is chosen, is against q.
func clash(p, q *Package) string {
	for _, c := range p.conflicts {
		if c.Word == "" && q.Name != p.Name && offers(q, c.Relation) {
			return "conflicts with " + c.String()
		}
	}
	if obsoletes(p, q) {
		return "obsoletes " + q.String()
	}
	return ""
}

// obsoletes says whether p takes the place of q. Only names count, not what is provided (rpm's lib/depends.c).
func obsoletes(p, q *Package) bool {
	return q.Name != p.Name && slices.ContainsFunc(p.obsoletes, func(r rpm.Relation) bool {
		return r.Overlaps(rpm.Relation{Name: q.Name, Op: rpm.Equal, EVR: q.EVR})
	})
}

func (s *search) choose(p *Package, g goal) {
	n := &node{pkg: p, parent: g.by, asked: g.cond}
	if g.want != nil {
		n.word = g.want.word
	}
	s.nodes[p] = n
	s.names[p.Name] = append(s.names[p.Name], n)
	s.order = append(s.order, n)
	for _, c := range p.requires {
		next := goal{by: n, cond: c}
		s.goals = append(s.goals, next)
		if c.Word != "" {
			s.later = append(s.later, next)
		}
	}
	for _, c := range p.conflicts {
		for _, r := range c.Relations() {
			s.against[r.Name] = append(s.against[r.Name], n)
		}
	}
	for _, r := range p.obsoletes {
		s.against[r.Name] = append(s.against[r.Name], n)
	}
}
