package customize

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"netroot/builder/recipe"
	"netroot/builder/tree"
)

// folderList is where the initramfs reads which folders it is to copy into memory.
const folderList = "/usr/lib/netroot/folders"

// writable prepares a root whose folders are copied into memory at boot, one by one.
func (r rootDir) writable(rec *recipe.Recipe) error {
	if rec.Root.Writable != "bind" {
		return r.remove(folderList)
	}
	var folders []string
	for _, dir := range rec.Root.Folders {
		if err := r.mkdirAll(dir); err != nil {
			return err
		}
		at, err := tree.Resolve(r.fsys, dir)
		if err != nil {
			return err
		}
		// Where a link leads counts: another folder of the list, or one that is in memory anyway.
		if at = "/" + at; !slices.Contains(folders, at) && !strings.HasPrefix(at, "/run/") {
			folders = append(folders, at)
		}
	}
	folders = slices.DeleteFunc(folders, func(dir string) bool {
		return slices.ContainsFunc(folders, func(other string) bool { return strings.HasPrefix(dir, other+"/") })
	})
	text := "# Copied into memory by the initramfs, and writable: root: {writable: bind, folders: …} in the recipe.\n" + strings.Join(folders, "\n") + "\n"
	if err := r.writeString(folderList, text); err != nil {
		return err
	}
	if !r.hasSystemd() {
		return nil
	}
	// As for the layers of an overlay: not to be unmounted before the end.
	unit, err := parts.ReadFile("root" + units + "run-netroot-.mount.d/netroot.conf")
	if err != nil {
		return err
	}
	for _, dir := range folders {
		if err := r.writeString(path.Join(units, mountUnit(dir)+".d/netroot.conf"), string(unit)); err != nil {
			return err
		}
	}
	return nil
}

// mountUnit is the name that systemd has for what is mounted on a folder (systemd-escape(1), --path).
func mountUnit(dir string) string {
	var b strings.Builder
	for i, c := range []byte(strings.Trim(dir, "/")) {
		switch {
		case c == '/':
			b.WriteByte('-')
		case c == '.' && i == 0, !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.", rune(c)):
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + ".mount"
}
