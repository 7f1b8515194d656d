package rpmroot

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"netroot/builder/chroot"
	"netroot/builder/rpm"
	"netroot/builder/tree"
)

// spool is where the package files lie in the root while its rpm reads them. The session's /tmp is too small for them.
const spool = "/.netroot-rpms"

// Options say how to install.
type Options struct {
	Log *slog.Logger // nil is silent
	// Progress is told of each package as rpm begins with it. It may be nil.
	Progress func(name string)
	// Patience is how long rpm may say nothing: then a scriptlet hangs. 0 is 15 minutes; the longest that were seen make an
	// initramfs, and take five on a slow machine.
	Patience time.Duration
}

// A HangError is a transaction in which nothing happened any more.
type HangError struct {
	Package  string // that rpm began with last; "" before the first
	Patience time.Duration
	Tail     string
}

func (e *HangError) Error() string {
	where := "before the first package"
	if e.Package != "" {
		where = "with package " + e.Package + ", or with what is run at the end"
	}
	text := fmt.Sprintf("a scriptlet hangs: rpm has said nothing for %s, %s; it was ended", e.Patience, where)
	if e.Tail != "" {
		text += "; the last output:\n" + e.Tail
	}
	return text
}

// A ScriptletError is a scriptlet that failed and by which rpm did not install the package.
type ScriptletError struct {
	Package   string
	Scriptlet string // "%pre", "%pretrans", …
	Code      int
	Tail      string // the last lines that were written
}

func (e *ScriptletError) Error() string {
	return fmt.Sprintf("package %s: its %s scriptlet failed with exit code %d; the last output:\n%s", e.Package, e.Scriptlet, e.Code, e.Tail)
}

// A Failure is a scriptlet that failed after its package was installed: rpm goes on, and so do we, but somebody should know.
type Failure struct {
	Package, Scriptlet string
	Code               int
}

func (f Failure) String() string {
	return fmt.Sprintf("package %s: its %s scriptlet failed with exit code %d", f.Package, f.Scriptlet, f.Code)
}

