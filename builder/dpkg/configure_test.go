package dpkg

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/chroot"
)

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		name, output          string
		pkg, script, contains string
		code                  int
	}{
		{"postinst", "Setting up a (1.0) ...\nfine\nSetting up openssh-server (1:9.2) ...\nUsage: foo\nsetting up failed\n" +
			"dpkg: error processing package openssh-server (--configure):\n installed openssh-server package post-installation script subprocess returned error exit status 127\n" +
			"dpkg: error processing package b (--configure):\n dependency problems - leaving unconfigured\nErrors were encountered while processing:\n openssh-server\n b\n",
			"openssh-server", "postinst", "setting up failed", 127},
		{"preinst", "Selecting x\nPreparing to unpack .../x.deb ...\nno\ndpkg: error processing archive /var/x_all.deb (--unpack):\n new x package pre-installation script subprocess returned error exit status 3\n",
			"x", "preinst", "no\n", 3},
		{"dependencies", "dpkg: dependency problems prevent configuration of a:\n a depends on b; however:\n  Package b is not installed.\n\n" +
			"dpkg: error processing package a (--configure):\n dependency problems - leaving unconfigured\n",
			"a", "dpkg", "Package b is not installed", 1},
	} {
		var seen []string
		w := &watcher{line: func(l string) { seen = append(seen, l) }}
		for i := range len(tt.output) { // however it arrives
			w.Write([]byte(tt.output[i : i+1]))
		}
		var e *ScriptError
		if err := w.explain(&chroot.ExitError{Code: 1}); !errors.As(err, &e) {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if e.Package != tt.pkg || e.Script != tt.script || e.Code != tt.code || !strings.Contains(e.Tail, tt.contains) {
			t.Errorf("%s: %+v", tt.name, e)
		}
		if strings.Contains(e.Tail, "fine") {
			t.Errorf("%s: the output of another package is shown:\n%s", tt.name, e.Tail)
		}
		if len(seen) != strings.Count(tt.output, "\n") {
			t.Errorf("%s: %d lines seen", tt.name, len(seen))
		}
	}
	exit := &chroot.ExitError{Code: 2}
	if err := (&watcher{}).explain(exit); !errors.Is(err, error(exit)) {
		t.Errorf("without a package: %v", err)
	}
}

func TestClean(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{ // what is left of it; "-" is nothing
		"var/lib/apt/lists/deb.example_Packages": "-",
		"var/lib/apt/lists/partial/x":            "-",
		"var/cache/apt/archives/a.deb":           "-",
		"var/cache/apt/pkgcache.bin":             "-",
		"var/cache/debconf/config.dat":           "keep",
		"var/cache/debconf/config.dat-old":       "-",
		"var/lib/dpkg/status":                    "keep",
		"var/lib/dpkg/status-old":                "-",
		"var/log/dpkg.log":                       "-",
		"var/log/wtmp":                           "",
		"var/log/README":                         "keep",
		"var/log/sub/deep.log":                   "",
	}
	for name := range files {
		at := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(at), 0o755)
		os.WriteFile(at, []byte("keep"), 0o640)
	}
	outside := filepath.Join(t.TempDir(), "host.log")
	os.WriteFile(outside, []byte("keep"), 0o644)
	os.Symlink(outside, filepath.Join(dir, "var/log/linked.log"))
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for range 2 { // the second time there is nothing to do
		if err := Clean(root); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if want == "-" {
			if !os.IsNotExist(err) {
				t.Errorf("%s is left", name)
			}
		} else if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, _ := os.ReadFile(outside); string(got) != "keep" {
		t.Error("a link out of the root was followed")
	}
	if st, err := os.Stat(filepath.Join(dir, "var/lib/apt/lists/partial")); err != nil || !st.IsDir() {
		t.Errorf("apt's partial folder is gone: %v", err)
	}
}

// TestTidy is what is done after hooks: their own logs stay.
func TestTidy(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"var/log/dpkg.log", "var/log/mine", "var/cache/apt/archives/a.deb", "var/lib/dpkg/status", "var/lib/dpkg/status-old"} {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte("keep"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := Tidy(root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"var/log/dpkg.log": "", "var/log/mine": "keep", "var/cache/apt/archives/a.deb": "", "var/lib/dpkg/status": "keep", "var/lib/dpkg/status-old": ""} {
		if text, _ := os.ReadFile(filepath.Join(dir, name)); string(text) != want {
			t.Errorf("%s: %q", name, text)
		}
	}
}
