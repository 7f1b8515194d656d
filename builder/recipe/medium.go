package recipe

import (
	"path/filepath"
	"strings"

	"netroot/builder/strictyaml"
)

// An ISO is a live or installation medium. It is one file, and what it says of the file is in the same mapping.
type ISO struct {
	URL       string `yaml:"url" jsonschema_description:"Where the ISO is downloaded from (http or https)."`
	Path      string `yaml:"path" jsonschema_description:"An ISO on this host, relative to this file."`
	SHA256    string `yaml:"sha256,literal" jsonschema_description:"What the ISO must hash to."`
	Sums      string `yaml:"sums" jsonschema_description:"URL or file of the list that says what it must hash to (SHA256SUMS)."`
	Signature string `yaml:"signature" jsonschema_description:"URL or file of the list's OpenPGP signature (SHA256SUMS.gpg); left out, the list itself is clearsigned."`
	Keyring   string `yaml:"keyring" jsonschema_description:"File of OpenPGP keys that may sign the list, relative to this file."`
	Kernel    string `yaml:"kernel" jsonschema_description:"Path of the kernel in the ISO; left out, it is looked for where live systems and installers have it."`
	Initrd    string `yaml:"initrd" jsonschema_description:"Path of the initrd in the ISO; left out, the one that belongs to the kernel."`
}

// Blob is the file that the ISO is.
func (i *ISO) Blob() Blob { return Blob{i.URL, i.Path, i.SHA256, i.Sums, i.Signature, i.Keyring} }

// Netboot is a kernel and an initrd that get everything else themselves, as network installers do.
type Netboot struct {
	Kernel *Blob `yaml:"kernel" jsonschema:"required" jsonschema_description:"The kernel."`
	Initrd *Blob `yaml:"initrd" jsonschema_description:"The initrd; a memory test has none."`
}

// A Blob is one file from elsewhere and how it is known to be the right one. Exactly one of URL and Path says where it is; a URL has SHA256 or
// Sums.
type Blob struct {
	URL       string `yaml:"url" jsonschema_description:"Where the file is downloaded from (http or https)."`
	Path      string `yaml:"path" jsonschema_description:"A file on this host, relative to this one."`
	SHA256    string `yaml:"sha256,literal" jsonschema_description:"What it must hash to."`
	Sums      string `yaml:"sums" jsonschema_description:"URL or file of the list that says what it must hash to (SHA256SUMS)."`
	Signature string `yaml:"signature" jsonschema_description:"URL or file of the list's OpenPGP signature (SHA256SUMS.gpg); left out, the list itself is clearsigned."`
	Keyring   string `yaml:"keyring" jsonschema_description:"File of OpenPGP keys that may sign the list, relative to this one."`
}

// Name is the file's own name.
func (b *Blob) Name() string {
	if b.Path != "" {
		return filepath.Base(b.Path)
	}
	name, _, _ := strings.Cut(b.URL, "?")
	return name[strings.LastIndexByte(name, '/')+1:]
}

// Medium tells whether the recipe takes what it boots as it is, instead of making a root.
func (r *Recipe) Medium() bool { return r.From.medium() }

func (f *From) medium() bool { return f.ISO != nil || f.Netboot != nil }

func (c *checker) iso(i *ISO) {
	const at = "$.from.iso"
	b := i.Blob()
	c.blob(at, &b)
	i.Path, i.Sums, i.Signature, i.Keyring = b.Path, b.Sums, b.Signature, b.Keyring
	c.word(at+".kernel", i.Kernel, isoPathRE, "the path of a file in the ISO")
	c.word(at+".initrd", i.Initrd, isoPathRE, "the path of a file in the ISO")
	if c.doc.Has(at+".initrd") && !c.doc.Has(at+".kernel") {
		c.at(at+".initrd", "an initrd without its kernel").WithHint("add kernel:, with the path of the kernel in the ISO")
	}
}

func (c *checker) netboot(n *Netboot) {
	for key, b := range map[string]*Blob{"kernel": n.Kernel, "initrd": n.Initrd} {
		if b != nil {
			c.blob("$.from.netboot."+key, b)
		}
	}
}

// blob checks where a file is and how it is checked, and makes its paths absolute.
func (c *checker) blob(at string, b *Blob) {
	url, path := c.doc.Has(at+".url"), c.doc.Has(at+".path")
	switch {
	case url && path:
		c.at(at+".path", "both url and path: a file is at one of them")
	case !url && !path:
		c.at(at, "the file is nowhere").WithHint("it needs a url: or a path:")
	}
	c.word(at+".url", b.URL, blobURLRE, "the http: or https: URL of a file")
	c.word(at+".sha256", b.SHA256, sha256RE, "a SHA-256: 64 digits from 0 to f, in lower case")
	if c.given(at+".path", b.Path) && c.noDots(at+".path", b.Path) {
		b.Path = c.hostFile(b.Path)
	}
	for key, s := range map[string]*string{"sums": &b.Sums, "signature": &b.Signature} {
		if c.given(at+"."+key, *s) && !blobURLRE.MatchString(*s) && c.noDots(at+"."+key, *s) {
			*s = c.hostFile(*s)
		}
	}
	if c.given(at+".keyring", b.Keyring) {
		b.Keyring = c.keyring(at+".keyring", b.Keyring)
	}
	sums := c.doc.Has(at + ".sums")
	switch {
	case sums && c.doc.Has(at+".sha256"):
		c.at(at+".sums", "both sha256 and sums: one of them says what the file must be")
	case url && !sums && !c.doc.Has(at+".sha256"):
		c.at(at+".url", "nothing says what this file must be").WithHint("add sha256: with its checksum, or sums: with the URL of the list that it is in")
	case c.doc.Has(at+".keyring") && !sums:
		c.at(at+".keyring", "there is no list that could be signed").WithHint("add sums: with the URL of the list")
	case c.doc.Has(at+".signature") && !c.doc.Has(at+".keyring"):
		c.at(at+".signature", "a signature, and nothing to check it with").WithHint("add keyring: with the file of the keys that may sign")
	}
}

// hostFile is the path of a file that is looked at when the image is built.
func (c *checker) hostFile(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	path := c.origin.beside(c.doc.File, name)
	if abs, err := filepath.Abs(path); err == nil && c.origin.fsys == nil {
		return abs
	}
	return path
}

// rootKeys are what changes a root, which a medium does not have.
var rootKeys = []string{"packages", "root", "hostname", "users", "files", "services", "hooks"}

// checkMedium finds what cannot be meant of a recipe that takes a medium as it is, and what only of such one.
func checkMedium(parts []part, r *Recipe) []*strictyaml.Error {
	var errs []*strictyaml.Error
	for _, p := range parts {
		for _, key := range rootKeys {
			if r.Medium() && p.doc.Has("$."+key) {
				errs = append(errs, p.doc.AtKey("$."+key, "%s: changes a root, and what comes from an ISO or by netboot: is taken as it is", key))
			}
		}
		if p.doc.Has("$.deliver") && r.From.ISO == nil {
			errs = append(errs, p.doc.AtKey("$.deliver", "deliver: says how the files of an ISO reach the machine, and this recipe has none"))
		}
	}
	return errs
}

func mergeMedium(base, from *From) {
	switch {
	case from.ISO != nil:
		*base = From{ISO: from.ISO}
	case from.Netboot != nil:
		*base = From{Netboot: from.Netboot}
	}
}
