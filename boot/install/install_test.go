package install

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"netroot/boot/host"
	"netroot/builder/seed"
	"netroot/builder/store"
	"netroot/builder/strictyaml"
)

const hash = "$6$exDY1mhS4KUYCE/2$zmn9ToZwTKLhCw.b4/b.ZRTIZM30JZ4QrOQ2aOXJ8yk96xpcCof0kxKwuX1kqLG/ygbJ1f8wxED22bTL4F46P0"

const policy = `default: menu
networks:
  - {network: 10.0.0.0/24, vars: {disk: /dev/sda, tz: UTC}}
hosts:
  - {name: nuc, mac: "00:20:38:03:37:6c", image: ubuntu, boot: once, vars: {disk: /dev/nvme0n1, password: "` + hash + `"}}
  - {name: other, mac: "00:20:38:03:37:6d", image: ubuntu, vars: {password: "*"}}
  - {name: guest, mac: "00:20:38:03:37:6e"}
  - {name: far, address: 10.9.0.5, image: ubuntu@1, vars: {password: "*", disk: /dev/vda}}
  - {name: diskless, mac: "00:20:38:03:37:6f", image: plain}
`

const userData = `#cloud-config
autoinstall:
  version: 1
  identity: {hostname: {{.Name}}, username: ubuntu, password: {{printf "%q" .Vars.password}}}
  storage: {layout: {name: direct, match: {path: {{.Vars.disk}}}}}
`

var (
	server = netip.MustParseAddr("10.0.0.1")
	nuc    = host.Machine{MAC: net.HardwareAddr{0, 0x20, 0x38, 3, 0x37, 0x6c}, Address: netip.MustParseAddr("10.0.0.7"), Near: server}
	other  = host.Machine{MAC: net.HardwareAddr{0, 0x20, 0x38, 3, 0x37, 0x6d}, Address: netip.MustParseAddr("10.0.0.8"), Near: server}
	guest  = host.Machine{MAC: net.HardwareAddr{0, 0x20, 0x38, 3, 0x37, 0x6e}, Address: netip.MustParseAddr("10.0.0.9"), Near: server}
	nobody = host.Machine{MAC: net.HardwareAddr{0, 0x20, 0x38, 3, 0x37, 0x99}, Address: netip.MustParseAddr("10.0.0.10"), Near: server}
	plain  = host.Machine{MAC: net.HardwareAddr{0, 0x20, 0x38, 3, 0x37, 0x6f}, Address: netip.MustParseAddr("10.0.0.11"), Near: server}
	far    = host.Machine{Address: netip.MustParseAddr("10.9.0.5")}
)

