package dpkg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"netroot/builder/chroot"
)

// Options say how to configure.
type Options struct {
	Log *slog.Logger // nil is silent
	// Progress is told of each package as dpkg begins to set it up: the how-manieth of how many. It may be nil.
	Progress func(done, total int, name string)
}

// A ScriptError is a maintainer script, or dpkg itself, that failed.
type ScriptError struct {
	Package string
	Script  string // "preinst", "postinst", … or "dpkg"
	Code    int
	Tail    string // the last lines it wrote
}

func (e *ScriptError) Error() string {
	return fmt.Sprintf("package %s: %s failed with exit code %d; its last output:\n%s", e.Package, e.Script, e.Code, e.Tail)
}

// Configure brings every package of an assembled root from "unpacked" to "installed", in the steps of debootstrap:
// base-passwd, because nothing owns /etc/passwd before; what is essential, because scripts use it unasked; the rest. In
// each step the preinst scripts run first, then the root's own dpkg sets up the packages and works its triggers off.
func Configure(ctx context.Context, s *chroot.Session, opts Options) error {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	root, err := os.OpenRoot(s.Tree())
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	defer root.Close()
	c := &configurer{s: s, root: root, opts: opts, ready: map[*source]bool{}, preinst: map[*source]bool{}}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return Clean(root)
}

type configurer struct {
	s       *chroot.Session
	root    *os.Root
	opts    Options
	version string // dpkg's

	all      []*source
	provides map[string][]*source
	ready    map[*source]bool // configured
	preinst  map[*source]bool // its preinst ran
	done     int
	total    int
}

func (c *configurer) run(ctx context.Context) error {
	if err := c.load(); err != nil {
		return err
	}
	var base, essential []*source
	for _, s := range c.all {
		switch {
		case s.name == "base-passwd":
			base = append(base, s)
		case s.essential():
			essential = append(essential, c.closure(s)...)
		}
	}
	// Nothing has an owner by name before base-passwd is configured, and its own dependencies wait for it in turn.
	if err := c.setUp(ctx, base, "--force-depends"); err != nil {
		return err
	}
	if err := c.setUp(ctx, unique(essential)); err != nil {
		return err
	}
	for _, s := range c.all {
		if c.ready[s] || !c.hasPreinst(s) {
			continue
		}
		// Policy 7.2: what a package pre-depends on is configured before its preinst runs.
		var first []*source
		for _, d := range s.relations("Pre-Depends") {
			if dep := satisfier(d, c.provides); dep != nil && dep != s {
				first = append(first, c.closure(dep)...)
			}
		}
		first = slices.DeleteFunc(unique(first), func(d *source) bool { return c.ready[d] || d == s })
		if len(first) > 0 {
			if err := c.setUp(ctx, first); err != nil {
				return err
			}
		}
		if err := c.runPreinst(ctx, s); err != nil {
			return err
		}
	}
	if err := c.dpkg(ctx, "--configure", "--pending"); err != nil {
		return err
	}
	if err := c.root.RemoveAll(heldDir); err != nil {
		return err
	}
	return c.verify()
}

// load reads what Assemble wrote.
func (c *configurer) load() error {
	status, err := c.root.ReadFile(adminDir + "/status")
	if err != nil {
		return err
	}
	add := func(text string, held bool) error {
		control, err := parseControl(text)
		if err != nil {
			return err
		}
		s := &source{
			name: control.get("Package"), version: control.get("Version"), arch: control.get("Architecture"),
			control: control, held: held,
		}
		if s.name == "dpkg" {
			c.version = s.version
		}
		c.all = append(c.all, s)
		if strings.HasSuffix(control.get("Status"), " installed") {
			c.ready[s] = true
		} else {
			c.total++
		}
		return nil
	}
	for text := range strings.SplitSeq(string(status), "\n\n") {
		if strings.TrimSpace(text) != "" {
			if err := add(text, false); err != nil {
				return fmt.Errorf("dpkg's status: %w", err)
			}
		}
	}
	held, err := fs.Glob(c.root.FS(), heldDir+"/*.deb")
	if err != nil {
		return err
	}
	for _, name := range held {
		text, err := c.heldControl(name)
		if err != nil {
			return err
		}
		if err := add(text, true); err != nil {
			return err
		}
	}
	if c.version == "" {
		return errors.New("the root has no dpkg: a package named dpkg must be among those installed")
	}
	c.all = inOrder(c.all)
	c.provides = providers(c.all)
	return nil
}

