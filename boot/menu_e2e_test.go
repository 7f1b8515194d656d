//go:build e2e

package boot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	pxelinuxUp   = "\x10" // control-P
	pxelinuxEnd  = "\x05" // control-E
	ipxeDown     = "\x1b[B"
)

// TestE2EMenuChoices presses keys in the menus of real loaders: an older generation, of which the kernel is read then, and the memory
// test, which runs. The kernels are none, so that a choice takes seconds, and that the loader comes back with the menu is seen too.
// After that the local disk, and from another menu, of an image that boots, the rescue shell.
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
		p.reset(t)
		p.screen.wait(t, drawn)
		p.mark(t, ipxeDown, localDisk)
		p.press(t, enter)
		p.screen.wait(t, fromDisk)
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
		p.reset(t)
		p.screen.wait(t, "Automatic boot in")
		p.mark(t, pxelinuxEnd, "Memory test")
		p.mark(t, pxelinuxUp, localDisk)
		p.press(t, enter)
		p.screen.wait(t, fromDisk)
	})
	built := needBench(t)
	gen := built.build(t, wordsImage, wordsImage)
	b = &bench{program: shared.program, store: oneImageStore(t, b.store, gen)}
	t.Run("iPXE rescue", func(t *testing.T) {
		p := switchOn(t, b, "menu: {timeout: 60}\n", "http")
		p.screen.wait(t, "Rescue shells")
		p.mark(t, ipxeDown, localDisk)
		p.mark(t, ipxeDown, wordsImage+"@1")
		p.press(t, enter)
		p.rescued(t)
	})
	t.Run("pxelinux rescue", func(t *testing.T) {
		p := switchOn(t, b, "ipxe: pxelinux\nmenu: {timeout: 60}\n", "tftp")
		p.screen.wait(t, "Automatic boot in")
		p.mark(t, pxelinuxDown, "Rescue shells")
		p.insist(t, p.reads(wordsImage+"/1/vmlinuz"), enter) // there it is the first
		p.rescued(t)
	})
}

// What the menu calls the local disk, and what a machine says that started from the one of this test.
const (
	localDisk = "Boot from the local disk"
	fromDisk  = "this is the disk"
)

// talkingDisk is a disk whose boot sector writes fromDisk to the first serial port.
func talkingDisk(t *testing.T) (path string) {
	t.Helper()
	sector := make([]byte, 1<<20)
	copy(sector, "\xfa\x31\xc0\x8e\xd8\xfc\xbe\x23\x7c"+ //       cli; xor ax, ax; mov ds, ax; cld; mov si, 0x7c23
		"\xac\x84\xc0\x74\x12\x88\xc4"+ //                 next: lodsb; test al, al; jz stop; mov ah, al
		"\xba\xfd\x03\xec\xa8\x20\x74\xfb"+ //             mov dx, 0x3fd; full: in al, dx; test al, 0x20; jz full
		"\xba\xf8\x03\x88\xe0\xee\xeb\xe9"+ //             mov dx, 0x3f8; mov al, ah; out dx, al; jmp next
		"\xf4\xeb\xfd"+fromDisk+"\r\n") //                 stop: hlt; jmp stop
	copy(sector[510:], "\x55\xaa")
	path = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, sector, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
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
	p.boot(t, vm.MachineConfig{Console: p.screen, Disk: talkingDisk(t)})
	return p
}

// reset presses the reset button.
func (p *person) reset(t *testing.T) {
	t.Helper()
	if err := p.machine.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.screen.forget()
}

// mark presses a key, again when it was lost, until the loader draws a text because of it.
func (p *person) mark(t *testing.T, key, text string) {
	t.Helper()
	for range 10 {
		time.Sleep(300 * time.Millisecond)
		p.screen.forget()
		p.press(t, key)
		if p.screen.shows(text, 3*time.Second) {
			return
		}
	}
	t.Fatalf("%q is not marked; there is %q", text, p.screen.rest())
}

// rescued waits for the rescue shell's prompt, and uses it.
func (p *person) rescued(t *testing.T) {
	t.Helper()
	p.console(t, "shell because of rd.break=pre-pivot; leave it with exit")
	if out := p.answer(t, "ls /sysroot/etc/hostname"); !strings.HasSuffix(out, "/sysroot/etc/hostname") { // after the prompts for keys that came too late
		t.Errorf("ls says %q", out)
	}
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

// oneImageStore has a generation as its only one, and the loaders of another store without the memory test.
func oneImageStore(t *testing.T, loaders string, gen store.Generation) string {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := st.Begin(gen.Image)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{store.PartRoot, store.PartKernel, store.PartInitramfs} {
		if out, err := exec.Command("cp", "--reflink=auto", gen.Path(part), filepath.Join(d.Dir(), part)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if _, err := d.Publish(gen.Manifest); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.CopyFS(st.LoaderDir(), os.DirFS(filepath.Join(loaders, "loader"))),
		os.Remove(filepath.Join(st.LoaderDir(), "memtest86+"))); err != nil {
		t.Fatal(err)
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
	if !s.shows(text, 2*time.Minute) {
		t.Fatalf("%q is not shown; there is %q", text, s.rest())
	}
}

// shows tells whether a text comes within a time. What pxelinux writes the BIOS writes, too, so that each letter may stand there twice.
func (s *screen) shows(text string, limit time.Duration) bool {
	var pattern strings.Builder
	for _, letter := range text {
		pattern.WriteString(regexp.QuoteMeta(string(letter)) + "{1,2}")
	}
	drawn := regexp.MustCompile(pattern.String())
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		s.mu.Lock()
		at := drawn.FindIndex(s.shown.Bytes())
		if at != nil {
			s.shown.Next(at[1])
		}
		s.mu.Unlock()
		if at != nil {
			return true
		}
	}
	return false
}
