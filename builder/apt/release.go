package apt

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A release is what a verified Release file says.
type release struct {
	suite, codename string
	date            time.Time
	validUntil      time.Time // zero: for ever
	byHash          bool
	allSeparate     bool // Architecture: all has Packages files of its own, which the others do not repeat
	components      []string
	archs           []string
	files           map[string]releaseFile // by path below dists/SUITE
}

type releaseFile struct {
	sum  string
	size int64
}

// parseRelease reads the signed text of an InRelease, or a Release file. Only its SHA-256 list is used.
func parseRelease(text string) (*release, error) {
	r := &release{files: make(map[string]releaseFile)}
	inSums := false
	noSupportAll := false
	for number, line := range strings.Split(text, "\n") {
		if line == "" {
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if !inSums {
				continue
			}
			f := strings.Fields(line)
			if len(f) != 3 {
				return nil, fmt.Errorf("line %d of its SHA-256 list is not digest, size and name: %.80q", number+1, line)
			}
			size, err := strconv.ParseInt(f[1], 10, 64)
			if _, herr := hex.DecodeString(f[0]); err != nil || herr != nil || len(f[0]) != 64 || size < 0 {
				return nil, fmt.Errorf("line %d of its SHA-256 list is not digest, size and name: %.80q", number+1, line)
			}
			r.files[f[2]] = releaseFile{sum: strings.ToLower(f[0]), size: size}
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("line %d has no colon: %.80q", number+1, line)
		}
		value = strings.TrimSpace(value)
		inSums = false
		var err error
		switch key {
		case "Suite":
			r.suite = value
		case "Codename":
			r.codename = value
		case "Date":
			r.date, err = parseDate(value)
		case "Valid-Until":
			r.validUntil, err = parseDate(value)
		case "Acquire-By-Hash":
			r.byHash = value == "yes"
		case "Components":
			r.components = strings.Fields(value)
		case "Architectures":
			r.archs = strings.Fields(value)
		case "No-Support-for-Architecture-all":
			noSupportAll = value == "Packages"
		case "SHA256":
			inSums = true
		}
		if err != nil {
			return nil, fmt.Errorf("%s %q is not a date", key, value)
		}
	}
	if len(r.files) == 0 {
		return nil, fmt.Errorf("it lists no files with SHA-256")
	}
	for _, a := range r.archs {
		if a == "all" && !noSupportAll {
			r.allSeparate = true
		}
	}
	return r, nil
}

// parseDate reads "Sat, 11 Jul 2026 10:16:37 UTC", with the variations that archive tools write.
func parseDate(s string) (time.Time, error) {
	var first error
	for _, layout := range []string{"Mon, 2 Jan 2006 15:04:05 MST", "Mon, 2 Jan 2006 15:04:05 -0700", "Mon Jan 2 15:04:05 MST 2006"} {
		t, err := time.Parse(layout, s)
		if err == nil {
			return t, nil
		}
		if first == nil {
			first = err
		}
	}
	return time.Time{}, first
}

// checkName says whether the release is the one that was asked for: a mirror that serves another suite, properly signed,
// must not pass. "buster/updates" calls itself codename buster.
func (r *release) checkName(suite string) error {
	want := strings.TrimSuffix(suite, "/updates")
	if r.suite == "" && r.codename == "" {
		return nil
	}
	for _, name := range []string{r.suite, r.codename} {
		if name == suite || name == want || strings.TrimSuffix(name, "/updates") == want {
			return nil
		}
	}
	return fmt.Errorf("it is the one of suite %q, codename %q", r.suite, r.codename)
}

// checkDates refuses a release that has run out, or that comes from the future.
func (r *release) checkDates(now time.Time) error {
	if !r.validUntil.IsZero() && now.After(r.validUntil) {
		return fmt.Errorf("it was valid until %s only, %s ago: the mirror is stale or somebody replays an old one "+
			"(for an archive of old releases set Acquire::Check-Valid-Until \"false\" in /etc/apt/apt.conf.d, or Check-Valid-Until: no in its sources entry)",
			r.validUntil.Format(time.RFC1123), now.Sub(r.validUntil).Round(time.Hour))
	}
	// apt allows 10 seconds (Acquire::Max-FutureTime); a machine that was just installed may be further off.
	if r.date.After(now.Add(10 * time.Minute)) {
		return fmt.Errorf("it is dated %s, but the clock of this machine says %s: set the clock", r.date.Format(time.RFC1123), now.UTC().Format(time.RFC1123))
	}
	return nil
}

// An indexChoice is one way to fetch a Packages file.
type indexChoice struct {
	path string // below dists/SUITE
	releaseFile
}

// packages lists the Packages file of a component and architecture in the forms that can be read here, best first.
func (r *release) packages(component, arch string) []indexChoice {
	var out []indexChoice
	for _, ext := range []string{".xz", ".gz", ""} {
		path := component + "/binary-" + arch + "/Packages" + ext
		if f, ok := r.files[path]; ok {
			out = append(out, indexChoice{path, f})
		}
	}
	return out
}

// byHashPath is where an archive that sets Acquire-By-Hash keeps the file, whatever the next update brings.
func (c indexChoice) byHashPath() string {
	dir := c.path[:strings.LastIndexByte(c.path, '/')]
	return dir + "/by-hash/SHA256/" + c.sum
}