// publish makes a generation. Its parts but the seed are of no account.
func publish(t *testing.T, st *store.Store, name string, m store.Manifest, s *seed.Seed) {
	t.Helper()
	d, err := st.Begin(name)
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("part")
	if s != nil {
		m.Seed = string(s.Kind)
		if data, err = s.Encode(); err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range []string{store.PartRoot, store.PartKernel, store.PartInitramfs, store.PartSeed} {
		if err := os.WriteFile(filepath.Join(d.Dir(), part), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Publish(m); err != nil {
		t.Fatal(err)
	}
}

func ubuntu() *seed.Seed {
	return &seed.Seed{Kind: seed.Autoinstall, Documents: map[string]seed.Document{seed.UserData: {Text: userData, File: "ubuntu.yaml", Line: 5}}}
}

func newDesk(t *testing.T) (*Desk, *host.Live) {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	publish(t, st, "ubuntu", store.Manifest{}, ubuntu())
	publish(t, st, "plain", store.Manifest{}, nil)
	p, err := host.Parse("netroot.yaml", []byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	live := host.Fixed(p)
	d := &Desk{Store: st, Ledger: OpenLedger(st.StateDir()), Decide: live.Decide, Port: 80, Asks: true, Loads: true}
	live.Knowing(d.Ledger.IsInstalled)
	return d, live
}

// boot is what a machine does before it asks for its seed.
func boot(d *Desk, m host.Machine) {
	d.Deciding(m)
	tree := d.Watched(fstest.MapFS{"pxelinux.cfg/01-x": &fstest.MapFile{}}, m)
	if f, err := tree.Open("pxelinux.cfg/01-x"); err == nil {
		f.Close()
	}
}

// Trying out what a machine would be answered gives nobody its seed.
// Who asks in a loop keeps no disk busy.
func TestLedgerOfALoop(t *testing.T) {
	dir := t.TempDir()
	l := OpenLedger(dir)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() {
		l.Run(ctx, slog.New(slog.DiscardHandler))
		close(ended)
	}()
	files := map[string]bool{}
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		l.Asked("alpha")
		if found, _ := filepath.Glob(filepath.Join(dir, bootedPrefix+"alpha")); len(found) == 1 {
			if st, err := os.Stat(found[0]); err == nil {
				files[st.ModTime().String()] = true
			}
		}
	}
	cancel()
	<-ended
	if n := len(files); n < 1 || n > 3 {
		t.Errorf("written %d times", n)
	}
}

func TestTrialBeginsNoBoot(t *testing.T) {
	d, _ := newDesk(t)
	asked := func() bool { return !d.Ledger.booted[key("nuc")].Asked.IsZero() }
	m := nuc
	m.Trial = true
	if d.Deciding(m); asked() {
		t.Error("somebody who asked in its place began its boot")
	}
	if d.Deciding(nuc); !asked() {
		t.Error("it asked, and its boot did not begin")
	}
}

func TestDocument(t *testing.T) {
	d, live := newDesk(t)
	for _, m := range []host.Machine{nuc, other, guest, nobody, far} {
		boot(d, m)
	}
	for _, c := range []struct {
		name string
		m    host.Machine
		want string // in the document, or in the refusal when it begins with a "!"
	}{
		{"seed/ubuntu@1/nuc/user-data", nuc, "hostname: nuc, username: ubuntu, password: \"" + hash + "\""},
		{"seed/ubuntu@1/nuc/user-data", nuc, "path: /dev/nvme0n1"},
		{"seed/ubuntu@1/nuc/user-data", nuc, "-X POST http://10.0.0.1/v1/installed || "},
		{"seed/ubuntu@1/NUC/meta-data", nuc, ""},
		{"seed/ubuntu@1/nuc/vendor-data", nuc, ""},
		{"seed/ubuntu@1/nuc/network-config", nuc, ""},
		{"seed/ubuntu@1/other/user-data", other, "path: /dev/sda"},
		{"seed/ubuntu@1/far/user-data", far, "path: /dev/vda"},
		{"seed/ubuntu@1/nuc/user-data", other, "!other asks for the seed of nuc"},
		{"seed/ubuntu@1/guest/user-data", guest, "!guest is not sent to ubuntu by the policy"},
		{"seed/debian@1/nuc/user-data", nuc, "!nuc is not sent to debian by the policy"},
		{"seed/ubuntu@1/nuc/user-data", nobody, "!00:20:38:03:37:99 is not under hosts:"},
		{"seed/ubuntu@1/nuc/user-data", host.Machine{}, "!a machine whose MAC address is not known is not under hosts:"},
		{"seed/ubuntu@2/nuc/user-data", nuc, "?"},
		{"seed/ubuntu@1/nuc/preseed.cfg", nuc, "?"},
		{"seed/ubuntu@1/nuc/seed.json", nuc, "?"},
		{"seed/ubuntu/nuc/user-data", nuc, "?"},
		{"seed/ubuntu@1/nuc/", nuc, "?"},
		{"seed/ubuntu@1/../user-data", nuc, "?"},
		{"seed/ubuntu@1/nuc/x/user-data", nuc, "?"},
	} {
		got, err := d.Document(c.name, c.m, server)
		switch {
		case c.want == "?":
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s for %v: %q, %v; want nothing there", c.name, c.m, got, err)
			}
		case strings.HasPrefix(c.want, "!"):
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), c.want[1:]) || got != "" {
				t.Errorf("%s for %v: %q, %v; want %s", c.name, c.m, got, err, c.want[1:])
			}
		case err != nil || !strings.Contains(got, c.want):
			t.Errorf("%s for %v: %q, %v; want %q", c.name, c.m, got, err, c.want)
		}
	}
	if err := d.Check(live.Policy()); err != nil {
		t.Errorf("a good policy: %v", err)
	}
}

