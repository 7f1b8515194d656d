package rpmroot

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/rpm"
)

// TestLinksStayInTheRoot has links in a root that lead, for the host's kernel, to files of the host.
func TestLinksStayInTheRoot(t *testing.T) {
	dir, host := t.TempDir(), t.TempDir()
	secret, environment := filepath.Join(host, "secret"), filepath.Join(host, "rpm", "__db.001")
	if err := errors.Join(os.WriteFile(secret, nil, 0o600), os.Mkdir(filepath.Join(host, "rpm"), 0o700), os.WriteFile(environment, nil, 0o600),
		os.MkdirAll(filepath.Join(dir, "var/lib"), 0o755), os.MkdirAll(filepath.Join(dir, host, "served"), 0o755), os.Mkdir(filepath.Join(host, "served"), 0o700),
		os.Symlink(secret, filepath.Join(dir, "mail")), os.Symlink(filepath.Join(host, "served"), filepath.Join(dir, "spool")),
		os.Symlink(filepath.Join(host, "rpm"), filepath.Join(dir, "var/lib/rpm"))); err != nil {
		t.Fatal(err)
	}
	u := &unpacker{dir: dir, fsys: os.DirFS(dir)}
	for _, name := range []string{"mail", "spool"} {
		e := &rpm.Entry{Name: "/" + name, Mode: rpm.ModeDir | 0o777, User: "root", Group: "mail"}
		if err := u.folder(filepath.Join(dir, name), e); err != nil {
			t.Error(err)
		}
		u.owned = append(u.owned, *e)
	}
	if err := errors.Join(u.own(), clean(dir)); err != nil {
		t.Error(err)
	}
	for name, mode := range map[string]os.FileMode{secret: 0o600, filepath.Join(host, "served"): 0o700, environment: 0o600} {
		if info, err := os.Stat(name); err != nil {
			t.Errorf("the host's file is gone: %v", err)
		} else if info.Mode().Perm() != mode {
			t.Errorf("the host's %s is %v now", name, info.Mode())
		}
	}
	if info, err := os.Lstat(filepath.Join(dir, "mail")); err != nil || !info.IsDir() {
		t.Errorf("a folder did not take the place of a link that leads nowhere: %v, %v", info, err)
	}
}

// TestCleanFollowsLinksOfTheRoot has the database where a link of the root says.
func TestCleanFollowsLinksOfTheRoot(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "usr/lib/sysimage/rpm/__db.001")
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, nil, 0o600), os.MkdirAll(filepath.Join(dir, "var/lib"), 0o755),
		os.Symlink("/usr/lib/sysimage/rpm", filepath.Join(dir, "var/lib/rpm")), clean(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the environment of the database is still there: %v", err)
	}
}

// TestEndlessLine has a scriptlet that writes without ever ending its line.
func TestEndlessLine(t *testing.T) {
	w := &watcher{log: slog.New(slog.DiscardHandler), names: map[string]bool{}}
	for range 64 {
		w.Write([]byte(strings.Repeat("x", 64<<10)))
	}
	w.Write([]byte("the end\n"))
	if n := len(w.partial); n >= longLine {
		t.Errorf("%d bytes are kept of a line without an end", n)
	}
	if last := w.lines[len(w.lines)-1]; !strings.HasSuffix(last, "the end") {
		t.Errorf("the last line is %.80q", last)
	}
}
