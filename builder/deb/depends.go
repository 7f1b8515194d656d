package deb

import (
	"fmt"
	"slices"
	"strings"
)

// A Relation is one name in a dependency field, with what is asked of its version: "libc6 (>= 2.36)", "python3:any".
type Relation struct {
	Name    string
	Arch    string // the qualifier behind a colon: "", any, native or an architecture
	Op      string // "", <<, <=, =, >=, >>
	Version string
}

// A Dependency is a list of alternatives, any of which will do.
type Dependency []Relation

func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	return s
}

func (d Dependency) String() string {
	parts := make([]string, len(d))
	for i, r := range d {
		parts[i] = r.String()
	}
	return strings.Join(parts, " | ")
}

// Admits says whether a version is one the relation asks for.
func (r Relation) Admits(version string) bool {
	if r.Op == "" {
		return true
	}
	c := CompareVersions(version, r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}

// ParseDependencies reads a Depends, Conflicts or Provides field (deb-control(5), deb-src-control(5)). Alternatives
// restricted to other architectures than arch are left out, and with them dependencies that have no other alternative.
func ParseDependencies(field, arch string) ([]Dependency, error) {
	var out []Dependency
	for part := range strings.SplitSeq(field, ",") {
		if strings.TrimSpace(part) == "" {
			continue // a comma too many is common and harmless
		}
		var d Dependency
		for alt := range strings.SplitSeq(part, "|") {
			r, applies, err := parseRelation(strings.TrimSpace(alt), arch)
			if err != nil {
				return nil, fmt.Errorf("dependency %q: %w", strings.TrimSpace(part), err)
			}
			if applies {
				d = append(d, r)
			}
		}
		if len(d) > 0 {
			out = append(out, d)
		}
	}
	return out, nil
}

func parseRelation(s, arch string) (r Relation, applies bool, err error) {
	end := strings.IndexAny(s, " \t\n([<")
	if end < 0 {
		end = len(s)
	}
	r.Name = s[:end]
	if name, qualifier, ok := strings.Cut(r.Name, ":"); ok {
		r.Name, r.Arch = name, qualifier
		if qualifier == "" {
			return r, false, fmt.Errorf("nothing behind the colon")
		}
	}
	if !ValidName(r.Name) {
		return r, false, fmt.Errorf("%q is not a package name", r.Name)
	}
	applies = true
	for rest := strings.TrimLeft(s[end:], " \t\n"); rest != ""; rest = strings.TrimLeft(rest, " \t\n") {
		switch rest[0] {
		case '(':
			body, after, ok := strings.Cut(rest[1:], ")")
			if !ok || r.Op != "" {
				return r, false, fmt.Errorf("parentheses do not match")
			}
			if r.Op, r.Version, err = parseVersionRelation(body); err != nil {
				return r, false, err
			}
			rest = after
		case '[':
			body, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				return r, false, fmt.Errorf("brackets do not match")
			}
			applies = applies && archApplies(strings.Fields(body), arch)
			rest = after
		case '<': // build profiles never apply to what is installed
			_, after, ok := strings.Cut(rest[1:], ">")
			if !ok {
				return r, false, fmt.Errorf("build profile without its end")
			}
			rest = after
		default:
			return r, false, fmt.Errorf("%q is not understood", rest)
		}
	}
	return r, applies, nil
}

func parseVersionRelation(s string) (op, version string, err error) {
	s = strings.TrimSpace(s)
	n := 0
	for n < len(s) && strings.IndexByte("<>=", s[n]) >= 0 {
		n++
	}
	op, version = s[:n], strings.TrimSpace(s[n:])
	switch op {
	case "<<", "<=", "=", ">=", ">>":
	case "<": // the old spellings mean "or equal", deb-control(5)
		op = "<="
	case ">":
		op = ">="
	case "":
		op = "=" // dpkg takes a bare version for an exact one
	default:
		return "", "", fmt.Errorf("%q does not compare versions", op)
	}
	if version == "" || strings.ContainsAny(version, " \t\n(") {
		return "", "", fmt.Errorf("%q is not a version", version)
	}
	return op, version, nil
}

// archApplies reads the words of [amd64 i386] or [!hurd-any].
func archApplies(words []string, arch string) bool {
	if len(words) == 0 {
		return true
	}
	negated := strings.HasPrefix(words[0], "!")
	hit := slices.ContainsFunc(words, func(w string) bool {
		w = strings.TrimPrefix(w, "!")
		return w == arch || w == "any" || w == "linux-any" || w == "any-"+arch
	})
	return hit != negated
}

// ValidName says whether s can name a package: dpkg's rule, with the capitals and the underscore that third parties use.
func ValidName(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', isDigit(c):
		case i > 0 && strings.IndexByte("+-._", c) >= 0:
		default:
			return false
		}
	}
	return true
}
