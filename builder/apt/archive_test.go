package apt

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/ulikunitz/xz"

	"netroot/builder/fetch"
	"netroot/builder/lock"
	"netroot/builder/need"
)

var testNow = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// An archive is a small signed Debian archive on disk, and a host root whose apt configuration knows its key.
type archive struct {
	dir  string // with dists and pool
	host string // with etc/apt
	key  *openpgp.Entity
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	key, err := openpgp.NewEntity("Test archive", "", "test@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return testNow.AddDate(-1, 0, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{dir: t.TempDir(), host: t.TempDir(), key: key}
	var pub bytes.Buffer
	if err := key.Serialize(&pub); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(a.host, "etc/apt/trusted.gpg.d/test.gpg"), pub.Bytes())
	return a
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// A suiteSpec says how to write one suite.
type suiteSpec struct {
	name     string
	packages string // the text of main/binary-amd64/Packages
	all      string // of main/binary-all/Packages
	header   string // further lines of the Release file
	byHash   bool   // lists are there by hash only
	forms    string // which forms of the list exist: "xz gz plain"; empty is xz
	detached bool   // Release and Release.gpg instead of InRelease
}

func (a *archive) publish(t *testing.T, s suiteSpec) {
	t.Helper()
	dists := filepath.Join(a.dir, "dists", s.name)
	if err := os.RemoveAll(dists); err != nil {
		t.Fatal(err)
	}
	release := "Origin: Test\nSuite: oldstable\nCodename: " + s.name + "\nDate: " + testNow.Add(-time.Hour).Format(time.RFC1123) + "\nComponents: main\nArchitectures: amd64\n" + s.header
	if s.byHash {
		release += "Acquire-By-Hash: yes\n"
	}
	release += "SHA256:\n"
	for arch, text := range map[string]string{"amd64": s.packages, "all": s.all} {
		if arch == "all" && text == "" {
			continue
		}
		forms := s.forms
		if forms == "" {
			forms = "xz"
		}
		for form := range strings.FieldsSeq(forms) {
			name, data := "main/binary-"+arch+"/Packages", []byte(text)
			if form != "plain" {
				name, data = name+"."+form, compress(t, form, text)
			}
			sum := sha256.Sum256(data)
			release += fmt.Sprintf(" %x %d %s\n", sum, len(data), name)
			if s.byHash {
				name = filepath.Dir(name) + "/by-hash/SHA256/" + hex.EncodeToString(sum[:])
			}
			write(t, filepath.Join(dists, name), data)
		}
	}
	config := &packet.Config{DefaultHash: crypto.SHA256, Time: func() time.Time { return testNow.Add(-time.Hour) }}
	var out bytes.Buffer
	if s.detached {
		if err := openpgp.DetachSign(&out, []*openpgp.Entity{a.key}, strings.NewReader(release), config); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dists, "Release"), []byte(release))
		write(t, filepath.Join(dists, "Release.gpg"), out.Bytes())
		return
	}
	w, err := clearsign.Encode(&out, a.key.PrivateKey, config)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(release))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dists, "InRelease"), append(out.Bytes(), '\n'))
}

func compress(t *testing.T, form, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	var w interface {
		Write([]byte) (int, error)
		Close() error
	} = gzip.NewWriter(&b)
	if form == "xz" {
		x, err := xz.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = x
	}
	w.Write([]byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pkg writes a stanza: pkg("a 1.0", "Depends: b").
func pkg(nameVersion string, fields ...string) string {
	name, version, _ := strings.Cut(nameVersion, " ")
	sum := sha256.Sum256([]byte(nameVersion))
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nPriority: optional\n%sFilename: pool/%s_%s.deb\nSize: 10\nSHA256: %x\n\n",
		name, version, strings.Join(append(fields, ""), "\n"), name, strings.ReplaceAll(version, ":", "%3a"), sum)
}

func (a *archive) open(t *testing.T, cfg Config) (*Universe, error) {
	t.Helper()
	if cfg.Suite == "" {
		cfg.Suite = "stable"
	}
	cfg.Arch, cfg.HostRoot, cfg.Now = "amd64", a.host, testNow
	return Open(t.Context(), cfg, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}, Attempts: 1})
}

