package apt

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"netroot/builder/fetch"
	"netroot/builder/lock"
	"netroot/builder/pgp"
)

// Config says which archive to use. What is left empty comes from the host's own apt configuration.
type Config struct {
	Suite      string    // bookworm; its -updates and -security companions come along when the host lists them, or those of its own release
	Components []string  // empty: those of the host's entry, or main when Mirror is set
	Mirror     string    // base URL, http:, https: or file:; only Suite is taken from it
	Keyring    string    // a keyring file; empty: what the host's entries and trusted.gpg.d name
	Arch       string    // Debian's word: amd64, i386, arm64
	HostRoot   string    // where the host's etc/apt lies; empty: /
	Provided   []string  // names that something outside of the archive provides: a dependency on one pulls nothing
	Now        time.Time // against which dates are checked; zero: the clock
}

func (c Config) hostRoot() string {
	if c.HostRoot == "" {
		return "/"
	}
	return c.HostRoot
}

func (c Config) now() time.Time {
	if c.Now.IsZero() {
		return time.Now()
	}
	return c.Now
}

// A repo is one suite at one base URL.
type repo struct {
	name       string // the suite; a second base URL for the same suite is called suite#2
	suite      string
	base       string // without a slash at its end
	components []string
	source     source // for the keyring and the options; zero for Config.Mirror
}

// Mirrors knows where each repository lies, without having asked any of them.
type Mirrors struct {
	cfg   Config
	repos []repo
}

// NewMirrors finds the repositories that cfg means, in the host's apt sources or at cfg.Mirror. It reads no index, so
// that a locked build needs none.
func NewMirrors(cfg Config) (*Mirrors, error) {
	switch {
	case cfg.Suite == "":
		return nil, errors.New("no suite: write one such as bookworm into the recipe")
	case strings.ContainsAny(cfg.Suite, " \t\n") || !filepath.IsLocal(cfg.Suite):
		return nil, fmt.Errorf("suite %q is not a suite's name", cfg.Suite)
	case cfg.Arch == "":
		return nil, errors.New("no architecture")
	}
	m := &Mirrors{cfg: cfg}
	if cfg.Mirror != "" {
		u, err := url.Parse(cfg.Mirror)
		if err != nil || !slices.Contains([]string{"http", "https", "file"}, u.Scheme) {
			return nil, fmt.Errorf("mirror %q is not an http:, https: or file: URL", cfg.Mirror)
		}
		components := cfg.Components
		if len(components) == 0 {
			components = []string{"main"}
		}
		m.repos = []repo{{name: cfg.Suite, suite: cfg.Suite, base: strings.TrimRight(cfg.Mirror, "/"), components: components}}
		return m, nil
	}
	sources, err := readSources(cfg.hostRoot())
	if err != nil {
		return nil, err
	}
	m.repos, err = chooseRepos(cfg, standFor(hostCodename(cfg.hostRoot()), cfg.Suite, sources))
	return m, err
}

// hostCodename is the code name of the host's own release (os-release(5)), empty when it has none.
func hostCodename(hostRoot string) string {
	data, _ := os.ReadFile(filepath.Join(hostRoot, "etc/os-release"))
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(line, "VERSION_CODENAME="); ok {
			return strings.Trim(strings.TrimSpace(name), `"'`)
		}
	}
	return ""
}

