package seed

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"netroot/builder/strictyaml"
)

// subiquityKeys are the keys below autoinstall: that Ubuntu's installer documents (autoinstall reference, 20.04 to 25.10). It
// passes over others without a word.
var subiquityKeys = []string{
	"version", "interactive-sections", "early-commands", "locale", "refresh-installer", "keyboard", "source", "network", "proxy", "apt",
	"storage", "identity", "active-directory", "ubuntu-pro", "ubuntu-advantage", "ssh", "codecs", "drivers", "oem", "snaps",
	"debconf-selections", "packages", "kernel", "kernel-crash-dumps", "timezone", "updates", "shutdown", "late-commands",
	"error-commands", "reporting", "user-data", "zdevs",
}

// installerOnly are those of them that mean nothing to cloud-init: at the top of user-data they are in the wrong place.
var installerOnly = []string{
	"version", "interactive-sections", "early-commands", "refresh-installer", "source", "storage", "identity", "active-directory",
	"codecs", "drivers", "oem", "snaps", "debconf-selections", "kernel-crash-dumps", "updates", "shutdown", "late-commands",
	"error-commands", "zdevs",
}

const cloudConfigHead = "#cloud-config"

// A judge gathers the faults of one YAML document.
type judge struct {
	Document
	name, text string
	list       []*strictyaml.Error
}

func (j *judge) at(n ast.Node, format string, args ...any) *strictyaml.Error {
	line, column := 1, 1
	if t := start(n).GetToken(); t != nil && t.Position != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	e := j.fault(j.name, line, column, j.text, format, args...)
	j.list = append(j.list, e)
	return e
}

// start is the node that a value begins with: a block mapping's own token is the colon of its first key.
func start(n ast.Node) ast.Node {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return start(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return start(m.Key)
	}
	return n
}

// parse reads YAML; nil means that it is empty or that a fault was found.
func (j *judge) parse() ast.Node {
	if strings.TrimSpace(uncommented(j.text)) == "" {
		return nil
	}
	doc, err := strictyaml.Parse(j.File, []byte(j.text))
	for _, e := range strictyaml.List(err) {
		f := j.fault(j.name, max(e.Line, 1), max(e.Column, 1), j.text, "%s", e.Msg)
		f.Hint = e.Hint
		j.list = append(j.list, f)
	}
	if err != nil {
		return nil
	}
	j.doubles(doc.Root())
	return doc.Root()
}

// uncommented leaves out the lines that are comments.
func uncommented(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), "#") }), "\n")
}

// doubles reports keys that come twice in one mapping: of two the last would count.
func (j *judge) doubles(n ast.Node) {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		seen := map[string]int{}
		for _, p := range pairs(n) {
			if line, twice := seen[key(p)]; twice {
				j.at(p.Key, "key %q is given twice, first on line %d", key(p), line)
			}
			seen[key(p)] = p.Key.GetToken().Position.Line + j.Line - 1
			j.doubles(p.Value)
		}
	case *ast.SequenceNode:
		for _, v := range n.Values {
			j.doubles(v)
		}
	case *ast.AnchorNode:
		j.doubles(n.Value)
	case *ast.TagNode:
		j.doubles(n.Value)
	}
}

// pairs are the keys and values of a mapping; of anything else there are none.
func pairs(n ast.Node) []*ast.MappingValueNode {
	switch m := bare(n).(type) {
	case *ast.MappingNode:
		return m.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}
	}
	return nil
}

