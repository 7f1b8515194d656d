package check

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

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

// clock finds what sets the clock wrong, so that certificates, tickets and signed answers of name servers are too new or too old: a
// correction that was measured on another machine's clock, and a time of systemd's that is still to come.
func clock(root fs.FS) (string, string, Severity) {
	if f := strings.Fields(strings.Join(readLines(root, "etc/adjtime"), " ")); len(f) > 0 { // hwclock(8)
		if drift, err := strconv.ParseFloat(f[0], 64); err == nil && drift != 0 {
			return fmt.Sprintf("/etc/adjtime corrects the clock by %s seconds a day", f[0]), "that was measured on another machine's clock; remove the file, or write `0.0 0 0.0`, `0` and `UTC` (or LOCAL) into it", Warning
		}
	}
	// systemd takes the newer of the two for the time when the clock is behind it (src/basic/clock-util.c, timesyncd).
	for _, name := range []string{"var/lib/systemd/timesync/clock", "usr/lib/clock-epoch"} {
		if info, err := tree.Stat(root, name); err == nil && info.ModTime().After(time.Now().Add(24*time.Hour)) {
			return fmt.Sprintf("/%s is of %s, which is in the future, and sets the clock", name, info.ModTime().UTC().Format(time.DateOnly)), "certificates would have expired, or not; remove the file", Warning
		}
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
	if keys := tree.Glob(root, "etc/ssh", "ssh_host_*_key"); keys != nil {
		return "SSH host keys are in the image: /" + few(keys), "everybody on the network can read them; remove them, each machine makes its own at boot", Warning
	}
	return "", "", ""
}
