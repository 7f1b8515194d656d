package rpmfixture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"netroot/builder/deb"
)

// A job is one package to be built.
type job struct {
	name, version, release, arch string
	preamble, scripts, list      string                                      // of the spec; list: %files, "" lists what stage put there
	origin                       string                                      // what else it is made of
	stage                        func(ctx context.Context, dir string) error // puts the files there
}

func (j *job) file() string {
	return fmt.Sprintf("%s-%s-%s.%s.rpm", j.name, j.version, j.release, j.arch)
}

// run builds the package, or finds it, and returns its file.
func (j *job) run(ctx context.Context, folder, payload string, key *signer) (string, error) {
	id := sha256.New()
	fmt.Fprintln(id, version, j.file(), j.preamble, j.scripts, j.list, j.origin, payload, key.id())
	final := filepath.Join(folder, "rpms", hex.EncodeToString(id.Sum(nil))+".rpm")
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	dir, err := os.MkdirTemp(folder, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	stage := filepath.Join(dir, "stage")
	if err := os.Mkdir(stage, 0o755); err != nil {
		return "", err
	}
	if err := j.stage(ctx, stage); err != nil {
		return "", fmt.Errorf("package %s: %w", j.name, err)
	}
	list := j.list
	if list == "" {
		if list, err = listFiles(stage); err != nil {
			return "", err
		}
	}
	preamble := j.preamble
	if j.arch == "noarch" {
		preamble = "BuildArch: noarch\n" + preamble // others come with --target
	}
	spec := filepath.Join(dir, j.name+".spec")
	text := fmt.Sprintf("Name: %s\nVersion: %s\nRelease: %s\nSummary: made for a test\nLicense: as there\nAutoReqProv: no\n%s\n%%description\nMade for a test.\n%s\n%%files\n%s",
		j.name, j.version, j.release, preamble, j.scripts, list)
	if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "out")
	cmd := exec.CommandContext(ctx, "rpmbuild", "-bb", "--quiet", "--noclean", "--buildroot", stage, "--target", j.arch, "--define", "_topdir "+dir, "--define", "_rpmdir "+out,
		"--define", "_build_id_links none", "--define", "__os_install_post %{nil}", "--define", "_binary_payload "+payload, "--define", "__spec_install_pre %{___build_pre}",
		"--define", "_dbpath "+filepath.Join(dir, "db"), spec)
	if err := run(cmd); err != nil {
		return "", fmt.Errorf("package %s: %w", j.name, err)
	}
	built := filepath.Join(out, j.arch, j.file())
	if key != nil {
		if err := key.sign(ctx, built); err != nil {
			return "", fmt.Errorf("package %s: %w", j.name, err)
		}
	}
	return final, os.Rename(built, final)
}

// rpmArch is RPM's word for Debian's architecture.
var rpmArch = map[string]string{"amd64": "x86_64", "i386": "i686", "all": "noarch"}

// convert prepares an RPM of a .deb. names are the Debian packages that are there.
func (d Distribution) convert(ctx context.Context, file, sum string, names map[string]bool) (job, error) {
	control, err := exec.CommandContext(ctx, "dpkg-deb", "-f", file, "Package", "Version", "Architecture", "Depends", "Pre-Depends", "Provides").Output()
	if err != nil {
		return job{}, err
	}
	field := map[string]string{}
	for line := range strings.Lines(string(control)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			field[name] = value
		}
	}
	name := field["Package"]
	j := job{name: d.rename(name), arch: rpmArch[field["Architecture"]], origin: sum + fmt.Sprint(d.Merged, needless)}
	if len(d.Strip) > 0 {
		j.origin += fmt.Sprint("", d.Strip)
	}
	var preamble strings.Builder
	v := field["Version"]
	if epoch, rest, ok := strings.Cut(v, ":"); ok {
		fmt.Fprintf(&preamble, "Epoch: %s\n", epoch)
		v = rest
	}
	j.version, j.release = v, "1"
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		j.version, j.release = strings.ReplaceAll(v[:i], "-", "."), v[i+1:]
	}
	needs, err := deb.ParseDependencies(field["Pre-Depends"]+","+field["Depends"], d.Arch)
	if err != nil {
		return job{}, err
	}
	var requires []string
	for _, n := range needs {
		if i := slices.IndexFunc(n, func(r deb.Relation) bool { return names[r.Name] }); i >= 0 {
			requires = append(requires, d.rename(n[i].Name))
		}
	}
	requires = append(requires, d.Requires[j.name]...)
	slices.Sort(requires)
	for _, r := range slices.Compact(requires) {
		if r != j.name {
			fmt.Fprintf(&preamble, "Requires: %s\n", r)
		}
	}
	provides, err := deb.ParseDependencies(field["Provides"], d.Arch)
	if err != nil {
		return job{}, err
	}
	for _, p := range provides {
		if !names[p[0].Name] {
			fmt.Fprintf(&preamble, "Provides: %s\n", p[0].Name)
		}
	}
	if p := d.Provides[j.name]; p != "" {
		fmt.Fprintf(&preamble, "Provides: %s\n", p)
	}
	j.preamble, j.scripts = preamble.String(), d.Scripts[j.name]
	j.stage = func(ctx context.Context, dir string) error { return d.unpack(ctx, file, dir) }
	return j, nil
}

