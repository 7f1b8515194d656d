package customize

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"netroot/builder/need"
	"netroot/builder/recipe"
	"netroot/builder/tree"
)

// plainRoot is a small tree with what the parts of a Debian root that this package meets look like.
func plainRoot(t *testing.T) rootDir {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"usr/lib/systemd/systemd":            "",
		"etc/passwd":                         "root:x:0:0:root:/root:/bin/bash\nme:x:1234:1235:,,,:/home/me:/bin/sh\n",
		"etc/group":                          "root:x:0:\nstaff:x:50:\nme:x:1235:\n",
		"etc/machine-id":                     "0123456789abcdef0123456789abcdef\n",
		"etc/ssh/ssh_host_rsa_key":           "secret",
		"etc/ssh/ssh_host_rsa_key.pub":       "public",
		"etc/ssh/ssh_host_ed25519_key":       "secret",
		"etc/ssh/sshd_config":                "",
		"var/lib/systemd/random-seed":        "seed",
		"var/lib/dbus/machine-id":            "0123456789abcdef0123456789abcdef\n",
		"etc/resolv.conf":                    "nameserver 10.1.2.3\n",
		"etc/shared":                         "one",
		"etc/systemd/system/x.wants/y.timer": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("usr/lib", "lib")
	link("/usr/lib/systemd/system/apt-daily.timer", "etc/systemd/system/timers.target.wants/apt-daily.timer")
	link("/usr/lib/systemd/system/fstrim.timer", "etc/systemd/system/timers.target.wants/fstrim.timer")
	link("/usr/lib/systemd/system/e2scrub_reap.service", "etc/systemd/system/multi-user.target.wants/e2scrub_reap.service")
	link("/usr/lib/systemd/system/ssh.service", "etc/systemd/system/multi-user.target.wants/ssh.service")
	link("/outside", "srv/elsewhere") // absolute: means the root's own /outside
	link("../../../../../etc/target", "etc/climb")
	if err := os.Link(filepath.Join(dir, "etc/shared"), filepath.Join(dir, "etc/sister")); err != nil {
		t.Fatal(err)
	}
	return openRoot(dir)
}