func armoredKey(t *testing.T, key *openpgp.Entity) string {
	t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, "PGP PUBLIC KEY BLOCK", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Serialize(w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return out.String() + "\n"
}

func (a *archive) url() string { return "file://" + a.dir }

func (a *archive) sources(t *testing.T, text string) {
	t.Helper()
	write(t, filepath.Join(a.host, "etc/apt/sources.list"), []byte(strings.ReplaceAll(text, "URL", a.url())))
}

// Every form in which an archive may hold its lists.
func TestArchiveForms(t *testing.T) {
	need.Patience(t)
	a := newArchive(t)
	for name, s := range map[string]suiteSpec{
		"xz": {}, "gz": {forms: "gz"}, "plain": {forms: "plain"}, "all forms": {forms: "plain gz xz"}, "by hash": {byHash: true}, "by hash gz": {byHash: true, forms: "gz"},
		"Release.gpg":                   {detached: true},
		"valid":                         {header: "Valid-Until: " + testNow.Add(time.Hour).Format(time.RFC1123) + "\n"},
		"separate all":                  {header: "Architectures: amd64 all\n", all: pkg("data 3")},
		"all listed, not to be used":    {header: "Architectures: amd64 all\nNo-Support-for-Architecture-all: Packages\n", all: "broken"},
		"by hash announced, not there":  {header: "Acquire-By-Hash: yes\n"},
		"date in another form of zone":  {header: "Date: Fri, 01 May 2026 11:00:00 +0000\n"},
		"other digests beside":          {header: "MD5Sum:\n 00 1 x\n"},
		"suite's name in its own words": {header: "Suite: stable\nCodename: trixie\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s.name, s.packages = "stable", pkg("a 1")
			a.publish(t, s)
			u, err := a.open(t, Config{Mirror: a.url() + "/"})
			if err != nil {
				t.Fatal(err)
			}
			if p, ok := u.Find("a"); !ok || p.Version != "1" || p.Repo != "stable" {
				t.Errorf("a is %+v", p)
			}
			if _, ok := u.Find("data"); ok != (name == "separate all") {
				t.Errorf("data is there: %v", ok)
			}
		})
	}
}

