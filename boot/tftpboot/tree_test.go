package tftpboot

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/boot/host"
	"netroot/builder/lock"
	"netroot/builder/store"
)

var (
	server = netip.MustParseAddr("10.0.0.1")
	alpha  = net.HardwareAddr{0, 0x20, 0x38, 3, 0x37, 0x6c}
	banned = net.HardwareAddr{0, 0x20, 0x38, 3, 0x37, 0x6d}
)

// publish adds a generation whose parts say which they are.
func publish(t *testing.T, st *store.Store, image string, m store.Manifest) store.Generation {
	t.Helper()
	d, err := st.Begin(image)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{store.PartRoot, store.PartKernel, store.PartInitramfs} {
		if err := os.WriteFile(filepath.Join(d.Dir(), part), []byte(part+" of "+image+" "+m.Recipe), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g, err := d.Publish(m)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func newTree(t *testing.T) (*Tree, *store.Store) {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, name := range LoaderFiles() {
		if err := os.WriteFile(filepath.Join(st.LoaderDir(), name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := func(day int) time.Time { return time.Date(2026, 3, day, 12, 0, 0, 0, time.UTC) }
	publish(t, st, "debian-12", store.Manifest{Created: at(1), Recipe: "1"})
	publish(t, st, "debian-12", store.Manifest{Created: at(2), Recipe: "2", Writable: "overlay", OverlaySize: "25%", Cmdline: []string{"console=ttyS0,115200"}})
	publish(t, st, "slc68", store.Manifest{Created: at(3), Recipe: "3", Writable: "no"})
	return &Tree{Store: st, Loader: st.LoaderDir(), HTTPPort: 8080, Decide: func(m host.Machine) host.Decision {
		switch m.MAC.String() {
		case alpha.String():
			return host.Decision{Name: "alpha", Image: "debian-12", Cmdline: []string{"quiet"}}
		case banned.String():
			return host.Decision{Ignore: true, Reason: "not wanted"}
		case "00:00:00:00:00:99":
			return host.Decision{Image: "gone@7"}
		}
		return host.Decision{}
	}}, st
}

func read(t *testing.T, fsys fs.FS, name string) string {
	t.Helper()
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConfigurations(t *testing.T) {
	tree, _ := newTree(t)
	fsys := tree.FS(server, host.Machine{Interface: "eno1"})
	const port = ":vers=3,proto=tcp,nolock,nocto,actimeo=86400,port=2049,mountport=2049 ip=dhcp "
	menu := read(t, fsys, "pxelinux.cfg/default")
	for _, want := range []string{
		"UI menu.c32\n",
		"LABEL slc68@1\n  MENU LABEL slc68@1  2026-03-03 12:00\n  MENU DEFAULT\n", // the newest first
		"APPEND root=nfs:10.0.0.1:/slc68@1" + port + "rd.overlay=no netroot.image=slc68@1\n",
		"APPEND root=nfs:10.0.0.1:/debian-12@2" + port + "rd.overlay=tmpfs:size=25% netroot.image=debian-12@2 console=ttyS0,115200\n",
		"APPEND root=nfs:10.0.0.1:/debian-12@1" + port + "rd.overlay=tmpfs:size=50% netroot.image=debian-12@1\n",
		"KERNEL debian-12/2/vmlinuz\n  INITRD debian-12/2/initrd.img\n",
		"LOCALBOOT 0\n",
	} {
		if !strings.Contains(menu, want) {
			t.Errorf("no %q in:\n%s", want, menu)
		}
	}
	if menu != read(t, fsys, "pxelinux.cfg/01-00-00-00-00-00-01") {
		t.Error("a machine that is not listed got another menu than the default")
	}
	direct := read(t, fsys, "pxelinux.cfg/01-00-20-38-03-37-6c")
	if strings.Contains(direct, "menu.c32") || strings.Contains(direct, "slc68") || !strings.Contains(direct, "netroot.hostname=alpha console=ttyS0,115200 quiet\n") {
		t.Errorf("a machine with an image of its own got:\n%s", direct)
	}
	if got := read(t, fsys, "pxelinux.cfg/01-00-20-38-03-37-6d"); strings.Contains(got, "KERNEL") || !strings.Contains(got, "LOCALBOOT") {
		t.Errorf("an ignored machine got:\n%s", got)
	}
	if got := read(t, fsys, "pxelinux.cfg/01-00-00-00-00-00-99"); !strings.Contains(got, `no image "gone"`) || strings.Contains(got, "KERNEL") {
		t.Errorf("a machine whose image is gone got:\n%s", got)
	}
	if got := read(t, fsys, "ipxe/01-00-20-38-03-37-6c"); !strings.Contains(got, "kernel http://10.0.0.1:8080/debian-12/2/vmlinuz initrd=initrd.img root=nfs:10.0.0.1:/debian-12@2") {
		t.Errorf("iPXE got:\n%s", got)
	}
	if got := read(t, fsys, "boot.ipxe"); !strings.HasPrefix(got, "#!ipxe\nchain http://10.0.0.1:8080/ipxe/01-${netX/mac:hexhyp} ||\n") {
		t.Errorf("iPXE got:\n%s", got)
	}
	if got := tree.ScriptURL(server, alpha); got != "http://10.0.0.1:8080/ipxe/01-00-20-38-03-37-6c" {
		t.Error(got)
	}
	tree.HTTPPort = 0
	if got := tree.ScriptURL(server, alpha); got != "tftp://10.0.0.1/ipxe/01-00-20-38-03-37-6c" {
		t.Error(got)
	}
}

// An image of before, whose command line a loader would garble, is in nobody's menu, and said to be missing there.
func TestConsolesOfImageAndPolicy(t *testing.T) {
	for _, c := range []struct{ image, policy, want string }{
		{"console=tty0 console=ttyS0,115200 quiet", "console=ttyS0,115200", "console=tty0 quiet console=ttyS0,115200"},
		{"console=tty0 console=ttyS0,115200", "console=tty0", "console=ttyS0,115200 console=tty0"},
		{"console=ttyS0", "console=ttyS0,9600", "console=ttyS0 console=ttyS0,9600"},
		{"console=ttyS0 console=ttyS0", "", "console=ttyS0"},
		{"panic=5 panic=5", "panic=5", "panic=5 panic=5 panic=5"},
		{"console=ttyS0 quiet --- console=ttyS0", "console=ttyS0", "console=ttyS0 quiet --- console=ttyS0"},
		{"", "", ""},
	} {
		if got := strings.Join(onceEach(strings.Fields(c.image), strings.Fields(c.policy)), " "); got != c.want {
			t.Errorf("%s and %s: %s, want %s", c.image, c.policy, got, c.want)
		}
	}
	tree, _ := newTree(t)
	g, err := tree.Store.Resolve("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(tree.Cmdline(server, g, host.Decision{Cmdline: []string{"quiet", "console=ttyS0,115200"}}), " ")
	if !strings.HasSuffix(line, " quiet console=ttyS0,115200") || strings.Count(line, "console=") != 1 {
		t.Errorf("the command line is %s", line)
	}
}

func TestBadCommandLine(t *testing.T) {
	tree, st := newTree(t)
	var told bytes.Buffer
	tree.Log = slog.New(slog.NewTextHandler(&told, nil))
	publish(t, st, "bad", store.Manifest{Created: time.Now(), Cmdline: []string{"x=${net0/ip}"}})
	publish(t, st, "worse", store.Manifest{Created: time.Now(), Cmdline: []string{strings.Repeat("x", 2000)}})
	fsys := tree.FS(server, host.Machine{})
	for name, want := range map[string]string{"boot.ipxe": "kernel http://10.0.0.1:8080/slc68/1/vmlinuz ", "pxelinux.cfg/default": "KERNEL bad/1/vmlinuz\n", "grub/grub.cfg": "linux /bad/1/vmlinuz "} {
		told.Reset()
		text := read(t, fsys, name)
		if !strings.Contains(text, want) || strings.Contains(text, "worse/1") || strings.Contains(text, "bad/1") != (name != "boot.ipxe") {
			t.Errorf("%s:\n%s", name, text)
		}
		if !strings.Contains(told.String(), `msg="left out" service=menu`) || !strings.Contains(told.String(), "worse@1") {
			t.Errorf("%s: told %s", name, &told)
		}
	}
}

// A new generation is what the next machine gets, and an old menu's files stay.
func TestPublishingWhileServing(t *testing.T) {
	tree, st := newTree(t)
	fsys := tree.FS(server, host.Machine{})
	publish(t, st, "debian-12", store.Manifest{Created: time.Now(), Recipe: "9"})
	if !strings.Contains(read(t, fsys, "pxelinux.cfg/01-00-20-38-03-37-6c"), "DEFAULT debian-12@3\n") {
		t.Error("the new generation is not served")
	}
	if got := read(t, fsys, "debian-12/1/initrd.img"); got != "initrd.img of debian-12 1" {
		t.Error(got)
	}
}

func TestNothingElseIsInReach(t *testing.T) {
	tree, st := newTree(t)
	fsys := tree.FS(server, host.Machine{})
	for _, name := range []string{".", "", "/", "..", "../store", "pxelinux.cfg", "pxelinux.cfg/", "pxelinux.cfg/01", "pxelinux.cfg/01-00-20-38-03-37", "pxelinux.cfg/02-00-20-38-03-37-6c",
		"pxelinux.cfg/01-00-20-38-03-37-6C", "pxelinux.cfg/01-00:20:38:03:37:6c", "pxelinux.cfg/58b41815-581e-c62a-d4e2-f44d30606469", "pxelinux.cfg/C0A8010E", "ipxe/default", "ipxe",
		"debian-12", "debian-12/2", "debian-12/2/", "debian-12/2/root.erofs", "debian-12/2/image.json", "debian-12/02/vmlinuz", "debian-12/+2/vmlinuz", "debian-12/current/vmlinuz", "debian-12/9/vmlinuz",
		"debian-12/0/vmlinuz", "debian-12/-1/vmlinuz", "debian-12@2/vmlinuz", "debian-12/../slc68/1/vmlinuz", "images/debian-12/2/vmlinuz", "loader/pxelinux.0", "./pxelinux.0", "absent/1/vmlinuz", "ünïcode/1/vmlinuz",
		"debian-12/2/vmlinuz/x", "pxelinux.0/x", "lpxelinux.0"} {
		if f, err := fsys.Open(name); err == nil {
			f.Close()
			t.Errorf("%q can be opened", name)
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	f, err := fsys.Open("debian-12/2/vmlinuz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.(*os.File); !ok {
		t.Errorf("the kernel is a %T and cannot leave by sendfile", f)
	}
	os.Remove(filepath.Join(st.LoaderDir(), "menu.c32"))
	if _, err := fsys.Open("menu.c32"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing loader file: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	for _, s := range []string{"pxelinux.cfg/01-00-20-38-03-37-6c", "debian-12/2/vmlinuz", "boot.ipxe", "../x"} {
		f.Add(s)
	}
	tree := &Tree{Store: noStore{}, Loader: "/nowhere", Decide: func(host.Machine) host.Decision { return host.Decision{} }}
	fsys := tree.FS(server, host.Machine{})
	f.Fuzz(func(t *testing.T, name string) {
		file, err := fsys.Open(name)
		if err != nil {
			return
		}
		if !ours(name) && !strings.HasPrefix(name, configDir+"/") {
			t.Fatalf("%q can be opened", name)
		}
		file.Close()
	})
}

type noStore struct{}

func (noStore) Images() ([]string, error)                      { return nil, nil }
func (noStore) Generations(string) ([]store.Generation, error) { return nil, store.ErrNotFound }
func (noStore) Resolve(string) (store.Generation, error) {
	return store.Generation{}, store.ErrNotFound
}

// list returns every file below dir with its content.
func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		m[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWrite(t *testing.T) {
	tree, st := newTree(t)
	dir := filepath.Join(t.TempDir(), "srv", "tftp")
	ctx := context.Background()
	machines := []host.Machine{{MAC: alpha}}
	if err := os.MkdirAll(filepath.Join(dir, "debian-12"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"pxelinux.0": "pxelinux.0", "debian-12/notes": "mine", "memtest": "mine"} { // of which one is the same as ours
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	done, err := tree.Write(ctx, dir, server, machines)
	if err != nil {
		t.Fatal(err)
	}
	if done.New+done.Same != 6+5+4 || done.Removed != 0 {
		t.Errorf("%+v", done)
	}
	files := list(t, dir)
	served := tree.FS(server, host.Machine{})
	for name, content := range files {
		if content == "mine" || name == ManifestName {
			continue
		}
		if content != read(t, served, name) {
			t.Errorf("%s is not what is served", name)
		}
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm()&0o444 != 0o444 {
			t.Errorf("%s cannot be read by everybody: %v", name, st.Mode())
		}
	}
	if len(files) != 15+2+1 {
		t.Errorf("%d files", len(files))
	}
	again, err := tree.Write(ctx, dir, server, machines)
	if err != nil || again.New != 0 || again.Removed != 0 {
		t.Errorf("a second run: %+v, %v", again, err)
	}

	// A generation and a machine go away; what a killed run left goes too; the files of others stay.
	if _, err := st.GC("debian-12", 1); err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(dir, "pxelinux.cfg", ".tmp-default-123")
	if err := os.WriteFile(leftover, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	third, err := tree.Write(ctx, dir, server, nil)
	if err != nil {
		t.Fatal(err)
	}
	after := list(t, dir)
	var gone []string
	for name := range files {
		if _, ok := after[name]; !ok {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	if want := []string{"debian-12/1/initrd.img", "debian-12/1/vmlinuz", "ipxe/01-00-20-38-03-37-6c", "pxelinux.cfg/01-00-20-38-03-37-6c"}; !slices.Equal(gone, want) || third.Removed != 4 {
		t.Errorf("removed %v, %+v", gone, third)
	}
	if after["memtest"] != "mine" || after["debian-12/notes"] != "mine" {
		t.Error("somebody else's files were touched")
	}
	for _, name := range []string{"debian-12/1", "ipxe"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("the empty folder %s stays", name)
		}
	}
	if _, ok := after["pxelinux.cfg/.tmp-default-123"]; ok {
		t.Error("the leftover of a killed run stays")
	}
	if strings.Contains(after["pxelinux.cfg/default"], "debian-12@1") {
		t.Error("the menu lists a generation that is gone")
	}
}

func TestWriteRefuses(t *testing.T) {
	tree, _ := newTree(t)
	ctx := context.Background()
	dir := t.TempDir()
	for _, c := range []struct{ path, want string }{
		{"pxelinux.cfg/default", "pxelinux.cfg/default is in the way and was not written by netroot"},
		{"slc68", "a file is where a folder should be"},
	} {
		at := filepath.Join(dir, c.path)
		os.MkdirAll(filepath.Dir(at), 0o755)
		if err := os.WriteFile(at, []byte("DEFAULT mine\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		before := list(t, dir)
		if _, err := tree.Write(ctx, dir, server, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.path, err)
		}
		if after := list(t, dir); len(after) != len(before) || after[c.path] != "DEFAULT mine\n" {
			t.Errorf("%s: something was changed: %v", c.path, after)
		}
		os.Remove(at)
	}
	for _, a := range []string{"127.0.0.1", "0.0.0.0", "::1"} {
		if _, err := tree.Write(ctx, t.TempDir(), netip.MustParseAddr(a), nil); err == nil {
			t.Errorf("address %s was taken", a)
		}
	}
	unlock, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Write(ctx, dir, server, nil); err == nil || !strings.Contains(err.Error(), "another netroot is writing it") {
		t.Errorf("two at once: %v", err)
	}
	unlock()
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := tree.Write(stopped, dir, server, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if _, err := tree.Write(ctx, dir, server, nil); err != nil {
		t.Errorf("after a run that was stopped: %v", err)
	}
	os.Remove(filepath.Join(tree.Loader, "menu.c32"))
	if _, err := tree.Write(ctx, t.TempDir(), server, nil); err == nil || !strings.Contains(err.Error(), "no boot loader file menu.c32") {
		t.Errorf("without a loader: %v", err)
	}
}

// The list of own files is read back from a folder that others can write to, and decides what is removed.
func TestManifestNamesNothingElse(t *testing.T) {
	got := parseManifest([]byte("# x\npxelinux.0\n../../etc/passwd\n/etc/passwd\nmemtest\ndebian-12/2/vmlinuz\ndebian-12/2/other\ndebian-12/../../x/1/vmlinuz\npxelinux.cfg/01-x/../../y\n.\n\n"))
	if !slices.Equal(got, []string{"pxelinux.0", "debian-12/2/vmlinuz"}) {
		t.Errorf("%q", got)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(manifestHead + "pxelinux.0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, name := range parseManifest(data) {
			if !filepath.IsLocal(name) || !bytes.Contains(data, []byte(name)) {
				t.Fatalf("%q would be removed", name)
			}
		}
	})
}

// A host that is sent to an image with a seed finds it; nobody else does, and nobody by a menu.
func TestSeedArguments(t *testing.T) {
	for kind, want := range map[string]string{
		"old kickstart":               " ks=http://10.0.0.1:8080/seed/nuc@1/alpha/ks.cfg\n",
		"autoinstall":                 "autoinstall ds=nocloud-net;s=http://10.0.0.1:8080/seed/nuc@1/alpha/\n",
		"cloud-init":                  " ds=nocloud-net;s=http://10.0.0.1:8080/seed/nuc@1/alpha/\n",
		"cloud-init 22.4-1+deb12u1":   " ds=nocloud-net;s=http://10.0.0.1:8080/seed/nuc@1/alpha/\n",
		"cloud-init 25.1.4-1+deb13u1": " ds=nocloud;s=http://10.0.0.1:8080/seed/nuc@1/alpha/\n",
		"cloud-init 0:24.4-3.el9":     " ds=nocloud;s=http://10.0.0.1:8080/seed/nuc@1/alpha/\n",
		"preseed":                     " auto=true priority=critical interface=auto netcfg/hostname=alpha url=http://10.0.0.1:8080/seed/nuc@1/alpha/preseed.cfg\n",
		"kickstart":                   " inst.ks=http://10.0.0.1:8080/seed/nuc@1/alpha/ks.cfg\n",
		"":                            "netroot.hostname=alpha quiet\n",
	} {
		tree, st := newTree(t)
		m := store.Manifest{Created: time.Date(2026, 3, 9, 0, 0, 0, 0, time.UTC), Seed: kind}
		if rest, old := strings.CutPrefix(kind, "old "); old {
			m.Seed, m.Medium = rest, &store.Medium{Family: store.Anaconda, Old: true}
		}
		if kind, version, ok := strings.Cut(kind, " "); ok && kind == "cloud-init" {
			m.Seed, m.Lock = kind, &lock.Lock{Packages: []lock.Package{{Name: "other", Version: "99"}, {Name: "cloud-init", Version: version}}}
		}
		publish(t, st, "nuc", m)
		decide := tree.Decide
		tree.Decide = func(m host.Machine) host.Decision {
			d := decide(m)
			if d.Image == "debian-12" {
				d.Image = "nuc"
			}
			return d
		}
		fsys := tree.FS(server, host.Machine{})
		for name, from := range map[string]string{
			"pxelinux.cfg/01-00-20-38-03-37-6c":  "APPEND ",
			"ipxe/01-00-20-38-03-37-6c":          "kernel ",
			"grub/grub.cfg-01-00-20-38-03-37-6c": "linux ",
		} {
			text := read(t, fsys, name)
			_, line, _ := strings.Cut(text, from)
			line, _, _ = strings.Cut(line, "\n")
			line = strings.NewReplacer("'", "", " BOOTIF=01-00-20-38-03-37-6c", "", " BOOTIF=01-${netX/mac:hexhyp} || goto failed", "").Replace(line)
			if !strings.HasSuffix(line+"\n", want) {
				t.Errorf("%s: %s has %q, want …%q", kind, name, line, want)
			}
		}
		for _, name := range []string{"pxelinux.cfg/default", "ipxe/01-00-00-00-00-00-01", "grub/grub.cfg"} {
			if text := read(t, fsys, name); strings.Contains(text, "/seed/") || !strings.Contains(text, "nuc/1/vmlinuz") {
				t.Errorf("%s: the menu %s has:\n%s", kind, name, text)
			}
		}
		tree.HTTPPort = 0
		if text := read(t, tree.FS(server, host.Machine{}), "pxelinux.cfg/01-00-20-38-03-37-6c"); strings.Contains(text, "/seed/") {
			t.Errorf("%s: a seed without HTTP:\n%s", kind, text)
		}
	}
}
