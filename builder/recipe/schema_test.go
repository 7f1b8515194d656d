package recipe

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"netroot/recipes"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("recipe.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("recipe.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// value reads YAML as an editor does: by a decoder that is not ours.
func value(data []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(text))
}

func TestSchemaAcceptsShippedRecipes(t *testing.T) {
	s := compileSchema(t)
	for _, name := range Shipped() {
		data, err := fs.ReadFile(recipes.FS, name+".yaml")
		if err != nil {
			t.Fatal(err)
		}
		v, err := value(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaAcceptsWhatLoadAccepts(t *testing.T) {
	s := compileSchema(t)
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d good recipes, %v", len(files), err)
	}
	for _, file := range files {
		if _, err := Load(file); err != nil {
			t.Error(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		v, err := value(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// What Load refuses the schema refuses too, but for faults that no schema can see.
func TestSchemaRefusesWhatLoadRefuses(t *testing.T) {
	s := compileSchema(t)
	onlyLoad := []string{
		"include-bad", "include-cycle", "include-cycle-b", "include-gone", "include-self", // in other files
		"seed-version", "seed-two", "seed-gone", "seed-file", "seed-vars-alone", "seed-no-user-data", "seed-no-installer",
		"reserved-name", "merge-key", "second-document", "include-noname", "folders-overlay",
	}
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if slices.Contains(onlyLoad, strings.TrimSuffix(filepath.Base(file), ".yaml")) {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		v, err := value(data)
		if err != nil {
			continue // not YAML at all
		}
		if err := s.Validate(v); err == nil {
			t.Errorf("%s: the schema accepts it", file)
		}
	}
}

// Each line is one fault in an otherwise good recipe, so that no fault hides behind another.
func TestSchemaAndLoadAgreeOnSingleFaults(t *testing.T) {
	s := compileSchema(t)
	for _, fault := range []string{
		"banana: 1", "hostname: a_b", "hostname: -a", "hostname: [a]", `hostname: ""`, "include: ../x.yaml", "include: a/../x.yaml",
		"root: {writable: maybe}", "root: {size: 0%}", "root: {size: 101%}", "root: {sizes: 5%}",
		"kernel: {cmdline: quiet}", "kernel: {cmdline: [a b]}", "kernel: {cmdline: ['x=${y}']}", `kernel: {cmdline: [""]}`,
		"files: [{content: a}]", "files: [{path: /a}]", "files: [{path: a, content: a}]", "files: [{path: /a/, content: a}]",
		"files: [{path: /a/../b, content: a}]", "files: [{path: /.., content: a}]", "files: [{path: /a, content: a, source: b}]",
		"files: [{path: /a, content: a, mode: rw-}]", `files: [{path: /a, content: a, mode: "9"}]`, "files: [{path: /a, content: a, owner: me}]",
		"files: [{path: /a, source: ../b}]", "files: [{path: //a, content: a}]",
		"hooks: [{name: a}]", "hooks: [{script: a}]", "hooks: [{name: a/b, script: a}]", "hooks: {name: a, script: a}",
		"users: [{uid: 7}]", "users: [{name: Bob}]", "users: [{name: a, uid: x}]", "users: [{name: a, uid: 0}]", "users: [{name: a, password: secret}]",
		"users: [{name: a, ssh_keys: [secret]}]", "users: [{name: a, shell: sh}]", "users: [{name: a, groups: [A]}]",
		"services: {enable: [a b]}", "services: {start: [a]}", "services: {enable: [a, a]}",
	} {
		data := []byte("name: x\n" + minimal + fault + "\n")
		path := filepath.Join(t.TempDir(), "r.yaml")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil {
			t.Errorf("Load accepts %s", fault)
		}
		v, err := value(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); err == nil {
			t.Errorf("the schema accepts %s", fault)
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/good/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fsys := fstest.MapFS{"r.yaml": &fstest.MapFile{Data: data}}
		r, err := LoadFS(fsys, "r.yaml")
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		if r.Digest() == "" || r.Name == "" || len(r.Packages) == 0 && !r.Medium() && r.From.Copy == nil && (r.From.Yum == nil || len(r.From.Yum.Groups) == 0) {
			t.Errorf("loaded, but incomplete: %+v", r)
		}
	})
}
