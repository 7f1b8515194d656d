package yum

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/builder/fetch"
	"netroot/builder/rpm"
)

// pkg makes a package from lines such as "bash-1-1.i686", "requires a >= 2", "provides x = 1", "file /usr/bin/x".
func pkg(t testing.TB, nevra string, lines ...string) *Package {
	t.Helper()
	rest, arch, _ := cutLast(nevra, ".")
	rest, release, _ := cutLast(rest, "-")
	name, version, ok := cutLast(rest, "-")
	if !ok {
		t.Fatalf("%q is no package", nevra)
	}
	p := &Package{Name: name, Arch: arch, EVR: rpm.ParseEVR(version + "-" + release)}
	p.provides = []rpm.Relation{{Name: name, Op: rpm.Equal, EVR: p.EVR}}
	for _, line := range lines {
		word, text, _ := strings.Cut(line, " ")
		if word == "file" {
			p.files = append(p.files, text)
			continue
		}
		c, err := rpm.ParseCondition(text)
		if err != nil {
			t.Fatal(err)
		}
		switch word {
		case "requires":
			p.requires = append(p.requires, c)
		case "provides":
			p.provides = append(p.provides, c.Relation)
		case "conflicts":
			p.conflicts = append(p.conflicts, c)
		case "obsoletes":
			p.obsoletes = append(p.obsoletes, c.Relation)
		default:
			t.Fatalf("%q is no field", line)
		}
	}
	return p
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

const comps = `<?xml version="1.0"?><comps>
<group><id>base</id><name>Base</name><name xml:lang="ja">ベース</name><packagelist>
<packagereq type="mandatory">core</packagereq><packagereq type="default">tools</packagereq><packagereq type="optional">games</packagereq>
<packagereq type="mandatory">not-there</packagereq><packagereq type="conditional" requires="tools">tools-doc</packagereq>
<packagereq type="conditional" requires="games">games-doc</packagereq></packagelist></group>
<group><id>empty</id><name>Empty</name><packagelist><packagereq>not-there</packagereq></packagelist></group></comps>`

func small(t testing.TB) []*Package {
	return []*Package{
		pkg(t, "core-1-1.i686", "requires libc.so.6(GLIBC_2.4)", "requires /bin/sh", "requires /usr/share/words"),
		pkg(t, "libc-2.12-1.i686", "provides libc.so.6(GLIBC_2.4)", "provides libc.so.6"),
		pkg(t, "libc-2.12-2.i686", "provides libc.so.6(GLIBC_2.4)", "provides libc.so.6"),
		pkg(t, "shell-4-1.i686", "file /bin/sh", "requires libc.so.6"),
		pkg(t, "words-3-1.noarch", "file /usr/share/words"), pkg(t, "web2-1-1.noarch", "file /usr/share/dict/web2"), // which nothing requires
		pkg(t, "tools-1-1.i686", "requires mta", "requires tools-data = 1-1"),
		pkg(t, "tools-data-1-1.noarch"), pkg(t, "tools-data-2-1.noarch"),
		pkg(t, "tools-doc-1-1.noarch"), pkg(t, "games-1-1.i686"), pkg(t, "games-doc-1-1.noarch"),
		pkg(t, "postbox-1-1.i686", "provides mta", "conflicts otherbox"),
		pkg(t, "otherbox-1-1.i686", "provides mta", "requires core"),
		pkg(t, "fast-1-1.i386"), pkg(t, "fast-1-1.i586"), pkg(t, "fast-1-1.i686"),
		pkg(t, "old-1-1.i686"), pkg(t, "new-1-1.i686", "obsoletes old < 2", "provides old = 2"),
		pkg(t, "needs-old-1-1.i686", "requires old"),
		pkg(t, "rich-1-1.i686", "requires (tools-doc if tools)", "requires (games or not-there)"),
		pkg(t, "rich-with-1-1.i686", "requires (mta with otherbox)"),
		pkg(t, "broken-1-1.i686", "requires nobody-has-this >= 3"),
		pkg(t, "too-new-1-1.i686", "requires libc >= 2.13"),
		pkg(t, "clash-1-1.i686", "requires postbox", "requires otherbox"),
		// What the first of its needs makes wrong is known only when the second is there.
		pkg(t, "wary-1-1.i686", "conflicts (games and games-doc)", "requires games", "requires choice"),
		pkg(t, "choice-a-1-1.noarch", "provides choice", "requires games-doc"), pkg(t, "choice-b-1-1.noarch", "provides choice"),
	}
}

// TestSmall has the same questions for us and for dnf.
func TestSmall(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), comps)
	u := openRepo(t, dir, "i686", "/usr/share/dict/web2", "/usr/share/nothing")
	cases := []struct{ want, set string }{
		{"core", "core libc-2.12-2 shell words"},
		{"@base", "core libc-2.12-2 otherbox shell tools tools-data-1 tools-doc words"},
		{"@base games", "core games games-doc libc-2.12-2 otherbox shell tools tools-data-1 tools-doc words"},
		{"tools postbox", "postbox tools tools-data-1"},
		{"fast", "fast-1-1.i686"},
		{"fast.i386", "fast-1-1.i386"},
		{"libc-2.12-1", "libc-2.12-1"},
		{"needs-old", "needs-old new"},
		{"old", "new"},
		{"rich", "rich games"},
		{"rich tools postbox", "games postbox rich tools tools-data-1 tools-doc"},
		{"rich-with", "core libc-2.12-2 otherbox rich-with shell words"},
		{"/bin/sh", "shell libc-2.12-2"},
		{"/usr/share/words", "words"},
		{"/usr/share/dict/web2 fast", "fast web2"},
		{"wary", "wary games choice-b"},
		{"wary games-doc", ""}, {"/usr/share/nothing", ""},
		{"broken", ""}, {"too-new", ""}, {"clash", ""}, {"postbox otherbox", ""},
	}
	var sets [][]string
	for _, c := range cases {
		sets = append(sets, strings.Fields(c.want))
	}
	answers := byDNF(t, dir, "i686", sets)
	for i, c := range cases {
		var w Want
		for _, word := range sets[i] {
			if group, ok := strings.CutPrefix(word, "@"); ok {
				w.Groups = append(w.Groups, group)
			} else {
				w.Packages = append(w.Packages, word)
			}
		}
		packages, err := u.Resolve(w)
		if c.set == "" {
			if err == nil {
				t.Errorf("%s: resolved to %v", c.want, packages)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.want, err)
			continue
		}
		var ours, theirs []string
		for _, p := range packages {
			ours = append(ours, p.String())
		}
		if err := json.Unmarshal(answers[i], &theirs); err != nil {
			t.Errorf("%s: dnf says %s", c.want, answers[i])
			continue
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		if !slices.Equal(ours, theirs) {
			t.Errorf("%s: %v, dnf says %v", c.want, ours, theirs)
		}
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), comps)
	u := openRepo(t, dir, "i686")
	for _, c := range []struct {
		want Want
		says string
	}{
		{Want{Packages: []string{"broken"}}, "broken-1-1.i686 needs nobody-has-this >= 3, which no repository offers"},
		{Want{Packages: []string{"too-new"}}, "needs libc >= 2.13, which no repository offers (there is libc-2.12-2.i686, libc-2.12-1.i686)"},
		{Want{Packages: []string{"clash"}}, "postbox-1-1.i686 conflicts with otherbox, which otherbox-1-1.i686 is"},
		{Want{Packages: []string{"tool"}}, "no package tool in fixture; did you mean tools?"},
		{Want{Groups: []string{"Bse"}}, "no group Bse in fixture; did you mean"},
		{Want{Groups: []string{"empty"}}, "group empty: no repository has any of its packages"},
		{Want{Packages: []string{"core"}, Exclude: []string{"shel*"}}, "shell-4-1.i686 is excluded by the recipe"},
		{Want{Packages: []string{"wary", "games-doc"}}, "wary-1-1.i686 conflicts with (games and games-doc)"},
		{Want{Packages: []string{"core"}, Exclude: []string{"core"}}, "both wanted and excluded"},
	} {
		if _, err := u.Resolve(c.want); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v\nwant %q", c.want, err, c.says)
		}
	}
}