// heldControl reads the control file of a package that is not unpacked yet.
func (c *configurer) heldControl(name string) (string, error) {
	f, err := c.root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	d, err := openDeb(f, st.Size())
	if err != nil {
		return "", fmt.Errorf("%s: %w", path.Base(name), err)
	}
	return controlText(d)
}

// closure is a package and all it needs, in order.
func (c *configurer) closure(s *source) []*source {
	return withNeeds(nil, s, c.provides, map[*source]bool{})
}

func unique(list []*source) []*source {
	seen := map[*source]bool{}
	return slices.DeleteFunc(list, func(s *source) bool {
		was := seen[s]
		seen[s] = true
		return was
	})
}

func (c *configurer) hasPreinst(s *source) bool {
	if s.held {
		return true
	}
	_, err := c.root.Lstat(adminDir + "/info/" + s.full() + ".preinst")
	return err == nil
}

// setUp runs the preinst scripts of packages and configures them.
func (c *configurer) setUp(ctx context.Context, list []*source, flags ...string) error {
	var names []string
	for _, s := range list {
		if c.ready[s] {
			continue
		}
		if err := c.runPreinst(ctx, s); err != nil {
			return err
		}
		names = append(names, s.name+":"+s.arch)
	}
	if len(names) == 0 {
		return nil
	}
	if err := c.dpkg(ctx, append(append(flags, "--configure"), names...)...); err != nil {
		return err
	}
	for _, s := range list {
		c.ready[s] = true
	}
	return nil
}

// runPreinst runs a preinst as dpkg does for a package that was never there: from tmp.ci, where debconf finds the
// templates beside it. A package that was held back is unpacked now, by the root's dpkg.
func (c *configurer) runPreinst(ctx context.Context, s *source) error {
	if c.preinst[s] || !c.hasPreinst(s) {
		return nil
	}
	c.preinst[s] = true
	if s.held {
		return c.dpkg(ctx, "--unpack", "/"+heldDir+"/"+s.name+"_"+s.arch+".deb")
	}
	const temp = adminDir + "/tmp.ci"
	if err := c.root.Mkdir(temp, 0o755); err != nil {
		return err
	}
	defer c.root.RemoveAll(temp)
	prefix := s.full() + "."
	names, err := fs.Glob(c.root.FS(), adminDir+"/info/"+prefix+"*")
	if err != nil {
		return err
	}
	for _, name := range names {
		member := strings.TrimPrefix(path.Base(name), prefix)
		if member == "list" || strings.Contains(member, ".") {
			continue
		}
		data, err := c.root.ReadFile(name)
		if err != nil {
			return err
		}
		if err := c.root.WriteFile(temp+"/"+member, data, 0o755); err != nil {
			return err
		}
	}
	var control strings.Builder
	for _, f := range s.control {
		if f.name != "Status" && f.name != "Conffiles" {
			fmt.Fprintf(&control, "%s: %s\n", f.name, f.value)
		}
	}
	if err := c.root.WriteFile(temp+"/control", []byte(control.String()), 0o644); err != nil {
		return err
	}
	c.opts.Log.Debug("preinst", "package", s.full())
	err = c.s.Run(ctx, chroot.Command{
		Args: []string{"/" + temp + "/preinst", "install"},
		Env: []string{
			"DPKG_MAINTSCRIPT_PACKAGE=" + s.name,
			"DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1",
			"DPKG_MAINTSCRIPT_ARCH=" + s.arch,
			"DPKG_MAINTSCRIPT_NAME=preinst",
			"DPKG_MAINTSCRIPT_DEBUG=0",
			"DPKG_RUNNING_VERSION=" + c.version,
			"DPKG_ADMINDIR=/" + adminDir,
			"DPKG_ROOT=",
		},
	})
	var exit *chroot.ExitError
	if errors.As(err, &exit) {
		return &ScriptError{Package: s.full(), Script: "preinst", Code: exit.Code, Tail: exit.Tail}
	}
	return err
}

