// Package apt takes packages from Debian archives the way apt does, without apt: it finds the archives in the host's own
// apt sources (or at a mirror that a recipe names), verifies InRelease, fetches the Packages files by the digests that
// InRelease vouches for, and resolves a list of wanted packages into everything that has to be installed, or into a
// sentence that says why it cannot be. Nothing is installed here, and apt need not be on the machine.
//
// The resolver starts from an empty system. It takes what debootstrap calls minbase (everything Essential or of priority
// required, and apt itself; usr-is-merged too where the archive has it, because init-system-helpers would pull in
// usrmerge and perl otherwise), then the wanted packages, and walks depth-first through Pre-Depends and Depends in the
// order in which apt-get does, choosing as apt-get does: what is there already, else the first alternative, of several
// providers the essential one, then the one of the higher priority, then the first by name. Only that last rule differs:
// apt-get takes the one that its cache happened to number last (19 of bookworm's 63,000 packages ask for such a name
// first). Where apt-get gives up, the resolver goes back and tries the next alternative. Only the highest version of a package is a candidate, unless a wanted name pins one: name=version.
//
// Limits: one architecture at a time (and Architecture: all), so name:i386 on amd64 is never satisfied; Recommends are
// ignored; no pinning by /etc/apt/preferences, no passwords from auth.conf; no flat repositories; of the Release file's
// digests only SHA-256 counts.
package apt

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/xi2/xz"
	"golang.org/x/sync/errgroup"

	"netroot/builder/deb"
	"netroot/builder/fetch"
	"netroot/builder/lock"
	"netroot/builder/pgp"
)

// A Universe is every package that the chosen repositories offer.
type Universe struct {
	*Mirrors
	candidates map[string]*Package   // the highest version of each name
	versions   map[string][]*Package // all versions of those names that have more than one
	providers  map[string][]*Package // by the names they provide
}

