package recipe

import (
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"netroot/builder/strictyaml"
)

// Patterns that the JSON Schema repeats; written so that RE2 and ECMA-262 read them alike.
const (
	suitePattern     = `^[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*$`
	componentPattern = `^[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*$`
	packagePattern   = `^[a-z0-9][a-z0-9+.-]+$` // Debian policy 5.6.1
	mirrorPattern    = `^(https?://[^/?#]+|file:(//)?/)[^?#]*$`
	noDotsPattern    = `^/*(([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+|\.)(/+|$))*$` // no component is ".."
	pathPattern      = `^(/([^/.\x00-\x1f][^/\x00-\x1f]*|\.[^/.\x00-\x1f][^/\x00-\x1f]*|\.\.[^/\x00-\x1f]+))+$`
	modePattern      = `^(0o)?[0-7]{3,5}$`
	ownerPattern     = `^([a-z_][a-z0-9_-]*|[0-9]+):([a-z_][a-z0-9_-]*|[0-9]+)$`
	userPattern      = `^[a-z_][a-z0-9_-]{0,31}$`
	servicePattern   = `^[A-Za-z0-9][A-Za-z0-9@._:\\-]*$`
	hookPattern      = `^[A-Za-z0-9][A-Za-z0-9 ._-]*$`
	rpmPattern       = `^[A-Za-z0-9_/][A-Za-z0-9+._/():~^-]*$` // a name, NAME.ARCH, NAME-VERSION, something provided, or a path
	releasePattern   = `^[A-Za-z0-9][A-Za-z0-9._-]*$`
	groupPattern     = `^[A-Za-z0-9][^\x00-\x1f]*$`
	excludePattern   = `^[A-Za-z0-9_*?][A-Za-z0-9+._*?-]*$`
	repoPattern      = `^[A-Za-z0-9][A-Za-z0-9._-]*$`
	repoPathPattern  = `^([A-Za-z0-9$_{}+~-][A-Za-z0-9$_{}+.~-]*)(/[A-Za-z0-9$_{}+~-][A-Za-z0-9$_{}+.~-]*)*/?$`
	repoURLPattern   = `^(https?://[^/?#]+|file:(//)?/)[^#]*$`
	blobURLPattern   = `^https?://[^/?#]+/([^?#]*/)?[^/?#]+(\?[^#]*)?$`
	sha256Pattern    = `^[0-9a-f]{64}$`
	isoPathPattern   = `^/?([^/.\x00-\x1f][^/\x00-\x1f]*|\.[^/.\x00-\x1f][^/\x00-\x1f]*)(/([^/.\x00-\x1f][^/\x00-\x1f]*|\.[^/.\x00-\x1f][^/\x00-\x1f]*))*$`
	sizePattern      = `^([1-9][0-9]?%|100%|[1-9][0-9]*[kmgKMG]?)$`
)

var (
	suiteRE     = regexp.MustCompile(suitePattern)
	componentRE = regexp.MustCompile(componentPattern)
	packageRE   = regexp.MustCompile(packagePattern)
	modeRE      = regexp.MustCompile(modePattern)
	ownerRE     = regexp.MustCompile(ownerPattern)
	userRE      = regexp.MustCompile(userPattern)
	serviceRE   = regexp.MustCompile(servicePattern)
	hookRE      = regexp.MustCompile(hookPattern)
	sizeRE      = regexp.MustCompile(sizePattern)
	foldersRE   = regexp.MustCompile(foldersPattern)
	rpmRE       = regexp.MustCompile(rpmPattern)
	releaseRE   = regexp.MustCompile(releasePattern)
	groupRE     = regexp.MustCompile(groupPattern)
	excludeRE   = regexp.MustCompile(excludePattern)
	repoRE      = regexp.MustCompile(repoPattern)
	repoPathRE  = regexp.MustCompile(repoPathPattern)
	repoURLRE   = regexp.MustCompile(repoURLPattern)
	blobURLRE   = regexp.MustCompile(blobURLPattern)
	sha256RE    = regexp.MustCompile(sha256Pattern)
	isoPathRE   = regexp.MustCompile(isoPathPattern)
)

// arches are the words for a processor, and the words that others use for them.
var (
	arches    = []string{"amd64", "i686", "arm64"}
	otherArch = map[string]string{
		"x86_64": "amd64", "x86-64": "amd64", "x64": "amd64", "em64t": "amd64",
		"i386": "i686", "i486": "i686", "i586": "i686", "x86": "i686", "ia32": "i686", "x86_32": "i686",
		"aarch64": "arm64", "armv8": "arm64",
	}
)

