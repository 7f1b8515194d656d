// Package tftpboot makes the tree of files that machines load: the boot loader, its configuration for each machine, and the
// kernels and initramfses of all generations.
//
//	pxelinux.0 ldlinux.c32 libcom32.c32 libutil.c32 menu.c32   and, where the store has them, lpxelinux.0 memtest86+
//	pxelinux.cfg/01-aa-bb-cc-dd-ee-ff    what this machine may boot
//	pxelinux.cfg/UUID                    the same, for a UUID that the policy lists
//	pxelinux.cfg/C0A80252                the same, for an address that the policy lists
//	pxelinux.cfg/default                 what an unknown machine may boot
//	boot.ipxe, ipxe/01-aa-bb-…           the same for iPXE
//	grub/grub.cfg, grub/grub.cfg-01-aa-bb-…, grub/grub.cfg-C0A80252   the same for GRUB, served only
//	IMAGE/GENERATION/{vmlinuz,initrd.img}
//	images/IMAGE/GENERATION/image.iso, images/IMAGE/GENERATION/iso/…   an ISO and the files in it, served only
//
// The same tree is served as an fs.FS, where the configuration is made when it is asked for, and written to a folder for
// somebody else's TFTP server. The fs.FS opens only the names above, so nothing else of the store is in reach; it lists no
// folders, and does not know the shortened addresses by which pxelinux asks for the configuration of a whole network. A tree
// holds the address that its clients know the server by, so there is one per address.
package tftpboot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"netroot/boot/host"
	"netroot/boot/memfile"
	"netroot/boot/pxelinux"
	"netroot/builder/image"
	"netroot/builder/store"
)

// loaderFiles are the parts of pxelinux that booting needs, extraFiles what some policies and menus name.
var (
	loaderFiles = []string{"pxelinux.0", "ldlinux.c32", "libcom32.c32", "libutil.c32", "menu.c32"}
	extraFiles  = []string{httpLoader, memtest}
)

// LoaderFiles returns the names of the boot loader's files.
func LoaderFiles() []string { return slices.Clone(loaderFiles) }

const (
	configDir  = "pxelinux.cfg"
	scriptDir  = "ipxe"
	bootScript = "boot.ipxe"
	grubDir    = "grub"
	grubConfig = "grub.cfg"
	parts      = store.PartKernel + " " + store.PartInitramfs
	ether      = "01-" // ARP's hardware type 1 in front of the address
	maxOld     = 8     // older generations listed per image
	httpLoader = "lpxelinux.0"
	memtest    = "memtest86+"
)

// A Store is what is needed of builder/store.
type Store interface {
	Images() ([]string, error)
	Generations(image string) ([]store.Generation, error)
	Resolve(ref string) (store.Generation, error)
}

// A Tree makes the files from what the store holds and the policy says at that moment.
type Tree struct {
	Store  Store
	Loader string // folder of the boot loader's files
	// Decide says what a machine boots.
	Decide func(host.Machine) host.Decision
	// NFSPort serves NFS and MOUNT; 0 means 2049.
	NFSPort int
	// HTTPPort is where iPXE loads from; 0 means it uses TFTP.
	HTTPPort int
	// ISO opens the ISO of a generation; nil serves none.
	ISO func(store.Generation) (*image.Image, error)
	// Log hears of machines whose image cannot be found, and of entries that no menu can have; nil is silent.
	Log *slog.Logger
}

// FS returns the tree as the machine m sees it, which knows the server as server; a zero Machine is one that nobody knows.
func (t *Tree) FS(server netip.Addr, m host.Machine) fs.FS { return &view{t, server, m} }

type view struct {
	tree   *Tree
	server netip.Addr
	asking host.Machine
}

