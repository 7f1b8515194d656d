package dnsmasq

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A text is a line after quoting is undone: marked says which bytes stood between quotes, and so separate nothing.
type text struct {
	bytes  []byte
	marked []bool
}

// lex takes one line apart as read_file of dnsmasq's option.c does: a # begins a comment only behind white space or at the
// start; between double quotes nothing does, and \" \\ \t \n \b \r \e are escapes there.
func lex(s string) (t text, comment string, hasComment, closed bool) {
	white, quoted := true, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			quoted = !quoted // what stood before a quote still decides whether a # behind it begins a comment
			continue
		case quoted:
			if c == '\\' && i+1 < len(s) && strings.IndexByte(`"tnebr\`, s[i+1]) >= 0 {
				i++
				c = escapes[s[i]]
			}
		case c == '#' && white:
			return t, s[i+1:], true, true
		case isSpace(c):
			c, white = ' ', true
		default:
			white = false
		}
		t.bytes = append(t.bytes, c)
		t.marked = append(t.marked, quoted)
	}
	return t, "", false, !quoted
}

var escapes = map[byte]byte{'"': '"', '\\': '\\', 't': '\t', 'n': '\n', 'b': '\b', 'r': '\r', 'e': 0x1b}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// split cuts at every unquoted separator, and takes the spaces off around it.
func (t text) split(separator byte) []string {
	var parts []string
	start := 0
	for i := 0; i <= len(t.bytes); i++ {
		if i == len(t.bytes) || t.bytes[i] == separator && !t.marked[i] {
			parts = append(parts, strings.Trim(string(t.bytes[start:i]), " "))
			start = i + 1
		}
	}
	return parts
}

func (t text) from(i int) text { return text{t.bytes[i:], t.marked[i:]} }

func (t text) String() string { return strings.Trim(string(t.bytes), " ") }

// read fills in the key and the arguments.
func (l *line) read(t text) {
	eq := strings.IndexByte(string(t.bytes), '=')
	if eq < 0 {
		l.key = t.String()
		return
	}
	l.key = strings.Trim(string(t.bytes[:eq]), " =")
	rest := t.from(eq + 1)
	l.given, l.value, l.args = true, rest.String(), rest.split(',')
}

// lines takes a file apart. Prose collects above the directive that follows it; an empty line ends it, so that a heading does
// not stick to what comes much later. The one at the top of the file is about the file.
func (p *parser) lines(data string) []*line {
	var list []*line
	var above []string
	for i, raw := range strings.Split(strings.TrimPrefix(data, "\uFEFF"), "\n") {
		raw = strings.TrimSuffix(raw, "\r")
		t, comment, commented, closed := lex(raw)
		l := &line{number: i + 1, source: raw, comment: prose(comment)}
		switch {
		case strings.IndexByte(raw, 0) >= 0:
			p.fail(l, "a NUL byte, as no text file has")
		case !closed:
			p.fail(l, "a double quote that is never closed")
		case t.String() != "":
			l.text = strings.TrimSpace(raw)
			if commented {
				l.text = strings.TrimSpace(raw[:len(raw)-len(comment)-1])
			}
			l.read(t)
			l.above, above = p.prose(l, above, len(list) == 0), nil
			list = append(list, l)
		case !commented:
			p.prose(l, above, len(list) == 0)
			above = nil
		default:
			off, known := commentedOut(l, comment)
			switch {
			case off != nil:
				off.above, above = p.prose(l, above, len(list) == 0), nil
				list = append(list, off)
			case !known && l.comment != "":
				above = append(above, l.comment)
			}
		}
	}
	return list
}

// prose takes what stands at the top of the file out of what belongs to one line.
func (p *parser) prose(l *line, above []string, first bool) []string {
	if !first || p.file.top != nil || len(above) == 0 || l.number != len(above)+1 {
		return above
	}
	if p.file.top = above; strings.HasPrefix(above[0], stockTop) {
		p.file.top = []string{}
	}
	return nil
}

// stockTop begins the file that comes with dnsmasq.
const stockTop = "Configuration file for dnsmasq"

// commentedOut says whether a comment was a directive once, and returns it when it named a machine.
func commentedOut(l *line, comment string) (off *line, known bool) {
	t, rest, commented, closed := lex(strings.TrimLeft(comment, "# \t"))
	off = &line{number: l.number, source: l.source, off: true, comment: prose(rest)}
	off.read(t)
	d, known := directives[off.key]
	if !closed || !known || d.argument == always && !off.given {
		return nil, false
	}
	if off.key != "dhcp-host" {
		return nil, true
	}
	if off.text = "#" + strings.TrimLeft(comment, "# \t"); commented {
		off.text = strings.TrimSpace(off.text[:len(off.text)-len(rest)-1])
	}
	if h, fault := readHost(off); fault != "" || len(h.macs) == 0 {
		return nil, fault == ""
	}
	return off, true
}

// prose makes a comment fit for another file: one line of printable text.
func prose(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(strings.TrimLeft(strings.TrimSpace(s), "#"))
}
