// Package sums reads lists of SHA-256 checksums as distributions publish them beside their ISOs: lines as of sha256sum(1) and of BSD
// (SHA256 (file) = …), with comments and whatever else between them, inside a clearsigned text or not.
package sums

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

var (
	gnuLine = regexp.MustCompile(`^\\?([0-9a-fA-F]{64}) [ *](.+)$`)
	bsdLine = regexp.MustCompile(`^SHA256 \((.+)\) = ([0-9a-fA-F]{64})$`)
	anyLine = regexp.MustCompile(`^\\?([0-9a-fA-F]{32,128}) [ *].+$|^(MD5|SHA1|SHA512) \(`)
)

// Find returns the sum, in lower case, of the file whose path in the list is wanted, or which has that name alone. list is what errors call the
// list.
func Find(list string, data []byte, wanted string) (string, error) {
	var byName []string
	others, lines := 0, 0
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		name, sum := "", ""
		if m := gnuLine.FindStringSubmatch(line); m != nil {
			sum, name = m[1], m[2]
		} else if m := bsdLine.FindStringSubmatch(line); m != nil {
			name, sum = m[1], m[2]
		} else {
			if anyLine.MatchString(line) {
				others++
			}
			continue
		}
		lines++
		name, sum = path.Clean(name), strings.ToLower(sum)
		if name == path.Clean(wanted) {
			return sum, nil
		}
		if path.Base(name) == path.Base(wanted) {
			byName = append(byName, sum)
		}
	}
	switch {
	case len(byName) == 1:
		return byName[0], nil
	case len(byName) > 1:
		return "", fmt.Errorf("%s has %d files called %s, and none at %s", list, len(byName), path.Base(wanted), wanted)
	case lines == 0 && others > 0:
		return "", fmt.Errorf("%s has no SHA-256 in it, only other checksums; name the list called SHA256SUMS", list)
	case lines == 0:
		return "", fmt.Errorf("%s is not a list of SHA-256 checksums", list)
	}
	return "", fmt.Errorf("%s has %d files, and %s is not among them", list, lines, path.Base(wanted))
}

// Relative is what a list at one URL or path calls the file at another: the path from the list's own folder on, or the name alone.
func Relative(list, file string) string {
	dir, _ := path.Split(list)
	if rest, ok := strings.CutPrefix(file, dir); ok && dir != "" {
		return rest
	}
	return path.Base(file)
}
