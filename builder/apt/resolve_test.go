package apt

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/builder/deb"
	"netroot/builder/need"
)

// universe makes one of stanzas written short: "a 1: Depends: b | c; Conflicts: d". The base set is empty unless one says
// Essential: yes.
func universe(t testing.TB, provided string, lines ...string) *Universe {
	t.Helper()
	var text strings.Builder
	for _, line := range lines {
		head, fields, _ := strings.Cut(line, ": ")
		stanza := pkg(head, strings.FieldsFunc(fields, func(r rune) bool { return r == ';' })...)
		text.WriteString(strings.ReplaceAll(stanza, "\n ", "\n"))
	}
	data, err := compact(strings.NewReader(text.String()), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	pkgs, err := expand(data, "stable")
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) != len(lines) {
		t.Fatalf("%d packages of %d lines", len(pkgs), len(lines))
	}
	cfg := Config{Arch: "amd64", Provided: strings.Fields(provided)}
	return newUniverse(&Mirrors{cfg: cfg, repos: []repo{{name: "stable", suite: "stable"}}}, [][]Package{pkgs})
}

func TestResolve(t *testing.T) {
	for name, c := range map[string]struct {
		lines    []string
		provided string
		want     string
		got      string // the names, or what is in the error behind "!"
	}{
		"chain":                             {[]string{"a 1: Depends: b", "b 1: Pre-Depends: c (>= 1)", "c 1", "d 1"}, "", "a", "a b c"},
		"cycle":                             {[]string{"a 1: Depends: b", "b 1: Depends: a"}, "", "a", "a b"},
		"first alternative":                 {[]string{"a 1: Depends: b | c", "b 1", "c 1"}, "", "a", "a b"},
		"alternative that is there":         {[]string{"a 1: Depends: b | c", "b 1", "c 1"}, "", "a c", "a c"},
		"alternative of wrong version":      {[]string{"a 1: Depends: b (>= 2) | c", "b 1", "c 1"}, "", "a", "a c"},
		"missing alternative":               {[]string{"a 1: Depends: gone | c", "c 1"}, "", "a", "a c"},
		"alternative fails deep down":       {[]string{"a 1: Depends: b | c", "b 1: Depends: d", "d 1: Depends: gone", "c 1"}, "", "a", "a c"},
		"alternative conflicts":             {[]string{"a 1: Depends: b | c", "b 1: Conflicts: a", "c 1"}, "", "a", "a c"},
		"goes back over a choice":           {[]string{"a 1: Depends: b | c, d", "b 1", "c 1", "d 1: Breaks: b"}, "", "a", "a c d"},
		"goes back over two":                {[]string{"a 1: Depends: b | c, x | y, d", "b 1", "c 1", "x 1", "y 1", "d 1: Breaks: b (<< 2)"}, "", "a", "a c d x"},
		"remembers blame over two":          {[]string{"a 1: Depends: b | c, x | y, d | e", "b 1", "c 1", "x 1", "y 1: Conflicts: a", "d 1: Breaks: x", "e 1: Breaks: b"}, "", "a", "a c e x"},
		"highest version":                   {[]string{"a 1", "a 3", "a 2", "b 1: Depends: a (= 3)"}, "", "b", "a b"},
		"pinned":                            {[]string{"a 1", "a 3: Depends: gone", "b 1: Depends: a"}, "", "b a=1", "a b"},
		"pinned away from what is needed":   {[]string{"a 1", "a 3", "b 1: Depends: a (>= 2)"}, "", "b a=1", "!b needs a (>= 2), which no suite offers (there is version 1 of a from stable)"},
		"provided":                          {[]string{"a 1: Depends: mta", "b 1: Provides: mta"}, "", "a", "a b"},
		"provided, a real one first":        {[]string{"a 1: Depends: mta", "b 1: Provides: mta", "mta 1"}, "", "a", "a mta"},
		"provided, important first":         {[]string{"a 1: Depends: mta", "b 1: Provides: mta", "c 1: Provides: mta; Priority: important"}, "", "a", "a c"},
		"provided, first by name":           {[]string{"a 1: Depends: mta", "c 1: Provides: mta", "b 1: Provides: mta"}, "", "a", "a b"},
		"provided without version":          {[]string{"a 1: Depends: mta (>= 1)", "b 1: Provides: mta"}, "", "a", "!a needs mta (>= 1), which no suite offers"},
		"provided with version":             {[]string{"a 1: Depends: mta (>= 2)", "b 1: Provides: mta (= 1)", "c 1: Provides: mta (= 2)"}, "", "a", "a c"},
		"provider by pinned version":        {[]string{"a 1: Depends: mta", "b 1: Provides: mta", "b 2"}, "", "a b=1", "a b"},
		"conflict with what one provides":   {[]string{"a 1: Provides: mta; Conflicts: mta"}, "", "a", "a"},
		"two of one kind":                   {[]string{"a 1: Provides: mta; Conflicts: mta", "b 1: Provides: mta"}, "", "a b", "!a 1, which is wanted, conflicts with mta"},
		"versioned conflict":                {[]string{"a 1: Conflicts: b (<< 2)", "b 2"}, "", "a b", "a b"},
		"conflict told from the other side": {[]string{"a 1", "b 1: Breaks: a"}, "", "a b", "!b 1 breaks a, which is wanted"},
		"essential":                         {[]string{"a 1", "b 1: Essential: yes; Depends: c", "c 1"}, "", "a", "a b c"},
		"required":                          {[]string{"a 1", "b 1: Priority: required", "c 1: Priority: important"}, "", "", "b"},
		"apt belongs to the base":           {[]string{"apt 1", "usr-is-merged 1", "b 1"}, "", "", "apt usr-is-merged"},
		"stand-in":                          {[]string{"a 1: Depends: tools | linux-initramfs-tool", "tools 1: Provides: linux-initramfs-tool"}, "linux-initramfs-tool", "a", "a"},
		"stand-in that is wanted":           {[]string{"a 1: Depends: x", "x 1"}, "x", "a x", "a"},
		"stand-in has no version":           {[]string{"a 1: Depends: x (>= 1)", "x 1"}, "x", "a", "a x"},
		"any, allowed":                      {[]string{"a 1: Depends: p:any", "p 1: Multi-Arch: allowed"}, "", "a", "a p"},
		"any, not allowed":                  {[]string{"a 1: Depends: p:any", "p 1"}, "", "a", "!a needs p:any, which no suite offers (there is version 1 of p for amd64 from stable)"},
		"this architecture":                 {[]string{"a 1: Depends: p:amd64, q:native", "p 1", "q 1"}, "", "a", "a p q"},
		"another architecture":              {[]string{"a 1: Depends: p:i386", "p 1"}, "", "a", "!a needs p:i386"},
		"wanted with architecture":          {[]string{"a 1"}, "", "a:amd64", "a"},
		"wanted of another":                 {[]string{"a 1"}, "", "a:i386", "!package a:i386: this root is amd64"},
		"virtual, one provider":             {[]string{"b 1: Provides: mta"}, "", "mta", "b"},
		"virtual, two providers":            {[]string{"b 1: Provides: mta", "c 1: Provides: mta"}, "", "mta", "!want one of b, c"},
		"mistyped":                          {[]string{"openssh-server 1", "openssh-client 1"}, "", "opensh-server", "!no package opensh-server in stable; did you mean openssh-server?"},
		"unlike anything":                   {[]string{"openssh-server 1"}, "", "emacs", "!no package emacs in stable (is its component"},
		"no such version":                   {[]string{"a 1", "a 2"}, "", "a=3", "!package a: no suite offers version 3, only 1 (stable), 2 (stable)"},
		"broken field, not wanted":          {[]string{"a 1", "b 1: Depends: x ((y"}, "", "a", "a"},
		"broken field, wanted":              {[]string{"a 1: Depends: b", "b 1: Depends: x ((y"}, "", "a", "!a needs b, but b 1 cannot be installed: its Depends field cannot be read"},
		"who asked for what": {[]string{"linux-image-amd64 6: Depends: linux-image-6.1 (= 6)", "linux-image-6.1 6: Depends: kmod | module-init-tools, gone (>= 2)", "kmod 1"}, "", "linux-image-amd64",
			"!the packages cannot be installed together: linux-image-amd64 needs linux-image-6.1 (= 6), which needs gone (>= 2), which no suite offers"},
		"who asked for an old version": {[]string{"a 1: Depends: b (= 1)", "b 2"}, "", "a", "!a needs b (= 1), which no suite offers (there is version 2 of b from stable)"},
		"every alternative told": {[]string{"a 1: Depends: b | c", "b 1: Depends: x", "c 1: Depends: y"}, "", "a",
			"!a needs b | c (taking b), which needs x, which no suite offers\na needs b | c (taking c), which needs y, which no suite offers"},
		"essential asks": {[]string{"a 1: Essential: yes; Depends: gone"}, "", "", "!a (essential) needs gone, which no suite offers"},
	} {
		t.Run(name, func(t *testing.T) {
			u := universe(t, c.provided, c.lines...)
			pkgs, err := u.Resolve(strings.Fields(c.want))
			if want, isError := strings.CutPrefix(c.got, "!"); isError {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
				return
			}
			var names []string
			for _, p := range pkgs {
				names = append(names, p.Name)
			}
			if got := strings.Join(names, " "); err != nil || got != c.got {
				t.Errorf("got %s, %v; want %s", got, err, c.got)
			}
		})
	}
}

