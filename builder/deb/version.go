// Package deb reads the words of Debian packages: versions (deb-version(7)), names, and the relations between packages
// that fields such as Depends and Replaces hold (deb-control(5)). It knows neither archives of packages nor the files
// that packages are.
//
// Limits: a name may have what third parties put into names and Debian's policy forbids (capitals, underscores). Of the
// architecture wildcards in brackets only any, linux-any and any-ARCH are known. Build profiles are passed over.
package deb

import "strings"

// CompareVersions orders two Debian versions as deb-version(7) and dpkg do: -1, 0 or 1.
func CompareVersions(a, b string) int {
	if a == b {
		return 0
	}
	epochA, upstreamA, revisionA := splitVersion(a)
	epochB, upstreamB, revisionB := splitVersion(b)
	if c := compareFragment(epochA, epochB); c != 0 {
		return c
	}
	if c := compareFragment(upstreamA, upstreamB); c != 0 {
		return c
	}
	return compareFragment(revisionA, revisionB)
}

// splitVersion cuts [epoch:]upstream[-revision]. A missing part is empty, which compares equal to "0".
func splitVersion(v string) (epoch, upstream, revision string) {
	if i := strings.IndexByte(v, ':'); i >= 0 {
		epoch, v = v[:i], v[i+1:]
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		v, revision = v[:i], v[i+1:]
	}
	return epoch, v, revision
}

// rank orders the characters outside of numbers: ~ before the end, the end before letters, letters before all others.
func rank(s string, i int) int {
	if i >= len(s) {
		return 0
	}
	switch c := s[i]; {
	case isDigit(c):
		return 0
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return int(c)
	case c == '~':
		return -1
	default:
		return int(c) + 256
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// compareFragment walks over both strings in turns of a run without digits and a run of digits.
func compareFragment(a, b string) int {
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		for i < len(a) && !isDigit(a[i]) || j < len(b) && !isDigit(b[j]) {
			if x, y := rank(a, i), rank(b, j); x != y {
				return sign(x - y)
			}
			i++
			j++
		}
		for i < len(a) && a[i] == '0' {
			i++
		}
		for j < len(b) && b[j] == '0' {
			j++
		}
		first := 0
		for i < len(a) && j < len(b) && isDigit(a[i]) && isDigit(b[j]) {
			if first == 0 {
				first = int(a[i]) - int(b[j])
			}
			i++
			j++
		}
		if i < len(a) && isDigit(a[i]) {
			return 1
		}
		if j < len(b) && isDigit(b[j]) {
			return -1
		}
		if first != 0 {
			return sign(first)
		}
	}
	return 0
}

func sign(n int) int { return min(max(n, -1), 1) }
