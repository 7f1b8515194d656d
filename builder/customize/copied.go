package customize

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"netroot/builder/chroot"
	"netroot/builder/recipe"
	"netroot/builder/tree"
)

// Copied takes out of a copied root what belongs to the disks, the network cards and the identity of the original, so that the
// copy can live without a disk, beside it. It comes before Apply, so that what the recipe says has the last word. It
// returns a line for each change.
func Copied(rec *recipe.Recipe, s *chroot.Session) ([]string, error) {
	return openRoot(s.Tree()).copied(rec) // where no link leads to what the session mounted: to the kernel's log, to devices
}

// CopiedDigest is the SHA-256, in hex, of what decides what Copied takes out.
func CopiedDigest() string {
	sum := sha256.Sum256(fmt.Appendln(nil, leftovers, diskServices, waiters, netKeys))
	return hex.EncodeToString(sum[:])
}

// A copiedRoot is a root that is being made diskless, with what was done to it.
type copiedRoot struct {
	rootDir
	rec     *recipe.Recipe
	changes []string
}

func (r rootDir) copied(rec *recipe.Recipe) ([]string, error) {
	c := &copiedRoot{rootDir: r, rec: rec}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"fstab", c.fstab},
		{"disks", c.diskTables},
		{"clock", c.clock},
		{"network cards", c.udevRules},
		{"network scripts", c.networkScripts},
		{"interfaces", c.interfaces},
		{"connections", c.connections},
		{"identity", c.identity},
		{"leftovers", c.leftovers},
		{"services", c.services},
		{"logs", c.logs},
	} {
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return c.changes, nil
}

func (c *copiedRoot) note(format string, args ...any) {
	c.changes = append(c.changes, "changed in the copy: "+fmt.Sprintf(format, args...))
}

// edit changes a file line by line: each line, without its end, is replaced by what change returns, or taken out. The file keeps
// its owner and mode. Each line that changed is noted, with why.
func (c *copiedRoot) edit(name, why string, change func(line string) (string, bool)) error {
	return c.editAs(name, why, strings.TrimSpace, change)
}

// editAs is edit of a file that may hold secrets: notes are for everybody to read, and have of a line what show says.
func (c *copiedRoot) editAs(name, why string, show func(line string) string, change func(line string) (string, bool)) error {
	resolved, err := tree.Resolve(c.fsys, name)
	if err != nil {
		return nil // not there, or a link to nowhere
	}
	data, err := tree.ReadFile(c.fsys, resolved)
	if err != nil {
		return nil // a folder of that name
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(data)) {
		text := strings.TrimRight(line, "\r\n")
		now, keep := change(text)
		switch {
		case !keep:
			c.note("/%s: %q taken out, %s", resolved, show(text), why)
			continue
		case now != text:
			c.note("/%s: %q is now %q, %s", resolved, show(text), show(now), why)
			line = now + "\n"
		}
		out.WriteString(line)
	}
	if bytes.Equal(out.Bytes(), data) {
		return nil
	}
	return c.overwrite(resolved, out.Bytes())
}

// overwrite gives a file other contents; it keeps its owner and mode.
func (c *copiedRoot) overwrite(resolved string, data []byte) error {
	info, err := os.Lstat(c.host(resolved))
	if err != nil {
		return err
	}
	a := attributes{mode: 0o644}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		a = attributes{st.Mode & 0o7777, int(st.Uid), int(st.Gid)}
	}
	return c.write("/"+resolved, bytes.NewReader(data), a)
}

// drop takes files away, with what is below them if they are folders.
func (c *copiedRoot) drop(name, why string) error {
	resolved, err := tree.ResolveParent(c.fsys, name)
	if err != nil {
		return nil
	}
	if _, err := os.Lstat(c.host(resolved)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(c.host(resolved)); err != nil {
		return fmt.Errorf("remove %s: %w", name, cause(err))
	}
	c.note("%s removed, %s", name, why)
	return nil
}

// contents is what a file holds; "" when there is none.
func (c *copiedRoot) contents(name string) string {
	data, err := tree.ReadFile(c.fsys, name)
	if err != nil {
		return ""
	}
	return string(data)
}

// isComment tells that a line of a table says nothing.
func isComment(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || line[0] == '#' || line[0] == ';'
}

// localTypes are file systems of disks.
var localTypes = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "jfs", "reiserfs", "f2fs", "zfs", "vfat", "msdos", "exfat", "ntfs", "ntfs-3g", "iso9660", "udf", "hfsplus", "swap"}

