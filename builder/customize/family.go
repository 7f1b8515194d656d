package customize

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"netroot/builder/chroot"
	"netroot/builder/recipe"
	"netroot/builder/tree"
)

// A provision is something that an installer would have left behind and no package owns. Its first result tells what was done;
// "" when there was nothing to do.
type provision struct {
	path string // a recipe that puts a file there has its way
	make func(c *customizer, name string) (string, error)
}

// A family is a kind of distribution.
type family struct {
	name       string
	is         func(rootDir) bool
	provisions []provision
}

// families of distributions, and what a root made of their packages lacks. Debian's packages bring all of it. A root may be of
// several.
var families = []family{
	{"with initscripts (EL6 and older)", rootDir.hasInitscripts, []provision{
		// "network" does nothing without it, not even the loopback interface, and nothing after it has an answer from localhost.
		{"/etc/sysconfig/network", (*customizer).network},
		{scriptsIfcfg + "ifcfg-eth0", (*customizer).ifcfg},
		{"/etc/fstab", (*customizer).kernelFstab},
		{"/etc/sysconfig/readonly-root", (*customizer).readonlyRoot},
		{"", (*customizer).noTables},
		{"", (*customizer).initServices},
	}},
	{"Enterprise Linux", rootDir.isEnterprise, []provision{
		{"/etc/selinux/config", (*customizer).noSELinux},
	}},
	{"with upstart", rootDir.hasUpstart, []provision{
		{"", (*customizer).upstartConsoles},
	}},
	{"with inittab", rootDir.hasInittab, []provision{
		{"/etc/inittab", (*customizer).inittabConsoles},
	}},
	{"without systemd", func(r rootDir) bool { return !r.hasSystemd() }, []provision{
		{"/etc/securetty", (*customizer).securetty},
		{"", (*customizer).initLinks},
	}},
}

const scriptsIfcfg = "/etc/sysconfig/network-scripts/"

func (r rootDir) hasInitscripts() bool {
	return !r.hasSystemd() && r.exists("/etc/rc.d/init.d") && (r.exists("/etc/rc.d/init.d/network") || r.exists(scriptsIfcfg))
}

func (r rootDir) isEnterprise() bool {
	return r.exists("/etc/redhat-release") || r.exists("/etc/system-release") || r.exists("/etc/selinux/config")
}

func (r rootDir) hasUpstart() bool {
	return r.exists("/etc/init/rc.conf") || r.exists("/etc/init/rcS.conf")
}

func (r rootDir) hasInittab() bool {
	return !r.hasSystemd() && !r.hasUpstart() && r.exists("/etc/inittab")
}

// provide gives a root what an installer would have, and notes each thing.
func (c *customizer) provide() error {
	for _, f := range families {
		if !f.is(c.root) {
			continue
		}
		for _, p := range f.provisions {
			if p.path != "" && supplies(c.rec, p.path) {
				continue
			}
			done, err := p.make(c, p.path)
			if err != nil {
				return fmt.Errorf("a root %s: %w", f.name, err)
			}
			if done != "" {
				c.log.Info("provided what no package has", "what", done)
				c.notes = append(c.notes, "no package has it, so the build did: "+done)
			}
		}
	}
	return nil
}

func (c *customizer) network(name string) (string, error) {
	if c.root.exists(name) {
		return "", nil
	}
	return "wrote " + name, c.root.writeString(name, "NETWORKING=yes\nHOSTNAME="+c.rec.Hostname+"\n")
}

// ifcfg is for a card that is not the one that / comes over; the initramfs puts the file of that one aside. A second card comes up
// only when somebody says so: with DHCP's answer there it would take over the default route and the name servers.
func (c *customizer) ifcfg(name string) (string, error) {
	for _, other := range c.root.glob(scriptsIfcfg, "ifcfg-*") {
		if path.Base(other) != "ifcfg-lo" {
			return "", nil
		}
	}
	const text = "# The card that / comes over is up before this is read, and its lease is kept by /etc/init.d/netroot. This is for the other.\n" +
		"DEVICE=eth0\nTYPE=Ethernet\nBOOTPROTO=dhcp\nONBOOT=no\nNM_CONTROLLED=no\nPEERDNS=no\nDEFROUTE=no\n"
	return "wrote " + name, c.root.writeString(name, text)
}

