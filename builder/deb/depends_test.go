package deb

import (
	"strings"
	"testing"
)

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
