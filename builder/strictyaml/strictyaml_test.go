package strictyaml

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/need"
)

type config struct {
	Name    string            `yaml:"name"`
	Count   int               `yaml:"count"`
	Port    *int              `yaml:"port"`
	On      bool              `yaml:"on"`
	Mode    string            `yaml:"mode,literal"`
	Kind    string            `yaml:"kind" jsonschema:"enum=red,enum=green"`
	Words   []string          `yaml:"words"`
	MAC     []string          `yaml:"mac,literal,one"`
	Pin     string            `yaml:"pin,secret"`
	Inner   *inner            `yaml:"inner"`
	List    []inner           `yaml:"list"`
	Skipped *inner            `yaml:"skipped,any"`
	Short   *inner            `yaml:"short,bare"`
	Vars    map[string]string `yaml:"vars,literal,secret"`
	Other   string            // no tag, no key
}

type inner struct {
	Path string `yaml:"path" jsonschema:"required"`
	Size int    `yaml:"size"`
}

func decode(text string) (config, *Document, error) {
	var c config
	d, err := Parse("f.yaml", []byte(text))
	if err != nil {
		return c, nil, err
	}
	return c, d, d.Decode(&c)
}

func TestDecode(t *testing.T) {
	port := 0
	for text, want := range map[string]config{
		"name: a b # c\ncount: -12\nport: 0\non: true\n":                      {Name: "a b", Count: -12, Port: &port, On: true},
		"mode: 0644\nmac: 002038033760\n":                                     {Mode: "0644", MAC: []string{"002038033760"}},
		"mode: true\nmac: [00:20:38:03:37:6c, 12]\n":                          {Mode: "true", MAC: []string{"00:20:38:03:37:6c", "12"}},
		"{name: a, mac: [00:20:38:03:37:6c, 00:20:38:03:37:6e]}\n":            {Name: "a", MAC: []string{"00:20:38:03:37:6c", "00:20:38:03:37:6e"}},
		"{mac: [10:20, true:x,\n  a:b:c , http://x:80/], list: [path: /a]}\n": {MAC: []string{"10:20", "true:x", "a:b:c", "http://x:80/"}, List: []inner{{Path: "/a"}}},
		"words: [a, 'b', \"c\\td\"]\nkind: green\n":                           {Words: []string{"a", "b", "c\td"}, Kind: "green"},
		"name: |\n  one\n  two\nwords:\n- x\n-  y\n":                          {Name: "one\ntwo\n", Words: []string{"x", "y"}},
		"name: >-\n  one\n  two\n":                                            {Name: "one two"},
		"inner: {path: /a, size: 3}\nlist:\n- path: /b\n- {path: /c}\n":       {Inner: &inner{"/a", 3}, List: []inner{{Path: "/b"}, {Path: "/c"}}},
		"words: &w [a]\nmac: *w\nname: &n x\nkind: red\nlist: [{path: *n}]\n": {Words: []string{"a"}, MAC: []string{"a"}, Name: "x", Kind: "red", List: []inner{{Path: "x"}}},
		"\ufeffname: x\r\nwords:\r\n  - y\r\n":                                {Name: "x", Words: []string{"y"}},
		"---\n# comment\nname: ようこそ\n...\n":                                   {Name: "ようこそ"},
		"words: []\nskipped: {any: [thing, 1]}\n":                             {Words: []string{}, Skipped: &inner{}},
		"short: /a\nvars: {x: 1, y_z: 'b'}\n":                                 {Short: &inner{Path: "/a"}, Vars: map[string]string{"x": "1", "y_z": "b"}},
		"short: {path: /a, size: 2}\nvars: {}\n":                              {Short: &inner{"/a", 2}, Vars: map[string]string{}},
		"name: yes\nmode: 'no'\n":                                             {Name: "yes", Mode: "no"},
	} {
		got, _, err := decode(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "f.yaml: is empty",
		"# nothing\n":                 "f.yaml: is empty",
		"\xff":                        "f.yaml: is not a text in UTF-8",
		"name: \"\x01\"":              "f.yaml: has the control character U+0001 on line 1",
		"nme: x":                      "f.yaml:1:1: unknown key \"nme\"\n    nme: x\n    ^\ndid you mean \"name\"?",
		"Name: x":                     "f.yaml:1:1: unknown key \"Name\"\n    Name: x\n    ^\ndid you mean \"name\"?",
		"人間: x":                       "f.yaml:1:1: unknown key \"人間\"\n    人間: x\n    ^\nkeys known here: name, count, port, on, mode, kind, words, mac, pin, inner, list, skipped, short, vars",
		"inner: {パス: a, path: b}":     "f.yaml:1:9: unknown key \"パス\"\n    inner: {パス: a, path: b}\n            ^\nkeys known here: path, size",
		"name: [日本, x]":               "f.yaml:1:7: a list, where a text belongs\n    name: [日本, x]\n          ^",
		"words: [日本, {a: b}]":         "f.yaml:1:13: a mapping, where a text belongs\n    words: [日本, {a: b}]\n                  ^",
		"name: x\nname: y":            "f.yaml:2:1: key \"name\" is given twice, first on line 1\n    name: y\n    ^",
		"count: 1.5":                  "f.yaml:1:8: the number 1.5, where a whole number belongs\n    count: 1.5\n           ^",
		"count: 0x1f":                 "f.yaml:1:8: 0x1f is not a decimal number\n    count: 0x1f\n           ^",
		"count: 99999999999999999999": "f.yaml:1:8: a text, where a whole number belongs\n    count: 99999999999999999999\n           ^",
		"count: 9999999999999999999":  "f.yaml:1:8: 9999999999999999999 is too large\n    count: 9999999999999999999\n           ^",
		"on: yes":                     "f.yaml:1:5: a text, where true or false belongs\n    on: yes\n        ^",
		"inner: x":                    "f.yaml:1:8: a text, where a mapping with the keys path, size belongs\n    inner: x\n           ^",
		"inner: {size: 1}":            "f.yaml:1:8: no \"path\", which must be given here\n    inner: {size: 1}\n           ^",
		"list: [a]":                   "f.yaml:1:8: a text, where a mapping with the keys path, size belongs\n    list: [a]\n           ^",
		"list: {path: a}":             "f.yaml:1:7: a mapping, where a list of mappings belongs\n    list: {path: a}\n          ^",
		"{mac: [1, a: b]}":            "f.yaml:1:11: a mapping, where a text belongs\n    {mac: [1, a: b]}\n              ^",
		"{mac: [1, \"a\":b]}":         "f.yaml:1:11: a mapping, where a text belongs\n    {mac: [1, \"a\":b]}\n              ^",
		"mac: {a: b}":                 "f.yaml:1:6: a mapping, where a text belongs\n    mac: {a: b}\n         ^",
		"kind: gren":                  "f.yaml:1:7: \"gren\" is not one of red, green\n    kind: gren\n          ^\ndid you mean \"green\"?",
		"words:\n":                    "f.yaml:1:1: no value\n    words:\n    ^\ngive it a list, or take the key away",
		"words: [~]":                  "f.yaml:1:9: no value\n    words: [~]\n            ^\ngive it a text, or take the key away",
		"pin: 1234":                   "f.yaml:1:6: something else, where a text belongs\n    pin: ****\n         ^\nput it in quotes to make it a text",
		"? a\n: b":                    "f.yaml:1:1: a key must be a plain word\n    ? a\n    ^",
		"inner: &i {path: *i}":        "f.yaml:1:11: a mapping, where a text belongs",
		"a: b: c":                     "f.yaml:1:4: a key is not allowed here\n    a: b: c\n       ^\nput a text with \": \" in it in quotes, and keys of one level in one column",
		"a:\n\t- b":                   "f.yaml:2:1: a tab cannot be used here\n    \t- b\n    ^\nindent with spaces: YAML forbids tabs there",
	} {
		_, _, err := decode(text)
		var list Errors
		if !errors.As(err, &list) {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := err.Error(); got != want && !strings.HasPrefix(got, want+"\n") {
			t.Errorf("%q:\n%s\nwant\n%s", text, got, want)
		}
	}
}

// The error of a validator stands where the value stands, or at what is around it.
func TestAt(t *testing.T) {
	_, d, err := decode("name: x\nlist:\n  - path: /a\n  - size: 1\n    path: /b # two\nmac:\n  - a\n  - b\n")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"$":               "f.yaml:1:1: bad\n    name: x\n    ^",
		"$.name":          "f.yaml:1:7: bad\n    name: x\n          ^",
		"$.list[1].path":  "f.yaml:5:11: bad\n        path: /b # two\n              ^",
		"$.list[1]":       "f.yaml:4:5: bad\n      - size: 1\n        ^",
		"$.list[0].size":  "f.yaml:3:5: bad\n      - path: /a\n        ^",
		"$.mac[1]":        "f.yaml:8:5: bad\n      - b\n        ^",
		"$.inner.path":    "f.yaml:1:1: bad\n    name: x\n    ^",
		"no path at all?": "f.yaml:1:1: bad\n    name: x\n    ^",
	} {
		if got := d.At(path, "bad").Error(); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", path, got, want)
		}
	}
	if got := d.AtKey("$.list[1].path", "bad").Error(); !strings.HasPrefix(got, "f.yaml:5:5: bad") {
		t.Errorf("at the key: %s", got)
	}
	if !d.Has("$.list[0].path") || d.Has("$.list[0].size") || d.Line("$.mac[1]") != 8 {
		t.Error("Has or Line is wrong")
	}
}

