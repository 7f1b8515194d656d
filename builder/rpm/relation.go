package rpm

import (
	"fmt"
	"strings"
)

// Op says how a version relates to the one named; the zero Op asks nothing of it.
type Op byte

// The bits of an Op; "<=" is Less|Equal.
const (
	Less Op = 1 << iota
	Greater
	Equal
)

var opWords = map[string]Op{"<": Less, "<=": Less | Equal, "=": Equal, "==": Equal, ">=": Greater | Equal, ">": Greater}

// FlagOp reads the flags attribute of repository metadata: LT, LE, EQ, GE, GT, or nothing.
func FlagOp(flags string) (Op, error) {
	switch flags {
	case "":
		return 0, nil
	case "LT":
		return Less, nil
	case "LE":
		return Less | Equal, nil
	case "EQ":
		return Equal, nil
	case "GE":
		return Greater | Equal, nil
	case "GT":
		return Greater, nil
	}
	return 0, fmt.Errorf("flags %q do not compare versions", flags)
}

func (o Op) String() string {
	for _, word := range []string{"<", "<=", "=", ">=", ">"} {
		if opWords[word] == o {
			return word
		}
	}
	return ""
}

// A Relation is a name with what is asked, or told, of its version: "bash", "glibc >= 2.12", "/bin/sh".
type Relation struct {
	Name string
	Op   Op
	EVR  EVR
}

func (r Relation) String() string {
	if r.Op == 0 {
		return r.Name
	}
	return r.Name + " " + r.Op.String() + " " + r.EVR.String()
}

// Overlaps says whether what provides gives is what r asks for (rpmdsCompare, lib/rpmds.c): names are equal, and the ranges
// of versions share one. Who names no version takes, and gives, all of them.
func (r Relation) Overlaps(provides Relation) bool {
	if r.Name != provides.Name {
		return false
	}
	if r.Op == 0 || provides.Op == 0 {
		return true
	}
	switch c := provides.EVR.Compare(r.EVR); {
	case c < 0:
		return r.Op&Less != 0 || provides.Op&Greater != 0
	case c > 0:
		return r.Op&Greater != 0 || provides.Op&Less != 0
	}
	return r.Op&provides.Op != 0
}

// IsFile says that the name is a path.
func (r Relation) IsFile() bool { return strings.HasPrefix(r.Name, "/") }

// A Condition is what a package asks of the others: one relation, or several joined by a word (rpm's boolean dependencies,
// docs/manual/boolean_dependencies.md): and, or, if, unless, with, without.
type Condition struct {
	Relation Relation    // when Word is ""
	Word     string      // "and", "or", "if", "unless", "with", "without"
	Args     []Condition // two or more; "if" and "unless" have the condition second, and what holds otherwise third
}

func (c Condition) String() string {
	switch c.Word {
	case "":
		return c.Relation.String()
	case "if", "unless":
		s := "(" + c.Args[0].String() + " " + c.Word + " " + c.Args[1].String()
		if len(c.Args) == 3 {
			s += " else " + c.Args[2].String()
		}
		return s + ")"
	}
	parts := make([]string, len(c.Args))
	for i, a := range c.Args {
		parts[i] = a.String()
	}
	return "(" + strings.Join(parts, " "+c.Word+" ") + ")"
}

// Relations lists every relation of the condition, in the order in which they stand.
func (c Condition) Relations() []Relation {
	if c.Word == "" {
		return []Relation{c.Relation}
	}
	var all []Relation
	for _, a := range c.Args {
		all = append(all, a.Relations()...)
	}
	return all
}

// maxNesting bounds the depth of a condition; real ones have three levels at most.
const maxNesting = 32

// ParseCondition reads "NAME", "NAME OP EVR", or a boolean dependency in parentheses.
func ParseCondition(s string) (Condition, error) {
	p := parser{rest: s}
	c, err := p.operand(0)
	if err == nil && p.peek() != "" {
		err = fmt.Errorf("%q stands behind its end", p.peek())
	}
	if err != nil {
		return Condition{}, fmt.Errorf("dependency %q: %w", s, err)
	}
	return c, nil
}

type parser struct{ rest string }

// peek returns the next token: a parenthesis, or what goes to the next space or unmatched parenthesis. Names may hold
// parentheses: "perl(Foo::Bar)", "libc.so.6(GLIBC_2.4)(64bit)".
func (p *parser) peek() string {
	p.rest = strings.TrimLeft(p.rest, " \t\n")
	if p.rest == "" || p.rest[0] == '(' || p.rest[0] == ')' {
		return p.rest[:min(1, len(p.rest))]
	}
	depth := 0
	for i := range len(p.rest) {
		switch p.rest[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth < 0 {
				return p.rest[:i]
			}
		case ' ', '\t', '\n':
			return p.rest[:i]
		}
	}
	return p.rest
}

func (p *parser) next() string {
	t := p.peek()
	p.rest = p.rest[len(t):]
	return t
}

// operand reads one relation or one group in parentheses.
func (p *parser) operand(depth int) (Condition, error) {
	switch t := p.next(); t {
	case "":
		return Condition{}, fmt.Errorf("a name is missing")
	case ")":
		return Condition{}, fmt.Errorf("parentheses do not match")
	case "(":
		if depth++; depth > maxNesting {
			return Condition{}, fmt.Errorf("it is nested more than %d deep", maxNesting)
		}
		return p.group(depth)
	default:
		c := Condition{Relation: Relation{Name: t}}
		op, ok := opWords[p.peek()]
		if !ok {
			return c, nil
		}
		p.next()
		version := p.next()
		if version == "" || version == "(" || version == ")" {
			return Condition{}, fmt.Errorf("a version is missing behind %s %s", t, op)
		}
		c.Relation.Op, c.Relation.EVR = op, ParseEVR(version)
		return c, nil
	}
}

// group reads what stands between parentheses, the opening one being read.
func (p *parser) group(depth int) (Condition, error) {
	first, err := p.operand(depth)
	if err != nil {
		return first, err
	}
	c := Condition{Args: []Condition{first}}
	for {
		switch word := p.next(); word {
		case ")":
			if len(c.Args) == 1 {
				return first, nil
			}
			return c, nil
		case "":
			return c, fmt.Errorf("parentheses do not match")
		case "else":
			if c.Word != "if" && c.Word != "unless" || len(c.Args) != 2 {
				return c, fmt.Errorf("else without if or unless before it")
			}
		case "and", "or", "with":
			if c.Word != "" && c.Word != word {
				return c, fmt.Errorf("%s and %s are mixed without parentheses", c.Word, word)
			}
			c.Word = word
		case "if", "unless", "without":
			if c.Word != "" {
				return c, fmt.Errorf("%s and %s are mixed without parentheses", c.Word, word)
			}
			c.Word = word
		default:
			return c, fmt.Errorf("%q is not one of and, or, if, unless, with, without", word)
		}
		arg, err := p.operand(depth)
		if err != nil {
			return c, err
		}
		c.Args = append(c.Args, arg)
	}
}
