package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"

	"netroot/builder/chroot"
	"netroot/builder/fetch"
	"netroot/builder/lock"
	"netroot/builder/pgp"
	"netroot/builder/progress"
	"netroot/builder/recipe"
	"netroot/builder/rpmroot"
	"netroot/builder/yum"
)

// rpmArch is RPM's word for a recipe's architecture.
var rpmArch = map[string]string{"amd64": "x86_64", "i686": "i686", "arm64": "aarch64"}

// A yumSource takes the packages of a root from RPM repositories.
type yumSource struct {
	config   yum.Config
	want     yum.Want
	strength map[string]pgp.Strength // by repository
	fetcher  *fetch.Fetcher
	progress *progress.Reporter
	log      *slog.Logger
}

func (b *Builder) yumSource(r *recipe.Recipe) (*yumSource, error) {
	from := r.From.Yum
	mirror := from.Mirror
	if b.Mirror != "" {
		mirror = b.Mirror
	}
	s := &yumSource{
		config:   yum.Config{Arch: rpmArch[r.Arch], ReleaseVer: from.ReleaseVer},
		want:     yum.Want{Groups: from.Groups, Packages: r.Packages, Exclude: from.Exclude},
		strength: map[string]pgp.Strength{},
		fetcher:  b.fetcher(),
		progress: b.Progress,
		log:      b.log(),
	}
	for _, repo := range from.Repos {
		one := yum.Repo{
			Name: repo.Name, BaseURL: repo.BaseURL, MirrorList: repo.MirrorList, Metalink: repo.Metalink,
			SignedRepo: repo.RepoGPGCheck, Priority: repo.Priority, Exclude: repo.Exclude, WeakSums: repo.Legacy,
		}
		if repo.Path != "" {
			one.BaseURL = mirror + "/" + repo.Path
		}
		if repo.Checked() {
			keys, err := pgp.ReadKeyring(repo.GPGKey...)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("repository %s: %w; put the distribution's public key there, once its fingerprint (gpg --show-keys) is what the distribution says it is", repo.Name, err)
			}
			if err != nil {
				return nil, fmt.Errorf("repository %s: %w", repo.Name, err)
			}
			one.Keys = keys
		} else {
			s.log.Warn("signatures of packages are not checked, because the recipe says gpgcheck: false", "repository", repo.Name)
		}
		if repo.Legacy {
			s.strength[repo.Name] = pgp.Legacy
			s.log.Warn("SHA-1, DSA and short keys are accepted, because the recipe says legacy: true", "repository", repo.Name)
		}
		s.config.Repos = append(s.config.Repos, one)
	}
	return s, nil
}

func (s *yumSource) resolve(ctx context.Context) (*lock.Lock, error) {
	u, err := yum.Open(ctx, s.config, s.fetcher)
	if err != nil {
		return nil, err
	}
	packages, err := u.Resolve(s.want)
	if err != nil {
		return nil, err
	}
	return u.Lock(packages), nil
}

// fetch downloads the packages and checks who signed them.
func (s *yumSource) fetch(ctx context.Context, pins *lock.Lock) error {
	items, err := yum.Items(ctx, s.config, s.fetcher, pins)
	if err != nil {
		return err
	}
	err = s.fetcher.Get(ctx, items, func(i int, path string) error {
		packages, err := rpmroot.Open([]string{path})
		if err != nil {
			return err
		}
		defer rpmroot.Close(packages)
		p, file := pins.Packages[i], packages[0].File
		at := slices.IndexFunc(s.config.Repos, func(r yum.Repo) bool { return r.Name == p.Repo })
		if err := file.Verify(s.config.Repos[at].Keys, s.strength[p.Repo]); err != nil {
			return fmt.Errorf("verify package of repository %s: %w", p.Repo, err)
		}
		if want := p.Name + "-" + p.Version + "." + p.Arch; file.String() != want {
			return fmt.Errorf("package %s of repository %s is, by its own header, %s: the metadata that it was chosen from is wrong", want, p.Repo, file)
		}
		return nil
	})
	if fetch.NotFound(err) || fetch.Mismatch(err) {
		return fmt.Errorf("%w (the repository does not hold what its own metadata says: wait until it is in sync, or name another with --mirror)", err)
	}
	return err
}

// assemble unpacks what the root's own rpm needs, and has that install everything.
func (s *yumSource) assemble(ctx context.Context, name string, pins *lock.Lock, scratch string) (*root, error) {
	var paths []string
	for _, p := range pins.Packages {
		paths = append(paths, s.fetcher.Cache.Path(p.Sum()))
	}
	packages, err := rpmroot.Open(paths)
	if err != nil {
		return nil, err
	}
	defer rpmroot.Close(packages)
	newest, err := rpmroot.Newest(packages)
	if err != nil {
		return nil, err
	}
	s.progress.Step("unpacking what the root's rpm needs")
	cache := rpmroot.Cache{Dir: s.fetcher.Cache.Dir}
	lower, err := cache.Starters(ctx, packages)
	if err != nil {
		return nil, err
	}
	cfg := chroot.Config{Lower: lower, Arch: pins.Arch, Hostname: name, Date: newest, Log: s.log}
	made := &root{newest: newest}
	changes, err := cache.Installed(name, packages)
	if err != nil {
		return nil, err
	}
	if changes == "" {
		work := filepath.Join(scratch, "installing")
		if made.notes, err = s.install(ctx, cfg, work, packages); err != nil {
			return nil, fmt.Errorf("install: %w", err)
		}
		changes = chroot.Changes(work)
		if len(made.notes) == 0 { // what failed may not fail the next time
			if changes, err = cache.Keep(name, packages, changes); err != nil {
				return nil, fmt.Errorf("keep what was installed: %w", err)
			}
		}
	}
	cfg.Layers, cfg.Work = []string{changes}, filepath.Join(scratch, "changes")
	made.session, err = chroot.Open(ctx, cfg)
	return made, err
}

// install has the root's rpm install everything, in a session of its own with this work folder. The notes are of scriptlets that failed.
func (s *yumSource) install(ctx context.Context, cfg chroot.Config, work string, packages []*rpmroot.Package) (notes []string, err error) {
	cfg.Work = work
	cfg.Fill = func(changes string) error { return rpmroot.Provide(packages, changes) }
	session, err := chroot.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	installing := s.progress.Start("installing", int64(len(packages)), progress.Items)
	failures, err := rpmroot.Install(ctx, session, packages, rpmroot.Options{Log: s.log, Progress: func(string) { installing.Add(1) }})
	if err != nil {
		installing.Abort()
		return nil, err
	}
	installing.Done()
	for _, f := range failures {
		notes = append(notes, f.String())
	}
	return notes, nil
}
