package seed

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/need"
)

const head = "#cloud-config\nautoinstall:\n  version: 1\n  user-data: {}\n"

// What the reporting command is added to, as PyYAML, cloud-init's own parser, reads it before and after.
func TestLateCommandByPyYAML(t *testing.T) {
	need.Patience(t)
	var names, texts []string // all at once: an interpreter takes its time to start
	for name, text := range map[string]string{
		"none":            head,
		"no end of line":  strings.TrimSuffix(head, "\n"),
		"first":           "#cloud-config\nautoinstall:\n  late-commands:\n    - a\n  version: 1\n  user-data: {}\n",
		"last":            head + "  late-commands:\n    - a\n    - b: c\n",
		"same column":     head + "  late-commands:\n  - a\n  - [x, y]\n  ssh: {install-server: yes}\n",
		"block":           head + "  late-commands:\n    - |\n      one\n\n      two\n\n  locale: C\n",
		"block at end":    head + "  late-commands:\n    - |+\n      one\n\n\n",
		"key behind":      head + "  late-commands:\n    - a\npackages: [x]\n",
		"comment":         head + "  late-commands:   # ours\n    # first\n    - a # b\n    # c\n  # d\n  locale: C\n",
		"only one key":    "#cloud-config\nautoinstall:\n  version: 1\n",
		"quotes":          head + "  late-commands:\n    - 'it''s'\n    - \"x: \\\"y\\\"\"\n",
		"booleans":        head + "  packages: [yes, 0644, 1:30]\n  late-commands: \n   - echo no\n",
		"four columns":    "#cloud-config\npackages: [a]\nautoinstall:\n    version: 1\n    user-data: {}\n    late-commands:\n    -   a\n",
		"carriage return": strings.ReplaceAll(head+"  late-commands:\n    - a\n", "\n", "\r\n"),
	} {
		got, err := lateCommand(text, "it's: done")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		names, texts = append(names, name), append(texts, text, got)
	}
	read := pyYAML(t, texts)
	for i, name := range names {
		before, after := read[2*i], read[2*i+1]
		auto := before["autoinstall"].(map[string]any)
		list, _ := auto["late-commands"].([]any)
		auto["late-commands"] = append(list, "it's: done")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("%s (-want +got):\n%s\nfrom:\n%s", name, diff, texts[2*i+1])
		}
	}
}

func TestLateCommandHasNoPlace(t *testing.T) {
	for _, text := range []string{
		"#cloud-config\nautoinstall: {version: 1}\n",
		head + "  late-commands: [a]\n",
		head + "  late-commands: a\n",
		"#cloud-config\nx: &x [a]\nautoinstall:\n  version: 1\n  late-commands: *x\n",
		"#cloud-config\nx: 1\n",
	} {
		if got, err := lateCommand(text, "done"); err == nil {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestPreseedCommand(t *testing.T) {
	const server = "10.0.0.1:8080"
	const before = "d-i a/b string c\n"
	for text, want := range map[string]string{
		before: before + "d-i preseed/late_command string n=0",
		"d-i preseed/late_command string in-target true; \\\n echo x\n" + before: before + "d-i preseed/late_command string ( in-target true;  echo x ) && { n=0",
		"tasksel tasksel/first multiselect a, \\\n b\n":                          "tasksel tasksel/first multiselect a, \\\n b\nd-i preseed/late_command string n=0",
		"": "\nd-i preseed/late_command string n=0",
	} {
		got, err := preseedCommand(text, server)
		if err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%q became %q, %v; want %q…", text, got, err, want)
		}
		if n := strings.Count(got, "late_command"); n != 1 {
			t.Errorf("%q has %d late commands", got, n)
		}
	}
}

// The commands that machines run, by the shells that they run them with, against a server that is down at first.
func TestReportCommands(t *testing.T) {
	for name, command := range map[string]func(t *testing.T, server string) *exec.Cmd{
		"autoinstall": func(t *testing.T, server string) *exec.Cmd {
			return exec.Command("sh", "-c", late(t, server))
		},
		"autoinstall without curl": func(t *testing.T, server string) *exec.Cmd {
			return exec.Command("sh", "-c", "curl() { return 127; }\n"+late(t, server))
		},
		"autoinstall with the libraries of a snap": func(t *testing.T, server string) *exec.Cmd {
			snap := t.TempDir()
			if err := os.WriteFile(filepath.Join(snap, "libcurl.so.4"), []byte("for another libc"), 0o644); err != nil {
				t.Fatal(err)
			}
			libraries := "LD_LIBRARY_PATH=" + snap
			broken := exec.Command(need.Tool(t, "curl"), "--version")
			if broken.Env = append(os.Environ(), libraries); broken.Run() == nil {
				t.Fatal("curl starts with these libraries, so nothing is shown")
			}
			return exec.Command("env", libraries, "sh", "-c", late(t, server))
		},
		"preseed": func(t *testing.T, server string) *exec.Cmd {
			text, err := report(KindPreseed, Preseed, "d-i preseed/late_command string true;\n", server)
			if err != nil {
				t.Fatal(err)
			}
			_, script, _ := strings.Cut(text, "string ")
			return exec.Command("busybox", "sh", "-c", script)
		},
		"kickstart": func(t *testing.T, server string) *exec.Cmd {
			return exec.Command("/bin/bash", "-c", script(t, server))
		},
		"kickstart without curl": func(t *testing.T, server string) *exec.Cmd {
			return exec.Command("/bin/bash", "-c", "curl() { return 127; }\n"+script(t, server))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			curls := !strings.HasSuffix(name, "without curl") && name != "preseed"
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls++
				if r.Method != http.MethodPost || r.URL.Path != ReportPath {
					t.Errorf("%s %s", r.Method, r.URL)
				}
				if calls == 1 {
					if curl := strings.HasPrefix(r.UserAgent(), "curl/"); curl != curls {
						t.Errorf("the first call came from %q", r.UserAgent())
					}
					http.Error(w, "not yet", http.StatusServiceUnavailable)
				}
			}))
			defer srv.Close()
			cmd := command(t, strings.TrimPrefix(srv.URL, "http://"))
			need.Tools(t, cmd.Path)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			timed := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
			if out, err := timed.CombinedOutput(); err != nil || calls != 2 {
				t.Errorf("%d calls, %v: %s", calls, err, out)
			}
		})
	}
}

