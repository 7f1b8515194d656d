package chroot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PID 1 lives on an otherwise empty tmpfs that holds the merged tree twice: with the session's mounts over it, for
// the programs, which are chrooted into it; and bare. Programs in a real chroot, whose PID 1 has another root, are what
// Debian's scripts know how to treat (ischroot(1), systemctl's "Running in chroot, ignoring request").
const (
	liveDir = "/live"
	treeDir = "/tree"
)

// A mount is one line of the plan, with its target below the live tree.
type mountpoint struct {
	source, target, kind string
	flags                uintptr
	data                 string
	mode                 os.FileMode // of the folder when it has to be made
}

const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

var mountPlan = []mountpoint{
	{"proc", "/proc", "proc", safe, "", 0o755},
	{"sysfs", "/sys", "sysfs", safe | unix.MS_RDONLY, "", 0o755},
	{"netroot-dev", "/dev", "tmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755,size=4m", 0o755},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5", 0o755},
	{"netroot-shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", 0o755},
	{"netroot-run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755", 0o755},
	{"netroot-tmp", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", 0o755},
}

var devices = []struct {
	name         string
	mode         uint32
	major, minor uint32
}{
	{"null", 0o666, 1, 3}, {"zero", 0o666, 1, 5}, {"full", 0o666, 1, 7}, {"random", 0o666, 1, 8},
	{"urandom", 0o666, 1, 9}, {"tty", 0o666, 5, 0}, {"console", 0o600, 5, 1},
}

var deviceLinks = [][2]string{
	{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"},
	{"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
}

// enter builds the root of the session and moves PID 1 there. The note is something the user may want to know.
func enter(set setup) (note string, err error) {
	step := func(what string, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	if err := step("make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
		return "", err
	}
	if err := step("set host name", unix.Sethostname([]byte(set.Hostname))); err != nil {
		return "", err
	}
	if err := step("enter the work folder", os.Chdir(set.Work)); err != nil {
		return "", err
	}
	if err := step("mount tmpfs", unix.Mount("netroot", "mnt", "tmpfs", unix.MS_NOSUID, "mode=0755,size=1m")); err != nil {
		return "", err
	}
	for _, dir := range []string{liveDir, treeDir} {
		if err := os.Mkdir("mnt"+dir, 0o755); err != nil {
			return "", err
		}
	}
	if note, err = overlay(set.Lower, "mnt"+treeDir); err != nil {
		return "", err
	}
	if err := step("bind the tree", unix.Mount("mnt"+treeDir, "mnt"+liveDir, "", unix.MS_BIND, "")); err != nil {
		return "", err
	}
	// Device files have to be copied from the host where mknod is forbidden, so /dev is filled before the host is gone.
	for _, m := range mountPlan {
		target := "mnt" + liveDir + m.target
		if st, err := os.Lstat(target); errors.Is(err, os.ErrNotExist) {
			if err := os.Mkdir(target, m.mode); err != nil {
				return "", err
			}
		} else if err != nil {
			return "", err
		} else if !st.IsDir() {
			// A link would lead the mount elsewhere.
			return "", fmt.Errorf("%s in the root is not a folder but %s: make it one", m.target, st.Mode().Type())
		}
		if err := step("mount "+m.target, unix.Mount(m.source, target, m.kind, m.flags, m.data)); err != nil {
			return "", err
		}
	}
	if err := fillDev("mnt" + liveDir + "/dev"); err != nil {
		return "", err
	}
	if err := os.Chdir("mnt"); err != nil {
		return "", err
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root is stacked over the new one and then taken off.
	if err := step("pivot_root", unix.PivotRoot(".", ".")); err != nil {
		return "", err
	}
	if err := step("leave the host's root", unix.Unmount(".", unix.MNT_DETACH)); err != nil {
		return "", err
	}
	return note, step("enter the new root", os.Chdir("/"))
}

// overlay mounts the tree. The lower folders, uppermost first, are named by descriptor: a path may hold the commas and colons that
// separate options.
func overlay(lower []string, target string) (note string, err error) {
	var names []string
	for _, dir := range lower {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		defer unix.Close(fd)
		names = append(names, fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	base := "lowerdir=" + strings.Join(names, ":") + ",upperdir=" + upperDir + ",workdir=work"
	// metacopy: a chmod or chown of a large file copies no data. redirect_dir: a folder can be renamed in place.
	// index stays off, so a hard link that is written to is split from its sisters.
	for _, extra := range []string{
		",volatile,redirect_dir=on,metacopy=on,index=off",
		",volatile",
		"",
	} {
		if err = unix.Mount("overlay", target, "overlay", 0, base+extra); err == nil {
			if extra == "" {
				note = "this kernel has no volatile overlay (it needs Linux 5.10): configuring will be slower"
			}
			return note, nil
		}
		if errors.Is(err, unix.ENODEV) {
			return "", errors.New("this kernel has no overlay file system: run modprobe overlay, or build on another machine")
		}
		if !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	return "", fmt.Errorf("mount overlay: %w (the work folder must lie on a local file system with extended "+
		"attributes, such as ext4, xfs, btrfs or tmpfs; dmesg has the kernel's reason)", err)
}

// fillDev makes the devices that scripts expect and no others.
func fillDev(dev string) error {
	for _, d := range devices {
		name := dev + "/" + d.name
		err := unix.Mknod(name, unix.S_IFCHR|d.mode, int(unix.Mkdev(d.major, d.minor)))
		if errors.Is(err, unix.EPERM) {
			// No CAP_MKNOD, as in many containers: lend the host's own.
			if err = os.WriteFile(name, nil, 0o600); err == nil {
				err = unix.Mount("/dev/"+d.name, name, "", unix.MS_BIND, "")
			}
		} else if err == nil {
			err = unix.Chmod(name, d.mode) // the umask took bits away
		}
		if err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	for _, l := range deviceLinks {
		if err := os.Symlink(l[0], dev+"/"+l[1]); err != nil {
			return err
		}
	}
	return nil
}

// leave ends every other process and takes the mounts off in order. The kernel would do both when PID 1 exits, but
// the unmounting only some time later.
func leave() {
	unix.Kill(-1, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			break // ECHILD: nobody is left
		}
	}
	for i := len(mountPlan) - 1; i >= 0; i-- {
		unix.Unmount(liveDir+mountPlan[i].target, unix.MNT_DETACH)
	}
	unix.Unmount(liveDir, unix.MNT_DETACH)
	unix.Unmount(treeDir, unix.MNT_DETACH)
}

// Debian's invoke-rc.d asks this program before it starts, stops or restarts anything; 101 is "forbidden by policy"
// (/usr/share/doc/init-system-helpers/README.policy-rc.d.gz). It is there only while a program runs, so that no tree
// and no image ever holds it.
const (
	policyPath   = liveDir + "/usr/sbin/policy-rc.d"
	policyAside  = policyPath + ".netroot-aside"
	policyFolder = liveDir + "/usr/sbin"
)

var policyScript = []byte("#!/bin/sh\n# netroot: no service is started while an image is built\nexit 101\n")

// denyServices puts the policy in place. A root without /usr/sbin has no invoke-rc.d either.
func denyServices() error {
	st, err := os.Stat(policyFolder)
	if err != nil {
		return nil
	}
	defer os.Chtimes(policyFolder, time.Time{}, st.ModTime())
	if old, err := os.ReadFile(policyPath); err == nil && !bytes.Equal(old, policyScript) {
		if err := os.Rename(policyPath, policyAside); err != nil {
			return fmt.Errorf("put the root's own policy-rc.d aside: %w", err)
		}
	}
	if err := os.WriteFile(policyPath, policyScript, 0o755); err != nil {
		return fmt.Errorf("forbid services: %w", err)
	}
	return nil
}

// allowServices takes the policy away again and puts the root's own back, unless a program replaced ours by its own.
func allowServices() {
	st, err := os.Stat(policyFolder)
	if err != nil {
		return
	}
	defer os.Chtimes(policyFolder, time.Time{}, st.ModTime())
	if now, err := os.ReadFile(policyPath); err == nil && bytes.Equal(now, policyScript) {
		os.Remove(policyPath)
	}
	if _, err := os.Lstat(policyAside); err == nil {
		os.Rename(policyAside, policyPath)
	}
}