// TestPacked has metadata and groups compressed in the ways of today; dnf reads the same.
func TestPacked(t *testing.T) {
	want := Want{Groups: []string{"Base"}, Packages: []string{"/usr/share/dict/web2"}}
	for _, ext := range []string{"xz", "zst"} {
		dir := t.TempDir()
		writeRepoPacked(t, dir, small(t), comps, ext, ext)
		packages, err := openRepo(t, dir, "i686", "/usr/share/dict/web2").Resolve(want)
		if err != nil {
			t.Errorf("%s: %v", ext, err)
			continue
		}
		var ours, theirs []string
		for _, p := range packages {
			ours = append(ours, p.String())
		}
		slices.Sort(ours)
		if err := json.Unmarshal(byDNF(t, dir, "i686", [][]string{{"@base", "/usr/share/dict/web2"}})[0], &theirs); err != nil || !slices.Equal(ours, theirs) {
			t.Errorf("%s: %v, dnf says %v, %v", ext, ours, theirs, err)
		}
	}
}

// TestBacktracking needs a choice taken back: the preferred provider cannot stand beside what is wanted.
func TestBacktracking(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, []*Package{
		pkg(t, "app-1-1.i686", "requires service", "requires strict"),
		pkg(t, "aaa-1-1.i686", "provides service", "requires helper"),
		pkg(t, "helper-1-1.i686", "conflicts strict-data"),
		pkg(t, "bbb-1-1.i686", "provides service"),
		pkg(t, "strict-1-1.i686", "requires strict-data"),
		pkg(t, "strict-data-1-1.noarch"),
	}, "")
	packages, err := openRepo(t, dir, "i686").Resolve(Want{Packages: []string{"app"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(packages); got != "[app-1-1.i686 bbb-1-1.i686 strict-1-1.i686 strict-data-1-1.noarch]" {
		t.Error(got)
	}
}

func TestMultilib(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, []*Package{
		pkg(t, "lib-1-1.x86_64", "provides lib.so()(64bit)"), pkg(t, "lib-1-1.i686", "provides lib.so"),
		pkg(t, "app-1-1.x86_64", "requires lib.so()(64bit)"), pkg(t, "plugin-1-1.i686", "requires lib.so"), pkg(t, "any-1-1.x86_64", "requires lib"),
		pkg(t, "arm-1-1.aarch64"),
	}, "")
	u := openRepo(t, dir, "x86_64")
	for want, set := range map[string]string{
		"app":        "[app-1-1.x86_64 lib-1-1.x86_64]",
		"any":        "[any-1-1.x86_64 lib-1-1.x86_64]",
		"app plugin": "[app-1-1.x86_64 lib-1-1.i686 lib-1-1.x86_64 plugin-1-1.i686]",
	} {
		if packages, err := u.Resolve(Want{Packages: strings.Fields(want)}); err != nil || fmt.Sprint(packages) != set {
			t.Errorf("%s: %v, %v", want, packages, err)
		}
	}
	if _, err := u.Resolve(Want{Packages: []string{"arm"}}); err == nil {
		t.Error("a package for another architecture is there")
	}
}

func TestPriorities(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	writeRepo(t, first, []*Package{pkg(t, "a-1-1.noarch"), pkg(t, "secret-1-1.noarch")}, "")
	writeRepo(t, second, []*Package{pkg(t, "a-2-1.noarch"), pkg(t, "b-1-1.noarch")}, "")
	open := func(repos ...Repo) *Universe {
		u, err := Open(t.Context(), Config{Repos: repos, Arch: "i686"}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	u := open(Repo{Name: "site", BaseURL: "file://" + first, Priority: 10, Exclude: []string{"sec*"}}, Repo{Name: "os", BaseURL: "file://" + second})
	packages, err := u.Resolve(Want{Packages: []string{"a", "b"}})
	if err != nil || fmt.Sprint(packages) != "[a-1-1.noarch b-1-1.noarch]" {
		t.Errorf("%v, %v", packages, err)
	}
	if _, err := u.Resolve(Want{Packages: []string{"secret"}}); err == nil {
		t.Error("a package that the repository excludes is there")
	}
	if packages, err = open(Repo{Name: "site", BaseURL: "file://" + first}, Repo{Name: "os", BaseURL: "file://" + second}).Resolve(Want{Packages: []string{"a"}}); err != nil || fmt.Sprint(packages) != "[a-2-1.noarch]" {
		t.Errorf("without priorities: %v, %v", packages, err)
	}
}

// rewrite changes a file of a repository.
func rewrite(t *testing.T, name string, change func(string) string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(change(string(data))), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFaultsOfRepositories(t *testing.T) {
	repomd := func(dir string) string { return filepath.Join(dir, "repodata", "repomd.xml") }
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string, r *Repo)
		says   string
	}{
		{"no repodata", func(t *testing.T, dir string, _ *Repo) { os.RemoveAll(filepath.Join(dir, "repodata")) }, "is that the folder that has repodata in it?"},
		{"a login page", func(t *testing.T, dir string, _ *Repo) {
			rewrite(t, repomd(dir), func(string) string { return "<html>log in</html>" })
		}, "it is no repomd.xml"},
		{"primary changed", func(t *testing.T, dir string, _ *Repo) {
			rewrite(t, filepath.Join(dir, "repodata", "primary.xml.gz"), func(s string) string { return s[:len(s)-1] + "x" })
		}, "SHA-256"},
		{"primary cut", func(t *testing.T, dir string, _ *Repo) {
			rewrite(t, filepath.Join(dir, "repodata", "primary.xml.gz"), func(s string) string { return s[:len(s)/2] })
		}, "primary of fixture"},
		{"location leads out", func(t *testing.T, dir string, _ *Repo) {
			rewrite(t, repomd(dir), func(s string) string { return strings.Replace(s, "repodata/primary", "../../etc/primary", 1) })
		}, "leads out of the repository"},
		{"md5", func(t *testing.T, dir string, _ *Repo) {
			rewrite(t, repomd(dir), func(s string) string { return strings.Replace(s, `type="sha256"`, `type="md5"`, 1) })
		}, `checksums of type "md5" are not accepted`},
		{"sha1", func(t *testing.T, dir string, _ *Repo) { weaken(t, dir) }, "legacy: true"},
		{"not signed", func(t *testing.T, dir string, r *Repo) { r.SignedRepo = true }, "repomd.xml has no signature"},
		{"unknown variable", func(t *testing.T, dir string, r *Repo) { r.BaseURL += "/$foo" }, "variable $foo has no value"},
		{"no releasever", func(t *testing.T, dir string, r *Repo) { r.BaseURL += "/$releasever" }, "give the recipe a releasever:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeRepo(t, dir, small(t), "")
			r := Repo{Name: "fixture", BaseURL: "file://" + dir}
			c.damage(t, dir, &r)
			_, err := Open(t.Context(), Config{Repos: []Repo{r}, Arch: "i686"}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}})
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "fixture") {
				t.Errorf("%v\nwant %q", err, c.says)
			}
		})
	}
}

