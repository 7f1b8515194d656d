package rpm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"netroot/builder/need"
)

// Pairs of rpm's own test suite (tests/rpmvercmp.at) and of the field.
var ordered = []struct {
	a, b string
	want int
}{
	{"1.0", "1.0", 0}, {"1.0", "2.0", -1}, {"2.0.1", "2.0.1a", -1}, {"5.5p1", "5.5p10", -1}, {"10xyz", "10.1xyz", -1},
	{"xyz10", "xyz10.1", -1}, {"xyz.4", "8", -1}, {"xyz.4", "2", -1}, {"5.5p2", "5.6p1", -1}, {"5.6p1", "6.5p1", -1},
	{"6.0", "6.0.rc1", -1}, {"10b2", "10a1", 1}, {"7.4.052", "7.4.51", 1}, {"1.0aa", "1.0a", 1}, {"10.0001", "10.1", 0},
	{"10.0001", "10.0039", -1}, {"4.999.9", "5.0", -1}, {"20101121", "20101122", -1}, {"2_0", "2.0", 0}, {"a+", "a_", 0},
	{"+_", "_+", 0}, {"1.0~rc1", "1.0", -1}, {"1.0~rc1", "1.0~rc2", -1}, {"1.0~rc1~git123", "1.0~rc1", -1},
	{"1.0^", "1.0", 1}, {"1.0^git1", "1.0^git2", -1}, {"1.0^git1", "1.01", -1}, {"1.0^20160101", "1.0.1", -1},
	{"1.0^20160101^git1", "1.0^20160102", -1}, {"1.0~rc1^git1", "1.0~rc1", 1}, {"1.0^git1~pre", "1.0^git1", -1},
	{"2.12-1.209.el6_9.2", "2.12-1.210.el6", -1}, {"", "1", -1}, {"", "~", 1}, {"1.", "1", 0}, {"a.", "a", 0},
}

func TestCompareSegments(t *testing.T) {
	for _, c := range ordered {
		if got := CompareSegments(c.a, c.b); got != c.want {
			t.Errorf("%q against %q: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := CompareSegments(c.b, c.a); got != -c.want {
			t.Errorf("%q against %q: %d, want %d", c.b, c.a, got, -c.want)
		}
	}
}

// TestAgainstRPM asks rpm itself about the table and about random versions.
func TestAgainstRPM(t *testing.T) {
	program := need.Tool(t, "rpm")
	type pair struct{ a, b string }
	var pairs []pair
	for _, c := range ordered {
		pairs = append(pairs, pair{c.a, c.b})
	}
	random := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		const letters = "0012ab.~^_+"
		var b strings.Builder
		for range random.IntN(8) {
			b.WriteByte(letters[random.IntN(len(letters))])
		}
		return b.String()
	}
	for range 3000 {
		pairs = append(pairs, pair{word(), word()})
	}
	var script strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&script, "print(rpm.vercmp(%q,%q)..'\\n') ", "1-"+p.a, "1-"+p.b)
	}
	file := t.TempDir() + "/compare.lua"
	if err := os.WriteFile(file, []byte(script.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "--eval", "%{lua:dofile('"+file+"')}").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	answers := strings.Fields(string(out))
	if len(answers) != len(pairs) {
		t.Fatalf("%d answers to %d questions: %.200s", len(answers), len(pairs), out)
	}
	for i, p := range pairs {
		if p.a == "" || p.b == "" {
			continue // "1-" is a version without a release
		}
		if got := fmt.Sprint(CompareSegments(p.a, p.b)); got != answers[i] {
			t.Errorf("%q against %q: %s, rpm says %s", p.a, p.b, got, answers[i])
		}
	}
}

func TestParseEVR(t *testing.T) {
	for text, want := range map[string]EVR{
		"1.2-3.el6":   {"", "1.2", "3.el6"},
		"2:1.2-3":     {"2", "1.2", "3"},
		"1.2":         {"", "1.2", ""},
		"1.2-b-3":     {"", "1.2-b", "3"},
		"a:1":         {"", "a:1", ""},
		"0:1~rc1^g-1": {"0", "1~rc1^g", "1"},
	} {
		if got := ParseEVR(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func relation(t *testing.T, s string) Relation {
	t.Helper()
	c, err := ParseCondition(s)
	if err != nil || c.Word != "" {
		t.Fatalf("%q: %+v, %v", s, c, err)
	}
	return c.Relation
}

func TestOverlaps(t *testing.T) {
	for _, c := range []struct {
		asks, gives string
		want        bool
	}{
		{"a", "a = 1", true}, {"a >= 1", "a", true}, {"a", "b", false},
		{"a = 1.2", "a = 1.2-7", true}, {"a = 1.2-7", "a = 1.2", true}, {"a = 1.2-6", "a = 1.2-7", false},
		{"a > 1.2", "a = 1.2-7", false}, {"a >= 1.2", "a = 1.2-7", true}, {"a < 1:1", "a = 2", true}, {"a >= 1:1", "a = 2", false},
		{"a < 2", "a > 1", true}, {"a < 1", "a > 1", false}, {"a <= 1", "a >= 1", true}, {"a > 2", "a > 1", true}, {"a < 1", "a <= 1", true},
	} {
		if got := relation(t, c.asks).Overlaps(relation(t, c.gives)); got != c.want {
			t.Errorf("%s of %s: %v", c.asks, c.gives, got)
		}
	}
}

func TestParseCondition(t *testing.T) {
	for _, text := range []string{
		"bash", "glibc >= 2.12-1", "libc.so.6(GLIBC_2.4)(64bit)", "perl(Foo::Bar) >= 1.0", "rtld(GNU_HASH)", "/bin/sh",
		"(a or b >= 2)", "(a and b and (c or d))", "(pkg if foo)", "(pkg if foo >= 1 else bar)", "(a unless b)", "(a with b < 2)", "(a without b)",
		"(crypto-policies >= 20180730 if perl(X))",
	} {
		c, err := ParseCondition(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if c.String() != text {
			t.Errorf("%q came back as %q", text, c)
		}
	}
	for text, want := range map[string]string{
		"":                       "a name is missing",
		"(a or b":                "parentheses do not match",
		"a)":                     `")" stands behind its end`,
		"(a or b and c)":         "mixed without parentheses",
		"(a xor b)":              `"xor" is not one of`,
		"(a else b)":             "else without",
		"a >=":                   "a version is missing",
		"(a if b else c else d)": "else without",
		strings.Repeat("(", 40):  "nested",
	} {
		if _, err := ParseCondition(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParseCondition(f *testing.F) {
	for _, s := range []string{"a", "a >= 1:2-3", "(a or (b if c else d))", "f(x)(y) = 1", "((("} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCondition(s)
		if err != nil {
			return
		}
		again, err := ParseCondition(c.String())
		if err != nil || again.String() != c.String() {
			t.Fatalf("%q reads as %q, and that as %q (%v)", s, c, again, err)
		}
	})
}

func TestArch(t *testing.T) {
	for _, c := range []struct {
		arch, root string
		runs       bool
	}{{"i386", "i686", true}, {"noarch", "i686", true}, {"x86_64", "i686", false}, {"i686", "x86_64", true}, {"aarch64", "x86_64", false}} {
		if Runs(c.arch, c.root) != c.runs {
			t.Errorf("%s in a root of %s: %v", c.arch, c.root, !c.runs)
		}
	}
	if Better("i686", "i386", "i686") >= 0 || Better("x86_64", "i686", "x86_64") >= 0 {
		t.Error("the order of architectures is wrong")
	}
}
