package initramfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"netroot/builder/need"
)

// shells are those that may be a root's /bin/sh. One of them is everywhere.
func shells(t *testing.T) [][]string {
	var list [][]string
	for _, s := range [][]string{{"dash"}, {"bash", "--posix"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(s[0]); err == nil {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		t.Fatal("no shell to test with")
	}
	return list
}

// writeInit writes /init, with other paths in it than those of a machine, where it can be sourced, and returns its path.
func writeInit(t *testing.T, oldnew ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "init.sh")
	if err := os.WriteFile(path, []byte(strings.NewReplacer(oldnew...).Replace(string(initScript))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runShell sources /init and runs a script after it.
func runShell(t *testing.T, shell []string, script string) string {
	t.Helper()
	cmd := exec.Command(shell[0], append(shell[1:], "-c", ". "+writeInit(t)+"; init_defaults\n"+script, "test")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", shell[0], err, out)
	}
	return string(out)
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Every row is a command line and what must be understood of it: variables, after parsing all of it.
func TestCommandLine(t *testing.T) {
	need.Patience(t)
	const nfs = "root=nfs:10.0.0.3:/debian-12@3:vers=3,proto=tcp,nolock,port=2049,mountport=2049 "
	rows := []struct {
		cmdline string
		want    string
	}{
		{nfs, "server=10.0.0.3 path=/debian-12@3 options=vers=3,proto=tcp,nolock,port=2049,mountport=2049 image=debian-12 generation=3 method=dhcp rw=ro overlay= error="},
		{"root=nfs:10.0.0.3:/x", "server=10.0.0.3 path=/x options= image=x generation=- error="},
		{"root=nfs:/x:ro", "server= path=/x options=ro error="},
		{"root=10.0.0.3:/x/y,rsize=4096,hard", "server=10.0.0.3 path=/x/y options=rsize=4096,hard error="},
		{"root=10.0.0.3:/x:rsize=4096", "server=10.0.0.3 path=/x options=rsize=4096 error="},
		{"root=/x", "server= path=/x error="},
		{"root=/dev/nfs nfsroot=10.0.0.3:/x,port=9", "server=10.0.0.3 path=/x options=port=9 error="},
		{"root=/dev/nfs nfsroot=/x", "server= path=/x error="},
		{"root=nfs4:10.0.0.3:/x", "server=10.0.0.3 path=/x options=vers=4 error="},
		{"root=nfs://10.0.0.3:2050/x/y", "server=10.0.0.3 path=/x/y options=port=2050 error="},
		{"root=/dev/sda1 root=nfs:10.0.0.3:/x", "path=/x error="},
		{"root=/dev/sda1 ro", "error=root=/dev/sda1 is not an NFS root"},
		{"root=UUID=12-34", "error=root=UUID=12-34 is not an NFS root"},
		{"root=/dev/nfs", "error=the kernel command line has no root=/dev/nfs nfsroot="},
		{"quiet", "error=the kernel command line has no root="},
		{"root=nfs:10.0.0.3", "error=root=nfs:10.0.0.3 names no path"},

		{nfs + "ip=dhcp BOOTIF=01-52-54-00-AB-cd-EF", "method=dhcp card= bootif=52:54:00:ab:cd:ef"},
		{nfs + "BOOTIF=52:54:00:12:34:56", "bootif=52:54:00:12:34:56"},
		{nfs + "ip=eth1:dhcp", "method=dhcp card=eth1 error="},
		{nfs + "ip=ens3:on:1500:52:54:00:12:34:56", "method=dhcp card=ens3 error="},
		{nfs + "ip=:::::eth0:dhcp", "method=dhcp card=eth0 address= error="},
		{nfs + "ip=::::vmegr:eth0:dhcp", "method=dhcp card=eth0 hostname=vmegr error="},
		{nfs + "ip=10.0.0.9:10.0.0.3:10.0.0.1:255.255.252.0:vmegr:eth0:none",
			"method=static address=10.0.0.9 peer=10.0.0.3 gateway=10.0.0.1 prefix=22 hostname=vmegr card=eth0 error="},
		{nfs + "ip=10.0.0.9::10.0.0.1:24::eth0:off:9.9.9.9:8.8.8.8 nameserver=1.1.1.1", "method=static prefix=24 nameservers= 1.1.1.1 9.9.9.9 8.8.8.8 error="},
		{nfs + "ip=10.0.0.9::10.0.0.1:255.255.255.0", "method=static address=10.0.0.9 prefix=24 card= error="},
		{nfs + "ip=10.0.0.9::10.0.0.1:255.255.255.0:h:eth0:none:1500:52:54:00:12:34:56", "method=static nameservers= error="},
		{nfs + "ip=10.0.0.9::10.0.0.1:255.0.255.0:h:eth0:none", "error=ip=: the address '10.0.0.9' with the netmask '255.0.255.0' is not complete"},
		{nfs + "ip=10.0.0.9", "error=ip=10.0.0.9 has no netmask"},
		{nfs + "ip=dhcp6", "error=ip=dhcp6 does not give this machine an IPv4 address"},
		{nfs + "ip=nonsense", "error=ip=nonsense: not understood"},
		{nfs + "ip=eth0:dhcp ip=eth1:dhcp bootdev=eth1", "card=eth1 method=dhcp error="},
		{nfs + "ip=eth0:dhcp ip=eth1:dhcp bootdev=eth0", "card=eth0 method=dhcp error="},
		{nfs + "ip=dhcp ip=10.1.0.2::10.1.0.1:24:h:eth0:none", "card=eth0 method=static address=10.1.0.2 error="},
		{nfs + "ip=10.1.0.2::10.1.0.1:24:h:eth0:none ip=10.2.0.2::10.2.0.1:24:h:eth1:none bootdev=eth1", "card=eth1 address=10.2.0.2 error="},
		{nfs + "bootdev=eth3", "card=eth3 method=dhcp"},
		{nfs + "ifname=lan0:52:54:00:12:34:56", "ifnames= lan0:52:54:00:12:34:56"},

		{nfs + "rd.overlay", "overlay=tmpfs"},
		{nfs + "rd.overlay=1", "overlay=tmpfs"},
		{nfs + "rd.overlay=tmpfs:size=25%", "overlay=tmpfs:size=25%"},
		{nfs + "rd.overlay rd.overlay=0", "overlay="},
		{nfs + "rw init=/bin/sh", "rw=rw init=/bin/sh"},
		{nfs + "rd.break", "break=pre-pivot"},
		{nfs + "rd.break=mount rd.shell rd.debug", "break=mount shell=1 debug=1"},
		{nfs + "rd.shell rd.shell=0", "shell="},
		{nfs + "rd.retry=7 rd.reboot=0 rd.net.timeout.iflink=1 rd.net.timeout.carrier=2 rd.net.timeout.dhcp=3 rd.net.dhcp.retry=4 rd.peerdns=0",
			"retry=7 reboot=0 wait_card=1 wait_carrier=2 wait_dhcp=3 dhcp_tries=4 peerdns="},
		{nfs + "rd.retry=soon", "retry=90"},
		{nfs + "netroot.image=debian-12@7 netroot.hostname=vmegr netroot.shell=ttyS1", "image=debian-12 generation=7 netroot_hostname=vmegr tty=ttyS1"},
		{nfs + "netroot.shell=/dev/ttyS1", "tty=ttyS1"},
		{`root="nfs:10.0.0.3:/x" * ? [a]`, "path=/x error="},
	}
	for _, shell := range shells(t) {
		var script strings.Builder
		for i, row := range rows {
			// Each in a subshell, so that rows do not see each other.
			fmt.Fprintf(&script, "(parse_cmdline %s 2>/dev/null; parse_root && parse_ip; parse_image\necho row %d\nset | while IFS= read -r l; do case $l in [a-z]*=*) echo \"$l\" ;; esac; done)\n", quote(row.cmdline), i)
		}
		got := make([]map[string]string, len(rows))
		n := -1
		for line := range strings.Lines(runShell(t, shell, script.String())) {
			line = strings.TrimRight(line, "\n")
			if _, err := fmt.Sscanf(line, "row %d", &n); err == nil {
				got[n] = map[string]string{}
				continue
			}
			if k, v, ok := strings.Cut(line, "="); ok && n >= 0 {
				got[n][k] = strings.Trim(v, "'")
			}
		}
		for i, row := range rows {
			for _, kv := range fields(row.want) {
				k, v, _ := strings.Cut(kv, "=")
				have := strings.ReplaceAll(got[i][k], `'\''`, "'")
				have = strings.ReplaceAll(have, `'"'"'`, "'")
				if have != v {
					t.Errorf("%s: %s\n  %s is %q, want %q", shell[0], row.cmdline, k, have, v)
				}
			}
		}
	}
}

// fields splits "a=b c=d e f" before each word that has its own name and "=": values may hold blanks.
func fields(s string) []string {
	var list []string
	for _, w := range strings.Split(s, " ") {
		k, _, ok := strings.Cut(w, "=")
		inError := len(list) > 0 && strings.HasPrefix(list[len(list)-1], "error=")
		if ok && !inError && strings.Trim(k, "abcdefghijklmnopqrstuvwxyz_") == "" {
			list = append(list, w)
			continue
		}
		list[len(list)-1] += " " + w
	}
	return list
}

func TestShellFunctions(t *testing.T) {
	need.Patience(t)
	for _, shell := range shells(t) {
		for _, c := range []struct{ script, want string }{
			{"prefix_of 255.255.255.255", "32"},
			{"prefix_of 255.255.254.0", "23"},
			{"prefix_of 128.0.0.0", "1"},
			{"prefix_of 0.0.0.0", "0"},
			{"prefix_of 24", "24"},
			{"prefix_of 33 || echo bad", "bad"},
			{"prefix_of 255.0.255.0 || echo bad", "bad"},
			{"prefix_of 255.255.255.1 || echo bad", "bad"},
			{"prefix_of '' || echo bad", "bad"},
			{"prefix_of 255.255 || echo bad", "bad"},
			{"lower AA:bb:Cd:EF:09", "aa:bb:cd:ef:09"},
			{"server=10.0.0.3 options=; nfs_options", "ro,vers=3,proto=tcp,nolock,addr=10.0.0.3"},
			{"server=10.0.0.3 rw=rw options=port=1,mountport=1; nfs_options", "rw,port=1,mountport=1,vers=3,proto=tcp,nolock,addr=10.0.0.3"},
			{"server=10.0.0.3 rw=rw overlay=tmpfs options=nfsvers=3,tcp,lock; nfs_options", "ro,nfsvers=3,tcp,lock,addr=10.0.0.3"},
			{"overlay=tmpfs; overlay_options", "mode=0755,size=50%"},
			{"overlay=tmpfs:size=1G; overlay_options", "mode=0755,size=1G"},
			{"overlay=/dev/sda1; overlay_options || echo bad", "bad"},
			{"is_ipv4 10.0.0.3 && echo yes", "yes"},
			{"is_ipv4 10.0.0 || echo no", "no"},
			{"is_ipv4 10.0.0.3.4 || echo no", "no"},
			{"is_ipv4 10..0.3 || echo no", "no"},
			{"is_ipv4 server1 || echo no", "no"},
			{"is_ipv4 '' || echo no", "no"},
			{"is_hostname vm-egr.cern.ch && echo yes", "yes"},
			{"is_hostname 'a b' || echo no", "no"},
			{"is_hostname '$(x)' || echo no", "no"},
			{"mac_of_bootif 01-00-20-38-03-37-6C", "00:20:38:03:37:6c"},
		} {
			if got := strings.TrimSpace(runShell(t, shell, c.script)); got != c.want {
				t.Errorf("%s: %s: got %q, want %q", shell[0], c.script, got, c.want)
			}
		}
	}
}

// What mount says differs between util-linux versions and busybox; what the machine's owner reads must not.
func TestExplainMount(t *testing.T) {
	log := t.TempDir() + "/mount.log"
	script := writeInit(t, "/run/mount.log", log)
	for _, c := range []struct{ said, want string }{
		{"mount: /sysroot: special device 10.0.0.3:/x does not exist.", "server 10.0.0.3 has no export /x"},
		{"mount: mounting 10.0.0.3:/x on /sysroot failed: No such file or directory", "server 10.0.0.3 has no export /x"},
		{"mount: /run/netroot/ro: cannot mount 10.0.0.3:/x read-only.; dmesg(1) may have more information after failed mount system call.", "server 10.0.0.3 refused the mount of /x"},
		{"mount: /sysroot: permission denied.", "server 10.0.0.3 refused the mount of /x"},
		{"mount: /sysroot: mount(2) system call failed: Connection refused.", "server 10.0.0.3 is up, but nothing answers on its NFS port 111"},
		{"mount: /sysroot: mount(2) system call failed: No route to host.", "server 10.0.0.3 cannot be reached from 10.0.0.9/24, gateway 10.0.0.1"},
		{"mount: /sysroot: mount(2) system call failed: Connection timed out.", "server 10.0.0.3 does not answer on its NFS port 111"},
		{"mount: /sysroot: unknown filesystem type 'nfs'.", "the kernel has no NFS client for 10.0.0.3:/x"},
		{"mount: /sysroot: wrong fs type, bad option, bad superblock on 10.0.0.3:/x.", "the kernel does not take the options ro,port=111,vers=3,proto=tcp,nolock,addr=10.0.0.3"},
		{"", "10.0.0.3:/x cannot be mounted"},
	} {
		if err := os.WriteFile(log, []byte(c.said+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sh", "-c", ". "+script+"; init_defaults; server=10.0.0.3 path=/x address=10.0.0.9 prefix=24 gateway=10.0.0.1 options=port=111; explain_mount || :; echo \"$error|$advice\"", "test").Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		got, advice, _ := strings.Cut(lines[len(lines)-1], "|")
		if got != c.want || advice == "" {
			t.Errorf("mount said %q\n  explained as %q (%q), want %q", c.said, got, advice, c.want)
		}
	}
}

// The scripts are what a machine without a disk depends on: shellcheck reads them too.
func TestShellcheck(t *testing.T) {
	need.Patience(t)
	need.Tools(t, "shellcheck")
	if out, err := exec.Command("shellcheck", "-s", "sh", writeInit(t), "dhcp.sh").CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}

// What DHCP says comes from the network: nothing of it may run or end up in a file as anything but itself.
//
// The script sets network cards up. busybox's shell runs its own ip, whatever PATH says, so it is left out here; the name
// of the card is longer than a name can be (IFNAMSIZ), so that nothing can happen to a card of this machine; and
// where the test may, the script gets a network namespace of its own.
func TestDHCPScript(t *testing.T) {
	const card = "no-such-interface"
	for _, shell := range shells(t) {
		if shell[0] == "busybox" {
			continue
		}
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/ip", []byte("#!/bin/sh\necho \"$@\" >>"+dir+"/calls\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		script := dir + "/dhcp.sh"
		if err := os.WriteFile(script, []byte(strings.ReplaceAll(string(dhcpScript), "/run/netroot/dhcp", dir+"/dhcp")), 0o600); err != nil {
			t.Fatal(err)
		}
		run := func(arg string, env ...string) (calls, file string) {
			os.Remove(dir + "/calls")
			os.Remove(dir + "/dhcp")
			cmd := exec.Command(shell[0], append(shell[1:], script, arg)...)
			cmd.Env = append([]string{"PATH=" + dir}, env...)
			if os.Getuid() == 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			c, _ := os.ReadFile(dir + "/calls")
			f, _ := os.ReadFile(dir + "/dhcp")
			return string(c), string(f)
		}
		calls, file := run("", "reason=BOUND", "interface="+card, "new_ip_address=10.0.0.9", "new_subnet_mask=255.255.255.0", "new_routers=10.0.0.1 10.0.0.2",
			"new_domain_name=lab.test", "new_domain_name_servers=10.0.0.1 10.0.0.2", "new_host_name=$(reboot)'", "new_interface_mtu=9000", "new_dhcp_server_identifier=10.0.0.1")
		wantCalls := "addr add 10.0.0.9/255.255.255.0 broadcast + dev " + card + "\nlink set dev " + card + " mtu 9000\nroute replace default via 10.0.0.1 dev " + card + "\n"
		wantFile := "dhcp_address='10.0.0.9'\ndhcp_mask='255.255.255.0'\ndhcp_gateway='10.0.0.1'\ndhcp_dns='10.0.0.1 10.0.0.2'\ndhcp_domain='lab.test'\ndhcp_hostname=''\ndhcp_ntp=''\ndhcp_server='10.0.0.1'\n"
		if calls != wantCalls || file != wantFile {
			t.Errorf("%s: dhclient BOUND: calls\n%swant\n%sfile\n%swant\n%s", shell[0], calls, wantCalls, file, wantFile)
		}
		calls, file = run("bound", "interface="+card, "ip=10.0.0.9", "subnet=255.255.255.0", "router=10.0.0.1", "dns=10.0.0.1", "serverid=10.0.0.1", "domain=x;y")
		if !strings.Contains(calls, "addr add 10.0.0.9/255.255.255.0 broadcast + dev "+card+"\n") || !strings.Contains(file, "dhcp_server='10.0.0.1'") || !strings.Contains(file, "dhcp_domain=''") {
			t.Errorf("%s: udhcpc bound: calls\n%sfile\n%s", shell[0], calls, file)
		}
		for _, reason := range []string{"EXPIRE", "FAIL", "STOP", "RELEASE"} {
			if calls, file = run("", "reason="+reason, "interface="+card, "old_ip_address=10.0.0.9"); calls != "" || file != "" {
				t.Errorf("%s: %s must not touch the card: %s%s", shell[0], reason, calls, file)
			}
		}
	}
}
