package seed

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

const installerInitrd = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/initrd.gz"

// What the installer does with its answers at the end, by its own programs in its own initrd: the file goes into its database, and the
// command out of it is run.
func TestPreseedByTheInstaller(t *testing.T) {
	need.Patience(t)
	need.Root(t)
	if _, err := os.Stat(installerInitrd); err != nil {
		need.Missing(t, "debian-installer-12-netboot-amd64 is not installed: %v", err)
	}
	dir := t.TempDir()
	unpack := exec.Command("sh", "-c", "zcat "+installerInitrd+" | cpio -idm --quiet --no-absolute-filenames")
	unpack.Dir = dir
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_ = unix.Mknod(filepath.Join(dir, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) // it may be there

	var reports atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != ReportPath {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		if reports.Add(1) == 1 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	s := one(Preseed, "d-i mirror/country string manual\nd-i preseed/late_command string touch /first; \\\n touch /second\n")
	text, err := s.Render(Preseed, Machine{Name: "a", Server: strings.TrimPrefix(srv.URL, "http://")})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"preseed.cfg": text,
		"run.sh": `#!/bin/sh
. /usr/share/debconf/confmodule
debconf-set-selections /preseed.cfg || exit 1
db_get mirror/country && [ "$RET" = manual ] || exit 2
preseed_command preseed/late_command || exit 3
touch /done
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, "/bin/sh", "-c", `mkdir -p /var/lib/cdebconf /var/log
for t in /var/lib/dpkg/info/*.templates; do debconf-loadtemplate d-i $t; done
exec debconf -o d-i /run.sh`)
	run.Dir, run.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: dir}
	run.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=text", "HOME=/"}
	out, err := run.CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"first", "second", "done"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if n := reports.Load(); n != 2 {
		t.Errorf("%d reports, want one that is refused and one that is taken", n)
	}
	if t.Failed() {
		t.Logf("%s\n%s", text, out)
	}
}