// Small random universes, in which every set of packages can be tried: the resolver finds a solution exactly when there is
// one, and what it finds is one.
func TestResolveAgainstBruteForce(t *testing.T) {
	need.Patience(t)
	r := rand.New(rand.NewPCG(3, 4))
	solvable := 0
	const rounds = 1500
	for round := range rounds {
		const n = 8
		lines := make([]string, n)
		relation := func() string {
			s := string(rune('a' + r.IntN(n)))
			switch r.IntN(8) {
			case 0:
				s += fmt.Sprintf(" (>= %d)", 1+r.IntN(3))
			case 1:
				s = "v" + s
			}
			return s
		}
		for i := range lines {
			var fields []string
			var deps []string
			for range r.IntN(4) {
				alternatives := []string{relation()}
				for range r.IntN(3) {
					alternatives = append(alternatives, relation())
				}
				deps = append(deps, strings.Join(alternatives, " | "))
			}
			if len(deps) > 0 {
				fields = append(fields, "Depends: "+strings.Join(deps, ", "))
			}
			if r.IntN(2) == 0 {
				fields = append(fields, []string{"Conflicts: ", "Breaks: "}[r.IntN(2)]+relation())
			}
			if r.IntN(3) == 0 {
				fields = append(fields, "Provides: v"+string(rune('a'+r.IntN(n))))
			}
			lines[i] = fmt.Sprintf("%c %d: %s", 'a'+i, 1+r.IntN(3), strings.Join(fields, "; "))
			if len(fields) == 0 {
				lines[i] = strings.TrimSuffix(lines[i], ": ")
			}
		}
		u := universe(t, "", lines...)
		pkgs, err := u.Resolve([]string{"a"})
		exists := bruteForce(u, n)
		if (err == nil) != exists {
			t.Fatalf("round %d: resolver says %v, brute force %v\n%s", round, err, exists, strings.Join(lines, "\n"))
		}
		if err == nil {
			solvable++
			if why := broken(u, pkgs); why != "" {
				t.Fatalf("round %d: %v is no solution: %s\n%s", round, pkgs, why, strings.Join(lines, "\n"))
			}
			if again, _ := u.Resolve([]string{"a"}); !slices.Equal(again, pkgs) {
				t.Fatalf("round %d: %v, and then %v", round, pkgs, again)
			}
		}
	}
	if solvable < rounds/5 || solvable > rounds*4/5 {
		t.Errorf("%d of %d are solvable: the test sees only one side", solvable, rounds)
	}
}

