package pxelinux

import (
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/golden"
	"netroot/builder/need"
)

const older = "Older generations"

func entry(ref, submenu string, cmdline ...string) Entry {
	dir := strings.Replace(ref, "@", "/", 1)
	return Entry{Label: ref, Title: ref + "  2026-03-01 12:00", Kernel: dir + "/vmlinuz", Initrd: dir + "/initrd.img", Submenu: submenu,
		Cmdline: append([]string{"root=nfs:10.0.0.1:/" + ref + ":vers=3", "ip=dhcp"}, cmdline...)}
}

var menus = map[string]Menu{
	"several": {Title: "netroot 10.0.0.1", Local: true, Memtest: "memtest86+", Entries: []Entry{
		entry("debian-12@3", "", "console=ttyS0,115200"), entry("slc68@1", ""), entry("debian-12@2", older), entry("debian-12@1", older),
		{Label: "rescue-debian-12@3", Title: "debian-12@3", Kernel: "debian-12/3/vmlinuz", Initrd: "debian-12/3/initrd.img", Submenu: "Rescue shells", Cmdline: []string{"rd.break"}}}},
	"other-port": {Title: "netroot", Serial: "ttyS1,9600", Seconds: -1, Memtest: "memtest86+", Entries: []Entry{entry("debian-12@1", "")}},
	"no-port":    {Title: "netroot", Serial: "none", Seconds: 60, Memtest: "memtest86+", Entries: []Entry{entry("debian-12@1", "")}},
	"signs":      {Title: "a && reboot || b ; c ${net0/mac} # d", Entries: []Entry{entry("debian-12@1", "")}},
	// cloud-init finds its server behind a semicolon, and needs the slash at the end.
	"seed": {Title: "netroot", Direct: true, Entries: []Entry{{Label: "ubuntu@1", Title: "ubuntu@1", Kernel: "ubuntu/1/vmlinuz", Initrd: "ubuntu/1/initrd.img",
		Cmdline: []string{"ip=dhcp", "autoinstall", "ds=nocloud-net;s=http://10.0.0.1:8080/seed/ubuntu@1/nuc/", "x=it's", `y="a b"`}}}},
	"direct":        {Title: "netroot", Direct: true, Entries: []Entry{entry("debian-12@3", "", "netroot.hostname=alpha")}},
	"empty":         {Title: "netroot 10.0.0.1", Local: true, Note: "No image is current. Make one: netroot build RECIPE"},
	"ignored":       {Local: true},
	"odd-titles":    {Title: "a^b\nSERIAL 1", Seconds: 10, Entries: []Entry{{Label: "x@1", Title: "ディスクレス\tx " + strings.Repeat("long ", 30), Kernel: "x/1/vmlinuz", Initrd: "x/1/initrd.img"}}},
	"one-of-a-kind": {Title: "netroot", Entries: []Entry{entry("debian-12@1", "")}},
}

// GRUB's own parser reads every configuration.
func TestGRUBAccepts(t *testing.T) {
	need.Tools(t, "grub-script-check")
	for name, m := range menus {
		text, err := m.GRUBConfig(net.HardwareAddr{0, 0x20, 0x38, 3, 0x37, 0x6c})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		cmd := exec.Command("grub-script-check")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s\n%s", name, err, out, text)
		}
	}
}

func TestTexts(t *testing.T) {
	for name, m := range menus {
		text, err := m.Text("")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		script, err := m.IPXEScript("http://10.0.0.1:80/")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		grub, err := m.GRUBConfig(net.HardwareAddr{0, 0x20, 0x38, 3, 0x37, 0x6c})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		files := map[string]string{name + ".cfg": text, name + ".ipxe": script, name + ".grub.cfg": grub}
		if name == "several" || name == "direct" {
			if files[name+".http.cfg"], err = m.Text("http://10.0.0.1:80/"); err != nil {
				t.Fatal(err)
			}
		}
		for file, got := range files {
			golden.Compare(t, filepath.Join("testdata", file), got)
		}
		// What holds for every configuration pxelinux reads.
		if strings.HasPrefix(text, "SERIAL ") != (m.Serial != "none") || strings.Contains(text[1:], "SERIAL ") && name != "odd-titles" {
			t.Errorf("%s: SERIAL is not the first directive", name)
		}
		for line := range strings.Lines(text) {
			if len(line) > maxCmdline+len("  APPEND \n") || strings.ContainsFunc(line[:len(line)-1], func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%s: bad line %q", name, line)
			}
		}
	}
}

