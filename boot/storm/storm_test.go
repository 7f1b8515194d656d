package storm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/image"
	"netroot/builder/need"
	"netroot/builder/store"
)

func trace(t testing.TB) []Call {
	t.Helper()
	f, err := os.Open("testdata/debian-12.trace")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	calls, err := ReadTrace(f)
	if err != nil {
		t.Fatal(err)
	}
	return calls
}

// contents is what content has made so far: []byte by name.
var contents sync.Map

// content is what a made file holds at an offset: eight bytes at a time, different for each file. It is only read.
func content(name string, offset uint64, n int) []byte {
	end := offset + uint64(n)
	whole, _ := contents.Load(name)
	have, _ := whole.([]byte)
	if uint64(len(have)) < end {
		h := fnv.New64a()
		h.Write([]byte(name))
		seed := h.Sum64()
		have = slices.Clone(have)
		for at := uint64(len(have)); at < end; at += 8 {
			have = binary.LittleEndian.AppendUint64(have, (seed+at)*0x9e3779b97f4a7c15)
		}
		contents.Store(name, have)
	}
	return have[offset:end]
}

// check is Config.Check for the made image.
func check(name string, offset uint64, data []byte) error {
	if !bytes.Equal(data, content(name, offset, len(data))) {
		return fmt.Errorf("READ %s at %d gives something else", name, offset)
	}
	return nil
}

// makeStore makes a store with one image in it, whose files are those of the trace, as long as they are read. kernel, initrd and
// loader are of the given sizes.
func makeStore(t testing.TB, calls []Call, kernel, initrd, loader int) string {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	sizes := map[string]uint64{}
	for _, c := range calls {
		if c.Kind == "read" {
			sizes[c.Path] = max(sizes[c.Path], c.Offset+1, min(c.Offset+uint64(c.Count), c.Offset+1<<17))
		}
	}
	for _, c := range calls {
		name := filepath.Join(tree, c.Path)
		var err error
		switch {
		case c.Kind == "readdirplus":
			err = os.MkdirAll(name, 0o755)
		case c.Kind == "readlink":
			if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
				err = os.Symlink("elsewhere", name)
			}
		case sizes[c.Path] > 0:
			if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
				err = os.WriteFile(name, content(c.Path, 0, int(sizes[c.Path])), 0o755)
			}
			delete(sizes, c.Path)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	folder := filepath.Join(dir, "store")
	s, err := store.Open(folder)
	must(t, err)
	must(t, s.Prepare())
	draft, err := s.Begin("storm")
	must(t, err)
	_, err = image.Write(t.Context(), filepath.Join(draft.Dir(), store.PartRoot), tree, image.Options{})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(draft.Dir(), store.PartKernel), content("kernel", 0, kernel), 0o644))
	must(t, os.WriteFile(filepath.Join(draft.Dir(), store.PartInitramfs), content("initrd", 0, initrd), 0o644))
	_, err = draft.Publish(store.Manifest{})
	must(t, err)
	for name, size := range map[string]int{"pxelinux.0": loader, "lpxelinux.0": loader, "ldlinux.c32": 2 * loader} {
		must(t, os.WriteFile(filepath.Join(s.LoaderDir(), name), content(name, 0, size), 0o644))
	}
	return folder
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// program is the netroot that serves: the one of the environment, or one that is built.
var program = sync.OnceValues(func() (string, error) {
	if p := os.Getenv("NETROOT"); p != "" {
		return p, nil
	}
	p := filepath.Join(bin, "netroot")
	out, err := exec.Command("go", "build", "-o", p, "netroot/cmd/netroot").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build netroot: %w\n%s", err, out)
	}
	return p, err
})

