package customize

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"netroot/builder/recipe"
	"netroot/builder/tree"
)

// parts is netroot's own share of a root, as it lies there. What is in usr/lib/netroot and etc/init.d is executable.
//
//go:embed all:root
var parts embed.FS

const (
	scripts     = "/usr/lib/netroot/"
	initScripts = "/etc/init.d/"
	units       = "/usr/lib/systemd/system/"
)

// wants says which target starts each unit.
var wants = [][2]string{
	{"sysinit.target", "netroot-stage-init.service"},
	{"multi-user.target", "netroot-ssh-keys.service"},
	{"multi-user.target", "netroot-lease.service"},
	{"multi-user.target", "netroot-stage-up.service"},
}

// diskCare are units that packages enable to look after disks, or after a root that lives longer than a day. They would only take
// memory here, where every change to / is in memory; apt-daily above all, which downloads package lists. A recipe
// that enables one of them gets it.
var diskCare = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "man-db.timer", "fstrim.timer",
	"e2scrub_all.timer", "e2scrub_reap.service", "mdmonitor-oneshot.timer", "mdcheck_start.timer", "mdcheck_continue.timer",
	"systemd-pstore.service",
}

// idle are units that find nothing to do on a machine without a disk, but would start a program or more at every boot.
// They are masked, unless the recipe enables them.
var idle = []string{
	"systemd-repart.service",      // partitions
	"systemd-random-seed.service", // would seed every machine of the image alike; there is none to keep
	"systemd-remount-fs.service",  // / is as the initramfs mounted it
	// logind wants it, for machines with a screen; there udev loads it with the driver of the graphics card. Elsewhere it
	// would be the largest module of the boot.
	"modprobe@drm.service",
}

// flush moves the journal from memory to a disk. Where journald.conf.d says so it stays in memory.
const flush = "systemd-journal-flush.service"

// onDemand are mounts for which a boot would load the kernel module that they belong to. udev asks for them as soon as
// somebody loads that module (99-systemd.rules).
var onDemand = []string{"sys-fs-fuse-connections.mount", "sys-kernel-config.mount"}

// wishes is where a link takes the place of the one of the same name that a package has for sysinit.target.
const wishes = "/etc/systemd/system/sysinit.target.wants/"

// idleGenerators look for disks, or for what was left on them, each time systemd reads its units; they are masked. One
// with a table of its own stays when the root has that table, with a line in it.
var idleGenerators = []struct{ name, table string }{
	{"systemd-cryptsetup-generator", "/etc/crypttab"},
	{"systemd-integritysetup-generator", "/etc/integritytab"},
	{"systemd-veritysetup-generator", "/etc/veritytab"},
	{"systemd-gpt-auto-generator", ""},
	{"systemd-hibernate-resume-generator", ""},
	{"systemd-bless-boot-generator", ""},
	{"systemd-system-update-generator", ""},
	{"systemd-fstab-generator", "/etc/fstab"},
	{"systemd-rc-local-generator", "/etc/rc.local"},
}

// Digest is the SHA-256, in hex, of what this package puts into every root: when it changes, roots built before are out
// of date.
func Digest() string {
	h := sha256.New()
	err := fs.WalkDir(parts, "root", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := parts.ReadFile(name)
		fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
		return err
	})
	if err != nil {
		panic(err) // embedded files are always there
	}
	fmt.Fprintln(h, wants, diskCare, idle, wishes, onDemand, idleGenerators, kernelFS)
	fmt.Fprint(h, noDisk, emptiedTable)
	return hex.EncodeToString(h.Sum(nil))
}

// cloud-init looks for the disk that / is on, to enlarge it, and calls a boot degraded when there is none.
const (
	cloudConfigs = "/etc/cloud/cloud.cfg.d"
	cloudConfig  = cloudConfigs + "/05-netroot.cfg"
	noDisk       = "# / is on no disk that could be enlarged.\nresize_rootfs: false\ngrowpart: {mode: \"off\"}\n"
)

