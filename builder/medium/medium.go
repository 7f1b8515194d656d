// Package medium finds what an ISO boots over the network: its kernel and initrd, and of what kind they are, by the places where live
// systems and installers have them. It only looks; it knows Ubuntu's live systems and installers (casper), Debian's (live-boot)
// and those of others that use it, the Debian installer, anaconda and the live systems of the RPM family, and memtest86+.
package medium

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"netroot/builder/kmod"
	"netroot/builder/store"
)

// A place is where one kind of medium has its kernel, and the initrds that go with it, the usual one first. Both are patterns of
// path.Match; in an initrd, * stands for what the kernel's own name has there.
type place struct {
	family  string
	kernel  string
	initrds []string
}

// places in the order in which they count: a medium can be of several kinds, as Ubuntu's that has a pool of packages, too.
var places = []place{
	{store.Casper, "casper/vmlinuz", []string{"casper/initrd", "casper/initrd.lz", "casper/initrd.gz"}},
	{store.Casper, "casper/vmlinuz.efi", []string{"casper/initrd.lz", "casper/initrd.gz", "casper/initrd"}}, // desktop until 18.04
	{store.Casper, "casper/hwe-vmlinuz", []string{"casper/hwe-initrd"}},
	{store.Live, "live/vmlinuz", []string{"live/initrd.img", "live/initrd"}},
	{store.Live, "live/vmlinuz-*", []string{"live/initrd.img-*", "live/initrd-*.img"}},
	{store.DracutLive, "images/pxeboot/vmlinuz", []string{"images/pxeboot/initrd.img"}},
	{store.DebianInstaller, "install.amd/vmlinuz", []string{"install.amd/initrd.gz"}},
	{store.DebianInstaller, "install.a64/vmlinuz", []string{"install.a64/initrd.gz"}},
	{store.DebianInstaller, "install.386/vmlinuz", []string{"install.386/initrd.gz"}},
	{store.DebianInstaller, "install/vmlinuz", []string{"install/initrd.gz"}},
	{store.DebianInstaller, "linux", []string{"initrd.gz"}}, // mini.iso
	{store.Memtest, "boot/memtest*", nil},
	{store.Memtest, "boot/mt86plus*", nil},
	{store.Memtest, "memtest*", nil},
}

// Find finds what the ISO boots, or takes the kernel and initrd that are named. The result has Family, Kernel, Initrd and Live. size
// is the ISO's own.
func Find(iso fs.FS, kernel, initrd string) (store.Medium, error) {
	kernel, initrd = strings.Trim(kernel, "/"), strings.Trim(initrd, "/")
	m := store.Medium{Family: store.Other, Kernel: kernel, Initrd: initrd}
	if kernel != "" {
		if err := isFile(iso, kernel); err != nil {
			return m, fmt.Errorf("the kernel that the recipe names: %w", err)
		}
	}
	found := false
	for _, p := range places {
		k, ok := p.match(iso, kernel)
		if !ok {
			continue
		}
		found, m.Family, m.Kernel = true, p.family, k
		if m.Initrd == "" {
			i, ok := p.initrd(iso, k)
			if !ok && p.initrds != nil {
				return m, fmt.Errorf("it has the kernel %s, and no initrd for it (looked for %s); name it with initrd: in the recipe", k, strings.Join(p.initrds, ", "))
			}
			m.Initrd = i
		}
		break
	}
	switch {
	case kernel == "" && !found:
		return m, fmt.Errorf("it has no kernel where one was expected (%s)%s; name it in the recipe with kernel: and initrd: below iso", strings.Join(kernels(), ", "), contents(iso))
	case m.Initrd != "":
		if err := isFile(iso, m.Initrd); err != nil {
			return m, fmt.Errorf("the initrd: %w", err)
		}
	}
	if !found { // a kernel of another place does not make the medium another one
		m.Family = familyOf(iso)
	}
	if m.Family == store.DracutLive && installs(iso) {
		m.Family = store.Anaconda
	}
	m.Old = m.Family == store.Anaconda && oldAnaconda(iso)
	switch m.Family {
	case store.Live:
		m.Live = first(iso, "live/filesystem.squashfs", "live/*.squashfs")
	case store.DracutLive:
		m.Live = first(iso, "LiveOS/squashfs.img")
	}
	return m, nil
}

