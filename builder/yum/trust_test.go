package yum

import (
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"netroot/builder/fetch"
	"netroot/builder/gpgfixture"
	"netroot/builder/lock"
	"netroot/builder/pgp"
)

// weaken makes a repository one whose files are vouched for by SHA-1, as on EL6.
func weaken(t *testing.T, dir string) {
	t.Helper()
	md := filepath.Join(dir, "repodata", "repomd.xml")
	for _, name := range []string{"primary.xml.gz", "filelists.xml.gz"} {
		data, err := os.ReadFile(filepath.Join(dir, "repodata", name))
		if err != nil {
			t.Fatal(err)
		}
		rewrite(t, md, func(s string) string {
			return strings.Replace(s, fmt.Sprintf(`<checksum type="sha256">%x`, sha256.Sum256(data)), fmt.Sprintf(`<checksum type="sha">%x`, sha1.Sum(data)), 1)
		})
	}
}

func TestWeakSums(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), "")
	weaken(t, dir)
	u, err := Open(t.Context(), Config{Repos: []Repo{{Name: "el6", BaseURL: "file://" + dir, Legacy: true}}, Arch: "i686"}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Resolve(Want{Packages: []string{"core"}}); err != nil {
		t.Error(err)
	}
}

// TestSHA512 locks packages that their repository vouches for with SHA-512, as some do.
func TestSHA512(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), "")
	changePrimary(t, dir, func(s string) string {
		return regexp.MustCompile(`<checksum type="sha256" pkgid="YES">([0-9a-f]{64})`).ReplaceAllString(s, `<checksum type="sha512" pkgid="YES">$1$1`)
	})
	cfg := Config{Repos: []Repo{{Name: "new", BaseURL: "file://" + dir}}, Arch: "i686"}
	f := &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}}
	u, err := Open(t.Context(), cfg, f)
	if err != nil {
		t.Fatal(err)
	}
	packages, err := u.Resolve(Want{Packages: []string{"tools-data"}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "new.lock")
	if err := u.Lock(packages).Write(file); err != nil {
		t.Fatal(err)
	}
	pins, err := lock.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if items, err := Items(t.Context(), cfg, f, pins, nil); err != nil || len(items) != 1 || len(items[0].Sum) != 128 {
		t.Errorf("%+v, %v", items, err)
	}
}

// TestSignedRepo has metadata signed by gpg as today, and as in the days of EL6.
func TestSignedRepo(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), "")
	md := filepath.Join(dir, "repodata", "repomd.xml")
	data, err := os.ReadFile(md)
	if err != nil {
		t.Fatal(err)
	}
	modern, other := gpgfixture.New(t, "gpg", "RSA", 2048), gpgfixture.New(t, "gpg", "RSA", 2048)
	rsa, dsa := gpgfixture.New(t, "gpg1", "RSA", 2048), gpgfixture.New(t, "gpg1", "DSA", 1024)
	sign := func(k *gpgfixture.Key, args ...string) []byte { return k.Detach(t, data, append(args, "--armor")...) }
	const old = "write legacy: true"
	for _, c := range []struct {
		name      string
		signature []byte
		by        *gpgfixture.Key
		legacy    bool
		says      string
	}{
		{"good", sign(modern, "--digest-algo", "SHA256"), modern, false, ""},
		{"good, legacy allowed", sign(modern, "--digest-algo", "SHA256"), modern, true, ""},
		{"of something else", modern.Detach(t, append(data, ' '), "--armor"), modern, false, "repomd.xml is not as it was signed"},
		{"of something else, legacy", rsa.Detach(t, append(data, ' '), "--armor", "--digest-algo", "SHA1", "--force-v3-sigs"), rsa, true, "repomd.xml is not as it was signed"},
		{"another's", sign(other), modern, false, "none is in keyring"},
		{"junk", []byte("<html>log in</html>"), modern, false, "repomd.xml"},
		{"RSA SHA-1", sign(rsa, "--digest-algo", "SHA1"), rsa, false, old},
		{"RSA SHA-1, legacy", sign(rsa, "--digest-algo", "SHA1"), rsa, true, ""},
		{"DSA SHA-1", sign(dsa, "--digest-algo", "SHA1"), dsa, false, old},
		{"DSA SHA-1, legacy", sign(dsa, "--digest-algo", "SHA1"), dsa, true, ""},
		{"version 3 RSA SHA-1", sign(rsa, "--digest-algo", "SHA1", "--force-v3-sigs"), rsa, false, old},
		{"version 3 RSA SHA-1, legacy", sign(rsa, "--digest-algo", "SHA1", "--force-v3-sigs"), rsa, true, ""},
		{"version 3 DSA SHA-1, legacy", sign(dsa, "--digest-algo", "SHA1", "--force-v3-sigs"), dsa, true, ""},
	} {
		if err := os.WriteFile(md+".asc", c.signature, 0o644); err != nil {
			t.Fatal(err)
		}
		keys, err := pgp.ReadKeyring(c.by.Public)
		if err != nil {
			t.Fatal(err)
		}
		r := Repo{Name: "signed", BaseURL: "file://" + dir, Keys: keys, SignedRepo: true, Legacy: c.legacy}
		_, err = Open(t.Context(), Config{Repos: []Repo{r}, Arch: "i686"}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}})
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "repository signed")) {
			t.Errorf("%s: %v\nwant %q", c.name, err, c.says)
		}
	}
}

// TestWeakPackageSums has packages that only SHA-1 vouches for in metadata that SHA-256 does.
func TestWeakPackageSums(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), "")
	changePrimary(t, dir, func(s string) string {
		return regexp.MustCompile(`<checksum type="sha256" pkgid="YES">[0-9a-f]{24}`).ReplaceAllString(s, `<checksum type="sha" pkgid="YES">`)
	})
	cfg := Config{Repos: []Repo{{Name: "el6", BaseURL: "file://" + dir, Legacy: true}}, Arch: "i686"}
	f := &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}}
	u, err := Open(t.Context(), cfg, f)
	if err != nil {
		t.Fatal(err)
	}
	packages, err := u.Resolve(Want{Packages: []string{"tools-data"}})
	if err != nil {
		t.Fatal(err)
	}
	pins := u.Lock(packages)
	if items, err := Items(t.Context(), cfg, f, pins, nil); err != nil || len(items) != 1 || len(items[0].Sum) != 40 {
		t.Fatalf("%+v, %v", items, err)
	}
	cfg.Repos[0].Legacy = false
	const says = "is vouched for by SHA-1 only, which can be forged: if the repository is as old as that, write legacy: true beside it in the recipe"
	if _, err := Open(t.Context(), cfg, f); err == nil || !strings.Contains(err.Error(), "repository el6: at file://"+dir+": package core-1-1.i686 "+says) {
		t.Errorf("%v", err)
	}
	if _, err := Items(t.Context(), cfg, f, pins, nil); err == nil || !strings.Contains(err.Error(), "package tools-data, as it was locked, "+says) {
		t.Errorf("by the lock: %v", err)
	}
}
