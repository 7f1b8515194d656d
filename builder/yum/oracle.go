package yum

import (
	"fmt"
	"slices"

	"github.com/go-air/gini"
	"github.com/go-air/gini/logic"
	"github.com/go-air/gini/z"

	"netroot/builder/rpm"
)

// An oracle knows whether a set of packages can be completed to one in which everything holds. Each package is a variable
// and each rule a gate of a circuit; the rules are assumed, not asserted, so that the solver can name those that
// contradict each other.
type oracle struct {
	u       *Universe
	exclude []string
	circuit *logic.C
	sat     *gini.Gini
	vars    map[*Package]z.Lit
	todo    []*Package // that have a variable, and no rules yet
	rules   []z.Lit
	says    map[z.Lit]string // what a rule means
}

func newOracle(u *Universe, exclude []string, wants []*want) *oracle {
	o := &oracle{u: u, exclude: exclude, circuit: logic.NewC(), sat: gini.New(), vars: map[*Package]z.Lit{}, says: map[z.Lit]string{}}
	for _, w := range wants {
		if w.list == nil {
			o.rule(o.condition(w.cond), w.word+" is wanted")
			continue
		}
		var any []z.Lit
		for _, p := range w.list {
			any = append(any, o.variable(p))
		}
		o.rule(o.circuit.Ors(any...), w.word+" is wanted")
	}
	for len(o.todo) > 0 {
		p := o.todo[0]
		o.todo = o.todo[1:]
		o.encode(p)
	}
	o.circuit.ToCnf(o.sat)
	return o
}

// variable returns the literal that says that p is installed.
func (o *oracle) variable(p *Package) z.Lit {
	l, ok := o.vars[p]
	if !ok {
		l = o.circuit.Lit()
		o.vars[p] = l
		o.todo = append(o.todo, p)
	}
	return l
}

func (o *oracle) rule(l z.Lit, says string) {
	if _, twice := o.says[l]; twice || l == o.circuit.T {
		return
	}
	o.says[l] = says
	o.rules = append(o.rules, l)
}

func (o *oracle) condition(c rpm.Condition) z.Lit {
	args := func() []z.Lit {
		var ls []z.Lit
		for _, a := range c.Args {
			ls = append(ls, o.condition(a))
		}
		return ls
	}
	switch c.Word {
	case "and":
		return o.circuit.Ands(args()...)
	case "or":
		return o.circuit.Ors(args()...)
	case "if", "unless":
		ls := args()
		then, otherwise := ls[0], o.circuit.T
		if c.Word == "unless" {
			otherwise = o.circuit.F
		}
		if len(ls) == 3 {
			otherwise = ls[2]
		}
		if c.Word == "if" {
			return o.circuit.Choice(ls[1], then, otherwise)
		}
		return o.circuit.Choice(ls[1], otherwise, then)
	}
	var ls []z.Lit
	for _, p := range o.u.matching(c) {
		ls = append(ls, o.variable(p))
	}
	return o.circuit.Ors(ls...)
}

// encode makes the rules of one package.
func (o *oracle) encode(p *Package) {
	l := o.vars[p]
	switch {
	case o.u.excluded(p, o.exclude):
		o.rule(l.Not(), p.String()+" is excluded by the recipe")
		return
	case p.broken != nil:
		o.rule(l.Not(), fmt.Sprintf("%s cannot be installed: %v", p, p.broken))
		return
	}
	for _, c := range p.requires {
		says := fmt.Sprintf("%s needs %s", p, c)
		if c.Word == "" && len(o.u.providers(c.Relation)) == 0 {
			says += ", which " + o.u.missing(c.Relation)
		}
		o.rule(o.circuit.Implies(l, o.condition(c)), says)
	}
	never := func(q *Package, format string, args ...any) {
		o.rule(o.circuit.And(l, o.variable(q)).Not(), fmt.Sprintf(format, args...))
	}
	for _, c := range p.conflicts {
		if c.Word != "" {
			o.rule(o.circuit.And(l, o.condition(c)).Not(), fmt.Sprintf("%s conflicts with %s", p, c))
			continue
		}
		for _, q := range o.u.providers(c.Relation) {
			if q.Name != p.Name && o.known(q) {
				never(q, "%s conflicts with %s, which %s is", p, c, q)
			}
		}
	}
	for _, r := range p.obsoletes {
		for _, q := range o.u.byName[r.Name] {
			if obsoletes(p, q) && o.known(q) {
				never(q, "%s obsoletes %s", p, q)
			}
		}
	}
	for _, q := range o.u.byName[p.Name] {
		if o.u.rivals(p, q) && o.known(q) {
			never(q, "there can be only one of %s and %s", p, q)
		}
	}
}

// known tells whether anything needs q: what nothing needs can be left out, and is no obstacle.
func (o *oracle) known(q *Package) bool {
	_, ok := o.vars[q]
	return ok
}

// possible says whether what is chosen and p can be completed.
func (o *oracle) possible(chosen []*node, p *Package) bool {
	o.sat.Assume(o.rules...)
	for _, n := range chosen {
		o.sat.Assume(o.vars[n.pkg])
	}
	o.sat.Assume(o.vars[p])
	return o.sat.Solve() == 1
}

// contradiction returns the sentences that cannot all be true, nothing when there is a solution. It leaves out as many
// as it can, one after the other.
func (o *oracle) contradiction() []string {
	solve := func(rules []z.Lit) []z.Lit {
		o.sat.Assume(rules...)
		if o.sat.Solve() == 1 {
			return nil
		}
		return o.sat.Why(nil)
	}
	core := solve(o.rules)
	for i := 0; i < len(core); {
		without := slices.Delete(slices.Clone(core), i, i+1)
		if smaller := solve(without); smaller != nil {
			core = smaller
		} else {
			i++
		}
	}
	// In the order of the rules: from what is wanted to what is missing.
	var says []string
	for _, l := range o.rules {
		if slices.Contains(core, l) {
			says = append(says, o.says[l])
		}
	}
	return says
}
