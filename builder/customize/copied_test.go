package customize

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"

	"netroot/builder/golden"
	"netroot/builder/recipe"
)

// copyRecipe is one with a copy as its source.
func copyRecipe(t *testing.T, text string) *recipe.Recipe {
	t.Helper()
	r, err := recipe.LoadFS(fstest.MapFS{"r.yaml": {Data: []byte("name: twin\narch: amd64\nfrom: {copy: {from: 'ssh://root@old', host_keys: " + text + "\n")}}, "r.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// extract makes the tree of an archive. A file in it that holds "-> TARGET" is a link.
func extract(t *testing.T, file, dir string) {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range a.Files {
		at := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(string(f.Data), "-> "); ok {
			err = os.Symlink(strings.TrimSpace(target), at)
		} else {
			err = os.WriteFile(at, f.Data, 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// describe is the tree as extract takes it, after the lines.
func describe(t *testing.T, lines []string, dir string) string {
	t.Helper()
	var out strings.Builder
	for _, l := range lines {
		fmt.Fprintln(&out, l)
	}
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, at)
		fmt.Fprintf(&out, "-- %s --\n", name)
		if target, err := os.Readlink(at); err == nil {
			fmt.Fprintf(&out, "-> %s\n", target)
			return nil
		}
		data, err := os.ReadFile(at)
		out.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Three families of systems as their installers leave them: what is told, and what is left.
func TestCopied(t *testing.T) {
	files, err := filepath.Glob("testdata/copied/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no systems", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			extract(t, file, dir)
			changes, err := openRoot(dir).copied(copyRecipe(t, "new}}"))
			if err != nil {
				t.Fatal(err)
			}
			golden.Compare(t, filepath.Join("testdata/copied", name+".golden"), describe(t, changes, dir))
			again, err := openRoot(dir).copied(copyRecipe(t, "new}}"))
			for _, change := range again {
				if !strings.Contains(change, "host name") && !strings.Contains(change, "machine-id") && !strings.Contains(change, "resolv.conf") && !strings.Contains(change, "host keys") {
					t.Errorf("the second time: %s", change)
				}
			}
			if err != nil {
				t.Error(err)
			}
			info, err := os.Stat(filepath.Join(dir, "etc/fstab"))
			if err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("the mode of a changed file: %v, %v", info, err)
			}
		})
	}
}

// What the recipe says of a copy has the last word.
func TestCopiedRecipe(t *testing.T) {
	make := func(t *testing.T) string {
		dir := t.TempDir()
		extract(t, "testdata/copied/debian.txtar", dir)
		return dir
	}
	t.Run("host keys are kept", func(t *testing.T) {
		dir := make(t)
		rec := copyRecipe(t, "keep}}")
		changes, err := openRoot(dir).copied(rec)
		if err != nil || !strings.Contains(strings.Join(changes, "\n"), "keys are kept") {
			t.Errorf("%q, %v", changes, err)
		}
		if err := openRoot(dir).seal(rec); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "etc/ssh/ssh_host_ed25519_key")); err != nil {
			t.Error(err)
		}
	})
	t.Run("and are not kept", func(t *testing.T) {
		dir := make(t)
		if err := openRoot(dir).seal(copyRecipe(t, "new}}")); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "etc/ssh/ssh_host_*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
	t.Run("a disk service is wanted", func(t *testing.T) {
		dir := make(t)
		if _, err := openRoot(dir).copied(copyRecipe(t, "new}}\nservices: {enable: [smartmontools]}")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "etc/systemd/system/smartmontools.service")); err == nil {
			t.Error("smartmontools.service is masked")
		}
	})
	t.Run("the site's hosts and file systems stay", func(t *testing.T) {
		dir := make(t)
		rec := copyRecipe(t, "new}}\nhostname: vme1.site")
		r := openRoot(dir)
		if _, err := r.copied(rec); err != nil {
			t.Fatal(err)
		}
		if err := r.hostname(rec); err != nil {
			t.Fatal(err)
		}
		if err := r.diskless(rec); err != nil {
			t.Fatal(err)
		}
		hosts, _ := os.ReadFile(filepath.Join(dir, "etc/hosts"))
		if got := string(hosts); got != "127.0.0.1\tlocalhost\n192.168.2.5\tfileserver\n127.0.1.1\tvme1.site vme1\n" {
			t.Errorf("hosts: %q", got)
		}
		if data, _ := os.ReadFile(filepath.Join(dir, "etc/fstab")); !strings.Contains(string(data), "fileserver:/data") {
			t.Errorf("fstab: %q", data)
		}
	})
}

// Notes go into the manifest, which anybody who may list images can read.
func TestCopiedSecrets(t *testing.T) {
	r := grow(t, map[string]string{
		"etc/network/interfaces": "auto wlan0\niface wlan0 inet static\n\taddress 10.0.0.7/24\n\twpa-ssid lab\n\twpa-psk hunter2\n\twpa-psk\thunter2\n wireless-key1 s:hunter2\n" +
			"\tup iwconfig wlan0 key hunter2\n \\\n hunter2\nmapping eth0\n script /bin/map hunter2\n",
		"etc/network/interfaces.d/x": "iface ppp0 inet ppp\n\tprovider hunter2\n",
	})
	changes, err := r.copied(copyRecipe(t, "new}}"))
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(changes, "\n")
	if strings.Contains(all, "hunter2") {
		t.Errorf("a secret is in the notes:\n%s", all)
	}
	for _, want := range []string{`"address 10.0.0.7/24" taken out`, `"wpa-psk …" taken out`, `"up …" taken out`, `"iface wlan0 inet static" taken out`} {
		if !strings.Contains(all, want) {
			t.Errorf("no note says %s:\n%s", want, all)
		}
	}
}

// Whatever is in a table, it is changed once, and then there is nothing left to change.
func FuzzCopied(f *testing.F) {
	files, err := filepath.Glob("testdata/copied/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, t := range a.Files {
			f.Add(t.Data)
		}
	}
	tables := []string{"etc/fstab", "etc/crypttab", "etc/mdadm.conf", "etc/udev/rules.d/1.rules", "etc/network/interfaces", "etc/sysconfig/network",
		"etc/sysconfig/network-scripts/ifcfg-eth0", "etc/selinux/config", "etc/adjtime"}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		for _, name := range tables {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		rec := &recipe.Recipe{Hostname: "twin", From: recipe.From{Copy: &recipe.Copy{}}}
		if _, err := openRoot(dir).copied(rec); err != nil {
			t.Fatal(err)
		}
		again, err := openRoot(dir).copied(rec)
		if err != nil || len(again) > 0 {
			t.Errorf("the second time: %q, %v", again, err)
		}
	})
}
