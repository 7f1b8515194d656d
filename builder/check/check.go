// Package check finds, in a root that has not booted yet, what would keep a diskless machine from booting or from
// working once it has booted: no init, no kernel modules for NFS, local disks in fstab, a name service that cannot be
// loaded. It reads the root through an fs.FS, so a folder and an image are checked by the same code.
//
// It knows what can be seen in files. What only a running machine shows is for a boot test.
package check

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"netroot/builder/elf"
	"netroot/builder/initramfs"
	"netroot/builder/kmod"
	"netroot/builder/tree"
)

// A Severity says what a finding means for the image.
type Severity string

// An Error makes the image unfit: it will not boot, or not work. A Warning is worth a look.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// A Finding is one thing that is wrong with a root, and the way out.
type Finding struct {
	Severity Severity `json:"severity"`
	Check    string   `json:"check"`
	Problem  string   `json:"problem"`
	Fix      string   `json:"fix"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s; %s", f.Severity, f.Check, f.Problem, f.Fix)
}

// An UnfitError says that a root has findings of severity Error.
type UnfitError struct {
	What     string // the image or folder
	Findings []Finding
}

func (e *UnfitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is unfit to boot without a disk", e.What)
	for _, f := range e.Findings {
		if f.Severity == Error {
			fmt.Fprintf(&b, "\n  %s: %s; %s", f.Check, f.Problem, f.Fix)
		}
	}
	return b.String()
}

// Fitness returns an *UnfitError naming what when one of the findings is an Error.
func Fitness(what string, findings []Finding) error {
	if slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == Error }) {
		return &UnfitError{What: what, Findings: findings}
	}
	return nil
}

// checks in the order in which a booting machine would meet the trouble.
var checks = []struct {
	name string
	run  func(root fs.FS) (problem, fix string, severity Severity)
}{
	{"folders", folders},
	{"init", initProgram},
	{"kernel", kernel},
	{"nfs-modules", nfsModules},
	{"writable-folders", copiedFolders},
	{"fstab", fstab},
	{"resolv.conf", resolvConf},
	{"nsswitch", nsswitch},
	{"name-service", nameService},
	{"persistent-net", persistentNet},
	{"machine-id", machineID},
}

// Run looks at a root and returns what it finds, in the order of a boot. No finding means nothing is known to be wrong.
func Run(root fs.FS) []Finding {
	var found []Finding
	for _, c := range checks {
		if problem, fix, severity := c.run(root); problem != "" {
			found = append(found, Finding{severity, c.name, problem, fix})
		}
	}
	return found
}

// folders that the kernel, the initramfs or init mounts something on; a read-only root cannot grow them later.
func folders(root fs.FS) (string, string, Severity) {
	var missing []string
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp"} {
		if at, err := tree.Resolve(root, dir); err != nil || !isDir(root, at) {
			missing = append(missing, "/"+dir)
		}
	}
	if missing == nil {
		return "", "", ""
	}
	return strings.Join(missing, ", ") + " missing", "a package that makes the basic folders (base-files, filesystem) is not installed", Error
}

func initProgram(root fs.FS) (string, string, Severity) {
	for _, name := range []string{"sbin/init", "etc/init", "bin/init"} {
		at, err := tree.Resolve(root, name)
		if err != nil {
			continue
		}
		if info, err := fs.Stat(root, at); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return "", "", ""
		}
	}
	return "no /sbin/init that can be run", "add systemd-sysv or another init to `packages`", Error
}

func kernel(root fs.FS) (string, string, Severity) {
	if _, _, err := initramfs.Kernel(root, ""); err != nil {
		return err.Error(), "add a kernel to `packages` (linux-image-amd64, linux-image-686)", Error
	}
	return "", "", ""
}

func nfsModules(root fs.FS) (string, string, Severity) {
	_, release, err := initramfs.Kernel(root, "")
	if err != nil {
		return "", "", "" // told by the check before
	}
	modules, err := kmod.Open(root, release)
	if err != nil {
		return err.Error(), "run depmod in the root, or install the kernel's whole package", Error
	}
	// Before Linux 3.6 the client of version 3 was in the module nfs itself.
	if !modules.Has("nfsv3") && !(modules.Has("nfs") && before(release, 3, 6)) {
		return fmt.Sprintf("kernel %s has no module nfsv3, built in or loadable", release), "take a kernel with NFS client support", Error
	}
	if !modules.Has("overlay") && bindFolders(root) == nil {
		return fmt.Sprintf("kernel %s has no module overlay, built in or loadable", release), "write `root: {writable: bind}` in the recipe, or take a kernel with overlayfs", Error
	}
	return "", "", ""
}

// before tells that a kernel's release is older than a version.
func before(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n < 2 {
		return false
	}
	return a < major || a == major && b < minor
}

// fstab must not name local disks: their device units would time out at boot.
func fstab(root fs.FS) (string, string, Severity) {
	data, err := tree.ReadFile(root, "etc/fstab")
	if err != nil {
		return "", "", ""
	}
	for _, line := range lines(data) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] == "nfs" || f[2] == "nfs4" {
			continue
		}
		if strings.HasPrefix(f[0], "/dev/") || strings.HasPrefix(f[0], "UUID=") || strings.HasPrefix(f[0], "LABEL=") || strings.HasPrefix(f[0], "PARTUUID=") {
			return fmt.Sprintf("/etc/fstab mounts %s on %s", f[0], f[1]), "a diskless machine has no such disk; take the line out (`files` in the recipe)", Error
		}
	}
	return "", "", ""
}

// resolvConf must be a place that DHCP's answer can be written to.
func resolvConf(root fs.FS) (string, string, Severity) {
	info, err := fs.Lstat(root, "etc/resolv.conf")
	if err != nil {
		return "/etc/resolv.conf is missing", "no package owns it; an empty file is enough, DHCP's answer is written into it at boot", Warning
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		if info.Mode().Perm()&0o044 != 0o044 {
			return fmt.Sprintf("/etc/resolv.conf has mode %#o", info.Mode().Perm()), "only root could resolve names; make it 0644", Error
		}
		return "", "", ""
	}
	target, err := fs.ReadLink(root, "etc/resolv.conf")
	if err != nil {
		return err.Error(), "make it a regular file", Error
	}
	if strings.Contains(target, "run/systemd/resolve/") {
		if !tree.Exists(root, "usr/lib/systemd/systemd-resolved") && !tree.Exists(root, "lib/systemd/systemd-resolved") {
			return "/etc/resolv.conf points to systemd-resolved, which is not installed", "make it an empty file, or add systemd-resolved to `packages`", Error
		}
		return "", "", ""
	}
	if strings.Contains(target, "run/") {
		return "", "", "" // made at boot by resolvconf, NetworkManager, connman
	}
	if !tree.Exists(root, "etc/resolv.conf") {
		return "/etc/resolv.conf points to " + target + ", which is not there", "make it an empty file", Error
	}
	return "", "", ""
}

// hostsSources are the words on the `hosts:` line of nsswitch.conf; none when there is no such line.
func hostsSources(root fs.FS) []string {
	data, err := tree.ReadFile(root, "etc/nsswitch.conf")
	if err != nil {
		return nil
	}
	for _, line := range lines(data) {
		if rest, ok := strings.CutPrefix(line, "hosts:"); ok {
			return strings.Fields(rest)
		}
	}
	return nil
}

func nsswitch(root fs.FS) (string, string, Severity) {
	sources := hostsSources(root)
	if sources == nil {
		return "", "", "" // glibc's own default asks DNS and files
	}
	if !slices.Contains(sources, "dns") && !slices.Contains(sources, "resolve") {
		return "the `hosts:` line of /etc/nsswitch.conf does not ask dns: " + strings.Join(sources, " "), "no name of the network will resolve; add `dns` to it", Error
	}
	return "", "", ""
}

// nameService finds a resolver module that names need and that the C library could not load: missing, or only there
// for another architecture than the shell's.
func nameService(root fs.FS) (string, string, Severity) {
	shell, err := elf.Resolve(root, "/bin/sh")
	if err != nil {
		return err.Error(), "a shell is needed to boot at all: install what it needs", Error
	}
	at := slices.IndexFunc(shell.Files, func(name string) bool { return path.Base(name) == "libc.so.6" })
	if at < 0 {
		return "", "", "" // another C library: no name service switch
	}
	libc := shell.Files[at]
	// glibc carries the files and dns sources itself since 2.34.
	if data, err := tree.ReadFile(root, libc); err != nil || bytes.Contains(data, []byte("_nss_dns_gethostbyname4_r")) {
		return "", "", ""
	}
	for _, source := range hostsSources(root) {
		if source != "files" && source != "dns" {
			continue // glibc passes over a source that is not installed
		}
		module := path.Join(path.Dir(libc), "libnss_"+source+".so.2")
		if !tree.Exists(root, module) {
			return fmt.Sprintf("/%s, which `hosts:` in /etc/nsswitch.conf needs, is not there", module), "names will not resolve; install the C library of the root's own architecture whole", Error
		}
	}
	return "", "", ""
}

func persistentNet(root fs.FS) (string, string, Severity) {
	const rules = "etc/udev/rules.d/70-persistent-net.rules"
	if tree.Exists(root, rules) {
		return "/" + rules + " names the network cards of another machine", "this one's would become eth1; remove the file", Error
	}
	return "", "", ""
}

func machineID(root fs.FS) (string, string, Severity) {
	data, err := tree.ReadFile(root, "etc/machine-id")
	if err == nil && len(bytes.TrimSpace(data)) > 0 && string(bytes.TrimSpace(data)) != "uninitialized" {
		return "/etc/machine-id is set", "all machines of this image would have the same; leave it empty", Warning
	}
	return "", "", ""
}

// lines returns the lines of a configuration file without comments and empty ones.
func lines(data []byte) []string {
	var out []string
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		line, _, _ := strings.Cut(sc.Text(), "#")
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func isDir(root fs.FS, name string) bool {
	info, err := fs.Stat(root, path.Clean(name))
	return err == nil && info.IsDir()
}