// Open verifies and reads the repositories of cfg. Lists that were read before are not fetched again.
func Open(ctx context.Context, cfg Config, f *fetch.Fetcher) (*Universe, error) {
	m, err := NewMirrors(cfg)
	if err != nil {
		return nil, err
	}
	log := f.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o := opener{Mirrors: m, fetcher: f, log: log, cache: indexCache{filepath.Join(f.Cache.Dir, "apt")}}
	lists := make([][][]Package, len(m.repos))
	g, ctx := errgroup.WithContext(ctx)
	for i, r := range m.repos {
		g.Go(func() (err error) {
			lists[i], err = o.repo(ctx, r)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return newUniverse(m, slices.Concat(lists...)), nil
}

// opener reads repositories.
type opener struct {
	*Mirrors
	fetcher *fetch.Fetcher
	log     *slog.Logger
	cache   indexCache
}

// repo reads one repository's lists: one per component and architecture.
func (o *opener) repo(ctx context.Context, r repo) ([][]Package, error) {
	for attempt := 1; ; attempt++ {
		rel, err := o.release(ctx, r)
		if err != nil {
			return nil, err
		}
		lists, err := o.lists(ctx, r, rel)
		if !fetch.NotFound(err) && !fetch.Mismatch(err) {
			return lists, err
		}
		if attempt == 2 {
			return nil, fmt.Errorf("%w (the mirror does not hold what its own InRelease says: wait until it is in sync, or name another with mirror:)", err)
		}
		// An archive without by-hash that is updated at this moment: its InRelease and its lists may not match.
		o.log.Warn("package lists of "+r.name+" do not match its InRelease, trying again", "reason", err)
	}
}

const maxRelease = 16 << 20

// release fetches and verifies InRelease, or where there is none Release and Release.gpg.
func (o *opener) release(ctx context.Context, r repo) (*release, error) {
	dir := joinURL(r.base, "dists/"+r.suite) + "/"
	name := "InRelease of " + r.name
	data, err := o.fetcher.Document(ctx, dir+"InRelease", maxRelease)
	var signature []byte
	if fetch.NotFound(err) {
		name = "Release of " + r.name
		inErr := err
		if data, err = o.fetcher.Document(ctx, dir+"Release", maxRelease); fetch.NotFound(err) {
			return nil, fmt.Errorf("suite %s: %w (and no Release file either: is the suite's name right?)", r.suite, inErr)
		}
		if err == nil && !r.source.trusted {
			signature, err = o.fetcher.Document(ctx, dir+"Release.gpg", 1<<20)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("suite %s: %w", r.suite, err)
	}
	text, err := o.verify(r, name, data, signature)
	if err != nil {
		return nil, err
	}
	rel, err := parseRelease(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := rel.checkName(r.suite); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if r.source.noDates || o.hostSays("Acquire::Check-Valid-Until", no) {
		rel.validUntil = time.Time{}
	}
	if !o.hostSays("Acquire::Check-Date", no) {
		if err := rel.checkDates(o.cfg.now()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return rel, nil
}

func (o *opener) hostSays(setting string, what func(string) bool) bool {
	v, ok := hostSetting(o.cfg.hostRoot(), setting)
	return ok && what(v)
}

// verify returns the text that a good signature covers.
func (o *opener) verify(r repo, name string, data, signature []byte) ([]byte, error) {
	inline := len(name) > 2 && name[:2] == "In"
	switch {
	case r.source.untrusted:
		return nil, fmt.Errorf("%s: %s says trusted=no, so nothing may be taken from there", name, r.source.where)
	case r.source.trusted:
		o.log.Warn("signature not checked, because the apt sources say trusted=yes", "file", name, "source", r.source.where)
		if !inline {
			return data, nil
		}
		text, _, err := pgp.SplitInline(name, data)
		return text, err
	}
	keys, err := o.keyring(r)
	if err != nil {
		return nil, err
	}
	if inline {
		return keys.VerifyInline(name, data, o.cfg.now())
	}
	return data, keys.VerifyDetached(name, data, signature, o.cfg.now(), pgp.Modern)
}

// lists reads every Packages file of a repository.
func (o *opener) lists(ctx context.Context, r repo, rel *release) ([][]Package, error) {
	archs := []string{o.cfg.Arch}
	if rel.allSeparate {
		archs = append(archs, "all")
	}
	lists := make([][]Package, len(r.components)*len(archs))
	g, ctx := errgroup.WithContext(ctx)
	for i, component := range r.components {
		for j, arch := range archs {
			choices := rel.packages(component, arch)
			if len(choices) == 0 {
				switch {
				case arch == "all":
				case r.suite != o.cfg.Suite:
					o.log.Warn("repository skipped: it has nothing for this architecture", "repository", r.name, "component", component, "arch", arch)
				default:
					return nil, fmt.Errorf("%s at %s has no packages of component %s for %s (components: %v, architectures: %v)",
						r.name, fetch.Redact(r.base), component, arch, rel.components, rel.archs)
				}
				continue
			}
			g.Go(func() (err error) {
				lists[i*len(archs)+j], err = o.list(ctx, r, rel, choices)
				return err
			})
		}
	}
	return lists, g.Wait()
}

// list reads one Packages file: its compact form when it was read before.
func (o *opener) list(ctx context.Context, r repo, rel *release, choices []indexChoice) ([]Package, error) {
	for _, c := range choices {
		if pkgs, ok := o.cache.load(c.sum, o.cfg.Arch, r.name); ok {
			return pkgs, nil
		}
	}
	var missing error
	for _, c := range choices {
		dir := "dists/" + r.suite + "/"
		urls := []string{joinURL(r.base, dir+c.path)}
		if rel.byHash {
			urls = []string{joinURL(r.base, dir+c.byHashPath()), urls[0]}
		}
		for _, u := range urls {
			item := fetch.Item{Name: c.path + " of " + r.name, URL: u, Size: c.size, Sum: c.sum}
			err := o.fetcher.Get(ctx, []fetch.Item{item}, nil)
			if fetch.NotFound(err) {
				missing = err
				continue
			}
			if err != nil {
				return nil, err
			}
			return o.compacted(r, c)
		}
	}
	return nil, missing
}

// compacted turns a fetched Packages file into its compact form, and drops the file.
func (o *opener) compacted(r repo, c indexChoice) ([]Package, error) {
	path := o.fetcher.Cache.Path(c.sum)
	name := c.path + " of " + r.name
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer file.Close()
	var reader io.Reader = file
	switch filepath.Ext(c.path) {
	case ".xz":
		reader, err = xz.NewReader(file, 0)
	case ".gz":
		reader, err = gzip.NewReader(file)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress %s: %w", name, err)
	}
	data, err := compact(reader, o.cfg.Arch)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	pkgs, err := expand(data, r.name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if err := o.cache.store(c.sum, o.cfg.Arch, data); err != nil {
		return nil, err
	}
	return pkgs, o.fetcher.Cache.Remove(c.sum)
}

// newUniverse puts the lists together.
func newUniverse(m *Mirrors, lists [][]Package) *Universe {
	n := 0
	for _, l := range lists {
		n = max(n, len(l))
	}
	u := &Universe{Mirrors: m, candidates: make(map[string]*Package, n), versions: make(map[string][]*Package), providers: make(map[string][]*Package)}
	for _, l := range lists {
		for i := range l {
			u.add(&l[i])
		}
	}
	for _, l := range lists {
		for i := range l {
			p := &l[i]
			if p.provides == "" {
				continue
			}
			// A field that cannot be read makes the package uninstallable later; here it provides nothing.
			provides, _ := deb.ParseDependencies(p.provides, m.cfg.Arch)
			for _, r := range provides {
				if name := r[0].Name; !slices.Contains(u.providers[name], p) {
					u.providers[name] = append(u.providers[name], p)
				}
			}
		}
	}
	return u
}

func (u *Universe) add(p *Package) {
	old := u.candidates[p.Name]
	if old == nil {
		u.candidates[p.Name] = p
		return
	}
	if u.versions[p.Name] == nil {
		u.versions[p.Name] = []*Package{old}
	}
	u.versions[p.Name] = append(u.versions[p.Name], p)
	if deb.CompareVersions(p.Version, old.Version) > 0 {
		u.candidates[p.Name] = p
	}
}

// Find returns the candidate of a name.
func (u *Universe) Find(name string) (*Package, bool) {
	p, ok := u.candidates[name]
	return p, ok
}

// Len returns the number of names that can be installed.
func (u *Universe) Len() int { return len(u.candidates) }

// Lock pins packages.
func (u *Universe) Lock(pkgs []*Package) *lock.Lock {
	l := &lock.Lock{Arch: u.cfg.Arch, Packages: make([]lock.Package, 0, len(pkgs))}
	for _, p := range pkgs {
		l.Packages = append(l.Packages, lock.Package{Name: p.Name, Version: p.Version, Arch: p.Arch, Repo: p.Repo, Path: p.Path, Size: p.Size, SHA256: p.SHA256})
	}
	l.Sort()
	return l
}

var errTooHard = errors.New("no solution found within the number of steps allowed; pin versions with name=version, or want fewer packages")
