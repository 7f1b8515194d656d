package yum

import (
	"context"
	"fmt"
	"log/slog"

	"netroot/builder/fetch"
	"netroot/builder/lock"
)

// Lock pins packages.
func (u *Universe) Lock(packages []*Package) *lock.Lock {
	l := &lock.Lock{Arch: u.arch}
	for _, p := range packages {
		pin := lock.Package{Name: p.Name, Version: p.EVR.String(), Arch: p.Arch, Repo: p.Repo, Path: p.Path, Size: p.Size}
		if p.sum.kind == "sha1" {
			pin.SHA1 = p.sum.hex
		} else {
			pin.SHA256 = p.sum.hex
		}
		l.Packages = append(l.Packages, pin)
	}
	l.Sort()
	return l
}

// Items says where the packages of a lock are to be fetched. It reads no metadata: what is not there any more is an error
// of the fetching.
func Items(ctx context.Context, cfg Config, f *fetch.Fetcher, pins *lock.Lock) ([]fetch.Item, error) {
	o := &opener{cfg: cfg, fetcher: f, log: slog.New(slog.DiscardHandler)}
	bases := map[string]string{}
	for i := range cfg.Repos {
		list, err := o.bases(ctx, &cfg.Repos[i])
		if err != nil {
			return nil, fmt.Errorf("repository %s: %w", cfg.Repos[i].Name, err)
		}
		bases[cfg.Repos[i].Name] = list[0]
	}
	var items []fetch.Item
	for _, p := range pins.Packages {
		base, ok := bases[p.Repo]
		if !ok {
			return nil, fmt.Errorf("package %s was locked from repository %s, which the recipe does not have", p.Name, p.Repo)
		}
		if err := localPath(p.Path); err != nil {
			return nil, fmt.Errorf("package %s: %w", p.Name, err)
		}
		items = append(items, fetch.Item{Name: p.Name, URL: joinURL(base, p.Path), Size: p.Size, Sum: p.Sum()})
	}
	return items, nil
}
