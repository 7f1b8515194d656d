package recipe

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"netroot/builder/strictyaml"
)

// bindFolders are what programs write to on an ordinary machine, and small in an image. They are writable with `writable: bind` when
// the recipe names no others.
var bindFolders = []string{"/etc", "/var", "/root", "/tmp", "/home", "/mnt", "/media"}

// mounted are other file systems at boot.
var mounted = []string{"/proc", "/sys", "/dev", "/run"}

// foldersPattern has no blanks and nothing that a shell or mount(8) would take for something else.
const foldersPattern = `^(/([A-Za-z0-9_][A-Za-z0-9_.+@-]*|\.[A-Za-z0-9_][A-Za-z0-9_.+@-]*))+$`

func inside(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func (c *checker) root() {
	c.given("$.root.writable", c.Root.Writable)
	c.word("$.root.size", c.Root.Size, sizeRE, "a size: a share of the memory (50%) or an amount (512m, 2g)")
	c.each("$.root.folders", c.Root.Folders, func(dir string) error {
		if i := slices.IndexFunc(mounted, func(m string) bool { return inside(dir, m) }); i >= 0 {
			return fmt.Errorf("%s is another file system at boot, and writable", mounted[i])
		}
		if filepath.Clean(dir) != dir {
			return fmt.Errorf("%q is not the plain path of a folder", dir)
		}
		return match(dir, foldersRE, "the absolute path of a folder, of letters, digits and ._+@-")
	})
	for i, dir := range c.Root.Folders {
		holds := func(other string) bool { return dir != other && inside(dir, other) }
		if j := slices.IndexFunc(c.Root.Folders, holds); j >= 0 {
			c.at(fmt.Sprintf("$.root.folders[%d]", i), "%s is in %s, which is listed on line %d", dir, c.Root.Folders[j], c.doc.Line(fmt.Sprintf("$.root.folders[%d]", j)))
		}
	}
}

// checkFolders checks what only the merged recipe tells of its writable folders.
func checkFolders(parts []part, r *Recipe) []*strictyaml.Error {
	if len(r.Root.Folders) == 0 || r.Root.Writable == "bind" {
		return nil
	}
	e := parts[0].doc.At("$.root.folders", "folders are listed, but the root is not writable by folders")
	return []*strictyaml.Error{e.WithHint("add writable: bind, or take folders: away")}
}

// outermost leaves out folders that are in others of the list: an including recipe may have named what holds them.
func outermost(folders []string) []string {
	return slices.DeleteFunc(slices.Clone(folders), func(dir string) bool {
		return slices.ContainsFunc(folders, func(other string) bool { return dir != other && inside(dir, other) })
	})
}
