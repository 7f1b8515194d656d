//go:build e2e

package boot_test

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"strings"
	"sync"
	"testing"

	"netroot/boot/vm"
)

var record = flag.Bool("record", false, "write boot/storm/testdata/debian-12.trace from a boot")

// TestE2ERecord writes the NFS calls of a real boot down, for package storm. It is for whoever wants a new recording:
//
//	go test -tags e2e ./boot -run TestE2ERecord -record
func TestE2ERecord(t *testing.T) {
	if !*record {
		t.Skip("only with -record")
	}
	b := needBench(t)
	gen, err := b.current("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	lab := openLab(t, vm.Config{})
	s := &site{lab: lab}
	// One server for all but NFS, whose calls go through us to another.
	start := func(policy string, args ...string) *vm.Server {
		server, err := lab.Serve(t.Context(), vm.ServerConfig{Program: b.program, Store: b.store, Policy: policy, Args: args})
		if err != nil {
			t.Fatal(err)
		}
		return server
	}
	start(vm.Policy(vm.DefaultMAC.String(), "diskless", gen.Ref()), "--no-nfs")
	s.server = start("default: "+gen.Ref()+"\n", "--no-dhcp", "--no-tftp", "--no-http", "--nfs-port", "2050", "--portmap-port", "0")
	r := &recorder{calls: map[uint32]call{}, paths: map[string]string{}}
	var l net.Listener
	if err := lab.Do(vm.NSServer, func() (err error) { l, err = net.Listen("tcp4", ":2049"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go r.serve(l, func() (c net.Conn, err error) {
		err = lab.Do(vm.NSServer, func() (err error) { c, err = net.Dial("tcp4", "10.77.0.3:2050"); return err })
		return c, err
	})
	s.boot(t, vm.MachineConfig{})
	s.await(t, gen, 0, s.machine.PowerOn)
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf("# The NFS calls of a boot of %s, kernel %s, in QEMU with 1 GB, from the mount to the last unit.\n%s\n",
		"recipes/debian-12.yaml", gen.Manifest.KernelRelease, strings.Join(r.lines, "\n"))
	if err := os.WriteFile("storm/testdata/debian-12.trace", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// call is a call whose reply has not come.
type call struct {
	program, procedure uint32
	path               string
}

// recorder carries NFS connections and writes the calls down.
type recorder struct {
	mu    sync.Mutex
	calls map[uint32]call
	paths map[string]string // of handles
	lines []string
}

func (r *recorder) serve(l net.Listener, dial func() (net.Conn, error)) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := dial()
		if err != nil {
			client.Close()
			continue
		}
		go r.carry(server, client, r.asked)
		go r.carry(client, server, r.answered)
	}
}

// carry copies records from one connection to the other and shows each to see.
func (r *recorder) carry(to, from net.Conn, see func(*words32)) {
	defer to.Close()
	in := bufio.NewReader(from)
	for {
		var mark [4]byte
		if _, err := io.ReadFull(in, mark[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(mark[:])&^(1<<31))
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		r.mu.Lock()
		see(&words32{body})
		r.mu.Unlock()
		if _, err := to.Write(append(mark[:], body...)); err != nil {
			return
		}
	}
}

func (r *recorder) asked(w *words32) {
	xid := w.next()
	w.skip(8)
	c := call{program: w.next()}
	w.skip(4)
	c.procedure = w.next()
	for range 2 { // credential and verifier
		w.skip(4)
		w.opaque()
	}
	if c.program == 100003 && c.procedure != 0 {
		c.path = r.paths[w.opaque()]
		switch c.procedure {
		case 1:
			r.lines = append(r.lines, "getattr "+c.path)
		case 3:
			c.path = path.Join(c.path, w.opaque())
			r.lines = append(r.lines, "lookup "+c.path)
		case 4:
			r.lines = append(r.lines, "access "+c.path)
		case 5:
			r.lines = append(r.lines, "readlink "+c.path)
		case 6:
			offset := uint64(w.next())<<32 | uint64(w.next())
			r.lines = append(r.lines, fmt.Sprintf("read %s %d+%d", c.path, offset, w.next()))
		case 17:
			r.lines = append(r.lines, "readdirplus "+c.path)
		}
	}
	r.calls[xid] = c
}

func (r *recorder) answered(w *words32) {
	xid := w.next()
	c := r.calls[xid]
	delete(r.calls, xid)
	w.skip(8)
	w.skip(4)
	w.opaque()
	if accepted, status := w.next(), w.next(); accepted != 0 || status != 0 {
		return
	}
	attributes := func() {
		if w.next() == 1 {
			w.skip(84)
		}
	}
	switch {
	case c.program == 100005 && c.procedure == 1:
		r.paths[w.opaque()] = "."
	case c.program == 100003 && c.procedure == 3:
		r.paths[w.opaque()] = c.path
	case c.program == 100003 && c.procedure == 17:
		attributes()
		w.skip(8)
		for w.next() == 1 {
			w.skip(8)
			name := w.opaque()
			w.skip(8)
			attributes()
			if w.next() == 1 {
				if h := w.opaque(); name != "." && name != ".." {
					r.paths[h] = path.Join(c.path, name)
				}
			}
		}
	}
}

// words32 reads XDR; behind its end are zeros.
type words32 struct{ b []byte }

func (w *words32) skip(n int) { w.b = w.b[min(n, len(w.b)):] }

func (w *words32) next() uint32 {
	if len(w.b) < 4 {
		w.b = nil
		return 0
	}
	v := binary.BigEndian.Uint32(w.b)
	w.skip(4)
	return v
}

func (w *words32) opaque() string {
	n := int(w.next())
	s := w.b[:min(n, len(w.b))]
	w.skip(n + (-n & 3))
	return string(s)
}
