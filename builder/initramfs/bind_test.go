package initramfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

// bound makes a root, binds its folders as /init does, in a mount namespace that ends with the shell, and returns what the shell said.
func bound(t *testing.T, shell []string, size, folders, script string, prepare func(root string) error) (said string, code int) {
	t.Helper()
	dir := t.TempDir()
	root, run := filepath.Join(dir, "root"), filepath.Join(dir, "run")
	for _, d := range []string{"etc", "var/lib/empty", "usr/lib/netroot", "tmp", "outside"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := os.MkdirAll(filepath.Join(run, "netroot"), 0o755)
	if folders != "" {
		err = errors.Join(err, os.WriteFile(filepath.Join(root, "usr/lib/netroot/folders"), []byte(folders), 0o644))
	}
	if err := errors.Join(err, prepare(root)); err != nil {
		t.Fatal(err)
	}
	moved := writeInit(t, "/run/", run+"/", "new=/sysroot ", "new="+root+" ")
	// The root is read-only, as a root over NFS is.
	all := "set -e; mount --make-rprivate /; mount --bind " + root + " " + root + "; mount -o remount,bind,ro " + root + "; set +e\n" +
		". " + moved + "; init_defaults; overlay=bind:size=" + size + "; mount_overlay\ncd " + root + "\n" + script
	cmd := exec.Command(shell[0], append(shell[1:], "-c", all, "test")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(out), dir, "DIR"), cmd.ProcessState.ExitCode()
}

// What the folders hold is in the copies as it was; they can be written to, the rest cannot.
func TestBind(t *testing.T) {
	need.Patience(t)
	need.Root(t)
	prepare := func(root string) error {
		at := func(name string) string { return filepath.Join(root, name) }
		old := syscall.Umask(0)
		defer syscall.Umask(old)
		return errors.Join(
			os.WriteFile(at("etc/shadow"), []byte("secret\n"), 0o600), os.Chown(at("etc/shadow"), 0, 42),
			os.WriteFile(at("etc/tool"), nil, 0o755), os.Chown(at("etc/tool"), 5, 6), os.Chmod(at("etc/tool"), 0o755|os.ModeSetuid),
			os.Symlink("/outside", at("etc/away")), os.Link(at("etc/shadow"), at("etc/shadow-")),
			unix.Mknod(at("var/lib/fifo"), unix.S_IFIFO|0o620, 0), unix.Mknod(at("var/lib/zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))),
			unix.Mknod(at("var/lib/sock"), unix.S_IFSOCK|0o666, 0),
			unix.Setxattr(at("etc/tool"), "trusted.netroot", []byte("kept"), 0),
			os.Chown(at("var"), 7, 8), os.Chmod(at("tmp"), 0o777|os.ModeSticky),
			os.Symlink("/outside", at("home")),
		)
	}
	const script = `stat -c '%n %a %u:%g %F %h' etc/shadow etc/tool etc/away var var/lib/fifo var/lib/zero var/lib/sock tmp
echo changed >etc/new && cat etc/shadow etc/new
for f in tmp/x var/x var/lib/empty/x; do : >$f && echo "$f can be written"; done
touch usr/x 2>/dev/null || echo usr cannot
touch outside/x 2>/dev/null || echo outside cannot`
	want := `etc/shadow 600 0:42 regular file 2
etc/tool 4755 5:6 regular empty file 1
etc/away 777 0:0 symbolic link 1
var 755 7:8 directory 3
var/lib/fifo 620 0:0 fifo 1
var/lib/zero 666 0:0 character special file 1
var/lib/sock 666 0:0 socket 1
tmp 1777 0:0 directory 2
secret
changed
tmp/x can be written
var/x can be written
var/lib/empty/x can be written
usr cannot
outside cannot
`
	for _, shell := range shells(t) {
		for folders, said := range map[string]string{
			"":                                  "netroot: nothing can be written to /root: it is no folder of the root\nnetroot: nothing can be written to /home: it is no folder of the root\n",
			"# a comment\n/etc\n/var\n\n/tmp\n": "",
			"/etc\n/var\n/tmp\n/home\n":         "netroot: nothing can be written to /home: it is no folder of the root\n",
		} {
			got, code := bound(t, shell, "16m", folders, script, prepare)
			if strings.ReplaceAll(got, "weird file", "socket") != said+want || code != 0 {
				t.Errorf("%s, folders %q: exit code %d\n%s\nwant\n%s", shell[0], folders, code, got, said+want)
			}
		}
	}
	// cp of coreutils keeps extended attributes; busybox cannot.
	got, _ := bound(t, []string{"sh"}, "16m", "", "getfattr -h -n trusted.netroot --only-values etc/tool 2>/dev/null || python3 -c 'import os; print(os.getxattr(\"etc/tool\", \"trusted.netroot\").decode(), end=\"\")'", prepare)
	if !strings.HasSuffix(got, "\nkept") {
		t.Errorf("the extended attribute: %s", got)
	}
}

// A folder that does not fit is named, with the way out; the machine does not go on with half of it.
func TestBindDoesNotFit(t *testing.T) {
	need.Root(t)
	for _, shell := range shells(t) {
		got, code := bound(t, shell, "1m", "/etc\n/var\n", "echo went on", func(root string) error {
			return os.WriteFile(filepath.Join(root, "var/large"), make([]byte, 3<<20), 0o644)
		})
		if code != 1 || !strings.Contains(got, "netroot: cannot go on: /var of the root does not fit into the memory for changes (1m of ") ||
			!strings.Contains(got, "netroot: what to do: allow more with size:") || !strings.Contains(got, "take /var out of folders:") || strings.Contains(got, "went on") {
			t.Errorf("%s: exit code %d, said\n%s", shell[0], code, got)
		}
	}
}