// match finds the kernel of a place; when one is named, only that.
func (p place) match(iso fs.FS, named string) (string, bool) {
	if named != "" {
		ok, err := path.Match(p.kernel, named)
		return named, ok && err == nil
	}
	names := matches(iso, p.kernel)
	if len(names) == 0 {
		return "", false
	}
	return slices.MaxFunc(names, kmod.CompareReleases), true
}

// initrd finds the initrd that belongs to a kernel.
func (p place) initrd(iso fs.FS, kernel string) (string, bool) {
	before, after, star := strings.Cut(p.kernel, "*")
	version := ""
	if star {
		version = strings.TrimSuffix(strings.TrimPrefix(kernel, before), after)
	}
	for _, name := range p.initrds {
		if name = strings.Replace(name, "*", version, 1); isFile(iso, name) == nil {
			return name, true
		}
	}
	return "", false
}

// familyOf tells by its folders what a medium is.
func familyOf(iso fs.FS) string {
	for _, p := range places {
		folder := path.Dir(p.kernel)
		if info, err := fs.Stat(iso, folder); err == nil && info.IsDir() && folder != "." && folder != "boot" {
			return p.family
		}
	}
	return store.Other
}

// installs tells an installer of the RPM family from a live system: it has packages, or says what it is.
func installs(iso fs.FS) bool {
	return first(iso, ".treeinfo", ".discinfo", "repodata/repomd.xml", "images/install.img") != ""
}

// oldAnaconda tells the anaconda of before Fedora 17 and EL7, whose options have no inst. in front.
func oldAnaconda(iso fs.FS) bool {
	data, err := fs.ReadFile(iso, ".treeinfo")
	if err != nil {
		return false
	}
	family, version := "", ""
	for scan := bufio.NewScanner(bytes.NewReader(data)); scan.Scan(); {
		key, value, _ := strings.Cut(scan.Text(), "=")
		switch strings.TrimSpace(key) {
		case "family", "name":
			family += value
		case "version":
			version = strings.TrimSpace(value)
		}
	}
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	switch {
	case err != nil:
		return false
	case strings.Contains(family, "Fedora"):
		return n < 17
	}
	return n < 7
}

func kernels() []string {
	var list []string
	for _, p := range places {
		list = append(list, p.kernel)
	}
	return list
}

// contents names what there is instead.
func contents(iso fs.FS) string {
	entries, err := fs.ReadDir(iso, ".")
	if err != nil || len(entries) == 0 {
		return ""
	}
	var names []string
	for _, e := range entries[:min(len(entries), 12)] {
		names = append(names, e.Name())
	}
	return ", but at its top " + strings.Join(names, ", ")
}

// matches lists the regular files of a pattern.
func matches(iso fs.FS, pattern string) []string {
	names, err := fs.Glob(iso, pattern)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(names, func(n string) bool { return isFile(iso, n) != nil })
}

func first(iso fs.FS, patterns ...string) string {
	for _, p := range patterns {
		if names := matches(iso, p); len(names) > 0 {
			return names[0]
		}
	}
	return ""
}

func isFile(iso fs.FS, name string) error {
	info, err := fs.Stat(iso, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("it has no file %s", name)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", name)
	}
	return nil
}

// KernelRelease reads the release of a kernel for PCs from its image; "" when it does not say. The header is described in
// Documentation/arch/x86/boot.rst.
func KernelRelease(kernel []byte) string {
	if len(kernel) < 0x210 || string(kernel[0x202:0x206]) != "HdrS" {
		return ""
	}
	at := 0x200 + int(kernel[0x20e]) + int(kernel[0x20f])<<8
	if at == 0x200 || at >= len(kernel) {
		return ""
	}
	text, _, ok := bytes.Cut(kernel[at:min(len(kernel), at+128)], []byte{0})
	word, _, _ := strings.Cut(string(text), " ")
	if !ok || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return word
}
