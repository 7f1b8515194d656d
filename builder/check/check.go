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

	"netroot/builder/lock"
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

// Facts are what is known of a root besides what is in it. All may be left out.
type Facts struct {
	Kernel   string         // release of the one that boots; "" is the newest
	Packages []lock.Package // that should be installed
	Cmdline  []string       // of the kernel
	Notes    []string       // of the build: scriptlets that failed
	Size     string         // limit of the memory for changes: root: size:
	PCI      []string       // network cards that must work, as VENDOR:DEVICE in hexadecimal (lspci -n)
}

// A subject is a root that is looked at.
type subject struct {
	root fs.FS
	Facts
}

// checks in the order in which a booting machine would meet the trouble.
var checks = []struct {
	name string
	run  func(s subject) (problem, fix string, severity Severity)
}{
	{"folders", plain(folders)},
	{"init", plain(initProgram)},
	{"kernel", kernel},
	{"nfs-modules", nfsModules},
	{"nic-driver", nicDriver},
	{"abi", kernelABI},
	{"word-size", plain(wordSize)},
	{"selinux", selinux},
	{"writable-folders", copiedFolders},
	{"readonly-root", plain(readonlyRoot)},
	{"fstab", plain(fstab)},
	{"persistent-net", plain(persistentNet)},
	{"sysconfig-network", plain(sysconfigNetwork)},
	{"network-service", plain(networkService)},
	{"network-manager", plain(networkManager)},
	{"ifcfg", plain(ifcfg)},
	{"peer-dns", plain(peerDNS)},
	{"dhclient", plain(dhclient)},
	{"firewall", plain(firewall)},
	{"hosts", plain(hosts)},
	{"resolv.conf", plain(resolvConf)},
	{"nsswitch", plain(nsswitch)},
	{"name-service", plain(nameService)},
	{"name-modules", plain(nameModules)},
	{"host.conf", plain(hostConf)},
	{"name-cache", plain(nameCache)},
	{"clock", plain(clock)},
	{"ld.so.cache", plain(libraryCache)},
	{"rpm-database", rpmDatabase},
	{"scriptlets", scriptlets},
	{"package-files", plain(packageFiles)},
	{"machine-id", plain(machineID)},
	{"ssh-host-keys", plain(sshHostKeys)},
}

// plain is a check that needs nothing but the root.
func plain(run func(fs.FS) (string, string, Severity)) func(subject) (string, string, Severity) {
	return func(s subject) (string, string, Severity) { return run(s.root) }
}

// Run looks at a root and returns what it finds, in the order of a boot. No finding means nothing is known to be wrong.
func Run(root fs.FS, facts Facts) []Finding {
	var found []Finding
	for _, c := range checks {
		if problem, fix, severity := c.run(subject{root, facts}); problem != "" {
			found = append(found, Finding{severity, c.name, problem, fix})
		}
	}
	return found
}

// few names some of many.
func few(list []string) string {
	const most = 4
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// readLines returns the lines of a file; none when it cannot be read.
func readLines(root fs.FS, name string) []string {
	data, err := tree.ReadFile(root, name)
	if err != nil {
		return nil
	}
	return lines(data)
}

// value finds what a file of NAME=VALUE lines, as a shell reads them, says last of a name.
func value(root fs.FS, file, name string) string {
	found := ""
	for _, line := range readLines(root, file) {
		if v, ok := strings.CutPrefix(line, name+"="); ok {
			found = strings.Trim(v, `"' `)
		}
	}
	return found
}

func executable(root fs.FS, name string) bool {
	info, err := tree.Stat(root, name)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
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
