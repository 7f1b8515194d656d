package customize

import (
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"

	"netroot/builder/recipe"
	"netroot/builder/tree"
)

// netKeys are keys of ifcfg files (sysconfig.txt of initscripts) that name a card, or an address that two machines must not
// have.
var netKeys = []string{"HWADDR", "MACADDR", "UUID", "IPADDR", "NETMASK", "PREFIX", "NETWORK", "BROADCAST", "GATEWAY", "IPV6ADDR", "IPV6_DEFAULTGW"}

var ipKey = regexp.MustCompile(`^IPADDR[0-9]*=`)

// networkScripts changes what Red Hat's scripts, and NetworkManager there, know of the original's cards. The configuration stays, with DHCP, for ifup by hand.
func (c *copiedRoot) networkScripts() error {
	var files []string
	for _, dir := range []string{"/etc/sysconfig/network-scripts", "/etc/sysconfig/networking/devices", "/etc/sysconfig/networking/profiles/default"} {
		files = append(files, c.glob(dir, "ifcfg-*")...)
	}
	for _, name := range files {
		if path.Base(name) == "ifcfg-lo" {
			continue
		}
		fixed := false
		for line := range strings.Lines(c.contents(name)) {
			fixed = fixed || ipKey.MatchString(strings.TrimSpace(line))
		}
		err := c.edit(name, "it is the original's", func(line string) (string, bool) {
			key, _, ok := strings.Cut(strings.TrimSpace(line), "=")
			if !ok {
				return line, true
			}
			if key == "BOOTPROTO" && fixed {
				return "BOOTPROTO=dhcp", true
			}
			return line, !slices.Contains(netKeys, strings.TrimRight(key, "0123456789"))
		})
		if err != nil {
			return err
		}
		// ifup has dhclient flush the addresses of a card, and / comes over one of them. Which one is not known before the boot.
		err = c.edit(name, "the card that / comes over must not be touched", func(line string) (string, bool) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && key == "ONBOOT" && strings.Trim(value, `"'`) != "no" {
				return "ONBOOT=no", true
			}
			return line, true
		})
		if err != nil {
			return err
		}
	}
	return c.edit("/etc/sysconfig/network", "it is the original's", func(line string) (string, bool) {
		switch key, _, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "HOSTNAME":
			return "HOSTNAME=" + c.rec.Hostname, true
		case "GATEWAY", "GATEWAYDEV":
			return line, false
		}
		return line, true
	})
}

// plainWords begin lines of interfaces(5) that hold no secret. Others may: wpa-psk does, and up has a whole command after it.
var plainWords = []string{
	"auto", "iface", "mapping", "inherits", "address", "netmask", "network", "broadcast", "gateway", "metric", "mtu", "hwaddress", "pointopoint", "scope",
	"dns-nameservers", "dns-search", "dns-domain", "bridge_ports", "bridge-ports", "bond-slaves", "bond-master", "vlan-raw-device",
}

// ownWord is a word that such a line may begin with and that is no secret itself, as one that goes on from the line before may be.
var ownWord = regexp.MustCompile(`^(pre-|post-)?(up|down)$|^(wpa|wireless|bridge|bond|dns|eth|openvpn|vlan)[-_]?[a-z_-]*[0-9]?$|^(provider|script|map|ssid|essid|source|options)$`)

// plainly is a line of interfaces(5) without what nobody else should see.
func plainly(line string) string {
	f := strings.Fields(line)
	switch {
	case len(f) == 0 || slices.Contains(plainWords, f[0]) || strings.HasPrefix(f[0], "allow-"):
		return strings.TrimSpace(line)
	case ownWord.MatchString(f[0]):
		return f[0] + " …"
	}
	return "…"
}

