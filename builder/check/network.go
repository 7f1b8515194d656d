package check

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"netroot/builder/tree"
)

func persistentNet(root fs.FS) (string, string, Severity) {
	const rules = "etc/udev/rules.d/70-persistent-net.rules"
	if tree.Exists(root, rules) {
		return "/" + rules + " names the network cards of another machine", "this one's would become eth1; remove the file", Error
	}
	return "", "", ""
}

const networkScripts = "etc/sysconfig/network-scripts"

// initscripts tells that the network of the root is brought up by /etc/init.d/network, as on EL6 and older.
func initscripts(root fs.FS) bool {
	return tree.Exists(root, "etc/init.d/network") && !tree.Exists(root, "usr/lib/systemd/systemd") && !tree.Exists(root, "lib/systemd/systemd")
}

func sysconfigNetwork(root fs.FS) (string, string, Severity) {
	const name = "etc/sysconfig/network"
	if !initscripts(root) {
		return "", "", ""
	}
	if !tree.Exists(root, name) {
		return "/" + name + " is missing, without which /etc/init.d/network ends at once: no card comes up, not even lo, and no name server is learned",
			"an installer writes it, and no package; put NETWORKING=yes into it (netroot build does)", Error
	}
	if v := value(root, name, "NETWORKING"); v != "yes" {
		return fmt.Sprintf("/%s says NETWORKING=%s: no card comes up, not even lo", name, v), "write NETWORKING=yes", Error
	}
	return "", "", ""
}

// runlevel is the folder of links by which init starts services.
func runlevel(root fs.FS) string {
	level := "3"
	for _, line := range readLines(root, "etc/inittab") {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == "initdefault" {
			level = f[1]
		}
	}
	for _, dir := range []string{"etc/rc.d/rc" + level + ".d", "etc/rc" + level + ".d"} {
		if tree.Exists(root, dir) {
			return dir
		}
	}
	return ""
}

func starts(root fs.FS, service string) bool {
	dir := runlevel(root)
	return dir != "" && tree.Glob(root, dir, "S[0-9][0-9]"+service) != nil
}

func networkService(root fs.FS) (string, string, Severity) {
	if !initscripts(root) || starts(root, "network") {
		return "", "", ""
	}
	return "nothing starts /etc/init.d/network: no link S10network in /" + path.Join(runlevel(root), ""), "lo stays down, and localhost does not answer; chkconfig network on (netroot build does)", Error
}

// networkManager finds one that takes the card over that / comes over: that of EL6 does not read what the initramfs tells newer ones.
func networkManager(root fs.FS) (string, string, Severity) {
	if initscripts(root) && starts(root, "NetworkManager") {
		return "NetworkManager is started, and takes over cards that ifcfg files do not keep from it", "/ comes over one of them; chkconfig NetworkManager off (netroot build does), or NM_CONTROLLED=no in every ifcfg file", Error
	}
	return "", "", ""
}

// ifcfg finds files that make a card what it was on another machine, and that there is none at all.
func ifcfg(root fs.FS) (string, string, Severity) {
	if !initscripts(root) {
		return "", "", ""
	}
	files := tree.Glob(root, networkScripts, "ifcfg-*")
	cards := 0
	for _, name := range files {
		if path.Base(name) == "ifcfg-lo" {
			continue
		}
		cards++
		if mac := value(root, name, "HWADDR"); mac != "" {
			return fmt.Sprintf("/%s is for the card with HWADDR=%s only", name, mac), "no other machine has that; take the line out", Warning
		}
	}
	if cards == 0 {
		return "no /" + networkScripts + "/ifcfg-* but that of lo", "only the card that / comes over will be up; an installer writes one for each card, with NM_CONTROLLED=no (netroot build does)", Warning
	}
	return "", "", ""
}

