package apt

import (
	"strings"
	"testing"

	"netroot/builder/deb"
)

const stanza1 = `Package: dash
Essential: yes
Version: 0.5.12-2
Architecture: amd64
Priority: required
Multi-Arch: foreign
Pre-Depends: libc6 (>= 2.36)
Depends: debianutils (>= 5.6-0.1),
 dpkg (>= 1.19.1)
Provides: sh
Description: POSIX-compliant shell
 Depends: not a field but text
Filename: pool/main/d/dash/dash_0.5.12-2_amd64.deb
Size: 97032
SHA256: 33ea40061da2f1a861ec46212b2b6a34f0776a049b1a3f0abce2fb8cb994258f

`

func TestCompact(t *testing.T) {
	other := strings.NewReplacer("Package: dash", "Package: other", "amd64\n", "i386\n").Replace(stanza1)
	all := strings.NewReplacer("Package: dash", "Package: data", "Architecture: amd64", "Architecture: all").Replace(stanza1)
	unverifiable := strings.NewReplacer("Package: dash", "Package: old", "SHA256", "MD5sum").Replace(stanza1)
	long := strings.Replace(stanza1, "Package: dash\n", "Package: long\nConflicts: "+strings.Repeat("x, ", 200_000)+"y\n", 1)
	text := "\n\n" + stanza1 + other + all + unverifiable + long + strings.TrimRight(strings.ReplaceAll(stanza1, "\n", "\r\n"), "\r\n")
	data, err := compact(strings.NewReader(text), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	pkgs, err := expand(data, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range pkgs {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "dash data long dash" {
		t.Fatalf("packages %s", got)
	}
	want := Package{Name: "dash", Version: "0.5.12-2", Arch: "amd64", Repo: "bookworm", Path: "pool/main/d/dash/dash_0.5.12-2_amd64.deb", Size: 97032,
		SHA256: "33ea40061da2f1a861ec46212b2b6a34f0776a049b1a3f0abce2fb8cb994258f", Essential: true, Priority: Required, multiArch: multiArchForeign,
		preDepends: "libc6 (>= 2.36)", depends: "debianutils (>= 5.6-0.1), dpkg (>= 1.19.1)", provides: "sh"}
	for _, i := range []int{0, 3} {
		if pkgs[i] != want {
			t.Errorf("read %+v\nwant %+v", pkgs[i], want)
		}
	}
	if n := len(pkgs[2].conflicts); n != 600_001 {
		t.Errorf("the long field has %d bytes", n)
	}
	for i := 0; i < len(data); i += 37_001 { // any damage is noticed
		damaged := []byte(string(data))
		damaged[i] ^= 1
		if _, err := expand(damaged, "bookworm"); err == nil {
			t.Errorf("byte %d changed, and nobody noticed", i)
		}
	}
	if _, err := expand(data[:len(data)-1], "bookworm"); err == nil {
		t.Error("a truncated list was read")
	}
	for name, bad := range map[string]string{
		"path out of the repository": strings.Replace(stanza1, "pool/main", "../../etc", 1),
		"absolute path":              strings.Replace(stanza1, "pool/main", "/etc", 1),
		"no colon":                   "Package dash\n",
		"size":                       strings.Replace(stanza1, "97032", "-1", 1),
		"name":                       strings.Replace(stanza1, "dash\n", "../dash\n", 1),
	} {
		if _, err := compact(strings.NewReader(bad), "amd64"); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzPackages(f *testing.F) {
	f.Add([]byte(stanza1))
	f.Add([]byte("Package: x\n y\n\nZ"))
	f.Fuzz(func(t *testing.T, text []byte) {
		data, err := compact(strings.NewReader(string(text)), "amd64")
		if err != nil {
			return
		}
		pkgs, err := expand(data, "x")
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		for _, p := range pkgs {
			if !deb.ValidName(p.Name) || len(p.SHA256) != 64 || p.Size < 0 {
				t.Errorf("%+v", p)
			}
		}
	})
}

func FuzzExpand(f *testing.F) {
	data, _ := compact(strings.NewReader(stanza1), "amd64")
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = expand(data, "x")
	})
}

func FuzzRelease(f *testing.F) {
	f.Add("Suite: x\nDate: Sat, 11 Jul 2026 10:16:37 UTC\nSHA256:\n " + strings.Repeat("0", 64) + " 5 main/binary-amd64/Packages.xz\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRelease(text)
		if err != nil {
			return
		}
		for _, c := range r.packages("main", "amd64") {
			_ = c.byHashPath()
		}
	})
}
