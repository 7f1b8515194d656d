package recipe

import (
	"encoding/json"

	"github.com/invopop/jsonschema"

	"netroot/builder/strictyaml"
)

// Schema is the JSON Schema (draft 2020-12) of recipes, for editors. It is made of the same structs, tags and patterns that
// Load reads with. It cannot express everything that Load checks: not what an include brings in, nor that two entries differ.
func Schema() []byte {
	r := jsonschema.Reflector{FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, ExpandedStruct: true, Anonymous: true}
	s := r.Reflect(&Recipe{})
	s.Title = "netroot recipe"
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // the structs are fixed
	}
	return append(data, '\n')
}

// property is a key of a schema that Go's struct has; the test of the schema meets every one.
func property(s *jsonschema.Schema, key string) *jsonschema.Schema {
	p, ok := s.Properties.Get(key)
	if !ok {
		panic("recipe: the schema has no key " + key)
	}
	return p
}

func text(s *jsonschema.Schema, key, pattern string) { property(s, key).Pattern = pattern }

func items(s *jsonschema.Schema, key, pattern string) {
	p := property(s, key)
	p.Items.Pattern = pattern
	p.UniqueItems = true
}

// textOrNumber is for a text that YAML may also read as a number.
func textOrNumber(s *jsonschema.Schema, key, pattern string) {
	p := property(s, key)
	p.Type = ""
	p.OneOf = []*jsonschema.Schema{{Type: "string", Pattern: pattern}, {Type: "integer"}}
}

// oneOrList is for a list that may be written as its only item.
func oneOrList(s *jsonschema.Schema, key, pattern string) {
	p := property(s, key)
	item := &jsonschema.Schema{Type: "string", Pattern: pattern}
	p.Type, p.Items = "", nil
	p.OneOf = []*jsonschema.Schema{item, {Type: "array", Items: item}}
}

// JSONSchemaExtend adds what the struct's tags cannot say; so do the methods of the other types.
func (Recipe) JSONSchemaExtend(s *jsonschema.Schema) {
	text(s, "include", noDotsPattern)
	text(s, "name", strictyaml.ImagePattern)
	text(s, "hostname", strictyaml.HostNamePattern)
	items(s, "packages", rpmPattern) // Debian's names are fewer
	for _, a := range arches {
		property(s, "arch").Enum = append(property(s, "arch").Enum, a)
	}
	// Everything may come from what is included, except the name.
	whole := &jsonschema.Schema{Required: []string{"arch", "from"}, Properties: jsonschema.NewProperties()}
	suite := &jsonschema.Schema{Properties: jsonschema.NewProperties()}
	suite.Properties.Set("apt", &jsonschema.Schema{Required: []string{"suite"}})
	suite.Properties.Set("yum", &jsonschema.Schema{Required: []string{"repos"}})
	whole.Properties.Set("from", suite)
	medium := func(require ...*jsonschema.Schema) *jsonschema.Schema {
		p := jsonschema.NewProperties()
		p.Set("from", &jsonschema.Schema{AnyOf: require})
		return &jsonschema.Schema{Required: []string{"from"}, Properties: p}
	}
	iso, netboot := &jsonschema.Schema{Required: []string{"iso"}}, &jsonschema.Schema{Required: []string{"netboot"}}
	installed := &jsonschema.Schema{Required: []string{"copy"}}
	grouped := &jsonschema.Schema{Properties: jsonschema.NewProperties(), Required: []string{"yum"}}
	grouped.Properties.Set("yum", &jsonschema.Schema{Required: []string{"groups"}})
	whole.AnyOf = []*jsonschema.Schema{{Required: []string{"packages"}}, medium(iso, netboot, installed, grouped)}
	var root []*jsonschema.Schema
	for _, key := range rootKeys {
		root = append(root, &jsonschema.Schema{Required: []string{key}})
	}
	// What changes a root does not go with a medium, and deliver: goes with nothing but an ISO.
	s.AllOf = []*jsonschema.Schema{
		{If: medium(installed), Then: &jsonschema.Schema{Not: &jsonschema.Schema{Required: []string{"packages"}}}},
		{If: medium(iso, netboot), Then: &jsonschema.Schema{Not: &jsonschema.Schema{AnyOf: root}}},
		{If: &jsonschema.Schema{Required: []string{"deliver", "from"}}, Then: medium(iso)},
	}
	property(s, "vars").AdditionalProperties = jsonschema.FalseSchema
	property(s, "vars").PatternProperties = map[string]*jsonschema.Schema{variablePattern: {OneOf: []*jsonschema.Schema{{Type: "string"}, {Type: "number"}, {Type: "boolean"}}}}
	s.Required = []string{"name"}
	s.AnyOf = []*jsonschema.Schema{{Required: []string{"include"}}, whole}
}

func (From) JSONSchemaExtend(s *jsonschema.Schema) {
	// The shortest way to say it is where the original is.
	p := property(s, "copy")
	p.OneOf, p.Ref = []*jsonschema.Schema{fromWhere(), {Ref: p.Ref}}, ""
	s.OneOf = []*jsonschema.Schema{{Required: []string{"apt"}}, {Required: []string{"yum"}}, {Required: []string{"iso"}}, {Required: []string{"netboot"}}, {Required: []string{"copy"}}}
}

