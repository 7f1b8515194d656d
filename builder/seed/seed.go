// Package seed knows the files that an installer asks its questions of: cloud-init's four documents (Ubuntu's autoinstall is in the
// first of them), the Debian installer's preseed file and Anaconda's kickstart. They are templates (text/template) that are
// rendered for each machine.
//
// Check finds what is wrong while the image is built: templates that do not parse or name what there is not, user-data that is not
// YAML or has keys that Subiquity does not know, passwords that are no hashes. CheckFor does the same for one machine, whose
// policy has the variables that the recipe left open. Faults are strictyaml.Errors at the line of the file that the user wrote.
//
// Limits: of user-data only "#cloud-config" is taken, no scripts, archives or MIME. Of the keys that installers know only the names
// are checked, and of kickstart files only what would fail late: sections without an end, and passwords.
package seed

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"netroot/builder/strictyaml"
)

// The documents, by the names that machines ask for them.
const (
	UserData      = "user-data"
	MetaData      = "meta-data"
	VendorData    = "vendor-data"
	NetworkConfig = "network-config"
	Preseed       = "preseed.cfg"
	Kickstart     = "ks.cfg"
)

// A Kind says which program a seed is for.
type Kind string

// The kinds of seeds. CloudInit is for a machine that runs, Autoinstall for Ubuntu's installer, which is started by cloud-init.
const (
	CloudInit     Kind = "cloud-init"
	Autoinstall   Kind = "autoinstall"
	KindPreseed   Kind = "preseed"
	KindKickstart Kind = "kickstart"
)

// Installs says whether the machine gets an operating system of its own, and reports when it has it.
func (k Kind) Installs() bool { return k != "" && k != CloudInit }

// Documents lists what a machine asks for. cloud-init asks for each of its four again and again until it is answered.
func (k Kind) Documents() []string {
	switch k {
	case KindPreseed:
		return []string{Preseed}
	case KindKickstart:
		return []string{Kickstart}
	case CloudInit, Autoinstall:
		return []string{UserData, MetaData, VendorData, NetworkConfig}
	}
	return nil
}

// A Document is one template, and where it was written.
type Document struct {
	Text string `json:"text"`
	File string `json:"file"`
	Line int    `json:"line"` // of its first line in the file
	// Indent is the number of columns in front of each line there.
	Indent int `json:"indent,omitempty"`
}

// A Seed is what a recipe says for all machines.
type Seed struct {
	Kind      Kind                `json:"kind"`
	Documents map[string]Document `json:"documents"`
	Vars      map[string]string   `json:"vars,omitempty"` // defaults; the policy's count more
}

// A Machine is whom a document is rendered for.
type Machine struct {
	Name    string            // in the policy
	MAC     string            // 00:20:38:03:37:6c
	Address string            // its own
	Image   string            // IMAGE@GENERATION
	Server  string            // address of the server, with :PORT where that is not 80
	Vars    map[string]string // of its host and network in the policy, over those of the recipe
}

// maxSize is as much as strictyaml reads.
const maxSize = 1 << 20

// Parse reads what Encode wrote.
func Parse(data []byte) (*Seed, error) {
	var s Seed
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read seed: %w", err)
	}
	known := s.Kind.Documents()
	if known == nil {
		return nil, fmt.Errorf("read seed: this program knows no seeds of the kind %q", s.Kind)
	}
	for name := range s.Documents {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("read seed: %q is no document of a seed for %s", name, s.Kind)
		}
	}
	return &s, nil
}

// Encode is the seed as a generation keeps it.
func (s *Seed) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(s, "", " ")
	return append(data, '\n'), err
}

// Render returns a document as the machine gets it: what is not there is empty. What installs an operating system gets a last
// command that reports it as done.
func (s *Seed) Render(name string, m Machine) (string, error) {
	if !slices.Contains(s.Kind.Documents(), name) {
		return "", fmt.Errorf("a seed for %s has no document %q", s.Kind, name)
	}
	d, ok := s.Documents[name]
	if !ok {
		return "", nil
	}
	text, err := d.execute(name, s.complete(m))
	if err != nil {
		return "", err
	}
	if text, err = report(s.Kind, name, text, m.Server); err != nil {
		return "", strictyaml.Join(d.fault(name, 1, 1, text, "%v", err))
	}
	return text, nil
}

// CheckFor says what is wrong with the documents as a machine gets them.
func (s *Seed) CheckFor(m Machine) error {
	var list []*strictyaml.Error
	for _, name := range slices.Sorted(maps.Keys(s.Documents)) {
		list = append(list, s.check(name, m)...)
	}
	return strictyaml.Join(list...)
}

