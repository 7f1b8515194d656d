package yum

import (
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"unicode"

	"netroot/builder/rpm"
)

// A digest is what metadata says of the bytes of a file. On EL6 it is a SHA-1 that metadata calls "sha".
type digest struct {
	kind string // sha1, sha256, sha512
	hex  string
}

func (d digest) String() string { return d.kind + ":" + d.hex }

func newDigest(kind, sum string) (digest, error) {
	kind, sum = strings.ToLower(strings.TrimSpace(kind)), strings.ToLower(strings.TrimSpace(sum))
	if kind == "sha" {
		kind = "sha1"
	}
	size := map[string]int{"sha1": 20, "sha256": 32, "sha512": 64}[kind]
	if size == 0 {
		return digest{}, fmt.Errorf("checksums of type %q are not accepted", kind)
	}
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != size {
		return digest{}, fmt.Errorf("%q is not a %s checksum", sum, kind)
	}
	return digest{kind, sum}, nil
}

// A dataFile is one file that repomd.xml vouches for.
type dataFile struct {
	kind     string // primary, filelists, group, group_gz, …
	href     string // below the repository
	sum      digest // of the file as it is served
	size     int64  // 0 when not told
	openSize int64
}

// ext says how the file is compressed, in compress's words.
func (f dataFile) ext() string {
	if ext := path.Ext(f.href); ext != ".xml" {
		return ext
	}
	return ""
}

// repomd is what repomd.xml says.
type repomd struct {
	revision string
	files    map[string]dataFile
}

// xmlRepomd is the file as it is written.
type xmlRepomd struct {
	XMLName  xml.Name `xml:"repomd"`
	Revision string   `xml:"revision"`
	Data     []struct {
		Type     string `xml:"type,attr"`
		Checksum struct {
			Type string `xml:"type,attr"`
			Sum  string `xml:",chardata"`
		} `xml:"checksum"`
		Location struct {
			Href string `xml:"href,attr"`
			Base string `xml:"base,attr"`
		} `xml:"location"`
		Size     int64 `xml:"size"`
		OpenSize int64 `xml:"open-size"`
	} `xml:"data"`
}

func parseRepomd(data []byte) (*repomd, error) {
	var x xmlRepomd
	if err := xml.Unmarshal(data, &x); err != nil {
		return nil, fmt.Errorf("it is no repomd.xml: %w", err)
	}
	r := &repomd{revision: x.Revision, files: map[string]dataFile{}}
	for _, d := range x.Data {
		sum, err := newDigest(d.Checksum.Type, d.Checksum.Sum)
		if err != nil {
			if strings.HasSuffix(d.Type, "_db") {
				continue // never read
			}
			return nil, fmt.Errorf("%s: %w", d.Type, err)
		}
		if err := localPath(d.Location.Href); err != nil {
			return nil, fmt.Errorf("%s: %w", d.Type, err)
		}
		r.files[d.Type] = dataFile{kind: d.Type, href: d.Location.Href, sum: sum, size: d.Size, openSize: d.OpenSize}
	}
	if _, ok := r.files["primary"]; !ok {
		return nil, errors.New("it names no primary metadata")
	}
	return r, nil
}

// localPath refuses what would lead out of the repository.
func localPath(href string) error {
	if href == "" || strings.HasPrefix(href, "/") || strings.ContainsAny(href, "\\\x00?#") || strings.Contains(href, "://") {
		return fmt.Errorf("location %q is not a path below the repository", href)
	}
	for part := range strings.SplitSeq(href, "/") {
		if part == ".." {
			return fmt.Errorf("location %q leads out of the repository", href)
		}
	}
	return nil
}

// A Package is one package that a repository offers: what is needed to choose, fetch and verify it.
type Package struct {
	Name string
	Arch string
	EVR  rpm.EVR
	Repo string // the recipe's name of the repository
	Path string // below the repository
	Size int64  // bytes of the file

	sum                 digest
	priority            int
	provides, obsoletes []rpm.Relation
	requires, conflicts []rpm.Condition
	files               []string // the few that primary metadata has
	broken              error    // a field of it cannot be read: it must not be installed
}