// Open implements fs.FS.
func (v *view) Open(name string) (fs.File, error) {
	f, err := v.open(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return f, nil
}

func (v *view) open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	dir, base, _ := strings.Cut(name, "/")
	switch {
	case slices.Contains(loaderFiles, name), slices.Contains(extraFiles, name):
		return v.tree.openLoader(name)
	case name == bootScript:
		return v.script(v.asking, name)
	case dir == configDir || dir == scriptDir:
		m, ok := v.machine(base)
		if !ok || dir == scriptDir && m.MAC == nil {
			return nil, fs.ErrNotExist
		}
		if dir == scriptDir {
			return v.script(m, name)
		}
		text, err := v.config(m)
		return memfile.New(base, text), err
	case dir == grubDir && base == grubConfig:
		return v.grub(v.asking, base)
	case dir == grubDir:
		rest, ok := strings.CutPrefix(base, grubConfig+"-")
		m, known := v.machine(rest)
		if !ok || !known {
			return nil, fs.ErrNotExist
		}
		return v.grub(m, base)
	case strings.Count(name, "/") == 2:
		return v.tree.openPart(dir, base)
	case dir == isoDir:
		return v.tree.openISO(base)
	}
	return nil, fs.ErrNotExist
}

// machine reads the name of a configuration file. pxelinux asks by UUID first, then by MAC, then by address: what nobody
// lists is not found, so that it asks on.
func (v *view) machine(name string) (host.Machine, bool) {
	m := v.asking
	if name == "default" {
		return m, true
	}
	if rest, ok := strings.CutPrefix(name, ether); ok {
		mac, err := net.ParseMAC(rest)
		m.MAC = mac
		return m, err == nil && len(mac) == 6 && fileName(mac) == name
	}
	if id, err := host.ParseUUID(name); err == nil && id == name {
		m.UUID = id
		return m, v.listed(host.Machine{UUID: id})
	}
	if b, err := hex.DecodeString(name); err == nil && len(b) == 4 && strings.ToUpper(name) == name {
		a := netip.AddrFrom4([4]byte(b))
		own := m.MAC != nil && m.Address == a
		m.Address = a
		return m, own || v.listed(host.Machine{Address: a})
	}
	return m, false
}

// listed tells whether the policy knows a machine by name.
func (v *view) listed(m host.Machine) bool { return v.tree.Decide(m).Name != "" }

// fileName is what pxelinux calls a machine: lower case, with dashes.
func fileName(mac net.HardwareAddr) string {
	return ether + strings.ReplaceAll(mac.String(), ":", "-")
}

// configNames are the names by which pxelinux asks for the configuration of m.
func configNames(m host.Machine) []string {
	var names []string
	if m.MAC != nil {
		names = append(names, fileName(m.MAC))
	}
	if m.UUID != "" {
		names = append(names, m.UUID)
		if other := host.Swapped(m.UUID); other != m.UUID {
			names = append(names, other)
		}
	}
	if m.Address.Is4() {
		names = append(names, strings.ToUpper(hex.EncodeToString(m.Address.AsSlice())))
	}
	return names
}

