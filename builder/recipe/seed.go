package recipe

import (
	"fmt"
	"io"
	"regexp"
	"slices"

	"netroot/builder/seed"
	"netroot/builder/strictyaml"
)

// Autoinstall is what cloud-init asks a server for. Ubuntu's installer is configured by what stands in its user-data.
type Autoinstall struct {
	UserData      *Text `yaml:"user-data,bare" jsonschema_description:"#cloud-config, with autoinstall: in it for Ubuntu's installer."`
	MetaData      *Text `yaml:"meta-data,bare" jsonschema_description:"YAML; left out, it is empty."`
	VendorData    *Text `yaml:"vendor-data,bare" jsonschema_description:"#cloud-config; left out, it is empty."`
	NetworkConfig *Text `yaml:"network-config,bare" jsonschema_description:"YAML; left out, it is empty."`
}

// A Text is a template, here or in a file.
type Text struct {
	Content string `yaml:"content" jsonschema_description:"The text itself."`
	Source  string `yaml:"source" jsonschema_description:"A file with the text, relative to this one."`

	document seed.Document
}

// variable is what a template can write behind .Vars.
const variablePattern = `^[A-Za-z_][A-Za-z0-9_]*$`

var variableRE = regexp.MustCompile(variablePattern)

// VariableName says what is wrong with the name of a variable, if anything.
func variableName(s string) error {
	return match(s, variableRE, "the name of a variable: letters, digits and underscores, no digit first")
}

// Seed is what the machine asks the server for while it installs itself or starts, nil when the recipe has nothing of that kind.
func (r *Recipe) Seed() *seed.Seed { return r.seed }

// texts are the documents of a recipe by their names, with the paths of their keys.
func (r *Recipe) texts() map[string]keyed {
	all := map[string]keyed{seed.Preseed: {"$.preseed", r.Preseed}, seed.Kickstart: {"$.kickstart", r.Kickstart}}
	if a := r.Autoinstall; a != nil {
		all[seed.UserData] = keyed{"$.autoinstall.user-data", a.UserData}
		all[seed.MetaData] = keyed{"$.autoinstall.meta-data", a.MetaData}
		all[seed.VendorData] = keyed{"$.autoinstall.vendor-data", a.VendorData}
		all[seed.NetworkConfig] = keyed{"$.autoinstall.network-config", a.NetworkConfig}
	}
	for name, t := range all {
		if t.text == nil {
			delete(all, name)
		}
	}
	return all
}

type keyed struct {
	key  string
	text *Text
}

// seeds reads the documents, and remembers where each stands.
func (c *checker) seeds() {
	for _, t := range c.texts() {
		content, source := c.doc.Has(t.key+".content"), c.doc.Has(t.key+".source")
		switch {
		case content == source:
			c.at(t.key, "a text has either content: or source:")
		case content:
			line, indent := c.doc.Block(t.key + ".content")
			t.text.document = seed.Document{Text: t.text.Content, File: c.doc.File, Line: line, Indent: indent}
		case c.given(t.key+".source", t.text.Source) && c.noDots(t.key+".source", t.text.Source):
			path := c.origin.beside(c.doc.File, t.text.Source)
			data, err := read(c.origin, path)
			if err != nil {
				c.at(t.key+".source", "%s %s", path, strictyaml.FileError(path, err).Msg).Err = err
			}
			t.text.document = seed.Document{Text: string(data), File: path, Line: 1}
		}
	}
	for name := range c.Vars {
		if err := variableName(name); err != nil {
			c.errs = append(c.errs, c.doc.AtKey("$.vars."+name, "%v", err))
		}
	}
}

// checkSeed makes the seed of a whole recipe.
func checkSeed(parts []part, r *Recipe) error {
	var errs []*strictyaml.Error
	at := func(key, format string, args ...any) *strictyaml.Error {
		for _, p := range parts {
			if p.doc.Has(key) {
				e := p.doc.AtKey(key, format, args...)
				errs = append(errs, e)
				return e
			}
		}
		return &strictyaml.Error{}
	}
	kinds := map[seed.Kind]bool{}
	s := &seed.Seed{Documents: map[string]seed.Document{}, Vars: r.Vars}
	for name, t := range r.texts() {
		s.Documents[name] = t.text.document
		switch name {
		case seed.Preseed:
			s.Kind = seed.KindPreseed
		case seed.Kickstart:
			s.Kind = seed.KindKickstart
		case seed.UserData:
			s.Kind = seed.CloudInit
			if seed.IsAutoinstall(t.text.document.Text) {
				s.Kind = seed.Autoinstall
			}
		default:
			continue // they come with user-data
		}
		kinds[s.Kind] = true
	}
	for _, key := range []string{"$.preseed", "$.kickstart"} {
		at := func(format string, args ...any) *strictyaml.Error { return at(key, format, args...) }
		present := slices.ContainsFunc(parts, func(p part) bool { return p.doc.Has(key) })
		switch {
		case !present:
		case len(kinds) > 1:
			at("autoinstall:, preseed: and kickstart: are for different installers: a recipe has one of them")
		case !r.Medium():
			at("there is no installer in this image that would read it").WithHint("it goes with from: {iso: …} or from: {netboot: …}")
		}
	}
	if r.Autoinstall != nil && r.Autoinstall.UserData == nil {
		at("$.autoinstall", "no \"user-data\", which cloud-init starts from").WithHint("as in: user-data: {source: user-data.yaml}")
	}
	if len(kinds) == 0 && len(r.Vars) > 0 {
		at("$.vars", "vars: are for autoinstall:, preseed: or kickstart:, and this recipe has none")
	}
	if err := strictyaml.Join(errs...); err != nil || len(kinds) == 0 {
		return err
	}
	r.seed = s
	return s.Check()
}

// writeSeed adds the seed to what a digest is made of.
func (r *Recipe) writeSeed(w io.Writer) {
	if r.seed == nil {
		return
	}
	fmt.Fprintf(w, "%s %q\n", r.seed.Kind, r.seed.Vars) // a map is printed in the order of its keys
	for _, name := range r.seed.Kind.Documents() {
		fmt.Fprintf(w, "%s %q\n", name, r.seed.Documents[name].Text)
	}
}

func mergeSeed(base, r *Recipe) {
	if a := r.Autoinstall; a != nil {
		if base.Autoinstall == nil {
			base.Autoinstall = &Autoinstall{}
		}
		for _, t := range []struct{ dst, src **Text }{
			{&base.Autoinstall.UserData, &a.UserData}, {&base.Autoinstall.MetaData, &a.MetaData},
			{&base.Autoinstall.VendorData, &a.VendorData}, {&base.Autoinstall.NetworkConfig, &a.NetworkConfig},
		} {
			if *t.src != nil {
				*t.dst = *t.src
			}
		}
	}
	if r.Preseed != nil {
		base.Preseed = r.Preseed
	}
	if r.Kickstart != nil {
		base.Kickstart = r.Kickstart
	}
	for name, value := range r.Vars {
		if base.Vars == nil {
			base.Vars = map[string]string{}
		}
		base.Vars[name] = value
	}
}