// String is the package as rpm and dnf write it.
func (p *Package) String() string { return p.Name + "-" + p.EVR.String() + "." + p.Arch }

// primaryReader reads primary.xml as a stream: it has tens of megabytes, most of it texts that nobody needs here.
type primaryReader struct {
	dec  *xml.Decoder
	text *bounded
	repo *Repo
	keep func(*Package) bool
	out  []*Package
	same map[string]string // one copy of every text
	read int               // elements within packages
}

// parsePrimary reads the packages that keep wants.
func parsePrimary(r *bounded, repo *Repo, keep func(*Package) bool) ([]*Package, error) {
	p := &primaryReader{dec: xml.NewDecoder(r), text: r, repo: repo, keep: keep, same: map[string]string{}}
	for {
		t, err := p.text.token(p.dec)
		if err == io.EOF {
			return p.out, nil
		}
		if err != nil {
			return nil, err
		}
		if el, ok := t.(xml.StartElement); ok && el.Name.Local == "package" {
			if err := p.pkg(); err != nil {
				return nil, err
			}
		}
	}
}

func (p *primaryReader) intern(s string) string {
	if t, ok := p.same[s]; ok {
		return t
	}
	s = strings.Clone(s)
	p.same[s] = s
	return s
}

func attr(el xml.StartElement, name string) string {
	for _, a := range el.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// pkg reads to the end of one <package>.
func (p *primaryReader) pkg() error {
	pkg := &Package{Repo: p.repo.Name, priority: p.repo.Priority}
	most := p.read + maxOfPackage
	var sumKind, list string
	var text strings.Builder
	for {
		t, err := p.text.token(p.dec)
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		switch el := t.(type) {
		case xml.CharData:
			text.Write(el)
		case xml.StartElement:
			text.Reset()
			if p.read++; p.read > p.text.elements {
				return fmt.Errorf("it has more than %d elements: so large is no repository, and a hostile one might be", p.text.elements)
			}
			if p.read > most {
				return fmt.Errorf("a package has more than %d elements, near byte %d: none needs as many", maxOfPackage, p.dec.InputOffset())
			}
			switch name := el.Name.Local; name {
			case "version":
				pkg.EVR = rpm.EVR{Epoch: p.intern(attr(el, "epoch")), Version: p.intern(attr(el, "ver")), Release: p.intern(attr(el, "rel"))}
			case "checksum":
				sumKind = attr(el, "type")
			case "size":
				if pkg.Size, err = strconv.ParseInt(attr(el, "package"), 10, 64); err != nil || pkg.Size <= 0 {
					pkg.broken = fmt.Errorf("its size %q is no size", attr(el, "package"))
				}
			case "location":
				pkg.Path = strings.Clone(attr(el, "href"))
				if err := localPath(pkg.Path); err != nil {
					pkg.broken = err
				}
			case "provides", "requires", "conflicts", "obsoletes":
				list = name
			case "entry":
				if err := p.entry(pkg, list, el); err != nil && pkg.broken == nil {
					pkg.broken = err
				}
			}
		case xml.EndElement:
			switch el.Name.Local {
			case "name":
				pkg.Name = p.intern(text.String())
			case "arch":
				pkg.Arch = p.intern(text.String())
			case "checksum":
				if pkg.sum, err = newDigest(sumKind, text.String()); err != nil {
					pkg.broken = err
				}
			case "file":
				pkg.files = append(pkg.files, p.intern(text.String()))
			case "provides", "requires", "conflicts", "obsoletes":
				list = ""
			case "package":
				if pkg.Name == "" || pkg.Arch == "" || pkg.EVR.Version == "" {
					return fmt.Errorf("a package without a name, version or architecture, near byte %d", p.dec.InputOffset())
				}
				if strings.ContainsFunc(pkg.String(), unicode.IsControl) {
					pkg.broken = fmt.Errorf("%q has control characters", pkg)
				}
				if p.keep(pkg) {
					p.out = append(p.out, pkg)
				}
				return nil
			}
			text.Reset()
		}
	}
}

// entry reads one relation.
func (p *primaryReader) entry(pkg *Package, list string, el xml.StartElement) error {
	name := attr(el, "name")
	if strings.HasPrefix(name, "(") {
		c, err := rpm.ParseCondition(name)
		if err != nil {
			return err
		}
		switch list {
		case "requires":
			pkg.requires = append(pkg.requires, c)
		case "conflicts":
			pkg.conflicts = append(pkg.conflicts, c)
		}
		return nil
	}
	op, err := rpm.FlagOp(attr(el, "flags"))
	if err != nil {
		return err
	}
	r := rpm.Relation{Name: p.intern(name), Op: op}
	if op != 0 {
		r.EVR = rpm.EVR{Epoch: p.intern(attr(el, "epoch")), Version: p.intern(attr(el, "ver")), Release: p.intern(attr(el, "rel"))}
	}
	switch list {
	case "provides":
		pkg.provides = append(pkg.provides, r)
	case "requires":
		// What rpm itself has to know, not the system: "rpmlib(PayloadIsXz)".
		if !strings.HasPrefix(name, "rpmlib(") {
			pkg.requires = append(pkg.requires, rpm.Condition{Relation: r})
		}
	case "conflicts":
		pkg.conflicts = append(pkg.conflicts, rpm.Condition{Relation: r})
	case "obsoletes":
		pkg.obsoletes = append(pkg.obsoletes, r)
	}
	return nil
}

// findFiles reads filelists.xml and calls found for every package, named by its checksum, that has one of the wanted paths.
func findFiles(r *bounded, want map[string]bool, found func(pkgid, path string)) error {
	dec := xml.NewDecoder(r)
	var id string
	var text strings.Builder
	for {
		t, err := r.token(dec)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch el := t.(type) {
		case xml.CharData:
			text.Write(el)
		case xml.StartElement:
			text.Reset()
			if el.Name.Local == "package" {
				id = strings.ToLower(attr(el, "pkgid"))
			}
		case xml.EndElement:
			if el.Name.Local == "file" && want[text.String()] {
				found(id, text.String())
			}
			text.Reset()
		}
	}
}

// A Group is one group of a comps file.
type Group struct {
	ID, Name string
	Members  []Member
}

// A Member is a package of a group.
type Member struct {
	Name string
	Kind string // mandatory, default, optional, conditional
	If   string // conditional: the package that it comes along with
}

// parseComps reads the groups of a comps file.
func parseComps(r io.Reader) ([]Group, error) {
	var x struct {
		XMLName xml.Name `xml:"comps"`
		Groups  []struct {
			ID    string `xml:"id"`
			Names []struct {
				Lang string `xml:"lang,attr"`
				Text string `xml:",chardata"`
			} `xml:"name"`
			Packages []struct {
				Type     string `xml:"type,attr"`
				Requires string `xml:"requires,attr"`
				Name     string `xml:",chardata"`
			} `xml:"packagelist>packagereq"`
		} `xml:"group"`
	}
	if err := xml.NewDecoder(r).Decode(&x); err != nil {
		return nil, err
	}
	var groups []Group
	for _, g := range x.Groups {
		group := Group{ID: strings.TrimSpace(g.ID)}
		for _, n := range g.Names {
			if n.Lang == "" {
				group.Name = strings.TrimSpace(n.Text)
			}
		}
		for _, p := range g.Packages {
			m := Member{Name: strings.TrimSpace(p.Name), Kind: p.Type, If: p.Requires}
			if m.Kind == "" {
				m.Kind = "mandatory" // as libcomps reads it
			}
			group.Members = append(group.Members, m)
		}
		groups = append(groups, group)
	}
	return groups, nil
}