// Everything that must stop a build, and the words it does so with.
func TestArchiveRefused(t *testing.T) {
	good := suiteSpec{name: "stable", packages: pkg("a 1")}
	spoil := func(path string, change func([]byte) []byte) func(*testing.T, *archive) {
		return func(t *testing.T, a *archive) {
			a.publish(t, good)
			path := filepath.Join(a.dir, "dists/stable", path)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, change(data))
		}
	}
	publish := func(s suiteSpec) func(*testing.T, *archive) {
		return func(t *testing.T, a *archive) {
			s.name, s.packages = "stable", pkg("a 1")
			a.publish(t, s)
		}
	}
	list := "main/binary-amd64/Packages.xz"
	for name, c := range map[string]struct {
		setUp func(*testing.T, *archive)
		want  []string
	}{
		"changed byte in InRelease": {spoil("InRelease", func(b []byte) []byte { return bytes.Replace(b, []byte("Origin: Test"), []byte("Origin: Tesu"), 1) }),
			[]string{"InRelease of stable is not as it was signed"}},
		"changed digest":       {spoil("InRelease", func(b []byte) []byte { return bytes.Replace(b, []byte(" main/"), []byte(" nain/"), 1) }), []string{"not as it was signed"}},
		"changed byte in list": {spoil(list, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), []string{list + " of stable", "SHA-256", "instead of", "wait until it is in sync"}},
		"truncated list":       {spoil(list, func(b []byte) []byte { return b[:len(b)-3] }), []string{list + " of stable", "size", "instead of"}},
		"list gone": {func(t *testing.T, a *archive) {
			a.publish(t, good)
			os.Remove(filepath.Join(a.dir, "dists/stable", list))
		}, []string{list + " of stable", "no such file"}},
		"no such suite":   {func(t *testing.T, a *archive) {}, []string{"suite stable", "is the suite's name right?"}},
		"another suite":   {publish(suiteSpec{header: "Codename: sarge\n"}), []string{`InRelease of stable: it is the one of suite "oldstable", codename "sarge"`}},
		"expired":         {publish(suiteSpec{header: "Valid-Until: " + testNow.AddDate(0, 0, -3).Format(time.RFC1123) + "\n"}), []string{"valid until Tue, 28 Apr 2026", "72h0m0s ago", "Check-Valid-Until"}},
		"from the future": {publish(suiteSpec{header: "Date: " + testNow.AddDate(0, 0, 3).Format(time.RFC1123) + "\n"}), []string{"set the clock"}},
		"no date":         {publish(suiteSpec{header: "Date: yesterday\n"}), []string{`Date "yesterday" is not a date`}},
		"no signature at all": {func(t *testing.T, a *archive) {
			publish(suiteSpec{detached: true})(t, a)
			os.Remove(filepath.Join(a.dir, "dists/stable/Release.gpg"))
		}, []string{"Release.gpg"}},
		"signature of another": {func(t *testing.T, a *archive) { b := newArchive(t); b.dir = a.dir; b.publish(t, good) }, []string{"InRelease of stable is signed by key", "none is in keyring"}},
		"no keyring on the host": {func(t *testing.T, a *archive) {
			a.publish(t, good)
			os.RemoveAll(filepath.Join(a.host, "etc/apt/trusted.gpg.d"))
		}, []string{"no apt keyring", "keyring:"}},
		"no list of this kind":       {publish(suiteSpec{forms: "zst"}), []string{"has no packages of component main for amd64"}},
		"stanza that makes no sense": {func(t *testing.T, a *archive) { s := good; s.packages = "Package: a\nnonsense\n"; a.publish(t, s) }, []string{list + " of stable", "no colon"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newArchive(t)
			c.setUp(t, a)
			u, err := a.open(t, Config{Mirror: a.url()})
			if err == nil {
				t.Fatalf("opened, with %d packages", u.Len())
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
		})
	}
}

