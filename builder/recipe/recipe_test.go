package recipe

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/golden"
	"netroot/builder/strictyaml"
)

// Every bad recipe gives the text beside it, in testdata/golden.
func TestBadRecipes(t *testing.T) {
	t.Chdir("testdata/bad")
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d bad recipes, %v", len(files), err)
	}
	cwd, err := filepath.EvalSymlinks(".")
	if err != nil {
		t.Fatal(err)
	}
	if cwd, err = filepath.Abs(cwd); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			r, err := Load(file)
			if err == nil {
				t.Fatalf("loaded: %+v", r)
			}
			var list strictyaml.Errors
			if !errors.As(err, &list) {
				t.Fatalf("%T is not strictyaml.Errors", err)
			}
			for _, e := range list {
				if e.Line > 0 && e.Source == "" && !strings.Contains(e.Msg, "empty") {
					t.Errorf("no source line: %v", e)
				}
			}
			text := strings.ReplaceAll(err.Error(), cwd+"/", "DIR/")
			golden.Compare(t, filepath.Join("../golden", strings.TrimSuffix(file, ".yaml")+".txt"), text+"\n")
		})
	}
}

// A password or key that is wrong may still be a secret, and must not end up in the log of a nightly build.
func TestSecretsAreNotShown(t *testing.T) {
	_, err := Load("testdata/bad/users.yaml")
	if err == nil {
		t.Fatal("loaded")
	}
	for _, secret := range []string{"secret", "G//4keteveJp0qb8z2DxG", "$6$short", "BEGIN OPENSSH"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows %q:\n%v", secret, err)
		}
	}
}

const minimal = "arch: amd64\nfrom: {apt: {suite: bookworm}}\npackages: [linux-image-amd64]\n"

func mustLoad(t *testing.T, fsys fstest.MapFS, name string) *Recipe {
	t.Helper()
	r, err := LoadFS(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func file(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

func TestInclude(t *testing.T) {
	fsys := fstest.MapFS{
		"top.yaml": file(`
name: top
include: site/base.yaml
hostname: top
packages: [less, tcpdump]
kernel: {cmdline: [quiet]}
from: {apt: {components: [contrib]}}
files: [{path: /etc/motd, content: top}, {path: /etc/top, source: top.txt}]
services: {enable: [ssh]}
`),
		"top.txt": file("top text"),
		"site/base.yaml": file(`
name: base
hostname: base
arch: i686
from: {apt: {suite: bookworm, components: [main]}}
packages: [linux-image-686, less]
kernel: {cmdline: [console=tty0]}
files: [{path: /etc/motd, content: base}, {path: /etc/base, source: base.txt, mode: 755}]
services: {disable: [ssh, cron]}
include: deep.yaml
`),
		"site/deep.yaml": file("hostname: deep\nroot: {writable: bind}\nhooks: [{name: h, script: 'true'}]\n"),
		"site/base.txt":  file("base text"),
	}
	r := mustLoad(t, fsys, "top.yaml")
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"name", r.Name, "top"},
		{"hostname", r.Hostname, "top"},
		{"arch", r.Arch, "i686"},
		{"suite", r.From.Apt.Suite, "bookworm"},
		{"components", r.From.Apt.Components, []string{"main", "contrib"}},
		{"packages", r.Packages, []string{"linux-image-686", "less", "tcpdump"}},
		{"cmdline", r.Kernel.Cmdline, []string{"console=tty0", "quiet"}},
		{"writable", r.Root.Writable, "bind"},
		{"size", r.Root.Size, "50%"},
		{"services", r.Services, Services{Enable: []string{"ssh"}, Disable: []string{"cron"}}},
		{"hooks", len(r.Hooks), 1},
		{"files", r.Paths(), []string{"top.yaml", "site/base.yaml", "site/deep.yaml"}},
		{"motd", r.Files[0].Content, "top"},
		{"base mode", r.Files[1].Mode, "0755"},
		{"owner", r.Files[1].Owner, "root:root"},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s: %s", c.what, diff)
		}
	}
	for i, want := range map[int]string{1: "base text", 2: "top text"} {
		f, err := r.Files[i].Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", r.Files[i].Path, got, err)
		}
	}
}

