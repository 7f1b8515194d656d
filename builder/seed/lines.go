package seed

import (
	"regexp"
	"slices"
	"strings"

	"netroot/builder/strictyaml"
)

// debconfTypes are the types of questions (debconf-devel(7)), and the flag that d-i takes in their place.
var debconfTypes = []string{"string", "boolean", "select", "multiselect", "note", "text", "password", "title", "error", "entropy", "seen"}

// preseed judges a file for debconf-set-selections: OWNER QUESTION TYPE VALUE, lines that end in \ go on.
func (d Document) preseed(text string) []*strictyaml.Error {
	var list []*strictyaml.Error
	for _, l := range logical(text) {
		line := strings.TrimSpace(l.text)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fault := func(format string, args ...any) *strictyaml.Error {
			e := d.fault(Preseed, l.number, 1, text, format, args...)
			list = append(list, e)
			return e
		}
		f := strings.Fields(line)
		switch {
		case len(f) < 3:
			fault("it is not OWNER QUESTION TYPE VALUE").WithHint("as in: d-i passwd/make-user boolean false")
			continue
		case !slices.Contains(debconfTypes, f[2]):
			e := fault("%q is not a type of debconf's questions", f[2])
			if near := strictyaml.Nearest(f[2], debconfTypes); near != "" {
				e.WithHint("did you mean %q?", near)
			}
			continue
		}
		value := strings.Join(f[3:], " ")
		switch {
		case strings.HasSuffix(f[1], "-password-crypted") && !strings.Contains(value, unset):
			if err := strictyaml.PasswordHash(value); err != nil {
				fault("%v", err).WithHint("make one with: mkpasswd -m yescrypt").Source = ""
			}
		case f[1] == "passwd/root-password", f[1] == "passwd/user-password":
			fault("%s is a password in clear", f[1]).WithHint("give %s-crypted a hash", f[1]).Source = ""
		}
	}
	return list
}

// A logical line is one line or several joined by \.
type logicalLine struct {
	number int // of its first line
	text   string
}

func logical(text string) []logicalLine {
	var list []logicalLine
	joined := false
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, "\r")
		head, goesOn := strings.CutSuffix(line, "\\")
		if joined {
			list[len(list)-1].text += head
		} else {
			list = append(list, logicalLine{i + 1, head})
		}
		joined = goesOn
	}
	return list
}

// sections of a kickstart file that have an end of their own (pykickstart documentation, chapter 3).
var section = regexp.MustCompile(`^%(pre|pre-install|post|packages|addon|anaconda|onerror|traceback|certificate)\b`)

// clearRootpw is a root password that is not hashed.
var rootpw = regexp.MustCompile(`^rootpw\s+(.*)$`)

func (d Document) kickstart(text string) []*strictyaml.Error {
	var list []*strictyaml.Error
	fault := func(line int, format string, args ...any) *strictyaml.Error {
		e := d.fault(Kickstart, line, 1, text, format, args...)
		list = append(list, e)
		return e
	}
	within, since := "", 0
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, " \t\r")
		switch name := section.FindString(line); {
		case name != "" && within != "":
			fault(i+1, "%s begins inside of %s, which has no %%end", name, within)
			within, since = name, i+1
		case name != "":
			within, since = name, i+1
		case line == "%end" && within == "":
			fault(i+1, "%%end ends nothing")
		case line == "%end":
			within = ""
		case within == "":
			m := rootpw.FindStringSubmatch(line)
			if m == nil || strings.Contains(line, unset) || strings.Contains(line, "--lock") {
				continue
			}
			words := strings.Fields(m[1])
			if !slices.Contains(words, "--iscrypted") {
				fault(i+1, "the root password is in clear").WithHint("rootpw --iscrypted HASH, made with: mkpasswd -m sha-512").Source = ""
			} else if err := strictyaml.PasswordHash(strings.Trim(words[len(words)-1], `"'`)); err != nil {
				fault(i+1, "%v", err).WithHint("make one with: mkpasswd -m sha-512").Source = ""
			}
		}
	}
	if within != "" {
		fault(since, "%s has no %%end", within)
	}
	return list
}