// TestControlCharacters has packages whose names or versions would be commands to a terminal (U+009B is CSI, ECMA-48 8.3.16): they are not
// installed.
func TestControlCharacters(t *testing.T) {
	for _, what := range []string{"<name>shell", `<arch>i686</arch><version epoch="0" ver="4`} {
		dir := t.TempDir()
		writeRepo(t, dir, small(t), "")
		changePrimary(t, dir, func(s string) string {
			changed := strings.Replace(s, "<name>shell</name>"+`<arch>i686</arch><version epoch="0" ver="4`, strings.Replace("<name>shell</name>"+`<arch>i686</arch><version epoch="0" ver="4`, what, what+"&#x9b;31m", 1), 1)
			if changed == s {
				t.Fatal("nothing changed")
			}
			return changed
		})
		u := openRepo(t, dir, "i686")
		_, err := u.Resolve(Want{Packages: []string{"/bin/sh"}})
		if err == nil || !strings.Contains(err.Error(), "has control characters") {
			t.Errorf("%s: %q", what, err)
		}
		if packages, err := u.Resolve(Want{Packages: []string{"words"}}); err != nil || len(packages) != 1 {
			t.Errorf("%s: %v, %v", what, packages, err)
		}
	}
}

// TestOtherArchitectures says what a repository has instead.
func TestOtherArchitectures(t *testing.T) {
	dir := t.TempDir()
	packages := []*Package{pkg(t, "kernel-1-1.x86_64"), pkg(t, "kernel-1-1.aarch64"), pkg(t, "kernel-1-1.src"), pkg(t, "bash-1-1.x86_64"), pkg(t, "docs-1-1.noarch")}
	const base = `<comps><group><id>base</id><name>Base</name><packagelist><packagereq>bash</packagereq></packagelist></group></comps>`
	writeRepo(t, dir, packages, base)
	u := openRepo(t, dir, "i686")
	for _, c := range []struct {
		want Want
		says string
	}{
		{Want{Packages: []string{"kernel"}}, "no package kernel in fixture for architecture i686: what is there is for aarch64, x86_64"},
		{Want{Packages: []string{"kernle"}}, "no package kernle in fixture for architecture i686: what is there is for aarch64, x86_64"},
		{Want{Groups: []string{"base"}}, "group base: no repository has any of its packages for architecture i686: what is there is for x86_64"},
	} {
		if _, err := u.Resolve(c.want); err == nil || err.Error() != c.says {
			t.Errorf("%+v: %v\nwant %q", c.want, err, c.says)
		}
	}
	writeRepo(t, dir, append(packages, pkg(t, "bash-1-1.i686")), base)
	u = openRepo(t, dir, "i686")
	for want, says := range map[string]string{
		"kernel": "no package kernel in fixture for architecture i686: what is there is for aarch64, x86_64",
		"bsh":    "no package bsh in fixture; did you mean bash?",
	} {
		if _, err := u.Resolve(Want{Packages: []string{want}}); err == nil || err.Error() != says {
			t.Errorf("%s: %v\nwant %q", want, err, says)
		}
	}
}

