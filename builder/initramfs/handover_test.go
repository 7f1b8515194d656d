package initramfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// handOver runs a script with init.sh's functions, in which / of the new root and /run are folders of the test.
func handOver(t *testing.T, shell []string, script string) (root, run string) {
	t.Helper()
	dir := t.TempDir()
	root, run = filepath.Join(dir, "root"), filepath.Join(dir, "run")
	for _, d := range []string{filepath.Join(root, "etc"), filepath.Join(run, "netroot")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const hosts = "# of the image\n127.0.0.1\tlocalhost\n127.0.1.1\tdebian-12\n127.0.1.10\tother\n::1\tlocalhost ip6-localhost\n"
	if err := os.WriteFile(filepath.Join(root, "etc/hosts"), []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	moved := writeInit(t, "/run/", run+"/", "new=/sysroot ", "new="+root+" ")
	runShell(t, shell, ". "+moved+"; init_defaults; "+script)
	return root, run
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if data, err := os.ReadFile(path); err != nil || string(data) != want {
		t.Errorf("%s holds %q (%v), want %q", filepath.Base(path), data, err, want)
	}
}

// The root's own network managers must not touch the card that the root comes over.
func TestSpareCard(t *testing.T) {
	for _, shell := range shells(t) {
		_, run := handOver(t, shell, "card=eth1 mac=00:20:38:03:37:6c; spare_card")
		wantFile(t, run+"/systemd/network/00-netroot.link",
			"[Match]\nType=ether\nMACAddress=00:20:38:03:37:6c\n[Link]\nNamePolicy=keep\nAlternativeNamesPolicy=database onboard slot path\n")
		wantFile(t, run+"/systemd/network/00-netroot.network", "[Match]\nName=eth1\n[Link]\nUnmanaged=yes\nRequiredForOnline=no\n")
		wantFile(t, run+"/NetworkManager/conf.d/00-netroot.conf", "[keyfile]\nunmanaged-devices=interface-name:eth1\n")
	}
}

func TestNameInHosts(t *testing.T) {
	const before, after = "# of the image\n127.0.0.1\tlocalhost\n127.0.1.1\t", "\n127.0.1.10\tother\n::1\tlocalhost ip6-localhost\n"
	for _, shell := range shells(t) {
		for name, want := range map[string]string{
			"vmegr":             "vmegr",
			"vmegr.lab.example": "vmegr.lab.example vmegr",
			"debian-12":         "debian-12",
			"other":             "debian-12", // it has a line already
		} {
			root, _ := handOver(t, shell, "hostname="+name+"; name_hosts")
			wantFile(t, root+"/etc/hosts", before+want+after)
		}
	}
}

// initscripts must find no file for the card that / comes over, whatever the file is called, and keep those of others.
func TestSpareIfcfg(t *testing.T) {
	files := map[string]string{
		"ifcfg-lo": "DEVICE=lo\n", "ifcfg-eth0": "DEVICE=eth0\nONBOOT=no\n", "ifcfg-eth1": "ONBOOT=yes\nBOOTPROTO=dhcp", "ifcfg-office": "DEVICE=\"eth1\"\n",
		"ifcfg-lan": "# copied\nHWADDR='00:20:38:03:37:6C'\nIPADDR=10.1.2.3\n", "ifcfg-eth1:0": "DEVICE=eth1:0\n",
	}
	for _, shell := range shells(t) {
		var script strings.Builder
		script.WriteString("cd \"$new/etc\"; mkdir -p sysconfig/network-scripts; cd sysconfig/network-scripts\n")
		for name, text := range files {
			script.WriteString("printf '%s' " + quote(text) + " >" + name + "\n")
		}
		root, run := handOver(t, shell, script.String()+"card=eth1 mac=00:20:38:03:37:6c; spare_ifcfg")
		for name, stays := range map[string]bool{"ifcfg-lo": true, "ifcfg-eth0": true, "ifcfg-eth1": false, "ifcfg-office": false, "ifcfg-lan": false, "ifcfg-eth1:0": true} {
			if _, err := os.Stat(root + "/etc/sysconfig/network-scripts/" + name); (err == nil) != stays {
				t.Errorf("%s: %s: %v", shell[0], name, err)
			}
			if !stays {
				wantFile(t, run+"/netroot/"+name, files[name])
			}
		}
	}
}

func TestNameInSysconfig(t *testing.T) {
	for _, shell := range shells(t) {
		root, _ := handOver(t, shell, "mkdir -p \"$new/etc/sysconfig\"; printf 'NETWORKING=yes\\nHOSTNAME=image\\nGATEWAY=10.0.0.1' >\"$new/etc/sysconfig/network\"; hostname=vmegr; name_network")
		wantFile(t, root+"/etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=vmegr\nGATEWAY=10.0.0.1\n")
	}
}
