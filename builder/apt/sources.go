package apt

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A source is one enabled "deb" entry of sources.list(5): every combination of its URIs and suites is a repository.
type source struct {
	where      string // file:line, for errors
	uris       []string
	suites     []string
	components []string
	signedBy   []string // absolute paths or fingerprints
	inlineKey  string   // an armored key written into the entry itself
	trusted    bool     // the entry says that signatures do not matter
	untrusted  bool     // the entry says that they never suffice
	noDates    bool     // Check-Valid-Until: no
}

// readSources reads /etc/apt/sources.list and sources.list.d of the host, in apt's order.
func readSources(hostRoot string) ([]source, error) {
	etc := filepath.Join(hostRoot, "etc/apt")
	var out []source
	for _, path := range sourceFiles(etc) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read apt sources: %w", err)
		}
		var entries []source
		if strings.HasSuffix(path, ".sources") {
			entries, err = parseDeb822Sources(path, string(data))
		} else {
			entries, err = parseListSources(path, string(data))
		}
		if err != nil {
			return nil, err
		}
		out = append(out, entries...)
	}
	return out, nil
}

// sourceFiles lists the files that apt would read: names of letters, digits, hyphen, underscore and full stop only.
func sourceFiles(etc string) []string {
	var out []string
	if _, err := os.Stat(filepath.Join(etc, "sources.list")); err == nil {
		out = append(out, filepath.Join(etc, "sources.list"))
	}
	entries, _ := os.ReadDir(filepath.Join(etc, "sources.list.d"))
	for _, e := range entries { // ReadDir sorts
		name := e.Name()
		ext := filepath.Ext(name)
		if e.IsDir() || ext != ".list" && ext != ".sources" || strings.HasPrefix(name, ".") {
			continue
		}
		if strings.IndexFunc(name, func(r rune) bool { return !(r < 128 && isNameByte(byte(r))) }) >= 0 {
			continue
		}
		out = append(out, filepath.Join(etc, "sources.list.d", name))
	}
	return out
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.", c) >= 0
}

// parseDeb822Sources reads the stanzas of a .sources file.
func parseDeb822Sources(path, text string) ([]source, error) {
	var out []source
	err := eachStanza(text, func(line int, fields map[string]string) error {
		where := fmt.Sprintf("%s:%d", path, line)
		if no(fields["enabled"]) || !slices.Contains(strings.Fields(fields["types"]), "deb") {
			return nil
		}
		s := source{
			where:      where,
			uris:       strings.Fields(fields["uris"]),
			suites:     strings.Fields(fields["suites"]),
			components: strings.Fields(fields["components"]),
			trusted:    yes(fields["trusted"]),
			untrusted:  no(fields["trusted"]),
			noDates:    no(fields["check-valid-until"]),
		}
		if len(s.uris) == 0 || len(s.suites) == 0 {
			return fmt.Errorf("%s: the entry lacks URIs or Suites", where)
		}
		if key := fields["signed-by"]; strings.Contains(key, "-----BEGIN PGP") {
			s.inlineKey = key
		} else {
			s.signedBy = strings.Fields(strings.ReplaceAll(key, ",", " "))
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read apt sources %s: %w", path, err)
	}
	return out, nil
}

// eachStanza calls f for each stanza of a deb822 text with the line it starts at; field names are in lower case, and
// continuation lines keep their line breaks (a lone dot stands for an empty one).
func eachStanza(text string, f func(line int, fields map[string]string) error) error {
	fields := make(map[string]string)
	start, last := 0, ""
	flush := func() error {
		if len(fields) == 0 {
			return nil
		}
		err := f(start, fields)
		fields, last = make(map[string]string), ""
		return err
	}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, " \t\r")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			if err := flush(); err != nil {
				return err
			}
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return fmt.Errorf("line %d continues nothing", i+1)
			}
			more := strings.TrimSpace(line)
			if more == "." {
				more = ""
			}
			fields[last] += "\n" + more
		default:
			key, value, ok := strings.Cut(line, ":")
			if !ok {
				return fmt.Errorf("line %d has no colon: %.60q", i+1, line)
			}
			if len(fields) == 0 {
				start = i + 1
			}
			last = strings.ToLower(key)
			fields[last] = strings.TrimSpace(value)
		}
	}
	return flush()
}

// parseListSources reads one-line entries: deb [option=value …] URI SUITE COMPONENT….
func parseListSources(path, text string) ([]source, error) {
	var out []source
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := cutWord(line, "deb")
		if !ok {
			continue // deb-src, empty
		}
		s := source{where: fmt.Sprintf("%s:%d", path, i+1)}
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				return nil, fmt.Errorf("%s: the options in brackets do not end", s.where)
			}
			for option := range strings.FieldsSeq(options) {
				key, value, _ := strings.Cut(option, "=")
				s.option(strings.TrimRight(key, "+-"), value)
			}
			rest = after
		}
		words := strings.Fields(rest)
		if len(words) < 2 {
			return nil, fmt.Errorf("%s: an entry needs a URI and a suite: %q", s.where, strings.TrimSpace(line))
		}
		s.uris, s.suites, s.components = words[:1], words[1:2], words[2:]
		out = append(out, s)
	}
	return out, nil
}

func (s *source) option(key, value string) {
	switch key {
	case "signed-by":
		s.signedBy = strings.Split(value, ",")
	case "trusted":
		s.trusted, s.untrusted = yes(value), no(value)
	case "check-valid-until":
		s.noDates = no(value)
	}
}

func cutWord(line, word string) (string, bool) {
	rest, ok := strings.CutPrefix(strings.TrimLeft(line, " \t"), word)
	if !ok || rest == "" || rest[0] != ' ' && rest[0] != '\t' && rest[0] != '[' {
		return "", false
	}
	return strings.TrimLeft(rest, " \t"), true
}

func yes(s string) bool {
	return slices.Contains([]string{"yes", "true", "with", "on", "enable", "1"}, strings.ToLower(s))
}

func no(s string) bool {
	return slices.Contains([]string{"no", "false", "without", "off", "disable", "0"}, strings.ToLower(s))
}
