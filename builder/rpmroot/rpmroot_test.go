package rpmroot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"netroot/builder/chroot"
	"netroot/builder/need"
)

// The tests install packages that they build with rpmbuild: a root of the host's own rpm, shell and libraries, and packages that
// have what makes installing hard.

func TestMain(m *testing.M) {
	chroot.Main()
	dir, err := os.MkdirTemp("", "netroot-rpmroot-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// shared is a folder of all tests.
var shared string

func needRPM(t testing.TB) {
	t.Helper()
	need.Root(t)
	need.Tools(t, "rpm", "rpmbuild", "ldd", "bash")
}

// A spec is a package to be built.
type spec struct {
	name, tags, body string // body: scriptlets and %files
	install          func(root string) error
}

func (s spec) build(dir string) error {
	staged := filepath.Join(dir, "stage-"+s.name)
	if err := os.MkdirAll(staged, 0o755); err != nil {
		return err
	}
	if s.install != nil {
		if err := s.install(staged); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("Name: %s\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nAutoReqProv: no\n%s\n%%description\nx\n%%install\nmkdir -p %%{buildroot}\ncp -a %s/. %%{buildroot}/\n%s\n",
		s.name, s.tags, staged, s.body)
	file := filepath.Join(dir, s.name+".spec")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	cmd := exec.Command("rpmbuild", "-bb", "--define", "_topdir "+filepath.Join(dir, "build-"+s.name), "--define", "_rpmdir "+filepath.Join(dir, "rpms"),
		"--define", "_build_id_links none", "--define", "debug_package %{nil}", "--define", "__brp_strip %{nil}", "--define", "_dbpath "+filepath.Join(dir, "db-"+s.name), file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("rpmbuild %s: %w\n%s", s.name, err, out)
	}
	return nil
}

// buildAll builds packages at a time and returns their files.
func buildAll(dir string, specs []spec) ([]string, error) {
	var wg sync.WaitGroup
	errs := make([]error, len(specs))
	for i, s := range specs {
		wg.Go(func() { errs[i] = s.build(dir) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var files []string
	built := filepath.Join(dir, "rpms")
	if err := os.MkdirAll(built, 0o755); err != nil { // of no packages
		return nil, err
	}
	err := filepath.WalkDir(built, func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".rpm" {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// baseFiles are the packages of base, which are made once.
var baseFiles = sync.OnceValues(func() ([]string, error) { return buildAll(shared, base()) })

// withBase returns the files of base and of some packages more.
func withBase(t testing.TB, more ...spec) []string {
	t.Helper()
	files, err := baseFiles()
	if err != nil {
		t.Fatal(err)
	}
	own, err := buildAll(t.TempDir(), more)
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Concat(files, own)
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	return all
}

// hostFiles copies programs of the host and the libraries they need.
func hostFiles(root string, programs ...string) error {
	copied := map[string]bool{}
	put := func(name string) error {
		if copied[name] {
			return nil
		}
		copied[name] = true
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		to := filepath.Join(root, "usr", strings.TrimPrefix(name, "/usr"))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o755)
	}
	for _, p := range programs {
		if err := put(p); err != nil {
			return err
		}
		out, err := exec.Command("ldd", p).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", p, err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				if err := put(word); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func base() []spec {
	return []spec{
		{name: "setup", tags: "BuildArch: noarch", body: "%files\n%config(noreplace) /etc/passwd\n%config(noreplace) /etc/group\n", install: func(root string) error {
			if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
				return err
			}
			return errors.Join(
				os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/bash\nmail:x:8:12::/:/bin/false\n"), 0o644),
				os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nmail:x:12:\n"), 0o644))
		}},
		{name: "filesystem", tags: "Requires(pre): setup", body: "%files\n%dir /usr\n%dir /usr/bin\n%dir /usr/sbin\n%dir /usr/lib\n%dir /usr/lib64\n/bin\n/sbin\n/lib\n/lib64\n%dir /var\n%dir /var/lib\n%attr(2775,root,mail) %dir /var/mail\n%dir /proc\n%dir /sys\n%dir /dev\n%dir /run\n%attr(1777,root,root) %dir /tmp\n", install: func(root string) error {
			for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var/lib", "var/mail", "proc", "sys", "dev", "run", "tmp"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					return err
				}
			}
			for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
				if err := os.Symlink("usr/"+dir, filepath.Join(root, dir)); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "bash", tags: "Requires: filesystem\nProvides: /bin/sh", body: "%files\n/usr/bin/*\n/usr/lib/x86_64-linux-gnu/*\n/usr/lib64/*\n", install: func(root string) error {
			if err := hostFiles(root, "/bin/bash", "/bin/touch", "/bin/ls", "/bin/cat", "/bin/id", "/bin/mkdir", "/bin/stat"); err != nil {
				return err
			}
			return os.Symlink("bash", filepath.Join(root, "usr/bin/sh"))
		}},
		{name: "rpm", tags: "Requires: bash", body: "%files\n/usr/bin/rpm\n/usr/lib/rpm\n/usr/lib/x86_64-linux-gnu/*\n/etc/rpm\n%dir /var/lib/rpm\n%post\n:\n", install: func(root string) error {
			if err := hostFiles(root, "/usr/bin/rpm"); err != nil {
				return err
			}
			// What the package of the shell has already stays there.
			shell := filepath.Join(root, "..", "shell")
			if err := hostFiles(shell, "/bin/bash", "/bin/ls", "/bin/cat", "/bin/id", "/bin/mkdir", "/bin/stat", "/bin/touch"); err != nil {
				return err
			}
			err := fs.WalkDir(os.DirFS(shell), ".", func(name string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					os.Remove(filepath.Join(root, name))
				}
				return err
			})
			if err != nil {
				return err
			}
			if err := os.CopyFS(filepath.Join(root, "usr/lib/rpm"), os.DirFS("/usr/lib/rpm")); err != nil {
				return err
			}
			os.MkdirAll(filepath.Join(root, "etc/rpm"), 0o755)
			os.MkdirAll(filepath.Join(root, "var/lib/rpm"), 0o755)
			return os.WriteFile(filepath.Join(root, "etc/rpm/macros"), []byte("%_dbpath /var/lib/rpm\n"), 0o644)
		}},
	}
}

func install(t *testing.T, files []string, patience time.Duration) (*chroot.Session, []Failure, error) {
	t.Helper()
	packages, err := Open(files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(packages) })
	work := t.TempDir()
	lower, err := Cache{work}.Starters(t.Context(), packages)
	if err != nil {
		t.Fatal(err)
	}
	s, err := chroot.Open(t.Context(), chroot.Config{
		Lower: lower, Work: filepath.Join(work, "changes"), Arch: "x86_64",
		Fill: func(changes string) error { return Provide(packages, changes) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	failures, err := Install(t.Context(), s, packages, Options{Patience: patience})
	return s, failures, err
}

// patience is long for a machine that does other things, and short for who waits for the test of a scriptlet that hangs. In the other
// tests a machine may be as busy as it likes.
const patience = 20 * time.Second

func TestHangingScriptlet(t *testing.T) {
	need.Patience(t)
	needRPM(t)
	asleep := spec{name: "asleep", tags: "Requires: rpm", body: "%post\necho good night\nkill -STOP $$\n%files\n"}
	began := time.Now()
	_, _, err := install(t, withBase(t, asleep), patience)
	var hang *HangError
	if !errors.As(err, &hang) {
		t.Fatalf("error %v", err)
	}
	if !strings.HasPrefix(hang.Package, "asleep-1-1") || !strings.Contains(hang.Tail, "good night") || time.Since(began) < patience {
		t.Errorf("%+v after %s", hang, time.Since(began))
	}
}

func output(t *testing.T, s *chroot.Session, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := s.Run(context.Background(), chroot.Command{Args: args, Output: &out}); err != nil {
		t.Errorf("%v: %v\n%s", args, err, out.Bytes())
	}
	return strings.TrimSpace(out.String())
}

func TestInstall(t *testing.T) {
	need.Patience(t)
	needRPM(t)
	demo := spec{name: "demo", tags: "Requires: rpm\nRequires(pre): bash", install: func(root string) error {
		os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755)
		os.MkdirAll(filepath.Join(root, "etc"), 0o755)
		err := os.WriteFile(filepath.Join(root, "usr/bin/demo"), []byte("demo\n"), 0o755)
		return errors.Join(err, os.Link(filepath.Join(root, "usr/bin/demo"), filepath.Join(root, "usr/bin/demo2")),
			os.WriteFile(filepath.Join(root, "etc/demo.conf"), []byte("conf\n"), 0o644))
	}, body: `%pre
echo 'late:x:77:77::/:/bin/false' >> /etc/passwd
echo 'late:x:77:' >> /etc/group
%post
echo "post $1" >> /var/lib/demo.log
%posttrans
echo "posttrans $1" >> /var/lib/demo.log
%post -n demo -p <lua>
%files
%attr(4755,root,root) /usr/bin/demo
%attr(4755,root,root) /usr/bin/demo2
%attr(0640,late,late) %config /etc/demo.conf
%ghost /var/lib/demo.log
`}
	demo.body = strings.Replace(demo.body, "%post -n demo -p <lua>\n", "", 1)
	watcher := spec{name: "watcher", tags: "Requires: rpm", body: `%triggerin -- demo
echo "trigger $1 $2" >> /var/lib/demo.log
%transfiletriggerin -- /usr/bin
while read f; do case $f in */demo*) echo "file $f" >> /var/lib/demo.log;; esac; done
%post -p <lua>
f = io.open("/var/lib/lua.log", "w") f:write("lua " .. arg[2] .. "\n") f:close()
%files
`}
	grumpy := spec{name: "grumpy", tags: "Requires: demo", body: "%post\necho it hurts\nexit 3\n%files\n"}
	files := withBase(t, demo, watcher, grumpy)
	s, failures, err := install(t, files, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(failures) != 1 || failures[0] != (Failure{"grumpy-1-1.x86_64", "%post", 3}) {
		t.Errorf("failures: %+v", failures)
	}
	// The lists of users have one more since; demo.log is a ghost. All else is as its package has it.
	if out := output(t, s, "rpm", "-V", "filesystem", "bash", "rpm", "grumpy", "watcher"); out != "" {
		t.Errorf("rpm -V:\n%s", out)
	}
	if out := strings.Fields(output(t, s, "rpm", "-qa", "--qf", "%{NAME}\n")); len(out) != len(files) {
		t.Errorf("rpm -qa has %v", out)
	}
	log := strings.Split(output(t, s, "cat", "/var/lib/demo.log"), "\n")
	slices.Sort(log)
	want := []string{"file /usr/bin/demo", "file /usr/bin/demo2", "post 1", "posttrans 1", "trigger 1 1"}
	if !slices.Equal(log, want) {
		t.Errorf("the scriptlets wrote %q, want %q", log, want)
	}
	if out := output(t, s, "cat", "/var/lib/lua.log"); out != "lua 1" {
		t.Errorf("the Lua scriptlet wrote %q", out)
	}
	stat := func(name string) syscall.Stat_t {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(s.Tree(), name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return st
	}
	if st := stat("etc/demo.conf"); st.Uid != 77 || st.Gid != 77 || st.Mode != 0o100640 {
		t.Errorf("demo.conf belongs to %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	if a, b := stat("usr/bin/demo"), stat("usr/bin/demo2"); a.Ino != b.Ino || a.Mode != 0o104755 {
		t.Errorf("demo and demo2 are %d and %d, mode %o", a.Ino, b.Ino, a.Mode)
	}
	if st := stat("var/mail"); st.Gid != 12 || st.Mode != 0o042775 {
		t.Errorf("/var/mail belongs to group %d, mode %o", st.Gid, st.Mode)
	}
	if _, err := os.Lstat(filepath.Join(s.Tree(), spool)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the package files are still there: %v", err)
	}
}

func TestFailingPre(t *testing.T) {
	need.Patience(t)
	needRPM(t)
	broken := spec{name: "broken", tags: "Requires: rpm", body: "%pre\necho cannot do that\nexit 7\n%files\n"}
	_, _, err := install(t, withBase(t, broken), 0)
	var failed *ScriptletError
	if !errors.As(err, &failed) {
		t.Fatalf("error %v", err)
	}
	if failed.Package != "broken-1-1.x86_64" || !strings.HasPrefix(failed.Scriptlet, "%pre") || failed.Code != 7 || !strings.Contains(failed.Tail, "cannot do that") {
		t.Errorf("%+v", failed)
	}
}

func TestNoRPM(t *testing.T) {
	needRPM(t)
	files := slices.DeleteFunc(withBase(t), func(name string) bool { return strings.HasPrefix(filepath.Base(name), "rpm-") })
	packages, err := Open(files)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(packages)
	if _, err := (Cache{t.TempDir()}).Starters(t.Context(), packages); err == nil || !strings.Contains(err.Error(), "no package rpm") {
		t.Errorf("%v", err)
	}
}