var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "netroot-storm-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// site is a lab with a server in it, and a card for the machines.
func site(t testing.TB, folder, policy string, link *vm.Link) (*vm.Lab, *vm.Server, Config) {
	t.Helper()
	p, err := program()
	must(t, err)
	lab, err := vm.Open(t.Context(), vm.Config{Networks: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/20")}})
	must(t, err)
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	server, err := lab.Serve(t.Context(), vm.ServerConfig{Program: p, Store: folder, Policy: "default: storm\n" + policy})
	must(t, err)
	card, err := lab.Card(0, link)
	must(t, err)
	return lab, server, Config{Card: card,
		Do:      func(f func() error) error { return lab.Do(vm.NSMachines, f) },
		Address: func(a netip.Prefix) error { return vm.AddAddress(card, a) },
	}
}

// Serve is killed while twenty machines are in the middle of their boots, and starts again. Nobody sees an error, and every byte is right.
func TestKilledUnderTwentyMachines(t *testing.T) {
	need.Patience(t)
	need.Root(t)
	need.Tools(t, "dnsmasq")
	var calls []Call
	for i, c := range trace(t) {
		if i%2 == 0 { // enough to be in the middle of, and the race detector looks at every byte of it
			calls = append(calls, c)
		}
	}
	_, server, cfg := site(t, makeStore(t, calls, 400_000, 800_000, 30_000), "", nil)
	cfg.Machines, cfg.Trace, cfg.Check = 20, calls, check
	var mounted atomic.Int32
	all := make(chan struct{})
	cfg.Mounted = func() {
		if mounted.Add(1) == int32(cfg.Machines) {
			close(all)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	again := make(chan error, 1)
	go func() {
		select {
		case <-all:
		case <-ctx.Done():
		}
		server.Kill()
		time.Sleep(2 * time.Second)
		again <- server.Restart(ctx)
	}()
	boots, err := Run(ctx, cfg)
	if err != nil {
		t.Error(err)
	}
	if err := <-again; err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + summary(boots))
	broken := 0
	for _, b := range boots {
		if b.Broken > 0 {
			broken++
		}
	}
	if broken < cfg.Machines/2 {
		t.Errorf("only %d machines noticed: they were not in the middle of their boots", broken)
	}
}

// Behind a bad cable every boot ends, if late. The files are small and of the calls some are left out: what is waited for is the same.
func TestBadCable(t *testing.T) {
	need.Patience(t)
	need.Root(t)
	need.Tools(t, "dnsmasq")
	calls := trace(t)
	var some []Call
	for i, c := range calls {
		if i%80 == 0 {
			some = append(some, c)
		}
	}
	for _, link := range []vm.Link{
		{Loss: 0.01},
		{Loss: 0.05, Duplicate: 0.05, Reorder: 0.05},
		{Loss: 0.20, Duplicate: 0.05, Reorder: 0.20},
		{Delay: 300 * time.Millisecond},
	} {
		t.Run(link.String(), func(t *testing.T) {
			t.Parallel()
			link.Seed = 3
			cable := &link
			kernel, initrd := 30_000, 60_000
			if link.Delay > 0 { // one block at a time, this one
				kernel, initrd = 10_000, 20_000
			}
			_, _, cfg := site(t, makeStore(t, some, kernel, initrd, 2000), "", cable)
			cfg.Machines, cfg.Trace, cfg.Check = 3, some, check
			if link.Delay > 0 {
				cfg.Trace = some[:min(10, len(some))]
			}
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			boots, err := Run(ctx, cfg)
			if err != nil {
				t.Error(err)
			}
			t.Log("\n" + summary(boots))
			resent := 0
			for _, b := range boots {
				resent += b.Resent
			}
			if link.Loss >= 0.05 && resent == 0 {
				t.Error("nothing had to be sent again: the cable is good")
			}
		})
	}
}

func summary(boots []Boot) string {
	var b strings.Builder
	for _, stage := range Stages {
		var all []time.Duration
		for _, boot := range boots {
			if at, ok := boot.After[stage]; ok {
				all = append(all, at)
			}
		}
		slices.Sort(all)
		if len(all) > 0 {
			fmt.Fprintf(&b, "  %-8s %4d machines, the median after %6.2f s, the last after %6.2f s\n", stage, len(all), all[len(all)/2].Seconds(), all[len(all)-1].Seconds())
		}
	}
	var resent, broken, calls int
	var bytes int64
	for _, boot := range boots {
		resent, broken, calls, bytes = resent+boot.Resent, broken+boot.Broken, calls+boot.Calls, bytes+boot.Bytes
	}
	fmt.Fprintf(&b, "  %d questions repeated, %d NFS connections opened again, %d NFS calls, %.1f MB", resent, broken, calls, float64(bytes)/1e6)
	return b.String()
}

func TestTrace(t *testing.T) {
	calls := trace(t)
	kinds := map[string]int{}
	var text strings.Builder
	for _, c := range calls {
		kinds[c.Kind]++
		fmt.Fprintln(&text, c)
	}
	again, err := ReadTrace(strings.NewReader(text.String()))
	if err != nil || !slices.Equal(calls, again) {
		t.Errorf("%d calls become %d, %v", len(calls), len(again), err)
	}
	if kinds["read"] < 300 || kinds["lookup"] < 300 || kinds["getattr"] > 100 {
		t.Errorf("the recorded boot has %v", kinds)
	}
	for _, bad := range []string{"write etc/passwd 0+1", "read etc/passwd", "read etc/passwd 0", "read etc/passwd 0+1048577", "lookup ../etc", "lookup"} {
		if _, err := ReadTrace(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzReadTrace(f *testing.F) {
	f.Add("# c\nread etc/passwd 0+4096\nlookup a b\n")
	f.Fuzz(func(t *testing.T, text string) {
		calls, err := ReadTrace(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, c := range calls {
			again, err := ReadTrace(strings.NewReader(c.String()))
			if err != nil || len(again) != 1 || again[0] != c {
				t.Errorf("%q: %v %v", c, again, err)
			}
		}
	})
}

func FuzzParseMessage(f *testing.F) {
	seed := question(offer, 1, [6]byte{2}, netip.Addr{})
	seed[0] = 2 // a reply
	f.Add(seed)
	f.Fuzz(func(t *testing.T, p []byte) { parseMessage(p) })
}

func TestParseEntry(t *testing.T) {
	for text, want := range map[string]entry{
		"DEFAULT a@1\nLABEL a@1\n  KERNEL a/1/k\n  INITRD a/1/i\n  APPEND root=nfs:10.0.0.1:/a@1:vers=3,port=99 ip=dhcp\n":                        {"a/1/k", "a/1/i", netip.MustParseAddr("10.0.0.1"), 99, "/a@1"},
		"UI menu.c32\nLABEL b\n  KERNEL x\n  APPEND root=nfs:10.0.0.1:/b\nLABEL a\n  MENU DEFAULT\n  KERNEL y\n  APPEND q root=nfs:10.0.0.1:/a\n": {"y", "", netip.MustParseAddr("10.0.0.1"), 2049, "/a"},
	} {
		if got, err := parseEntry(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "LABEL a\n", "LABEL a\nKERNEL x\nAPPEND root=nfs:host:/a\n"} {
		if _, err := parseEntry(text); err == nil {
			t.Errorf("%q starts something", text)
		}
	}
}
