package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"netroot/builder/isofixture"
	"netroot/builder/recipe"
	"netroot/builder/store"
)

// mediumSite is a folder of media, served by HTTP, and a store to build into.
type mediumSite struct {
	dir, url string
	builder  *Builder
}

func newMediumSite(t *testing.T) *mediumSite {
	t.Helper()
	s := &mediumSite{dir: t.TempDir()}
	web := httptest.NewServer(http.FileServer(http.Dir(s.dir)))
	t.Cleanup(web.Close)
	s.url = web.URL
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	s.builder = &Builder{Store: st}
	// The host may have no boot loader to take.
	if err := st.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, f := range loaderFiles {
		s.write(t, filepath.Join(st.LoaderDir(), f.name), "loader")
	}
	return s
}

func (s *mediumSite) write(t *testing.T, name, text string) {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(s.dir, name)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// iso makes an ISO of files, given as name=content, and returns its SHA-256.
func (s *mediumSite) iso(t *testing.T, name string, files ...string) string {
	t.Helper()
	isofixture.Make(t, filepath.Join(s.dir, name), files...)
	return s.sum(t, name)
}

func (s *mediumSite) sum(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// build builds a recipe whose from: and deliver: are given.
func (s *mediumSite) build(t *testing.T, text string) (Result, error) {
	t.Helper()
	text = strings.NewReplacer("URL", s.url, "DIR", s.dir).Replace(text)
	path := filepath.Join(s.dir, "r.yaml")
	s.write(t, path, "name: m\narch: amd64\nkernel: {cmdline: [quiet]}\n"+text)
	r, err := recipe.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return s.builder.Build(context.Background(), r, Options{})
}

// must is build for what has to succeed.
func (s *mediumSite) must(t *testing.T, text string) store.Generation {
	t.Helper()
	r, err := s.build(t, text)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Generation.Verify(context.Background()); err != nil {
		t.Error(err)
	}
	return r.Generation
}

func (s *mediumSite) refused(t *testing.T, text string, words ...string) {
	t.Helper()
	r, err := s.build(t, text)
	if err == nil {
		t.Errorf("%s: built %s", text, r.Generation.Ref())
		return
	}
	for _, w := range words {
		if w = strings.NewReplacer("URL", s.url, "DIR", s.dir).Replace(w); !strings.Contains(err.Error(), w) {
			t.Errorf("%s: the error does not say %q:\n%v", text, w, err)
		}
	}
}

func TestISOGeneration(t *testing.T) {
	s := newMediumSite(t)
	sum := s.iso(t, "u.iso", "casper/vmlinuz=kernel", "casper/initrd=initrd", "casper/filesystem.squashfs=root")
	g := s.must(t, "from: {iso: {path: u.iso}}")
	m := g.Manifest
	want := store.Medium{Family: store.Casper, File: "u.iso", Label: isofixture.Volume, Kernel: "casper/vmlinuz", Initrd: "casper/initrd", Deliver: store.ByNFS}
	if m.Medium == nil || *m.Medium != want || m.Parts[store.PartISO].SHA256 != sum || len(m.Parts) != 3 {
		t.Errorf("the manifest: %+v, parts %v", m.Medium, m.Parts)
	}
	for part, text := range map[string]string{store.PartKernel: "kernel", store.PartInitramfs: "initrd"} {
		if data, err := os.ReadFile(g.Path(part)); err != nil || string(data) != text {
			t.Errorf("%s: %q, %v", part, data, err)
		}
	}

	// The ISO is kept once, and what becomes of the user's file is nothing to the store.
	cached := filepath.Join(s.builder.Store.CacheDir(), "sha256", sum[:2], sum)
	if a, err := os.Stat(cached); err != nil {
		t.Error(err)
	} else if b, err := os.Stat(g.Path(store.PartISO)); err != nil || !os.SameFile(a, b) {
		t.Errorf("the generation's ISO is not that of the cache: %v", err)
	} else if c, err := os.Stat(filepath.Join(s.dir, "u.iso")); err != nil || os.SameFile(a, c) {
		t.Errorf("the cache's ISO is the user's own: %v", err)
	}
	if r, err := s.build(t, "from: {iso: {path: u.iso}}"); err != nil || r.New {
		t.Errorf("built again: %v, %v", r.New, err)
	}
	other := s.must(t, "from: {iso: {path: u.iso}}\ndeliver: http")
	if other.Number != 2 || other.Manifest.Medium.Deliver != store.ByHTTP || len(other.Manifest.Notes) != 1 || !strings.Contains(other.Manifest.Notes[0], "deliver: nfs needs none of it") {
		t.Errorf("by HTTP: %+v, notes %q", other.Manifest.Medium, other.Manifest.Notes)
	}
	if a, err := os.Stat(cached); err != nil {
		t.Error(err)
	} else if b, err := os.Stat(other.Path(store.PartISO)); err != nil || !os.SameFile(a, b) {
		t.Error("two generations have the ISO twice")
	}
	const netplan = "\nautoinstall:\n  user-data: |\n    #cloud-config\n    autoinstall:\n      version: 1\n      user-data: {}\n      network: {version: 2}\n"
	if n := s.must(t, "from: {iso: {path: u.iso}}"+netplan).Manifest.Notes; len(n) != 1 || !strings.Contains(n[0], "may stand still then") {
		t.Errorf("network: over NFS: notes %q", n)
	}
	if n := s.must(t, "from: {iso: {path: u.iso}}\ndeliver: http"+netplan).Manifest.Notes; len(n) != 1 || strings.Contains(n[0], "stand still") {
		t.Errorf("network: over HTTP: notes %q", n)
	}
	s.iso(t, "u.iso", "casper/vmlinuz=newer", "casper/initrd=initrd")
	if err := g.Verify(context.Background()); err != nil {
		t.Error(err)
	}
	third := s.must(t, "from: {iso: {path: u.iso}}")
	if d := store.Diff(g, third); len(d.Changed) != 1 || d.Changed[0].Old == d.Changed[0].New {
		t.Errorf("the difference is %+v", d)
	}
	// What a generation has is not collected, whatever its age.
	if _, err := s.builder.Store.PruneCache(context.Background(), nil, 0); err != nil {
		t.Error(err)
	}
	for _, g := range []store.Generation{g, other, third} {
		if err := g.Verify(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(cached); err != nil {
		t.Errorf("gc took an ISO that is in use: %v", err)
	}
	if _, err := s.builder.Store.GC("m", 1); err != nil {
		t.Error(err)
	}
	if _, err := s.builder.Store.PruneCache(context.Background(), nil, 0); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(cached); err == nil {
		t.Error("gc left an ISO that nobody uses")
	}
}

func TestISODownload(t *testing.T) {
	s := newMediumSite(t)
	sum := s.iso(t, "d.iso", "live/vmlinuz=kernel", "live/initrd.img=initrd", "live/filesystem.squashfs="+strings.Repeat("root", 1<<18))
	s.write(t, "SHA256SUMS", sum+" *d.iso\n")
	g := s.must(t, "from: {iso: {url: URL/d.iso, sums: URL/SHA256SUMS}}\ndeliver: http")
	if m := g.Manifest.Medium; m.Family != store.Live || m.Live != "live/filesystem.squashfs" || m.Memory != 1<<20+aboveDownload {
		t.Errorf("%+v", m)
	}
	s.must(t, "from: {iso: {url: URL/d.iso, sha256: "+sum+"}}")

	wrong := strings.Repeat("0", 64)
	s.refused(t, "from: {iso: {url: URL/d.iso, sha256: "+wrong+"}}", "d.iso", "SHA-256 "+sum+" instead of "+wrong)
	s.refused(t, "from: {iso: {path: d.iso, sha256: "+wrong+"}}", "d.iso", sum, wrong, "another file, or damaged")
	s.refused(t, "from: {iso: {url: URL/gone.iso, sha256: "+wrong+"}}", "gone.iso", "404")
	s.refused(t, "from: {iso: {path: gone.iso}}", "DIR/gone.iso", "no such file")
	s.refused(t, "from: {iso: {url: URL/x.iso, sums: URL/SHA256SUMS}}", "x.iso is not among them")
	s.refused(t, "from: {iso: {path: SHA256SUMS}}", "SHA256SUMS", "it is not an ISO")
	s.refused(t, "from: {iso: {path: d.iso, kernel: boot/vmlinuz}}", "it has no file boot/vmlinuz")
	s.iso(t, "windows.iso", "bootmgr=x")
	s.refused(t, "from: {iso: {path: windows.iso}}", "windows.iso", "no kernel where one was expected")
	s.iso(t, "memtest.iso", "boot/memtest=x")
	s.refused(t, "from: {iso: {path: memtest.iso}}\ndeliver: nfs", "takes nothing from the ISO")
	if g := s.must(t, "from: {iso: {path: memtest.iso}}"); g.Manifest.Medium.Deliver != "" || g.Manifest.Medium.Family != store.Memtest {
		t.Errorf("%+v", g.Manifest.Medium)
	}
	data, err := os.ReadFile(filepath.Join(s.dir, "d.iso"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "short.iso", string(data[:len(data)/3]))
	s.refused(t, "from: {iso: {path: short.iso}}", "short.iso", "cut off")
}

// A list must be signed by whom the recipe names, when it names somebody.
func TestSignedSums(t *testing.T) {
	s := newMediumSite(t)
	sum := s.iso(t, "d.iso", "live/vmlinuz=kernel", "live/initrd.img=initrd")
	s.write(t, "SHA256SUMS", sum+"  d.iso\n")
	config := &packet.Config{Time: func() time.Time { return time.Now().Add(-time.Hour) }, Algorithm: packet.PubKeyAlgoEdDSA}
	key := func(name string) *openpgp.Entity {
		e, err := openpgp.NewEntity(name, "", name+"@example.org", config)
		if err != nil {
			t.Fatal(err)
		}
		var ring bytes.Buffer
		w, err := armor.Encode(&ring, openpgp.PublicKeyType, nil)
		if err == nil {
			err = e.Serialize(w)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		s.write(t, name+".asc", ring.String())
		return e
	}
	right := key("right")
	key("wrong")
	var signature bytes.Buffer
	if err := openpgp.DetachSign(&signature, []*openpgp.Entity{right}, strings.NewReader(sum+"  d.iso\n"), config); err != nil {
		t.Fatal(err)
	}
	s.write(t, "SHA256SUMS.gpg", signature.String())
	iso := "from: {iso: {url: URL/d.iso, sums: URL/SHA256SUMS, signature: URL/SHA256SUMS.gpg, keyring: right.asc}}"
	s.must(t, iso)
	s.refused(t, strings.Replace(iso, "right.asc", "wrong.asc", 1), "SHA256SUMS is signed by key", "wrong.asc")
	s.refused(t, strings.Replace(iso, "signature: URL/SHA256SUMS.gpg, ", "", 1), "not a clearsigned file")
	s.write(t, "SHA256SUMS", sum+"  d.iso\n# added\n")
	s.refused(t, iso, "not as it was signed")
}

func TestNetbootGeneration(t *testing.T) {
	s := newMediumSite(t)
	s.write(t, "linux", "kernel")
	s.write(t, "initrd.gz", "initrd")
	g := s.must(t, "from: {netboot: {kernel: {url: URL/linux, sha256: "+s.sum(t, "linux")+"}, initrd: {path: initrd.gz}}}")
	if m := g.Manifest; m.Medium == nil || m.Medium.Family != store.Other || m.Medium.File != "linux" || len(m.Parts) != 2 {
		t.Errorf("%+v, parts %v", m.Medium, m.Parts)
	}
	for part, text := range map[string]string{store.PartKernel: "kernel", store.PartInitramfs: "initrd"} {
		if data, err := os.ReadFile(g.Path(part)); err != nil || string(data) != text {
			t.Errorf("%s: %q, %v", part, data, err)
		}
	}
	alone := s.must(t, "from: {netboot: {kernel: {path: linux}}}")
	if len(alone.Manifest.Parts) != 1 {
		t.Errorf("parts %v", alone.Manifest.Parts)
	}
}
