package check

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"

	"netroot/builder/tree"
)

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
	if len(missing) == 1 && missing[0] == "/run" {
		// Systems older than the folder (EL6) boot, but cannot be told what the initramfs found out.
		return "/run missing", "make the folder: the lease of the address is handed over in it; netroot build does", Warning
	}
	return strings.Join(missing, ", ") + " missing", "a package that makes the basic folders (base-files, filesystem) is not installed", Error
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

func machineID(root fs.FS) (string, string, Severity) {
	data, err := tree.ReadFile(root, "etc/machine-id")
	if err == nil && len(bytes.TrimSpace(data)) > 0 && string(bytes.TrimSpace(data)) != "uninitialized" {
		return "/etc/machine-id is set", "all machines of this image would have the same; leave it empty", Warning
	}
	return "", "", ""
}

// selinux would have init load a policy that needs labels, which a root over NFS version 3 has not.
func selinux(s subject) (string, string, Severity) {
	for _, word := range s.Cmdline {
		if word == "selinux=0" || word == "enforcing=0" {
			return "", "", ""
		}
	}
	if value(s.root, "etc/selinux/config", "SELINUX") == "enforcing" {
		return "/etc/selinux/config says SELINUX=enforcing", "a root over NFS version 3 has no labels, and init would stop; write disabled there, or selinux=0 to `kernel: cmdline:`", Error
	}
	return "", "", ""
}

func sshHostKeys(root fs.FS) (string, string, Severity) {
	if keys := glob(root, "etc/ssh", "ssh_host_*_key"); keys != nil {
		return "SSH host keys are in the image: /" + few(keys), "everybody on the network can read them; remove them, each machine makes its own at boot", Warning
	}
	return "", "", ""
}
