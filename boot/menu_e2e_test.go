//go:build e2e

package boot_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/image"
	"netroot/builder/need"
	"netroot/builder/store"
)

// Keys as a serial terminal sends them. pxelinux and the BIOS both read the port, so that a key of several bytes may reach neither
// whole: it gets those of one byte (syslinux, com32/menu/menumain.c). iPXE reads what the BIOS reads.
const (
	enter        = "\r"
	pxelinuxDown = "\x0e" // control-N
	pxelinuxEnd  = "\x05" // control-E
	ipxeDown     = "\x1b[B"
)

// TestE2EMenuChoices presses keys in the menus of real loaders: an older generation, of which the kernel is read then, and the memory
// test, which runs. The kernels are none, so that a choice takes seconds, and that the loader comes back with the menu is seen too.
func TestE2EMenuChoices(t *testing.T) {
	t.Parallel()
	need.Root(t)
	shared, err := setUp()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{program: shared.program, store: menuStore(t)}
	t.Run("iPXE", func(t *testing.T) {
		p := switchOn(t, b, "menu: {timeout: 60}\n", "http")
		const drawn = "Older generations"
		p.screen.wait(t, drawn)
		read := p.reads("tiny/2/vmlinuz")
		p.press(t, ipxeDown, ipxeDown, ipxeDown, enter)
		p.must(t, read)
		p.must(t, p.reads("ipxe/01-52-54-00-6e-72-01")) // which has the menu once more
		p.screen.forget()
		p.screen.wait(t, drawn)
		read = p.reads("memtest86+")
		p.press(t, ipxeDown, ipxeDown, enter)
		p.must(t, read)
		p.screen.wait(t, "Memtest86+")
	})
	t.Run("pxelinux", func(t *testing.T) {
		p := switchOn(t, b, "ipxe: pxelinux\nmenu: {timeout: 60}\n", "tftp")
		p.screen.wait(t, "Automatic boot in")
		read := p.reads("tiny/2/vmlinuz")
		p.press(t, pxelinuxDown, enter)
		p.insist(t, read, enter)
		// It says that this is no kernel, and is in the submenu again, where the last entry leads back; there the last is the test.
		p.insist(t, p.reads("memtest86+"), pxelinuxEnd, enter)
		p.screen.wait(t, "Memtest86+")
	})
}

// A person is in front of a machine that is switched on, and sees what its server does.
type person struct {
	site
	service string
	screen  *screen
}

func switchOn(t *testing.T, b *bench, policy, service string) *person {
	t.Helper()
	p := &person{site: site{lab: openLab(t, vm.Config{})}, service: service, screen: &screen{}}
	p.serve(t, b, policy)
	p.boot(t, vm.MachineConfig{Console: p.screen})
	return p
}

// press presses keys as a person does: the loader draws in between.
func (p *person) press(t *testing.T, keys ...string) {
	t.Helper()
	for _, key := range keys {
		time.Sleep(300 * time.Millisecond)
		if err := p.machine.Type(key); err != nil {
			t.Fatal(err)
		}
	}
}

// insist presses keys until a file is read: pxelinux loses those that come while it draws, which it does at the speed of the port.
func (p *person) insist(t *testing.T, read func(time.Duration) error, keys ...string) {
	t.Helper()
	for range 20 {
		p.press(t, keys...)
		if read(3*time.Second) == nil {
			return
		}
	}
	p.must(t, read)
}

// reads returns what waits until the machine has read a file, from now on.
func (p *person) reads(file string) func(time.Duration) error {
	from := len(p.server.Events())
	return func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		_, err := p.server.WaitEvent(ctx, from, func(e vm.Event) bool { return e.Message == "read" && e.Service == p.service && e.File == file })
		if err != nil {
			return fmt.Errorf("%s is not read: %w", file, err)
		}
		return nil
	}
}

func (p *person) must(t *testing.T, read func(time.Duration) error) {
	t.Helper()
	if err := read(time.Minute); err != nil {
		t.Fatalf("%v\n%q", err, p.screen.rest())
	}
}

// menuStore has three generations of an image that boots nowhere, and real loaders.
func menuStore(t *testing.T) string {
	t.Helper()
	need.Tools(t, "apt-get", "dpkg-deb")
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		d, err := st.Begin("tiny")
		if err != nil {
			t.Fatal(err)
		}
		_, err = image.Write(t.Context(), filepath.Join(d.Dir(), store.PartRoot), t.TempDir(), image.Options{})
		for _, part := range []string{store.PartKernel, store.PartInitramfs} {
			if err == nil {
				// A file that is small enough iPXE starts as a boot program, whatever is in it (its image/pxe_image.c). One of whole
				// blocks ends with an empty one, after which pxelinux was not seen to be done in the server's eyes.
				err = os.WriteFile(filepath.Join(d.Dir(), part), bytes.Repeat([]byte("no "+part+"\n"), 70_001), 0o644)
			}
		}
		if err == nil {
			_, err = d.Publish(store.Manifest{Arch: "amd64", Created: time.Now()})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	get := exec.Command("sh", "-ec", "apt-get -qq -o APT::Sandbox::User=root download pxelinux syslinux-common memtest86+ && for p in *.deb; do dpkg-deb -x $p .; done")
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		need.Missing(t, "download the loaders: %v: %s", err, out)
	}
	for _, path := range []string{"usr/lib/PXELINUX/pxelinux.0", "usr/lib/syslinux/modules/bios/ldlinux.c32", "usr/lib/syslinux/modules/bios/libcom32.c32",
		"usr/lib/syslinux/modules/bios/libutil.c32", "usr/lib/syslinux/modules/bios/menu.c32", "boot/memtest86+ia32.bin"} {
		data, err := os.ReadFile(filepath.Join(dir, path))
		if err == nil {
			err = os.WriteFile(filepath.Join(st.LoaderDir(), strings.TrimSuffix(filepath.Base(path), "ia32.bin")), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return st.Dir()
}

// A screen is what a machine has shown since a text was waited for.
type screen struct {
	mu    sync.Mutex
	shown bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.Write(p)
}

func (s *screen) rest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

func (s *screen) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown.Reset()
}

// wait waits for a text, and forgets all up to it.
func (s *screen) wait(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		s.mu.Lock()
		i := bytes.Index(s.shown.Bytes(), []byte(text))
		if i >= 0 {
			s.shown.Next(i + len(text))
		}
		s.mu.Unlock()
		if i >= 0 {
			return
		}
	}
	t.Fatalf("%q is not shown; there is %q", text, s.rest())
}