func (t *Tree) openLoader(name string) (fs.File, error) {
	f, err := os.Open(filepath.Join(t.Loader, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fs.ErrNotExist
	}
	return f, err
}

// openPart opens IMAGE/GENERATION/PART.
func (t *Tree) openPart(image, rest string) (fs.File, error) {
	gen, part, _ := strings.Cut(rest, "/")
	if !slices.Contains(strings.Fields(parts), part) {
		return nil, fs.ErrNotExist
	}
	g, err := t.generation(image, gen)
	if err != nil {
		return nil, err
	}
	return os.Open(g.Path(part))
}

// generation finds a generation by the names that it has in paths. Both are resolved by the store, which takes nothing but the names it
// gave.
func (t *Tree) generation(image, gen string) (store.Generation, error) {
	n, err := strconv.Atoi(gen)
	if err != nil || n < 1 || strconv.Itoa(n) != gen {
		return store.Generation{}, fs.ErrNotExist
	}
	g, err := t.Store.Resolve(image + "@" + gen)
	if err != nil && (errors.Is(err, store.ErrNotFound) || store.ValidName(image) != nil) {
		err = fs.ErrNotExist
	}
	return g, err
}

func (v *view) config(m host.Machine) (string, error) {
	d := v.decide(m)
	menu, err := v.menu(m, d)
	if err != nil {
		return "", err
	}
	base := ""
	if d.Loader == httpLoader && v.tree.HTTPPort != 0 {
		base = v.tree.base(d.Server)
	}
	return v.usable(m, menu, base, false).Text(base)
}

func (v *view) script(m host.Machine, name string) (fs.File, error) {
	d := v.decide(m)
	menu, err := v.menu(m, d)
	if err != nil {
		return nil, err
	}
	base := v.tree.base(d.Server)
	text, err := v.usable(m, menu, base, true).IPXEScript(base)
	if err != nil {
		return nil, err
	}
	if name == bootScript {
		// Whoever did not come by our own offer still gets what is meant for this machine, if the server knows it.
		text = strings.Replace(text, "#!ipxe\n", "#!ipxe\nchain "+base+scriptDir+"/"+ether+"${netX/mac:hexhyp} ||\n", 1)
	}
	return memfile.New(name, text), nil
}

func (v *view) grub(m host.Machine, name string) (fs.File, error) {
	menu, err := v.menu(m, v.decide(m))
	if err != nil {
		return nil, err
	}
	text, err := v.usable(m, menu, "", false).GRUBConfig(m.MAC)
	if err != nil {
		return nil, err
	}
	return memfile.New(name, text), nil
}

// usable leaves out what cannot be started, and tells of it.
func (v *view) usable(m host.Machine, menu pxelinux.Menu, base string, ipxe bool) pxelinux.Menu {
	menu, left := menu.Usable(base, ipxe)
	for _, err := range left {
		if v.tree.Log != nil {
			v.tree.Log.Warn("left out", "service", "menu", "mac", m.MAC.String(), "reason", err.Error())
		}
	}
	return menu
}

// base is the URL of the tree.
func (t *Tree) base(server netip.Addr) string {
	if t.HTTPPort == 0 {
		return "tftp://" + server.String() + "/"
	}
	return "http://" + netip.AddrPortFrom(server, uint16(t.HTTPPort)).String() + "/"
}

// ScriptURL returns what an iPXE client is offered as its boot file.
func (t *Tree) ScriptURL(server netip.Addr, mac net.HardwareAddr) string {
	return t.base(server) + scriptDir + "/" + fileName(mac)
}

// decide asks the policy; the decision has the server that m is told.
func (v *view) decide(m host.Machine) host.Decision {
	d := v.tree.Decide(m)
	if !d.Server.IsValid() {
		d.Server = v.server
	}
	return d
}

// menu turns the decision about a machine into what it may boot.
func (v *view) menu(m host.Machine, d host.Decision) (pxelinux.Menu, error) {
	menu := pxelinux.Menu{Title: "netroot " + d.Server.String(), Seconds: d.Menu.Seconds, Serial: d.Menu.Serial}
	switch {
	case d.Ignore, d.Local:
		menu.Local = true // an ignored one came here by another server's offer, and boots what it has
		return menu, nil
	case d.Image != "":
		g, err := v.tree.Store.Resolve(d.Image)
		if err == nil {
			menu.Entries, menu.Direct = []pxelinux.Entry{v.entry(g, d)}, true
			return menu, nil
		}
		if v.tree.Log != nil {
			v.tree.Log.Warn("refused", "service", "tftp", "mac", m.MAC.String(), "host", d.Name, "reason", "no image to boot: "+err.Error())
		}
		menu.Local, menu.Note = true, err.Error()
		return menu, nil
	}
	return menu, v.everything(&menu, d)
}

// everything lists all images, the one built last first, and behind them their older generations and a shell in the initramfs
// of each, for the day when a root does not start.
func (v *view) everything(menu *pxelinux.Menu, d host.Decision) error {
	menu.Local = true
	if _, err := os.Stat(filepath.Join(v.tree.Loader, memtest)); err == nil {
		menu.Memtest = memtest
	}
	images, err := v.tree.Store.Images()
	if err != nil {
		return err
	}
	var current, old []store.Generation
	for _, image := range images {
		gens, err := v.tree.Store.Generations(image)
		if err != nil {
			continue // gone since it was listed
		}
		slices.Reverse(gens)
		listed := 0
		for _, g := range gens {
			switch {
			case g.Err != nil:
			case g.Current:
				current = append(current, g)
			case listed < maxOld:
				old = append(old, g)
				listed++
			}
		}
	}
	slices.SortStableFunc(current, func(a, b store.Generation) int { return b.Manifest.Created.Compare(a.Manifest.Created) })
	for _, g := range current {
		menu.Entries = append(menu.Entries, v.entry(g, d))
	}
	for _, g := range old {
		e := v.entry(g, d)
		e.Submenu = "Older generations"
		menu.Entries = append(menu.Entries, e)
	}
	for _, g := range current {
		if !g.Manifest.IsRoot() {
			continue // its initramfs is not ours
		}
		e := v.entry(g, d)
		e.Submenu, e.Label, e.Cmdline = "Rescue shells", "rescue-"+e.Label, append(e.Cmdline, "rd.break")
		menu.Entries = append(menu.Entries, e)
	}
	if len(current) == 0 {
		menu.Note = "No image is current. Make one: netroot build RECIPE"
	}
	return nil
}

func (v *view) entry(g store.Generation, d host.Decision) pxelinux.Entry {
	dir := g.Image + "/" + strconv.Itoa(g.Number) + "/"
	initrd := ""
	if _, ok := g.Manifest.Parts[store.PartInitramfs]; ok {
		initrd = dir + store.PartInitramfs
	}
	return pxelinux.Entry{
		Label:   g.Ref(),
		Title:   g.Ref() + "  " + g.Manifest.Created.UTC().Format("2006-01-02 15:04"),
		Kernel:  dir + store.PartKernel,
		Initrd:  initrd,
		Cmdline: append(v.tree.Cmdline(d.Server, g, d), v.tree.seed(d.Server, g, d)...),
	}
}

// Cmdline returns the kernel's arguments. The server is named by address, because the machine's own DHCP exchange is with
// a server that knows nothing of this one; the exact generation is named, because root and kernel must match.
func (t *Tree) Cmdline(server netip.Addr, g store.Generation, d host.Decision) []string {
	port := t.NFSPort
	if port == 0 {
		port = 2049
	}
	if m := g.Manifest.Medium; m != nil {
		args := mediumCmdline(m, place{server, port, t.base(server), g.Image, g.Number}, d.Name)
		return append(args, onceEach(g.Manifest.Cmdline, d.Cmdline)...)
	}
	args := []string{
		fmt.Sprintf("root=nfs:%s:/%s:vers=3,proto=tcp,nolock,nocto,actimeo=86400,port=%d,mountport=%d", server, g.Ref(), port, port),
		"ip=dhcp",
	}
	size := g.Manifest.OverlaySize
	if size == "" {
		size = "50%"
	}
	switch g.Manifest.Writable {
	case "", "overlay":
		args = append(args, "rd.overlay=tmpfs:size="+size)
	case "bind":
		args = append(args, "rd.overlay=bind:size="+size)
	case "no":
		args = append(args, "rd.overlay=no")
	}
	args = append(args, "netroot.image="+g.Ref())
	if d.Name != "" {
		args = append(args, "netroot.hostname="+d.Name)
	}
	return append(args, onceEach(g.Manifest.Cmdline, d.Cmdline)...)
}

// onceEach joins what an image and the policy give a kernel. Of a console that both name the last word stays: /dev/console is the
// last one named, also when it was named before (__add_preferred_console in kernel/printk/printk.c). What follows "--" or "---" is
// init's or the installed system's, and nothing before it is the same.
func onceEach(image, policy []string) []string {
	words := slices.Concat(image, policy)
	later := map[string]bool{}
	kept := make([]string, 0, len(words))
	for _, word := range slices.Backward(words) {
		switch {
		case word == "--" || word == "---":
			clear(later)
		case later[word]:
			continue
		case strings.HasPrefix(word, "console="):
			later[word] = true
		}
		kept = append(kept, word)
	}
	slices.Reverse(kept)
	return kept
}
