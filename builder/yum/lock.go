package yum

import (
	"context"
	"fmt"
	"log/slog"
	"maps"

	"netroot/builder/fetch"
	"netroot/builder/lock"
)

// Lock pins packages.
func (u *Universe) Lock(packages []*Package) *lock.Lock {
	l := &lock.Lock{Arch: u.arch}
	for _, p := range packages {
		pin := lock.Package{Name: p.Name, Version: p.EVR.String(), Arch: p.Arch, Repo: p.Repo, Path: p.Path, Size: p.Size}
		switch p.sum.kind {
		case "sha1":
			pin.SHA1 = p.sum.hex
		case "sha512":
			pin.SHA512 = p.sum.hex
		default:
			pin.SHA256 = p.sum.hex
		}
		l.Packages = append(l.Packages, pin)
	}
	l.Sort()
	return l
}

// Mirrors are the base URLs of each repository, by its name: the one that answered first.
type Mirrors map[string][]string

// Mirrors says where the universe was read from.
func (u *Universe) Mirrors() Mirrors {
	m := Mirrors{}
	for _, s := range u.sources {
		m[s.repo.Name] = s.bases
	}
	return m
}

// Items says where the packages of a lock are to be fetched: at the known mirrors, which may be nil. Lists of mirrors that are not known
// are fetched, but only those of repositories from which a package is missing in the cache. It reads no metadata: what is not
// there any more is an error of the fetching.
func Items(ctx context.Context, cfg Config, f *fetch.Fetcher, pins *lock.Lock, known Mirrors) ([]fetch.Item, error) {
	repos := map[string]*Repo{}
	for i := range cfg.Repos {
		repos[cfg.Repos[i].Name] = &cfg.Repos[i]
	}
	bases := Mirrors{}
	maps.Copy(bases, known)
	o := &opener{cfg: cfg, fetcher: f, log: slog.New(slog.DiscardHandler)}
	items := make([]fetch.Item, len(pins.Packages))
	for i, p := range pins.Packages {
		repo := repos[p.Repo]
		switch err := localPath(p.Path); {
		case repo == nil:
			return nil, fmt.Errorf("package %s was locked from repository %s, which the recipe does not have", p.Name, p.Repo)
		case err != nil:
			return nil, fmt.Errorf("package %s: %w", p.Name, err)
		case p.Sum() == p.SHA1 && !repo.Legacy:
			return nil, fmt.Errorf("repository %s: %w", p.Repo, weakSum("package "+p.Name+", as it was locked,"))
		}
		if bases[p.Repo] == nil && !f.Cache.Holds(p.Sum(), p.Size) {
			urls, _, err := o.bases(ctx, repo)
			if err != nil {
				return nil, fmt.Errorf("repository %s: %w", p.Repo, err)
			}
			bases[p.Repo] = urls
		}
		if urls := bases[p.Repo]; urls != nil {
			items[i] = itemAt(urls, p.Path)
		}
		items[i].Name, items[i].Size, items[i].Sum = p.Name, p.Size, p.Sum()
	}
	return items, nil
}
