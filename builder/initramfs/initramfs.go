// Package initramfs writes the archive that the kernel unpacks at boot and whose /init finds the network card, gets an
// address, mounts the root over NFS and starts its init.
//
// Everything that runs in it comes out of the root it will mount: shell, mount, switch_root, modprobe, ip and a DHCP
// client with their libraries, so whatever kernel and C library the root has, they fit each other. Only the shell
// scripts are ours (init/*.sh, dhcp.sh). Nothing of the root is run to make it, and the same root gives the same bytes.
//
// Limits: IPv4 and NFS version 3 only, no udev (cards have the kernel's names, eth0 and so on), no wireless cards, no
// early microcode, no devices but what devtmpfs makes.
package initramfs

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"netroot/builder/elf"
	"netroot/builder/kmod"
	"netroot/builder/tree"
)

//go:embed init/*.sh
var initParts embed.FS

// initScript is /init: its parts, in the order of their names.
var initScript = func() (script []byte) {
	parts, err := fs.Glob(initParts, "init/*.sh")
	for i, name := range parts {
		part, readErr := initParts.ReadFile(name)
		if err = errors.Join(err, readErr); i > 0 {
			script = append(script, '\n')
		}
		script = append(script, part...)
	}
	if err != nil {
		panic(err) // what is embedded can be read
	}
	return script
}()

//go:embed dhcp.sh
var dhcpScript []byte

//go:embed dhclient.conf
var dhclientConf []byte

// Scripts returns the files of every initramfs that are netroot's own, by their paths in it. They are not in /lib: that is a link in
// most roots, and what it leads to comes later in the archive.
func Scripts() map[string][]byte {
	return map[string][]byte{"init": initScript, "netroot/dhcp": dhcpScript, "netroot/dhclient.conf": dhclientConf}
}

// Options say what to write.
type Options struct {
	Root        fs.FS
	Release     string   // of the kernel; "": the newest in lib/modules
	Compression string   // "zstd", "gzip" or "none"; "": zstd when the kernel's configuration has it, else gzip
	Modules     []string // more modules than network boot needs, by name
	Log         *slog.Logger
}

// A Report tells what was written.
type Report struct {
	Release     string
	Compression string
	DHCPClient  string   // dhclient or udhcpc
	Files       int      // names in the archive
	Modules     int      // kernel modules in it
	Firmware    []string // firmware files in it
	Missing     []string // firmware that modules may ask for and the root does not have
	Unpacked    int64    // bytes before compression
	Size        int64    // bytes written
}

// programs that /init calls and cannot do without. Everything else it does with what every POSIX shell has built in.
var programs = [...]string{"sh", "mount", "umount", "switch_root", "modprobe", "ip", "sleep", "mkdir", "cat", "cp", "rm", "chroot", "setsid"}

// comforts are for whoever lands in the rescue shell.
var comforts = [...]string{"ls", "dmesg", "ping"}

// dhcpClients in the order of preference.
var dhcpClients = [...]string{"dhclient", "udhcpc"}

// Write writes the initramfs for a root.
func Write(w io.Writer, opt Options) (Report, error) {
	log := opt.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &archive{root: opt.Root, entries: map[string]entry{}}
	var rep Report
	var err error
	if rep.Release = opt.Release; rep.Release == "" {
		if _, rep.Release, err = Kernel(opt.Root, ""); err != nil {
			return rep, err
		}
	}
	if rep.Compression, err = compression(opt, rep.Release); err != nil {
		return rep, err
	}
	if rep.DHCPClient, err = a.programs(); err != nil {
		return rep, err
	}
	if err := a.modules(&rep, opt.Modules, log); err != nil {
		return rep, err
	}
	for name, data := range Scripts() {
		mode := uint32(modeFile | 0o755)
		if path.Ext(name) == ".conf" {
			mode = modeFile | 0o644
		}
		a.add(entry{name: name, mode: mode, data: data})
	}
	for _, d := range []string{"dev", "proc", "sys", "run", "sysroot", "tmp"} {
		a.entries[d] = entry{name: d, mode: modeDir | 0o755}
	}
	// What mount(8) of EL6 needs to be told, that there is no list of mounts to write to.
	a.add(entry{name: "etc/mtab", mode: modeSymlink | 0o777, data: []byte("/proc/mounts")})
	a.add(entry{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1}) // before /init mounts devtmpfs
	a.add(entry{name: "dev/null", mode: modeChar | 0o666, major: 1, minor: 3})
	if a.err != nil {
		return rep, a.err
	}
	entries := make([]entry, 0, len(a.entries))
	for _, e := range a.entries {
		entries = append(entries, e)
		rep.Unpacked += e.length()
	}
	rep.Files = len(entries)
	counted := &counter{w: w}
	if err := compress(counted, rep.Compression, opt.Root, entries); err != nil {
		return rep, err
	}
	rep.Size = counted.n
	log.Debug("initramfs", "release", rep.Release, "files", rep.Files, "modules", rep.Modules, "firmware", len(rep.Firmware),
		"missing firmware", len(rep.Missing), "compression", rep.Compression, "bytes", rep.Size)
	return rep, nil
}

