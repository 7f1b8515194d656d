package dnsmasq

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/boot/host"
	"netroot/builder/golden"
	"netroot/builder/need"
	"netroot/builder/strictyaml"
)

// Every file gives the policy and the remarks beside it, and the policy is one that is read without a fault.
func TestTranslate(t *testing.T) {
	files, err := filepath.Glob("testdata/*.conf")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		f, err := Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		yaml, remarks := f.Translate()
		got := string(yaml) + "\n# What was said:\n"
		for _, r := range remarks {
			r.File = filepath.Base(r.File)
			got += fmt.Sprintf("# %s (changes: %v)\n", r, r.Changes)
		}
		policy := strings.TrimSuffix(file, ".conf") + ".yaml"
		golden.Compare(t, policy, got)
		if _, err := host.Parse(policy, []byte(got)); err != nil {
			t.Error(err)
		}
		again, more := f.Translate()
		if string(again) != string(yaml) || len(more) != len(remarks) {
			t.Errorf("%s: translated a second time it is another policy", file)
		}
	}
}

// What dnsmasq does not start with is refused, with the line.
func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		"dhcp-hots=00:20:38:00:00:01":           `dnsmasq has no option "dhcp-hots"`,
		"#!/bin/sh\nexec dnsmasq":               `dnsmasq has no option "exec dnsmasq"`,
		"port=0\ninterface":                     "interface takes an argument",
		"log-dhcp=yes":                          "log-dhcp takes no argument",
		"dhcp-host=00:20:38:00:00:0g":           `"00:20:38:00:00:0g" is not a MAC address`,
		"dhcp-host=00:20:38:00:00:01,a b":       `"a b" is not a host name`,
		"dhcp-range=192.168.2.0":                "dhcp-range has a start and an end, or proxy",
		"dhcp-range=set:a,set:b,10.0.0.0,proxy": "dhcp-range sets one tag at most",
		"dhcp-range=10.0.0.0,proxy,255.0.255.0": `"255.0.255.0" is not a netmask`,
		"pxe-service=x86,menu,file":             `"x86" is not a type of client: it is a number or one of x86PC, PC98,`,
		"pxe-service=x86PC":                     "pxe-service has a type of client and a menu text",
		"dhcp-boot=tag:a":                       "dhcp-boot names a file",
		"pxe-prompt=tag:a":                      "pxe-prompt has a text",
		"pxe-service=x86PC,\"menu,pxelinux":     "a double quote that is never closed",
		"dhcp-mac=set:a":                        "dhcp-mac has a tag and what sets it",
		"dhcp-mac=set:a,zz":                     "dhcp-mac has a tag and a MAC address",
		"tag-if=tag:a":                          "tag-if sets a tag when others hold",
		"port=0\x00":                            "a NUL byte",
	} {
		_, err := Parse("d.conf", []byte("\n"+text+"\n"))
		if err == nil {
			t.Errorf("%q is read without a fault", text)
			continue
		}
		if list := strictyaml.List(err); len(list) == 0 || list[0].Line < 2 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) || strictyaml.List(err) != nil {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestLex(t *testing.T) {
	for source, want := range map[string]struct {
		args    []string
		comment string
	}{
		`dhcp-host=00:20:38:00:00:01,set:a # vme`:          {[]string{"00:20:38:00:00:01", "set:a"}, " vme"},
		`dhcp-host = 00:20:38:00:00:01 , set:a#b`:          {[]string{"00:20:38:00:00:01", "set:a#b"}, ""},
		`pxe-service=x86PC,"a, b # c","d\"e\t",pxelinux#x`: {[]string{"x86PC", "a, b # c", "d\"e\t", "pxelinux#x"}, ""},
		"\tlog-dhcp\t#on":  {nil, "on"},
		`pxe-prompt="a\z"`: {[]string{`a\z`}, ""},
	} {
		text, comment, _, closed := lex(source)
		l := &line{}
		l.read(text)
		if diff := cmp.Diff(want.args, l.args); diff != "" || comment != want.comment || !closed {
			t.Errorf("%s: comment %q, closed %v, arguments (-want +got):\n%s", source, comment, closed, diff)
		}
	}
}

func TestNameIn(t *testing.T) {
	for comment, want := range map[string]string{
		"vmegr":                 "vmegr",
		"vmessd G1 port":        "vmessd",
		"vmessd (left)":         "vmessd",
		"vmessd eth0":           "vmessd",
		"crate 3":               "crate-3",
		"vmessd, upper crate":   "vmessd",
		"vmessd: crate 3":       "vmessd",
		"vmessd port 2":         "vmessd",
		"the old test crate":    "the-old-test-crate",
		"spare_board":           "spare-board",
		"":                      "",
		"ビーム":                   "",
		"ビーム vme":               "",
		"-":                     "",
		"vme-v7671-test-gp":     "vme-v7671-test-gp",
		strings.Repeat("a", 80): strings.Repeat("a", 40),
	} {
		if got := nameIn(comment); got != want {
			t.Errorf("%q names %q, want %q", comment, got, want)
		}
	}
}

// Which lines are cards of one machine, and which are machines of their own.
func TestCards(t *testing.T) {
	for name, c := range map[string]struct{ conf, want string }{
		"a number, side by side":       {"00:00:00:00:00:10 # a\n00:00:00:00:00:12 # a2\n00:00:00:00:00:13 # a3", "a=3"},
		"a number, far apart":          {"00:00:00:00:00:10 # a\n00:00:00:00:10:12 # a2", "a=1 a2=1"},
		"another maker":                {"00:00:00:00:00:10 # a\n00:00:02:00:00:12 # a2", "a=1 a2=1"},
		"the number is not the next":   {"00:00:00:00:00:10 # a\n00:00:00:00:00:12 # a3", "a=1 a3=1"},
		"numbers only":                 {"00:00:00:00:00:10 # a1\n00:00:00:00:00:11 # a2", "a1=1 a2=1"},
		"one in a row of many":         {"00:00:00:00:00:10 # a\n00:00:00:00:00:11 # a2\n00:00:00:00:00:12 # a3\n00:00:00:00:00:13 # a4\n00:00:00:00:00:14 # a5", "a=1 a2=1 a3=1 a4=1 a5=1"},
		"same word":                    {"00:00:00:00:00:10 # a G1\n00:00:00:00:00:11 # a G2", "a=2"},
		"same word, far apart":         {"00:00:00:00:00:10 # a G1\n00:00:00:00:10:11 # a G2", "a=1 a-G2=1"},
		"same word alone, far apart":   {"00:00:00:00:00:10 # a\n00:00:00:00:10:11 # a", "a=1 a-001011=1"},
		"host names are kept":          {"00:00:00:00:00:10,a\n00:00:00:00:00:11,a2", "a=1 a2=1"},
		"one host name, two lines":     {"00:00:00:00:00:10,a\n00:00:00:00:10:11,a", "a=2"},
		"one line":                     {"00:00:00:00:00:10,00:00:00:00:10:11 # a", "a=2"},
		"no name":                      {"00:00:00:00:00:10", "m000000000010=1"},
		"one disabled":                 {"00:00:00:00:00:10 # a\n#00:00:00:00:00:11 # a2", "a=1 a2=1-"},
		"both disabled":                {"#00:00:00:00:00:10 # a\n#00:00:00:00:00:11 # a2", "a=2-"},
		"commented out and there":      {"00:00:00:00:00:10 # a\n#00:00:00:00:00:10 # old", "a=1"},
		"the last line for an address": {"00:00:00:00:00:10,first\n00:00:00:00:00:10,second", "second=1"},
	} {
		var conf strings.Builder
		for line := range strings.Lines(c.conf) {
			rest, off := strings.CutPrefix(line, "#")
			if off {
				conf.WriteString("#")
			}
			conf.WriteString("dhcp-host=" + rest)
		}
		f, err := Parse("d.conf", []byte(conf.String()))
		if err != nil {
			t.Fatal(err)
		}
		tr := &translation{File: f, places: []*place{{}}}
		tr.findMachines()
		var got []string
		for _, m := range tr.machines {
			n := 0
			for _, u := range m.units {
				n += len(u.macs)
			}
			s := fmt.Sprintf("%s=%d", m.name, n)
			if m.disabled {
				s += "-"
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %s, want %s", name, strings.Join(got, " "), c.want)
		}
	}
}

// dnsmasq's own list of words: none of them is refused.
func TestWords(t *testing.T) {
	out, err := exec.Command(need.Tool(t, "dnsmasq"), "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	words := regexp.MustCompile(`(?m)--([A-Za-z0-9-]+)(\[=|=)?`).FindAllStringSubmatch(string(out), -1)
	if len(words) < 150 {
		t.Fatalf("dnsmasq names %d options:\n%s", len(words), out)
	}
	for _, w := range words {
		// What takes an argument or none is not said in the same way everywhere.
		if d, known := directives[w[1]]; !known || d.argument == never && w[2] != "" {
			t.Errorf("%s: known %v", w[0], known)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.conf")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
		for line := range strings.Lines(string(data)) {
			f.Add(line)
		}
	}
	f.Fuzz(func(t *testing.T, data string) {
		file, err := Parse("d.conf", []byte(data))
		if err != nil {
			if strictyaml.List(err) == nil {
				t.Errorf("a fault of another kind: %v", err)
			}
			return
		}
		yaml, _ := file.Translate()
		if _, err := host.Parse("netroot.yaml", yaml); err != nil {
			t.Errorf("%v in\n%s", err, yaml)
		}
	})
}
