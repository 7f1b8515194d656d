// Package yum takes packages from RPM repositories the way dnf does, without dnf: it verifies repomd.xml, fetches the metadata by the
// digests that it vouches for, and resolves wanted groups and packages into everything that has to be installed, or into
// sentences that say why it cannot be. Nothing is installed here.
//
// Limits: sqlite metadata and delta packages are not read; modules (modularity) are not known, so all their packages
// count; weak dependencies (Recommends) pull nothing in. Packages that a repository says are for another
// architecture are not seen at all.
package yum

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"netroot/builder/compress"
	"netroot/builder/fetch"
	"netroot/builder/pgp"
	"netroot/builder/rpm"
)

// A Repo is one repository of a recipe. Exactly one of BaseURL, MirrorList and Metalink says where it is; $releasever and
// $basearch in it are filled in.
type Repo struct {
	Name       string
	BaseURL    string
	MirrorList string
	Metalink   string
	Keys       *pgp.Keyring // nil: nothing is checked
	SignedRepo bool         // repomd.xml must have a good signature too (repo_gpgcheck)
	Priority   int          // lower is better; 0 is 99, as dnf has it
	Exclude    []string     // patterns of names that are not taken from here
	Legacy     bool         // SHA-1 may vouch for files, and repomd.xml be signed as in those days: repositories of EL6 have nothing better
}

// Config says which repositories to use.
type Config struct {
	Repos      []Repo
	Arch       string   // RPM's word: i686, x86_64, aarch64
	ReleaseVer string   // for $releasever
	Files      []string // paths that will be wanted, to be looked up besides those that packages require
	Now        func() time.Time
}

// baseArch is what $basearch stands for.
var baseArch = map[string]string{"i686": "i386", "x86_64": "x86_64", "aarch64": "aarch64"}

var variable = regexp.MustCompile(`\$(\w+|\{\w+\})`)

// expand fills variables in; one that is not known is an error, since no server has a folder called "$foo".
func (c Config) expand(s string) (string, error) {
	var unknown string
	out := variable.ReplaceAllStringFunc(s, func(v string) string {
		switch name := strings.Trim(v[1:], "{}"); name {
		case "releasever":
			if c.ReleaseVer != "" {
				return c.ReleaseVer
			}
			unknown = v + " (give the recipe a releasever:)"
		case "basearch":
			return baseArch[c.Arch]
		case "arch":
			return c.Arch
		default:
			unknown = v
		}
		return ""
	})
	if unknown != "" {
		return "", fmt.Errorf("%s: variable %s has no value", fetch.Redact(s), unknown)
	}
	return out, nil
}

// limits of what is read into memory, far above what is found in the field
const (
	maxRepomd     = 4 << 20
	maxUnmeasured = 256 << 20 // compressed
)

// opener reads repositories.
type opener struct {
	cfg     Config
	fetcher *fetch.Fetcher
	log     *slog.Logger
}

// A source is one repository that was found and verified.
type source struct {
	repo     *Repo
	bases    []string // the one that answered, then the others
	md       *repomd
	packages []*Package
	groups   []Group
	foreign  map[string][]string // by name, the architectures of packages that do not run here
}