// The host's sources decide: companions of the suite come along, other suites and components do not.
func TestHostSources(t *testing.T) {
	a := newArchive(t)
	a.publish(t, suiteSpec{name: "stable", packages: pkg("a 1") + pkg("b 1")})
	a.publish(t, suiteSpec{name: "stable-updates", packages: pkg("a 2")})
	a.publish(t, suiteSpec{name: "stable-security", packages: pkg("a 3") + pkg("b 0")})
	a.publish(t, suiteSpec{name: "unstable", packages: pkg("a 9")})
	a.sources(t, "deb URL stable main\ndeb URL stable-updates main contrib\ndeb-src URL stable main\n# deb URL unstable main\ndeb URL unstable main\n")
	write(t, filepath.Join(a.host, "etc/apt/sources.list.d/sec.sources"), []byte("Types: deb\nURIs: "+a.url()+"\nSuites: stable-security\nComponents: main\n\nEnabled: no\nTypes: deb\nURIs: http://127.0.0.1:1\nSuites: stable\nComponents: main\n"))
	u, err := a.open(t, Config{Components: []string{"main"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(u.Names(), " "); got != "stable stable-updates stable-security" {
		t.Errorf("repositories %s", got)
	}
	for name, want := range map[string]string{"a": "3 stable-security", "b": "1 stable"} {
		if p, _ := u.Find(name); p == nil || p.Version+" "+p.Repo != want {
			t.Errorf("%s is %+v, want %s", name, p, want)
		}
	}
	pkgs, err := u.Resolve([]string{"a=2", "b"})
	if err != nil {
		t.Fatal(err)
	}
	l := u.Lock(pkgs)
	// The lock alone is enough to fetch, without any index.
	m, err := NewMirrors(Config{Suite: "stable", Arch: "amd64", HostRoot: a.host})
	if err != nil {
		t.Fatal(err)
	}
	items, err := m.Items(l)
	if err != nil || len(items) != 2 {
		t.Fatalf("%v, %v", items, err)
	}
	if want := a.url() + "/pool/a_2.deb"; items[0].URL != want || items[0].Name != "a" || items[0].Size != 10 || len(items[0].Sum) != 64 {
		t.Errorf("item %+v, want URL %s", items[0], want)
	}
	l.Packages[0].Repo = "elsewhere"
	if _, err := m.Items(l); err == nil || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("unknown repository: %v", err)
	}
	l.Packages[0] = lock.Package{Name: "x", Repo: "stable", Path: "../../x"}
	if _, err := m.Items(l); err == nil || !strings.Contains(err.Error(), "leaves the repository") {
		t.Errorf("path out of the repository: %v", err)
	}
}

func TestEscapedPath(t *testing.T) {
	if got := joinURL("http://h/debian", "pool/g++_4%3a12~1+b1 x.deb"); got != "http://h/debian/pool/g++_4%253a12~1+b1%20x.deb" {
		t.Error(got)
	}
}

func TestNoSource(t *testing.T) {
	a := newArchive(t)
	for name, c := range map[string]struct {
		list string
		cfg  Config
		want string
	}{
		"none at all":     {"", Config{}, "has no apt sources to take stable from"},
		"other suite":     {"deb URL oldstable main\ndeb URL sid main", Config{}, "offer no suite stable, only oldstable, sid"},
		"other component": {"deb URL stable contrib", Config{Components: []string{"main"}}, "offer stable with the components contrib, not main"},
		"one component":   {"deb URL stable main", Config{Components: []string{"main", "non-free"}}, "without the component non-free"},
		"strange scheme":  {"deb cdrom:[Debian]/ stable main", Config{}, "not from cdrom:"},
		"half an entry":   {"deb URL", Config{}, "sources.list:1: an entry needs a URI and a suite"},
		"open brackets":   {"\ndeb [arch=amd64 URL stable main", Config{}, "sources.list:2: the options in brackets do not end"},
		"bad mirror":      {"", Config{Mirror: "deb.example.org"}, "is not an http:, https: or file: URL"},
		"odd suite":       {"", Config{Suite: "../x"}, "is not a suite's name"},
		"no trust":        {"deb [trusted=no] URL stable main", Config{}, "trusted=no"},
		"missing keyring": {"deb [signed-by=/none.gpg] URL stable main", Config{}, "sources.list:1: read keyring"},
	} {
		t.Run(name, func(t *testing.T) {
			a.publish(t, suiteSpec{name: "stable", packages: pkg("a 1")})
			a.sources(t, c.list)
			if _, err := a.open(t, c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v lacks %q", err, c.want)
			}
		})
	}
}

// An entry of the host's own release stands for another release, companions included, unless an entry names that one.
func TestOtherReleaseAtTheSameMirror(t *testing.T) {
	list := "deb URL stable main\ndeb URL stable-updates main\ndeb URL stable-security main contrib\ndeb URL stablest main\n"
	for _, tt := range []struct{ host, list, suite, want string }{
		{"stable", list, "next", "next next-updates next-security"},
		{"stable", list, "stable", "stable stable-updates stable-security"},
		{"stable", list, "sid", "sid"},
		{"stable", list + "deb URL next main\n", "next", "next"},
		{"other", list, "next", "offer no suite next"},
		{"", list, "next", "offer no suite next"},
		{"stable", "deb URL stable contrib\n", "next", "offer next with the components contrib"},
	} {
		a := newArchive(t)
		a.sources(t, tt.list)
		write(t, filepath.Join(a.host, "etc/os-release"), []byte("ID=debian\nVERSION_CODENAME=\""+tt.host+"\"\n"))
		m, err := NewMirrors(Config{Suite: tt.suite, Components: []string{"main"}, Arch: "amd64", HostRoot: a.host})
		got := fmt.Sprint(err)
		if err == nil {
			got = strings.Join(m.Names(), " ")
		}
		if !strings.Contains(got, tt.want) || err == nil && got != tt.want {
			t.Errorf("%s on %s: %s, want %s", tt.suite, tt.host, got, tt.want)
		}
	}
}

// Each way in which an entry can name its key, and what happens when the key is not the right one.
func TestSignedBy(t *testing.T) {
	a := newArchive(t)
	a.publish(t, suiteSpec{name: "stable", packages: pkg("a 1"), header: "Valid-Until: " + testNow.AddDate(0, 0, -3).Format(time.RFC1123) + "\n"})
	right, err := os.ReadFile(filepath.Join(a.host, "etc/apt/trusted.gpg.d/test.gpg"))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := os.ReadFile(filepath.Join(newArchive(t).host, "etc/apt/trusted.gpg.d/test.gpg"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(a.host, "usr/share/keyrings/right.gpg"), right)
	write(t, filepath.Join(a.host, "usr/share/keyrings/wrong.gpg"), wrong)
	fingerprint := fmt.Sprintf("%X", a.key.PrimaryKey.Fingerprint)
	for options, ok := range map[string]bool{
		"check-valid-until=no": true,
		"check-valid-until=no signed-by=/usr/share/keyrings/right.gpg":                                 true,
		"check-valid-until=no signed-by=/usr/share/keyrings/wrong.gpg":                                 false,
		"check-valid-until=no signed-by=/usr/share/keyrings/wrong.gpg,/usr/share/keyrings/right.gpg":   true,
		"check-valid-until=no signed-by=" + fingerprint:                                                true,
		"check-valid-until=no signed-by=" + strings.Repeat("0", 40):                                    false,
		"check-valid-until=no trusted=yes signed-by=/usr/share/keyrings/wrong.gpg arch=i386 lang=none": true,
		"arch=amd64": false, // expired
	} {
		a.sources(t, "deb ["+options+"] URL stable main")
		if _, err := a.open(t, Config{}); (err == nil) != ok {
			t.Errorf("[%s]: %v", options, err)
		}
	}
	a.sources(t, "deb URL stable main")
	write(t, filepath.Join(a.host, "etc/apt/apt.conf.d/99x"), []byte("// comment\nAcquire { Retries 3; Check-Valid-Until \"false\"; };\n"))
	if _, err := a.open(t, Config{}); err != nil {
		t.Errorf("apt.conf says that dates do not matter: %v", err)
	}
	a.sources(t, "")
	var inline strings.Builder
	fmt.Fprintf(&inline, "Types: deb deb-src\nURIs: %s\nSuites: stable\nComponents: main\nSigned-By:\n", a.url())
	for line := range strings.Lines(armoredKey(t, a.key)) {
		if line == "\n" {
			line = ".\n"
		}
		inline.WriteString(" " + line)
	}
	write(t, filepath.Join(a.host, "etc/apt/trusted.gpg.d/test.gpg"), wrong)
	write(t, filepath.Join(a.host, "etc/apt/sources.list.d/inline.sources"), []byte(inline.String()))
	if _, err := a.open(t, Config{}); err != nil {
		t.Errorf("key written into the entry: %v", err)
	}
	if _, err := a.open(t, Config{Keyring: filepath.Join(a.host, "usr/share/keyrings/wrong.gpg")}); err == nil {
		t.Error("keyring: did not replace the entry's key")
	}
	// A mirror of the recipe may be signed by any key that the host's entries name.
	write(t, filepath.Join(a.host, "etc/apt/sources.list.d/inline.sources"), []byte("Types: deb\nURIs: http://127.0.0.1:1\nSuites: sid\nComponents: main\nSigned-By: /usr/share/keyrings/right.gpg\n"))
	if _, err := a.open(t, Config{Mirror: a.url()}); err != nil {
		t.Errorf("mirror with the key of another entry: %v", err)
	}
}

// The second run reads nothing but InRelease, and old lists do not pile up.
func TestSecondRun(t *testing.T) {
	a := newArchive(t)
	a.publish(t, suiteSpec{name: "stable", packages: pkg("a 1"), byHash: true})
	var asked []string
	files := http.FileServer(http.Dir(a.dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, strings.TrimPrefix(r.URL.Path, "/dists/stable/"))
		files.ServeHTTP(w, r)
	}))
	defer srv.Close()
	f := &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}, Attempts: 1, Log: slog.New(slog.DiscardHandler)}
	cfg := Config{Suite: "stable", Arch: "amd64", Mirror: srv.URL, HostRoot: a.host, Now: testNow}
	open := func() *Universe {
		t.Helper()
		asked = nil
		u, err := Open(t.Context(), cfg, f)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	open()
	if len(asked) != 2 || asked[0] != "InRelease" || !strings.HasPrefix(asked[1], "main/binary-amd64/by-hash/SHA256/") {
		t.Errorf("first run asked for %q", asked)
	}
	open()
	if !slices.Equal(asked, []string{"InRelease"}) {
		t.Errorf("second run asked for %q", asked)
	}
	lists, err := os.ReadDir(filepath.Join(f.Cache.Dir, "apt"))
	if err != nil || len(lists) != 1 {
		t.Fatalf("%v, %v", lists, err)
	}
	path := filepath.Join(f.Cache.Dir, "apt", lists[0].Name())
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-5] ^= 1 // a damaged list is made again
	write(t, path, data)
	if u := open(); len(asked) != 2 || u.Len() != 1 {
		t.Errorf("after damage asked for %q", asked)
	}
	long := time.Now().AddDate(0, 0, -40)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	a.publish(t, suiteSpec{name: "stable", packages: pkg("a 2"), byHash: true})
	if u := open(); u.candidates["a"].Version != "2" {
		t.Error("the update was not seen")
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a list nobody used for 40 days is still there")
	}
}