func TestJoin(t *testing.T) {
	if err := Join(); err != nil {
		t.Errorf("nothing joined is %v", err)
	}
	if err := Join(nil, nil); err != nil {
		t.Errorf("nothing joined is %v", err)
	}
	err := Join(&Error{File: "b", Line: 9, Msg: "x"}, &Error{File: "b", Line: 2, Column: 5, Msg: "y"}, &Error{File: "a", Line: 1, Msg: "z"}, &Error{File: "b", Line: 2, Column: 3, Msg: "w", Err: fs.ErrExist})
	if got := err.Error(); got != "b:2:3: w\nb:2:5: y\nb:9:0: x\na:1:0: z" {
		t.Errorf("%q", got)
	}
	if !errors.Is(err, fs.ErrExist) || len(List(err)) != 4 || List(fs.ErrExist) != nil {
		t.Error("the list or a cause is lost")
	}
	var many []*Error
	for range 25 {
		many = append(many, &Error{File: "f", Line: 1, Column: 1, Msg: "m"})
	}
	if got := Join(many...).Error(); !strings.HasSuffix(got, "\nand 15 more") || strings.Count(got, "f:1:1") != 10 {
		t.Errorf("%q", got)
	}
}

func TestReadMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no.yaml")
	_, err := Read(path)
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != path+": cannot be read: no such file or directory" {
		t.Errorf("got %v", err)
	}
}

