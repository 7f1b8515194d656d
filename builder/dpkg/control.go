package dpkg

import (
	"errors"
	"fmt"
	"strings"

	"netroot/builder/deb"
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
	if !deb.ValidName(p.get("Package")) || !deb.ValidName(p.get("Architecture")) || strings.ContainsAny(p.get("Version"), " \t\n/") {
		return nil, errors.New("control: the package's name, version or architecture has characters that they may not have")
	}
	return p, nil
}
