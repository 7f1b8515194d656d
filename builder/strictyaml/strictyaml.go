// Package strictyaml reads YAML files that people write, and says precisely what is wrong with them: an unknown key, a
// value of the wrong kind, a missing or doubled key each come back with file, line, column, the line itself and the
// nearest key that is known. A validator that finds a fault of its own reports it at the place of a value:
//
//	doc, err := strictyaml.Parse("recipe.yaml", data)
//	err = doc.Decode(&recipe)
//	return strictyaml.Join(doc.At("$.files[2].path", "is not absolute"))
//
// Parsing is goccy/go-yaml's. Decoding is done here, because the position of every value has to be kept and because it is
// narrower than YAML on purpose: one document of mappings, lists, texts, whole numbers and booleans, decoded into structs,
// slices, maps of texts, strings, ints and bools with `yaml:"name"` tags. A key without a value, a merge key (<<), a tag (!!str) and a key
// that is not a text are errors; anchors and aliases work. Files over 1 MiB are refused.
//
// Further words in the tag: "literal" takes a number or boolean as the text it is written as (mode: 0644), "one" lets a list
// be a single value, "any" keeps nothing but the place, "secret" keeps the value out of every message,
// "bare" lets a mapping be written as the value of its first key alone. `jsonschema:"required"` makes a key of a nested struct mandatory, and
// `jsonschema:"enum=a,enum=b"` lists its words; the same tags make the JSON Schema.
package strictyaml

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	maxSize = 1 << 20
	// maxNesting bounds the recursion of the parser, which has no bound of its own.
	maxNesting = 32
	// maxKeys bounds the time of the parser, which grows with the square of the keys in one mapping. No file read here
	// has a mapping with more than a few.
	maxKeys = 1000
)

// A Document is one parsed file.
type Document struct {
	File string

	lines   []string
	root    ast.Node
	anchors map[string]ast.Node
	places  map[string]place
	secrets []position // where values stand that must not be shown
}

// A place is where a value and its key stand in the file.
type place struct {
	value, key position
}

type position struct{ line, column int }

// Read parses the file at path. The errors name it as given.
func Read(path string) (*Document, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, Join(FileError(path, err))
	}
	return Parse(path, data)
}

// Parse parses data; file is what errors call it.
func Parse(file string, data []byte) (doc *Document, err error) {
	d := &Document{File: file, places: map[string]place{}, anchors: map[string]ast.Node{}}
	whole := func(format string, args ...any) (*Document, error) {
		return nil, Join(&Error{File: file, Msg: fmt.Sprintf(format, args...)})
	}
	switch {
	case len(data) > maxSize:
		return whole("is %d bytes, and a file read here has at most %d", len(data), maxSize)
	case !utf8.Valid(data):
		return whole("is not a text in UTF-8")
	}
	// A byte order mark is what some editors begin a file with; YAML 1.2 (5.2) allows it.
	text := strings.TrimPrefix(string(data), "\ufeff")
	if i := strings.IndexFunc(text, unprintable); i >= 0 {
		r, _ := utf8.DecodeRuneInString(text[i:])
		return whole("has the control character %U on line %d", r, strings.Count(text[:i], "\n")+1)
	}
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text) // all are line breaks (YAML 1.2, 5.4)
	d.lines = strings.Split(text, "\n")

	defer func() {
		// The parser is a foreign one and reads what anybody wrote: a fault of it must not end a build.
		if r := recover(); r != nil {
			doc, err = whole("cannot be parsed as YAML: %v", r)
		}
	}()
	tokens := flowTexts(lexer.Tokenize(text))
	if t := tooDeep(tokens); t != nil {
		return nil, Join(d.at(tokenPosition(t), "more than %d levels of nesting", maxNesting))
	}
	if t := tooMany(tokens); t != nil {
		return nil, Join(d.at(tokenPosition(t), "more than %d keys in a mapping", maxKeys))
	}
	// Doubled keys are found by Decode, with both lines.
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, Join(d.syntaxError(err))
	}
	for _, body := range f.Docs {
		switch {
		case body.Body == nil:
		case d.root != nil:
			return nil, Join(d.at(position{body.Start.Position.Line, body.Start.Position.Column}, "a second document begins here, and a file read here has one"))
		default:
			d.root = body.Body
		}
	}
	if d.root == nil {
		return whole("is empty")
	}
	return d, nil
}

func unprintable(r rune) bool {
	return r < 0x20 && r != '\n' && r != '\r' && r != '\t' || r == 0x7f || r == utf8.RuneError
}

