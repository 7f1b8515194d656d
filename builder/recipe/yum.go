package recipe

import (
	"fmt"
	"slices"

	"netroot/builder/strictyaml"
)

// repoPlaces are the keys that say where a repository is.
var repoPlaces = []string{"path", "baseurl", "mirrorlist", "metalink"}

func (c *checker) yum(y *Yum) {
	const at = "$.from.yum"
	c.mirror(at+".mirror", y.Mirror)
	c.word(at+".releasever", y.ReleaseVer, releaseRE, `a release, as in "6.8"`)
	c.each(at+".groups", y.Groups, func(s string) error { return match(s, groupRE, "the name of a group") })
	c.each(at+".exclude", y.Exclude, func(s string) error {
		return match(s, excludeRE, "the name of a package, with * and ? for any letters")
	})
	first := map[string]string{}
	for i := range y.Repos {
		r, at := &y.Repos[i], fmt.Sprintf("%s.repos[%d]", at, i)
		c.word(at+".name", r.Name, repoRE, "a name for a repository: letters, digits, dots and hyphens")
		if j, twice := first[r.Name]; twice {
			c.at(at+".name", "two repositories are called %s, the first on line %d", r.Name, c.doc.Line(j))
		}
		first[r.Name] = at + ".name"
		c.repo(at, r)
	}
}

func (c *checker) repo(at string, r *Repo) {
	var places []string
	for _, key := range repoPlaces {
		if c.doc.Has(at + "." + key) {
			places = append(places, key)
		}
	}
	switch len(places) {
	case 0:
		c.at(at, "repository %s is nowhere", r.Name).WithHint("it needs a baseurl:, a path: below the mirror, a mirrorlist: or a metalink:")
	case 1:
	default:
		e := c.doc.AtKey(at+"."+places[1], "both %s and %s: a repository is at one of them", places[0], places[1])
		c.errs = append(c.errs, e)
	}
	c.word(at+".path", r.Path, repoPathRE, "a path below a mirror, without .. and leading slash")
	for key, address := range map[string]string{"baseurl": r.BaseURL, "mirrorlist": r.MirrorList, "metalink": r.Metalink} {
		c.word(at+"."+key, address, repoURLRE, "an http:, https: or file: URL")
	}
	c.each(at+".exclude", r.Exclude, func(s string) error {
		return match(s, excludeRE, "the name of a package, with * and ? for any letters")
	})
	for i, name := range r.GPGKey {
		if at := fmt.Sprintf("%s.gpgkey[%d]", at, i); c.given(at, name) {
			r.GPGKey[i] = c.keyring(at, name)
		}
	}
	if c.doc.Has(at+".priority") && (r.Priority < 1 || r.Priority > 99) {
		c.at(at+".priority", "%d is not from 1 to 99", r.Priority).WithHint("1 comes before all others; left out, it is 99")
	}
	check := r.GPGCheck == nil || *r.GPGCheck
	switch {
	case check && len(r.GPGKey) == 0:
		c.at(at, "repository %s has no gpgkey to check its packages with", r.Name).WithHint("name the file of its keys, or write gpgcheck: false to take packages from anybody")
	case r.RepoGPGCheck && len(r.GPGKey) == 0:
		c.at(at+".repo_gpgcheck", "there is no gpgkey to check with")
	}
}

// Checked says whether packages of the repository must be signed.
func (r *Repo) Checked() bool { return r.GPGCheck == nil || *r.GPGCheck }

// checkNames checks names of packages by the rules of the source that they come from, which only the whole tells.
func checkNames(parts []part, r *Recipe) []*strictyaml.Error {
	var errs []*strictyaml.Error
	if r.From.Apt != nil {
		for _, p := range parts {
			if p.From.Apt != nil {
				continue // checked
			}
			for i, name := range p.Packages {
				if rpmRE.MatchString(name) && !packageRE.MatchString(name) {
					errs = append(errs, p.doc.At(fmt.Sprintf("$.packages[%d]", i), "%q is not the name of a package", name))
				}
			}
		}
	}
	if y := r.From.Yum; y != nil && y.Mirror == "" {
		if i := slices.IndexFunc(y.Repos, func(r Repo) bool { return r.Path != "" }); i >= 0 {
			errs = append(errs, parts[0].doc.At("$.from.yum", "repository %s has a path, and there is no mirror that it is below", y.Repos[i].Name).WithHint("add mirror: with the URL that the path is below"))
		}
	}
	return errs
}

func mergeYum(base *From, y *Yum) {
	if base.Yum == nil {
		*base = From{Yum: &Yum{}}
	}
	if y.Mirror != "" {
		base.Yum.Mirror = y.Mirror
	}
	if y.ReleaseVer != "" {
		base.Yum.ReleaseVer = y.ReleaseVer
	}
	base.Yum.Repos = named(base.Yum.Repos, y.Repos, func(r Repo) string { return r.Name })
	base.Yum.Groups = union(base.Yum.Groups, y.Groups)
	base.Yum.Exclude = union(base.Yum.Exclude, y.Exclude)
}
