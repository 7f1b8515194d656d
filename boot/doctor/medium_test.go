package doctor

import (
	"os"
	"path/filepath"
	"testing"

	"netroot/boot/host"
	"netroot/boot/portowner"
	"netroot/boot/tftpboot"
	"netroot/builder/store"
)

// What a medium needs of the machine and of this host is told before a machine finds out.
func TestMedia(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	publishMedium := func(name string, m store.Medium) {
		d, err := s.Begin(name)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Abort()
		if err := os.WriteFile(filepath.Join(d.Dir(), store.PartKernel), []byte("kernel"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Publish(store.Manifest{Medium: &m}); err != nil {
			t.Fatal(err)
		}
	}
	d := &Doctor{Store: s, Policy: host.Default()}
	askers := func() []string {
		list, err := tftpboot.Askers(s)
		if err != nil {
			t.Error(err)
		}
		return list
	}
	if got := askers(); got != nil {
		t.Errorf("an empty store has %v", got)
	}
	publishMedium("big", store.Medium{Family: store.Casper, File: "u.iso", Deliver: store.ByHTTP, Memory: 3e9})
	publishMedium("small", store.Medium{Family: store.Casper, File: "u.iso", Deliver: store.ByNFS})
	publishMedium("el", store.Medium{Family: store.Anaconda, File: "el.iso", Deliver: store.ByNFS})
	expect(t, "media", d.store()[:4], "note: a machine downloads u.iso into its memory, and needs at least 3000 MB", "ok: big@1 is current", "ok: el@1 is current", "ok: small@1 is current")

	if d.Policy, err = host.Parse("netroot.yaml", []byte("hosts:\n  - {name: nuc, mac: \"00:20:38:03:37:6c\", image: small, boot: once}\n")); err != nil {
		t.Fatal(err)
	}
	expect(t, "boot: once", d.store()[4:5], "note: nuc has boot: once, and small@1 has no autoinstall, preseed or kickstart")

	ports := map[port]holding{{"tcp", 111}: {holders: []portowner.Holder{{Process: portowner.Process{PID: 7, Name: "rpcbind"}}}}}
	last := func(askers []string) Finding {
		list := defaultPorts.judge(ports, askers)
		return list[len(list)-1]
	}
	expect(t, "with a live system by NFS", []Finding{last(askers())}, "fault: and the initrd of small@1 asks there for NFS")
	expect(t, "without", []Finding{last(nil)}, "ok: which serve leaves it to")
}
