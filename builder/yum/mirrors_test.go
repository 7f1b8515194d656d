package yum

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"netroot/builder/fetch"
)

// A mirror is a server of a folder that counts what it is asked for.
type mirror struct {
	*httptest.Server
	asked map[string]int
	mu    sync.Mutex
}

func newMirror(t *testing.T, h http.Handler) *mirror {
	m := &mirror{asked: map[string]int{}}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.asked[r.URL.Path]++
		m.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(m.Close)
	return m
}

// real gives the packages of a repository files: of each the text that its checksum in the metadata is of.
func real(t *testing.T, dir string, packages []*Package) {
	t.Helper()
	for _, p := range packages {
		at := filepath.Join(dir, "Packages", p.String()+".rpm")
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(p.String()), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	changePrimary(t, dir, func(s string) string {
		for _, p := range packages {
			s = strings.Replace(s, `<size package="1000" installed="2000" archive="3000"/><location href="Packages/`+p.String()+".rpm", fmt.Sprintf(`<size package="%d"/><location href="Packages/%s.rpm`, len(p.String()), p), 1)
		}
		return s
	})
}

// changePrimary changes primary metadata, and what repomd.xml says of it.
func changePrimary(t *testing.T, dir string, change func(string) string) {
	t.Helper()
	name := filepath.Join(dir, "repodata", "primary.xml.gz")
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(before))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var after bytes.Buffer
	z := gzip.NewWriter(&after)
	changed := change(string(text))
	z.Write([]byte(changed))
	z.Close()
	if err := os.WriteFile(name, after.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	rewrite(t, filepath.Join(dir, "repodata", "repomd.xml"), func(s string) string {
		s = strings.Replace(s, fmt.Sprintf("%x", sha256.Sum256(before)), fmt.Sprintf("%x", sha256.Sum256(after.Bytes())), 1)
		s = strings.Replace(s, fmt.Sprintf("<open-size>%d</open-size>", len(text)), fmt.Sprintf("<open-size>%d</open-size>", len(changed)), 1)
		return strings.Replace(s, fmt.Sprintf("<size>%d</size>", len(before)), fmt.Sprintf("<size>%d</size>", after.Len()), 1)
	})
}

// TestMirrors has repositories at several mirrors of which only the last has everything: the first has nothing, the second is still in
// the middle of a sync and has repomd.xml without what it leads to.
func TestMirrors(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), "")
	real(t, dir, small(t))
	good := newMirror(t, http.FileServer(http.Dir(dir)))
	dead := newMirror(t, http.NotFoundHandler())
	half := newMirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/repodata/repomd.xml" {
			http.NotFound(w, r)
			return
		}
		http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
	}))
	lists := newMirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.String() {
		case "/mirrors?arch=i386":
			fmt.Fprintf(w, "# comment\n%s/6.8/\n%s\n%s\n", dead.URL, half.URL, good.URL)
		case "/metalink":
			fmt.Fprintf(w, `<metalink><files><file name="repomd.xml"><resources><url protocol="rsync" preference="100">rsync://x/repodata/repomd.xml</url>
<url protocol="http" preference="10">%s/repodata/repomd.xml</url><url protocol="http" preference="90">%s/repodata/repomd.xml</url><url protocol="http" preference="50">%s/repodata/repomd.xml</url></resources></file></files></metalink>`, good.URL, dead.URL, half.URL)
		}
	}))
	for _, r := range []Repo{{Name: "list", MirrorList: lists.URL + "/mirrors?arch=$basearch"}, {Name: "metalink", Metalink: lists.URL + "/metalink"}} {
		cfg := Config{Repos: []Repo{r}, Arch: "i686", ReleaseVer: "6.8"}
		f := &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}, Attempts: 1}
		u, err := Open(t.Context(), cfg, f)
		if err != nil {
			t.Errorf("%s: %v", r.Name, err)
			continue
		}
		packages, err := u.Resolve(Want{Packages: []string{"core"}})
		if err != nil {
			t.Fatal(err)
		}
		pins := u.Lock(packages)
		lists.asked = map[string]int{}
		items, err := Items(t.Context(), cfg, f, pins, u.Mirrors())
		if err != nil || len(items) != len(packages) || len(lists.asked) > 0 {
			t.Fatalf("%s: %+v, %v, and the list was asked for %v", r.Name, items, err, lists.asked)
		}
		const core = "/Packages/core-1-1.i686.rpm"
		if items[0].URL != half.URL+core || len(items[0].Also) != 2 || items[0].Also[0] != good.URL+core || !strings.HasPrefix(items[0].Also[1], dead.URL) {
			t.Errorf("%s: %q, then %q", r.Name, items[0].URL, items[0].Also)
		}
		if err := f.Get(t.Context(), items, nil); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}

		// From the lock alone, the list is asked for again, but not when everything is here.
		if items, err = Items(t.Context(), cfg, f, pins, nil); err != nil || len(lists.asked) > 0 {
			t.Errorf("%s: %v, and the list was asked for %v, with everything in the cache", r.Name, err, lists.asked)
		}
		if err := f.Get(t.Context(), items, nil); err != nil {
			t.Errorf("%s: from the cache: %v", r.Name, err)
		}
		f.Cache.Remove(pins.Packages[0].Sum())
		if items, err = Items(t.Context(), cfg, f, pins, nil); err != nil || len(lists.asked) != 1 {
			t.Fatalf("%s: %v, and the list was asked for %v", r.Name, err, lists.asked)
		}
		if err := f.Get(t.Context(), items, nil); err != nil {
			t.Errorf("%s: by the lock: %v", r.Name, err)
		}
	}
}