func (d Distribution) rename(name string) string {
	if other := d.Rename[name]; other != "" {
		return other
	}
	return name
}

// needless are modules of a kernel that no test's machine has the hardware for. They are most of it.
var needless = []string{
	"sound", "drivers/gpu", "drivers/media", "drivers/staging", "drivers/infiniband", "drivers/iio", "drivers/hwmon", "drivers/isdn", "drivers/net/wireless",
	"drivers/bluetooth", "drivers/mtd", "drivers/platform", "drivers/scsi", "drivers/usb", "drivers/hid", "drivers/i2c", "drivers/power", "drivers/mfd",
	"drivers/comedi", "drivers/md", "drivers/net/ethernet/mellanox", "drivers/net/ethernet/chelsio", "drivers/nvme", "drivers/target", "drivers/input", "drivers/leds",
	"net/bluetooth", "net/mac80211", "net/wireless", "net/netfilter", "fs/xfs", "fs/btrfs", "fs/ocfs2", "fs/gfs2", "fs/ceph", "fs/jfs", "fs/smb", "fs/f2fs", "arch/x86/kvm",
}

// unpack puts a .deb's files into a folder, without what nobody needs to boot.
func (d Distribution) unpack(ctx context.Context, file, dir string) error {
	const script = `dpkg-deb --fsys-tarfile "$1" | tar -xp -C "$2" --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale --exclude=./usr/share/lintian --exclude=./usr/share/info`
	if err := run(exec.CommandContext(ctx, "sh", "-c", script, "sh", file, dir)); err != nil {
		return err
	}
	for _, part := range d.Strip {
		if err := removeAll(filepath.Join(dir, part)); err != nil {
			return err
		}
	}
	for _, part := range needless {
		if err := removeAll(filepath.Join(dir, "lib/modules/*/kernel", part)); err != nil {
			return err
		}
	}
	if !d.Merged {
		return nil
	}
	for _, top := range []string{"bin", "sbin", "lib", "lib64"} {
		from, to := filepath.Join(dir, top), filepath.Join(dir, "usr", top)
		if _, err := os.Lstat(from); err != nil {
			continue
		}
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := run(exec.CommandContext(ctx, "sh", "-c", `cp -a "$1/." "$2" && rm -r "$1"`, "sh", from, to)); err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes everything that a pattern matches.
func removeAll(pattern string) error {
	found, err := filepath.Glob(pattern)
	for _, at := range found {
		err = errors.Join(err, os.RemoveAll(at))
	}
	return err
}

// own prepares a package that is written here.
func (d Distribution) own(o Own) job {
	j := job{name: o.Name, version: "1", release: "1", arch: "noarch", preamble: o.Tags, scripts: o.Scripts, list: o.List}
	for _, name := range slices.Sorted(maps.Keys(o.Files)) {
		j.origin += name + "\n" + o.Files[name] + "\n"
	}
	j.stage = func(_ context.Context, dir string) error {
		for name, text := range o.Files {
			at := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				return err
			}
			if strings.HasSuffix(name, "/") {
				if err := os.MkdirAll(at, 0o755); err != nil {
					return err
				}
				continue
			}
			if target, ok := strings.CutPrefix(text, "-> "); ok {
				if err := os.Symlink(target, at); err != nil {
					return err
				}
				continue
			}
			mode := os.FileMode(0o644)
			if strings.HasPrefix(text, "#!") {
				mode = 0o755
			}
			if err := os.WriteFile(at, []byte(text), mode); err != nil {
				return err
			}
		}
		return nil
	}
	return j
}

// basic are folders that belong to the package filesystem alone.
var basic = []string{"/", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/usr", "/etc", "/var", "/var/lib", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/share", "/run", "/var/run", "/tmp", "/dev", "/proc", "/sys", "/root"}

// listFiles is the %files of all that is in a folder.
func listFiles(stage string) (string, error) {
	var files strings.Builder
	err := filepath.WalkDir(stage, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := path.Clean("/" + strings.TrimPrefix(at, stage))
		switch {
		case slices.Contains(basic, name) && e.IsDir():
		case strings.ContainsAny(name, " \"%{}\\"):
			return errors.Join(os.Remove(at)) // no specfile can name it
		case e.IsDir():
			fmt.Fprintf(&files, "%%dir \"%s\"\n", name)
		case strings.HasPrefix(name, "/etc/") && e.Type().IsRegular() && !strings.HasPrefix(name, "/etc/init.d/"):
			fmt.Fprintf(&files, "%%config(noreplace) \"%s\"\n", name)
		default:
			fmt.Fprintf(&files, "\"%s\"\n", name)
		}
		return nil
	})
	return files.String(), err
}
