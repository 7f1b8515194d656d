// Package foreign lets tests run programs for 32-bit x86 on machines whose kernel does not: it registers QEMU's user mode emulation
// with binfmt_misc while a test runs. Building a 32-bit root then works as it does elsewhere, only slower.
//
// The rule is the kernel's, so every program of the machine sees it for that time. It has a name of its own and goes with the last test
// that uses it.
package foreign

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"netroot/builder/chroot"
	"netroot/builder/need"
)

const (
	rule     = "netroot-i386"
	emulator = "/usr/bin/qemu-i386-static"
)

// registration is the line for the register file of binfmt_misc (Documentation/admin-guide/binfmt-misc.rst): the first 20 bytes of an
// ELF file for i386 as QEMU's own script has them; F, so that the emulator is opened now and found inside any root; O, so that programs
// without a name run, too; P, so that programs see the name that they were called by.
const registration = `:` + rule + `:M::\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x03\x00:\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:` + emulator + `:POF`

// hold mounts binfmt_misc at $1 for itself and holds the rule $2 until its standard input ends: since Linux 6.7 rules go with the last
// mount. On older kernels whoever gets the lock alone is the last, and removes the rule. Where the rule is not there it says so, and
// registers it by $3 when a line is the answer; that fails where the kernel has no binfmt_misc.
const hold = `exec 9>"$4"
flock -s 9
mount -t binfmt_misc none "$1" || [ ! -e "$1/register" ]
if [ ! -e "$1/$2" ]; then
	echo free
	read -r answer || exit 0
	printf %s "$3" >"$1/register"
fi
echo held
cat >/dev/null
if flock -xn 9 && [ -e "$1/$2" ]; then echo -1 >"$1/$2"; fi
`

// Need is I386 for the rest of a test, which is skipped, and in CI fails, where they cannot be made to run.
func Need(t testing.TB) {
	t.Helper()
	done, err := I386()
	need.That(t, err)
	t.Cleanup(func() {
		if err := done(); err != nil {
			t.Error(err)
		}
	})
}

// I386 makes programs for i386 run until the returned function is called, or this program ends. The error says what is missing.
//
// That they run already proves nothing while another test holds the rule: it would go with that test. So one at a time looks, and only
// where the rule is not there is it asked whether the kernel runs them by itself.
func I386() (done func() error, err error) {
	if os.Geteuid() != 0 {
		if chroot.Starts32() {
			return func() error { return nil }, nil
		}
		return nil, errors.New("registering an emulator needs root")
	}
	turn, err := lock(filepath.Join(os.TempDir(), rule+".turn"), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	dir, err := os.MkdirTemp("", rule+"-")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", hold, "sh", dir, rule, registration, held())
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	end := sync.OnceValue(func() error {
		in.Close()
		if err := errors.Join(cmd.Wait(), os.Remove(dir)); err != nil {
			return fmt.Errorf("binfmt_misc: %w\n%s", err, said.Bytes())
		}
		return nil
	})
	words := bufio.NewReader(out)
	word, _ := words.ReadString('\n')
	if word == "free\n" {
		if chroot.Starts32() {
			return end, end()
		}
		if _, err := os.Stat(emulator); err != nil {
			return nil, errors.Join(fmt.Errorf("%w (package qemu-user-static)", err), end())
		}
		io.WriteString(in, "register\n")
		word, _ = words.ReadString('\n')
	}
	if word != "held\n" {
		return nil, errors.Join(errors.New("register an emulator for i386"), end())
	}
	return end, nil
}

// held is the file that everybody who holds the rule has locked.
func held() string { return filepath.Join(os.TempDir(), rule+".lock") }

// lock locks a file as flock(2) does, how is its operation, until it is closed.
func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
