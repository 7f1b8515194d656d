package kmod

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"netroot/builder/need"
)

const release = "6.1.0-9-amd64"

// A small kernel as depmod leaves it: dependencies, soft ones in a circle, aliases that overlap, names with dashes.
const modulesDep = `kernel/lib/libcrc32c.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
kernel/net/sunrpc/sunrpc.ko:
kernel/fs/nfs_common/grace.ko:
kernel/fs/lockd/lockd.ko: kernel/fs/nfs_common/grace.ko kernel/net/sunrpc/sunrpc.ko
kernel/fs/nfs/nfs.ko: kernel/fs/lockd/lockd.ko kernel/fs/nfs_common/grace.ko kernel/net/sunrpc/sunrpc.ko
kernel/fs/nfs/nfsv3.ko: kernel/fs/nfs/nfs.ko kernel/fs/lockd/lockd.ko kernel/fs/nfs_common/grace.ko kernel/net/sunrpc/sunrpc.ko
kernel/fs/overlayfs/overlay.ko:
kernel/fs/ext4/ext4.ko:
kernel/drivers/net/phy/libphy.ko:
kernel/drivers/net/phy/realtek.ko: kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/mdio/mdio-bus.ko:
kernel/drivers/net/ethernet/realtek/r8169.ko.zst: kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/ethernet/intel/e1000/e1000.ko:
kernel/drivers/net/ethernet/broadcom/bnx2x/bnx2x.ko: kernel/lib/libcrc32c.ko
kernel/drivers/net/ethernet/broadcom/cnic.ko:
kernel/drivers/net/wireless/ath/ath9k.ko:
kernel/drivers/net/can/vcan.ko:
kernel/drivers/net/dummy.ko:
kernel/drivers/net/usb/usbnet.ko:
kernel/drivers/net/usb/asix.ko: kernel/drivers/net/usb/usbnet.ko
kernel/drivers/net/usb/qmi_wwan.ko: kernel/drivers/net/usb/usbnet.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/net/hyperv/hv_netvsc.ko: kernel/drivers/hv/hv_vmbus.ko
kernel/drivers/hv/hv_vmbus.ko:
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko
updates/dkms/my-nic.ko:
updates/dkms/nvidia.ko:
`

const modulesAlias = `# Aliases extracted from modules themselves.
alias crypto-crc32c crc32c_intel
alias crypto-crc32c crc32c_generic
alias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169
alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000
alias pci:v00008086d0000100*sv*sd*bc02sc*i* e1000
alias pci:v000014E4d0000164Esv*sd*bc*sc*i* bnx2x
alias pci:v0000168Cd0000002Asv*sd*bc*sc*i* ath9k
alias pci:v00001AF4d0000[10]*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000001v* virtio_net
alias vmbus:635161f83edfc546913ff2d2f965ed0e hv_netvsc
alias usb:v0B95p772Ad*dc*dsc*dp*ic*isc*ip*in* asix
alias usb:v1199p9071d*dc*dsc*dp*ic*isc*ip*in* qmi_wwan
alias mdio:0000000000011100110010????????? realtek
alias pci:v0000DEADd0000BEEFsv*sd*bc*sc*i* my_nic
alias pci:v000010DEd*sv*sd*bc03sc*i* nvidia
alias fs-ext4 ext4
alias rtnl-link-dummy dummy
`

const modulesSoftdep = `# Soft dependencies extracted from modules themselves.
softdep libcrc32c pre: crypto-crc32c
softdep crc32c_generic post: libcrc32c
softdep r8169 pre: realtek never-there
softdep nfs ignored words
`

