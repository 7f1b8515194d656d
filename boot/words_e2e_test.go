//go:build e2e

package boot_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/store"
)

// The words of the kernel command line that the other boots do not use, each on a machine that really boots with it. They come
// through the machine's entry in netroot.yaml, behind those of the image; and root= and nfsroot=, which no entry may have,
// as the loader of another make would give them.

const wordsImage = "debian-12"

// words is a lab with a server in it that gives a machine called "words" the words.
func words(t *testing.T, mac net.HardwareAddr, networks []netip.Prefix, cmdline ...string) (*site, store.Generation) {
	t.Helper()
	b := needBench(t)
	gen := b.build(t, wordsImage, wordsImage)
	lab := openLab(t, vm.Config{Networks: networks, Names: map[string]string{secretName: secretAddress}})
	s := &site{lab: lab}
	s.serve(t, b, vm.Policy(mac.String(), "words", wordsImage, cmdline...))
	return s, gen
}

// boot switches the machine on, which goes off with the lab at the latest.
func (s *site) boot(t *testing.T, cfg vm.MachineConfig) {
	t.Helper()
	cfg.Spec.CPU, cfg.Spec.Accel = "qemu64", "tcg"
	var err error
	if s.machine, err = s.lab.Boot(cfg); err != nil {
		t.Fatal(err)
	}
}

// loaded is the generation's kernel with just these words.
func loaded(gen store.Generation, words ...string) *vm.Kernel {
	return &vm.Kernel{Image: gen.Path("vmlinuz"), Initrd: gen.Path("initrd.img"), Cmdline: append([]string{"console=ttyS0,115200"}, words...)}
}