// notKept are folders whose contents are not part of an image: they are other file systems while a root is configured,
// and again when it runs.
var notKept = []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/var/run"}

// A checker gathers the faults of one recipe file.
type checker struct {
	part
	origin origin
	errs   []*strictyaml.Error
}

func (c *checker) at(path, format string, args ...any) *strictyaml.Error {
	e := c.doc.At(path, format, args...)
	c.errs = append(c.errs, e)
	return e
}

// checkPart checks what can be said of one file alone.
func checkPart(p part, o origin) error {
	c := &checker{part: p, origin: o}
	c.scalars()
	c.from()
	c.lists()
	c.fileList()
	c.users()
	c.services()
	c.hooks()
	c.seeds()
	return strictyaml.Join(c.errs...)
}

// given tells that the file has the key, and reports it when it is there and empty.
func (c *checker) given(path, value string) bool {
	if value == "" && c.doc.Has(path) {
		c.at(path, "an empty text").WithHint("give it a value, or take the key away")
	}
	return value != ""
}

// word checks a text against a pattern.
func (c *checker) word(path, value string, re *regexp.Regexp, what string) {
	if c.given(path, value) && !re.MatchString(value) {
		c.at(path, "%q is not %s", value, what)
	}
}

func (c *checker) scalars() {
	if c.given("$.include", c.Include) {
		c.noDots("$.include", c.Include)
	}
	if c.given("$.name", c.Name) {
		if err := strictyaml.ImageName(c.Name); err != nil {
			c.at("$.name", "%v", err)
		}
	}
	if c.given("$.arch", c.Arch) && !slices.Contains(arches, c.Arch) {
		e := c.at("$.arch", "unknown arch %q", c.Arch)
		if word := otherArch[strings.ToLower(c.Arch)]; word != "" {
			e.WithHint("netroot calls it %q", word)
		} else {
			e.WithHint("one of %s", strings.Join(arches, ", "))
		}
	}
	if c.given("$.hostname", c.Hostname) {
		if err := strictyaml.HostName(c.Hostname); err != nil {
			c.at("$.hostname", "%v", err)
		}
	}
	c.root()
}

func (c *checker) from() {
	if !c.doc.Has("$.from") {
		return
	}
	var sources []string
	for _, s := range []string{"apt", "yum", "iso", "netboot", "copy"} {
		if c.doc.Has("$.from." + s) {
			sources = append(sources, s)
		}
	}
	slices.SortFunc(sources, func(a, b string) int { return c.doc.Line("$.from."+a) - c.doc.Line("$.from."+b) })
	switch {
	case len(sources) == 0:
		c.at("$.from", "names no source").WithHint("one of apt, yum, iso, netboot, copy")
		return
	case len(sources) > 1:
		e := c.doc.AtKey("$.from."+sources[1], "two sources, %s and %s: a recipe has exactly one", sources[0], sources[1])
		c.errs = append(c.errs, e)
		return
	case sources[0] == "apt":
		c.apt(c.From.Apt)
	case sources[0] == "yum":
		c.yum(c.From.Yum)
	case sources[0] == "iso":
		c.iso(c.From.ISO)
	case sources[0] == "netboot":
		c.netboot(c.From.Netboot)
	default:
		c.copy(c.From.Copy)
	}
}

func (c *checker) apt(a *Apt) {
	c.word("$.from.apt.suite", a.Suite, suiteRE, `the name of a release, as in "bookworm"`)
	c.each("$.from.apt.components", a.Components, func(s string) error {
		return match(s, componentRE, `a component of an archive, as in "main"`)
	})
	c.mirror("$.from.apt.mirror", a.Mirror)
	if c.given("$.from.apt.keyring", a.Keyring) {
		a.Keyring = c.keyring("$.from.apt.keyring", a.Keyring)
	}
}

// mirror checks the base of other URLs.
func (c *checker) mirror(at, mirror string) {
	if !c.given(at, mirror) {
		return
	}
	switch u, err := url.Parse(mirror); {
	case err != nil || !slices.Contains([]string{"http", "https", "file"}, u.Scheme):
		c.at(at, "is not an http:, https: or file: URL")
	case u.Scheme != "file" && u.Host == "", u.Scheme == "file" && !strings.HasPrefix(u.Path, "/"):
		c.at(at, "is a URL without a host or an absolute path")
	case u.RawQuery != "" || u.Fragment != "":
		c.at(at, "is a URL with a query or a fragment, and is to be the base of other URLs")
	}
}

