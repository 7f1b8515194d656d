package tftpboot

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/boot/host"
	"netroot/builder/golden"
	"netroot/builder/store"
)

const sitePolicy = `default: ignore
menu: {timeout: 0, serial: "ttyS1,9600"}
networks:
  - {network: 172.16.0.0/16, server: 172.16.210.62, loader: lpxelinux.0, cmdline: [site=far]}
hosts:
  - {name: card, mac: "00:20:38:03:37:6c", image: debian-12}
  - {name: board, uuid: 58b41815-581e-c62a-d4e2-f44d30606469, image: slc68@1, cmdline: [quiet]}
  - {name: far, address: 172.16.209.19}
  - {name: disk, mac: "00:20:38:03:37:6e", boot: local}
  - {name: off, mac: "00:20:38:03:37:6f", image: debian-12, disabled: true}
`

// siteTree is the tree of newTree with a policy of its own, and memtest86+ and lpxelinux.0 in the store.
func siteTree(t *testing.T) (*Tree, *host.Policy) {
	t.Helper()
	tree, st := newTree(t)
	policy, err := host.Parse("netroot.yaml", []byte(sitePolicy))
	if err != nil {
		t.Fatal(err)
	}
	tree.Decide = policy.Decide
	for _, name := range []string{"memtest86+", "lpxelinux.0"} {
		if err := os.WriteFile(filepath.Join(st.LoaderDir(), name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, st, "debian-12", store.Manifest{Created: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC), Recipe: "4"})
	return tree, policy
}

// What each machine of a site reads, and by which names. The file goldens are named by the host.
func TestConfigurationNames(t *testing.T) {
	tree, _ := siteTree(t)
	fsys := tree.FS(server, host.Machine{})
	for host, names := range map[string][]string{
		"card":     {"pxelinux.cfg/01-00-20-38-03-37-6c"},
		"board":    {"pxelinux.cfg/58b41815-581e-c62a-d4e2-f44d30606469", "pxelinux.cfg/1518b458-1e58-2ac6-d4e2-f44d30606469"},
		"far":      {"pxelinux.cfg/AC10D113"},
		"disk":     {"pxelinux.cfg/01-00-20-38-03-37-6e"},
		"off":      {"pxelinux.cfg/01-00-20-38-03-37-6f", "pxelinux.cfg/default"},
		"card-ipx": {"ipxe/01-00-20-38-03-37-6c"},
		"disk-ipx": {"ipxe/01-00-20-38-03-37-6e"},
	} {
		for _, name := range names {
			golden.Compare(t, filepath.Join("testdata", host+".txt"), read(t, fsys, name))
		}
	}
	for _, name := range []string{
		"pxelinux.cfg/00000000-0000-0000-0000-000000000000", "pxelinux.cfg/ffffffff-ffff-ffff-ffff-ffffffffffff", // of boards without one
		"pxelinux.cfg/58b41815-581e-c62a-d4e2-f44d3060646a", "pxelinux.cfg/58B41815-581E-C62A-D4E2-F44D30606469", "pxelinux.cfg/58b41815581ec62ad4e2f44d30606469",
		"pxelinux.cfg/AC10D114", "pxelinux.cfg/ac10d113", "pxelinux.cfg/AC10D11", "pxelinux.cfg/AC10", "pxelinux.cfg/A", "pxelinux.cfg/AC10D11300", // shortened, as pxelinux does
	} {
		if f, err := fsys.Open(name); err == nil {
			f.Close()
			t.Errorf("%s can be opened", name)
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// When the server knows who asks, that counts for every name that says less.
func TestConfigurationOfWhoAsks(t *testing.T) {
	tree, _ := siteTree(t)
	own := netip.MustParseAddr("192.168.2.9")
	card := tree.FS(server, host.Machine{MAC: alpha, Address: own})
	want := read(t, card, "pxelinux.cfg/01-00-20-38-03-37-6c")
	for _, name := range []string{"pxelinux.cfg/default", "pxelinux.cfg/C0A80209", "pxelinux.cfg/58b41815-581e-c62a-d4e2-f44d30606469"} {
		if got := read(t, card, name); got != want {
			t.Errorf("%s: got:\n%s\nwant:\n%s", name, got, want)
		}
	}
	if got := read(t, card, "boot.ipxe"); !strings.Contains(got, "debian-12/3/vmlinuz") {
		t.Errorf("boot.ipxe: %s", got)
	}
	if f, err := card.Open("pxelinux.cfg/C0A8020A"); err == nil {
		f.Close()
		t.Error("the configuration of another address is found")
	}
}

// The folder holds what a server of the same address would send, for every name by which the policy's machines ask.
func TestWriteIsWhatIsServed(t *testing.T) {
	tree, policy := siteTree(t)
	dir := t.TempDir()
	if _, err := tree.Write(context.Background(), dir, server, policy.Machines()); err != nil {
		t.Fatal(err)
	}
	files := list(t, dir)
	served := tree.FS(server, host.Machine{Near: server})
	for name, content := range files {
		if name != ManifestName && content != read(t, served, name) {
			t.Errorf("%s is not what is served", name)
		}
	}
	for _, name := range []string{"memtest86+", "lpxelinux.0", "pxelinux.cfg/AC10D113", "pxelinux.cfg/01-00-20-38-03-37-6f", "ipxe/01-00-20-38-03-37-6f",
		"pxelinux.cfg/58b41815-581e-c62a-d4e2-f44d30606469", "pxelinux.cfg/1518b458-1e58-2ac6-d4e2-f44d30606469"} {
		if _, ok := files[name]; !ok {
			t.Errorf("%s is not there", name)
		}
	}
	// All of them go when the policy is empty, and what the store no longer has.
	if err := os.Remove(filepath.Join(tree.Loader, "memtest86+")); err != nil {
		t.Fatal(err)
	}
	done, err := tree.Write(context.Background(), dir, server, nil)
	if err != nil || done.Removed != 3*2+2+1+1 {
		t.Errorf("without machines: %+v, %v", done, err)
	}
}
