package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/boot/install"
	"netroot/boot/tftpboot"
	"netroot/builder/store"
)

// store looks at what there is to hand out.
func (d *Doctor) store() []Finding {
	about := "store " + d.Store.Dir()
	images, err := d.Store.Images()
	if err != nil {
		return []Finding{unread(about, err)}
	}
	var list []Finding
	say := func(level, about, what, wayOut string) {
		list = append(list, Finding{Level: level, About: about, What: what, WayOut: wayOut})
	}
	if len(images) == 0 {
		say(Fault, about, "it holds no image: machines have nothing to boot", "netroot build debian-12")
	}
	var largest int64
	for _, image := range images {
		gens, err := d.Store.Generations(image)
		if err != nil {
			say(Fault, image, err.Error(), needsRoot(err))
			continue
		}
		current := ""
		for _, g := range gens {
			largest = max(largest, g.Size())
			if what := broken(g); what != "" {
				level := Note
				if g.Current {
					level = Fault
				}
				say(level, g.Ref(), "it is broken: "+what, fmt.Sprintf("netroot rollback %s, or build it again", image))
			}
			if g.Current {
				current = g.Ref()
				if m := g.Manifest.Medium; m != nil && m.Memory > 0 {
					say(Note, current, fmt.Sprintf("a machine downloads %s into its memory, and needs at least %d MB", m.File, m.Memory/1e6), wayAroundMemory(m))
				}
			}
		}
		if current == "" {
			say(Fault, image, fmt.Sprintf("none of its %d generations is current: it is in no menu", len(gens)), "netroot promote "+image+"@NUMBER")
		} else {
			say(OK, image, fmt.Sprintf("%s is current, of %d generations", current, len(gens)), "")
		}
	}
	for _, ref := range slices.Compact(slices.Sorted(slices.Values(d.Policy.Images()))) {
		if _, err := d.Store.Resolve(ref); err != nil {
			say(Fault, ref, "the policy names it, and the store has it not: "+err.Error(), "build it, or correct "+d.Policy.File())
		}
	}
	endless := (&install.Desk{Store: d.Store}).Endless(d.Policy)
	for _, name := range slices.Sorted(maps.Keys(endless)) {
		say(Note, name, endless[name], "an image that installs by itself, or, each time: netroot nodes --installed "+name)
	}
	list = append(list, d.loader()...)
	if len(images) > 0 {
		list = append(list, d.folder(largest)...)
	}
	return list
}

// unread is about a store that cannot be read. That this user may not is in nobody's way: serve runs as another one.
func unread(about string, err error) Finding {
	if errors.Is(err, fs.ErrPermission) {
		return Finding{Level: Note, About: about, What: "it was not looked at: " + err.Error(), WayOut: needsRoot(err)}
	}
	return Finding{Level: Fault, About: about, What: err.Error()}
}

// wayAroundMemory is another way to deliver a medium.
func wayAroundMemory(m *store.Medium) string {
	if m.Family == store.DracutLive {
		return ""
	}
	return "deliver: nfs in the recipe, with which it reads only what it uses"
}

// broken says what is wrong with the files of a generation, as far as it shows without reading them whole.
func broken(g store.Generation) string {
	if g.Err != nil {
		return g.Err.Error()
	}
	for name, part := range g.Manifest.Parts {
		info, err := os.Stat(g.Path(name))
		switch {
		case err != nil:
			return err.Error()
		case info.Size() != part.Size:
			return fmt.Sprintf("%s has %d bytes and had %d", name, info.Size(), part.Size)
		}
	}
	return ""
}

// Files that not every store has.
const (
	httpLoader = "lpxelinux.0"
	memtest    = "memtest86+"
)

// loader looks for the boot loaders.
func (d *Doctor) loader() []Finding {
	missing := func(names []string) (list []string) {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(d.Store.LoaderDir(), name)); errors.Is(err, fs.ErrNotExist) {
				list = append(list, name)
			}
		}
		return list
	}
	about := d.Store.LoaderDir()
	if m := missing(tftpboot.LoaderFiles()); len(m) > 0 {
		return []Finding{{Level: Fault, About: about, What: "files of pxelinux are missing: " + strings.Join(m, " "),
			WayOut: "apt-get install pxelinux syslinux-common, and netroot build, which copies them"}}
	}
	list := []Finding{{Level: OK, About: about, What: "pxelinux is there"}}
	loaders := []string{d.Policy.Loader}
	for _, n := range d.Policy.Networks {
		loaders = append(loaders, n.Loader)
	}
	if slices.Contains(loaders, httpLoader) && len(missing([]string{httpLoader})) > 0 {
		list = append(list, Finding{Level: Fault, About: about, What: "the policy has machines load " + httpLoader + ", and it is missing", WayOut: "apt-get install pxelinux, and netroot build, which copies it"})
	}
	if len(missing([]string{memtest})) > 0 {
		list = append(list, Finding{Level: Note, About: about, What: "menus have no memory test: " + memtest + " is missing", WayOut: "apt-get install memtest86+, and netroot build, which copies it"})
	}
	return list
}

// folder looks at who may read the store and at the room it has.
func (d *Doctor) folder(largest int64) []Finding {
	about := "store " + d.Store.Dir()
	info, err := os.Stat(d.Store.Dir())
	if err != nil {
		return []Finding{{Level: Fault, About: about, What: err.Error()}}
	}
	var list []Finding
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		list = append(list, Finding{Level: Fault, About: about, What: fmt.Sprintf("everybody on this machine may look into it (mode %04o), and root images hold password hashes and host keys", mode),
			WayOut: "chmod o= " + d.Store.Dir()})
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.Store.Dir(), &st); err != nil {
		return append(list, Finding{Level: Note, About: about, What: "look how much room it has: " + err.Error()})
	}
	free := int64(st.Bavail) * st.Bsize
	f := Finding{Level: OK, About: about, What: fmt.Sprintf("%d MB are free", free>>20)}
	if free < 2*largest { // the image and the tree that it is made of
		f.Level, f.What = Note, fmt.Sprintf("%d MB are free, and the largest generation has %d: the next build may not fit", free>>20, largest>>20)
		f.WayOut = "netroot gc IMAGE --keep 2"
	}
	return append(list, f)
}