// Check says what is wrong whatever the machine. Variables that the recipe does not give are left to the policy.
func (s *Seed) Check() error { return s.CheckFor(s.anybody()) }

// Networks tells whether the machine sets its cards up anew by what is in the documents, while it installs itself: by network: below
// autoinstall:, or by network-config.
func (s *Seed) Networks() bool {
	m := s.complete(s.anybody())
	if text, err := s.Documents[NetworkConfig].execute(NetworkConfig, m); err == nil && strings.TrimSpace(text) != "" {
		return true
	}
	text, err := s.Documents[UserData].execute(UserData, m)
	if s.Kind != Autoinstall || err != nil {
		return false
	}
	auto, _, err := commands(text)
	return err == nil && lookup(auto, "network") != nil
}

// anybody is a machine whose policy gives the variables that the recipe does not.
func (s *Seed) anybody() Machine {
	m := Machine{Name: "machine", MAC: "02:00:00:00:00:01", Address: "192.0.2.2", Image: "image@1", Server: "192.0.2.1", Vars: map[string]string{}}
	for _, name := range s.Variables() {
		m.Vars[name] = unset + name
		if v, ok := s.Vars[name]; ok {
			m.Vars[name] = v
		}
	}
	return m
}

// unset stands for a variable that is not known yet. What holds it is not judged.
const unset = "netroot-unset-"

func (s *Seed) complete(m Machine) Machine {
	vars := maps.Clone(s.Vars)
	if vars == nil {
		vars = map[string]string{}
	}
	maps.Copy(vars, m.Vars)
	m.Vars = vars
	return m
}

// Variables lists those that the documents use.
func (s *Seed) Variables() []string {
	seen := map[string]bool{}
	for name, d := range s.Documents {
		d.variables(name, seen)
	}
	return slices.Sorted(maps.Keys(seen))
}

// Missing lists the variables that the documents use and that neither the recipe nor vars gives.
func (s *Seed) Missing(vars map[string]string) []string {
	return slices.DeleteFunc(s.Variables(), func(name string) bool {
		_, recipe := s.Vars[name]
		_, policy := vars[name]
		return recipe || policy
	})
}

func (s *Seed) check(name string, m Machine) []*strictyaml.Error {
	d := s.Documents[name]
	if len(d.Text) > maxSize {
		return []*strictyaml.Error{d.fault(name, 1, 1, d.Text, "%d bytes, and a document has at most %d", len(d.Text), maxSize)}
	}
	text, err := d.execute(name, s.complete(m))
	if err != nil {
		return strictyaml.List(err)
	}
	var list []*strictyaml.Error
	switch name {
	case UserData:
		list = d.userData(text, s.Kind)
	case MetaData, NetworkConfig:
		list = d.mapping(name, text)
	case VendorData:
		if strings.TrimSpace(text) != "" {
			list = d.cloudConfig(name, text, nil)
		}
	case Preseed:
		list = d.preseed(text)
	case Kickstart:
		list = d.kickstart(text)
	}
	if len(list) > 0 {
		return list
	}
	if _, err := report(s.Kind, name, text, m.Server); err != nil {
		return []*strictyaml.Error{d.fault(name, 1, 1, text, "%v", err)}
	}
	return nil
}

// fault is what is wrong at a place of the rendered text. When an action of the template added or removed lines, the place cannot
// be given in the file.
func (d Document) fault(name string, line, column int, text, format string, args ...any) *strictyaml.Error {
	e := &strictyaml.Error{File: d.File, Line: d.Line + line - 1, Column: d.Indent + column, Msg: name + ": " + fmt.Sprintf(format, args...)}
	lines := strings.Split(text, "\n")
	if strings.Count(text, "\n") != strings.Count(d.Text, "\n") {
		e.File, e.Line, e.Column = fmt.Sprintf("%s (%s as rendered)", d.File, name), line, column
		d.Indent = 0
	} else {
		lines = strings.Split(d.Text, "\n")
	}
	if line >= 1 && line <= len(lines) {
		e.Source = strings.Repeat(" ", d.Indent) + strings.TrimRight(lines[line-1], " \t\r")
	}
	return e
}

// errTooLong ends a template that writes without end.
var errTooLong = errors.New("the document is longer than 1 MiB")

// limited is a text that has a longest length.
type limited struct{ strings.Builder }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxSize {
		return 0, errTooLong
	}
	return l.Builder.Write(p)
}
