package copytree

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
)

// runtime are folders whose contents belong to a machine that runs, or to this one alone. The folder itself is copied.
var runtime = []struct{ dir, why string }{
	{"proc", ""}, {"sys", ""}, {"dev", ""}, {"run", ""}, {"selinux", ""}, {"sys/fs", ""},
	{"tmp", "temporary files"}, {"var/tmp", "temporary files"}, {"var/lib/systemd/coredump", "crash dumps"},
	{"var/crash", "crash dumps"}, {"var/spool/abrt", "crash dumps"}, {"var/cache/abrt-di", "crash dumps"}, {"lost+found", ""}, {"boot/lost+found", ""},
	{"home/lost+found", ""}, {"var/lost+found", ""}, {"usr/lost+found", ""}, {"opt/lost+found", ""},
	{"var/cache/apt", "downloaded packages"}, {"var/cache/yum", "downloaded packages"}, {"var/cache/dnf", "downloaded packages"},
	{"var/cache/PackageKit", "downloaded packages"},
}

// stateDirs are where daemons of systems older than /run keep what is about their processes. The folders in them belong to packages and
// nobody makes them at boot: without /var/lock/subsys, rc of EL6 stops no service, without /var/run/dbus the bus does not start.
var stateDirs = []string{"var/run", "var/lock"}

// keptIn are folders below those that packages own or programs expect.
var keptIn = []string{"var/cache/apt/archives", "var/cache/apt/archives/partial"}

// swapFiles are names that installers give them.
var swapFiles = []string{"swapfile", "swap.img", "swap", ".swapfile", "var/swap", "var/swapfile", "hiberfil.sys"}

// rules tells programs with other rules apart, so that a tar is read again by one that leaves out less.
var rules = sync.OnceValue(func() string {
	sum := sha256.Sum256(fmt.Append(nil, runtime, stateDirs, keptIn, swapFiles))
	return hex.EncodeToString(sum[:4])
})

// leftOut decides what is not copied, and counts it.
type leftOut struct {
	exclude []string          // of the recipe
	swap    []string          // names of files that the original swaps to
	host    map[string]string // further names of folders that are left out, with the reason
	count   map[string]*tally
}

type tally struct {
	files int
	bytes int64
	first string
}

// has tells whether a file is left out; the name is relative to the root.
func (l *leftOut) has(name string, kind byte, size int64) bool {
	why, out := l.why(name, kind, size)
	if out && why != "" {
		if l.count == nil {
			l.count = map[string]*tally{}
		}
		t := l.count[why]
		if t == nil {
			t = &tally{first: name}
			l.count[why] = t
		}
		t.files++
		t.bytes += size
	}
	return out
}

func (l *leftOut) why(name string, kind byte, size int64) (string, bool) {
	for _, pattern := range l.exclude {
		if matches(pattern, name) {
			return "excluded by the recipe", true
		}
	}
	for dir, why := range l.host {
		if within(dir, name) {
			return why, true
		}
	}
	for _, r := range runtime {
		if strings.HasPrefix(name, r.dir+"/") && !slices.Contains(keptIn, name) {
			return r.why, true
		}
	}
	if kind != tar.TypeDir && slices.ContainsFunc(stateDirs, func(dir string) bool { return strings.HasPrefix(name, dir+"/") }) {
		return "", true
	}
	// Folders of logs stay, for daemons that want theirs.
	if strings.HasPrefix(name, "var/log/") && kind == tar.TypeReg {
		return "logs", true
	}
	if kind == tar.TypeReg && (slices.Contains(l.swap, name) || size >= 1<<20 && slices.Contains(swapFiles, name)) {
		return "swap", true
	}
	return "", false
}

// prunes tells that nothing below a folder is copied, so that it need not be looked at.
func (l *leftOut) prunes(dir string) bool {
	if slices.ContainsFunc(l.exclude, func(pattern string) bool { return matches(pattern, dir) }) {
		return true
	}
	for out := range l.host {
		if within(out, dir) {
			return true
		}
	}
	return slices.ContainsFunc(runtime, func(r struct{ dir, why string }) bool { return r.why == "" && within(r.dir, dir) })
}

// within tells whether name is the folder dir or below it.
func within(dir, name string) bool {
	return dir == "." || name == dir || strings.HasPrefix(name, dir+"/")
}

// matches tells whether name, or a folder that it is in, has a name that the pattern is for.
func matches(pattern, name string) bool {
	pattern = strings.Trim(path.Clean(pattern), "/")
	depth := strings.Count(pattern, "/")
	for strings.Count(name, "/") > depth {
		name = path.Dir(name)
	}
	if strings.Count(name, "/") < depth {
		return false
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// notes says what was left out, in the same order every time.
func (l *leftOut) notes() []string {
	var reasons []string
	for why := range l.count {
		reasons = append(reasons, why)
	}
	slices.Sort(reasons)
	var notes []string
	for _, why := range reasons {
		t := l.count[why]
		files := fmt.Sprintf("%d files", t.files)
		if t.files == 1 {
			files = "/" + t.first
		}
		notes = append(notes, fmt.Sprintf("not copied: %s (%s, %.1f MB)", why, files, float64(t.bytes)/1e6))
	}
	return notes
}
