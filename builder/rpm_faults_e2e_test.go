//go:build e2e

package builder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/check"
	"netroot/builder/image"
	"netroot/builder/recipe"
	"netroot/builder/store"
)

// TestE2ERPMFaults builds from repositories that are broken, or lie, and into a store that is too small: each time one error says so,
// and nothing is published.
func TestE2ERPMFaults(t *testing.T) {
	_, repo, _ := likeEL9(t)
	one := func(dir, pattern string) string {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %q %v", pattern, found, err)
		}
		return found[0]
	}
	rewrite := func(file string, change func([]byte) []byte) error {
		data, err := os.ReadFile(file)
		return errors.Join(err, os.Remove(file), os.WriteFile(file, change(data), 0o644)) // never into the file that others have, too
	}
	bash := "Packages/bash-5*.rpm"
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		groups string
		size   string // of the store's file system
		want   []string
	}{
		{name: "no repomd.xml", want: []string{"repository os", "it is no repomd.xml"},
			damage: func(dir string) error {
				return rewrite(filepath.Join(dir, "repodata/repomd.xml"), func([]byte) []byte { return []byte("junk\n") })
			}},
		{name: "metadata cut off", want: []string{"primary of os", "size 500 instead of"},
			damage: func(dir string) error {
				return rewrite(one(dir, "repodata/*-primary.xml.gz"), func(b []byte) []byte { return b[:500] })
			}},
		{name: "a package that changed", want: []string{"fetch bash", "SHA-256", "in sync"},
			damage: func(dir string) error {
				return rewrite(one(dir, bash), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			}},
		{name: "another package under its name", want: []string{"fetch bash", "size", "in sync"},
			damage: func(dir string) error {
				other, err := os.ReadFile(one(dir, "Packages/dash-*.rpm"))
				return errors.Join(err, rewrite(one(dir, bash), func([]byte) []byte { return other }))
			}},
		{name: "metadata that lies", want: []string{"package bash-", "is, by its own header, dash-", "wrong"},
			damage: func(dir string) error { return swap(dir, one(dir, bash), one(dir, "Packages/dash-*.rpm")) }},
		{name: "a package that is gone", want: []string{"fetch bash", "no such file", "in sync"},
			damage: func(dir string) error { return os.Remove(one(dir, bash)) }},
		{name: "a package that nobody signed", want: []string{"bash-", "sign"}, damage: func(dir string) error { return unsign(dir, one(dir, bash)) }},
		{name: "a group that is not there", groups: "coer", want: []string{"no group coer", "did you mean core?"}},
		{name: "a small disk", size: "150m", want: []string{"no space left"}},
		{name: "a disk that is too small for the root", size: "420m", want: []string{"the store's file system is too small", "MB more"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "repo")
			if out, err := exec.Command("cp", "-al", repo.Dir, dir).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if c.damage != nil {
				if err := c.damage(dir); err != nil {
					t.Fatal(err)
				}
			}
			if c.groups == "" {
				c.groups = "core"
			}
			file := filepath.Join(t.TempDir(), "faulty.yaml")
			text := fmt.Sprintf("name: faulty\narch: amd64\nfrom: {yum: {groups: [%s], repos: [{name: os, baseurl: \"file://%s\", gpgkey: %s}]}}\npackages: [kernel, rpm, iproute, dhcp-client]\n", c.groups, dir, repo.Key)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			r, err := recipe.Find(file)
			if err != nil {
				t.Fatal(err)
			}
			at := t.TempDir()
			if c.size != "" {
				if err := unix.Mount("netroot-test", at, "tmpfs", 0, "size="+c.size); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
			}
			s, err := store.Open(filepath.Join(at, "store"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = (&Builder{Store: s}).Build(t.Context(), r, Options{})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if strings.Count(err.Error(), "\n") > 1 {
				t.Errorf("the error is long:\n%v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(at, "store/images/*/*")); len(left) > 0 {
				t.Errorf("published: %q", left)
			}
			if left, _ := filepath.Glob(filepath.Join(at, "store", "work", "faulty@*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestE2EFailingScriptlet builds an image with a package whose %post fails: rpm goes on, and so does the build, but the image says so.
func TestE2EFailingScriptlet(t *testing.T) {
	_, repo, packages := likeEL9(t)
	r, err := recipe.Find(recipeOf(t, repo, append(packages, "oddities-failing")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	result, err := (&Builder{Store: s}).Build(t.Context(), r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(result.Generation.Dir, "image.json"))
	if err != nil {
		t.Fatal(err)
	}
	const note = "package oddities-failing-1-1.noarch: its %post scriptlet failed with exit code 3"
	var manifest struct{ Notes []string }
	if err := json.Unmarshal(data, &manifest); err != nil || !slices.Contains(manifest.Notes, note) {
		t.Errorf("%v, notes %q", err, manifest.Notes)
	}
	if !slices.ContainsFunc(result.Findings, func(f check.Finding) bool { return strings.Contains(f.Problem, note) }) {
		t.Errorf("check does not say so: %+v", result.Findings)
	}
	// The image has what the packages have, devices and capabilities included.
	file, err := image.Open(filepath.Join(result.Generation.Dir, store.PartRoot))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := fs.Stat(file.FS(), "usr/lib/oddities/null")
	if err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		t.Errorf("/usr/lib/oddities/null: %v, %v", info, err)
	}
}

// TestE2EMirrors takes real packages from the second of two mirrors, and, by the lock, from the cache when nobody can be asked any more.
func TestE2EMirrors(t *testing.T) {
	_, repo, packages := likeEL9(t)
	good := httptest.NewServer(http.FileServer(http.Dir(repo.Dir)))
	defer good.Close()
	dead := httptest.NewServer(nil)
	list := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s\n%s\n", dead.URL, good.URL)
	}))
	defer list.Close()
	dead.Close()
	file := filepath.Join(t.TempDir(), "listed.yaml")
	text := fmt.Sprintf("name: listed\narch: amd64\nfrom: {yum: {repos: [{name: os, mirrorlist: %s, gpgkey: %s}]}}\npackages: [%s]\n", list.URL, repo.Key, strings.Join(packages, ", "))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := recipe.Find(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err == nil {
		err = s.Prepare()
	}
	if err != nil {
		t.Fatal(err)
	}
	open := func() *yumSource {
		src, err := (&Builder{Store: s}).yumSource(r)
		if err != nil {
			t.Fatal(err)
		}
		src.fetcher.Attempts, src.fetcher.Pause = 2, time.Millisecond
		return src
	}
	src := open()
	pins, err := src.resolve(t.Context())
	if err == nil {
		err = src.fetch(t.Context(), pins)
	}
	if err != nil {
		t.Fatal(err)
	}

	first := pins.Packages[0]
	if err := src.fetcher.Cache.Remove(first.Sum()); err != nil {
		t.Fatal(err)
	}
	if err := open().fetch(t.Context(), pins); err != nil {
		t.Errorf("by the lock: %v", err)
	}
	good.Close()
	list.Close()
	if err := open().fetch(t.Context(), pins); err != nil {
		t.Errorf("by the lock, from the cache: %v", err)
	}
	if err := src.fetcher.Cache.Remove(first.Sum()); err != nil {
		t.Fatal(err)
	}
	if err := open().fetch(t.Context(), pins); err == nil || !strings.Contains(err.Error(), "repository os: fetch "+list.URL) {
		t.Errorf("by the lock, with a package missing: %v", err)
	}
}

// swap puts one package under the name of another, and has new metadata say of both what was said before.
func swap(dir, name, other string) error {
	primary, err := filepath.Glob(filepath.Join(dir, "repodata/*-primary.xml.gz"))
	if err != nil {
		return err
	}
	before, err := exec.Command("zcat", primary[0]).Output()
	if err != nil {
		return err
	}
	a, b := filepath.Base(name), filepath.Base(other)
	// The checksum and the size of dash's file stand in what is said of bash.
	sum := func(of string) (string, string) {
		i := bytes.Index(before, []byte(`href="Packages/`+of+`"`))
		text := string(before[bytes.LastIndex(before[:i], []byte("<package ")):i])
		_, rest, _ := strings.Cut(text, `pkgid="YES">`)
		hex, _, _ := strings.Cut(rest, "<")
		_, rest, _ = strings.Cut(text, `<size package="`)
		size, _, _ := strings.Cut(rest, `"`)
		return hex, size
	}
	sumA, sizeA := sum(a)
	sumB, sizeB := sum(b)
	after := strings.NewReplacer(sumA, sumB, `<size package="`+sizeA+`"`, `<size package="`+sizeB+`"`, "Packages/"+a, "Packages/"+b).Replace(string(before))
	return rewriteMetadata(dir, after)
}

// rewriteMetadata makes metadata that is right by its own checksums.
func rewriteMetadata(dir, primary string) error {
	file := filepath.Join(dir, "primary.xml")
	if err := os.WriteFile(file, []byte(primary), 0o644); err != nil {
		return err
	}
	repomd := filepath.Join(dir, "repodata")
	if out, err := exec.Command("sh", "-ec", `rm -r "$1/repodata"; mkdir "$1/repodata" "$1/empty"; createrepo_c --quiet "$1/empty"; cp "$1"/empty/repodata/repomd.xml "$1/repodata/"
modifyrepo_c --remove primary "$2"; modifyrepo_c --mdtype=primary "$1/primary.xml" "$2"; modifyrepo_c --mdtype=group "$1/comps.xml" "$2"`, "sh", dir, repomd).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// unsign takes the signature off a package, and makes the metadata anew.
func unsign(dir, file string) error {
	out, err := exec.Command("sh", "-ec", `cp "$2" "$2.x"; mv "$2.x" "$2"; rpmsign --delsign "$2" 2>&1; createrepo_c --quiet --groupfile "$1/comps.xml" "$1"`, "sh", dir, file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}