// kernelFS are lines of fstab by which rc.sysinit mounts file systems of the kernel.
var kernelFS = []struct{ dir, line string }{
	{"/dev/shm", "tmpfs   /dev/shm  tmpfs   defaults        0 0\n"}, {"/dev/pts", "devpts  /dev/pts  devpts  gid=5,mode=620  0 0\n"},
	{"/sys", "sysfs   /sys      sysfs   defaults        0 0\n"}, {"/proc", "proc    /proc     proc    defaults        0 0\n"},
}

// kernelFstab lists what rc.sysinit mounts by what fstab says. What else is there stays: a copy's network file systems.
func (c *customizer) kernelFstab(name string) (string, error) {
	data, err := tree.ReadFile(c.root.fsys, strings.TrimPrefix(name, "/"))
	if err != nil && c.root.exists(name) {
		return "", err
	}
	text, added := string(data), []string(nil)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	for _, k := range kernelFS {
		if !slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
			f := strings.Fields(line)
			return len(f) > 2 && f[0][0] != '#' && path.Clean(f[1]) == k.dir
		}) {
			text += k.line
			added = append(added, k.dir)
		}
	}
	if added == nil {
		return "", nil
	}
	return "added the file systems of the kernel to " + name + ": " + strings.Join(added, ", "), c.root.writeString(name, text)
}

// readonlyRoot tells rc.sysinit whether / can be written to. Where it cannot, rc.sysinit checks no file systems and does not try
// to change it; the state that it would make itself, by rwtab, is there already with bind.
func (c *customizer) readonlyRoot(name string) (string, error) {
	if !c.root.exists(name) {
		return "", nil
	}
	value := map[bool]string{true: "no", false: "yes"}[c.rec.Root.Writable == "overlay"]
	changed, err := c.root.assign(name, "READONLY", value)
	if err != nil || c.rec.Root.Writable == "no" {
		return changed, err
	}
	other, err := c.root.assign(name, "TEMPORARY_STATE", "no")
	return strings.Join(slices.DeleteFunc([]string{changed, other}, func(s string) bool { return s == "" }), ", "), err
}

const emptiedTable = "# See /etc/sysconfig/readonly-root: the initramfs makes the root writable.\n"

// noTables empties tables of files that rc.sysinit would each mount something over: /etc/resolv.conf is one, and whoever replaces such a
// file (dhclient-script does) fails. Packages have theirs in folders.
func (c *customizer) noTables(string) (string, error) {
	if c.rec.Root.Writable == "no" {
		return "", nil
	}
	var done []string
	for _, table := range []string{"/etc/rwtab", "/etc/statetab"} {
		for _, name := range append([]string{table}, c.root.glob(table+".d", "*")...) {
			if supplies(c.rec, name) || !c.root.says(name) {
				continue
			}
			if err := c.root.writeString(name, emptiedTable); err != nil {
				return "", err
			}
			done = append(done, name)
		}
	}
	if done == nil {
		return "", nil
	}
	return "emptied " + strings.Join(done, ", ") + ", because the initramfs makes folders writable as a whole", nil
}

// noSELinux: an NFS version 3 mount has no labels, and an enforcing init without them stops the machine.
func (c *customizer) noSELinux(name string) (string, error) {
	return c.root.assign(name, "SELINUX", "disabled")
}

// assign sets a variable in a file of NAME=VALUE lines, which is made when it is missing.
func (r rootDir) assign(name, key, value string) (string, error) {
	data, err := tree.ReadFile(r.fsys, strings.TrimPrefix(name, "/"))
	if err != nil && r.exists(name) {
		return "", err
	}
	var out []string
	found := false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(strings.TrimSpace(line), key+"=") {
			if found {
				continue
			}
			found, line = true, key+"="+value
		}
		out = append(out, line)
	}
	if !found {
		out = append(out, key+"="+value)
	}
	text := strings.Join(out, "\n") + "\n"
	if text == string(data) {
		return "", nil
	}
	return fmt.Sprintf("set %s=%s in %s", key, value, name), r.writeString(name, text)
}

