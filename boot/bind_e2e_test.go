//go:build e2e

package boot_test

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestE2EBind boots a machine whose folders are copied into memory one by one, as for a kernel without overlayfs.
func TestE2EBind(t *testing.T) {
	t.Parallel()
	s, gen := bootRecipe(t, "e2e-bind", "include: debian-12\nroot: {writable: bind}\nusers: [{name: operator}]\n")
	s.expect(t, "grep ' / ' /proc/mounts | tail -n 1 | cut -d' ' -f3; grep -c overlay /proc/mounts || :", "nfs\n0")
	folders := "/etc /var /root /tmp /home /mnt /media"
	s.expect(t, "for d in "+folders+"; do echo x >$d/e2e && echo $d $(findmnt -no FSTYPE -T $d); done", strings.ReplaceAll(folders, " ", " tmpfs\n")+" tmpfs")
	s.expect(t, "for d in /usr /opt /srv /boot /; do touch $d/e2e 2>/dev/null && echo $d; done; echo none", "none")
	s.expect(t, "stat -c '%a %U:%G' /etc/shadow /var/mail /tmp /root /home/operator", "640 root:shadow\n2775 root:mail\n1777 root:root\n700 root:root\n755 operator:operator")
	s.expect(t, "getent hosts "+secretName, secretAddress+`\s+`+secretName)
	s.expect(t, "dpkg -V base-files passwd openssh-server; useradd -m somebody && su somebody -c 'id -un; pwd'", "somebody\n/")
	s.expect(t, "systemctl is-system-running --wait; systemctl --failed --no-legend", "running")
	t.Logf("in memory: %s", s.run(t, time.Minute, "df -m /etc | tail -n 1; du -sm "+folders))
	t.Run("reboot", func(t *testing.T) {
		from, since := len(s.server.Events()), time.Now()
		s.run(t, time.Minute, "(sleep 1; systemctl reboot) </dev/null >/dev/null 2>&1 &")
		s.await(t, gen, from, since)
		s.expect(t, "test -e /etc/e2e || test -e /var/e2e || echo gone", "gone")
		for _, line := range s.machine.Console() {
			if strings.Contains(line.Text, "Failed unmounting") {
				t.Errorf("the console says %q", line.Text)
			}
		}
	})
	off, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s.run(t, time.Minute, "(sleep 1; systemctl poweroff) </dev/null >/dev/null 2>&1 &")
	if err := s.machine.Wait(off); err != nil {
		t.Error(err)
	}
}