// A user's recipe builds upon a shipped one by its name, on disk.
func TestIncludeShipped(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lab.yaml")
	if err := os.WriteFile(path, []byte("name: lab\ninclude: debian-12\npackages: [tcpdump]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	base, err := Find("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(append(base.Packages, "tcpdump"), r.Packages); diff != "" || r.Name != "lab" || r.Hostname != "lab" {
		t.Errorf("name %q, host name %q, packages %s", r.Name, r.Hostname, diff)
	}
	// An error below is told with the file it is in.
	if err := os.WriteFile(filepath.Join(dir, "debian-12"), []byte("oops: 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Load(path)
	if err == nil || !strings.HasPrefix(err.Error(), filepath.Join(dir, "debian-12")+":1:1: unknown key") {
		t.Errorf("the file beside the recipe should come before the shipped one: %v", err)
	}
}

func TestFindUnknown(t *testing.T) {
	_, err := Find("debian-99")
	if err == nil || !strings.Contains(err.Error(), "debian-99: cannot be read: no such file") || !strings.Contains(err.Error(), "debian-12-i386") {
		t.Errorf("got %v", err)
	}
}

func TestShippedRecipes(t *testing.T) {
	for _, name := range Shipped() {
		r, err := Find(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if r.Name != name {
			t.Errorf("%s.yaml makes an image called %s", name, r.Name)
		}
		if len(r.Users) > 0 || r.From.Apt != nil && r.From.Apt.Mirror != "" || r.Vars["password"] != "" {
			t.Errorf("%s ships a login, or names a mirror where the host has one of its own", name)
		}
		for _, repo := range yumRepos(r) {
			if !repo.Checked() {
				t.Errorf("%s takes packages of %s from anybody", name, repo.Name)
			}
		}
	}
}

func yumRepos(r *Recipe) []Repo {
	if r.From.Yum == nil {
		return nil
	}
	return r.From.Yum.Repos
}

func TestDigest(t *testing.T) {
	load := func(recipe, source string) string {
		fsys := fstest.MapFS{"r.yaml": file(recipe), "s": file(source), "b.yaml": file("hostname: b\n")}
		return mustLoad(t, fsys, "r.yaml").Digest()
	}
	base := "name: x\n" + minimal + "files: [{path: /etc/s, source: s}]\n"
	want := load(base, "one")
	same := map[string]string{
		"a comment":   "# hello\n" + base,
		"order":       minimal + "files: [{path: /etc/s, source: s}]\nname: x\n",
		"the default": base + "root: {size: 50%, writable: overlay}\n",
		"dot":         strings.Replace(base, "source: s", "source: ./s", 1),
	}
	for what, recipe := range same {
		if got := load(recipe, "one"); got != want {
			t.Errorf("%s changes the digest", what)
		}
	}
	seen := map[string]string{want: "the recipe itself"}
	other := func(what, digest string) {
		if before, ok := seen[digest]; ok {
			t.Errorf("%s has the digest of %s", what, before)
		}
		seen[digest] = what
	}
	other("another source", load(base, "two"))
	for _, add := range []string{
		"hostname: h\n", "include: b.yaml\n", "kernel: {cmdline: [quiet]}\n", "root: {size: 40%}\n", "root: {writable: no}\n",
		"users: [{name: a}]\n", "users: [{name: a, uid: 7}]\n", "users: [{name: a, uid: 8}]\n", "hooks: [{name: a, script: b}]\n",
		"services: {enable: [a]}\n", "services: {disable: [a]}\n",
		"autoinstall: {user-data: \"#cloud-config\\n\"}\n", "autoinstall: {user-data: \"#cloud-config\\n\", meta-data: \"a: b\"}\n",
		"autoinstall: {user-data: \"#cloud-config\\n\"}\nvars: {a: 1}\n", "autoinstall: {user-data: \"#cloud-config\\n\"}\nvars: {a: 2}\n",
	} {
		other(add, load(base+strings.Replace(add, "writable: no", `writable: "no"`, 1), "one"))
	}
	other("mode", load(strings.Replace(base, "source: s", "source: s, mode: 600", 1), "one"))
	other("owner", load(strings.Replace(base, "source: s", "source: s, owner: 'a:b'", 1), "one"))
	other("arch", load(strings.Replace(base, "amd64\n", "i686\n", 1), "one"))
}

// What the README shows can be pasted, with keys of one's own.
func TestREADME(t *testing.T) {
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]*Recipe{}
	for _, text := range strings.Split(string(data), "```yaml\n")[1:] {
		if text, _, _ = strings.Cut(text, "```\n"); !strings.HasPrefix(text, "name: ") || !strings.Contains(text, "\nfrom:") {
			continue
		}
		text = strings.Replace(text, "AAAA…", "AAAAC3NzaC1lZDI1NTE5AAAAILoENZGm7dc5k8BjL4BJJw5LlmELrpd4kqbdh7ruLcDM", 1)
		r, err := LoadFS(fstest.MapFS{"r.yaml": {Data: []byte(text)}, "RPM-GPG-KEY-AlmaLinux-9": {}, "site.asc": {}}, "r.yaml")
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		shown[r.Name] = r
	}
	if len(shown) < 4 || shown["site"] == nil || shown["twin"] == nil || shown["node"] == nil {
		t.Fatalf("it shows %v", shown)
	}
	// EL6's kernel has no overlayfs, and check refuses an image that asks for it.
	if twin := shown["twin"]; strings.HasPrefix(twin.Kernel.Version, "2.6.") && twin.Root.Writable != "bind" {
		t.Errorf("Linux %s with an overlay", twin.Kernel.Version)
	}
}
