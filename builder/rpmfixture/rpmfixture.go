// Package rpmfixture makes RPM distributions for the tests, out of Debian's packages: real machines boot them, real dnf and
// rpm read them. Each Debian package becomes an RPM with the same files and the first of its alternative dependencies, under the
// name that the distribution to be imitated has for it; what Debian's maintainer scripts do is left out, and the packages
// that a distribution has of its own do it instead, in RPM's ways.
//
// Limits: documentation, manuals and translations are left out. What differs between the distribution that is imitated and Debian
// in versions, paths of libraries or the inner workings of programs stays Debian's.
package rpmfixture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"netroot/builder/apt"
	"netroot/builder/atomicfile"
	"netroot/builder/dpkg"
	"netroot/builder/fetch"
)

// A Distribution says what to make.
type Distribution struct {
	Name     string
	Arch     string              // Debian's word: amd64, i386
	Debian   []string            // packages to take, with what they depend on
	Drop     []string            // Debian packages to leave out, whoever depends on them
	Strip    []string            // files and folders of Debian's packages to leave out; * and ? as in a shell
	Rename   map[string]string   // Debian's name: the distribution's
	Requires map[string][]string // more dependencies, by the distribution's name
	Provides map[string]string   // what a package has by another name than its files are known by
	Scripts  map[string]string   // scriptlets, as a spec has them, by the distribution's name
	Merged   bool                // /bin, /sbin and /lib are links into /usr
	Own      []Own               // packages that are not Debian's
	Paths    []string            // where repositories are below the mirror: all packages in the first, nothing in the others
	Comps    string              // groups of packages, as XML
	Payload  string              // rpm's word: w1.gzdio, w3.zstdio
	Checksum string              // of the metadata, createrepo_c's word: sha, sha256
	Signing  *Signing            // nil: packages are not signed
}

// Own is a package that is written here.
type Own struct {
	Name    string
	Tags    string            // more lines of the preamble: Requires:, Provides:
	Scripts string            // scriptlets
	Files   map[string]string // path: contents; one that begins with #! can be run; "-> x" is a link
	List    string            // %files
}

// A Repository is what was made.
type Repository struct {
	Mirror string // URL of the folder that has the distribution's paths
	Dir    string // of the first path
	Key    string // file of the public key; "" without signatures
}

// version is raised when other packages are made of the same.
const version = "1"

// Folder is where what was made before is found again; it is root's alone.
func Folder() (string, error) {
	dir := filepath.Join(os.TempDir(), "netroot-rpmfixture")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s is not a folder of this user's alone: remove it", dir)
	}
	return dir, nil
}

// Make makes the distribution below the folder, or finds it there. Two programs that want the same wait for each other.
func (d Distribution) Make(ctx context.Context, folder string) (Repository, error) {
	repo, err := d.make(ctx, folder)
	if err != nil {
		return repo, fmt.Errorf("make distribution %s: %w", d.Name, err)
	}
	return repo, nil
}

func (d Distribution) make(ctx context.Context, folder string) (Repository, error) {
	if err := os.MkdirAll(filepath.Join(folder, "rpms"), 0o700); err != nil {
		return Repository{}, err
	}
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return Repository{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return Repository{}, err
	}
	jobs, err := d.debian(ctx, folder)
	if err != nil {
		return Repository{}, err
	}
	for _, o := range d.Own {
		jobs = append(jobs, d.own(o))
	}
	var key *signer
	if d.Signing != nil {
		if key, err = d.Signing.open(ctx, filepath.Join(folder, "key-"+d.Signing.Program)); err != nil {
			return Repository{}, err
		}
		defer key.close()
	}
	made := make([]string, len(jobs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i, j := range jobs {
		g.Go(func() (err error) {
			made[i], err = j.run(gctx, folder, d.Payload, key)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Repository{}, err
	}
	return d.publish(ctx, folder, jobs, made, key)
}

// publish puts the packages together, with metadata.
func (d Distribution) publish(ctx context.Context, folder string, jobs []job, made []string, key *signer) (Repository, error) {
	h := sha256.New()
	fmt.Fprintln(h, d.Name, d.Comps, d.Checksum, d.Paths)
	for _, m := range made {
		fmt.Fprintln(h, m)
	}
	top := filepath.Join(folder, d.Name+"-"+hex.EncodeToString(h.Sum(nil))[:16])
	repo := Repository{Mirror: "file://" + top, Dir: filepath.Join(top, d.Paths[0])}
	if key != nil {
		repo.Key = key.public
	}
	if _, err := os.Stat(filepath.Join(repo.Dir, "repodata", "repomd.xml")); err == nil {
		return repo, nil
	}
	if err := os.RemoveAll(top); err != nil {
		return repo, err
	}
	for _, p := range d.Paths[1:] {
		at := filepath.Join(top, p)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return repo, err
		}
		if err := run(exec.CommandContext(ctx, "createrepo_c", "--quiet", "--checksum", d.Checksum, "--general-compress-type", "gz", at)); err != nil {
			return repo, err
		}
	}
	if err := os.MkdirAll(filepath.Join(repo.Dir, "Packages"), 0o755); err != nil {
		return repo, err
	}
	for i, m := range made {
		if err := os.Link(m, filepath.Join(repo.Dir, "Packages", jobs[i].file())); err != nil {
			return repo, err
		}
	}
	args := []string{"--quiet", "--checksum", d.Checksum, "--general-compress-type", "gz"}
	if d.Comps != "" {
		comps := filepath.Join(repo.Dir, "comps.xml")
		if err := atomicfile.Write(comps, []byte(d.Comps), 0o644); err != nil {
			return repo, err
		}
		args = append(args, "--groupfile", comps)
	}
	return repo, run(exec.CommandContext(ctx, "createrepo_c", append(args, repo.Dir)...))
}

// debian fetches the Debian packages.
func (d Distribution) debian(ctx context.Context, folder string) ([]job, error) {
	fetcher := &fetch.Fetcher{Cache: fetch.Cache{Dir: filepath.Join(folder, "debs")}, Proxy: apt.HostProxy("/")}
	cfg := apt.Config{Suite: "bookworm", Components: []string{"main"}, Arch: d.Arch, Provided: append([]string{dpkg.StandInProvides}, d.Drop...)}
	u, err := apt.Open(ctx, cfg, fetcher)
	if err != nil {
		// Partial mirrors exist whose security suite is whole for one architecture only. The suite itself will do.
		if cfg.Mirror = suiteMirror(ctx, cfg.Suite); cfg.Mirror == "" {
			return nil, err
		}
		if u, err = apt.Open(ctx, cfg, fetcher); err != nil {
			return nil, err
		}
	}
	packages, err := u.Resolve(d.Debian)
	if err != nil {
		return nil, err
	}
	items, err := u.Items(u.Lock(packages))
	if err != nil {
		return nil, err
	}
	if err := fetcher.Get(ctx, items, nil); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, p := range packages {
		names[p.Name] = !slices.Contains(d.Drop, p.Name)
	}
	var jobs []job
	for _, it := range items {
		if !names[it.Name] {
			continue // essential in Debian
		}
		j, err := d.convert(ctx, fetcher.Cache.Path(it.Sum), it.Sum, names)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", it.Name, err)
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// suiteMirror is where this host's apt has a suite itself from, without its updates; "" when it has none.
func suiteMirror(ctx context.Context, suite string) string {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		if uri, ok := strings.CutPrefix(line, suite+" "); ok {
			return strings.TrimSpace(uri)
		}
	}
	return ""
}

// run runs a program, and has what it said in the error.
func run(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[:1], " "), err, out.Bytes())
	}
	return nil
}