func FuzzPrimary(f *testing.F) {
	var b bytes.Buffer
	b.WriteString("<metadata>")
	for _, p := range small(f) {
		b.WriteString(packageText(p))
	}
	f.Add(b.Bytes())
	f.Add([]byte(`<metadata><package><name>a</name><arch>noarch</arch><version ver="1"/><format><rpm:requires><rpm:entry name="(a if"/>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		repo := &Repo{Name: "fuzz"}
		packages, err := parsePrimary(whole(data), repo, func(*Package) bool { return true })
		if err != nil {
			return
		}
		u := newUniverse("i686", []*Repo{repo}, packages)
		for _, p := range u.packages {
			if p.broken == nil && localPath(p.Path) != nil && p.Path != "" {
				t.Fatalf("path %q got through", p.Path)
			}
		}
		if len(u.packages) > 0 && len(u.packages) < 50 {
			u.Resolve(Want{Packages: []string{u.packages[0].Name}})
		}
	})
}

func FuzzDocuments(f *testing.F) {
	f.Add([]byte(comps))
	f.Add([]byte(`<repomd><data type="primary"><checksum type="sha256">00</checksum><location href="repodata/x"/></data></repomd>`))
	f.Add([]byte(`<metalink xmlns:mm0="m"><files><file name="repomd.xml"><verification><hash type="sha256">00</hash></verification><mm0:alternates><mm0:alternate><verification><hash type="md5">00</hash></verification></mm0:alternate></mm0:alternates><resources><url>http://x/repodata/repomd.xml</url></resources></file></files></metalink>`))
	f.Add([]byte(`<metalink><files><file name="repomd.xml"><resources><url preference="1">http://x/repodata/repomd.xml</url></resources></file></files></metalink>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if md, err := parseRepomd(data); err == nil {
			for _, file := range md.files {
				if localPath(file.href) != nil {
					t.Fatalf("location %q got through", file.href)
				}
			}
		}
		parseComps(bytes.NewReader(data))
		parseMetalink(data, true)
		parseMirrorlist(data)
		findFiles(whole(data), map[string]bool{"/x": true}, func(string, string) {})
	})
}