// dpkg runs the root's dpkg. Its output tells where it is, and what went wrong.
func (c *configurer) dpkg(ctx context.Context, args ...string) error {
	output := &watcher{line: func(line string) {
		if m := settingUp.FindStringSubmatch(line); m != nil {
			c.done++
			c.opts.Log.Debug("set up", "package", m[1])
			if c.opts.Progress != nil {
				c.opts.Progress(min(c.done, c.total), c.total, m[1])
			}
		}
	}}
	err := c.s.Run(ctx, chroot.Command{
		Args:   append([]string{"dpkg", "--force-unsafe-io", "--force-confdef", "--force-confold", "--no-pager"}, args...),
		Output: output,
	})
	var exit *chroot.ExitError
	if errors.As(err, &exit) {
		return output.explain(exit)
	}
	return err
}

var (
	settingUp = regexp.MustCompile(`^Setting up (\S+) \(`)
	failed    = regexp.MustCompile(`^dpkg: error processing (?:package|archive) (\S+) \(`)
	script    = regexp.MustCompile(`(?:package|new \S+ package) (\S+) (?:script )?subprocess returned error exit status (\d+)`)
)

// A watcher cuts dpkg's output into lines and remembers what an error message needs.
type watcher struct {
	line    func(string)
	partial []byte
	lines   []string // since the last package began
	pkg     string   // that failed
	script  string
	code    int
	at      []string
	reason  bool // the lines that follow say why
}

func (w *watcher) Write(p []byte) (int, error) {
	w.partial = append(w.partial, p...)
	for {
		i := bytes.IndexByte(w.partial, '\n')
		if i < 0 {
			return len(p), nil
		}
		line := strings.TrimRight(string(w.partial[:i]), "\r")
		w.partial = w.partial[i+1:]
		w.take(line)
	}
}

func (w *watcher) take(line string) {
	w.line(line)
	if settingUp.MatchString(line) {
		w.lines = nil
	}
	if w.lines = append(w.lines, line); len(w.lines) > 20 {
		w.lines = w.lines[1:]
	}
	switch m := failed.FindStringSubmatch(line); {
	case m != nil && w.pkg == "":
		w.pkg, w.script, w.at = m[1], "dpkg", slices.Clone(w.lines)
		if strings.HasPrefix(w.pkg, "/") { // an archive; those that were held back are called NAME_ARCH.deb
			w.pkg, _, _ = strings.Cut(path.Base(w.pkg), "_")
		}
		w.reason = true
	case w.reason && strings.HasPrefix(line, " "):
		w.at = append(w.at, line)
		if m := script.FindStringSubmatch(line); m != nil && w.code == 0 {
			w.script = scriptName(m[1])
			fmt.Sscan(m[2], &w.code)
		}
	default:
		w.reason = false
	}
}

// scriptName is the file name of a script that dpkg calls by its purpose.
func scriptName(purpose string) string {
	for _, known := range [][2]string{
		{"pre-installation", "preinst"}, {"post-installation", "postinst"}, {"pre-removal", "prerm"}, {"post-removal", "postrm"},
	} {
		if strings.Contains(purpose, known[0]) {
			return known[1]
		}
	}
	return purpose
}

// explain makes an error of a dpkg that failed.
func (w *watcher) explain(exit *chroot.ExitError) error {
	if w.pkg == "" {
		return exit
	}
	e := &ScriptError{Package: w.pkg, Script: w.script, Code: w.code, Tail: strings.Join(w.at, "\n")}
	if e.Code == 0 {
		e.Code = exit.Code
	}
	return e
}

// verify makes sure that dpkg believes what we do.
func (c *configurer) verify() error {
	status, err := c.root.ReadFile(adminDir + "/status")
	if err != nil {
		return err
	}
	var bad []string
	for text := range strings.SplitSeq(string(status), "\n\n") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		p, err := parseControl(text)
		if err != nil {
			return fmt.Errorf("dpkg's status: %w", err)
		}
		if state := p.get("Status"); state != "install ok installed" {
			bad = append(bad, fmt.Sprintf("%s (%s)", p.get("Package"), state))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("these packages are not installed in the end: %s", strings.Join(bad, ", "))
	}
	return nil
}

var _ io.Writer = (*watcher)(nil)
