package deb

import (
	"cmp"
	"math/rand/v2"
	"os/exec"
	"testing"

	"netroot/builder/need"
)

func TestCompareVersions(t *testing.T) {
	ordered := []string{"0~~", "0~~a", "0~", "0", "0a", "0+", "1.0~rc1-1", "1.0-1~bpo1", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0.1", "1.9", "1.10", "2.38.1-5+deb12u3", "10", "1:0.1", "1:1.2.13.dfsg-1", "2:0"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got, want := CompareVersions(a, b), cmp.Compare(i, j); got != want {
				t.Errorf("%s against %s: %d, want %d", a, b, got, want)
			}
		}
	}
	for _, p := range [][2]string{{"1.0", "1.00"}, {"1.0-0", "1.0"}, {"0:1", "1"}} {
		if CompareVersions(p[0], p[1]) != 0 {
			t.Errorf("%s and %s differ", p[0], p[1])
		}
	}
}

// Versions from deb-version(7), from dpkg's own tests, and such as the archive really has.
var versions = []string{
	"0", "1", "1.0", "1.0-0", "1.0-1", "1.0-1.1", "1.0-1+b1", "1.0-1~bpo12+1", "1.0~rc1-1", "1.0~~-1", "1.0~", "1.0+dfsg-1", "1.0-1ubuntu1", "1.00", "01.0",
	"0:1.0-1", "1:0.1", "2:0.1-1", "10:0", "1.2.3", "1.2.10", "1.2a", "1.2+", "1.2.", "1.2-", "1.2-a", "1.2-0a", "1.2-~", "a", "z", "A", "~", "~~", "~a", "+", ".",
	"6.1.176-1", "6.12.117-1~deb12u1", "2.36-9+deb12u10", "2.36-9+deb12u9", "1:9.2p1-2+deb12u5", "2:9.0.1378-2+deb12u2", "0.5.12-2", "5.9~svn20110310-18",
	"20230311+deb12u1", "20230311", "3.000003-2", "12.4+deb12u11", "1-1-1", "1.0-1-1", "1:1:1-1", "000001", "1.0000", "1.0-01", "1..2", "1.a.2", "9999999999999999999999", "9999999999999999999998",
}

func TestVersionsAgainstDpkg(t *testing.T) {
	need.Patience(t)
	need.Tools(t, "dpkg")
	pairs := [][2]string{{"1.0-0", "1.0"}, {"1a", "1+"}, {"1.0~", "1.0-1"}, {"1.0-1-2", "1.0-1-10"}}
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
