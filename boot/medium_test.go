package boot

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/boot/host"
	"netroot/boot/nfs"
	"netroot/boot/tftpboot"
	"netroot/builder/isofixture"
	"netroot/builder/store"
)

// publishMedium makes a generation of an ISO with the files, given as name=content, or without one of a kernel alone.
func publishMedium(t testing.TB, s *store.Store, name string, medium store.Medium, files ...string) store.Generation {
	t.Helper()
	d, err := s.Begin(name)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Abort()
	if len(files) > 0 {
		isofixture.Make(t, filepath.Join(d.Dir(), store.PartISO), files...)
	}
	if err := os.WriteFile(filepath.Join(d.Dir(), store.PartKernel), []byte("kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := d.Publish(store.Manifest{Medium: &medium})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestMediumIsServed(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	live := publishMedium(t, s, "live", store.Medium{Family: store.Live, Deliver: store.ByNFS}, "live/filesystem.squashfs=root", "README=read me")
	publishMedium(t, s, "alone", store.Medium{Family: store.Other})
	images := &exports{store: s}

	t.Run("by NFS", func(t *testing.T) {
		if got := strings.Join(images.List(), " "); got != "/live /live@1" {
			t.Errorf("the exports are %s", got)
		}
		id, img, err := images.Open("/live@1")
		if err != nil {
			t.Fatal(err)
		}
		// Another server, or this one after a restart, finds the same file by what is in a handle.
		later := &exports{store: s}
		again, err := later.ByID(id)
		if err != nil {
			t.Fatal(err)
		}
		i, err := img.Find("live/filesystem.squashfs")
		if err != nil {
			t.Fatal(err)
		}
		j, ok := again.Inode(i.Nid)
		if !ok {
			t.Fatal("the inode is not found by its number")
		}
		text := make([]byte, 4)
		if _, err := again.ReadAt(j, text, 0); err != nil || string(text) != "root" {
			t.Errorf("%q, %v", text, err)
		}
		if _, _, err := images.Open("/alone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what has nothing to mount: %v", err)
		}
	})
	t.Run("by HTTP", func(t *testing.T) {
		tree := &tftpboot.Tree{Store: s, Decide: func(host.Machine) host.Decision { return host.Decision{} }, ISO: images.iso}
		fsys := tree.FS(netip.MustParseAddr("10.0.0.3"), host.Machine{})
		for name, want := range map[string]string{
			"images/live/1/iso/live/filesystem.squashfs": "root", "images/live/1/iso/README": "read me", "live/1/vmlinuz": "kernel",
		} {
			if data, err := fs.ReadFile(fsys, name); err != nil || string(data) != want {
				t.Errorf("%s: %q, %v", name, data, err)
			}
		}
		f, err := fsys.Open("images/live/1/image.iso")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if n, err := io.Copy(io.Discard, f); err != nil || n != live.Manifest.Parts[store.PartISO].Size {
			t.Errorf("the ISO: %d bytes, %v", n, err)
		}
		for _, name := range []string{
			"images/live/1", "images/live/1/iso", "images/live/1/iso/gone", "images/live/1/iso/README/x", "images/live/2/image.iso", "images/live/01/image.iso",
			"images/live/1/image.json", "images/live/1/vmlinuz", "images/alone/1/image.iso", "images/alone/1/iso/x", "images/gone/1/iso/x", "images/live/current/image.iso",
		} {
			if _, err := fsys.Open(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// Whoever has an image that needs the portmapper learns when serve starts that there is none.
func TestPortmapIsMissed(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	server := &Server{Store: s, Ports: Ports{NFS: 2049, Portmap: taken.Addr().(*net.TCPAddr).Port}}
	said := func() string {
		var out bytes.Buffer
		if sv, ok := server.portmap(&nfs.Server{}, slog.New(slog.NewTextHandler(&out, nil))); ok {
			sv.close()
			t.Error("it has a port that is taken")
		}
		return out.String()
	}
	publishMedium(t, s, "el", store.Medium{Family: store.Anaconda, Deliver: store.ByNFS}, "README=x")
	if got := said(); !strings.Contains(got, "level=INFO") {
		t.Errorf("nobody misses it, and: %s", got)
	}
	publishMedium(t, s, "u", store.Medium{Family: store.Casper, Deliver: store.ByNFS}, "README=x")
	if got := said(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, "the initrd of u@1 asks there for NFS") {
		t.Errorf("u@1 misses it, and: %s", got)
	}
}

// Whatever is asked for, nothing comes but the files of the ISO, under the one name that each has.
func FuzzISOPath(f *testing.F) {
	for _, name := range []string{"live/1/iso/README", "live/1/image.iso", "live/1/iso/../image.json", "live/1/iso//README", "../images/live/1/image.iso", "live/1/iso/live/./filesystem.squashfs", "live/+1/image.iso"} {
		f.Add(name)
	}
	s, err := store.Open(filepath.Join(f.TempDir(), "store"))
	if err != nil {
		f.Fatal(err)
	}
	publishMedium(f, s, "live", store.Medium{Family: store.Live, Deliver: store.ByNFS}, "live/filesystem.squashfs=root", "README=read me")
	tree := &tftpboot.Tree{Store: s, Decide: func(host.Machine) host.Decision { return host.Decision{} }, ISO: (&exports{store: s}).iso}
	fsys := tree.FS(netip.MustParseAddr("10.0.0.3"), host.Machine{})
	known := map[string]string{"live/1/iso/README": "read me", "live/1/iso/live/filesystem.squashfs": "root"}
	f.Fuzz(func(t *testing.T, name string) {
		data, err := fs.ReadFile(fsys, "images/"+name)
		if err == nil && string(data) != known[name] && name != "live/1/image.iso" {
			t.Errorf("%q gave %d bytes", name, len(data))
		}
	})
}
