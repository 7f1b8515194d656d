package seed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/golden"
	"netroot/builder/need"
	"netroot/builder/strictyaml"
)

// hash is that of "ubuntu", from Subiquity's documentation of identity.
const hash = "$6$exDY1mhS4KUYCE/2$zmn9ToZwTKLhCw.b4/b.ZRTIZM30JZ4QrOQ2aOXJ8yk96xpcCof0kxKwuX1kqLG/ygbJ1f8wxED22bTL4F46P0"

// kindOf is the kind of seed that has a document.
func kindOf(document, text string) Kind {
	switch document {
	case Preseed:
		return KindPreseed
	case Kickstart:
		return KindKickstart
	case UserData:
		return Autoinstall
	}
	return CloudInit
}

func one(document, text string) *Seed {
	return &Seed{Kind: kindOf(document, text), Documents: map[string]Document{document: {Text: text, File: "r.yaml", Line: 11}}, Vars: map[string]string{"b": "1", "c": "2"}}
}

// Every bad document gives the text beside it.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.txt")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		document := ""
		for _, d := range []string{UserData, MetaData, VendorData, Preseed, Kickstart} {
			if strings.HasPrefix(name, d+"-") {
				document = d
			}
		}
		t.Run(name, func(t *testing.T) {
			err := one(document, string(text)).Check()
			if strictyaml.List(err) == nil {
				t.Fatalf("it is good: %v", err)
			}
			if strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "in-clear") {
				t.Errorf("a password is shown: %v", err)
			}
			golden.Compare(t, strings.TrimSuffix(file, ".txt")+".golden", err.Error()+"\n")
		})
	}
}

const ubuntu = `#cloud-config
# {{.MAC}} has {{.Address}} and boots {{.Image}} from {{.Server}}
autoinstall:
  version: 1
  identity:
    hostname: {{.Name}}
    username: ubuntu
    password: {{printf "%q" .Vars.password}}
  ssh: {install-server: true}
  storage: {layout: {name: direct, match: {path: {{$.Vars.disk}}}}}
`

func TestRender(t *testing.T) {
	need.Patience(t)
	s := one(UserData, ubuntu)
	s.Vars["disk"] = "/dev/sda"
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"disk", "password"}, s.Variables()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"password"}, s.Missing(nil)); diff != "" {
		t.Error(diff)
	}
	m := Machine{Name: "nuc", MAC: "f4:4d:30:60:64:69", Address: "192.168.1.14", Image: "ubuntu@2", Server: "192.168.1.50"}
	err := s.CheckFor(m)
	if want := "r.yaml:18:34: user-data: the variable password is not given"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	m.Vars = map[string]string{"password": "ubuntu"}
	if err := s.CheckFor(m); err == nil || !strings.Contains(err.Error(), "not a password hash") {
		t.Errorf("a password in clear: %v", err)
	}
	m.Vars["password"], m.Vars["disk"] = hash, "/dev/nvme0n1"
	if err := s.CheckFor(m); err != nil {
		t.Fatal(err)
	}
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	got, err := kept.Render(UserData, m)
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "testdata/user-data.golden", got)
	for _, name := range []string{MetaData, VendorData, NetworkConfig} {
		if text, err := kept.Render(name, m); text != "" || err != nil {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if _, err := kept.Render(Preseed, m); err == nil {
		t.Error("an autoinstall has a preseed file")
	}
	d := s.Documents[UserData]
	d.Text += `{{range .Vars}}{{printf "%9999999d" 1}}{{end}}`
	s.Documents[UserData] = d
	if _, err := s.Render(UserData, m); err == nil || !strings.Contains(err.Error(), "longer than 1 MiB") {
		t.Errorf("a document without end: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", "{", `{"kind":"other"}`, `{"kind":"preseed","documents":{"user-data":{}}}`, `{"kind":"autoinstall","documents":{"../x":{}}}`} {
		if s, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, s)
		}
	}
}

func TestNetworks(t *testing.T) {
	const answers = "#cloud-config\nautoinstall:\n  version: 1\n  user-data: {}\n"
	for _, c := range []struct {
		document, text string
		want           bool
	}{
		{UserData, answers, false},
		{UserData, answers + "  network:\n    version: 2\n    ethernets: {{.Vars.cards}}\n", true},
		{UserData, answers + "network: {version: 2}\n", false}, // nobody's key
		{NetworkConfig, "version: 2\n", true},
		{NetworkConfig, "{{if false}}version: 2{{end}}\n", false},
		{Preseed, "d-i netcfg/get_domain string network\n", false},
	} {
		if got := one(c.document, c.text).Networks(); got != c.want {
			t.Errorf("%s %q: %v", c.document, c.text, got)
		}
	}
}
