package check

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/need"
	"netroot/builder/tree"
)

// A guard is a root that knows when a path that the kernel would follow out of it is opened or asked about.
type guard struct {
	t    *testing.T
	root fs.FS
}

func (g guard) met(op, name string, follows bool) {
	for at := name; at != "."; at = path.Dir(at) {
		inside, err := tree.ResolveParent(g.root, at)
		if err != nil {
			continue // nothing is there; is the folder?
		}
		if inside != at {
			g.t.Errorf("%s %s goes through a link, which inside the root leads to %s", op, name, inside)
		} else if info, err := fs.Lstat(g.root, at); follows && at == name && err == nil && info.Mode()&fs.ModeSymlink != 0 {
			g.t.Errorf("%s %s follows a link", op, name)
		}
		return
	}
}

func (g guard) Open(name string) (fs.File, error) {
	g.met("open", name, true)
	return g.root.Open(name)
}

func (g guard) Stat(name string) (fs.FileInfo, error) {
	g.met("stat", name, true)
	return fs.Stat(g.root, name)
}

func (g guard) ReadFile(name string) ([]byte, error) {
	g.met("read", name, true)
	return fs.ReadFile(g.root, name)
}

func (g guard) ReadDir(name string) ([]fs.DirEntry, error) {
	g.met("list", name, true)
	return fs.ReadDir(g.root, name)
}

func (g guard) Lstat(name string) (fs.FileInfo, error) {
	g.met("lstat", name, false)
	return fs.Lstat(g.root, name)
}

func (g guard) ReadLink(name string) (string, error) {
	g.met("readlink", name, false)
	return fs.ReadLink(g.root, name)
}

// everything is a root in which every check has something to read.
func everything(t *testing.T) fstest.MapFS {
	root := el6Root(t)
	for name, f := range map[string]*fstest.MapFile{
		"var/lib/systemd/timesync/clock": file("", 0o644), "etc/adjtime": file("0.0 0 0\n0\nUTC\n", 0o644), "etc/host.conf": file("multi on\n", 0o644),
		"usr/bin/rpm": file("", 0o755), "var/lib/rpm/Packages": file("no database", 0o644), "etc/rpm/macros.x": file("%_x y\n", 0o644), "etc/passwd": file("root:x:0:0::/:/bin/sh\n", 0o644),
		"etc/ld.so.conf": file("include ld.so.conf.d/*.conf\n", 0o644), "etc/ld.so.conf.d/x.conf": file("/opt/lib\n", 0o644), "opt/lib/libx.so.1": file(tiny(2, 62), 0o644), "etc/ld.so.cache": file("", 0o644),
		"etc/rwtab.d/x": file("files /etc/x\n", 0o644), "etc/selinux/config": file("SELINUX=disabled\n", 0o644), folderList: file("/var\n", 0o644),
	} {
		root[name] = f
	}
	return root
}

// TestLinksLeadNowhereElse has absolute links in place of every file, and of every folder at the top. Nothing may be looked at through one of
// them, and the findings are the same.
func TestLinksLeadNowhereElse(t *testing.T) {
	findings := func(root fs.FS) string {
		var all strings.Builder
		for _, f := range Run(guard{t, root}, Facts{Cmdline: []string{"quiet"}, PCI: []string{"8086:100e"}}) {
			all.WriteString(strings.ReplaceAll(f.String(), "/elsewhere/", "/") + "\n")
		}
		return all.String()
	}
	plain := everything(t)
	want := findings(plain)
	if !strings.Contains(want, "rpm-database") || !strings.Contains(want, "8086:100e") {
		t.Fatalf("not everything is looked at: %s", want)
	}
	files, folders := fstest.MapFS{}, fstest.MapFS{}
	for name, f := range plain {
		top, rest, _ := strings.Cut(name, "/")
		folders["elsewhere/"+name] = f
		folders[top] = link("/elsewhere/" + top)
		if rest == "" || f.Mode&fs.ModeSymlink != 0 {
			files[name] = f
			continue
		}
		files["elsewhere/"+name], files[name] = f, link("/elsewhere/"+name)
	}
	for what, root := range map[string]fs.FS{"files": files, "folders": folders} {
		if diff := cmp.Diff(want, findings(root)); diff != "" {
			t.Errorf("%s are links (-want +got):\n%s", what, diff)
		}
	}
}

// TestHostIsNotRead has a folder on the disk with a link to a file of the machine that runs the test.
func TestHostIsNotRead(t *testing.T) {
	host := t.TempDir()
	write := func(name, text string) string {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	clock := write(filepath.Join(host, "clock"), "")
	late := time.Now().AddDate(1, 0, 0)
	if err := os.Chtimes(clock, late, late); err != nil {
		t.Fatal(err)
	}
	secret := write(filepath.Join(host, "resolv.conf"), "")
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	links := map[string]string{
		"var/lib/systemd/timesync/clock": clock, "etc": host,
		"proc": "/proc", "sbin/init": "/proc/self/exe", "lib/modules": "/lib/modules", "usr/bin/rpm": "/bin/sh", "var/lib/rpm": host,
	}
	write(filepath.Join(host, "adjtime"), "1.5 0 0\n")
	write(filepath.Join(host, "Packages"), "hunter2")
	dir := t.TempDir()
	for name, target := range links {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range Run(os.DirFS(dir), Facts{}) {
		switch f.Check {
		case "clock", "rpm-database":
			t.Errorf("of the machine's own: %s", f)
		case "resolv.conf":
			if !strings.Contains(f.Problem, "missing") {
				t.Errorf("of the machine's own: %s", f)
			}
		}
	}
}

// TestPipesStopNothing has pipes in place of files, which nobody writes to.
func TestPipesStopNothing(t *testing.T) {
	need.Patience(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, everything(t)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if err := os.Remove(name); err != nil {
			return err
		}
		return syscall.Mkfifo(name, 0o755)
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan []Finding, 1)
	go func() { done <- Run(os.DirFS(dir), Facts{}) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("check waits for somebody who writes to a pipe")
	}
}
