//go:build e2e

package boot_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/cavaliergopher/cpio"
	"github.com/ulikunitz/xz"
)

// A stanza describes one component of the installer, as in an index of packages.
type stanza struct {
	text                string
	name, file, release string // release is of the kernel that it is for
	standard            bool   // the installer takes it without being asked
	provides            []string
	depends             [][]string // of each, one
}

func parseStanzas(index string) []stanza {
	var all []stanza
	names := func(list string) (out []string) {
		for alternative := range strings.SplitSeq(list, "|") {
			if f := strings.Fields(alternative); len(f) > 0 {
				out = append(out, f[0])
			}
		}
		return out
	}
	for text := range strings.SplitSeq(index, "\n\n") {
		s := stanza{text: strings.TrimSpace(text)}
		for line := range strings.SplitSeq(s.text, "\n") {
			key, value, _ := strings.Cut(line, ": ")
			switch key {
			case "Package":
				s.name = value
			case "Filename":
				s.file = value
			case "Kernel-Version":
				s.release = value
			case "Priority":
				s.standard = value == "standard" || value == "required" || value == "important"
			case "Provides":
				for one := range strings.SplitSeq(value, ",") {
					s.provides = append(s.provides, names(one)...)
				}
			case "Depends":
				for one := range strings.SplitSeq(value, ",") {
					s.depends = append(s.depends, names(one))
				}
			}
		}
		if s.name != "" {
			all = append(all, s)
		}
	}
	return all
}

// A udeb is a component made from files of Debian's own packages.
type udeb struct {
	name, version string
	fields        string   // further lines of its control file
	files         []string // patterns below the root
}

// archive is a suite of this host's mirror, whether this host has it among its sources or not, with all of apt's checks.
type archive struct {
	dir, suite string
}

func openArchive(t *testing.T, suite string) archive {
	t.Helper()
	a := archive{t.TempDir(), suite}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	line := fmt.Sprintf("deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mainMirror(t), suite)
	if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	a.apt(t, "update")
	return a
}

func (a archive) apt(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "apt-get", append([]string{"-q", "-o", "Dir::Etc::SourceList=" + a.dir + "/sources.list", "-o", "Dir::Etc::SourceParts=-",
		"-o", "Dir::State::Lists=" + a.dir + "/lists", "-o", "Dir::Cache=" + a.dir + "/cache", "-o", "Dir::State::Status=/dev/null",
		"-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=5"}, args...)...)
	cmd.Dir = filepath.Join(a.dir, "debs")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("this host's mirror lacks something of %s: apt-get %s: %v\n%s", a.suite, strings.Join(args, " "), err, out)
	}
}

// unpack downloads packages and unpacks each into a folder.
func (a archive) unpack(t *testing.T, packages ...string) map[string]string {
	t.Helper()
	a.apt(t, append([]string{"download"}, packages...)...)
	trees := map[string]string{}
	for _, p := range packages {
		debs, _ := filepath.Glob(filepath.Join(a.dir, "debs", p+"_*.deb"))
		if len(debs) != 1 {
			t.Fatalf("apt-get downloaded %q for %s", debs, p)
		}
		trees[p] = filepath.Join(a.dir, p)
		if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "-x", debs[0], trees[p]).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return trees
}

// make packs those files of the trees that the patterns name. It returns the component's entry in an index, and the component.
func (u udeb) make(t *testing.T, trees map[string]string) (stanza, []byte) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "DEBIAN"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range u.files {
		found := 0
		for _, tree := range trees {
			files, err := filepath.Glob(filepath.Join(tree, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				rel, _ := filepath.Rel(tree, file)
				to := filepath.Join(dir, rel)
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					t.Fatal(err)
				}
				if out, err := exec.CommandContext(t.Context(), "cp", "-a", file, to).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				found++
			}
		}
		if found == 0 {
			t.Fatalf("Debian's packages have no %s, of which %s is to be made", pattern, u.name)
		}
	}
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nSection: debian-installer\nPriority: standard\nMaintainer: lab <lab@lab.test>\n%s"+
		"Description: made of Debian's packages\n", u.name, u.version, u.fields)
	if err := os.WriteFile(filepath.Join(dir, "DEBIAN/control"), []byte(control), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "made.udeb")
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--root-owner-group", "-Zxz", "--build", dir, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	name := "lab/" + u.name + ".udeb"
	entry := fmt.Sprintf("%sFilename: %s\nSize: %d\nSHA256: %x\n", control, name, len(data), sha256.Sum256(data))
	return parseStanzas(entry)[0], data
}

