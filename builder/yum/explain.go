package yum

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"netroot/builder/rpm"
	"netroot/builder/strictyaml"
)

// wants finds what the words of a recipe mean.
func (u *Universe) wants(w Want) ([]*want, error) {
	var wants []*want
	add := func(word string, list []*Package) {
		wants = append(wants, &want{word: word, list: list})
	}
	for _, name := range w.Groups {
		g, ok := u.Group(name)
		if !ok {
			var have []string
			for _, g := range u.groups {
				have = append(have, g.ID, g.Name)
			}
			if len(have) == 0 {
				return nil, fmt.Errorf("no group %s: no repository has groups", name)
			}
			if near := strictyaml.Nearest(name, have); near != "" {
				return nil, fmt.Errorf("no group %s in %s; did you mean %s?", name, u.repoNames(), near)
			}
			return nil, fmt.Errorf("no group %s in %s", name, u.repoNames())
		}
		found := false
		for _, m := range g.Members {
			list := slices.DeleteFunc(slices.Clone(u.byName[m.Name]), func(p *Package) bool { return u.excluded(p, w.Exclude) })
			if len(list) == 0 {
				continue // dnf passes over members that no repository has; so do the lists of every real distribution
			}
			found = true
			switch word := m.Name + " of group " + g.ID; m.Kind {
			case "mandatory", "default":
				add(word, list)
			case "conditional":
				here, there := rpm.Condition{Relation: rpm.Relation{Name: m.Name}}, rpm.Condition{Relation: rpm.Relation{Name: m.If}}
				wants = append(wants, &want{word: word, cond: rpm.Condition{Word: "if", Args: []rpm.Condition{here, there}}})
			}
		}
		if !found {
			var members []string
			for _, m := range g.Members {
				members = append(members, m.Name)
			}
			return nil, fmt.Errorf("group %s: no repository has any of its packages%s", name, u.elsewhere(members...))
		}
	}
	for _, word := range w.Packages {
		list := u.named(word)
		if len(list) == 0 {
			where := u.repoNames()
			if there := u.elsewhere(word); there != "" {
				return nil, fmt.Errorf("no package %s in %s%s", word, where, there)
			}
			if near := strictyaml.Nearest(word, slices.Collect(maps.Keys(u.byName))); near != "" {
				return nil, fmt.Errorf("no package %s in %s; did you mean %s?", word, where, near)
			}
			return nil, fmt.Errorf("no package %s in %s", word, where)
		}
		left := slices.DeleteFunc(slices.Clone(list), func(p *Package) bool { return u.excluded(p, w.Exclude) })
		if len(left) == 0 {
			return nil, fmt.Errorf("package %s is both wanted and excluded", word)
		}
		// What another package takes the place of can still be asked for by its old name.
		for _, p := range slices.Clone(left) {
			for _, q := range u.obsoleters(p) {
				if !slices.Contains(left, q) && !u.excluded(q, w.Exclude) {
					left = append(left, q)
				}
			}
		}
		add(word, left)
	}
	return wants, nil
}

// named lists the packages that a word means: by name, else by name and architecture or version (hawkey's nevra forms), else
// by what they provide.
func (u *Universe) named(word string) []*Package {
	if list := u.byName[word]; list != nil {
		return list
	}
	forms := func(p *Package) []string {
		nv := p.Name + "-" + p.EVR.Version
		nvr := nv + "-" + p.EVR.Release
		return []string{p.Name + "." + p.Arch, nv, nvr, nvr + "." + p.Arch, p.Name + "-" + p.EVR.String(), p.String()}
	}
	for i := range forms(&Package{}) {
		var list []*Package
		for _, p := range u.packages {
			if strings.HasPrefix(word, p.Name) && forms(p)[i] == word {
				list = append(list, p)
			}
		}
		if list != nil {
			slices.SortStableFunc(list, u.better)
			return list
		}
	}
	c, err := rpm.ParseCondition(word)
	if err != nil || c.Word != "" {
		return nil
	}
	return u.providers(c.Relation)
}

// excluded says whether the recipe, or the repository's own exclude, leaves p out.
func (u *Universe) excluded(p *Package, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, p.Name)
		return err == nil && ok
	})
}

func (u *Universe) repoNames() string {
	names := make([]string, len(u.repos))
	for i, r := range u.repos {
		names[i] = r.Name
	}
	return strings.Join(names, ", ")
}

// missing says what there is instead of something that no package offers.
func (u *Universe) missing(r rpm.Relation) string {
	var have []string
	for _, p := range u.byName[r.Name] {
		have = append(have, p.String())
	}
	if len(have) == 0 {
		for _, p := range u.provides[r.Name] {
			have = append(have, p.String())
		}
	}
	if len(have) == 0 {
		return "no repository offers"
	}
	return "no repository offers (there is " + strings.Join(have, ", ") + ")"
}

// reason tells why a chosen package is there.
func (n *node) reason() string {
	if n.parent == nil {
		return "wanted"
	}
	return "needed by " + n.parent.pkg.String()
}

// explain says in a sentence that a goal cannot be reached.
func (s *search) explain(g goal) string {
	subject := ""
	if g.by != nil {
		subject = fmt.Sprintf("%s needs %s", g.by.pkg, g.cond)
	} else {
		subject = g.want.word + " is wanted"
	}
	list := s.u.candidates(g.cond, s.has)
	if g.want != nil && g.want.list != nil {
		list = g.want.list
	}
	for _, p := range list {
		if why := s.forbidden(p); why != "" {
			return subject + ", but " + why
		}
	}
	return subject + ", which " + s.u.missing(g.cond.Relation)
}

// unsatisfiable makes one error of sentences that contradict each other.
func unsatisfiable(says []string) error {
	const most = 12
	more := ""
	if len(says) > most {
		more = fmt.Sprintf("\n  (and %d more)", len(says)-most)
		says = says[:most]
	}
	return errors.New("the packages cannot be installed together; these cannot all hold:\n  " + strings.Join(says, "\n  ") + more)
}
