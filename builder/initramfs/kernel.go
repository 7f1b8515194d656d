package initramfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"netroot/builder/kmod"
	"netroot/builder/tree"
)

// Kernel finds the kernel of a root: of the given release, or with "" the newest that has both an image and modules.
// It returns the image's path without leading slash.
func Kernel(root fs.FS, release string) (file, rel string, err error) {
	if release != "" {
		for _, f := range kernelFiles(release) {
			if p, err := tree.Resolve(root, f); err == nil {
				return p, release, nil
			}
		}
		return "", "", fmt.Errorf("the root has no kernel %s: neither %s", release, strings.Join(kernelFiles(release), " nor "))
	}
	releases, err := kmod.Releases(root)
	if err != nil {
		return "", "", err
	}
	for i := len(releases) - 1; i >= 0; i-- {
		for _, f := range kernelFiles(releases[i]) {
			if p, err := tree.Resolve(root, f); err == nil {
				return p, releases[i], nil
			}
		}
	}
	if len(releases) == 0 {
		return "", "", errors.New("the root has no kernel: /lib/modules is empty; add a kernel to the packages (linux-image-amd64, kernel)")
	}
	return "", "", fmt.Errorf("the root has modules for %s, but no kernel image /boot/vmlinuz-%s", strings.Join(releases, ", "), releases[len(releases)-1])
}

func kernelFiles(release string) []string {
	return []string{
		path.Join("boot", "vmlinuz-"+release),
		path.Join("usr/lib/modules", release, "vmlinuz"),
		path.Join("lib/modules", release, "vmlinuz"),
		path.Join("boot", "vmlinux-"+release),
		path.Join("boot", "Image-"+release),
	}
}

// config returns the value of one option of the kernel's configuration, or "" when it is off or not known.
func config(root fs.FS, release, option string) string {
	for _, f := range []string{"boot/config-" + release, "lib/modules/" + release + "/config", "usr/lib/modules/" + release + "/config"} {
		b, err := tree.ReadFile(root, f)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), option+"="); ok {
				return v
			}
		}
		return ""
	}
	return ""
}
