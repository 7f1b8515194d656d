package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"netroot/boot/nodes"
	"netroot/builder/lock"
	"netroot/builder/store"
	"netroot/builder/strictyaml"
)

func TestLineHandler(t *testing.T) {
	for want, write := range map[string]func(*slog.Logger){
		"netroot: offer mac=52:54:00:12:34:56 seconds=0.25 reason=\"two words\"\n": func(l *slog.Logger) {
			l.With("mac", "52:54:00:12:34:56").Info("offer", "seconds", 0.25, "reason", "two words")
		},
		"netroot: warning: refused reason=\"\"\n": func(l *slog.Logger) { l.Warn("refused", "reason", "") },
		"netroot: error: not reloaded file=n.yaml\nnetroot: n.yaml:1:1: unknown key \"a\"\nnetroot:     a: b\nnetroot:     ^\nnetroot: kept\n": func(l *slog.Logger) {
			l.Error("not reloaded", "reason", fmt.Errorf("%w\nkept", strictyaml.Join(&strictyaml.Error{File: "n.yaml", Line: 1, Column: 1, Msg: "unknown key \"a\"", Source: "a: b"})), "file", "n.yaml")
		},
		"netroot: read file=\"x\\nnetroot: offer\"\n": func(l *slog.Logger) { l.Info("read", "file", "x\nnetroot: offer") },
		"": func(l *slog.Logger) { l.Debug("probe") },
	} {
		var out bytes.Buffer
		write(slog.New(newLineHandler(&out, slog.LevelInfo)))
		if out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
}

// What the network sends cannot move the cursor, clear the screen or begin a line of its own, in the log or in the list of machines.
func TestControlCharacters(t *testing.T) {
	for _, name := range []string{"a\x1b[2Jb", "a\rb", "a\u009bb", "a\xffb", "a\u202eb", "a\vb", "a\nb"} {
		var out strings.Builder
		log := slog.New(newLineHandler(&out, slog.LevelInfo))
		log.With("file", name).Warn("refused", "reason", name)
		quoted := strings.Trim(strconv.Quote(name), `"`)
		if want := fmt.Sprintf("netroot: warning: refused file=\"%s\" reason=\"%[1]s\"\n", quoted); out.String() != want {
			t.Errorf("%q: %q, want %q", name, out.String(), want)
		}
		m := nodes.Machine{Name: "vme1", Stage: "menu", LastError: &nodes.Problem{Service: "tftp", File: name, Reason: "the client says: " + name},
			Stages: []nodes.Stage{{Stage: "menu", Note: name + " 10 bytes"}}}
		for _, print := range []func(io.Writer) error{
			func(w io.Writer) error { return printMachine(w, m) }, func(w io.Writer) error { return printMachines(w, []nodes.Machine{m}) },
		} {
			out.Reset()
			if err := print(&out); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out.String(), name) || !strings.Contains(out.String(), quoted) || strings.Contains(strings.ReplaceAll(out.String(), quoted, ""), "\x1b") {
				t.Errorf("%q: %q", name, out.String())
			}
		}
	}
}

// TestSafe has words of packages and repositories that are meant for the terminal.
func TestSafe(t *testing.T) {
	const hostile = "\x1b]0;title\x07\u202egpj\r\xff\x00"
	const want = `\x1b]0;title\a\u202egpj\r\xff\x00`
	if got := safe("wörk 50\u00b0 'a' \\ \"b\"\n\t" + hostile); got != "wörk 50\u00b0 'a' \\ \"b\"\n\t"+want {
		t.Errorf("%q", got)
	}
	var out bytes.Buffer
	(&cli{stderr: &out}).sayError(fmt.Errorf("package %s failed\nits last words", hostile))
	if got := out.String(); got != "netroot: package "+want+" failed\nnetroot: its last words\n" {
		t.Errorf("an error is %q", got)
	}
	out.Reset()
	slog.New(newLineHandler(&out, slog.LevelInfo)).Info("two\nlines " + hostile)
	if got := out.String(); got != `netroot: two\nlines `+want+"\n" {
		t.Errorf("a message is %q", got)
	}
}

// TestWordsOfRoots has a folder and an image with words for the terminal in what check, show, images and diff tell of them.
func TestWordsOfRoots(t *testing.T) {
	const hostile = "a\x1b[2J\u009b\u202eb"
	const want = `a\x1b[2J\u009b\u202eb`
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc", "fstab"), []byte("/dev/sda1 /"+hostile+" ext4\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"1" + hostile, "2" + hostile} {
		draft, err := s.Begin("image")
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{store.PartKernel, store.PartInitramfs, store.PartRoot} {
			if err := os.WriteFile(filepath.Join(draft.Dir(), part), nil, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		pins := &lock.Lock{Arch: "amd64", Packages: []lock.Package{{Name: "p", Version: version, Arch: "all"}, {Name: version, Arch: "all"}}}
		if _, err := draft.Publish(store.Manifest{Arch: "amd64", KernelRelease: hostile, Notes: []string{hostile + "\nnetroot: all is well"}, Cmdline: []string{hostile}, Lock: pins}); err != nil {
			t.Fatal(err)
		}
	}
	for args, seen := range map[string]int{"check " + root: 1, "show image": 5, "images": 2, "diff image@1 image@2": 4} {
		var stdout, stderr bytes.Buffer
		c := &cli{stdout: &stdout, stderr: &stderr}
		c.run(t.Context(), append(strings.Fields(args), "--store", s.Dir()))
		for _, out := range []string{stdout.String(), stderr.String()} {
			if strings.ContainsAny(out, "\x1b\u009b\u202e") || strings.Contains(out, "\nnetroot: all is well") {
				t.Errorf("%s: %q", args, out)
			}
		}
		if n := strings.Count(stdout.String(), want); n != seen {
			t.Errorf("%s: there %d times:\n%s%s", args, n, stdout.String(), stderr.String())
		}
	}
}
