package strictyaml

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/rivo/uniseg"
)

// An Error is one thing that is wrong in a file. It prints as
//
//	FILE:LINE:COLUMN: what is wrong
//	    the line itself
//	    ^
//	what to do about it
type Error struct {
	File   string
	Line   int // from 1; 0 when the fault is the file as a whole
	Column int // from 1, in characters
	Msg    string
	Source string // the line itself, without its end
	Hint   string // the way out, or ""
	Err    error  // what caused it, or nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": " + e.Msg)
	if e.Line > 0 && strings.TrimSpace(e.Source) != "" {
		b.WriteString("\n    " + e.Source)
		b.WriteString("\n    " + caret(e.Source, e.Column))
	}
	if e.Hint != "" {
		b.WriteString("\n" + e.Hint)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// caret returns the line below source that points at its column. Tabs stay tabs and wide characters (CJK) count as the
// two cells that a terminal gives them, so that the caret stands below the right one.
func caret(source string, column int) string {
	runes := []rune(source)
	before := string(runes[:min(max(column-1, 0), len(runes))])
	var b strings.Builder
	for i, part := range strings.Split(before, "\t") {
		if i > 0 {
			b.WriteByte('\t')
		}
		b.WriteString(strings.Repeat(" ", uniseg.StringWidth(part)))
	}
	return b.String() + "^"
}

// WithHint adds the way out.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Errors are all faults found, in the order of the files' lines. It is never empty when it is returned as an error.
// Everything that is wrong with what a user wrote comes back as this one type, so that a program can tell it from
// a failure of its own.
type Errors []*Error

// maxShown is how many faults one message lists: the first ones are the ones to mend.
const maxShown = 10

func (l Errors) Error() string {
	var b strings.Builder
	for i, e := range l {
		if i == maxShown {
			fmt.Fprintf(&b, "\nand %d more", len(l)-i)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

func (l Errors) Unwrap() []error {
	list := make([]error, len(l))
	for i, e := range l {
		list[i] = e
	}
	return list
}

// Join makes one error of those given, sorted by line within each file, or nil when there is none.
func Join(list ...*Error) error {
	var l Errors
	var files []string // in the order met: the file the user named comes first
	for _, e := range list {
		if e == nil {
			continue
		}
		l = append(l, e)
		if !slices.Contains(files, e.File) {
			files = append(files, e.File)
		}
	}
	if len(l) == 0 {
		return nil
	}
	slices.SortStableFunc(l, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(slices.Index(files, a.File), slices.Index(files, b.File)),
			cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return l
}

// List returns the faults in err, or nil when it is an error of another kind.
func List(err error) []*Error {
	var l Errors
	if errors.As(err, &l) {
		return l
	}
	var e *Error
	if errors.As(err, &e) {
		return []*Error{e}
	}
	return nil
}

// FileError is the fault of a file as a whole: it cannot be read.
func FileError(file string, err error) *Error {
	return &Error{File: file, Msg: reason(err), Err: err}
}

// reason is err without the path that package os puts before it: the file is named already.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return "cannot be read: " + err.Error()
}

// Nearest returns the word of known that is nearest to word, or "" when none is near enough to be what was meant.
func Nearest(word string, known []string) string {
	best, distance := "", max(1, len([]rune(word))/3)+1
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// editDistance counts the characters to insert, delete, replace or swap with their neighbour to make b of a (optimal
// string alignment).
func editDistance(a, b string) int {
	s, t := []rune(a), []rune(b)
	if len(s) > 64 || len(t) > 64 {
		return 64
	}
	var before, last []int
	row := make([]int, len(t)+1)
	for j := range row {
		row[j] = j
	}
	for i := range s {
		before, last, row = last, row, make([]int, len(t)+1)
		row[0] = i + 1
		for j := range t {
			cost := 1
			if s[i] == t[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && s[i] == t[j-1] && s[i-1] == t[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(t)]
}