// Provide puts the package files where Install finds them: into the folder dir, which is laid over the root, as further names of the
// same files where that is possible.
func Provide(packages []*Package, dir string) error {
	to := filepath.Join(dir, spool)
	if err := os.Mkdir(to, 0o755); err != nil {
		return fmt.Errorf("assemble root: %w", err)
	}
	for _, p := range packages {
		name := filepath.Join(to, p.File.String()+".rpm")
		if err := os.Link(p.Path, name); err == nil {
			continue
		}
		if err := copyFile(p.Path, name); err != nil {
			return fmt.Errorf("assemble root: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// Install has the root's own rpm install every package that Provide put there, in one transaction, and makes sure that its database
// then knows them all. Signatures and digests were checked before; the rpm of EL6 could not check those of newer keys.
func Install(ctx context.Context, s *chroot.Session, packages []*Package, o Options) ([]Failure, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	w := &watcher{log: o.Log, progress: o.Progress, names: map[string]bool{}}
	args := []string{"rpm", "-Uv", "--nosignature", "--nodigest", "--define", "_pkgverify_level none",
		// These are other file systems here: nothing may be changed in them, and nothing would stay (rpm(8), as containers do it).
		"--define", "_netsharedpath /dev:/proc:/sys"}
	for _, p := range packages {
		w.names[p.File.String()] = true
		w.names[strings.TrimSuffix(p.File.String(), path.Ext(p.File.String()))] = true
		args = append(args, spool+"/"+p.File.String()+".rpm")
	}
	patience := cmp.Or(o.Patience, 15*time.Minute)
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	w.idle = time.AfterFunc(patience, cancel)
	w.patience = patience
	defer w.idle.Stop()
	err := s.Run(running, chroot.Command{Args: args, Env: []string{"LC_ALL=C"}, Output: w})
	if err != nil && running.Err() != nil && ctx.Err() == nil {
		return w.failures, &HangError{Package: w.current, Patience: patience, Tail: strings.Join(w.lines, "\n")}
	}
	var exit *chroot.ExitError
	if errors.As(err, &exit) {
		return w.failures, w.explain(exit)
	}
	if err != nil {
		return w.failures, err
	}
	if err := verify(ctx, s, packages); err != nil {
		if len(w.fatal) > 0 {
			err = fmt.Errorf("%w; %w", w.fatal[0], err)
		}
		return w.failures, err
	}
	return w.survived(), clean(s.Tree())
}

// verify asks the root's rpm what it has.
func verify(ctx context.Context, s *chroot.Session, packages []*Package) error {
	var out bytes.Buffer
	if err := s.Run(ctx, chroot.Command{Args: []string{"rpm", "-qa", "--qf", "%{NAME} %{VERSION}-%{RELEASE} %{ARCH}\n"}, Output: &out}); err != nil {
		return fmt.Errorf("ask the root's rpm what is installed: %w", err)
	}
	have := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		have[strings.TrimSpace(line)] = true
	}
	var missing []string
	for _, p := range packages {
		v := p.File.EVR()
		v.Epoch = ""
		if !have[fmt.Sprintf("%s %s %s", p.File.Header.String(rpm.TagName), v, p.File.Header.String(rpm.TagArch))] {
			missing = append(missing, p.File.String())
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the root's rpm does not know these packages after it installed them: %s", strings.Join(missing, ", "))
	}
	return nil
}

// clean takes away what is not part of a root: the package files, and the environment of the Berkeley DB, which holds locks of
// processes that are gone.
func clean(root string) error {
	if err := os.RemoveAll(filepath.Join(root, spool)); err != nil {
		return err
	}
	fsys := os.DirFS(root)
	dir, err := tree.Resolve(fsys, "var/lib/rpm")
	if err != nil {
		return nil // its database lies elsewhere, and is none of Berkeley's
	}
	environment, err := fs.Glob(fsys, path.Join(dir, "__db.*"))
	for _, name := range environment {
		err = errors.Join(err, os.Remove(filepath.Join(root, name)))
	}
	return err
}

// failed is how rpm of any age tells of a scriptlet: "error: %pre(foo-1-1.noarch) scriptlet failed, exit status 1".
var failed = regexp.MustCompile(`^(warning|error): (%\w+)\(([^)]+)\) scriptlet failed, (?:exit status|signal) (\d+)`)

// What rpm finds before it begins (rpmProblemString in lib/rpmprob.c).
var (
	crowded = regexp.MustCompile(`^\s*installing package \S+ needs (\d+[KM]?B) (?:more space )?on the \S+ filesystem`)
	clash   = regexp.MustCompile(`^\s*file \S+ conflicts between attempted installs of `)
)

// A watcher reads what rpm says.
type watcher struct {
	log      *slog.Logger
	progress func(string)
	names    map[string]bool
	partial  []byte
	lines    []string
	failures []Failure
	fatal    []*ScriptletError // unless rpm goes on all the same
	current  string            // package
	space    string            // that is missing
	clashes  []string
	idle     *time.Timer
	patience time.Duration
}

const (
	keepLines = 30
	longLine  = 64 << 10 // and what goes on without an end is cut into such lines
)

func (w *watcher) Write(p []byte) (int, error) {
	if w.idle != nil && w.idle.Stop() {
		w.idle.Reset(w.patience)
	}
	w.partial = append(w.partial, p...)
	for {
		i, end := bytes.IndexByte(w.partial, '\n'), 1
		if i < 0 && len(w.partial) >= longLine {
			i, end = longLine, 0
		}
		if i < 0 {
			return len(p), nil
		}
		w.take(strings.TrimRight(string(w.partial[:i]), "\r"))
		w.partial = w.partial[i+end:]
	}
}

func (w *watcher) take(line string) {
	if w.names[line] {
		w.current = line
		if w.progress != nil {
			w.progress(line)
		}
		w.lines = w.lines[:0]
	}
	if w.lines = append(w.lines, line); len(w.lines) > keepLines {
		w.lines = w.lines[1:]
	}
	switch {
	case crowded.MatchString(line):
		w.space = crowded.FindStringSubmatch(line)[1] // each package adds to what those before it need
	case clash.MatchString(line):
		w.clashes = append(w.clashes, strings.TrimSpace(line))
	}
	m := failed.FindStringSubmatch(line)
	if m == nil {
		w.log.Debug(line)
		return
	}
	code, _ := strconv.Atoi(m[4])
	if m[1] == "error" {
		w.fatal = append(w.fatal, &ScriptletError{Package: m[3], Scriptlet: m[2], Code: code, Tail: strings.Join(w.lines, "\n")})
		return
	}
	w.fail(Failure{Package: m[3], Scriptlet: m[2], Code: code})
}

func (w *watcher) fail(f Failure) {
	w.failures = append(w.failures, f)
	w.log.Warn("scriptlet failed", "package", f.Package, "scriptlet", f.Scriptlet, "code", f.Code)
}

// survived lists every failure of a transaction that rpm calls a success. What it calls an error is then one of them: which failures stop
// it differs between its versions.
func (w *watcher) survived() []Failure {
	for _, e := range w.fatal {
		w.fail(Failure{Package: e.Package, Scriptlet: e.Scriptlet, Code: e.Code})
	}
	return w.failures
}

func (w *watcher) explain(exit *chroot.ExitError) error {
	switch {
	case len(w.fatal) > 0:
		return w.fatal[0]
	case w.space != "":
		return fmt.Errorf("the store's file system is too small: rpm needs %s more for the root; make room there, or put the store elsewhere with --store", w.space)
	case w.clashes != nil:
		return fmt.Errorf("packages that cannot be together in a root: %s; exclude one of them", strings.Join(w.clashes[:min(len(w.clashes), 5)], "; "))
	}
	return exit
}
