// Package rpm reads the words of RPM packages: versions, names and architectures, and the relations between packages that
// fields such as Requires and Obsoletes hold, boolean ones included. It knows neither repositories nor the files that
// packages are.
//
// Limits: of architectures it knows those that netroot builds for. A relation whose version has no release is compared
// without releases, as rpm does; that EVR alone is no order on versions.
package rpm

import "strings"

// An EVR is a version as RPM has it: epoch, version and release. A missing epoch is "" and counts as 0, a missing release
// is "" and is any.
type EVR struct {
	Epoch, Version, Release string
}

// ParseEVR reads [epoch:]version[-release].
func ParseEVR(s string) EVR {
	var v EVR
	// Only digits are an epoch; a version never holds a colon otherwise.
	if epoch, rest, ok := strings.Cut(s, ":"); ok && strings.Trim(epoch, "0123456789") == "" {
		v.Epoch, s = epoch, rest
	}
	if i := strings.LastIndexByte(s, '-'); i >= 0 {
		s, v.Release = s[:i], s[i+1:]
	}
	v.Version = s
	return v
}

// String writes what ParseEVR reads; an epoch of 0 is left out, as rpm leaves it out.
func (v EVR) String() string {
	s := v.Version
	if v.Epoch != "" && v.Epoch != "0" {
		s = v.Epoch + ":" + s
	}
	if v.Release != "" {
		s += "-" + v.Release
	}
	return s
}

// Compare orders two versions: -1, 0 or 1. Releases are compared only when both have one (rpmVersionCompare, lib/rpmds.c).
func (v EVR) Compare(w EVR) int {
	if c := CompareSegments(orZero(v.Epoch), orZero(w.Epoch)); c != 0 {
		return c
	}
	if c := CompareSegments(v.Version, w.Version); c != 0 {
		return c
	}
	if v.Release == "" || w.Release == "" {
		return 0
	}
	return CompareSegments(v.Release, w.Release)
}

func orZero(epoch string) string {
	if epoch == "" {
		return "0"
	}
	return epoch
}

// CompareSegments orders two versions or two releases as rpmvercmp does (rpmio/rpmvercmp.c): runs of digits as numbers, runs
// of letters as texts, everything between them only separates; a tilde sorts before the end and a caret just behind it.
func CompareSegments(a, b string) int {
	if a == b {
		return 0
	}
	for a != "" || b != "" {
		a, b = strings.TrimLeftFunc(a, separates), strings.TrimLeftFunc(b, separates)
		if tildeA, tildeB := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~"); tildeA || tildeB {
			if tildeA != tildeB {
				return before(tildeA)
			}
			a, b = a[1:], b[1:]
			continue
		}
		if caretA, caretB := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^"); caretA || caretB {
			switch {
			case a == "":
				return -1
			case b == "":
				return 1
			case caretA != caretB:
				return before(caretA)
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			break
		}
		number := isDigit(rune(a[0]))
		of := isLetter
		if number {
			of = isDigit
		}
		var x, y string
		x, a = span(a, of)
		y, b = span(b, of)
		if y == "" { // a number is newer than letters
			return before(!number)
		}
		if number {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if len(x) != len(y) {
				return before(len(x) < len(y))
			}
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	switch {
	case a == "" && b == "":
		return 0
	case a == "":
		return -1
	}
	return 1
}

func before(first bool) int {
	if first {
		return -1
	}
	return 1
}

func isDigit(r rune) bool  { return r >= '0' && r <= '9' }
func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

func separates(r rune) bool { return !isDigit(r) && !isLetter(r) && r != '~' && r != '^' }

func span(s string, of func(rune) bool) (head, rest string) {
	for i, r := range s {
		if !of(r) {
			return s[:i], s[i:]
		}
	}
	return s, ""
}