// compression decides by what the kernel can unpack. A kernel whose configuration is not known gets gzip, which every
// distribution builds in.
func compression(opt Options, release string) (string, error) {
	switch opt.Compression {
	case "zstd", "gzip", "none":
		return opt.Compression, nil
	case "":
		if config(opt.Root, release, "CONFIG_RD_ZSTD") == "y" {
			return "zstd", nil
		}
		return "gzip", nil
	}
	return "", fmt.Errorf("initramfs compression %q: choose zstd, gzip or none", opt.Compression)
}

// compress pins levels, so that the bytes depend on nothing but the content (the number of workers does not change
// them). Measured on 62 MB of Debian's modules: this level 18.6 MB in 0.7 s, the next 18.2 MB in 2.7 s, the best 16.6 MB in 12 s;
// a machine reads the difference in a tenth of a second. The kernel unpacks one zstd frame with a
// window of at most 128 MiB; one of 8 MiB saves 0.2 % over this one, and takes four times the memory here and there.
func compress(w io.Writer, how string, root fs.FS, entries []entry) error {
	var z io.WriteCloser
	var err error
	switch how {
	case "zstd":
		z, err = zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(2<<20), zstd.WithEncoderCRC(false))
	case "gzip":
		z, err = gzip.NewWriterLevel(w, 6)
	default:
		return writeCPIO(w, root, entries)
	}
	if err != nil {
		return fmt.Errorf("compress initramfs: %w", err)
	}
	if err := writeCPIO(z, root, entries); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("compress initramfs: %w", err)
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// An archive collects entries. The first error stays.
type archive struct {
	root    fs.FS
	entries map[string]entry
	err     error
}

func (a *archive) add(e entry) {
	if d := path.Dir(e.name); d != "." {
		a.dir(d)
	}
	a.entries[e.name] = e
}

// dir adds a folder and those above it. Where the root has a link (/bin -> usr/bin) the archive gets the same link, and
// what it leads to.
func (a *archive) dir(name string) {
	if _, ok := a.entries[name]; ok || name == "." {
		return
	}
	if links, target, err := tree.Trace(a.root, name); err == nil && len(links) > 0 {
		a.links(links)
		if target != name {
			a.dir(target)
		}
		return
	}
	a.dir(path.Dir(name))
	a.entries[name] = entry{name: name, mode: modeDir | 0o755}
}

func (a *archive) links(links []string) {
	for _, l := range links {
		if _, ok := a.entries[l]; ok {
			continue
		}
		target, err := fs.ReadLink(a.root, l)
		if err != nil {
			a.fail(fmt.Errorf("read link: %w", err))
			return
		}
		a.add(entry{name: l, mode: modeSymlink | 0o777, data: []byte(target)})
	}
}

