package check

import (
	"fmt"
	"io/fs"
	"strings"

	"netroot/builder/elf"
	"netroot/builder/initramfs"
	"netroot/builder/kmod"
)

// inits are where the initramfs looks for one.
var inits = []string{"sbin/init", "etc/init", "bin/init"}

func initProgram(root fs.FS) (string, string, Severity) {
	for _, name := range inits {
		if executable(root, name) {
			return "", "", ""
		}
	}
	return "no /sbin/init that can be run", "add systemd-sysv or another init to `packages`", Error
}

func kernel(s subject) (string, string, Severity) {
	if _, _, err := initramfs.Kernel(s.root, s.Kernel); err != nil {
		return err.Error(), "add a kernel to `packages` (linux-image-amd64, linux-image-686)", Error
	}
	return "", "", ""
}

func nfsModules(s subject) (string, string, Severity) {
	root := s.root
	_, release, err := initramfs.Kernel(root, s.Kernel)
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

// nicDriver finds network cards that the kernel has no driver for, or that it has none for any.
func nicDriver(s subject) (string, string, Severity) {
	_, release, err := initramfs.Kernel(s.root, s.Kernel)
	if err != nil {
		return "", "", ""
	}
	modules, err := kmod.Open(s.root, release)
	if err != nil {
		return "", "", ""
	}
	if !modules.DrivesCards() {
		return fmt.Sprintf("kernel %s has no driver for any wired network card, built in or loadable", release), "install the kernel's whole package, with its modules", Error
	}
	var without []string
	for _, id := range s.PCI {
		vendor, device, _ := strings.Cut(strings.ToUpper(id), ":")
		// What a card of class 0x020000 (Ethernet) says of itself; drivers that ask for a subsystem are asked for any.
		alias := fmt.Sprintf("pci:v%08sd%08ssv00000000sd00000000bc02sc00i00", vendor, device)
		if !modules.Drives(alias) {
			without = append(without, id)
		}
	}
	if without == nil {
		return "", "", ""
	}
	return fmt.Sprintf("kernel %s has no driver for the PCI device %s", release, few(without)), "take a kernel that has one, or another card", Error
}

// starters run before anything else does.
var starters = append([]string{"bin/sh"}, inits...)

// kernelABI finds a C library that refuses to run on the root's own kernel, with "FATAL: kernel too old".
func kernelABI(s subject) (string, string, Severity) {
	root := s.root
	_, release, err := initramfs.Kernel(root, s.Kernel)
	if err != nil {
		return "", "", ""
	}
	for _, name := range starters {
		if !executable(root, name) {
			continue
		}
		closure, err := elf.Resolve(root, name)
		if err != nil {
			continue // told by name-service, or a script
		}
		for _, file := range closure.Files {
			least, ok := elf.LeastKernel(root, file)
			if ok && kmod.CompareReleases(release, least) < 0 {
				return fmt.Sprintf("/%s runs on Linux %s or newer, and the root's kernel is %s", file, least, release), "kernel and C library must be of one distribution and release", Error
			}
		}
	}
	return "", "", ""
}

// wordSize finds an init that is for another processor than the shell: packages of two architectures were mixed.
func wordSize(root fs.FS) (string, string, Severity) {
	shell, err := elf.Kind(root, "bin/sh")
	if err != nil {
		return "", "", ""
	}
	for _, name := range []string{"sbin/init", "bin/mount", "sbin/modprobe", "sbin/ip", "usr/bin/rpm", "usr/bin/dpkg"} {
		if kind, err := elf.Kind(root, name); err == nil && kind != shell {
			return fmt.Sprintf("/%s is a %s program, and /bin/sh a %s one", name, kind, shell), "install the packages of one architecture (`arch` in the recipe)", Error
		}
	}
	return "", "", ""
}
