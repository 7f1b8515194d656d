package builder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/semaphore"

	"netroot/builder/apt"
	"netroot/builder/chroot"
	"netroot/builder/dpkg"
	"netroot/builder/fetch"
	"netroot/builder/layers"
	"netroot/builder/lock"
	"netroot/builder/progress"
	"netroot/builder/recipe"
)

// debianArch is Debian's word for a recipe's architecture.
var debianArch = map[string]string{"amd64": "amd64", "i686": "i386", "arm64": "arm64"}

// An aptSource takes the packages of a root from a Debian archive.
type aptSource struct {
	config   apt.Config
	want     []string
	fetcher  *fetch.Fetcher
	cache    dpkg.Cache
	jobs     int
	progress *progress.Reporter
	log      *slog.Logger

	universe *apt.Universe // nil until it is asked for
}

func (b *Builder) aptSource(r *recipe.Recipe) *aptSource {
	from := r.From.Apt
	mirror := from.Mirror
	if b.Mirror != "" {
		mirror = b.Mirror
	}
	return &aptSource{
		config: apt.Config{
			Suite: from.Suite, Components: from.Components, Mirror: mirror, Keyring: from.Keyring, Arch: debianArch[r.Arch],
			// The initramfs is written by this program, so what would make one in the root is not wanted there.
			Provided: []string{dpkg.StandInProvides},
		},
		want:     r.Packages,
		fetcher:  b.fetcher(),
		cache:    b.unpacked(),
		jobs:     b.Jobs,
		progress: b.Progress,
		log:      b.log(),
	}
}

func (b *Builder) fetcher() *fetch.Fetcher {
	return &fetch.Fetcher{Cache: fetch.Cache{Dir: b.Store.CacheDir()}, Proxy: apt.HostProxy("/"), Jobs: b.Jobs, Progress: b.Progress, Log: b.Log}
}

func (b *Builder) unpacked() dpkg.Cache { return dpkg.Cache{Dir: b.Store.CacheDir()} }

// open reads the archive's verified lists, once.
func (s *aptSource) open(ctx context.Context) (*apt.Universe, error) {
	if s.universe == nil {
		u, err := apt.Open(ctx, s.config, s.fetcher)
		if err != nil {
			return nil, err
		}
		s.universe = u
	}
	return s.universe, nil
}

// resolve pins the newest packages that satisfy the recipe.
func (s *aptSource) resolve(ctx context.Context) (*lock.Lock, error) {
	u, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	packages, err := u.Resolve(s.want)
	if err != nil {
		return nil, err
	}
	return u.Lock(packages), nil
}

// fetch downloads the packages of a lock and unpacks each into the cache as it arrives.
func (s *aptSource) fetch(ctx context.Context, pins *lock.Lock) error {
	missing := &lock.Lock{Arch: pins.Arch}
	for _, p := range pins.Packages {
		if !s.cache.Has(p.SHA256) {
			missing.Packages = append(missing.Packages, p)
		}
	}
	if len(missing.Packages) == 0 {
		return nil
	}
	mirrors, err := apt.NewMirrors(s.config)
	if err != nil {
		return err
	}
	items, err := mirrors.Items(missing)
	if err != nil {
		return err
	}
	// Downloads wait for the network, unpacking for the processors: each has its own number at a time.
	workers := s.jobs
	if workers == 0 {
		workers = runtime.NumCPU()
	}
	slots := semaphore.NewWeighted(int64(workers))
	err = s.fetcher.Get(ctx, items, func(i int, path string) error {
		if err := slots.Acquire(ctx, 1); err != nil {
			return err
		}
		defer slots.Release(1)
		if err := dpkg.Unpack(ctx, path, items[i].Sum, s.cache); err != nil {
			return fmt.Errorf("unpack %s: %w", items[i].Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.cache.Sync()
}

// assemble puts unpacked packages together and has the root's own dpkg configure them, or takes what was made of the same packages before.
func (s *aptSource) assemble(ctx context.Context, name string, pins *lock.Lock, scratch string) (*root, error) {
	packed := dpkg.Root{Packages: pins.Packages, Cache: s.cache, Dir: filepath.Join(scratch, "root"), Arch: pins.Arch, Sources: s.aptSources(), Log: s.log}
	newest, err := dpkg.Newest(ctx, packed)
	if err != nil {
		return nil, err
	}
	cfg := chroot.Config{Lower: packed.Dir, Arch: pins.Arch, Hostname: name, Date: newest, Log: s.log}
	const lower, changes = "root", "changes"
	kept := layers.Cache{Dir: filepath.Join(s.cache.Dir, "installed")}
	entry, err := kept.Find(name, packed.Digest())
	if err != nil {
		return nil, fmt.Errorf("assemble %s: %w", name, err)
	}
	if entry == "" {
		cfg.Work = filepath.Join(scratch, "configuring")
		if err := s.configure(ctx, cfg, packed); err != nil {
			return nil, err
		}
		cfg.Layers = []string{chroot.Changes(cfg.Work)}
		entry, err = kept.Keep(name, packed.Digest(), map[string]string{lower: packed.Dir, changes: cfg.Layers[0]})
		if err != nil {
			return nil, fmt.Errorf("keep what was configured: %w", err)
		}
	}
	if entry != "" {
		cfg.Lower, cfg.Layers = filepath.Join(entry, lower), []string{filepath.Join(entry, changes)}
	}
	cfg.Work = filepath.Join(scratch, "changes")
	session, err := chroot.Open(ctx, cfg)
	return &root{session: session, newest: newest}, err
}

// configure makes the folder of a root and has its dpkg configure all packages, in a session of its own.
func (s *aptSource) configure(ctx context.Context, cfg chroot.Config, packed dpkg.Root) (err error) {
	s.progress.Step("assembling %d packages", len(packed.Packages))
	if err := dpkg.Assemble(ctx, packed); err != nil {
		return err
	}
	session, err := chroot.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	configuring := s.progress.Start("configuring", int64(len(packed.Packages)), progress.Items)
	err = dpkg.Configure(ctx, session, dpkg.Options{Log: s.log, Progress: func(int, int, string) { configuring.Add(1) }})
	if err != nil {
		configuring.Abort()
		return err
	}
	configuring.Done()
	return nil
}

// aptSources is the text of the apt sources that the root itself is given, so that packages can be added in it later.
func (s *aptSource) aptSources() []byte {
	mirrors, err := apt.NewMirrors(s.config)
	if err != nil {
		return nil // a locked build on a host without sources: the root has none either
	}
	return mirrors.Sources()
}