// supplies tells that the recipe puts a file at name itself.
func supplies(rec *recipe.Recipe, name string) bool {
	return slices.ContainsFunc(rec.Files, func(f recipe.File) bool { return f.Path == name })
}

func (r rootDir) hasSystemd() bool {
	return r.exists("/usr/lib/systemd/systemd") || r.exists("/lib/systemd/systemd")
}

// hostname writes the name that a machine has when neither netroot.yaml nor the DHCP server gives it one.
func (r rootDir) hostname(rec *recipe.Recipe) error {
	if !supplies(rec, "/etc/hostname") {
		if err := r.writeString("/etc/hostname", rec.Hostname+"\n"); err != nil {
			return err
		}
	}
	if supplies(rec, "/etc/hosts") {
		return nil
	}
	names := rec.Hostname
	if short, _, long := strings.Cut(rec.Hostname, "."); long {
		names += " " + short
	}
	if rec.From.Copy != nil && r.ownName(names) == nil {
		return nil
	}
	// 127.0.1.1 as Debian has it; at boot the initramfs puts the machine's real name there.
	return r.writeString("/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\t"+names+"\n::1\tlocalhost ip6-localhost ip6-loopback\n")
}

// diskless puts netroot's own parts into the root and takes away what only a machine with a disk has.
func (r rootDir) diskless(rec *recipe.Recipe) error {
	systemd := r.hasSystemd()
	err := fs.WalkDir(parts, "root", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		dst := strings.TrimPrefix(name, "root")
		switch {
		case strings.HasPrefix(dst, scripts):
		case strings.HasPrefix(dst, initScripts):
			if systemd || !r.exists(initScripts) {
				return nil
			}
		case !systemd:
			return nil
		}
		data, err := parts.ReadFile(name)
		if err != nil {
			return err
		}
		a := attributes{mode: 0o644}
		if strings.HasPrefix(dst, scripts) || strings.HasPrefix(dst, initScripts) {
			a.mode = 0o755
		}
		return r.write(dst, strings.NewReader(string(data)), a)
	})
	if err != nil {
		return err
	}
	// A copy's has been cleared of disks, and may name network file systems.
	if !supplies(rec, "/etc/fstab") && (rec.From.Copy == nil || !r.exists("/etc/fstab")) {
		if err := r.writeString("/etc/fstab", "# No disks: / comes over the network and is mounted before this is read.\n"); err != nil {
			return err
		}
	}
	// An empty file, for the initramfs to write into or to mount over. systemd-resolved's link has to stay as it is.
	if !supplies(rec, "/etc/resolv.conf") && !strings.Contains(r.link("/etc/resolv.conf"), "/systemd/resolve/") {
		if err := r.writeString("/etc/resolv.conf", ""); err != nil {
			return err
		}
	}
	if !systemd {
		return nil
	}
	for _, w := range wants {
		if err := r.symlink("../"+w[1], units+w[0]+".wants/"+w[1]); err != nil {
			return err
		}
	}
	for _, unit := range diskCare {
		if enables(rec, unit) {
			continue
		}
		for _, target := range r.glob("/etc/systemd/system", "*.wants") {
			if err := r.remove(path.Join(target, unit)); err != nil {
				return err
			}
		}
	}
	if r.exists("/usr/lib/udev/rules.d/99-systemd.rules") {
		for _, unit := range onDemand {
			if enables(rec, unit) {
				continue
			}
			// A link to nowhere in /etc takes that wish back, and leaves the package's own file alone (load-dropin.c of systemd).
			if err := r.symlink("/dev/null", wishes+unit); err != nil {
				return err
			}
		}
	}
	return r.mask(rec)
}