// initrdStatus is the list of components that an installer's initrd holds.
func initrdStatus(t *testing.T, initrd string) []stanza {
	t.Helper()
	f, err := os.Open(initrd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := cpio.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s has no var/lib/dpkg/status: %v", initrd, err)
		}
		if strings.TrimLeft(h.Name, "./") == "var/lib/dpkg/status" {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return parseStanzas(string(data))
		}
	}
}

// wholeComponents are those that the installer takes without being asked and what they need, as far as all of it is in a mirror or was
// made here. Mirrors exist that hold what was asked for before and little else; the installer stops where a component does not come.
func wholeComponents(t *testing.T, mirror string, index, made, initrd []stanza) []stanza {
	t.Helper()
	has := func(list []stanza) map[string]bool {
		names := map[string]bool{}
		for _, s := range list {
			for _, name := range append(s.provides, s.name) {
				names[name] = true
			}
		}
		return names
	}
	inside, own := has(initrd), has(made)
	left := slices.Clone(made)
	for _, s := range index {
		if s.release == "" && !inside[s.name] && !own[s.name] {
			left = append(left, s)
		}
	}
	held := map[string]bool{} // by its path
	for {
		there := has(left)
		whole := slices.DeleteFunc(slices.Clone(left), func(s stanza) bool {
			return slices.ContainsFunc(s.depends, func(any []string) bool {
				return !slices.ContainsFunc(any, func(name string) bool { return inside[name] || there[name] })
			})
		})
		if len(whole) < len(left) {
			left = whole
			continue
		}
		// What is taken at once, and what that needs.
		var taken []stanza
		seen := map[string]bool{}
		var take func(s stanza)
		take = func(s stanza) {
			if seen[s.name] {
				return
			}
			seen[s.name] = true
			taken = append(taken, s)
			for _, any := range s.depends {
				for _, d := range left {
					if slices.ContainsFunc(any, func(name string) bool { return !inside[name] && (name == d.name || slices.Contains(d.provides, name)) }) {
						take(d)
					}
				}
			}
		}
		for _, s := range left {
			if s.standard || own[s.name] {
				take(s)
			}
		}
		var ask sync.WaitGroup
		var mu sync.Mutex
		slots := make(chan struct{}, 8)
		for _, s := range taken {
			if _, known := held[s.file]; known || own[s.name] {
				continue
			}
			ask.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				answer, err := http.Head(mirror + "/" + s.file)
				if err == nil {
					answer.Body.Close()
				}
				mu.Lock()
				defer mu.Unlock()
				held[s.file] = err == nil && answer.StatusCode == http.StatusOK
			})
		}
		ask.Wait()
		before := len(left)
		left = slices.DeleteFunc(left, func(s stanza) bool { yes, known := held[s.file]; return known && !yes })
		if len(left) == before {
			return taken
		}
	}
}

// A suite of components, signed by a key of the lab.
type suite struct {
	files   map[string][]byte // by their path below the mirror's root
	keyring []byte
}

func newSuite(t *testing.T, name string, components []stanza) suite {
	t.Helper()
	var index bytes.Buffer
	for _, s := range components {
		fmt.Fprintf(&index, "%s\n\n", s.text)
	}
	release := fmt.Appendf(nil, "Suite: %s\nCodename: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n %x %d main/debian-installer/binary-amd64/Packages\n",
		name, name, sha256.Sum256(index.Bytes()), index.Len())
	key, err := openpgp.NewEntity("lab", "", "lab@lab.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	var signature, keyring bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&signature, key, bytes.NewReader(release), nil); err != nil {
		t.Fatal(err)
	}
	if err := key.Serialize(&keyring); err != nil {
		t.Fatal(err)
	}
	at := "/dists/" + name + "/"
	return suite{keyring: keyring.Bytes(), files: map[string][]byte{
		at + "Release": release, at + "Release.gpg": signature.Bytes(), at + "main/debian-installer/binary-amd64/Packages": index.Bytes()}}
}

// udebIndex is a mirror's list of the components of a suite.
func udebIndex(t *testing.T, mirror, suite string) []stanza {
	t.Helper()
	data := download(t, mirror+"/dists/"+suite+"/main/debian-installer/binary-amd64/Packages.xz")
	unpacked, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Skipf("this host's mirror has no components of the installer of %s: %v", suite, err)
	}
	all, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	return parseStanzas(string(all))
}

// appendArchive writes an initrd with more files behind those that it has; the kernel unpacks one after the other.
func appendArchive(t *testing.T, from, to string, files map[string][]byte) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | cpio.FileMode(fs.FileMode(0o644)), Size: int64(len(content)), Links: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	if err := os.WriteFile(to, append(data, b.Bytes()...), 0o644); err != nil {
		t.Fatal(err)
	}
}
