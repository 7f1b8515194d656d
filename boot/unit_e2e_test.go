//go:build e2e

package boot_test

import (
	"fmt"
	"testing"
	"time"
)

// TestE2EUnit boots a machine on which netroot itself runs, as a service of the unit that `netroot units serve` prints and by the words
// that are in it.
func TestE2EUnit(t *testing.T) {
	t.Parallel()
	s, _ := bootRecipe(t, "e2e-unit", fmt.Sprintf(`include: debian-12
packages: [pxelinux, syslinux-common]
files:
  - {path: /usr/bin/netroot, source: %q, mode: "0755"}
  - {path: /etc/netroot/netroot.yaml, content: "default: ignore\n"}
hooks:
  - name: service
    script: |
      echo kernel >/root/kernel
      echo '{name: early, arch: amd64, from: {netboot: {kernel: {path: kernel}, initrd: {path: kernel}}}}' >/root/early.yaml
      /usr/bin/netroot build /root/early.yaml
      useradd --system --user-group --no-create-home --shell /usr/sbin/nologin netroot
      /usr/bin/netroot units serve > /etc/systemd/system/netroot.service
      systemctl enable netroot
`, needBench(t).program))
	s.expect(t, "systemctl is-system-running --wait; systemctl --failed --no-legend", "running")
	s.expect(t, "systemctl show netroot -p ActiveState -p SubState -p NRestarts", "NRestarts=0\nActiveState=active\nSubState=running")
	// Once it listens, in no thread is a capability left, and the user is not root. systemd calls it running before that.
	s.run(t, time.Minute, "i=0; while cat /proc/$(systemctl show netroot -P MainPID)/task/*/status | grep -q 'CapEff:.*[1-9a-f]'; do [ $((i+=1)) -le 40 ] || break; sleep 1; done")
	s.expect(t, "cat /proc/$(systemctl show netroot -P MainPID)/task/*/status | grep -E '^(Uid|CapEff|NoNewPrivs):' | tr -s '\\t ' ' ' | sort -u | sed \"s/$(id -u netroot)/user/g\"",
		"CapEff: 0000000000000000\nNoNewPrivs: 1\nUid: user user user user")
	for _, port := range []string{"udp 67", "udp 69", "udp 4011", "tcp 80", "tcp 111", "tcp 2049"} {
		s.expect(t, fmt.Sprintf("set -- %s; ss -Hln --$1 sport = :$2 | grep -c :$2", port), "[1-9]")
	}
	s.expect(t, `bash -c "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3"`, "ok")
	s.expect(t, "stat -c '%U %a' /var/lib/netroot/state", "netroot 750")
	// What was built before there was its group, it can read, and nobody else.
	s.expect(t, "stat -c '%U %G %a' /var/lib/netroot /var/lib/netroot/images/early/1/vmlinuz", "root netroot 750\nroot netroot 6?40")
	s.expect(t, "setpriv --reuid=netroot --regid=netroot --clear-groups cat /var/lib/netroot/images/early/1/vmlinuz", "kernel")
	// A change of the policy, by reload.
	s.expect(t, "echo 'default: menu' >/etc/netroot/netroot.yaml; systemctl reload netroot; i=0; until journalctl -u netroot -o cat | grep -q policy; do [ $((i+=1)) -le 40 ] || break; sleep 1; done; echo $((i <= 40))", "1")
	// It is started again when it dies.
	s.expect(t, "kill -9 $(systemctl show netroot -P MainPID); i=0; until systemctl show netroot -p NRestarts -p ActiveState | tr '\\n' ' ' | grep 'NRestarts=1 ActiveState=active'; do [ $((i+=1)) -le 40 ] || break; sleep 1; done", "NRestarts=1 ActiveState=active ?")
}
