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
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

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

// hold mounts binfmt_misc at $1 for itself, registers the rule $2 by $3 where it is not there, and holds it until its standard input ends:
// since Linux 6.7 rules go with the last mount. On older kernels whoever gets the lock alone is the last, and removes the rule.
const hold = `exec 9>"$4"
flock -s 9
mount -t binfmt_misc none "$1"
[ -e "$1/$2" ] || printf %s "$3" >"$1/register"
echo ready
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
func I386() (done func() error, err error) {
	if chroot.Starts32() {
		return func() error { return nil }, nil
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("registering an emulator needs root")
	}
	if _, err := os.Stat(emulator); err != nil {
		return nil, fmt.Errorf("%w (package qemu-user-static)", err)
	}
	dir, err := os.MkdirTemp("", rule+"-")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", hold, "sh", dir, rule, registration, filepath.Join(os.TempDir(), rule+".lock"))
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
	if word, _ := bufio.NewReader(out).ReadString('\n'); word != "ready\n" {
		return nil, errors.Join(errors.New("register an emulator for i386"), end())
	}
	return end, nil
}
