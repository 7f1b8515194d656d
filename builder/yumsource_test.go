package builder

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/lock"
	"netroot/builder/recipe"
	"netroot/builder/store"
	"netroot/builder/yum"
)

// yumSourceOf opens the source of a recipe with these repositories, and returns what it logged.
func yumSourceOf(t *testing.T, mirror, repos string) (*yumSource, string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "site.yaml")
	text := fmt.Sprintf("name: site\narch: amd64\nfrom: {yum: {mirror: \"file:///nowhere\", repos: [%s]}}\npackages: [kernel, /usr/share/dict/words]\n", repos)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := recipe.Find(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	src, err := (&Builder{Store: s, Mirror: mirror, Log: slog.New(slog.NewTextHandler(&log, nil))}).yumSource(r)
	return src, log.String(), err
}

const (
	movable = `{name: os, path: 9/os, gpgcheck: false}`
	fixed   = `{name: site, baseurl: "file:///nowhere/site", gpgcheck: false}`
	listed  = `{name: extra, metalink: "https://mirrors.example/m", gpgcheck: false}`
)

func TestMirrorThatChangesNothing(t *testing.T) {
	for _, c := range []struct{ repos, fails, warns string }{
		{movable, "", ""},
		{movable + ", " + fixed + ", " + listed, "", `repositories="site extra"`},
		{fixed + ", " + listed, "--mirror has no effect: it stands in for the recipe's mirror:, and no repository (site, extra) has a path:", ""},
	} {
		_, log, err := yumSourceOf(t, "file:///other", c.repos)
		if fmt.Sprint(err) != "<nil>" && c.fails == "" || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: %v", c.repos, err)
		}
		if warned := strings.Contains(log, "--mirror has no effect"); warned != (c.warns != "") || !strings.Contains(log, c.warns) {
			t.Errorf("%s: logged %s", c.repos, log)
		}
		if _, log, err = yumSourceOf(t, "", c.repos); err != nil || strings.Contains(log, "--mirror") {
			t.Errorf("without --mirror: %v, %s", err, log)
		}
	}
}

// TestPackageThatIsGone tells who is to blame, and the way out.
func TestPackageThatIsGone(t *testing.T) {
	for _, c := range []struct {
		repo  string
		found bool // by metadata that were read, and not by a lock
		says  []string
	}{
		{movable, false, []string{"no longer has what was locked", "netroot lock", "--mirror"}},
		{movable, true, []string{"does not hold what its own metadata says", "in sync", "--mirror"}},
		{fixed, false, []string{"no longer has what was locked", "netroot lock", "in the recipe"}},
		{fixed, true, []string{"does not hold what its own metadata says", "in sync", "in the recipe"}},
	} {
		src, _, err := yumSourceOf(t, "", c.repo)
		if err != nil {
			t.Fatal(err)
		}
		if len(src.config.Files) != 1 || src.config.Files[0] != "/usr/share/dict/words" {
			t.Errorf("files to be looked up: %q", src.config.Files)
		}
		name := src.config.Repos[0].Name
		if c.found {
			src.mirrors = yum.Mirrors{name: {src.config.Repos[0].BaseURL}}
		}
		pins := &lock.Lock{Arch: "x86_64", Packages: []lock.Package{{Name: "kernel", Version: "1-1", Arch: "x86_64", Repo: name, Path: "Packages/kernel-1-1.x86_64.rpm", Size: 7, SHA256: strings.Repeat("0", 64)}}}
		err = src.fetch(t.Context(), pins)
		for _, want := range c.says {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, found %v: %v\nwant %q", name, c.found, err, want)
			}
		}
		if movableHint := strings.Contains(fmt.Sprint(err), "--mirror"); movableHint != (c.repo == movable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
