package yum

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/builder/deb"
	"netroot/builder/need"
	"netroot/builder/rpm"
)

// entryText writes one relation as repository metadata has it.
func entryText(r rpm.Relation) string {
	var b bytes.Buffer
	b.WriteString(`<rpm:entry name="`)
	xml.EscapeText(&b, []byte(r.Name))
	b.WriteByte('"')
	if r.Op != 0 {
		flags := map[rpm.Op]string{rpm.Less: "LT", rpm.Less | rpm.Equal: "LE", rpm.Equal: "EQ", rpm.Greater | rpm.Equal: "GE", rpm.Greater: "GT"}[r.Op]
		fmt.Fprintf(&b, ` flags="%s" epoch="%s" ver="%s"`, flags, orZero(r.EVR.Epoch), r.EVR.Version)
		if r.EVR.Release != "" {
			fmt.Fprintf(&b, ` rel="%s"`, r.EVR.Release)
		}
	}
	b.WriteString("/>")
	return b.String()
}

func orZero(s string) string {
	if s == "" {
		return "0"
	}
	return s
}

// packageText writes a package as primary.xml has it.
func packageText(p *Package) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<package type="rpm"><name>%s</name><arch>%s</arch><version epoch="%s" ver="%s" rel="%s"/>`, p.Name, p.Arch, orZero(p.EVR.Epoch), p.EVR.Version, p.EVR.Release)
	sum := sha256.Sum256([]byte(p.String()))
	fmt.Fprintf(&b, `<checksum type="sha256" pkgid="YES">%x</checksum><summary>a &amp; b</summary><description>&lt;name&gt;no&lt;/name&gt;</description><packager/><url/>`, sum)
	fmt.Fprintf(&b, `<time file="1" build="1"/><size package="1000" installed="2000" archive="3000"/><location href="Packages/%s.rpm"/>`, p.String())
	b.WriteString(`<format><rpm:license>x</rpm:license><rpm:group>x</rpm:group><rpm:buildhost>x</rpm:buildhost><rpm:sourcerpm>x.src.rpm</rpm:sourcerpm><rpm:header-range start="1" end="2"/>`)
	list := func(name string, entries []string) {
		if len(entries) > 0 {
			fmt.Fprintf(&b, "<rpm:%s>%s</rpm:%s>", name, strings.Join(entries, ""), name)
		}
	}
	var provides, requires, conflicts, obsoletes []string
	for _, r := range p.provides {
		provides = append(provides, entryText(r))
	}
	for _, c := range p.requires {
		if c.Word != "" {
			c = rpm.Condition{Relation: rpm.Relation{Name: c.String()}}
		}
		requires = append(requires, entryText(c.Relation))
	}
	for _, c := range p.conflicts {
		if c.Word != "" {
			c = rpm.Condition{Relation: rpm.Relation{Name: c.String()}}
		}
		conflicts = append(conflicts, entryText(c.Relation))
	}
	for _, r := range p.obsoletes {
		obsoletes = append(obsoletes, entryText(r))
	}
	list("provides", provides)
	list("requires", requires)
	list("conflicts", conflicts)
	list("obsoletes", obsoletes)
	for _, f := range p.files {
		if inPrimary(f) {
			fmt.Fprintf(&b, "<file>%s</file>", f)
		}
	}
	b.WriteString("</format></package>\n")
	return b.String()
}

// writeRepo writes a repository of packages that exist in its metadata only.
func writeRepo(t testing.TB, dir string, packages []*Package, comps string) {
	t.Helper()
	writeRepoPacked(t, dir, packages, comps, "gz", "")
}

// writeRepoPacked is writeRepo with files compressed to a name that ends in ext; comps, too, by its own one, "" leaves it as it is.
func writeRepoPacked(t testing.TB, dir string, packages []*Package, comps, ext, compsExt string) {
	t.Helper()
	var primary, filelists bytes.Buffer
	fmt.Fprintf(&primary, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"+`<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="%d">`+"\n", len(packages))
	fmt.Fprintf(&filelists, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"+`<filelists xmlns="http://linux.duke.edu/metadata/filelists" packages="%d">`+"\n", len(packages))
	for _, p := range packages {
		primary.WriteString(packageText(p))
		sum := sha256.Sum256([]byte(p.String()))
		fmt.Fprintf(&filelists, `<package pkgid="%x" name="%s" arch="%s"><version epoch="%s" ver="%s" rel="%s"/>`, sum, p.Name, p.Arch, orZero(p.EVR.Epoch), p.EVR.Version, p.EVR.Release)
		for _, f := range p.files {
			fmt.Fprintf(&filelists, "<file>%s</file>", f)
		}
		filelists.WriteString("</package>\n")
	}
	primary.WriteString("</metadata>\n")
	filelists.WriteString("</filelists>\n")
	repodata := filepath.Join(dir, "repodata")
	if err := os.MkdirAll(repodata, 0o755); err != nil {
		t.Fatal(err)
	}
	md := `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision>` + "\n"
	add := func(kind, name string, data []byte) {
		packed := data
		switch ext := filepath.Ext(name); ext {
		case ".gz":
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			z.Write(data)
			z.Close()
			packed = b.Bytes()
		case ".xz", ".zst", ".bz2":
			cmd := exec.Command(need.Tool(t, map[string]string{".xz": "xz", ".zst": "zstd", ".bz2": "bzip2"}[ext]), "-c")
			cmd.Stdin = bytes.NewReader(data)
			var err error
			if packed, err = cmd.Output(); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(repodata, name), packed, 0o644); err != nil {
			t.Fatal(err)
		}
		sum, open := sha256.Sum256(packed), sha256.Sum256(data)
		md += fmt.Sprintf(`<data type="%s"><checksum type="sha256">%x</checksum><open-checksum type="sha256">%x</open-checksum><location href="repodata/%s"/><timestamp>1</timestamp><size>%d</size><open-size>%d</open-size></data>`+"\n",
			kind, sum, open, name, len(packed), len(data))
	}
	add("primary", "primary.xml."+ext, primary.Bytes())
	add("filelists", "filelists.xml."+ext, filelists.Bytes())
	switch {
	case comps != "" && compsExt == "":
		add("group", "comps.xml", []byte(comps))
	case comps != "":
		add("group", "comps.xml."+compsExt, []byte(comps)) // as createrepo_c 1.0 and later call it
	}
	if err := os.WriteFile(filepath.Join(repodata, "repomd.xml"), []byte(md+"</repomd>\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// debianAsRPM reads the host's lists of Debian packages as if they were RPMs: alternatives become boolean dependencies, Breaks
// become conflicts, and a package that provides, conflicts with and replaces another one obsoletes it. It keeps what the
// seeds can reach.
func debianAsRPM(t testing.TB, arch string, seeds []string) []*Package {
	t.Helper()
	need.Tools(t, "apt-get", "apt-cache")
	out, err := exec.Command("apt-cache", "dumpavail").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*Package{}
	providers := map[string][]string{}
	for stanza := range strings.SplitSeq(string(out), "\n\n") {
		f := map[string]string{}
		key := ""
		for line := range strings.Lines(stanza) {
			line = strings.TrimRight(line, "\n")
			if strings.HasPrefix(line, " ") {
				continue
			}
			name, value, ok := strings.Cut(line, ": ")
			if ok {
				key = name
				f[key] = value
			}
		}
		p := fromDebian(f, arch)
		if p == nil {
			continue
		}
		if old := all[p.Name]; old == nil || old.EVR.Compare(p.EVR) < 0 {
			all[p.Name] = p
		}
	}
	if len(all) < 1000 {
		need.Missing(t, "this host's apt knows %d packages only: run apt-get update", len(all))
	}
	for name, p := range all {
		for _, r := range p.provides {
			providers[r.Name] = append(providers[r.Name], name)
		}
	}
	for _, list := range providers {
		slices.Sort(list)
	}
	reach := map[string]bool{}
	todo := slices.Clone(seeds)
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		p := all[name]
		if reach[name] || p == nil {
			continue
		}
		reach[name] = true
		for _, c := range p.requires {
			for _, r := range c.Relations() {
				todo = append(todo, r.Name)
				if list := providers[r.Name]; len(list) < 10 {
					todo = append(todo, list...)
				} else {
					todo = append(todo, list[:10]...)
				}
			}
		}
	}
	var packages []*Package
	for name := range reach {
		packages = append(packages, all[name])
	}
	slices.SortFunc(packages, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	return packages
}

func fromDebian(f map[string]string, arch string) *Package {
	version := func(s string) rpm.EVR {
		v := rpm.ParseEVR(s)
		v.Version = strings.ReplaceAll(v.Version, "-", "_")
		if v.Release == "" {
			v.Release = "0"
		}
		return v
	}
	if f["Package"] == "" || f["Version"] == "" {
		return nil
	}
	p := &Package{Name: f["Package"], Arch: arch, EVR: version(f["Version"])}
	if f["Architecture"] == "all" {
		p.Arch = rpm.NoArch
	}
	relation := func(r deb.Relation) rpm.Relation {
		out := rpm.Relation{Name: r.Name}
		if r.Op != "" {
			out.Op = map[string]rpm.Op{"<<": rpm.Less, "<=": rpm.Less | rpm.Equal, "=": rpm.Equal, ">=": rpm.Greater | rpm.Equal, ">>": rpm.Greater}[r.Op]
			out.EVR = version(r.Version)
		}
		return out
	}
	read := func(field string) []rpm.Condition {
		deps, err := deb.ParseDependencies(f[field], "amd64")
		if err != nil {
			return nil
		}
		var out []rpm.Condition
		for _, d := range deps {
			var c rpm.Condition
			if len(d) == 1 {
				c.Relation = relation(d[0])
			} else {
				c.Word = "or"
				for _, r := range d {
					c.Args = append(c.Args, rpm.Condition{Relation: relation(r)})
				}
			}
			out = append(out, c)
		}
		return out
	}
	p.provides = append(p.provides, rpm.Relation{Name: p.Name, Op: rpm.Equal, EVR: p.EVR})
	for _, c := range read("Provides") {
		p.provides = append(p.provides, c.Relation)
	}
	p.requires = append(read("Pre-Depends"), read("Depends")...)
	p.conflicts = append(read("Conflicts"), read("Breaks")...)
	for _, replaced := range read("Replaces") {
		name := replaced.Relation.Name
		conflicts := slices.ContainsFunc(p.conflicts, func(c rpm.Condition) bool { return c.Relation.Name == name })
		provides := slices.ContainsFunc(p.provides, func(r rpm.Relation) bool { return r.Name == name })
		if conflicts && provides && name != p.Name {
			p.obsoletes = append(p.obsoletes, rpm.Relation{Name: name})
		}
	}
	sum := sha256.Sum256([]byte(p.String()))
	p.sum = digest{"sha256", hex.EncodeToString(sum[:])}
	return p
}