// interfaces takes every card but lo out of interfaces(5): names and addresses are the original's, and the card that / comes over must
// be left alone.
func (c *copiedRoot) interfaces() error {
	for _, name := range append([]string{"/etc/network/interfaces"}, c.glob("/etc/network/interfaces.d", "*")...) {
		out := false // in what is taken out
		err := c.editAs(name, "it names a network card of the original", plainly, func(line string) (string, bool) {
			f := strings.Fields(line)
			if isComment(line) {
				return line, true
			}
			switch {
			case f[0] == "iface" && len(f) > 1 || f[0] == "mapping":
				out = len(f) < 2 || f[1] != "lo"
			case f[0] == "auto" || strings.HasPrefix(f[0], "allow-"):
				out = false
				rest := slices.DeleteFunc(slices.Clone(f[1:]), func(card string) bool { return card != "lo" })
				if len(rest) == len(f)-1 {
					return line, true
				}
				return f[0] + " " + strings.Join(rest, " "), len(rest) > 0
			case f[0] == "source" || f[0] == "source-directory":
				out = false
			}
			return line, !out
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Keys of a connection or of a unit of systemd-networkd that are about one card or one machine.
var (
	ownConnection = regexp.MustCompile(`(?m)^\s*(mac-address|interface-name|cloned-mac-address|address1?|addresses1?)\s*=`)
	wired         = regexp.MustCompile(`(?m)^\s*type\s*=\s*(ethernet|802-3-ethernet)\s*$`)
	ownNetwork    = regexp.MustCompile(`(?m)^\s*(MACAddress|PermanentMACAddress|Address|Gateway)\s*=`)
)

// connections removes what NetworkManager, netplan and systemd-networkd know of the original's cards.
func (c *copiedRoot) connections() error {
	const why = "it is about a network card of the original"
	var gone []string
	for _, name := range c.glob("/etc/NetworkManager/system-connections", "*") {
		if text := c.contents(name); ownConnection.MatchString(text) && wired.MatchString(text) {
			gone = append(gone, name)
		}
	}
	for _, pattern := range []string{"*.network", "*.link"} {
		for _, name := range c.glob("/etc/systemd/network", pattern) {
			if ownNetwork.MatchString(c.contents(name)) {
				gone = append(gone, name)
			}
		}
	}
	gone = append(gone, c.glob("/etc/netplan", "*.yaml")...)
	for _, name := range gone {
		if err := c.drop(name, why); err != nil {
			return err
		}
	}
	return nil
}

// identity says what Apply will take away or change because two machines must not be the same.
func (c *copiedRoot) identity() error {
	if old := strings.TrimSpace(c.contents("/etc/hostname")); old != "" && old != c.rec.Hostname {
		c.note("the host name is %s, it was %s", c.rec.Hostname, old)
	}
	if strings.TrimSpace(c.contents("/etc/machine-id")) != "" && !supplies(c.rec, "/etc/machine-id") {
		c.note("/etc/machine-id emptied, every machine makes its own")
	}
	if c.contents("/etc/resolv.conf") != "" && c.link("/etc/resolv.conf") == "" && !supplies(c.rec, "/etc/resolv.conf") {
		c.note("/etc/resolv.conf emptied, DHCP's answer goes there")
	}
	keys := c.glob("/etc/ssh", "ssh_host_*_key")
	if len(keys) == 0 {
		return nil
	}
	if keepsHostKeys(c.rec) {
		c.note("the original's SSH host keys are kept, because the recipe says host_keys: keep; whoever may read the image has them")
		return nil
	}
	c.note("the original's SSH host keys removed, every machine makes its own")
	return nil
}

func keepsHostKeys(rec *recipe.Recipe) bool {
	return rec.From.Copy != nil && rec.From.Copy.HostKeys == "keep"
}

// ownName puts the recipe's host name into the original's list of hosts, which otherwise stays: it has the site's names.
func (r rootDir) ownName(names string) error {
	data, err := tree.ReadFile(r.fsys, "/etc/hosts")
	if err != nil {
		return errNoHosts
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "127.0.1.1" {
			continue
		}
		out.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	return r.writeString("/etc/hosts", out.String()+"127.0.1.1\t"+names+"\n")
}

var errNoHosts = errors.New("the root has no /etc/hosts")