// standFor lets the entries of the host's own release stand for another one that no entry offers: a mirror holds the
// releases of a distribution beside each other. sid has no companions.
func standFor(own, wanted string, sources []source) []source {
	offers := func(suite string) bool {
		return slices.ContainsFunc(sources, func(s source) bool { return slices.Contains(s.suites, suite) })
	}
	if own == "" || offers(wanted) || !offers(own) {
		return sources
	}
	var out []source
	for _, s := range sources {
		var suites []string
		for _, suite := range s.suites {
			if rest, ok := strings.CutPrefix(suite, own); ok && isWantedSuite(suite, own) && (rest == "" || wanted != "sid" && wanted != "unstable") {
				suites = append(suites, wanted+rest)
			}
		}
		if s.suites = suites; len(suites) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// companions of a suite carry its updates; bullseye's and older releases' security suite is called SUITE/updates.
func isWantedSuite(suite, wanted string) bool {
	return suite == wanted || suite == wanted+"-updates" || suite == wanted+"-security" || suite == wanted+"/updates"
}

// chooseRepos picks what cfg wants from the host's sources. An entry's arch= option says what the host installs from it,
// not what the archive has, so it is not asked: an i386 root is built on an amd64 host from the same entry.
func chooseRepos(cfg Config, sources []source) ([]repo, error) {
	var out []repo
	var suites, offered []string // what the host has, for errors
	for _, s := range sources {
		for _, suite := range s.suites {
			suites = append(suites, suite)
			if !isWantedSuite(suite, cfg.Suite) {
				continue
			}
			var components []string
			for _, c := range s.components {
				offered = append(offered, c)
				if len(cfg.Components) == 0 || slices.Contains(cfg.Components, c) {
					components = append(components, c)
				}
			}
			if len(components) == 0 {
				continue
			}
			for _, uri := range s.uris {
				base := strings.TrimRight(uri, "/")
				if scheme, _, _ := strings.Cut(base, ":"); !slices.Contains([]string{"http", "https", "file"}, scheme) {
					return nil, fmt.Errorf("%s: netroot fetches from http:, https: and file: only, not from %s:; name a mirror with mirror: in the recipe", s.where, scheme)
				}
				out = addRepo(out, repo{name: suite, suite: suite, base: base, components: components, source: s})
			}
		}
	}
	if !slices.ContainsFunc(out, func(r repo) bool { return r.suite == cfg.Suite }) {
		slices.Sort(suites)
		suites = slices.Compact(suites)
		switch {
		case len(suites) == 0:
			return nil, fmt.Errorf("this machine has no apt sources to take %s from; name a mirror with mirror: in the recipe (and its keyring with keyring:)", cfg.Suite)
		case slices.Contains(suites, cfg.Suite):
			slices.Sort(offered)
			return nil, fmt.Errorf("this machine's apt sources offer %s with the components %s, not %s; name a mirror in the recipe instead",
				cfg.Suite, strings.Join(slices.Compact(offered), ", "), strings.Join(cfg.Components, ", "))
		}
		return nil, fmt.Errorf("this machine's apt sources offer no suite %s, only %s; name a mirror with mirror: in the recipe (and its keyring with keyring:)",
			cfg.Suite, strings.Join(suites, ", "))
	}
	for _, c := range cfg.Components {
		if !slices.ContainsFunc(out, func(r repo) bool { return r.suite == cfg.Suite && slices.Contains(r.components, c) }) {
			return nil, fmt.Errorf("this machine's apt sources offer %s without the component %s; add it there, or name a mirror in the recipe instead", cfg.Suite, c)
		}
	}
	return out, nil
}

// addRepo appends r, or joins its components to the same suite at the same URL.
func addRepo(repos []repo, r repo) []repo {
	same := 1
	for i := range repos {
		if repos[i].suite != r.suite {
			continue
		}
		if repos[i].base == r.base {
			for _, c := range r.components {
				if !slices.Contains(repos[i].components, c) {
					repos[i].components = append(slices.Clone(repos[i].components), c)
				}
			}
			return repos
		}
		same++
	}
	if same > 1 {
		r.name = fmt.Sprintf("%s#%d", r.suite, same)
	}
	return append(repos, r)
}

// Items says where to fetch the packages of a lock.
func (m *Mirrors) Items(l *lock.Lock) ([]fetch.Item, error) {
	items := make([]fetch.Item, 0, len(l.Packages))
	for _, p := range l.Packages {
		i := slices.IndexFunc(m.repos, func(r repo) bool { return r.name == p.Repo })
		if i < 0 {
			return nil, fmt.Errorf("the lock takes %s from %s, which is not among the repositories in use (%s): refresh the lock, or build where the apt sources have it",
				p.Name, p.Repo, strings.Join(m.Names(), ", "))
		}
		if !filepath.IsLocal(p.Path) {
			return nil, fmt.Errorf("the lock gives %s the path %q, which leaves the repository", p.Name, p.Path)
		}
		items = append(items, fetch.Item{Name: p.Name, URL: joinURL(m.repos[i].base, p.Path), Size: p.Size, Sum: p.SHA256})
	}
	return items, nil
}

// Names lists the repositories.
func (m *Mirrors) Names() []string {
	names := make([]string, len(m.repos))
	for i, r := range m.repos {
		names[i] = r.name
	}
	return names
}

// joinURL puts a path behind a base URL. The path is escaped: names of packages may hold + and ~, epochs come as %3a.
func joinURL(base, path string) string {
	return base + "/" + (&url.URL{Path: path}).EscapedPath()
}

// keyring returns the keys that may sign r.
func (m *Mirrors) keyring(r repo) (*pgp.Keyring, error) {
	switch {
	case m.cfg.Keyring != "":
		return pgp.ReadKeyring(m.cfg.Keyring)
	case r.source.inlineKey != "":
		return pgp.ParseKeyring("Signed-By in "+r.source.where, []byte(r.source.inlineKey))
	case len(r.source.signedBy) > 0:
		return m.signedBy(r.source)
	}
	paths := trustedKeyrings(m.cfg.hostRoot())
	if m.cfg.Mirror != "" {
		// A mirror that the recipe names has no entry of its own: the keys of all entries of the host will do.
		sources, err := readSources(m.cfg.hostRoot())
		if err != nil {
			return nil, err
		}
		for _, s := range sources {
			for _, path := range s.signedBy {
				if path = m.hostPath(path); filepath.IsAbs(path) && !slices.Contains(paths, path) {
					paths = append(paths, path)
				}
			}
		}
		paths = slices.DeleteFunc(paths, func(p string) bool { _, err := os.Stat(p); return err != nil })
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("this machine has no apt keyring to verify %s with; name one with keyring: in the recipe", r.suite)
	}
	return pgp.ReadKeyring(paths...)
}

// hostPath puts an absolute path below the host's root; a fingerprint stays as it is.
func (m *Mirrors) hostPath(path string) string {
	if !filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(m.cfg.hostRoot(), path)
}

// signedBy reads the keyring files, and picks the fingerprints from the trusted keyrings.
func (m *Mirrors) signedBy(s source) (*pgp.Keyring, error) {
	var paths, fingerprints []string
	for _, word := range s.signedBy {
		if path := m.hostPath(word); filepath.IsAbs(path) {
			paths = append(paths, path)
		} else {
			fingerprints = append(fingerprints, word)
		}
	}
	if len(fingerprints) > 0 && len(paths) == 0 {
		paths = trustedKeyrings(m.cfg.hostRoot())
	}
	k, err := pgp.ReadKeyring(paths...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	if len(fingerprints) > 0 {
		k = k.Only(fingerprints...)
	}
	return k, nil
}

// trustedKeyrings lists /etc/apt/trusted.gpg and trusted.gpg.d.
func trustedKeyrings(hostRoot string) []string {
	etc := filepath.Join(hostRoot, "etc/apt")
	var out []string
	if info, err := os.Stat(filepath.Join(etc, "trusted.gpg")); err == nil && info.Size() > 0 {
		out = append(out, filepath.Join(etc, "trusted.gpg"))
	}
	entries, _ := os.ReadDir(filepath.Join(etc, "trusted.gpg.d"))
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".gpg" || ext == ".asc" {
			out = append(out, filepath.Join(etc, "trusted.gpg.d", e.Name()))
		}
	}
	return out
}
