package apt

import (
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// Versions from deb-version(7), from dpkg's own tests, and such as the archive really has.
var versions = []string{
	"0", "1", "1.0", "1.0-0", "1.0-1", "1.0-1.1", "1.0-1+b1", "1.0-1~bpo12+1", "1.0~rc1-1", "1.0~~-1", "1.0~", "1.0+dfsg-1", "1.0-1ubuntu1", "1.00", "01.0",
	"0:1.0-1", "1:0.1", "2:0.1-1", "10:0", "1.2.3", "1.2.10", "1.2a", "1.2+", "1.2.", "1.2-", "1.2-a", "1.2-0a", "1.2-~", "a", "z", "A", "~", "~~", "~a", "+", ".",
	"6.1.176-1", "6.12.117-1~deb12u1", "2.36-9+deb12u10", "2.36-9+deb12u9", "1:9.2p1-2+deb12u5", "2:9.0.1378-2+deb12u2", "0.5.12-2", "5.9~svn20110310-18",
	"20230311+deb12u1", "20230311", "3.000003-2", "12.4+deb12u11", "1-1-1", "1.0-1-1", "1:1:1-1", "000001", "1.0000", "1.0-01", "1..2", "1.a.2", "9999999999999999999999", "9999999999999999999998",
}

func TestVersionsAgainstDpkg(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		unavailable(t, "%v", err)
	}
	pairs := [][2]string{}
	for _, a := range versions {
		pairs = append(pairs, [2]string{a, versions[len(pairs)%7]}, [2]string{a, a + "~"}, [2]string{a, a + "+b1"})
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 120 {
		pairs = append(pairs, [2]string{versions[r.IntN(len(versions))], versions[r.IntN(len(versions))]})
	}
	checked := 0
	for _, p := range pairs {
		want, ok := dpkgCompare(p[0], p[1])
		if !ok {
			continue // dpkg takes one of them for no version at all
		}
		checked++
		if got := CompareVersions(p[0], p[1]); got != want {
			t.Errorf("%s against %s: %d, dpkg says %d", p[0], p[1], got, want)
		}
		if got := CompareVersions(p[1], p[0]); got != -want {
			t.Errorf("%s against %s: %d, dpkg says %d", p[1], p[0], got, -want)
		}
	}
	if checked < 200 {
		t.Errorf("dpkg understood only %d pairs", checked)
	}
}

// dpkgCompare asks dpkg; not ok when it warns about the versions.
func dpkgCompare(a, b string) (int, bool) {
	for op, c := range map[string]int{"lt": -1, "gt": 1} {
		out, err := exec.Command("dpkg", "--compare-versions", a, op, b).CombinedOutput()
		if len(out) > 0 {
			return 0, false
		}
		if err == nil {
			return c, true
		}
	}
	return 0, true
}

func FuzzCompareVersions(f *testing.F) {
	for i, v := range versions {
		f.Add(v, versions[(i+3)%len(versions)], versions[(i*7)%len(versions)])
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba := CompareVersions(a, b), CompareVersions(b, a)
		if ab != -ba {
			t.Errorf("%q %q: %d one way, %d the other", a, b, ab, ba)
		}
		if bc := CompareVersions(b, c); ab <= 0 && bc <= 0 && CompareVersions(a, c) > 0 {
			t.Errorf("%q <= %q <= %q, but not the first and the last", a, b, c)
		}
	})
}

func TestParseDependencies(t *testing.T) {
	for in, want := range map[string]string{
		"libc6 (>= 2.36), zlib1g":                               "libc6 (>= 2.36), zlib1g",
		"a|b (<< 2)|  c:any (= 1:2-3)":                          "a | b (<< 2) | c:any (= 1:2-3)",
		"a(>=1),b( <= 2 ),\n c (>> 3)":                          "a (>= 1), b (<= 2), c (>> 3)",
		"a (< 1), b (> 2), c (3)":                               "a (<= 1), b (>= 2), c (= 3)",
		"a [amd64], b [i386], c [!amd64], d [!hurd-i386 !i386]": "a, d",
		"a [i386] | b":                                          "b",
		"a [linux-any], b (>= 1) [any-amd64 arm64]":             "a, b (>= 1)",
		"a <!nocheck>, b <cross> <stage1>":                      "a, b",
		"a, , b,":                                               "a, b",
		"":                                                      "",
		"Lib_Third.party+x:amd64":                               "Lib_Third.party+x:amd64",
	} {
		deps, err := ParseDependencies(in, "amd64")
		parts := make([]string, len(deps))
		for i, d := range deps {
			parts[i] = d.String()
		}
		if got := strings.Join(parts, ", "); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"a (>= 1", "a (>= )", "a (=> 1)", "a [amd64", "a <x", "a b", "a (= 1) (= 2)", "a |", "| a", "-a", "a:", "ä", "a (>= 1) x", "a ()", "$x", "a (>= 1 2)"} {
		if deps, err := ParseDependencies(in, "amd64"); err == nil {
			t.Errorf("%q was read as %v", in, deps)
		}
	}
}

func FuzzParseDependencies(f *testing.F) {
	f.Add("libc6 (>= 2.36), a | b:any (<< 1~) [amd64 !i386] <!x>")
	f.Add("a (= 1:2-3), , b")
	f.Fuzz(func(t *testing.T, s string) {
		deps, err := ParseDependencies(s, "amd64")
		if err != nil {
			return
		}
		parts := make([]string, len(deps))
		for i, d := range deps {
			if len(d) == 0 {
				t.Fatal("a dependency without alternatives")
			}
			parts[i] = d.String()
		}
		again, err := ParseDependencies(strings.Join(parts, ", "), "amd64")
		if err != nil || len(again) != len(deps) {
			t.Fatalf("%q does not survive being written: %v, %v", s, again, err)
		}
		for i := range again {
			if again[i].String() != parts[i] {
				t.Errorf("%q became %q", parts[i], again[i])
			}
		}
	})
}

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
			if !validName(p.Name) || len(p.SHA256) != 64 || p.Size < 0 {
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