// tooDeep returns the token that goes below the deepest level, or nil.
func tooDeep(tokens token.Tokens) *token.Token {
	flow, inLine, line := 0, 0, 0
	columns := map[int]bool{} // columns in which a block begins: a level of blocks needs one of its own
	for _, t := range tokens {
		if t.Position.Line != line {
			line, inLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			inLine++
			columns[t.Position.Column] = true
		case token.MappingValueType, token.AnchorType, token.TagType, token.AliasType:
			inLine++
			if flow == 0 {
				columns[t.Position.IndentNum] = true
			}
		case token.CollectEntryType:
			inLine = 0
		}
		if flow > maxNesting || inLine > maxNesting || len(columns) > 4*maxNesting {
			return t
		}
	}
	return nil
}

// tooMany returns the token of the first key too many in one mapping, or nil.
func tooMany(tokens token.Tokens) *token.Token {
	keys, indent := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceEntryType, token.MappingStartType:
			keys = 0
		case token.MappingValueType:
			if keys++; t.Position.IndentNum != indent {
				keys, indent = 1, t.Position.IndentNum
			}
			if keys > maxKeys {
				return t
			}
		}
	}
	return nil
}

// syntaxError turns the parser's error into one of ours.
func (d *Document) syntaxError(err error) *Error {
	var y yaml.Error
	if !errors.As(err, &y) || y.GetToken() == nil || y.GetToken().Position == nil {
		return &Error{File: d.File, Msg: "cannot be parsed as YAML: " + err.Error(), Err: err}
	}
	e := d.at(tokenPosition(y.GetToken()), "%s", y.GetMessage())
	e.Err = err
	switch {
	case strings.Contains(e.Source, "\t"):
		e.Msg, e.Hint = "a tab cannot be used here", "indent with spaces: YAML forbids tabs there"
	case strings.Contains(e.Msg, "mapping value is not allowed"):
		e.Msg, e.Hint = "a key is not allowed here", `put a text with ": " in it in quotes, and keys of one level in one column`
	}
	return e
}

// At is a fault of the value at path, which is written as $.files[2].path. When nothing stands there, the fault is shown at the
// nearest value around it; "$" is the first line that says anything.
func (d *Document) At(path, format string, args ...any) *Error {
	return d.at(d.find(path).value, format, args...)
}

// AtKey is At, but points at the key of the value.
func (d *Document) AtKey(path, format string, args ...any) *Error {
	return d.at(d.find(path).key, format, args...)
}

// Has tells whether Decode met a value at path.
func (d *Document) Has(path string) bool {
	_, ok := d.places[path]
	return ok
}

// Line is the line of the value at path, or of the nearest value around it.
func (d *Document) Line(path string) int { return d.find(path).value.line }

func (d *Document) find(path string) place {
	for {
		if p, ok := d.places[path]; ok {
			return p
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return place{position{1, 1}, position{1, 1}}
		}
		path = path[:i]
	}
}

func (d *Document) at(p position, format string, args ...any) *Error {
	e := &Error{File: d.File, Line: max(p.line, 1), Column: max(p.column, 1), Msg: fmt.Sprintf(format, args...)}
	e.Source = d.line(e.Line)
	return e
}

// line returns a line of the file, from 1, with stars from a secret on: what is printed ends up in logs.
func (d *Document) line(number int) string {
	runes := []rune(strings.TrimRight(d.lineRaw(number), " \t\r"))
	for _, s := range d.secrets {
		if s.line != number {
			continue
		}
		for i := s.column - 1; i < len(runes); i++ {
			runes[i] = '*'
		}
	}
	return string(runes)
}

// Root is the document as it was parsed, for who reads YAML whose keys are not his own.
func (d *Document) Root() ast.Node { return d.root }

// Block says where a text stands that Decode met at path: its first line, which is that below a | or >, and the columns in front of each.
func (d *Document) Block(path string) (line, indent int) {
	at := d.find(path).value
	if !blockHead.MatchString(d.lineRaw(at.line)) {
		return at.line, 0
	}
	for line = at.line + 1; line <= len(d.lines); line++ {
		if text := d.lineRaw(line); strings.TrimSpace(text) != "" {
			return at.line + 1, len(text) - len(strings.TrimLeft(text, " "))
		}
	}
	return at.line + 1, 0
}

// blockHead is the beginning of a block scalar (YAML 1.2, 8.1), with the comment that may stand behind it.
var blockHead = regexp.MustCompile(`[|>][0-9+-]{0,2}(\s+#.*)?\s*$`)

func (d *Document) lineRaw(number int) string {
	if number < 1 || number > len(d.lines) {
		return ""
	}
	return d.lines[number-1]
}

func tokenPosition(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{1, 1}
	}
	return position{t.Position.Line, t.Position.Column}
}

// nodePosition is where a value begins. A mapping's own token is the colon of its first key.
func nodePosition(n ast.Node) position {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return nodePosition(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return nodePosition(n.Key)
	}
	return tokenPosition(n.GetToken())
}