func isMapping(n ast.Node) bool {
	switch bare(n).(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

// bare is a value without its anchor and tag.
func bare(n ast.Node) ast.Node {
	for {
		switch t := n.(type) {
		case *ast.AnchorNode:
			n = t.Value
		case *ast.TagNode:
			n = t.Value
		default:
			return n
		}
	}
}

func key(p *ast.MappingValueNode) string {
	if s, ok := p.Key.(*ast.StringNode); ok {
		return s.Value
	}
	return p.Key.GetToken().Value
}

// lookup finds the value of a key, nil when there is none.
func lookup(n ast.Node, name string) ast.Node {
	for _, p := range pairs(n) {
		if key(p) == name {
			return p.Value
		}
	}
	return nil
}

// words is the text of a scalar.
func words(n ast.Node) (string, bool) {
	switch s := bare(n).(type) {
	case *ast.StringNode:
		return s.Value, true
	case *ast.LiteralNode:
		return s.Value.Value, true
	}
	return "", false
}

// open says whether a value may be anything: an alias, or not known before a machine is.
func open(n ast.Node) bool {
	if _, alias := n.(*ast.AliasNode); alias {
		return true
	}
	text, _ := words(n)
	return strings.Contains(text, unset)
}

// mapping judges a document that is a mapping or nothing.
func (d Document) mapping(name, text string) []*strictyaml.Error {
	j := &judge{Document: d, name: name, text: text}
	if n := j.parse(); n != nil && !isMapping(n) {
		j.at(n, "it is not a mapping of keys and values")
	}
	return j.list
}

// cloudConfig judges a "#cloud-config", and calls more for its mapping.
func (d Document) cloudConfig(name, text string, more func(*judge, ast.Node)) []*strictyaml.Error {
	j := &judge{Document: d, name: name, text: text}
	first, _, _ := strings.Cut(text, "\n")
	if strings.TrimRight(first, " \t\r") != cloudConfigHead {
		e := j.fault(name, 1, 1, text, "the first line is not %s, without which cloud-init passes over the rest", cloudConfigHead)
		return []*strictyaml.Error{e.WithHint("write %s alone in the first line", cloudConfigHead)}
	}
	n := j.parse()
	if n == nil {
		return j.list
	}
	if !isMapping(n) {
		j.at(n, "it is not a mapping of keys and values")
		return j.list
	}
	j.users(lookup(n, "users"))
	if more != nil {
		more(j, n)
	}
	return j.list
}

// IsAutoinstall says whether user-data is for Ubuntu's installer.
func IsAutoinstall(userData string) bool {
	for line := range strings.SplitSeq(userData, "\n") {
		if strings.HasPrefix(line, "autoinstall:") {
			return true
		}
	}
	return false
}

func (d Document) userData(text string, kind Kind) []*strictyaml.Error {
	return d.cloudConfig(UserData, text, func(j *judge, top ast.Node) {
		for _, p := range pairs(top) {
			if slices.Contains(installerOnly, key(p)) {
				j.at(p.Key, "%s: is a key of Ubuntu's installer, and cloud-init knows none of this name", key(p)).WithHint("indent it below autoinstall:")
			}
		}
		if kind == Autoinstall {
			j.autoinstall(top, lookup(top, "autoinstall"))
		}
	})
}

func (j *judge) autoinstall(top, auto ast.Node) {
	switch {
	case auto == nil:
		j.at(top, "it has no autoinstall:, so the installer asks its questions").WithHint("as in: autoinstall: {version: 1, identity: …}")
		return
	case open(auto):
		return
	case !isMapping(auto):
		j.at(auto, "autoinstall: is not a mapping of keys and values")
		return
	}
	for _, p := range pairs(auto) {
		if slices.Contains(subiquityKeys, key(p)) {
			continue
		}
		e := j.at(p.Key, "the installer knows no key %q", key(p))
		if near := strictyaml.Nearest(key(p), subiquityKeys); near != "" {
			e.WithHint("did you mean %q?", near)
		}
	}
	version := lookup(auto, "version")
	if version == nil {
		j.at(auto, "autoinstall: has no version").WithHint("write version: 1")
	} else if i, ok := bare(version).(*ast.IntegerNode); !ok && !open(version) || ok && fmt.Sprint(i.Value) != "1" {
		j.at(version, "the only version of autoinstall is the number 1")
	}
	for _, name := range []string{"early-commands", "late-commands", "error-commands", "interactive-sections", "packages", "snaps"} {
		list := lookup(auto, name)
		if _, ok := bare(list).(*ast.SequenceNode); list != nil && !ok && !open(list) {
			j.at(list, "%s: is not a list", name)
		}
	}
	userData := lookup(auto, "user-data")
	j.users(lookup(userData, "users"))
	j.identity(auto, lookup(auto, "identity"), userData != nil || lookup(auto, "interactive-sections") != nil)
}

// identity judges the first user. Without one and without user-data nobody could log in.
func (j *judge) identity(auto, id ast.Node, optional bool) {
	switch {
	case id == nil && !optional:
		j.at(auto, "autoinstall: has neither identity: nor user-data:, so nobody could log in").
			WithHint("as in: identity: {hostname: {{.Name}}, username: ubuntu, password: HASH}")
		return
	case id == nil || open(id):
		return
	}
	for _, name := range []string{"hostname", "username", "password"} {
		if lookup(id, name) == nil {
			j.at(id, "identity: has no %s, which the installer needs", name)
		}
	}
	j.hash(lookup(id, "password"))
}

// users judges the passwords in cloud-init's list of users.
func (j *judge) users(n ast.Node) {
	list, ok := bare(n).(*ast.SequenceNode)
	if !ok {
		return
	}
	for _, user := range list.Values {
		j.hash(lookup(user, "passwd"))
		j.hash(lookup(user, "hashed_passwd"))
	}
}

// hash judges a password; the line is not shown.
func (j *judge) hash(n ast.Node) {
	if n == nil || open(n) {
		return
	}
	text, ok := words(n)
	err := strictyaml.PasswordHash(text)
	if ok && err == nil {
		return
	}
	if !ok {
		err = fmt.Errorf("the password is not a text: put the hash in quotes")
	}
	j.at(n, "%v", err).WithHint("make one with: mkpasswd -m sha-512").Source = ""
}