// peerDNS finds that no card would bring name servers: dhclient-script leaves resolv.conf alone with PEERDNS=no. In a root that netroot
// built the card that / comes over brings them, whatever is said of the others.
func peerDNS(root fs.FS) (string, string, Severity) {
	if !initscripts(root) || tree.Exists(root, "usr/lib/netroot/lease") {
		return "", "", ""
	}
	for _, line := range readLines(root, "etc/resolv.conf") {
		if strings.HasPrefix(line, "nameserver") {
			return "", "", ""
		}
	}
	all := strings.EqualFold(value(root, "etc/sysconfig/network", "PEERDNS"), "no")
	var deaf []string
	for _, name := range tree.Glob(root, networkScripts, "ifcfg-*") {
		if path.Base(name) == "ifcfg-lo" || strings.EqualFold(value(root, name, "ONBOOT"), "no") {
			continue
		}
		peer := value(root, name, "PEERDNS")
		if value(root, name, "DNS1") != "" || !strings.EqualFold(peer, "no") && (peer != "" || !all) {
			return "", "", ""
		}
		deaf = append(deaf, "/"+name)
	}
	if deaf == nil {
		return "", "", ""
	}
	return "PEERDNS=no for every card that comes up at boot (" + few(deaf) + "), and /etc/resolv.conf names no server", "no name will resolve; write PEERDNS=yes, or DNS1=ADDRESS, into one of them", Warning
}

// dhclient must run for the lease to last, and its script for other cards to get an address and name servers.
func dhclient(root fs.FS) (string, string, Severity) {
	const program = "sbin/dhclient"
	if !tree.Exists(root, program) {
		return "no /" + program + ": nobody renews the lease of the machine's address", "the DHCP server may give it to another one; add isc-dhcp-client (Debian), dhclient (EL6) or dhcp-client (EL7 and newer) to `packages`", Warning
	}
	if !executable(root, program) {
		return "/" + program + " cannot be executed", "install its package again; do not copy it without its mode", Error
	}
	for _, script := range []string{"sbin/dhclient-script", "usr/sbin/dhclient-script"} {
		if executable(root, script) {
			return "", "", ""
		}
	}
	return "no /sbin/dhclient-script that can be executed", "other cards would get no address, and name servers are not written; install the package of dhclient whole", Warning
}

// established is a rule that lets answers in.
var established = regexp.MustCompile(`-A (RH-Firewall-1-)?INPUT .*(ESTABLISHED).*-j ACCEPT`)

// refuses is one that ends all others.
var refuses = regexp.MustCompile(`^-A (RH-Firewall-1-)?INPUT (-j (DROP|REJECT)|-p udp (.*)--sport 53 .*-j (DROP|REJECT))`)

// firewall finds rules that are loaded at boot and shut out answers of the server that / is on, and of name servers.
func firewall(root fs.FS) (string, string, Severity) {
	const rules = "etc/sysconfig/iptables"
	if !starts(root, "iptables") && !tree.Exists(root, "etc/systemd/system/multi-user.target.wants/iptables.service") {
		return "", "", ""
	}
	closed := ""
	for _, line := range readLines(root, rules) {
		switch {
		case established.MatchString(line):
			return "", "", ""
		case strings.HasPrefix(line, ":INPUT DROP"), strings.HasPrefix(line, ":OUTPUT DROP"), refuses.MatchString(line):
			if closed == "" {
				closed = line
			}
		}
	}
	if closed == "" {
		return "", "", ""
	}
	return fmt.Sprintf("the firewall of /%s shuts out the answers of the server that / is on, and of name servers: %s", rules, closed),
		"accept ESTABLISHED and RELATED before it", Error
}

// readonlyRoot finds settings of initscripts that do not agree with what the initramfs did.
func readonlyRoot(root fs.FS) (string, string, Severity) {
	const name = "etc/sysconfig/readonly-root"
	if !initscripts(root) || !tree.Exists(root, name) {
		return "", "", ""
	}
	state := value(root, name, "READONLY") == "yes" || value(root, name, "TEMPORARY_STATE") == "yes"
	if bindFolders(root) != nil && value(root, name, "READONLY") != "yes" {
		return "/" + name + " does not say READONLY=yes", "rc.sysinit tries to change / into a writable one, and to check disks; say READONLY=yes (netroot build does)", Warning
	}
	if !state {
		return "", "", ""
	}
	for _, table := range slices.Concat([]string{"etc/rwtab"}, tree.Glob(root, "etc/rwtab.d", "*"), []string{"etc/statetab"}, tree.Glob(root, "etc/statetab.d", "*")) {
		for _, line := range readLines(root, table) {
			f := strings.Fields(line)
			if at := "/" + strings.Trim(f[len(f)-1], "/"); slices.ContainsFunc(bindFolders(root), func(dir string) bool { return strings.HasPrefix(at+"/", dir+"/") }) {
				return fmt.Sprintf("/%s mounts something over %s", table, at), "the initramfs has made it writable, and who replaces such a file, as dhclient-script does resolv.conf, fails; take the line out (netroot build does)", Warning
			}
		}
	}
	return "", "", ""
}