// file copies a file of the root with the links that lead to it.
func (a *archive) file(name string) {
	links, target, err := tree.Trace(a.root, name)
	if err != nil {
		a.fail(fmt.Errorf("copy into the initramfs: %w", err))
		return
	}
	a.links(links)
	if _, ok := a.entries[target]; ok {
		return
	}
	info, err := fs.Lstat(a.root, target)
	if err != nil {
		a.fail(fmt.Errorf("copy into the initramfs: %w", err))
		return
	}
	if !info.Mode().IsRegular() {
		a.fail(fmt.Errorf("copy into the initramfs: /%s is no regular file", target))
		return
	}
	// Setuid bits have no use where everything is root.
	mode := uint32(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	a.add(entry{name: target, mode: modeFile | mode, from: target, size: info.Size()})
}

func (a *archive) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// programs copies what /init runs, with libraries, and returns the name of the DHCP client. Where a program is not in
// the root by its own name, busybox may have it.
func (a *archive) programs() (dhcp string, err error) {
	var want, missing []string
	busybox, hasBusybox := tree.LookPath(a.root, "busybox")
	var applets []byte
	if hasBusybox {
		if applets, err = tree.ReadFile(a.root, busybox); err != nil {
			return "", fmt.Errorf("read busybox: %w", err)
		}
	}
	find := func(name string) bool {
		if p, ok := tree.LookPath(a.root, name); ok {
			want = append(want, p)
			return true
		}
		// The names of its applets stand in busybox one after the other.
		if hasBusybox && bytes.Contains(applets, []byte("\x00"+name+"\x00")) {
			want = append(want, busybox)
			bin, err := tree.Resolve(a.root, "bin")
			if err != nil {
				return false
			}
			a.add(entry{name: path.Join(bin, name), mode: modeSymlink | 0o777, data: []byte("/" + busybox)})
			return true
		}
		return false
	}
	for _, p := range programs {
		if !find(p) {
			missing = append(missing, p)
		}
	}
	for _, p := range dhcpClients {
		if find(p) {
			dhcp = p
			break
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("the root lacks programs that a network boot runs: %s; add the packages they are in (Debian: dash, coreutils, util-linux, kmod, iproute2; EL: bash, coreutils, util-linux, kmod or module-init-tools, iproute)", strings.Join(missing, ", "))
	}
	if dhcp == "" {
		return "", errors.New("the root has no DHCP client: add isc-dhcp-client (Debian), dhclient or dhcp-client (EL), or busybox")
	}
	for _, p := range comforts {
		if lib, ok := tree.LookPath(a.root, p); ok {
			want = append(want, lib)
		}
	}
	// The kernel itself asks for drivers (of PHYs, of socket families) by this name: CONFIG_MODPROBE_PATH.
	if tree.Exists(a.root, "sbin/modprobe") {
		want = append(want, "sbin/modprobe")
	}
	if tree.Exists(a.root, "bin/sh") {
		want = append(want, "bin/sh")
	}
	c, err := elf.Resolve(a.root, want...)
	if err != nil {
		return "", fmt.Errorf("collect the programs of the initramfs: %w", err)
	}
	for _, f := range c.Files {
		a.file(f)
	}
	for name, target := range c.Links {
		a.add(entry{name: name, mode: modeSymlink | 0o777, data: []byte(target)})
	}
	return dhcp, a.err
}

// modules copies the kernel modules for network boot, their firmware, their index and modprobe's configuration.
func (a *archive) modules(rep *Report, extra []string, log *slog.Logger) error {
	x, err := kmod.Open(a.root, rep.Release)
	if err != nil {
		return err
	}
	mods, err := x.Netboot(extra)
	if err != nil {
		return err
	}
	rep.Modules = len(mods)
	asked := map[string]bool{}
	for _, m := range mods {
		a.file(x.Path(m))
		names, err := x.Firmware(m)
		if err != nil {
			return err
		}
		for _, n := range names {
			if asked[n] {
				continue
			}
			asked[n] = true
			if f, ok := x.FindFirmware(n); ok {
				a.file(f)
				rep.Firmware = append(rep.Firmware, f)
			} else {
				rep.Missing = append(rep.Missing, n)
			}
		}
	}
	slices.Sort(rep.Firmware)
	slices.Sort(rep.Missing)
	indexes, err := x.Indexes(mods)
	if err != nil {
		return err
	}
	for name, data := range indexes {
		dir, err := tree.Resolve(a.root, path.Dir(name))
		if err != nil {
			return err
		}
		a.add(entry{name: path.Join(dir, path.Base(name)), mode: modeFile | 0o644, data: data})
	}
	// Options for network cards and blacklists count here as they do later; but whoever asks by TFTP gets this archive, so what
	// only root may read stays out.
	for _, d := range []string{"etc/modprobe.d", "lib/modprobe.d", "usr/lib/modprobe.d"} {
		dir, err := tree.Resolve(a.root, d)
		if err != nil {
			continue
		}
		list, err := fs.ReadDir(a.root, dir)
		if err != nil {
			return fmt.Errorf("read /%s: %w", dir, err)
		}
		for _, e := range list {
			if f := path.Join(dir, e.Name()); strings.HasSuffix(f, ".conf") && tree.Exists(a.root, f) {
				if info, err := e.Info(); err == nil && info.Mode().Perm()&0o004 == 0 {
					continue
				}
				a.file(f)
			}
		}
	}
	return a.err
}