// Open verifies and reads the repositories of cfg.
func Open(ctx context.Context, cfg Config, f *fetch.Fetcher) (*Universe, error) {
	o := &opener{cfg: cfg, fetcher: f, log: f.Log}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if baseArch[cfg.Arch] == "" {
		return nil, fmt.Errorf("architecture %q is none that RPM repositories are read for", cfg.Arch)
	}
	repos := make([]*Repo, len(cfg.Repos))
	sources := make([]*source, len(cfg.Repos))
	g, gctx := errgroup.WithContext(ctx)
	for i := range cfg.Repos {
		repo := cfg.Repos[i]
		if repo.Priority == 0 {
			repo.Priority = 99
		}
		repos[i] = &repo
		g.Go(func() (err error) {
			if sources[i], err = o.find(gctx, &repo); err != nil {
				return fmt.Errorf("repository %s: %w", repo.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var packages []*Package
	for _, s := range sources {
		packages = append(packages, s.packages...)
	}
	u := newUniverse(cfg.Arch, repos, packages)
	u.sources = sources
	for _, s := range sources {
		u.addGroups(s.groups)
		s.packages, s.groups = nil, nil
	}
	return u, o.files(ctx, u)
}

func (o *opener) repomd(ctx context.Context, repo *Repo, base string, accept []digest, document documenter) (*repomd, error) {
	address := base + "/repodata/repomd.xml"
	data, err := document(ctx, address, maxRepomd)
	if err != nil {
		if fetch.NotFound(err) {
			err = fmt.Errorf("%w (is that the folder that has repodata in it?)", err)
		}
		return nil, err
	}
	if accept != nil && !slices.ContainsFunc(accept, func(d digest) bool { return d.vouches(data) }) {
		return nil, fmt.Errorf("%s is none that the metalink vouches for: the mirror is out of date, or lies", fetch.Redact(address))
	}
	if repo.SignedRepo {
		signature, err := document(ctx, address+".asc", maxRepomd)
		if fetch.NotFound(err) {
			return nil, fmt.Errorf("repomd.xml has no signature, and the recipe asks for one (repo_gpgcheck): %w", err)
		}
		if err != nil {
			return nil, err
		}
		if repo.Keys == nil {
			return nil, errors.New("repo_gpgcheck without a gpgkey to check with")
		}
		if err := o.verify(repo, data, signature); err != nil {
			return nil, fmt.Errorf("at %s: %w", fetch.Redact(base), err)
		}
	}
	md, err := parseRepomd(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fetch.Redact(address), err)
	}
	return md, nil
}

// verify checks the signature of repomd.xml.
func (o *opener) verify(repo *Repo, data, signature []byte) error {
	const name = "repomd.xml"
	if repo.Legacy {
		return repo.Keys.VerifyDetached(name, data, signature, o.now(), pgp.Legacy)
	}
	err := repo.Keys.VerifyDetached(name, data, signature, o.now(), pgp.Modern)
	if err != nil && repo.Keys.VerifyDetached(name, data, signature, o.now(), pgp.Legacy) == nil {
		return fmt.Errorf("%w (its signature can be forged: if the distribution is as old as that, write legacy: true beside the repository in the recipe)", err)
	}
	return err
}

func (o *opener) now() time.Time {
	if o.cfg.Now != nil {
		return o.cfg.Now()
	}
	return time.Now()
}

// open fetches one metadata file and opens what it holds.
func (o *opener) open(ctx context.Context, s *source, f dataFile) (*metadata, error) {
	if f.sum.kind == "sha1" && !s.repo.Legacy {
		return nil, weakSum(f.href)
	}
	if err := f.moderate(); err != nil {
		return nil, err
	}
	item := itemAt(s.bases, f.href)
	item.Name, item.Size, item.Sum = f.kind+" of "+s.repo.Name, f.size, f.sum.hex
	if f.size == 0 {
		return o.unmeasured(ctx, item, f)
	}
	var at string
	if err := o.fetcher.Get(ctx, []fetch.Item{item}, func(_ int, path string) error { at = path; return nil }); err != nil {
		return nil, err
	}
	file, err := os.Open(at)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	var z io.ReadCloser
	if err == nil {
		z, err = compress.Open(ctx, file, info.Size(), f.ext())
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open %s: %w", f.href, err)
	}
	return &metadata{f.bound(z), z, file}, nil
}

// unmeasured fetches a file whose length repomd.xml does not tell, which it need not do.
func (o *opener) unmeasured(ctx context.Context, item fetch.Item, f dataFile) (*metadata, error) {
	var failed []error
	for _, at := range append([]string{item.URL}, item.Also...) {
		data, err := o.fetcher.Document(ctx, at, maxUnmeasured)
		if err == nil && !f.sum.vouches(data) {
			err = fmt.Errorf("fetch %s from %s: it is not what repomd.xml vouches for with %s", item.Name, fetch.Redact(at), f.sum)
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		z, err := compress.Open(ctx, bytes.NewReader(data), int64(len(data)), f.ext())
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", f.href, err)
		}
		return &metadata{f.bound(z), z, io.NopCloser(nil)}, nil
	}
	return nil, errors.Join(failed...)
}

func weakSum(what string) error {
	return fmt.Errorf("%s is vouched for by SHA-1 only, which can be forged: if the repository is as old as that, write legacy: true beside it in the recipe", what)
}

type metadata struct {
	*bounded
	z, file io.Closer
}

func (m *metadata) Close() error { return errors.Join(m.z.Close(), m.file.Close()) }

// itemAt is a file below any of several base URLs.
func itemAt(bases []string, href string) fetch.Item {
	it := fetch.Item{URL: joinURL(bases[0], href)}
	for _, base := range bases[1:] {
		it.Also = append(it.Also, joinURL(base, href))
	}
	return it
}

// joinURL puts a path below a base URL; what is special in URLs may be in names of packages (a plus).
func joinURL(base, href string) string {
	parts := strings.Split(href, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return base + "/" + strings.Join(parts, "/")
}

func (o *opener) primary(ctx context.Context, s *source) error {
	f := s.md.files["primary"]
	r, err := o.open(ctx, s, f)
	if err != nil {
		return err
	}
	defer r.Close()
	s.foreign = map[string][]string{}
	s.packages, err = parsePrimary(r.bounded, s.repo, func(p *Package) bool {
		if !rpm.Runs(p.Arch, o.cfg.Arch) {
			if list := s.foreign[p.Name]; p.Arch != "src" && p.Arch != "nosrc" && !slices.Contains(list, p.Arch) {
				s.foreign[p.Name] = append(list, p.Arch)
			}
			return false
		}
		return !slices.ContainsFunc(s.repo.Exclude, func(pattern string) bool {
			ok, err := path.Match(pattern, p.Name)
			return err == nil && ok
		})
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", f.href, err)
	}
	if i := slices.IndexFunc(s.packages, func(p *Package) bool { return p.sum.kind == "sha1" }); i >= 0 && !s.repo.Legacy {
		return weakSum("package " + s.packages[i].String())
	}
	if len(s.packages) == 0 {
		o.log.Warn("repository has no package for this architecture", "repository", s.repo.Name, "arch", o.cfg.Arch, "has", strings.Join(archesOf(s.foreign), " "))
	}
	return nil
}

// archesOf lists all architectures of packages by name.
func archesOf(byName map[string][]string) []string {
	var arches []string
	for _, list := range byName {
		for _, a := range list {
			if !slices.Contains(arches, a) {
				arches = append(arches, a)
			}
		}
	}
	slices.Sort(arches)
	return arches
}

// groups reads the comps file, if there is one; it may come plain, as "group", or compressed.
func (o *opener) groups(ctx context.Context, s *source) ([]Group, error) {
	for _, kind := range []string{"group_gz", "group_xz", "group_zst", "group"} {
		f, ok := s.md.files[kind]
		if !ok {
			continue
		}
		r, err := o.open(ctx, s, f)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		groups, err := parseComps(r)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f.href, err)
		}
		return groups, nil
	}
	return nil, nil
}

// files looks up the required and wanted paths that primary metadata does not tell.
func (o *opener) files(ctx context.Context, u *Universe) error {
	missing := u.unknownFiles(o.cfg.Files)
	if len(missing) == 0 {
		return nil
	}
	byID := map[string][]*Package{}
	for _, p := range u.packages {
		byID[p.sum.hex] = append(byID[p.sum.hex], p)
	}
	for _, s := range u.sources {
		f, ok := s.md.files["filelists"]
		if !ok {
			continue
		}
		r, err := o.open(ctx, s, f)
		if err == nil {
			err = findFiles(r.bounded, missing, func(id, name string) {
				for _, p := range byID[id] {
					u.addFile(p, name)
				}
			})
			err = errors.Join(err, r.Close())
		}
		if err != nil {
			return fmt.Errorf("repository %s: read %s: %w", s.repo.Name, f.href, err)
		}
	}
	return nil
}
