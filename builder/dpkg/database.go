package dpkg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"netroot/builder/deb"
)

const (
	adminDir  = "var/lib/dpkg"
	heldDir   = adminDir + "/netroot-held" // packages that Configure gives to the root's dpkg; gone afterwards
	standIn   = "netroot-initramfs"
	standInIs = `Package: netroot-initramfs
Status: install ok installed
Priority: optional
Section: admin
Maintainer: netroot <root@localhost>
Architecture: all
Multi-Arch: foreign
Version: 1
Provides: linux-initramfs-tool
Description: stands in for initramfs-tools in a diskless root
 netroot writes the initramfs of a diskless machine outside of its root. This
 record lets kernel packages be installed without a tool that does it inside.
`
)

// StandInProvides is what the stand-in package in every assembled root provides, so that a resolver need not.
const StandInProvides = "linux-initramfs-tool"

// writeDatabase writes dpkg's records: every package is "install ok unpacked" (dpkg's lib/dpkg/dump.c and dbdir.c have
// the format; deb-triggers(5) what becomes of triggers).
func writeDatabase(r Root, sources []*source) error {
	if err := mkdirs(r.Dir, "var", "var/lib", adminDir, adminDir+"/info", adminDir+"/updates", adminDir+"/triggers",
		adminDir+"/parts", adminDir+"/alternatives"); err != nil {
		return err
	}
	admin := filepath.Join(r.Dir, adminDir)
	var status strings.Builder
	files, named := []string{}, map[string][]string{}
	native, foreign := r.Arch, []string{}
	for _, s := range sources {
		if s.arch != "all" && s.arch != native && !slices.Contains(foreign, s.arch) {
			foreign = append(foreign, s.arch)
		}
		if s.held {
			if err := hold(r, s); err != nil {
				return fmt.Errorf("package %s: %w", s.full(), err)
			}
			continue
		}
		if err := writeInfo(r.Cache, s, admin); err != nil {
			return fmt.Errorf("package %s: %w", s.full(), err)
		}
		status.WriteString(statusOf(s))
		status.WriteString("\n")
		triggers, err := os.ReadFile(filepath.Join(r.Cache.entry(s.sum), "control", "triggers"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		f, n := interests(string(triggers), s.full())
		files = append(files, f...)
		for name, lines := range n {
			named[name] = append(named[name], lines...)
		}
	}
	if needsStandIn(sources) {
		status.WriteString(standInIs + "\n")
		for ext, text := range map[string]string{"list": "/.\n", "md5sums": ""} {
			if err := writeFile(filepath.Join(admin, "info", standIn+"."+ext), text, 0o644); err != nil {
				return err
			}
		}
	}
	slices.Sort(foreign)
	texts := map[string]string{
		"status":            status.String(),
		"available":         "",
		"diversions":        "",
		"statoverride":      "",
		"info/format":       "1\n",
		"arch":              strings.Join(append([]string{native}, foreign...), "\n") + "\n",
		"arch-native":       native + "\n",
		"lock":              "",
		"lock-frontend":     "",
		"triggers/Lock":     "",
		"triggers/Unincorp": "",
		"triggers/File":     strings.Join(files, ""),
	}
	for name, lines := range named {
		texts["triggers/"+name] = strings.Join(lines, "")
	}
	for name, text := range texts {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "lock") || name == "triggers/Lock" {
			mode = 0o640
		}
		if err := writeFile(filepath.Join(admin, name), text, mode); err != nil {
			return err
		}
	}
	return nil
}

// needsStandIn tells whether a package wants an initramfs tool and none is there.
func needsStandIn(sources []*source) bool {
	if providers(sources)[StandInProvides] != nil {
		return false
	}
	for _, s := range sources {
		for _, d := range s.relations("Pre-Depends", "Depends") {
			for _, r := range d {
				if r.Name == StandInProvides {
					return true
				}
			}
		}
	}
	return false
}

// hold leaves a package for the root's dpkg.
func hold(r Root, s *source) error {
	if err := mkdirs(r.Dir, heldDir); err != nil {
		return err
	}
	return linkOrCopy(filepath.Join(r.Cache.entry(s.sum), "package.deb"), filepath.Join(r.Dir, heldDir, s.name+"_"+s.arch+".deb"))
}

// writeInfo fills info/ with the control files of a package, its file list and, when it has none, its checksums.
func writeInfo(cache Cache, s *source, admin string) error {
	base := filepath.Join(admin, "info", s.full())
	for _, name := range s.manifest.Members {
		if err := linkOrCopy(filepath.Join(cache.entry(s.sum), "control", name), base+"."+name); err != nil {
			return err
		}
	}
	var list strings.Builder
	var newest entry
	for i := range s.manifest.Entries {
		e := &s.manifest.Entries[i]
		if e.mtime().After(newest.mtime()) {
			newest = *e
		}
		if s.lost[e.Name] {
			continue
		}
		switch e.Name {
		case ".":
			list.WriteString("/.\n")
		default:
			list.WriteString("/" + e.Name + "\n")
		}
	}
	if err := writeFile(base+".list", list.String(), 0o644); err != nil {
		return err
	}
	if !slices.Contains(s.manifest.Members, "md5sums") { // even when it is empty, or dpkg --audit complains
		if err := writeFile(base+".md5sums", s.manifest.Sums, 0o644); err != nil {
			return err
		}
		return newest.stamp(base + ".md5sums")
	}
	return newest.stamp(base + ".list")
}

// statusOf is the record of an unpacked package. A conffile has the checksum of what is in place, where dpkg would write
// "newconffile" and look for a file beside it: the outcome of configuring is the same, without a rename for each.
func statusOf(s *source) string {
	var b strings.Builder
	for _, f := range s.control {
		fmt.Fprintf(&b, "%s: %s\n", f.name, f.value)
		if strings.EqualFold(f.name, "Package") {
			b.WriteString("Status: install ok unpacked\n")
		}
	}
	if len(s.manifest.Order) > 0 {
		wrote := false
		for _, name := range s.manifest.Order {
			// A conffile that is not in data.tar, or that another package took over, is none.
			if sum := s.manifest.Conffiles[name]; sum != "" && !s.lost[strings.TrimPrefix(name, "/")] {
				if !wrote {
					b.WriteString("Conffiles:\n")
					wrote = true
				}
				fmt.Fprintf(&b, " %s %s\n", name, sum)
			}
		}
	}
	return b.String()
}

// interests reads a package's triggers file: the paths and the names it wants to hear of, as lines of triggers/File
// and of triggers/<name>.
func interests(text, pkg string) (files []string, named map[string][]string) {
	named = map[string][]string{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) != 2 {
			continue
		}
		who := pkg
		switch words[0] {
		case "interest", "interest-await":
		case "interest-noawait":
			who += "/noawait"
		default:
			continue // "activate" is read by dpkg --configure
		}
		if strings.HasPrefix(words[1], "/") {
			files = append(files, words[1]+" "+who+"\n")
		} else if deb.ValidName(words[1]) {
			named[words[1]] = append(named[words[1]], who+"\n")
		}
	}
	return files, named
}
