//go:build e2e

package boot_test

import "testing"

// TestE2EDebian13 boots the shipped recipe of the release after the test machine's own.
func TestE2EDebian13(t *testing.T) {
	t.Parallel()
	s, _ := bootRecipe(t, "e2e-debian-13", "include: debian-13\n")
	s.expect(t, ". /etc/os-release; echo $VERSION_CODENAME; uname -r", `trixie\n6\.\d+\..*deb13-amd64`)
	s.expect(t, "findmnt -no FSTYPE /; readlink /bin /lib64; touch /usr/e2e && ls /usr/e2e", "overlay\nusr/bin\nusr/lib64\n/usr/e2e")
	s.expect(t, "systemctl is-system-running --wait; systemctl --failed --no-legend", "running")
	s.expect(t, "systemctl is-active ssh dbus systemd-logind netroot-lease", "active\nactive\nactive\nactive")
	s.expect(t, "getent hosts "+secretName, secretAddress+`\s+`+secretName)
	s.expect(t, "dpkg -V base-files libc6 dash openssh-server; dpkg --audit; dpkg-query -W -f '${Status}\n' | sort -u", "install ok installed")
	s.expect(t, "awk '/^Suites:/ {print $2}' /etc/apt/sources.list.d/netroot.sources | sort", `trixie(\ntrixie-\w+)*`)
}