// keyring checks that a file of keys is there, and returns its path for whoever reads it later.
func (c *checker) keyring(at, name string) string {
	if !c.noDots(at, name) {
		return name
	}
	// A shipped recipe names files of keys that only who builds it can put there. The build says so.
	if c.origin.shipped() && filepath.IsAbs(name) {
		return name
	}
	path := c.origin.beside(c.doc.File, name)
	if _, err := sourceSum(c.origin, path); err != nil {
		c.at(at, "%s %s", path, strictyaml.FileError(path, err).Msg).Err = err
	}
	if abs, err := filepath.Abs(path); err == nil && c.origin.fsys == nil {
		return abs
	}
	return path
}

func match(s string, re *regexp.Regexp, what string) error {
	if !re.MatchString(s) {
		return fmt.Errorf("%q is not %s", s, what)
	}
	return nil
}

// each checks the items of a list, and that none comes twice.
func (c *checker) each(path string, list []string, check func(string) error) {
	first := map[string]int{}
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if j, twice := first[s]; twice {
			c.at(at, "%q is listed twice, first on line %d", s, c.doc.Line(fmt.Sprintf("%s[%d]", path, j)))
			continue
		}
		first[s] = i
		if err := check(s); err != nil {
			c.at(at, "%v", err)
		}
	}
}

func (c *checker) lists() {
	name := rpmRE // until it is known what it is the name of
	if c.From.Apt != nil {
		name = packageRE
	}
	c.each("$.packages", c.Packages, func(s string) error { return match(s, name, "the name of a package") })
	c.word("$.kernel.version", c.Kernel.Version, versionRE, "the release of a kernel, as uname -r says it")
	c.each("$.kernel.cmdline", c.Kernel.Cmdline, strictyaml.KernelParameter)
	if err := strictyaml.KernelParameters(c.Kernel.Cmdline); err != nil {
		c.at("$.kernel.cmdline", "%v", err)
	}
}

// noDots reports a path that climbs.
func (c *checker) noDots(at, path string) bool {
	if !slices.Contains(strings.Split(path, "/"), "..") {
		return true
	}
	c.at(at, "%q has a \"..\" in it", path).WithHint("name a file beside or below the recipe, or give the absolute path")
	return false
}

func (c *checker) fileList() {
	first := map[string]string{}
	for i := range c.Files {
		f, at := &c.Files[i], fmt.Sprintf("$.files[%d]", i)
		c.rootPath(at+".path", f.Path)
		if j, twice := first[f.Path]; twice {
			c.at(at+".path", "%s is listed twice, first on line %d", f.Path, c.doc.Line(j))
		}
		first[f.Path] = at + ".path"

		content, source := c.doc.Has(at+".content"), c.doc.Has(at+".source")
		switch {
		case content && source:
			e := c.doc.AtKey(at+".source", "both content and source: a file comes from one of them")
			c.errs = append(c.errs, e)
		case !content && !source:
			c.at(at, "%s has neither content nor source", f.Path).WithHint(`content: "" makes an empty file`)
		case source && c.given(at+".source", f.Source) && c.noDots(at+".source", f.Source):
			c.source(at+".source", f)
		}
		if c.given(at+".mode", f.Mode) && !modeRE.MatchString(f.Mode) {
			c.at(at+".mode", "mode %q is not octal", f.Mode).WithHint(`three or four digits from 0 to 7: "0644", "4755"`)
		} else if n, err := strconv.ParseUint(strings.TrimPrefix(f.Mode, "0o"), 8, 32); err == nil {
			if f.Mode = fmt.Sprintf("%04o", n); n > 0o7777 {
				c.at(at+".mode", "mode %s is more than 7777", f.Mode)
			}
		}
		if c.given(at+".owner", f.Owner) && !ownerRE.MatchString(f.Owner) {
			e := c.at(at+".owner", "owner %q is not user:group", f.Owner)
			if userRE.MatchString(f.Owner) {
				e.WithHint("write %s:%s", f.Owner, f.Owner)
			}
		}
	}
}

func (c *checker) source(at string, f *File) {
	path := c.origin.beside(c.doc.File, f.Source)
	sum, err := sourceSum(c.origin, path)
	if err != nil {
		c.at(at, "%s %s", path, strictyaml.FileError(path, err).Msg).Err = err
		return
	}
	if abs, err := filepath.Abs(path); err == nil && c.origin.fsys == nil {
		path = abs
	}
	o := c.origin
	f.Source, f.sum, f.open = path, sum, func() (fs.File, error) { return o.open(path) }
}