// late is the last command of user-data.
func late(t *testing.T, server string) string {
	t.Helper()
	text, err := report(Autoinstall, UserData, head, server)
	if err != nil {
		t.Fatal(err)
	}
	_, list, err := commands(text)
	if err != nil {
		t.Fatal(err)
	}
	return list[0]
}

// script is the last %post of a kickstart file.
func script(t *testing.T, server string) string {
	text, err := report(KindKickstart, Kickstart, "text\n", server)
	if err != nil {
		t.Fatal(err)
	}
	if err := one(Kickstart, text).Check(); err != nil {
		t.Error(err)
	}
	_, rest, _ := strings.Cut(text, "--erroronfail\n")
	rest, _, _ = strings.Cut(rest, "%end")
	return rest
}

func pyYAML(t *testing.T, texts []string) []map[string]any {
	t.Helper()
	if out, err := exec.Command("python3", "-c", "import yaml").CombinedOutput(); err != nil {
		need.Missing(t, "python3-yaml is missing: %v: %s", err, out)
	}
	in, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", "-c", "import sys, yaml, json; print(json.dumps([yaml.safe_load(x) for x in json.load(sys.stdin)]))")
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("PyYAML: %v", err)
	}
	var read []map[string]any
	if err := json.Unmarshal(out, &read); err != nil || len(read) != len(texts) {
		t.Fatalf("PyYAML read %d texts of %d: %v", len(read), len(texts), err)
	}
	return read
}

func FuzzCheck(f *testing.F) {
	f.Add(UserData, ubuntu)
	f.Add(UserData, head+"  late-commands:\n  - a\n")
	f.Add(UserData, "#cloud-config\nautoinstall: &a\n  x: *a\n")
	f.Add(MetaData, "instance-id: {{.Name}}\n")
	f.Add(Preseed, "d-i preseed/late_command string a; \\\nb\n")
	f.Add(Kickstart, "%post\n%end\nrootpw --lock\n")
	f.Fuzz(func(t *testing.T, document, text string) {
		s := one(document, text)
		if !slices.Contains(s.Kind.Documents(), document) || s.Check() != nil {
			return
		}
		m := Machine{Name: "a", Server: "10.0.0.1", Vars: map[string]string{}}
		for _, v := range s.Variables() {
			m.Vars[v] = "x"
		}
		if s.CheckFor(m) != nil {
			return
		}
		out, err := s.Render(document, m)
		if err != nil {
			t.Fatalf("checked, and not rendered: %v", err)
		}
		if s.Kind.Installs() && !strings.Contains(out, ReportPath) {
			t.Fatalf("nothing reports the end in %q", out)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"kind":"preseed","documents":{"preseed.cfg":{"text":"a","file":"b","line":1}},"vars":{"x":"y"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("%v in what was written: %s", err, again)
		}
	})
}

// What debconf's own reader says of a preseed file, with the command that is added.
func TestPreseedByDebconf(t *testing.T) {
	program := need.Tool(t, "debconf-set-selections")
	text, err := preseedCommand("d-i a/b string c\ntasksel tasksel/first multiselect a, \\\n b\nd-i preseed/late_command string in-target true; \\\n true\n", "10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--checkonly", "--verbose")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "Trying to set") != 3 {
		t.Errorf("%v: %s\n%s", err, out, text)
	}
}