// Who did not begin to boot gets nothing, and what is seen of it is what this server serves.
func TestFresh(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	a := asked{"ubuntu@1", "nuc", seed.UserData}
	decision := host.Decision{Name: "nuc", Image: "ubuntu@3"}
	just, old := now.Add(-time.Minute), now.Add(-61*time.Minute)
	for _, c := range []struct {
		b           Boot
		asks, loads bool
		refused     bool
	}{
		{Boot{just, just}, true, true, false},
		{Boot{}, true, true, true},
		{Boot{Asked: just}, true, true, true},
		{Boot{Loaded: just}, true, true, true},
		{Boot{old, just}, true, true, true},
		{Boot{just, old}, true, true, true},
		{Boot{now.Add(time.Hour), just}, true, true, true}, // the clock was turned back
		{Boot{Loaded: just}, false, true, false},
		{Boot{Asked: just}, true, false, false},
		{Boot{just, just}, false, false, true},
	} {
		if why := refuse(a, nuc, decision, c.b, c.asks, c.loads, now); (why != "") != c.refused {
			t.Errorf("%+v: %q", c, why)
		}
	}
}

func TestCheckNamesTheLine(t *testing.T) {
	d, _ := newDesk(t)
	p, err := host.Parse("netroot.yaml", []byte(strings.Replace(policy, `, vars: {password: "*"}`, "", 1)))
	if err != nil {
		t.Fatal(err)
	}
	err = d.Check(p)
	if want := "netroot.yaml:6:12: host other has no value for password, which the seed of ubuntu@1 needs"; err == nil || !strings.HasPrefix(err.Error(), want) || strictyaml.List(err) == nil {
		t.Errorf("%v, want %s", err, want)
	}
	p, err = host.Parse("netroot.yaml", []byte(strings.Replace(policy, `{password: "*"}`, "{password: hunter2}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	err = d.Check(p)
	if want := "as host other gets it"; err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") || !strings.HasPrefix(err.Error(), "ubuntu.yaml:8:") {
		t.Errorf("%v, want %s", err, want)
	}
}

func report(t *testing.T, d *Desk, m host.Machine, admitted error) int {
	t.Helper()
	h := d.Reports(func(netip.Addr, netip.Addr) (host.Machine, error) { return m, admitted }, slog.New(slog.DiscardHandler))
	r := httptest.NewRequest(http.MethodPost, seed.ReportPath, nil)
	r.RemoteAddr = "10.0.0.7:1234"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func TestOnce(t *testing.T) {
	d, live := newDesk(t)
	if code := report(t, d, nuc, nil); code != http.StatusForbidden {
		t.Errorf("a report before any boot: %d", code)
	}
	boot(d, nuc)
	if code := report(t, d, nobody, nil); code != http.StatusForbidden {
		t.Errorf("a report of a stranger: %d", code)
	}
	if code := report(t, d, nuc, refusal("not admitted")); code != http.StatusForbidden {
		t.Errorf("a report of who is not let in: %d", code)
	}
	if code := report(t, d, nuc, os.ErrDeadlineExceeded); code != http.StatusServiceUnavailable {
		t.Errorf("a report of who is not known yet: %d", code)
	}
	if got := live.Decide(nuc); got.Image != "ubuntu" || got.Local || !got.Once {
		t.Errorf("before the report: %+v", got)
	}
	for range 2 {
		if code := report(t, d, nuc, nil); code != http.StatusOK {
			t.Errorf("the report: %d", code)
		}
	}
	if got := live.Decide(nuc); got.Image != "" || !got.Local || !strings.Contains(got.Reason, "netroot nodes --reinstall nuc") {
		t.Errorf("after the report: %+v", got)
	}
	if _, err := d.Document("seed/ubuntu@1/nuc/user-data", nuc, server); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("the seed after the report: %v", err)
	}
	// Whoever comes next, after this server was killed, knows it.
	next := OpenLedger(d.Ledger.dir)
	if i, done := next.Installed("Nuc"); !done || i.By != "the machine" || i.MAC != nuc.MAC.String() {
		t.Errorf("after a restart: %+v, %v", i, done)
	}
	if was, err := next.Reinstall("nuc"); !was || err != nil {
		t.Errorf("reinstall: %v, %v", was, err)
	}
	if was, err := next.Reinstall("nuc"); was || err != nil {
		t.Errorf("reinstall again: %v, %v", was, err)
	}
	if got := live.Decide(nuc); got.Image != "ubuntu" || got.Local { // the server that runs heeds it
		t.Errorf("after --reinstall: %+v", got)
	}
	boot(d, other)
	if code := report(t, d, other, nil); code != http.StatusOK {
		t.Errorf("the report of a host without boot: once: %d", code)
	}
	if got := live.Decide(other); got.Local {
		t.Errorf("a host without boot: once: %+v", got)
	}
	boot(d, plain)
	if code := report(t, d, plain, nil); code != http.StatusOK {
		t.Errorf("the report of a host that installs nothing: %d", code)
	}
	if !d.Ledger.IsInstalled("other") || d.Ledger.IsInstalled("diskless") {
		t.Error("of two hosts without boot: once, the one whose image installs is to be kept, and the other is not")
	}
	if err := os.WriteFile(filepath.Join(d.Ledger.dir, "installed.nuc"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !d.Ledger.IsInstalled("nuc") {
		t.Error("a damaged file lets the machine install itself again")
	}
}

// Whoever writes "boot: once" where nothing ends an installation is told so, and served all the same: somebody may say by hand when it
// has ended.
func TestEndless(t *testing.T) {
	d, _ := newDesk(t)
	publish(t, d.Store.(*store.Store), "iso", store.Manifest{Medium: &store.Medium{Family: store.Casper}}, nil)
	p, err := host.Parse("netroot.yaml", []byte(`hosts:
  - {name: nuc, mac: "00:20:38:03:37:6c", image: ubuntu, boot: once, vars: {disk: /dev/nvme0n1, password: "*"}}
  - {name: root, mac: "00:20:38:03:37:6d", image: plain, boot: once}
  - {name: live, mac: "00:20:38:03:37:6e", image: iso, boot: once}
  - {name: done, mac: "00:20:38:03:37:6f", image: iso, boot: once}
  - {name: off, mac: "00:20:38:03:37:70", image: iso, boot: once, disabled: true}
  - {name: later, mac: "00:20:38:03:37:71", image: gone, boot: once}
  - {name: often, mac: "00:20:38:03:37:72", image: plain}
`))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Ledger.SetInstalled("done", Install{}); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d.Log = slog.New(slog.NewTextHandler(&log, nil))
	if err := d.Check(p.Knowing(d.Ledger.IsInstalled)); err != nil {
		t.Fatal(err)
	}
	got := log.String()
	for _, want := range []string{
		`host=live reason="live has boot: once, and iso@1 has no autoinstall, preseed or kickstart: nothing reports that it is installed`,
		`host=root reason="root has boot: once, and plain@1 is a diskless root, which installs nothing: nothing reports`,
		"with: netroot nodes --installed root",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it does not say %s", want)
		}
	}
	if strings.Count(got, "level=WARN msg=endless") != 2 || strings.Count(got, "\n") != 2 {
		t.Errorf("two hosts never end, and:\n%s", got)
	}
}

// A boot that began is remembered by the next server, also when it is started right after.
func TestBootsAreKept(t *testing.T) {
	d, _ := newDesk(t)
	ctx := t.Context()
	go d.Ledger.Run(ctx, slog.New(slog.DiscardHandler))
	boot(d, nuc)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		next := *d
		next.Ledger = OpenLedger(d.Ledger.dir)
		if _, err := next.Document("seed/ubuntu@1/nuc/user-data", nuc, server); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatalf("after a restart: %v", err)
		}
	}
}

func FuzzDocument(f *testing.F) {
	f.Add("seed/ubuntu@1/nuc/user-data")
	f.Add("seed/ubuntu@1/nuc/../../x")
	f.Add("seed/ubuntu@01/nuc/user-data")
	f.Fuzz(func(t *testing.T, name string) {
		a, err := parse(name)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return
		}
		if Path(a.ref, a.host)+a.document != name || !fs.ValidPath(name) || strings.Contains(name, "..") {
			t.Errorf("%q is %+v", name, a)
		}
	})
}