// fstab takes out what is on disks, and the root, which is mounted before the table is read. Network file systems, tmpfs and bind
// mounts stay.
func (c *copiedRoot) fstab() error {
	var swap []string
	err := c.edit("/etc/fstab", "there is no such disk", func(line string) (string, bool) {
		f := strings.Fields(line)
		if isComment(line) || len(f) < 3 {
			return line, true
		}
		local := slices.Contains(localTypes, f[2]) || f[1] == "/"
		for _, prefix := range []string{"/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID="} {
			local = local || strings.HasPrefix(f[0], prefix)
		}
		// A bind mount, or an image of a disk that is a file of the root.
		if strings.HasPrefix(f[0], "/") && !strings.HasPrefix(f[0], "/dev/") && len(f) > 3 && f[1] != "/" &&
			slices.ContainsFunc(strings.Split(f[3], ","), func(o string) bool { return o == "bind" || o == "rbind" || strings.HasPrefix(o, "loop") }) {
			local = false
		}
		if f[2] == "swap" && strings.HasPrefix(f[0], "/") && !strings.HasPrefix(f[0], "/dev/") {
			swap = append(swap, f[0])
		}
		return line, !local
	})
	for _, name := range swap {
		err = errors.Join(err, c.drop(name, "it was swap"))
	}
	return err
}

// diskTables empties what names parts of disks.
func (c *copiedRoot) diskTables() error {
	arrays := func(line string) (string, bool) {
		f := strings.Fields(line)
		return line, len(f) == 0 || !strings.EqualFold(f[0], "ARRAY")
	}
	return errors.Join(
		c.edit("/etc/crypttab", "there is no such disk", func(line string) (string, bool) { return line, isComment(line) }),
		c.edit("/etc/mdadm/mdadm.conf", "there is no such disk", arrays),
		c.edit("/etc/mdadm.conf", "there is no such disk", arrays),
	)
}

// clock takes away how much the original's clock is fast or slow (hwclock(8)). Whether it keeps local time stays.
func (c *copiedRoot) clock() error {
	n := 0
	return c.edit("/etc/adjtime", "it was measured on the original's clock", func(line string) (string, bool) {
		n++
		switch f := strings.Fields(line); {
		case n == 1 && len(f) > 0 && strings.Trim(f[0], "+-0.") != "":
			return "0.0 0 0.0", true
		case n == 2:
			return "0", true
		}
		return line, true
	})
}

// bindsCard is a condition of a udev rule on a MAC, in the words of today and of EL6.
var bindsCard = regexp.MustCompile(`(ATTRS?|SYSFS)\{address\}\s*==`)

// udevRules takes out rules that name network cards by their MAC.
func (c *copiedRoot) udevRules() error {
	for _, name := range c.glob("/etc/udev/rules.d", "*.rules") {
		if ok, _ := path.Match("*persistent-net.rules", path.Base(name)); ok {
			continue // removed whole, with the leftovers
		}
		err := c.edit(name, "it names a network card of the original", func(line string) (string, bool) {
			return line, isComment(line) || !bindsCard.MatchString(line) || !strings.Contains(line, "NAME")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// logs makes the files that login programs only write to when they are there (EL6; elsewhere tmpfiles.d has them).
func (c *copiedRoot) logs() error {
	utmp, _ := c.group("utmp")
	for name, mode := range map[string]uint32{"/var/log/wtmp": 0o664, "/var/log/btmp": 0o600, "/var/log/lastlog": 0o664, "/var/run/utmp": 0o664} {
		// Where /var/run is a link, it leads to what is made at boot.
		if c.exists(name) || c.link(path.Dir(name)) != "" || !c.exists(path.Dir(name)) {
			continue
		}
		if err := c.write(name, strings.NewReader(""), attributes{mode: mode, gid: utmp}); err != nil {
			return err
		}
	}
	return nil
}