// initServices turns on what brings up the loopback interface and mounts /home and its like, and off what would take cards over.
func (c *customizer) initServices(string) (string, error) {
	var done []string
	for _, s := range []struct {
		name string
		on   bool
	}{{"network", true}, {"netfs", true}, {"NetworkManager", false}} {
		if !c.root.exists("/etc/init.d/"+s.name) || slices.Contains(c.rec.Services.Enable, s.name) || slices.Contains(c.rec.Services.Disable, s.name) {
			continue
		}
		word := map[bool]string{true: "on", false: "off"}[s.on]
		if _, ok := tree.LookPath(c.root.fsys, "chkconfig"); ok {
			if err := c.run(c.ctx, chroot.Command{Args: []string{"chkconfig", s.name, word}}); err != nil {
				return "", fmt.Errorf("chkconfig %s %s: %w", s.name, word, err)
			}
		} else if err := c.root.setInitLinks(s.name, s.on); err != nil {
			return "", err
		}
		done = append(done, s.name+" "+word)
	}
	if done == nil {
		return "", nil
	}
	return "switched services: " + strings.Join(done, ", "), nil
}

// initLinks has init start the scripts that keep the address and tell the server.
func (c *customizer) initLinks(string) (string, error) {
	if !c.root.exists("/etc/init.d") {
		return "", nil
	}
	for _, name := range []string{"netroot", "netroot-up"} {
		err := error(nil)
		if _, ok := tree.LookPath(c.root.fsys, "update-rc.d"); ok {
			// Debian's rc orders them by what it finds in a file that this writes, and not by their numbers.
			err = c.run(c.ctx, chroot.Command{Args: []string{"update-rc.d", name, "defaults"}})
		} else {
			err = c.root.setInitLinks(name, true)
		}
		if err != nil {
			return "", err
		}
	}
	// Before all are told to end. In runlevel 1 the address is still needed.
	for _, level := range []string{"0", "6"} {
		if err := c.root.symlink("../init.d/netroot", c.root.runlevel(level)+"/K99netroot"); err != nil {
			return "", err
		}
	}
	return "had init start netroot and netroot-up", nil
}

func (r rootDir) runlevel(level string) string {
	if r.exists("/etc/rc.d/rc3.d") || r.exists("/etc/rc.d/init.d") {
		return "/etc/rc.d/rc" + level + ".d"
	}
	return "/etc/rc" + level + ".d"
}

// setInitLinks makes the links by which rc starts a service, or those by which it does not, as chkconfig(8) would: the script says in
// which runlevels and when.
func (r rootDir) setInitLinks(name string, on bool) error {
	levels, start, stop := r.chkconfig(name)
	for level := range 7 {
		dir := r.runlevel(fmt.Sprint(level))
		for _, pattern := range []string{"S[0-9][0-9]" + name, "K[0-9][0-9]" + name} {
			for _, old := range r.glob(dir, pattern) {
				if err := r.remove(old); err != nil {
					return err
				}
			}
		}
		link := ""
		switch {
		case on && strings.Contains(levels, fmt.Sprint(level)):
			link = "S" + start + name
		case !on:
			link = "K" + stop + name
		default:
			continue
		}
		if err := r.symlink("../init.d/"+name, dir+"/"+link); err != nil {
			return err
		}
	}
	return nil
}

// chkconfig reads the line of an init script that says where it belongs: "# chkconfig: 2345 10 90".
func (r rootDir) chkconfig(name string) (levels, start, stop string) {
	data, err := tree.ReadFile(r.fsys, "etc/init.d/"+name)
	if err == nil {
		for line := range strings.Lines(string(data)) {
			rest, ok := strings.CutPrefix(strings.TrimLeft(line, "# \t"), "chkconfig:")
			if f := strings.Fields(rest); ok && len(f) == 3 {
				if f[0] == "-" {
					f[0] = "2345"
				}
				return f[0], fmt.Sprintf("%02s", f[1]), fmt.Sprintf("%02s", f[2])
			}
		}
	}
	return "2345", "50", "50"
}