// TestBusyMirrors waits for a mirror only when no other has what is asked for.
func TestBusyMirrors(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), "")
	files := http.FileServer(http.Dir(dir))
	good := newMirror(t, files)
	var asked atomic.Int64
	busy := newMirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) <= 3 {
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		files.ServeHTTP(w, r)
	}))
	login := newMirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>log in</html>") }))
	for _, c := range []struct {
		mirrors []*mirror
		from    *mirror
		asked   int64 // the busy one, for repomd.xml, until something was found
	}{{[]*mirror{busy, login, good}, good, 1}, {[]*mirror{busy, login}, busy, 4}} {
		asked.Store(0)
		busy.asked, login.asked = map[string]int{}, map[string]int{}
		lists := newMirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, m := range c.mirrors {
				fmt.Fprintln(w, m.URL)
			}
		}))
		u, err := Open(t.Context(), Config{Repos: []Repo{{Name: "busy", MirrorList: lists.URL}}, Arch: "i686"}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}, Pause: time.Millisecond})
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if got := u.Mirrors()["busy"][0]; got != c.from.URL || int64(busy.asked["/repodata/repomd.xml"]) != c.asked {
			t.Errorf("taken from %s, not %s; the busy one was asked %d times, not %d", got, c.from.URL, busy.asked["/repodata/repomd.xml"], c.asked)
		}
		if n := login.asked["/repodata/repomd.xml"]; n != 1 {
			t.Errorf("the one with a login page was asked %d times", n)
		}
	}
}

// TestUnmeasured has metadata whose length repomd.xml does not tell, at the second of two mirrors.
func TestUnmeasured(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), comps)
	rewrite(t, filepath.Join(dir, "repodata", "repomd.xml"), func(s string) string {
		return regexp.MustCompile(`<(open-)?size>[0-9]+</(open-)?size>`).ReplaceAllString(s, "")
	})
	good := newMirror(t, http.FileServer(http.Dir(dir)))
	liar := newMirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/repodata/repomd.xml" {
			http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
			return
		}
		w.Write([]byte("nothing of the kind"))
	}))
	open := func(mirrors ...*mirror) (*Universe, error) {
		lists := newMirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, m := range mirrors {
				fmt.Fprintln(w, m.URL)
			}
		}))
		return Open(t.Context(), Config{Repos: []Repo{{Name: "old", MirrorList: lists.URL}}, Arch: "i686"}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}})
	}
	u, err := open(liar, good)
	if err != nil {
		t.Fatal(err)
	}
	if packages, err := u.Resolve(Want{Groups: []string{"base"}}); err != nil || len(packages) < 5 {
		t.Errorf("%v, %v", packages, err)
	}
	if _, err := open(liar); err == nil || !strings.Contains(err.Error(), "primary of old") || !strings.Contains(err.Error(), "is not what repomd.xml vouches for with sha256:") {
		t.Errorf("from the liar alone: %v", err)
	}
}

