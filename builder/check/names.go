package check

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"netroot/builder/elf"
	"netroot/builder/tree"
)

// resolvConf must be a place that DHCP's answer can be written to.
func resolvConf(root fs.FS) (string, string, Severity) {
	at, err := tree.ResolveParent(root, "etc/resolv.conf")
	var info fs.FileInfo
	if err == nil {
		info, err = fs.Lstat(root, at)
	}
	if err != nil {
		return "/etc/resolv.conf is missing", "no package owns it; an empty file is enough, DHCP's answer is written into it at boot", Warning
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		if info.Mode().Perm()&0o044 != 0o044 {
			return fmt.Sprintf("/etc/resolv.conf has mode %#o", info.Mode().Perm()), "only root could resolve names; make it 0644", Error
		}
		return "", "", ""
	}
	target, err := fs.ReadLink(root, at)
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
	if !slices.Contains(sources, "files") && !slices.Contains(sources, "myhostname") && !slices.Contains(sources, "resolve") {
		return "the `hosts:` line of /etc/nsswitch.conf does not ask files: " + strings.Join(sources, " "), "localhost and the machine's own name will not resolve; add `files` to it", Error
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

// nameModules finds modules of the name service switch that are there and cannot be loaded: for another processor, or with a library
// missing.
func nameModules(root fs.FS) (string, string, Severity) {
	shell, err := elf.Resolve(root, "/bin/sh")
	if err != nil {
		return "", "", ""
	}
	at := slices.IndexFunc(shell.Files, func(name string) bool { return path.Base(name) == "libc.so.6" })
	if at < 0 {
		return "", "", ""
	}
	libc := shell.Files[at]
	kind, err := elf.Kind(root, libc)
	if err != nil {
		return "", "", ""
	}
	asked := map[string]bool{}
	for _, line := range readLines(root, "etc/nsswitch.conf") {
		database, sources, _ := strings.Cut(line, ":")
		switch database {
		case "passwd", "group", "shadow", "hosts":
		default:
			continue
		}
		for _, source := range strings.Fields(sources) {
			module := "libnss_" + source + ".so.2"
			if asked[module] || strings.HasPrefix(source, "[") {
				continue
			}
			asked[module] = true
			for _, dir := range []string{path.Dir(libc), "lib", "lib64", "usr/lib", "usr/lib64"} {
				name := path.Join(dir, module)
				have, err := elf.Kind(root, name)
				if err != nil {
					continue
				}
				if have != kind {
					if dir == path.Dir(libc) || !tree.Exists(root, path.Join(path.Dir(libc), module)) {
						return fmt.Sprintf("/%s, which `%s:` in /etc/nsswitch.conf needs, is a %s library, and the C library a %s one", name, database, have, kind), "install the package it is in for the root's own architecture", Error
					}
					continue
				}
				if _, err := elf.Resolve(root, name); err != nil {
					return fmt.Sprintf("`%s:` in /etc/nsswitch.conf needs a module that cannot be loaded: %v", database, err), "install the library, or take `" + source + "` out of the line", Error
				}
				break
			}
		}
	}
	return "", "", ""
}

// hosts must have the name that everything local is reached by.
func hosts(root fs.FS) (string, string, Severity) {
	for _, line := range readLines(root, "etc/hosts") {
		if f := strings.Fields(line); strings.HasPrefix(f[0], "127.") && slices.Contains(f[1:], "localhost") {
			return "", "", ""
		}
	}
	return "/etc/hosts has no line for localhost", "no package owns the file; write `127.0.0.1 localhost` into it", Warning
}

// hostWords are those that host.conf(5) has, or had: glibc passes over "order" (nsswitch.conf says it), and over those against spoofing.
var hostWords = []string{"order", "trim", "multi", "reorder", "spoof", "nospoof", "spoofalert"}

// hostConf finds what the C library's resolver does not understand: every program that asks for a name complains then.
func hostConf(root fs.FS) (string, string, Severity) {
	for _, line := range readLines(root, "etc/host.conf") {
		if f := strings.Fields(line); !slices.Contains(hostWords, f[0]) {
			return fmt.Sprintf("/etc/host.conf has a line that the C library does not understand: %q", line), "whatever resolves a name writes a complaint, into its output, too; take the line out", Warning
		} else if v := f[len(f)-1]; (f[0] == "multi" || f[0] == "reorder") && v != "on" && v != "off" {
			return fmt.Sprintf("/etc/host.conf says %q, and the C library knows on and off", line), "whatever resolves a name writes a complaint, into its output, too; write `multi on`", Warning
		}
	}
	return "", "", ""
}

// nameCache finds answers that a name service cache daemon kept, on another machine, for another network.
func nameCache(root fs.FS) (string, string, Severity) {
	for _, name := range []string{"var/db/nscd/hosts", "var/cache/nscd/hosts", "var/run/nscd/socket", "run/nscd/socket", "var/lib/sss/mc/passwd", "var/lib/sss/pipes/nss"} {
		if tree.Exists(root, name) {
			return "/" + name + " is in the image", "answers of another machine, or a daemon that does not run, are asked before DNS; remove it", Warning
		}
	}
	return "", "", ""
}

// libraryCache finds libraries that only a folder of ld.so.conf has and that the cache does not know: programs that need them would
// not start, name service modules among them. ldconfig writes the cache when the C library is configured.
func libraryCache(root fs.FS) (string, string, Severity) {
	dirs, err := elf.ConfDirs(root)
	if err != nil || len(dirs) == 0 {
		return "", "", ""
	}
	cache, err := tree.ReadFile(root, "etc/ld.so.cache")
	var unknown []string
	for _, dir := range dirs {
		for _, name := range tree.Glob(root, strings.TrimPrefix(dir, "/"), "lib*.so.*") {
			if _, kindErr := elf.Kind(root, name); kindErr != nil {
				continue
			}
			if err != nil {
				return "/etc/ld.so.cache is missing, and /etc/ld.so.conf names folders with libraries: /" + name, "the C library's scriptlet did not run; run ldconfig in the root (`hooks`)", Error
			}
			// A library of several names is in the cache by the one that it has for itself.
			soname, ok := elf.SOName(root, name)
			if ok && soname == path.Base(name) && !bytes.Contains(cache, []byte("/"+soname+"\x00")) {
				unknown = append(unknown, "/"+name)
			}
		}
	}
	if unknown == nil {
		return "", "", ""
	}
	return "/etc/ld.so.cache does not know " + few(unknown), "it is older than the libraries; run ldconfig in the root (`hooks`)", Error
}
