package initramfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"netroot/builder/elf"
	"netroot/builder/need"
	"netroot/builder/tree"
)

const release = "6.1.0-9-amd64"

// hostRoot makes a small root out of this machine's own programs, with modules that only have names. The DHCP client
// is busybox's, so that a machine without dhclient can run the tests.
func hostRoot(t *testing.T) string {
	t.Helper()
	host := os.DirFS("/")
	var want []string
	for _, name := range append(slices.Clone(programs[:]), "busybox") {
		p, ok := tree.LookPath(host, name)
		if !ok {
			need.Missing(t, "needs %s", name)
		}
		want = append(want, p)
	}
	c, err := elf.Resolve(host, want...)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put := func(name string, data []byte, mode fs.FileMode) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range c.Files {
		links, target, err := tree.Trace(host, f)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			to, err := os.Readlink("/" + l)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(l)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(to, filepath.Join(dir, l)); err != nil && !errors.Is(err, fs.ErrExist) {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile("/" + target)
		if err != nil {
			t.Fatal(err)
		}
		put(target, b, 0o755)
	}
	for _, l := range []string{"bin", "sbin"} {
		if err := os.Symlink("usr/"+l, filepath.Join(dir, l)); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	put("boot/vmlinuz-"+release, []byte("kernel"), 0o644)
	put("boot/config-"+release, []byte("CONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n"), 0o644)
	mods := filepath.Join("lib/modules", release)
	dep := "kernel/fs/nfs/nfs.ko: kernel/net/sunrpc/sunrpc.ko\nkernel/net/sunrpc/sunrpc.ko:\nkernel/drivers/net/ethernet/a/a.ko:\nkernel/drivers/net/ethernet/b/b.ko:\nkernel/fs/ext4/ext4.ko:\n"
	put(filepath.Join(mods, "modules.dep"), []byte(dep), 0o644)
	for line := range strings.Lines(dep) {
		name, _, _ := strings.Cut(line, ":")
		put(filepath.Join(mods, name), []byte("all alike"), 0o644)
	}
	put("etc/modprobe.d/nic.conf", []byte("options a speed=1\n"), 0o644)
	for _, secret := range []string{"etc/shadow", "etc/ssh/ssh_host_ed25519_key", "etc/modprobe.d/secret.conf"} {
		put(secret, []byte("a secret"), 0o600)
	}
	return dir
}

// unpack lets GNU cpio read an archive: it complains about what is wrong in it.
func cpio(t *testing.T, dir string, archive []byte, args ...string) string {
	t.Helper()
	need.Tools(t, "cpio")
	cmd := exec.Command("cpio", args...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(archive)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	return string(out)
}

func TestWrite(t *testing.T) {
	need.Patience(t)
	root := hostRoot(t)
	opt := Options{Root: os.DirFS(root)}
	var first, second bytes.Buffer
	rep, err := Write(&first, opt)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Release != release || rep.Compression != "zstd" || rep.DHCPClient == "" || rep.Modules != 4 || rep.Size != int64(first.Len()) {
		t.Errorf("report %+v", rep)
	}
	if _, err := Write(&second, opt); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same root gives different bytes")
	}
	z, err := zstd.NewReader(&first)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	list := cpio(t, root, plain, "-itv", "--quiet")
	for _, want := range []string{
		"-rwxr-xr-x   1 root     root ",
		"crw-------   1 root     root       5,   1 Jan  1  1970 dev/console",
		"lrwxrwxrwx   1 root     root            7 Jan  1  1970 bin -> usr/bin",
		"-rw-r--r--   4 root     root            9 Jan  1  1970 ", // four modules of the same bytes: one inode
		" init\n", " netroot/dhcp\n", "etc/modprobe.d/nic.conf\n", release + "/modules.dep.bin\n", "nfs/nfs.ko\n", "sunrpc.ko\n", "/a.ko\n", "/b.ko\n",
	} {
		if !strings.Contains(list, want) {
			t.Errorf("not in the archive: %q", want)
		}
	}
	// Whoever asks by TFTP gets the archive.
	for _, not := range []string{"ext4", "shadow", "ssh", "secret"} {
		if strings.Contains(list, not) {
			t.Errorf("%s is in the archive", not)
		}
	}

	if os.Getuid() != 0 {
		t.Log("not root: what is in the archive was not run")
		return
	}
	dir := t.TempDir()
	cpio(t, dir, plain, "-idm", "--quiet")
	for _, name := range append(slices.Clone(programs[:]), rep.DHCPClient) {
		// Found and linked is enough: what it answers to a strange option is its own affair.
		out, err := exec.Command("chroot", dir, "/bin/sh", "-c", "PATH=/usr/sbin:/usr/bin:/sbin:/bin; command -v "+name+" && "+name+" --help </dev/null").CombinedOutput()
		if err != nil && (strings.Contains(string(out), "shared librar") || len(out) == 0) {
			t.Errorf("%s does not run in the initramfs: %v\n%s", name, err, out)
		}
	}
}

func TestWriteCompressionAndModules(t *testing.T) {
	need.Patience(t)
	root := hostRoot(t)
	var out bytes.Buffer
	rep, err := Write(&out, Options{Root: os.DirFS(root), Compression: "none", Modules: []string{"ext4"}})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(out.Bytes(), []byte("070701")) || rep.Modules != 5 {
		t.Errorf("uncompressed archive begins with %q, %d modules", out.Bytes()[:6], rep.Modules)
	}
	if err := os.Remove(filepath.Join(root, "boot/config-"+release)); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if rep, err = Write(&out, Options{Root: os.DirFS(root)}); err != nil || rep.Compression != "gzip" || !bytes.HasPrefix(out.Bytes(), []byte{0x1f, 0x8b}) {
		t.Errorf("kernel of unknown configuration: %s, %v", rep.Compression, err)
	}
}

func TestWriteErrors(t *testing.T) {
	root := hostRoot(t)
	write := func(opt Options) error {
		opt.Root = os.DirFS(root)
		_, err := Write(io.Discard, opt)
		return err
	}
	expect := func(what string, err error, words string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error %v, want %q", what, err, words)
		}
	}
	expect("compression", write(Options{Compression: "lzma"}), `"lzma": choose zstd, gzip or none`)
	expect("release", write(Options{Release: "9.9"}), "modules of kernel 9.9")
	expect("module", write(Options{Modules: []string{"nothing"}}), "has no module nothing")
	if err := os.Remove(filepath.Join(root, "usr/bin/busybox")); err != nil {
		t.Fatal(err)
	}
	if _, ok := tree.LookPath(os.DirFS(root), "dhclient"); !ok {
		expect("DHCP client", write(Options{}), "no DHCP client: add isc-dhcp-client")
	}
	p, ok := tree.LookPath(os.DirFS(root), "switch_root")
	if !ok {
		t.Fatal("no switch_root")
	}
	if err := os.Remove(filepath.Join(root, p)); err != nil {
		t.Fatal(err)
	}
	expect("program", write(Options{}), "lacks programs that a network boot runs: switch_root;")
	if err := os.RemoveAll(filepath.Join(root, "lib/modules")); err != nil {
		t.Fatal(err)
	}
	expect("kernel", write(Options{}), "the root has no kernel")
}

func TestKernel(t *testing.T) {
	dir := t.TempDir()
	root := os.DirFS(dir)
	put := func(name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Kernel(root, ""); err == nil || !strings.Contains(err.Error(), "no kernel") {
		t.Errorf("empty root: %v", err)
	}
	put("lib/modules/6.1.0-10/modules.dep")
	if _, _, err := Kernel(root, ""); err == nil || !strings.Contains(err.Error(), "no kernel image /boot/vmlinuz-6.1.0-10") {
		t.Errorf("modules alone: %v", err)
	}
	put("lib/modules/6.1.0-9/modules.dep")
	put("boot/vmlinuz-6.1.0-9")
	if f, r, err := Kernel(root, ""); f != "boot/vmlinuz-6.1.0-9" || r != "6.1.0-9" || err != nil {
		t.Errorf("Kernel = %q, %q, %v", f, r, err)
	}
	put("lib/modules/6.1.0-10/vmlinuz") // Fedora's place
	if f, r, err := Kernel(root, ""); f != "lib/modules/6.1.0-10/vmlinuz" || r != "6.1.0-10" || err != nil {
		t.Errorf("Kernel = %q, %q, %v", f, r, err)
	}
	if f, _, err := Kernel(root, "6.1.0-9"); f != "boot/vmlinuz-6.1.0-9" || err != nil {
		t.Errorf("Kernel(6.1.0-9) = %q, %v", f, err)
	}
	if _, _, err := Kernel(root, "5"); err == nil || !strings.Contains(err.Error(), "the root has no kernel 5") {
		t.Errorf("Kernel(5): %v", err)
	}
}