// rootPath checks a path in the root.
func (c *checker) rootPath(at, path string) bool {
	switch {
	case !c.given(at, path):
	case !strings.HasPrefix(path, "/"):
		c.at(at, "%q is not absolute", path).WithHint("begin it with /: it is a path in the root")
	case !c.noDots(at, path):
	case strings.ContainsFunc(path, func(r rune) bool { return r < 0x20 }):
		c.at(at, "%q has a control character in it", path)
	case path == "/" || filepath.Clean(path) != path:
		c.at(at, "%q is not the plain path of a file", path).WithHint("without //, /./ and a / at the end")
	default:
		for _, dir := range notKept {
			if path == dir || strings.HasPrefix(path, dir+"/") {
				c.at(at, "%s is in %s, which is not part of an image", path, dir).WithHint("make it at boot, for example with a file in /usr/lib/tmpfiles.d")
				return false
			}
		}
		return true
	}
	return false
}

func (c *checker) services() {
	service := func(s string) error { return match(s, serviceRE, "the name of a service") }
	c.each("$.services.enable", c.Services.Enable, service)
	c.each("$.services.disable", c.Services.Disable, service)
	for i, s := range c.Services.Disable {
		if j := slices.Index(c.Services.Enable, s); j >= 0 {
			c.at(fmt.Sprintf("$.services.disable[%d]", i), "%s is enabled on line %d", s, c.doc.Line(fmt.Sprintf("$.services.enable[%d]", j)))
		}
	}
}

func (c *checker) hooks() {
	first := map[string]string{}
	for i, h := range c.Hooks {
		at := fmt.Sprintf("$.hooks[%d]", i)
		c.word(at+".name", h.Name, hookRE, "a name for a hook: letters, digits, dots, hyphens and spaces")
		if j, twice := first[h.Name]; twice {
			c.at(at+".name", "two hooks are called %q, the first on line %d", h.Name, c.doc.Line(j))
		}
		first[h.Name] = at + ".name"
		if strings.TrimSpace(h.Script) == "" {
			c.at(at+".script", "the script is empty")
		}
	}
}

// checkMerged checks what only the whole can tell: that nothing is missing. Faults are shown in the file the user named.
func checkMerged(parts []part, r *Recipe) error {
	top := parts[0].doc
	var errs []*strictyaml.Error
	missing := func(path, key, hint string) {
		errs = append(errs, top.At(path, "no %q, which a recipe must have", key).WithHint("%s", hint))
	}
	// The name is not inherited: a build of this file would replace the image of the one it includes.
	if parts[0].Name == "" {
		missing("$", "name", "name: is what the image is called, as in: name: "+suggestName(top.File))
	}
	if r.Arch == "" {
		missing("$", "arch", "arch: is one of "+strings.Join(arches, ", "))
	}
	switch from := r.From; {
	case from.medium(), from.Copy != nil:
	case from.Apt == nil && from.Yum == nil:
		missing("$", "from", "as in: from: {apt: {suite: bookworm}}")
	case from.Yum != nil:
		if len(from.Yum.Repos) == 0 {
			missing("$.from.yum", "repos", "as in: repos: [{name: os, baseurl: https://mirror.example/el9/os/, gpgkey: el9.asc}]")
		}
	case from.Apt.Suite == "":
		missing("$.from.apt", "suite", "as in: from: {apt: {suite: bookworm}}")
	}
	errs = append(errs, checkNames(parts, r)...)
	errs = append(errs, checkMedium(parts, r)...)
	errs = append(errs, checkFolders(parts, r)...)
	errs = append(errs, checkCopy(parts, r)...)
	switch yum := r.From.Yum; {
	case len(r.Packages) > 0 || r.Medium() || r.From.Copy != nil:
	case yum != nil && len(yum.Groups) == 0:
		missing("$", "packages", "a machine needs at least a kernel and an init, as in: packages: [kernel, systemd, rpm, iproute, dhcp-client]; groups: in from.yum brings many at once")
	case yum == nil:
		missing("$", "packages", "a machine needs at least a kernel and an init, as in: packages: [linux-image-amd64, systemd-sysv, iproute2, isc-dhcp-client]")
	}
	return strictyaml.Join(errs...)
}

func suggestName(file string) string {
	name := strings.ToLower(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)))
	if strictyaml.ImageName(name) != nil {
		return "lab"
	}
	return name
}