func (r rootDir) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(r.dir + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func load(t *testing.T, text string) *recipe.Recipe {
	t.Helper()
	r, err := recipe.LoadFS(fstest.MapFS{
		"r.yaml": {Data: []byte("name: lab\narch: amd64\nfrom: {apt: {suite: bookworm}}\npackages: [linux-image-amd64]\n" + text)},
		"source": {Data: []byte("from a file\n")},
	}, "r.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFiles(t *testing.T) {
	need.Root(t)
	r := plainRoot(t)
	old := syscall.Umask(0o077) // whatever the caller's is, modes are as said
	defer syscall.Umask(old)
	err := r.files(load(t, `
files:
  - {path: /etc/new/deep/file, content: "a\n", mode: 640, owner: me:staff}
  - {path: /usr/bin/tool, source: source, mode: 4755}
  - {path: /srv/elsewhere/x, content: x}
  - {path: /etc/climb, content: replaced}
  - {path: /etc/sister, content: two, owner: "7:8"}
`))
	if err == nil || !strings.Contains(err.Error(), "/srv/elsewhere/x") {
		t.Fatalf("a dangling link as folder: %v", err)
	}
	if err := os.Mkdir(r.dir+"/outside", 0o755); err != nil {
		t.Fatal(err)
	}
	err = r.files(load(t, `
files:
  - {path: /etc/new/deep/file, content: "a\n", mode: 640, owner: me:staff}
  - {path: /usr/bin/tool, source: source, mode: 4755}
  - {path: /srv/elsewhere/x, content: x}
  - {path: /etc/climb, content: replaced}
  - {path: /etc/sister, content: two, owner: "7:8"}
  - {path: /lib/unit, content: u}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
		mode       uint32
		uid, gid   uint32
	}{
		{"/etc/new/deep/file", "a\n", 0o640, 1234, 50},
		{"/usr/bin/tool", "from a file\n", 0o4755, 0, 0},
		{"/outside/x", "x", 0o644, 0, 0},
		{"/etc/climb", "replaced", 0o644, 0, 0},
		{"/etc/sister", "two", 0o644, 7, 8},
		{"/etc/shared", "one", 0o644, 0, 0}, // the other name of what sister was
		{"/usr/lib/unit", "u", 0o644, 0, 0},
	} {
		var st syscall.Stat_t
		if err := syscall.Lstat(r.dir+c.name, &st); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if st.Mode != syscall.S_IFREG|c.mode || st.Uid != c.uid || st.Gid != c.gid {
			t.Errorf("%s: mode %o, owner %d:%d", c.name, st.Mode, st.Uid, st.Gid)
		}
		if got := r.read(t, c.name); got != c.text {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	for _, dir := range []string{"/etc/new", "/etc/new/deep"} {
		if st, err := os.Stat(r.dir + dir); err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", dir, st.Mode(), err)
		}
	}
	for fault, want := range map[string]string{
		"{path: /etc/a, content: a, owner: 'you:root'}": "no user you",
		"{path: /etc/a, content: a, owner: 'me:them'}":  "no group them",
		"{path: /etc/ssh, content: a}":                  "it is a folder",
		"{path: /etc/passwd/a, content: a}":             "not a folder",
	} {
		err := r.files(load(t, "files: ["+fault+"]\n"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), r.dir) {
			t.Errorf("%s: %v", fault, err)
		}
	}
	// Nothing half-written is left.
	filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), ".netroot-") {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
}

func TestDiskless(t *testing.T) {
	r := plainRoot(t)
	rec := load(t, "hostname: lab.example\nservices: {enable: [fstrim.timer]}\n")
	for range 2 { // a second time changes nothing
		if err := r.hostname(rec); err != nil {
			t.Fatal(err)
		}
		if err := r.diskless(rec); err != nil {
			t.Fatal(err)
		}
		if err := r.trim(rec); err != nil {
			t.Fatal(err)
		}
		if err := r.seal(rec); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"/etc/hostname":    "lab.example\n",
		"/etc/machine-id":  "",
		"/etc/resolv.conf": "",
	} {
		if got := r.read(t, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := r.read(t, "/etc/hosts"); !strings.Contains(got, "127.0.1.1\tlab.example lab\n") {
		t.Errorf("/etc/hosts: %q", got)
	}
	for line := range strings.Lines(r.read(t, "/etc/fstab")) {
		if !strings.HasPrefix(line, "#") {
			t.Errorf("/etc/fstab mounts something: %q", line)
		}
	}
	if got := r.link("/var/lib/dbus/machine-id"); got != "/etc/machine-id" {
		t.Errorf("/var/lib/dbus/machine-id -> %q", got)
	}
	for _, name := range []string{
		"/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_rsa_key.pub", "/etc/ssh/ssh_host_ed25519_key", "/var/lib/systemd/random-seed",
		"/etc/systemd/system/timers.target.wants/apt-daily.timer", "/etc/systemd/system/multi-user.target.wants/e2scrub_reap.service",
	} {
		if _, err := os.Lstat(r.dir + name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range []string{
		"/etc/ssh/sshd_config", "/etc/systemd/system/multi-user.target.wants/ssh.service",
		"/etc/systemd/system/timers.target.wants/fstrim.timer", // the recipe wants it
	} {
		if _, err := os.Lstat(r.dir + name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, w := range wants {
		link := units + w[0] + ".wants/" + w[1]
		if !r.exists(link) {
			t.Errorf("%s leads nowhere", link)
		}
	}
	for _, name := range r.glob(strings.TrimSuffix(scripts, "/"), "*") {
		st, err := os.Stat(r.dir + name)
		if err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
		if !strings.HasPrefix(r.read(t, name), "#!/bin/sh\n") {
			t.Errorf("%s: no #!/bin/sh", name)
		}
	}
	usr, err := os.Stat(r.dir + "/usr")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/etc/.updated", "/var/.updated"} {
		if st, err := os.Stat(r.dir + name); err != nil || st.ModTime().Sub(usr.ModTime()).Abs() > time.Microsecond {
			t.Errorf("%s is of another time than /usr: %v", name, err)
		}
	}
}

// What a recipe supplies is not taken away or overwritten.
func TestDisklessKeepsWhatTheRecipeSupplies(t *testing.T) {
	r := plainRoot(t)
	rec := load(t, `
files:
  - {path: /etc/ssh/ssh_host_ed25519_key, content: mine, mode: 600}
  - {path: /etc/resolv.conf, content: "nameserver 10.9.9.9\n"}
  - {path: /etc/hosts, content: "mine\n"}
  - {path: /etc/fstab, content: "mine\n"}
`)
	for _, step := range []func(*recipe.Recipe) error{r.files, r.hostname, r.diskless, r.seal} {
		if err := step(rec); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"/etc/ssh/ssh_host_ed25519_key": "mine", "/etc/resolv.conf": "nameserver 10.9.9.9\n", "/etc/hosts": "mine\n", "/etc/fstab": "mine\n",
	} {
		if got := r.read(t, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if r.exists("/etc/ssh/ssh_host_rsa_key") {
		t.Error("the key that was baked in by a package is still there")
	}
}

func TestDisklessLeavesResolvedAlone(t *testing.T) {
	r := plainRoot(t)
	const target = "../run/systemd/resolve/stub-resolv.conf"
	if err := r.symlink(target, "/etc/resolv.conf"); err != nil {
		t.Fatal(err)
	}
	if err := r.diskless(load(t, "")); err != nil {
		t.Fatal(err)
	}
	if got := r.link("/etc/resolv.conf"); got != target {
		t.Errorf("/etc/resolv.conf -> %q", got)
	}
}

// What has nothing to do goes, and stays when somebody gave it something to do, if only in a hook.
func TestTrim(t *testing.T) {
	const (
		fstab   = "/etc/systemd/system-generators/systemd-fstab-generator"
		rcLocal = "/etc/systemd/system-generators/systemd-rc-local-generator"
		journal = "/etc/systemd/system/systemd-journal-flush.service"
		fuse    = "/etc/systemd/system/sysinit.target.wants/sys-fs-fuse-connections.mount"
		mqueue  = "/etc/systemd/system/sysinit.target.wants/dev-mqueue.mount"
	)
	for name, c := range map[string]struct {
		recipe string
		hook   map[string]string
		want   string // "-" for what is gone or masked
	}{
		"nothing to do": {"", nil, "fstab- rcLocal- journal- fuse- mqueue+"},
		"comments only": {"", map[string]string{"/etc/fstab": "# x\n\n", "/etc/systemd/journald.conf": "[Journal]\n#Storage=auto\n"},
			"fstab- rcLocal- journal- fuse- mqueue+"},
		"hooks":   {"", map[string]string{"/etc/fstab": "10.0.0.1:/home /home nfs defaults 0 0\n", "/etc/rc.local": "#!/bin/sh\ndate\n", "/etc/systemd/journald.conf": "[Journal]\n Storage=persistent\n"}, "fstab+ rcLocal+ journal+ fuse- mqueue+"},
		"drop-in": {"files: [{path: /etc/systemd/journald.conf.d/x.conf, content: \"[Journal]\\nStorage=auto\\n\"}]\n", nil, "fstab- rcLocal- journal+ fuse- mqueue+"},
		"wanted":  {"services: {enable: [systemd-journal-flush, sys-fs-fuse-connections.mount]}\n", nil, "fstab- rcLocal- journal+ fuse+ mqueue+"},
	} {
		r := plainRoot(t)
		rec := load(t, c.recipe)
		for file, text := range map[string]string{"/usr/lib/udev/rules.d/99-systemd.rules": ""} {
			if err := r.writeString(file, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(r.files(rec), r.diskless(rec)); err != nil {
			t.Fatal(err)
		}
		for file, text := range c.hook {
			if err := r.writeString(file, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.trim(rec); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, part := range []struct {
			name  string
			there bool
		}{
			{"fstab", r.link(fstab) == ""}, {"rcLocal", r.link(rcLocal) == ""}, {"journal", r.link(journal) == ""},
			{"fuse", r.link(fuse) == ""}, {"mqueue", r.link(mqueue) == ""},
		} {
			got = append(got, part.name+map[bool]string{true: "+", false: "-"}[part.there])
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
}

// cloud-init, wherever it came from, is told that / is on no disk; elsewhere there is nothing to tell.
func TestCloudInitHasNoDisk(t *testing.T) {
	for name, c := range map[string]struct{ recipe, hook, want string }{
		"none":     {"", "", ""},
		"there":    {"", "/etc/cloud/cloud.cfg.d/05_logging.cfg", noDisk},
		"supplied": {"files: [{path: /etc/cloud/cloud.cfg.d/05-netroot.cfg, content: \"x: 1\\n\"}]\n", "/etc/cloud/cloud.cfg", "x: 1\n"},
	} {
		r := plainRoot(t)
		rec := load(t, c.recipe)
		if err := r.files(rec); err != nil {
			t.Fatal(err)
		}
		if c.hook != "" {
			if err := r.writeString(c.hook, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.trim(rec); err != nil {
			t.Fatal(err)
		}
		got, err := tree.ReadFile(r.fsys, strings.TrimPrefix(cloudConfig, "/"))
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// A root with another init gets the scripts and no units.
func TestDisklessWithoutSystemd(t *testing.T) {
	r := plainRoot(t)
	if err := r.remove("/usr/lib/systemd/systemd"); err != nil {
		t.Fatal(err)
	}
	rec := load(t, "")
	if err := r.diskless(rec); err != nil {
		t.Fatal(err)
	}
	if err := r.seal(rec); err != nil {
		t.Fatal(err)
	}
	if !r.exists(scripts+"stage") || r.exists(units) || r.exists("/etc/.updated") {
		t.Error("scripts are missing, or units are there")
	}
}

func TestLendResolver(t *testing.T) {
	r := plainRoot(t)
	host := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(host, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const name = "/etc/resolv.conf"
	for _, c := range []struct{ before, hook, after string }{
		{"", "", ""},
		{"", "nameserver 10.0.0.1\n", "nameserver 10.0.0.1\n"},
		{"nameserver 10.0.0.2\n", "", "nameserver 10.0.0.2\n"},
	} {
		if err := r.writeString(name, c.before); err != nil {
			t.Fatal(err)
		}
		restore, err := r.lendResolver(host)
		if err != nil {
			t.Fatal(err)
		}
		if r.read(t, name) == "" {
			t.Error("nothing was lent")
		}
		if c.hook != "" {
			if err := r.writeString(name, c.hook); err != nil {
				t.Fatal(err)
			}
		}
		if err := restore(); err != nil {
			t.Fatal(err)
		}
		if got := r.read(t, name); got != c.after {
			t.Errorf("%q became %q", c.before, got)
		}
	}
}

// /var may be a link to another folder of the root, and to one of the host for whoever follows it there.
func TestUpToDateStaysInTheRoot(t *testing.T) {
	r := plainRoot(t)
	host := t.TempDir()
	old := time.Unix(1e9, 0)
	theirs := filepath.Join(host, ".updated")
	if err := errors.Join(os.RemoveAll(r.dir+"/var"), os.MkdirAll(r.dir+host, 0o755), os.Symlink(host, r.dir+"/var"),
		os.WriteFile(theirs, nil, 0o600), os.Chtimes(theirs, old, old)); err != nil {
		t.Fatal(err)
	}
	if err := r.upToDate(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(theirs); err != nil || !st.ModTime().Equal(old) {
		t.Errorf("the host's file has another time: %v, %v", st.ModTime(), err)
	}
	if usr, err := os.Stat(r.dir + "/usr"); err != nil {
		t.Error(err)
	} else if st, err := os.Stat(r.dir + theirs); err != nil || st.ModTime().Sub(usr.ModTime()).Abs() > time.Microsecond {
		t.Errorf("the root's file is of another time than /usr: %v", err)
	}
}
