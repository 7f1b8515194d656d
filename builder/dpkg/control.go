package dpkg

import (
	"errors"
	"fmt"
	"strings"
)

// A field is one field of a control file. The value has its first line trimmed; further lines begin with the newline
// and blank they have in the file.
type field struct{ name, value string }

// A paragraph is what a control file says of one package, in its order (deb-control(5)).
type paragraph []field

// get returns a field by name, in any case.
func (p paragraph) get(name string) string {
	for _, f := range p {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// parseControl reads a control file of one paragraph.
func parseControl(text string) (paragraph, error) {
	var p paragraph
	seen := map[string]bool{}
	for n, line := range strings.Split(strings.TrimRight(text, "\n \t\r"), "\n") {
		line = strings.TrimRight(line, " \t\r")
		switch {
		case line == "":
			if len(p) > 0 {
				return nil, fmt.Errorf("control:%d: a second paragraph", n+1)
			}
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if len(p) == 0 {
				return nil, fmt.Errorf("control:%d: continues no field", n+1)
			}
			p[len(p)-1].value += "\n" + line
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok || name == "" || strings.ContainsAny(name, " \t") {
				return nil, fmt.Errorf("control:%d: %q is no field", n+1, line)
			}
			if seen[strings.ToLower(name)] {
				return nil, fmt.Errorf("control:%d: field %s is there twice", n+1, name)
			}
			seen[strings.ToLower(name)] = true
			p = append(p, field{name, strings.TrimLeft(value, " \t")})
		}
	}
	for _, name := range []string{"Package", "Version", "Architecture"} {
		if p.get(name) == "" {
			return nil, fmt.Errorf("control: field %s is missing", name)
		}
	}
	if !plainName(p.get("Package")) || !plainName(p.get("Architecture")) || strings.ContainsAny(p.get("Version"), " \t\n/") {
		return nil, errors.New("control: the package's name, version or architecture has characters that they may not have")
	}
	return p, nil
}

// plainName tells whether a name is fit for a file name below info/ (deb-control(5), Package).
func plainName(s string) bool {
	if s == "" || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '+', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return true
}

// A relation is one alternative of a dependency: a package, perhaps of certain versions.
type relation struct {
	name, arch  string
	op, version string
}

// parseRelations reads the value of Depends, Replaces and the like: groups of alternatives, all of which must hold.
func parseRelations(value string) [][]relation {
	var groups [][]relation
	for _, group := range strings.Split(value, ",") {
		var alternatives []relation
		for _, text := range strings.Split(group, "|") {
			if r, ok := parseRelation(text); ok {
				alternatives = append(alternatives, r)
			}
		}
		if len(alternatives) > 0 {
			groups = append(groups, alternatives)
		}
	}
	return groups
}

func parseRelation(text string) (relation, bool) {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\n", " "))
	var r relation
	name, constraint, has := strings.Cut(text, "(")
	r.name, r.arch, _ = strings.Cut(strings.TrimSpace(name), ":")
	if has {
		constraint = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(constraint), ")"))
		i := strings.IndexFunc(constraint, func(c rune) bool { return !strings.ContainsRune("<=>", c) })
		if i > 0 {
			r.op, r.version = constraint[:i], strings.TrimSpace(constraint[i:])
		}
	}
	return r, r.name != ""
}

// holds tells whether a version is one of those the relation means. "<" and ">" are old words for "<=" and ">=".
func (r relation) holds(version string) bool {
	if r.op == "" {
		return true
	}
	c := compareVersions(version, r.version)
	switch r.op {
	case "<<":
		return c < 0
	case "<=", "<":
		return c <= 0
	case "=", "==":
		return c == 0
	case ">=", ">":
		return c >= 0
	case ">>":
		return c > 0
	}
	return false
}

// compareVersions orders two versions as deb-version(7) says.
func compareVersions(a, b string) int {
	epochA, a := splitEpoch(a)
	epochB, b := splitEpoch(b)
	if c := comparePart(epochA, epochB); c != 0 {
		return c
	}
	upA, revA := splitRevision(a)
	upB, revB := splitRevision(b)
	if c := comparePart(upA, upB); c != 0 {
		return c
	}
	return comparePart(revA, revB)
}

func splitEpoch(v string) (epoch, rest string) {
	if e, r, ok := strings.Cut(v, ":"); ok {
		return e, r
	}
	return "0", v
}

func splitRevision(v string) (upstream, revision string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

// comparePart compares alternating runs of non-digits, where "~" sorts before the end and letters before the rest,
// and digits.
func comparePart(a, b string) int {
	order := func(s string, i int) int {
		if i >= len(s) || isDigit(s[i]) {
			return 0
		}
		c := s[i]
		switch {
		case c == '~':
			return -1
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			return int(c)
		}
		return int(c) + 256
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		for (i < len(a) && !isDigit(a[i])) || (j < len(b) && !isDigit(b[j])) {
			x, y := order(a, i), order(b, j)
			if x != y {
				return sign(x - y)
			}
			i++
			j++
		}
		for i < len(a) && a[i] == '0' {
			i++
		}
		for j < len(b) && b[j] == '0' {
			j++
		}
		first := 0
		for i < len(a) && j < len(b) && isDigit(a[i]) && isDigit(b[j]) {
			if first == 0 {
				first = int(a[i]) - int(b[j])
			}
			i++
			j++
		}
		if i < len(a) && isDigit(a[i]) {
			return 1
		}
		if j < len(b) && isDigit(b[j]) {
			return -1
		}
		if first != 0 {
			return sign(first)
		}
	}
	return 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}