// fromWhere is an address or the path of a file or folder.
func fromWhere() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", OneOf: []*jsonschema.Schema{
		{Pattern: sshPattern}, {Pattern: noDotsPattern, Not: &jsonschema.Schema{Pattern: "^ssh:"}, MinLength: new(uint64(1))},
	}}
}

func (Copy) JSONSchemaExtend(s *jsonschema.Schema) {
	where := fromWhere()
	property(s, "from").OneOf = where.OneOf
	text(s, "ssh_config", noDotsPattern)
	items(s, "file_systems", pathPattern)
	items(s, "exclude", excludedPattern)
	items(s, "ssh_options", sshOptionPattern)
	ssh := &jsonschema.Schema{Properties: jsonschema.NewProperties()}
	ssh.Properties.Set("from", &jsonschema.Schema{Pattern: "^ssh:"})
	s.DependentSchemas = map[string]*jsonschema.Schema{"ssh_config": ssh, "ssh_options": ssh}
}

func (ISO) JSONSchemaExtend(s *jsonschema.Schema) {
	blobSchema(s)
	text(s, "kernel", isoPathPattern)
	text(s, "initrd", isoPathPattern)
	s.DependentRequired["initrd"] = []string{"kernel"}
}

func (Blob) JSONSchemaExtend(s *jsonschema.Schema) { blobSchema(s) }

func blobSchema(s *jsonschema.Schema) {
	text(s, "url", blobURLPattern)
	text(s, "path", noDotsPattern)
	text(s, "sums", noDotsPattern)
	text(s, "signature", noDotsPattern)
	text(s, "keyring", noDotsPattern)
	textOrNumber(s, "sha256", sha256Pattern)
	require := func(keys ...string) *jsonschema.Schema { return &jsonschema.Schema{Required: keys} }
	s.OneOf = []*jsonschema.Schema{
		{Required: []string{"path"}},
		{Required: []string{"url"}, AnyOf: []*jsonschema.Schema{require("sha256"), require("sums")}},
	}
	s.Not = require("sha256", "sums")
	s.DependentRequired = map[string][]string{"signature": {"keyring"}, "keyring": {"sums"}}
}

func (Apt) JSONSchemaExtend(s *jsonschema.Schema) {
	text(s, "suite", suitePattern)
	text(s, "mirror", mirrorPattern)
	text(s, "keyring", noDotsPattern)
	items(s, "components", componentPattern)
}

func (Yum) JSONSchemaExtend(s *jsonschema.Schema) {
	text(s, "mirror", mirrorPattern)
	textOrNumber(s, "releasever", releasePattern)
	property(s, "releasever").OneOf[1].Type = "number" // 6.8
	items(s, "groups", groupPattern)
	items(s, "exclude", excludePattern)
}

func (Repo) JSONSchemaExtend(s *jsonschema.Schema) {
	text(s, "name", repoPattern)
	text(s, "path", repoPathPattern)
	for _, key := range []string{"baseurl", "mirrorlist", "metalink"} {
		text(s, key, repoURLPattern)
	}
	items(s, "exclude", excludePattern)
	oneOrList(s, "gpgkey", noDotsPattern)
	for _, key := range repoPlaces {
		s.OneOf = append(s.OneOf, &jsonschema.Schema{Required: []string{key}})
	}
}

func (Kernel) JSONSchemaExtend(s *jsonschema.Schema) {
	textOrNumber(s, "version", versionPattern)
	items(s, "cmdline", strictyaml.ParameterPattern)
}

func (Root) JSONSchemaExtend(s *jsonschema.Schema) {
	text(s, "size", sizePattern)
	items(s, "folders", foldersPattern)
}

func (File) JSONSchemaExtend(s *jsonschema.Schema) {
	text(s, "path", pathPattern)
	text(s, "source", noDotsPattern)
	text(s, "owner", ownerPattern)
	textOrNumber(s, "mode", modePattern)
	s.OneOf = []*jsonschema.Schema{{Required: []string{"content"}}, {Required: []string{"source"}}}
}

func (Hook) JSONSchemaExtend(s *jsonschema.Schema) {
	text(s, "name", hookPattern)
	text(s, "script", `\S`)
}

func (User) JSONSchemaExtend(s *jsonschema.Schema) {
	text(s, "name", userPattern)
	text(s, "password", strictyaml.PasswordPattern)
	text(s, "shell", pathPattern)
	text(s, "home", pathPattern)
	items(s, "groups", userPattern)
	property(s, "ssh_keys").Items.Pattern = `^[^\n]*(ssh-|ecdsa-|sk-)[^\n]*$`
}

func (Services) JSONSchemaExtend(s *jsonschema.Schema) {
	items(s, "enable", servicePattern)
	items(s, "disable", servicePattern)
}

// JSONSchemaExtend lets a text stand where its mapping could.
func (Text) JSONSchemaExtend(s *jsonschema.Schema) {
	text(s, "source", noDotsPattern)
	mapping := *s
	mapping.OneOf = []*jsonschema.Schema{{Required: []string{"content"}}, {Required: []string{"source"}}}
	*s = jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string"}, &mapping}}
}