// serialConsoles are the serial lines that the kernel's command line names, with their speeds; the last console of all is
// /dev/console.
func serialConsoles(rec *recipe.Recipe) (lines, speeds []string, last string) {
	for _, arg := range rec.Kernel.Cmdline {
		value, ok := strings.CutPrefix(arg, "console=")
		if !ok {
			continue
		}
		line, options, _ := strings.Cut(value, ",")
		last = line
		if !strings.HasPrefix(line, "ttyS") && !strings.HasPrefix(line, "ttyUSB") && !strings.HasPrefix(line, "ttyAMA") || slices.Contains(lines, line) {
			continue
		}
		speed := strings.TrimRight(options, "noe78r") // "115200n8" (kernel/Documentation/admin-guide/serial-console.rst)
		if i := strings.IndexFunc(options, func(c rune) bool { return c < '0' || c > '9' }); i >= 0 {
			speed = options[:i]
		}
		if speed == "" {
			speed = "9600"
		}
		lines, speeds = append(lines, line), append(speeds, speed)
	}
	return lines, speeds, last
}

// upstartConsoles: serial.conf of EL6 looks after the serial line that is /dev/console, and says how to have others.
func (c *customizer) upstartConsoles(string) (string, error) {
	lines, speeds, last := serialConsoles(c.rec)
	var done []string
	for i, line := range lines {
		name := "/etc/init/" + line + ".conf"
		if supplies(c.rec, name) || c.root.exists(name) || line == last && c.root.exists("/etc/init/serial.conf") {
			continue
		}
		text := fmt.Sprintf("# A login on %s, which console= on the kernel's command line names.\nstart on stopped rc RUNLEVEL=[2345]\nstop on runlevel [S016]\nrespawn\nexec /sbin/agetty -L /dev/%s %s vt100\n", line, line, speeds[i])
		if err := c.root.writeString(name, text); err != nil {
			return "", err
		}
		done = append(done, "wrote "+name)
	}
	return strings.Join(done, ", "), nil
}

func (c *customizer) inittabConsoles(name string) (string, error) {
	lines, speeds, _ := serialConsoles(c.rec)
	data, err := tree.ReadFile(c.root.fsys, strings.TrimPrefix(name, "/"))
	if err != nil {
		return "", err
	}
	getty, ok := tree.LookPath(c.root.fsys, "agetty")
	if !ok {
		if getty, ok = tree.LookPath(c.root.fsys, "getty"); !ok {
			return "", nil
		}
	}
	text, done := strings.TrimRight(string(data), "\n")+"\n", []string(nil)
	for i, line := range lines {
		if slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool {
			return !strings.HasPrefix(strings.TrimSpace(l), "#") && strings.Contains(l, line)
		}) {
			continue
		}
		id := strings.TrimPrefix(line, "tty") // at most four characters (inittab(5))
		text += fmt.Sprintf("%.4s:2345:respawn:/%s -L %s %s vt100\n", id, getty, speeds[i], line)
		done = append(done, line)
	}
	if done == nil {
		return "", nil
	}
	return "added a login on " + strings.Join(done, ", ") + " to " + name, c.root.writeString(name, text)
}

// securetty lets root log in on the serial lines, where the root has such a list.
func (c *customizer) securetty(name string) (string, error) {
	data, err := tree.ReadFile(c.root.fsys, strings.TrimPrefix(name, "/"))
	if err != nil {
		return "", nil
	}
	lines, _, _ := serialConsoles(c.rec)
	lines = slices.DeleteFunc(lines, func(line string) bool { return slices.Contains(strings.Fields(string(data)), line) })
	if len(lines) == 0 {
		return "", nil
	}
	info, err := tree.Stat(c.root.fsys, name)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(data), "\n") + "\n" + strings.Join(lines, "\n") + "\n"
	return "added " + strings.Join(lines, ", ") + " to " + name, c.root.write(name, strings.NewReader(text), attributes{mode: uint32(info.Mode().Perm())})
}
