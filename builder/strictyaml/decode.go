package strictyaml

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// Decode fills the struct that v points to. Every fault of the file is in the error, not only the first one; v holds what was
// good even then.
func (d *Document) Decode(v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("strictyaml: Decode into %T, not a pointer to a struct", v))
	}
	clear(d.places)
	clear(d.anchors)
	w := walker{doc: d}
	d.secrets = nil
	w.value(d.root, p.Elem(), "$", options{})
	for _, e := range w.errs {
		e.Source = d.line(e.Line)
	}
	return Join(w.errs...)
}

type walker struct {
	doc   *Document
	errs  []*Error
	depth int
}

// options are the words behind a field's name in its tag.
type options struct {
	literal, one, any, secret, bare bool
	enum                            []string
}

// A field is one key that a struct knows.
type field struct {
	name     string
	index    int
	required bool
	options
}

// fields lists the keys that a struct type knows, in the order of the type.
func fields(t reflect.Type) []field {
	var list []field
	for i := range t.NumField() {
		f := t.Field(i)
		words := strings.Split(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || words[0] == "" || words[0] == "-" {
			continue
		}
		k := field{name: words[0], index: i}
		k.literal = slices.Contains(words[1:], "literal")
		k.one = slices.Contains(words[1:], "one")
		k.any = slices.Contains(words[1:], "any")
		k.secret = slices.Contains(words[1:], "secret")
		k.bare = slices.Contains(words[1:], "bare")
		for _, word := range strings.Split(f.Tag.Get("jsonschema"), ",") {
			k.required = k.required || word == "required"
			if v, ok := strings.CutPrefix(word, "enum="); ok {
				k.enum = append(k.enum, v)
			}
		}
		list = append(list, k)
	}
	return list
}

func (w *walker) fail(n ast.Node, format string, args ...any) *Error {
	e := w.doc.at(nodePosition(n), format, args...)
	w.errs = append(w.errs, e)
	return e
}

func (w *walker) value(n ast.Node, v reflect.Value, path string, o options) {
	at := nodePosition(n)
	p := w.doc.places[path]
	p.value = at
	if p.key == (position{}) {
		p.key = at
	}
	w.doc.places[path] = p

	if n = w.resolve(n); n == nil {
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if o.any {
		return
	}
	if null, ok := n.(*ast.NullNode); ok {
		if null.Token.Type != token.ImplicitNullType {
			p.key = nodePosition(n)
		}
		e := w.doc.at(p.key, "no value")
		w.errs = append(w.errs, e)
		e.WithHint("give it %s, or take the key away", wanted(v, o))
		return
	}
	if _, scalar := n.(ast.ScalarNode); o.secret && (scalar || v.Kind() != reflect.Map && v.Kind() != reflect.Slice) {
		w.doc.secrets = append(w.doc.secrets, nodePosition(n))
	}
	switch v.Kind() {
	case reflect.Struct:
		if _, scalar := n.(ast.ScalarNode); scalar && o.bare {
			first := fields(v.Type())[0]
			w.value(n, v.Field(first.index), path+"."+first.name, first.options)
			return
		}
		w.mapping(n, v, path)
	case reflect.Slice:
		w.list(n, v, path, o)
	case reflect.Map:
		w.texts(n, v, path, o)
	default:
		w.scalar(n, v, o)
	}
}

// resolve follows anchors and aliases; nil means that a fault was reported.
func (w *walker) resolve(n ast.Node) ast.Node {
	for range maxNesting {
		switch t := n.(type) {
		case *ast.AnchorNode:
			w.doc.anchors[t.Name.GetToken().Value] = t.Value
			n = t.Value
		case *ast.AliasNode:
			name := t.Value.GetToken().Value
			target, ok := w.doc.anchors[name]
			if !ok {
				w.fail(n, "alias *%s has no anchor &%s before it", name, name)
				return nil
			}
			n = target
		case *ast.TagNode:
			w.fail(n, "the tag %s is not read here", t.GetToken().Value).WithHint("take it away; a text that looks like a number goes in quotes")
			return nil
		case nil:
			return nil
		default:
			return n
		}
	}
	w.fail(n, "an alias that contains itself")
	return nil
}

func (w *walker) mapping(n ast.Node, v reflect.Value, path string) {
	// An alias may name the mapping that contains it, and would then be followed for ever.
	if w.depth++; w.depth > maxNesting {
		w.fail(n, "an alias that contains itself")
		return
	}
	defer func() { w.depth-- }()

	known := fields(v.Type())
	names := make([]string, len(known))
	for i, f := range known {
		names[i] = f.name
	}
	seen, ok := w.pairs(n, func(key *ast.StringNode, value ast.Node) {
		i := slices.Index(names, key.Value)
		if i < 0 {
			e := w.fail(key, "unknown key %q", key.Value)
			if near := Nearest(key.Value, names); near != "" {
				e.WithHint("did you mean %q?", near)
			} else {
				e.WithHint("keys known here: %s", strings.Join(names, ", "))
			}
			return
		}
		below := path + "." + key.Value
		w.doc.places[below] = place{key: nodePosition(key)}
		w.value(value, v.Field(known[i].index), below, known[i].options)
	})
	if !ok {
		w.mismatch(n, v, options{})
		return
	}
	for _, f := range known {
		if _, ok := seen[f.name]; f.required && !ok {
			w.fail(n, "no %q, which must be given here", f.name)
		}
	}
}

// pairs calls do for each key of a mapping that is a plain word and comes for the first time, and returns where they stand;
// false means that n is no mapping.
func (w *walker) pairs(n ast.Node, do func(key *ast.StringNode, value ast.Node)) (seen map[string]position, ok bool) {
	var pairs []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	default:
		return nil, false
	}
	seen = map[string]position{}
	for _, pair := range pairs {
		key, ok := pair.Key.(*ast.StringNode)
		if !ok {
			if _, merge := pair.Key.(*ast.MergeKeyNode); merge {
				w.fail(pair.Key, "the merge key << is not read here").WithHint("write the keys out, or use an alias for each value")
			} else {
				w.fail(pair.Key, "a key must be a plain word")
			}
			continue
		}
		if first, twice := seen[key.Value]; twice {
			w.fail(key, "key %q is given twice, first on line %d", key.Value, first.line)
			continue
		}
		seen[key.Value] = nodePosition(key)
		do(key, pair.Value)
	}
	return seen, true
}

// texts fills a map of texts, whose keys are the user's own words.
func (w *walker) texts(n ast.Node, v reflect.Value, path string, o options) {
	v.Set(reflect.MakeMap(v.Type()))
	item := options{literal: o.literal, secret: o.secret}
	_, ok := w.pairs(n, func(key *ast.StringNode, value ast.Node) {
		below := path + "." + key.Value
		w.doc.places[below] = place{key: nodePosition(key)}
		text := reflect.New(v.Type().Elem()).Elem()
		w.value(value, text, below, item)
		v.SetMapIndex(reflect.ValueOf(key.Value), text)
	})
	if !ok {
		w.mismatch(n, v, o)
	}
}

func (w *walker) list(n ast.Node, v reflect.Value, path string, o options) {
	item := options{literal: o.literal, secret: o.secret, enum: o.enum}
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if !o.one {
			w.mismatch(n, v, o)
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		w.value(n, v.Index(0), path+"[0]", item)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, child := range seq.Values {
		before := len(w.errs)
		w.value(child, v.Index(i), fmt.Sprintf("%s[%d]", path, i), item)
		if i > 0 && len(w.errs) == before+1 && w.errs[before].Hint == "" {
			w.commaHint(w.errs[before], seq.Values[i-1], child)
		}
	}
}

// commaHint explains [console=ttyS0,115200], which YAML reads as a text and a number.
func (w *walker) commaHint(e *Error, before, n ast.Node) {
	a, b := before.GetToken(), n.GetToken()
	if a.Position.Line != b.Position.Line || a.Position.Column+len([]rune(a.Value))+1 != b.Position.Column {
		return
	}
	e.WithHint("a comma ends an item inside [ ]; with the comma in it, write \"%s,%s\" in quotes", a.Value, b.Value)
}

func (w *walker) scalar(n ast.Node, v reflect.Value, o options) {
	text, isText := "", true
	switch s := n.(type) {
	case *ast.StringNode:
		text = s.Value
	case *ast.LiteralNode:
		text = s.Value.Value
	default:
		isText = false
	}
	switch v.Kind() {
	case reflect.String:
		if _, ok := n.(ast.ScalarNode); ok && !isText && o.literal {
			text, isText = n.GetToken().Value, true
		}
		if !isText {
			w.mismatch(n, v, o)
			return
		}
		if len(o.enum) > 0 && !slices.Contains(o.enum, text) {
			e := w.fail(n, "%q is not one of %s", text, strings.Join(o.enum, ", "))
			if near := Nearest(text, o.enum); near != "" {
				e.WithHint("did you mean %q?", near)
			}
			return
		}
		v.SetString(text)
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			w.mismatch(n, v, o)
			return
		}
		v.SetBool(b.Value)
	case reflect.Int:
		i, ok := n.(*ast.IntegerNode)
		if !ok {
			w.mismatch(n, v, o)
			return
		}
		if tt := i.GetToken().Type; tt != token.IntegerType {
			w.fail(n, "%s is not a decimal number", i.GetToken().Value)
			return
		}
		switch x := i.Value.(type) {
		case int64:
			v.SetInt(x)
		case uint64:
			if x > math.MaxInt64 {
				w.fail(n, "%d is too large", x)
				return
			}
			v.SetInt(int64(x))
		default:
			w.mismatch(n, v, o)
		}
	default:
		panic(fmt.Sprintf("strictyaml: a field of type %s", v.Type()))
	}
}

// mismatch reports a value of the wrong kind.
func (w *walker) mismatch(n ast.Node, v reflect.Value, o options) {
	is := kind(n)
	if _, scalar := n.(ast.ScalarNode); scalar && o.secret {
		is = "something else"
	}
	e := w.fail(n, "%s, where %s belongs", is, wanted(v, o))
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		// Left without a hint inside a list: the comma may be what is wrong.
		if v.Kind() == reflect.String && !strings.HasSuffix(strings.TrimSpace(e.Source), "]") {
			e.WithHint("put it in quotes to make it a text")
		}
	case *ast.StringNode:
		if v.Kind() == reflect.Slice && !o.secret {
			e.WithHint("write [%s]", n.GetToken().Value)
		}
	}
}

func wanted(v reflect.Value, o options) string {
	switch v.Kind() {
	case reflect.Struct:
		var names []string
		for _, f := range fields(v.Type()) {
			names = append(names, f.name)
		}
		return "a mapping with the keys " + strings.Join(names, ", ")
	case reflect.Slice:
		if o.one {
			return "a text or a list of texts"
		}
		if v.Type().Elem().Kind() == reflect.Struct {
			return "a list of mappings"
		}
		return "a list"
	case reflect.Map:
		return "a mapping of texts"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	}
	return "a text"
}

func kind(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + n.GetToken().Value
	case *ast.BoolNode:
		return "the boolean " + n.GetToken().Value
	case *ast.StringNode:
		return "a text"
	case *ast.LiteralNode:
		return "a block of text"
	}
	return "a " + strings.ToLower(n.Type().String())
}
