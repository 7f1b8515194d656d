package store

import (
	"cmp"
	"slices"

	"netroot/builder/lock"
)

// A Change is a package that two generations have in different versions, or in different builds of one version.
type Change struct {
	Name, Arch string
	Old, New   string // versions
}

// A PackageDiff says how the packages of two generations differ. Each list is sorted by name, then architecture.
type PackageDiff struct {
	Added, Removed []lock.Package
	Changed        []Change
}

// Empty tells whether both have the same packages.
func (d PackageDiff) Empty() bool {
	return len(d.Added) == 0 && len(d.Removed) == 0 && len(d.Changed) == 0
}

// Diff compares the packages of a with those of b. A package can be there in several versions at once, as kernels are
// in RPM roots: then versions are added and removed, not changed.
func Diff(a, b Generation) PackageDiff {
	var d PackageDiff
	before, after := group(a.Manifest.Lock), group(b.Manifest.Lock)
	keys := make(map[packageKey]bool)
	for k := range before {
		keys[k] = true
	}
	for k := range after {
		keys[k] = true
	}
	for k := range keys {
		gone, come := subtract(before[k], after[k]), subtract(after[k], before[k])
		if len(before[k]) == 1 && len(after[k]) == 1 && len(gone) == 1 {
			d.Changed = append(d.Changed, Change{k.name, k.arch, gone[0].Version, come[0].Version})
			continue
		}
		d.Removed, d.Added = append(d.Removed, gone...), append(d.Added, come...)
	}
	byName := func(x, y lock.Package) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Arch, y.Arch), cmp.Compare(x.Version, y.Version))
	}
	slices.SortFunc(d.Added, byName)
	slices.SortFunc(d.Removed, byName)
	slices.SortFunc(d.Changed, func(x, y Change) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Arch, y.Arch))
	})
	return d
}

type packageKey struct{ name, arch string }

func group(l *lock.Lock) map[packageKey][]lock.Package {
	m := make(map[packageKey][]lock.Package)
	if l == nil {
		return m
	}
	for _, p := range l.Packages {
		k := packageKey{p.Name, p.Arch}
		m[k] = append(m[k], p)
	}
	return m
}

// subtract returns the packages of a whose bytes are not in b.
func subtract(a, b []lock.Package) []lock.Package {
	var out []lock.Package
	for _, p := range a {
		if !slices.ContainsFunc(b, func(q lock.Package) bool { return p.Sum() == q.Sum() && p.Version == q.Version }) {
			out = append(out, p)
		}
	}
	return out
}