// console waits for a line on the console that contains the text.
func (s *site) console(t *testing.T, text string) vm.Line {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	line, err := s.machine.WaitConsole(ctx, 0, text)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// has says whether the console has shown a text by now.
func (s *site) has(text string) bool {
	for _, line := range s.machine.Console() {
		if strings.Contains(line.Text, text) {
			return true
		}
	}
	return false
}

// answer types a command that must succeed at the prompt of the initramfs, and returns what it wrote.
func (s *site) answer(t *testing.T, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.machine.WaitPrompt(ctx, "initramfs#"); err != nil {
		t.Fatal(err)
	}
	from := len(s.machine.Console())
	if err := s.machine.Type(command + "; echo status $?.\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.machine.WaitConsole(ctx, from, "status 0."); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, line := range s.machine.Console()[from:] {
		if line.Text == "status 0." {
			break
		}
		if !strings.Contains(line.Text, command+";") { // the terminal's echo
			out = append(out, line.Text)
		}
	}
	return strings.Join(out, "\n")
}

func TestE2EWordsStaticAddress(t *testing.T) {
	t.Parallel()
	s, gen := words(t, vm.DefaultMAC, nil, "rd.debug",
		"ip=10.77.0.99::10.77.0.2:255.255.255.0:static-name:eth0:none:10.77.0.2")
	s.boot(t, vm.MachineConfig{})
	s.await(t, gen, 0, s.machine.PowerOn)
	for _, want := range []string{"+ configure_static", "+ mount_nfs", "+ stage switch-root"} {
		if !s.has(want) {
			t.Errorf("the console has no %q", want)
		}
	}
	if s.has("+ ask_dhcp") {
		t.Error("it asked for a lease")
	}
	s.expect(t, "hostname; cat /etc/hostname", "words\nwords") // the name in netroot.yaml counts more
	s.expect(t, "ip -4 -o addr show eth0 | grep -c valid_lft.forever", "1")
	s.expect(t, "ip -4 -o addr show eth0 | tr -s ' ' | cut -d' ' -f4", "10.77.0.99/24")
	s.expect(t, "ip route show default", "default via 10.77.0.2 dev eth0")
	s.expect(t, "getent hosts "+secretName, secretAddress+`\s+`+secretName)
	s.expect(t, "ls /run/netroot | grep dhc; pgrep dhclient; echo none", "none")
	s.expect(t, "systemctl is-system-running --wait; systemctl --failed --no-legend", "running")
}

func TestE2EWordsReadOnly(t *testing.T) {
	t.Parallel()
	s, gen := words(t, vm.DefaultMAC, nil)
	s.boot(t, vm.MachineConfig{Kernel: loaded(gen, "ip=10.77.0.98::10.77.0.2:255.255.255.0:static-name:eth0:none:10.77.0.2", "netroot.shell=ttyS1",
		"root=nfs:10.77.0.3:/nowhere", "rd.overlay", // the words that come last count
		"rd.overlay=no", "root=/dev/nfs", "nfsroot=10.77.0.3:/"+gen.Ref()+",vers=3,port=2049,mountport=2049,nolock")})
	s.await(t, gen, 0, s.machine.PowerOn)
	s.expect(t, "grep ' / ' /proc/mounts", `10\.77\.0\.3:/`+gen.Ref()+` / nfs ro,\S*vers=3\S* 0 0`)
	s.expect(t, "touch /etc/x 2>&1; touch /var/x 2>&1; grep overlay /proc/mounts; true", "[^\n]*/etc/x[^\n]*Read-only file system\n[^\n]*/var/x[^\n]*Read-only file system")
	// What the machine is called and whom it asks is bound over the image's files.
	s.expect(t, "hostname; cat /etc/hostname; getent hosts static-name", `static-name\nstatic-name\n127.0.1.1\s+static-name`)
	s.expect(t, "getent hosts "+secretName, secretAddress+`\s+`+secretName)
	// logind and sshd want to write below /var/lib and /etc, and fail; what does not comes up.
	s.expect(t, "systemctl is-active multi-user.target dbus systemd-journald systemd-udevd", "active\nactive\nactive\nactive")
}

func TestE2EWordsBreakOnVirtio(t *testing.T) {
	t.Parallel()
	s, gen := words(t, vm.DefaultMAC, nil, "rd.break")
	s.boot(t, vm.MachineConfig{Spec: vm.Spec{NIC: "virtio-net-pci"}})
	s.console(t, "shell because of rd.break=pre-pivot; leave it with exit")
	if !s.has("stage=nfs-root") {
		t.Error("the root was not mounted before")
	}
	if out := s.answer(t, "ls /sysroot/etc/hostname"); out != "/sysroot/etc/hostname" {
		t.Errorf("ls says %q", out)
	}
	if out := s.answer(t, "cat /proc/cmdline"); !strings.Contains(out, " rd.break ") {
		t.Errorf("the command line is %q", out)
	}
	if s.has("stage=switch-root") {
		t.Error("it went on without waiting for the end of the shell")
	}
	if err := s.machine.Type("exit\n"); err != nil {
		t.Fatal(err)
	}
	s.await(t, gen, 0, s.machine.PowerOn)
	s.expect(t, "ls -l /sys/class/net/eth0/device/driver | grep -o '[^/]*$'", "virtio_net")
}

func TestE2EWordsFailure(t *testing.T) {
	t.Parallel()
	s, gen := words(t, vm.DefaultMAC, nil)
	wrong := []string{"ip=dhcp", "root=nfs:10.77.0.3:/nowhere", "rd.retry=5", "rd.reboot=3"}
	t.Run("rd.shell", func(t *testing.T) {
		s.boot(t, vm.MachineConfig{NoReboot: true, Kernel: loaded(gen, append(wrong, "rd.shell")...)})
		s.console(t, "cannot go on: server 10.77.0.3 ")
		s.console(t, "shell because of rd.shell; leave it with exit")
		if out := s.answer(t, "cat /run/mount.log"); !strings.Contains(out, "10.77.0.3:/nowhere does not exist") {
			t.Errorf("mount said %q", out)
		}
		time.Sleep(4 * time.Second) // rd.reboot= counts for nothing now
		if s.answer(t, "echo still here") != "still here" || s.has("netroot: rebooting") {
			t.Error("it did not wait for the end of the shell")
		}
		if err := s.machine.Type("exit\n"); err != nil {
			t.Fatal(err)
		}
		s.rebooted(t)
	})
	t.Run("rd.reboot", func(t *testing.T) {
		s.boot(t, vm.MachineConfig{NoReboot: true, Kernel: loaded(gen, wrong...)})
		said := s.console(t, "netroot: rebooting in 3 seconds")
		s.rebooted(t)
		if after := time.Since(said.End); after < 2500*time.Millisecond {
			t.Errorf("it waited for %s", after)
		}
	})
}

// rebooted waits for the end of a machine whose reboot is one.
func (s *site) rebooted(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.machine.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if tail := s.machine.ConsoleTail(3); !strings.Contains(strings.Join(tail, "\n"), "netroot: rebooting") {
		t.Errorf("the console ends with\n%s", strings.Join(tail, "\n"))
	}
}

func TestE2EWordsTwoCards(t *testing.T) {
	t.Parallel()
	// QEMU's cards count up from the address of the first one. The server ignores that, so its ROM gives up.
	second := append(net.HardwareAddr(nil), vm.DefaultMAC...)
	second[5]++
	s, gen := words(t, second, []netip.Prefix{vm.DefaultNetwork, netip.MustParsePrefix("10.78.0.0/24")})
	s.boot(t, vm.MachineConfig{Networks: []int{0, 1}})
	s.await(t, gen, 0, s.machine.PowerOn)
	from := "net0: 10.77.0." // what the first card's ROM said of its lease
	if !s.has(from) {
		t.Errorf("the console has no %q: nobody answered on the first network", from)
	}
	for _, e := range s.server.Events() {
		if e.Message == "offer" && (e.MAC != second.String() || e.Interface != "eth1") {
			t.Errorf("an offer to %s on %s", e.MAC, e.Interface)
		}
	}
	// The other card has carrier as well; nothing but BOOTIF tells them apart.
	s.expect(t, "cd /sys/class/net; for c in $(ls | grep -v -e lo -e eth1); do ip link set $c up; sleep 3; cat $c/address $c/carrier; done", vm.DefaultMAC.String()+"\n1")
	s.expect(t, ". /run/netroot/boot; echo $IFACE $MAC $SERVER $GATEWAY $DNS", "eth1 "+second.String()+" 10.78.0.3 10.78.0.2 10.78.0.2")
	s.expect(t, "ip -4 -o addr show scope global | tr -s ' ' | cut -d' ' -f2,4", `eth1 10\.78\.0\.1\d\d/24`)
	s.expect(t, "grep -c '^v3 0a4e0003 ' /proc/fs/nfsfs/volumes", "1")
	s.expect(t, "getent hosts "+secretName, secretAddress+`\s+`+secretName)
}