func bruteForce(u *Universe, n int) bool {
	for mask := 1; mask < 1<<n; mask += 2 { // a is bit 0
		var set []*Package
		for i := range n {
			if mask&(1<<i) != 0 {
				set = append(set, u.candidates[string(rune('a'+i))])
			}
		}
		if broken(u, set) == "" {
			return true
		}
	}
	return false
}

// broken says what is wrong with a set of packages as a whole system; it shares no code with the search.
func broken(u *Universe, set []*Package) string {
	deps := func(field string) []deb.Dependency {
		d, _ := deb.ParseDependencies(field, "amd64")
		return d
	}
	is := func(p *Package, r deb.Relation) bool {
		if p.Name == r.Name && r.Admits(p.Version) {
			return true
		}
		return r.Op == "" && slices.ContainsFunc(deps(p.provides), func(d deb.Dependency) bool { return d[0].Name == r.Name })
	}
	for _, p := range set {
		for _, d := range slices.Concat(deps(p.preDepends), deps(p.depends)) {
			if !slices.ContainsFunc(d, func(r deb.Relation) bool {
				return slices.ContainsFunc(set, func(q *Package) bool { return is(q, r) })
			}) {
				return p.Name + " lacks " + d.String()
			}
		}
		for _, d := range slices.Concat(deps(p.conflicts), deps(p.breaks)) {
			for _, q := range set {
				if q != p && is(q, d[0]) {
					return p.Name + " does not bear " + q.Name
				}
			}
		}
	}
	return ""
}

// Many choices before the one that matters: going back one step at a time would take 2^40 steps.
func TestGoesBackToTheRightChoice(t *testing.T) {
	lines := []string{"b 1", "c 1", "d 1: Conflicts: b"}
	needs := []string{"b | c"}
	for i := range 40 {
		lines = append(lines, fmt.Sprintf("x%d 1", i), fmt.Sprintf("y%d 1", i))
		needs = append(needs, fmt.Sprintf("x%d | y%d", i, i))
	}
	lines = append(lines, "a 1: Depends: "+strings.Join(append(needs, "d"), ", "))
	start := time.Now()
	pkgs, err := universe(t, "", lines...).Resolve([]string{"a"})
	if err != nil || len(pkgs) != 43 {
		t.Errorf("%d packages, %v", len(pkgs), err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
}

func FuzzResolve(f *testing.F) {
	f.Add(stanza1+pkg("debianutils 9")+pkg("dpkg 9")+pkg("libc6 3"), "dash")
	f.Add(pkg("a 1", "Depends: b | c")+pkg("b 1", "Conflicts: a")+pkg("c 1"), "a")
	f.Fuzz(func(t *testing.T, text, want string) {
		data, err := compact(strings.NewReader(text), "amd64")
		if err != nil {
			return
		}
		pkgs, err := expand(data, "x")
		if err != nil {
			t.Fatal(err)
		}
		u := newUniverse(&Mirrors{cfg: Config{Arch: "amd64"}}, [][]Package{pkgs})
		_, _ = u.Resolve(strings.Fields(want))
	})
}