// says tells that a file has a line that is no comment.
func (r rootDir) says(name string) bool {
	data, err := tree.ReadFile(r.fsys, strings.TrimPrefix(name, "/"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != ';' {
			return true
		}
	}
	return false
}

// enables tells that the recipe wants a unit, named with or without its type.
func enables(rec *recipe.Recipe, unit string) bool {
	name, _, _ := strings.Cut(unit, ".")
	return slices.Contains(rec.Services.Enable, unit) || slices.Contains(rec.Services.Enable, name)
}

// mask keeps systemd from starting what is idle.
func (r rootDir) mask(rec *recipe.Recipe) error {
	for _, unit := range idle {
		if enables(rec, unit) || unit == "systemd-remount-fs.service" && supplies(rec, "/etc/fstab") {
			continue
		}
		if err := r.symlink("/dev/null", "/etc/systemd/system/"+unit); err != nil {
			return err
		}
	}
	return nil
}

// trim takes out what finds nothing to do in this root. It comes after the hooks, which may give it something.
func (r rootDir) trim(rec *recipe.Recipe) error {
	if r.exists(cloudConfigs) && !supplies(rec, cloudConfig) {
		if err := r.writeString(cloudConfig, noDisk); err != nil {
			return err
		}
	}
	if !r.hasSystemd() {
		return nil
	}
	for _, g := range idleGenerators {
		if g.table != "" && r.says(g.table) {
			continue
		}
		if err := r.symlink("/dev/null", "/etc/systemd/system-generators/"+g.name); err != nil {
			return err
		}
	}
	if !enables(rec, flush) && !r.keepsJournal() {
		if err := r.symlink("/dev/null", "/etc/systemd/system/"+flush); err != nil {
			return err
		}
	}
	return nil
}

// keepsJournal tells that somebody else says, too, where the journal is kept.
func (r rootDir) keepsJournal() bool {
	for _, dir := range []string{"/etc/systemd/journald.conf.d", "/usr/local/lib/systemd/journald.conf.d"} {
		for _, name := range r.glob(dir, "*.conf") {
			if r.says(name) {
				return true
			}
		}
	}
	// Debian's own file says nothing but the name of its section.
	data, err := tree.ReadFile(r.fsys, "etc/systemd/journald.conf")
	return err == nil && regexp.MustCompile(`(?m)^\s*Storage\s*=`).Match(data)
}

// seal takes away what must not be the same on two machines, whatever made it, and marks the root as up to date. It comes last.
func (r rootDir) seal(rec *recipe.Recipe) error {
	// Empty, not missing: then systemd makes an id at each boot, and does not take the boot for the first one after an
	// installation (machine-id(5)).
	if !supplies(rec, "/etc/machine-id") {
		if err := r.writeString("/etc/machine-id", ""); err != nil {
			return err
		}
	}
	if r.exists("/var/lib/dbus") {
		if err := r.symlink("/etc/machine-id", "/var/lib/dbus/machine-id"); err != nil {
			return err
		}
	}
	secrets := []string{"/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/var/lib/urandom/random-seed"}
	for _, key := range r.glob("/etc/ssh", "ssh_host_*_key") {
		if !supplies(rec, key) && !keepsHostKeys(rec) {
			secrets = append(secrets, key)
			if !supplies(rec, key+".pub") {
				secrets = append(secrets, key+".pub")
			}
		}
	}
	for _, name := range secrets {
		if err := r.remove(name); err != nil {
			return err
		}
	}
	return r.upToDate()
}

// upToDate writes what systemd-update-done(8) would: without it every boot finds /usr newer than /etc and /var, and makes
// again what packages made when they were configured (ConditionNeedsUpdate=).
func (r rootDir) upToDate() error {
	if !r.hasSystemd() {
		return nil
	}
	usr, err := tree.Stat(r.fsys, "/usr")
	if err != nil {
		return fmt.Errorf("read the age of /usr: %w", cause(err))
	}
	at := usr.ModTime()
	for _, name := range []string{"/etc/.updated", "/var/.updated"} {
		text := fmt.Sprintf("# When this folder was last brought up to date with /usr, see systemd-update-done.service(8).\nTIMESTAMP_NSEC=%d\n", at.UnixNano())
		if err := r.writeString(name, text); err != nil {
			return err
		}
		resolved, err := tree.Resolve(r.fsys, name) // /var may be a link to another folder
		if err == nil {
			err = os.Chtimes(r.host(resolved), at, at)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", name, cause(err))
		}
	}
	return nil
}