func TestHostProxy(t *testing.T) {
	a := newArchive(t)
	write(t, filepath.Join(a.host, "etc/apt/apt.conf.d/01proxy"), []byte("Acquire::http { Proxy \"http://cache:3142\"; Proxy::direct.example \"DIRECT\"; };\n/* Acquire::http::Proxy \"no\";\n*/ # end\n"))
	proxy := HostProxy(a.host)
	for url, want := range map[string]string{"http://deb.example/x": "http://cache:3142", "https://deb.example/x": "http://cache:3142", "http://direct.example/x": "<nil>"} {
		req := httptest.NewRequest(http.MethodGet, url, nil)
		if got, err := proxy(req); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v; want %s", url, got, err, want)
		}
	}
}

func FuzzSources(f *testing.F) {
	f.Add("deb [arch=amd64 signed-by=/x] http://h/debian stable main\n")
	f.Add("Types: deb\nURIs: http://h\nSuites: x\nSigned-By:\n .\n x\n")
	f.Add("Acquire { Check-Date \"no\"; /* x */ };")
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string, string) ([]source, error){parseListSources, parseDeb822Sources} {
			entries, err := parse("x", text)
			if err != nil {
				continue
			}
			for _, s := range entries {
				if len(s.uris) == 0 || len(s.suites) == 0 {
					t.Errorf("entry without URI or suite: %+v", s)
				}
			}
			_, _ = chooseRepos(Config{Suite: "x", Arch: "amd64"}, entries)
		}
		_, _ = findSetting(text, "Acquire::Check-Date")
	})
}
