package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

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

	movable bool        // a mirror can stand in for the recipe's
	mirrors yum.Mirrors // where the packages were found; nil when they come from a lock
}

func (b *Builder) yumSource(r *recipe.Recipe) (*yumSource, error) {
	from := r.From.Yum
	mirror := from.Mirror
	if b.Mirror != "" {
		mirror = b.Mirror
	}
	s := &yumSource{
		config:   yum.Config{Arch: rpmArch[r.Arch], ReleaseVer: from.ReleaseVer, Files: slices.DeleteFunc(slices.Clone(r.Packages), func(p string) bool { return !strings.HasPrefix(p, "/") })},
		want:     yum.Want{Groups: from.Groups, Packages: r.Packages, Exclude: from.Exclude},
		strength: map[string]pgp.Strength{},
		fetcher:  b.fetcher(),
		progress: b.Progress,
		log:      b.log(),
	}
	if err := s.mirrorFits(b.Mirror, from.Repos); err != nil {
		return nil, err
	}
	for _, repo := range from.Repos {
		one := yum.Repo{
			Name: repo.Name, BaseURL: repo.BaseURL, MirrorList: repo.MirrorList, Metalink: repo.Metalink,
			SignedRepo: repo.RepoGPGCheck, Priority: repo.Priority, Exclude: repo.Exclude, Legacy: repo.Legacy,
		}
		if repo.Path != "" {
			one.BaseURL = mirror + "/" + repo.Path
			s.movable = true
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

// mirrorFits tells of repositories that a mirror given on the command line changes nothing for.
func (s *yumSource) mirrorFits(mirror string, repos []recipe.Repo) error {
	var fixed []string
	for _, r := range repos {
		if r.Path == "" {
			fixed = append(fixed, r.Name)
		}
	}
	switch {
	case mirror == "" || len(fixed) == 0:
	case len(fixed) == len(repos):
		return fmt.Errorf("--mirror has no effect: it stands in for the recipe's mirror:, and no repository (%s) has a path: below that; change baseurl:, mirrorlist: or metalink: in the recipe", strings.Join(fixed, ", "))
	default:
		s.log.Warn("--mirror has no effect on repositories that have no path: below the recipe's mirror:", "repositories", strings.Join(fixed, " "))
	}
	return nil
}

func (s *yumSource) resolve(ctx context.Context) (*lock.Lock, error) {
	u, err := yum.Open(ctx, s.config, s.fetcher)
	if err != nil {
		return nil, err
	}
	s.mirrors = u.Mirrors()
	packages, err := u.Resolve(s.want)
	if err != nil {
		return nil, err
	}
	return u.Lock(packages), nil
}

// fetch downloads the packages and checks who signed them.
func (s *yumSource) fetch(ctx context.Context, pins *lock.Lock) error {
	items, err := yum.Items(ctx, s.config, s.fetcher, pins, s.mirrors)
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
		return fmt.Errorf("%w (%s)", err, s.wayOut())
	}
	return err
}

// wayOut says what to do about a package that a repository does not have.
func (s *yumSource) wayOut() string {
	another := "in the recipe"
	if s.movable {
		another = "with --mirror"
	}
	if s.mirrors == nil {
		return "the repository no longer has what was locked: make a new lock with 'netroot lock', or name a mirror that still has it " + another
	}
	return "the repository does not hold what its own metadata says: wait until it is in sync, or name another " + another
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