func TestCommandLineLimit(t *testing.T) {
	e := entry("debian-12@3", "")
	room := maxCmdline - len("BOOT_IMAGE=debian-12/3/vmlinuz ") - len(strings.Join(e.Cmdline, " ")) - len(" initrd=debian-12/3/initrd.img") - len(" BOOTIF=01-aa-bb-cc-dd-ee-ff")
	for n, ok := range map[int]bool{room - 1: true, room: false} {
		e := entry("debian-12@3", "", strings.Repeat("x", n))
		text, err := Menu{Direct: true, Entries: []Entry{e}}.Text("")
		if (err == nil) != ok {
			t.Errorf("an argument of %d bytes: %v", n, err)
		}
		if ok && !strings.Contains(text, strings.Repeat("x", n)+"\n") {
			t.Error("the argument is not there whole")
		}
		if !ok && !strings.Contains(err.Error(), "debian-12@3: the kernel command line has 2048 bytes, and kernels keep 2047") {
			t.Error(err)
		}
	}
}

// Names with the address of the server in them count, too.
func TestCommandLineLimitWithURLs(t *testing.T) {
	const base = "http://10.0.0.1:80/"
	e := entry("debian-12@3", "")
	line := "BOOT_IMAGE=" + base + "debian-12/3/vmlinuz " + strings.Join(e.Cmdline, " ") + " initrd=" + base + "debian-12/3/initrd.img BOOTIF=01-aa-bb-cc-dd-ee-ff "
	for n, ok := range map[int]bool{maxCmdline - len(line): true, maxCmdline - len(line) + 1: false} {
		m := Menu{Direct: true, Entries: []Entry{entry("debian-12@3", "", strings.Repeat("x", n))}}
		if _, err := m.Text(base); (err == nil) != ok {
			t.Errorf("an argument of %d bytes: %v", n, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, m := range map[string]Menu{
		"new line in an argument": {Entries: []Entry{entry("a@1", "", "x\nLABEL evil")}},
		"space in a path":         {Entries: []Entry{{Label: "a@1", Kernel: "my image/vmlinuz", Initrd: "i"}}},
		"no kernel":               {Entries: []Entry{{Label: "a@1", Initrd: "i"}}},
		"twice the same":          {Entries: []Entry{entry("a@1", ""), entry("a@1", older)}},
		"in a direct boot":        {Direct: true, Entries: []Entry{entry("a@1", "", "x\ry")}},
	} {
		if text, err := m.Text(""); err == nil {
			t.Errorf("%s was written:\n%s", name, text)
		}
	}
	direct := Menu{Direct: true, Entries: []Entry{entry("a@1", "", "x=${net0/ip}")}}
	if text, err := direct.IPXEScript("tftp://10.0.0.1/"); err == nil {
		t.Errorf("iPXE would expand this:\n%s", text)
	}
	for _, base := range []string{"", "http://10.0.0.1", "http://10.0.0.1/a b/"} {
		if _, err := menus["direct"].IPXEScript(base); err == nil {
			t.Errorf("base %q was taken", base)
		}
		if _, err := menus["direct"].Text(base); err == nil && base != "" {
			t.Errorf("base %q was taken for lpxelinux", base)
		}
	}
}

// One entry that cannot be started spoils neither the menu nor the machines that it is not for.
func TestUsable(t *testing.T) {
	long, dollar := entry("long@1", "", strings.Repeat("x", maxCmdline)), entry("dollar@1", "", "x=${net0/ip}")
	good := entry("good@1", "")
	for name, c := range map[string]struct {
		entries []Entry
		ipxe    bool
		want    string
		left    int
	}{
		"iPXE":          {[]Entry{dollar, good, long}, true, "good@1", 2},
		"pxelinux":      {[]Entry{long, dollar, good}, false, "dollar@1 good@1", 1},
		"nothing bad":   {[]Entry{good}, true, "good@1", 0},
		"only bad ones": {[]Entry{long, dollar}, true, "", 2},
	} {
		m, left := Menu{Title: "netroot", Entries: c.entries, Direct: len(c.entries) == 1}.Usable("http://10.0.0.1/", c.ipxe)
		var labels []string
		for _, e := range m.Entries {
			labels = append(labels, e.Label)
		}
		if strings.Join(labels, " ") != c.want || len(left) != c.left || m.Direct != (len(c.entries) == 1) {
			t.Errorf("%s: %v, left out %v", name, labels, left)
		}
		write := m.Text
		if c.ipxe {
			write = m.IPXEScript
		}
		text, err := write("http://10.0.0.1/")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "only bad ones" && (!strings.Contains(text, "write boot entry long@1") || !strings.Contains(text, "sanboot")) {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	older := good
	older.Submenu = "Older generations"
	m, _ := (Menu{Entries: []Entry{long, older}}).Usable("", false)
	if text, err := m.Text(""); err != nil || !strings.Contains(text, "MENU DEFAULT") || strings.Contains(text, "MENU BEGIN") {
		t.Errorf("nothing but an older generation can be booted, and is not what the menu starts: %v\n%s", err, text)
	}
	if m, _ := (Menu{Direct: true, Entries: []Entry{long}}).Usable("", false); m.Direct || !m.Local || m.Note == "" {
		t.Errorf("a machine's own image: %+v", m)
	}
}
