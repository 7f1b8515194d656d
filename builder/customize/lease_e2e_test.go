//go:build e2e

package customize

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/builder/initramfs"
	"netroot/builder/need"
)

// network is run in network and mount namespaces of its own: a machine without systemd, over this host's own files, and beside it a
// DHCP server on a cable. The server is busybox's: it gives leases shorter than the two minutes that dnsmasq insists on.
const network = `set -e
W=$1
mount --make-rprivate /
mount -t tmpfs lab "$W/lab"
cd "$W/lab"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work lab root
cp -a "$W/parts/." root/
mount -t proc proc root/proc
mount -t sysfs sys root/sys
mount -t tmpfs dev root/dev
mount -t tmpfs run root/run
for d in "null 1 3" "zero 1 5" "random 1 8" "urandom 1 9"; do set -- $d; mknod -m 666 root/dev/$1 c $2 $3; done
mkdir -p root/run/netroot root/var/lock/subsys
: >root/etc/resolv.conf
: >root/dev/kmsg
: >root/dev/console

ip link set lo up
ip link add eth0 type veth peer name lan
unshare -n sh -c 'echo $$ >server.pid; while [ ! -e plugged ]; do sleep 0.1; done
ip addr add 192.0.2.1/24 dev lan; ip link set lan up
while :; do busybox udhcpd -f udhcpd.conf >>udhcpd.log 2>&1 & echo $! >udhcpd.pid; wait; sleep 15; done' &
cat >udhcpd.conf <<END
start 192.0.2.20
end 192.0.2.20
interface lan
max_leases 1
min_lease 10
lease_file $PWD/udhcpd.leases
option subnet 255.255.255.0
option router 192.0.2.1
option dns 192.0.2.53
option lease 12
END
: >udhcpd.leases
while [ ! -s server.pid ]; do sleep 0.1; done
ip link set lan netns "$(cat server.pid)"
: >plugged
ip link set eth0 up
ip monitor link address >monitor 2>&1 &
tcpdump -l -n -v -i eth0 udp port 67 >packets 2>tcpdump.log &
while ! grep -q listening tcpdump.log; do sleep 0.1; done

# What the initramfs does, with its own functions.
chroot root sh -c '. /netroot/init.sh; init_defaults; new= keep=/run/netroot lower= image=lab generation=1 server=192.0.2.1 method=dhcp
found=eth0; configure_dhcp; mac=$(mac_of eth0) dns=$dhcp_dns; hand_over; stop_dhcp; while pidof dhclient; do sleep 0.1; done'
: >handed-over
# What the root's init does.
chroot root /etc/init.d/netroot start
: >started
while [ ! -e over ]; do sleep 0.2; done
# The lease runs out while nobody answers; then somebody does again.
kill "$(cat udhcpd.pid)"
sleep 14
ip -4 -o addr show dev eth0 >expired
acks=$(grep -c "sending ACK" udhcpd.log)
while [ "$(grep -c "sending ACK" udhcpd.log)" = "$acks" ]; do sleep 0.2; done
sleep 2
chroot root /etc/init.d/netroot stop
while chroot root pidof dhclient; do sleep 0.1; done
sleep 1
ip -4 -o addr show dev eth0 >after
while [ ! -e read ]; do sleep 0.1; done
`

// After the initramfs, the root's own dhclient keeps the lease: over several of its lifetimes, the address never goes away and the
// interface is never taken down, also when nobody renews it any more, and at the end it is not given back.
func TestE2ELeaseWithoutSystemd(t *testing.T) {
	need.Root(t)
	need.Tools(t, "unshare", "ip", "dhclient", "busybox", "tcpdump")
	dir := t.TempDir()
	for _, d := range []string{"lab", "parts/netroot"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := fs.WalkDir(parts, "root", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := parts.ReadFile(name)
		if err != nil {
			return err
		}
		at := filepath.Join(dir, "parts", strings.TrimPrefix(name, "root"))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		return os.WriteFile(at, data, 0o755)
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range initramfs.Scripts() {
		if name == "init" {
			name = "netroot/init.sh" // as /init it would begin to run
		}
		if err := os.WriteFile(filepath.Join(dir, "parts", name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", network, "network", dir)
	// With the process number 1 of its own, nothing that it started outlives it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	// The lab is in a mount namespace of its own; its files are seen through its first process.
	lab := func(name string) string {
		data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "root", dir, "lab", name))
		return string(data)
	}
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "root", dir, "lab", name))
		return err == nil
	}
	end := time.Now().Add(time.Minute)
	for !there("started") {
		select {
		case err := <-done:
			t.Fatalf("%v\n%s", err, out.String())
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("not started after a minute\n%s\n%s", out.String(), lab("udhcpd.log"))
		}
	}
	const acks = "sending ACK to 192.0.2.20"
	first := strings.Count(lab("udhcpd.log"), acks)
	time.Sleep(30 * time.Second) // two and a half lifetimes
	renewed := strings.Count(lab("udhcpd.log"), acks) - first
	if renewed < 3 {
		t.Errorf("renewed %d times in 30 s with a lease of 12 s\n%s", renewed, lab("udhcpd.log"))
	}
	if got := lab("root/etc/resolv.conf"); got != "nameserver 192.0.2.53\n" {
		t.Errorf("resolv.conf holds %q", got)
	}
	put := func(name string) {
		if err := os.WriteFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "root", dir, "lab", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("over")
	for lab("after") == "" {
		select {
		case err := <-done:
			t.Fatalf("%v\n%s", err, out.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
	after, kernelLog, monitor, packets := lab("expired"), lab("root/dev/kmsg"), lab("monitor"), lab("packets")
	put("read")
	if err := <-done; err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	if !strings.Contains(after, "192.0.2.20/24") {
		t.Errorf("after the end of the lease the interface has %q", after)
	}
	if strings.Contains(monitor, "Deleted") || regexp.MustCompile(`eth0.*state DOWN`).MatchString(monitor) {
		t.Errorf("an address or the interface went away:\n%s", monitor)
	}
	if !strings.Contains(kernelLog, "eth0 keeps 192.0.2.20, because / comes over it") {
		t.Errorf("the console was told %q", kernelLog)
	}
	if strings.Contains(packets, "Release") || !strings.Contains(packets, ": Request") {
		t.Errorf("the address was given back, or nothing was seen:\n%s", packets)
	}
	t.Logf("renewed %d times in 30 s", renewed)
}