// TestHTTPS reads a repository by https from a server whose certificate a site's own authority has signed. Go reads the authorities once in a
// process (SSL_CERT_FILE, crypto/x509), so another one asks.
func TestHTTPS(t *testing.T) {
	if base := os.Getenv("NETROOT_TEST_HTTPS"); base != "" {
		u, err := Open(t.Context(), Config{Repos: []Repo{{Name: "secure", BaseURL: base}}, Arch: "i686"}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}, Attempts: 1})
		if err == nil {
			_, err = u.Resolve(Want{Packages: []string{"core"}})
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := t.TempDir()
	writeRepo(t, dir, small(t), "")
	srv := httptest.NewUnstartedServer(http.FileServer(http.Dir(dir)))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	ask := func(env ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHTTPS$")
		cmd.Env = append(os.Environ(), append(env, "NETROOT_TEST_HTTPS="+srv.URL)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := ask("SSL_CERT_FILE="+authority, "SSL_CERT_DIR=/nowhere"); err != nil {
		t.Errorf("with the authority: %v\n%s", err, out)
	}
	if out, err := ask(); err == nil || !strings.Contains(out, "repository secure: fetch "+srv.URL) || !strings.Contains(out, "certificate signed by unknown authority") {
		t.Errorf("without it: %v\n%s", err, out)
	}
}

// TestMetalinkVouches has mirrors that lag behind or lie.
func TestMetalinkVouches(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), "")
	now, err := os.ReadFile(filepath.Join(dir, "repodata", "repomd.xml"))
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Replace(now, []byte("<revision>1<"), []byte("<revision>0<"), 1)
	truth := newMirror(t, http.FileServer(http.Dir(dir)))
	liar := newMirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/repodata/repomd.xml" {
			w.Write(forged)
			return
		}
		http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
	}))
	sums := func(data []byte, kinds string) string {
		all := map[string]string{"md5": fmt.Sprintf("%x", md5.Sum(data)), "sha1": fmt.Sprintf("%x", sha1.Sum(data)), "sha256": fmt.Sprintf("%x", sha256.Sum256(data)), "sha512": fmt.Sprintf("%x", sha512.Sum512(data))}
		text := "<size>1</size><verification>"
		for _, kind := range strings.Fields(kinds) {
			text += fmt.Sprintf("\n<hash type=%q>%s</hash>", kind, all[kind])
		}
		return text + "</verification>"
	}
	const all = "md5 sha1 sha256 sha512"
	alternate := func(s string) string {
		return "<mm0:alternates><mm0:alternate><mm0:timestamp>1</mm0:timestamp>" + s + "</mm0:alternate></mm0:alternates>"
	}
	for _, c := range []struct {
		name, vouch string
		legacy      bool
		from        []*mirror
		base, says  string
	}{
		{"right", sums(now, all), false, []*mirror{truth}, truth.URL, ""},
		{"forged", sums(now, all), false, []*mirror{liar}, "", "is none that the metalink vouches for"},
		{"forged, then right", sums(now, all), false, []*mirror{liar, truth}, truth.URL, ""},
		{"one that was right before", sums([]byte("newer"), all) + alternate(sums(now, all)), false, []*mirror{liar, truth}, truth.URL, ""},
		{"none of those before", sums([]byte("newer"), all) + alternate(sums([]byte("new"), all)), false, []*mirror{truth}, "", "is none that the metalink vouches for"},
		{"the best digest counts", strings.Replace(sums(forged, "sha256"), "</verification>", "<hash type=\"sha512\">"+fmt.Sprintf("%x", sha512.Sum512(now))+"</hash></verification>", 1), false, []*mirror{liar, truth}, truth.URL, ""},
		{"MD5", sums(now, "md5"), true, []*mirror{truth}, "", "by digests only that are not accepted"},
		{"SHA-1", sums(now, "md5 sha1"), false, []*mirror{truth}, "", "legacy: true"},
		{"SHA-1, legacy", sums(now, "md5 sha1"), true, []*mirror{liar, truth}, truth.URL, ""},
		{"no digest", "", false, []*mirror{truth}, truth.URL, ""},
	} {
		lists := newMirror(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `<?xml version="1.0"?><metalink version="3.0" xmlns="http://www.metalinker.org/" xmlns:mm0="http://fedorahosted.org/mirrormanager"><files><file name="repomd.xml">`+"<mm0:timestamp>2</mm0:timestamp>"+c.vouch+`<resources maxconnections="1">`)
			for i, m := range c.from {
				fmt.Fprintf(w, `<url protocol="http" type="http" location="US" preference="%d">%s/repodata/repomd.xml</url>`, 100-i, m.URL)
			}
			fmt.Fprint(w, "</resources></file></files></metalink>")
		}))
		u, err := Open(t.Context(), Config{Repos: []Repo{{Name: "linked", Metalink: lists.URL, Legacy: c.legacy}}, Arch: "i686"}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}})
		switch {
		case c.says != "":
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "repository linked") {
				t.Errorf("%s: %v\nwant %q", c.name, err, c.says)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case u.Mirrors()["linked"][0] != c.base:
			t.Errorf("%s: taken from %s", c.name, u.Mirrors()["linked"])
		}
	}
}

// TestPasswordsAreNotTold has a password in the address of a repository, and faults of all kinds.
func TestPasswordsAreNotTold(t *testing.T) {
	dir := t.TempDir()
	writeRepo(t, dir, small(t), "")
	for fault, h := range map[string]http.Handler{
		"nothing there": http.NotFoundHandler(),
		"no repomd.xml": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "log in") }),
		"no primary": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/repodata/repomd.xml" {
				http.NotFound(w, r)
				return
			}
			http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
		}),
		"not vouched for": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/metalink" {
				fmt.Fprintf(w, `<metalink><files><file name="repomd.xml"><verification><hash type="sha256">%064d</hash></verification><resources><url>http://me:hunter2@%s/repodata/repomd.xml</url></resources></file></files></metalink>`, 0, r.Host)
				return
			}
			http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
		}),
	} {
		at := strings.Replace(newMirror(t, h).URL, "http://", "http://me:hunter2@", 1)
		for _, r := range []Repo{{BaseURL: at}, {BaseURL: at + "/$unknown"}, {MirrorList: at + "/list"}, {Metalink: at + "/metalink"}, {BaseURL: at, SignedRepo: true}} {
			r.Name = "r"
			var log strings.Builder
			f := &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}, Attempts: 1, Log: slog.New(slog.NewTextHandler(&log, nil))}
			_, err := Open(t.Context(), Config{Repos: []Repo{r}, Arch: "i686"}, f)
			if all := fmt.Sprint(err) + log.String(); strings.Contains(all, "hunter2") {
				t.Errorf("%s, %+v: %s", fault, r, all)
			}
		}
	}
}