// What would take the parser down, or take for ever.
func TestHostileFiles(t *testing.T) {
	need.Patience(t)
	for name, text := range map[string]string{
		"too large":       strings.Repeat("#", maxSize+1),
		"flow nesting":    "words: " + strings.Repeat("[", 20_000),
		"block nesting":   strings.Repeat("- ", 20_000),
		"key nesting":     strings.Repeat("? ", 20_000),
		"colons":          strings.Repeat("a: ", 20_000),
		"many keys":       strings.Repeat("name: x\n", 20_000),
		"many flow keys":  "inner: {" + strings.Repeat("path: x, ", 20_000) + "}",
		"alias of itself": "inner: &a {path: x, size: *a}\n",
		"anchors":         "name: " + strings.Repeat("&a ", 10_000) + "x\n",
	} {
		if _, _, err := decode(text); err == nil {
			t.Errorf("%s: accepted", name)
		} else if len(List(err)) == 0 {
			t.Errorf("%s: %T", name, err)
		}
	}
}

// A large file that is in order is read: a site may have thousands of machines.
func TestLargeFile(t *testing.T) {
	c, _, err := decode("list:\n" + strings.Repeat("- path: /a\n  size: 1\n", 10_000))
	if err != nil || len(c.List) != 10_000 {
		t.Errorf("%d of 10000 entries, %v", len(c.List), err)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"name", "arch", "from", "packages", "hostname", "users"}
	for word, want := range map[string]string{
		"pakages": "packages", "package": "packages", "nmae": "name", "form": "from", "host_name": "hostname", "user": "users", "ARCH": "arch",
		"banana": "", "x": "", "": "", "kernel": "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct {
		check     func(string) error
		good, bad []string
	}{
		{ImageName, []string{"a", "debian-12", "slc6.8-v7768", "0"}, []string{"", "-a", ".a", "A", "a_b", "a/b", "a@1", "menu", "ignore", "local", "x.c32", "pxelinux.0", "lpxelinux.0", "ipxe", "v1", strings.Repeat("a", 64)}},
		{HostName, []string{"a", "A-1", "a.b.example", "1"}, []string{"", "-a", "a-", "a..b", ".a", "a.", "a_b", "a b", strings.Repeat("a", 64), strings.Repeat("a.", 33) + "a"}},
		{KernelParameter, []string{"quiet", "console=ttyS0,115200", `dyndbg="file a +p"`, "ip=dhcp", "rd.shell", "a=$b", `a="$b $"c`, "a{b}", "$a$"},
			[]string{"", "a b", "a\nb", `a"b`, "a=${b}", `a="x $${b}"`, `"${"`, "root=/dev/sda", "initrd=x", "netroot.image=x", "BOOTIF=x", "nfsroot=x"}},
	} {
		for _, s := range c.good {
			if err := c.check(s); err != nil {
				t.Errorf("%q: %v", s, err)
			}
		}
		for _, s := range c.bad {
			if err := c.check(s); err == nil {
				t.Errorf("%q is accepted", s)
			}
		}
	}
}

func TestKernelParameters(t *testing.T) {
	if err := KernelParameters([]string{"quiet", strings.Repeat("x", maxParameters-6)}); err != nil {
		t.Error(err)
	}
	if err := KernelParameters([]string{"quiet", strings.Repeat("x", maxParameters-5)}); err == nil || !strings.Contains(err.Error(), "1201 bytes") {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"name: x\nwords: [a, b]\n", "inner: {path: a, size: 1}\nlist:\n- path: b\n", "name: &a x\nkind: *a\n", "a: |\n  b\n", "? a\n: b\n", "name: 'a\n  b'\n",
		"a:\n- - - b\n", "<<: {a: b}\n", "!!str a: b\n", "%YAML 1.2\n---\nname: x\n", "name: >+\n\n  x\n\n", "mac: 1:2\npin: x\n", "{mac: [1:2, a: b, 'c':d], words: [x:y:z]}\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse("f.yaml", data)
		if err != nil {
			if len(List(err)) == 0 || err.Error() == "" {
				t.Errorf("%T %v", err, err)
			}
			return
		}
		var c config
		if err := d.Decode(&c); err != nil && len(List(err)) == 0 {
			t.Errorf("%T %v", err, err)
		}
		_ = d.At("$.list[0].path", "x").Error()
	})
}
