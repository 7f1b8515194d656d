package seed

import (
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"netroot/builder/strictyaml"
)

// parse reads the template. A key that a map does not have is an error, never "<no value>".
func (d Document) parse(name string) (*template.Template, error) {
	t, err := template.New(name).Option("missingkey=error").Parse(d.Text)
	if err != nil {
		return nil, strictyaml.Join(d.templateFault(name, err))
	}
	return t, nil
}

func (d Document) execute(name string, m Machine) (string, error) {
	t, err := d.parse(name)
	if err != nil {
		return "", err
	}
	var out limited
	if err := t.Execute(&out, m); err != nil {
		return "", strictyaml.Join(d.templateFault(name, err))
	}
	return out.String(), nil
}

// templatePlace is how text/template begins its errors: template: NAME:LINE:COLUMN: executing "NAME" at <.X>: what is wrong. The
// column counts bytes from 0 and is there only when the template ran.
var (
	templatePlace = regexp.MustCompile(`^template: [^:]*:(\d+):(?:(\d+):)? (?:executing ".*" at <(.*)>: )?`)
	noSuchVar     = regexp.MustCompile(`map has no entry for key "([^"]*)"`)
	noSuchField   = regexp.MustCompile(`can't evaluate field (\S+) in type seed\.Machine`)
)

func (d Document) templateFault(name string, err error) *strictyaml.Error {
	msg, line, column := strings.TrimPrefix(err.Error(), "template: "), 1, 1
	if p := templatePlace.FindStringSubmatch(err.Error()); p != nil {
		msg = err.Error()[len(p[0]):]
		line, _ = strconv.Atoi(p[1])
		if n, err := strconv.Atoi(p[2]); err == nil {
			column = n + 1
		}
	}
	hint := ""
	if v := noSuchVar.FindStringSubmatch(msg); v != nil {
		msg = "the variable " + v[1] + " is not given"
		hint = "give it under vars: of the host or its network in netroot.yaml, or under vars: in the recipe"
	} else if f := noSuchField.FindStringSubmatch(msg); f != nil {
		msg = "there is no ." + f[1]
		known := fieldNames()
		if near := strictyaml.Nearest(f[1], known); near != "" {
			hint = "did you mean ." + near + "?"
		} else {
			hint = "there are ." + strings.Join(known, ", .") + "; what is yours is .Vars." + strings.ToLower(f[1])
		}
	}
	e := d.fault(name, line, column, d.Text, "%s", msg)
	e.Hint, e.Err = hint, err
	return e
}

func fieldNames() []string {
	var names []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Machine]()) {
		names = append(names, f.Name)
	}
	return names
}

// variables adds the names behind .Vars and $.Vars to seen. What a template reaches in another way is found when it runs.
func (d Document) variables(name string, seen map[string]bool) {
	t, err := d.parse(name)
	if err != nil {
		return // Check says so
	}
	take := func(words []string) {
		if len(words) >= 2 && words[0] == "Vars" {
			seen[words[1]] = true
		}
	}
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Interface, reflect.Pointer:
			if v.IsNil() {
				return
			}
			switch n := v.Interface().(type) {
			case *parse.FieldNode:
				take(n.Ident)
				return
			case *parse.VariableNode:
				if n.Ident[0] == "$" {
					take(n.Ident[1:])
				}
				return
			case *parse.Tree:
				return // every node points back to it
			}
			walk(v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					walk(v.Field(i))
				}
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		}
	}
	for _, part := range t.Templates() {
		if part.Tree != nil {
			walk(reflect.ValueOf(part.Root))
		}
	}
}