func fixture(t testing.TB) fstest.MapFS {
	t.Helper()
	dir := "usr/lib/modules/" + release + "/"
	fsys := fstest.MapFS{
		"lib":                   {Data: []byte("/usr/lib"), Mode: fs.ModeSymlink},
		dir + "modules.dep":     {Data: []byte(modulesDep)},
		dir + "modules.alias":   {Data: []byte(modulesAlias)},
		dir + "modules.softdep": {Data: []byte(modulesSoftdep)},
		dir + "modules.builtin": {Data: []byte("kernel/net/packet/af_packet.ko\nkernel/drivers/xen-netfront.ko\n")},
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(modulesDep) {
		file, _, _ := strings.Cut(line, ":")
		body := []byte("code of " + file)
		switch {
		case strings.Contains(file, "my-nic"):
			body = append(body, "\x00eth_type_trans\x00"...)
		case strings.HasSuffix(file, ".zst"):
			body = z.EncodeAll(body, nil)
		}
		fsys[dir+file] = &fstest.MapFile{Data: body}
	}
	return fsys
}

func open(t testing.TB) *Index {
	t.Helper()
	x, err := Open(fixture(t), release)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func names(mods []*Module) []string {
	var list []string
	for _, m := range mods {
		list = append(list, m.Name)
	}
	return list
}

func TestNetboot(t *testing.T) {
	mods, err := open(t).Netboot([]string{"ext4", "af_packet"})
	if err != nil {
		t.Fatal(err)
	}
	got := names(mods)
	want := []string{
		"sunrpc", "grace", "lockd", "nfs", "nfsv3", "overlay",
		"virtio", "virtio_pci", "hv_vmbus", "ext4",
		"libphy", "realtek", "r8169", "e1000",
		"crc32c_intel", "crc32c_generic", "libcrc32c", "bnx2x",
		"usbnet", "asix", "virtio_net", "hv_netvsc", "my_nic",
	}
	for _, n := range want {
		if !slices.Contains(got, n) {
			t.Errorf("%s is not chosen", n)
		}
	}
	for _, n := range got {
		if !slices.Contains(want, n) {
			t.Errorf("%s is chosen", n)
		}
	}
	for _, pair := range [][2]string{{"nfs", "nfsv3"}, {"sunrpc", "lockd"}, {"libphy", "realtek"}, {"realtek", "r8169"}, {"crc32c_intel", "bnx2x"}} {
		if slices.Index(got, pair[0]) > slices.Index(got, pair[1]) {
			t.Errorf("%s comes after %s, which needs it", pair[0], pair[1])
		}
	}
}

func TestNetbootErrors(t *testing.T) {
	if _, err := open(t).Netboot([]string{"btrfs"}); err == nil || !strings.Contains(err.Error(), "has no module btrfs") {
		t.Errorf("unknown module: %v", err)
	}
	fsys := fixture(t)
	delete(fsys, "usr/lib/modules/"+release+"/modules.dep")
	if _, err := Open(fsys, release); err == nil || !strings.Contains(err.Error(), "chroot ROOT depmod "+release) {
		t.Errorf("no modules.dep: %v", err)
	}
	if _, err := Open(fsys, "5.10.0-1"); err == nil || !strings.Contains(err.Error(), "modules of kernel 5.10.0-1") {
		t.Errorf("no such kernel: %v", err)
	}
	fsys["usr/lib/modules/"+release+"/modules.dep"] = &fstest.MapFile{Data: []byte("kernel/drivers/net/ethernet/e1000.ko:\n")}
	x, err := Open(fsys, release)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Netboot(nil); err == nil || !strings.Contains(err.Error(), "no NFS client") {
		t.Errorf("kernel without NFS: %v", err)
	}
	fsys["usr/lib/modules/"+release+"/modules.dep"] = &fstest.MapFile{Data: []byte("kernel/fs/nfs.ko: kernel/gone.ko\n")}
	if x, err = Open(fsys, release); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Netboot(nil); err == nil || !strings.Contains(err.Error(), "kernel/gone.ko") {
		t.Errorf("broken modules.dep: %v", err)
	}
}

// EL6's drivers/net is flat, and its modules.dep may hold absolute paths.
func TestOldKernel(t *testing.T) {
	const rel = "2.6.32-754.el6.i686"
	dir := "lib/modules/" + rel + "/"
	fsys := fstest.MapFS{
		dir + "modules.dep": {Data: []byte("/lib/modules/" + rel + "/kernel/fs/nfs/nfs.ko: /lib/modules/" + rel + "/kernel/net/sunrpc/sunrpc.ko\n" +
			"/lib/modules/" + rel + "/kernel/net/sunrpc/sunrpc.ko:\nkernel/drivers/net/e1000/e1000.ko:\nkernel/drivers/net/tg3.ko:\nkernel/drivers/net/dummy.ko:\nkernel/drivers/net/tokenring/3c359.ko:\n")},
		dir + "modules.alias": {Data: []byte("alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000\nalias pci:v000014E4d00001644sv*sd*bc*sc*i* tg3\nalias pci:v000010B7d00003590sv*sd*bc*sc*i* 3c359\n")},
	}
	x, err := Open(fsys, rel)
	if err != nil {
		t.Fatal(err)
	}
	mods, err := x.Netboot(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(mods), []string{"sunrpc", "nfs", "e1000", "tg3"}; !slices.Equal(got, want) {
		t.Errorf("chosen %v, want %v", got, want)
	}
}

// The index files are for modprobe: it must find in them what it finds in depmod's, and what this package says.
func TestIndexesAsModprobeReadsThem(t *testing.T) {
	modprobe := need.Tool(t, "modprobe")
	x := open(t)
	mods, err := x.Netboot(nil)
	if err != nil {
		t.Fatal(err)
	}
	indexes, err := x.Indexes(mods)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mods {
		indexes[x.Path(m)] = []byte("modprobe only looks whether it is there")
	}
	root := t.TempDir()
	for name, data := range indexes {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	show := func(name string) (string, string) {
		cmd := exec.Command(modprobe, "-d", root, "-S", release, "-C", root, "--show-depends", name)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run() // a module that is not there is told on stderr
		var list []string
		for line := range strings.Lines(out.String()) {
			f := strings.Fields(line)
			if f[0] == "insmod" {
				list = append(list, Name(f[1]))
			} else {
				list = append(list, f[0])
			}
		}
		return strings.Join(slices.Compact(list), " "), errs.String() // two aliases of one module: it is named twice
	}
	for name, want := range map[string]string{
		"nfsv3":     "sunrpc grace lockd nfs nfsv3",
		"bnx2x":     "crc32c_intel crc32c_generic libcrc32c bnx2x",
		"my-nic":    "my_nic",
		"af_packet": "builtin",
		"pci:v000010ECd00008168sv00001043sd000085AAbc02sc00i00": "libphy realtek r8169",
		"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00": "e1000",
		"pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00": "virtio virtio_pci",
		"virtio:d00000001v00001AF4":                             "virtio virtio_net",
		"mdio:00000000000111001100100000000001":                 "",
		"mdio:0000000000011100110010000000001":                  "libphy realtek",
		"pci:v0000168Cd0000002Asv00001AF4sd00001100bc02sc80i00": "", // wireless
		"fs-ext4": "",
	} {
		got, errs := show(name)
		if got != want {
			t.Errorf("modprobe --show-depends %s: %q, want %q\n%s", name, got, want, errs)
		}
		if want == "" && !strings.Contains(errs, "not found") {
			t.Errorf("modprobe --show-depends %s complains about something else: %s", name, errs)
		}
	}
	for _, m := range mods {
		got, errs := show(m.Name)
		need, err := x.Expand([]*Module{m})
		if err != nil {
			t.Fatal(err)
		}
		// modprobe cuts circles of soft dependencies somewhere else; what is loaded must be the same.
		a, b := strings.Fields(got), names(need)
		slices.Sort(a)
		slices.Sort(b)
		if a = slices.Compact(a); !slices.Equal(a, b) {
			t.Errorf("%s: modprobe loads %v, Expand says %v\n%s", m.Name, a, b, errs)
		}
	}
}

func TestContent(t *testing.T) {
	x := open(t)
	m, ok := x.Module("r8169")
	if !ok {
		t.Fatal("no r8169")
	}
	b, err := x.Content(m)
	if err != nil || string(b) != "code of "+m.File {
		t.Errorf("content of a compressed module: %q, %v", b, err)
	}
	m.File += ".lz9"
	x.fsys.(fstest.MapFS)["usr/"+x.Path(m)] = &fstest.MapFile{}
	if _, err := x.Content(m); err == nil || !strings.Contains(err.Error(), "unknown way") {
		t.Errorf("unknown compression: %v", err)
	}
}

func TestFindFirmware(t *testing.T) {
	fsys := fixture(t)
	fsys["usr/lib/firmware/bnx2x/a.fw.xz"] = &fstest.MapFile{}
	fsys["usr/lib/firmware/rtl/b.fw"] = &fstest.MapFile{}
	fsys["usr/lib/firmware/updates/rtl/b.fw"] = &fstest.MapFile{}
	x, err := Open(fsys, release)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"bnx2x/a.fw":       "lib/firmware/bnx2x/a.fw.xz",
		"rtl/b.fw":         "lib/firmware/updates/rtl/b.fw",
		"rtl/c.fw":         "",
		"../../etc/passwd": "",
		"/etc/passwd":      "",
	} {
		if got, ok := x.FindFirmware(name); got != want || ok != (want != "") {
			t.Errorf("FindFirmware(%q) = %q, %t; want %q", name, got, ok, want)
		}
	}
}

func TestReleases(t *testing.T) {
	fsys := fstest.MapFS{}
	for _, r := range []string{"6.1.0-10-amd64", "6.1.0-9-amd64", "5.10.0-30-amd64"} {
		fsys["lib/modules/"+r+"/modules.dep"] = &fstest.MapFile{}
	}
	fsys["lib/modules/7.0-removed/modules.order"] = &fstest.MapFile{}
	got, err := Releases(fsys)
	if want := []string{"5.10.0-30-amd64", "6.1.0-9-amd64", "6.1.0-10-amd64"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Releases: %v, %v; want %v", got, err, want)
	}
	if got, err := Releases(fstest.MapFS{}); err != nil || got != nil {
		t.Errorf("Releases of an empty root: %v, %v", got, err)
	}
}

// Module names, aliases and dependencies come out of files of packages.
func FuzzIndexes(f *testing.F) {
	f.Add(modulesDep, modulesAlias, modulesSoftdep)
	f.Add("kernel/fs/nfs/nfs.ko: kernel/fs/nfs/nfs.ko\n", "alias [- nfs\nalias * nfs\n", "softdep nfs pre: nfs\n")
	f.Fuzz(func(t *testing.T, dep, ali, soft string) {
		dir := "lib/modules/1/"
		x, err := Open(fstest.MapFS{dir + "modules.dep": {Data: []byte(dep)}, dir + "modules.alias": {Data: []byte(ali)}, dir + "modules.softdep": {Data: []byte(soft)}}, "1")
		if err != nil {
			t.Fatal(err)
		}
		mods, err := x.Expand(x.Modules(func(*Module) bool { return true }))
		if err != nil {
			return
		}
		if _, err := x.Indexes(mods); err != nil {
			t.Fatal(err)
		}
	})
}
