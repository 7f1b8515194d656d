package nfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/boot/crowd"
	"netroot/builder/need"
)

func TestRPCErrors(t *testing.T) {
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	none := put64(nil, authNone)
	long := append(put32(put32(nil, authSys), 404), make([]byte, 404)...)
	manyGids := sysCred(0, 0, make([]uint32, 17)...)
	short := append(put32(put32(nil, authSys), 8), make([]byte, 8)...)
	accepted := func(stat ...uint32) []byte {
		return words(append([]uint32{1, msgReply, replyAccepted, 0, 0}, stat...)...)
	}
	denied := func(v ...uint32) []byte { return words(append([]uint32{1, msgReply, replyDenied}, v...)...) }
	for _, l := range []struct {
		name string
		call []byte
		want []byte
	}{
		{"null", header(1, 2, progNFS, 3, 0, none), accepted(acceptSuccess)},
		{"mount null", header(1, 2, progMount, 3, 0, none), accepted(acceptSuccess)},
		{"RPC version 3", header(1, 3, progNFS, 3, 0, none), denied(rejectMismatch, 2, 2)},
		{"other program", header(1, 2, 100021, 4, 0, none), accepted(acceptProgUnavail)},
		{"portmapper", header(1, 2, progPortmap, 2, 0, none), accepted(acceptProgUnavail)},
		{"NFS 4", header(1, 2, progNFS, 4, 0, none), accepted(acceptProgMismatch, 3, 3)},
		{"NFS 2", header(1, 2, progNFS, 2, 0, none), accepted(acceptProgMismatch, 3, 3)},
		{"MOUNT 1", header(1, 2, progMount, 1, 5, none), accepted(acceptProgMismatch, 3, 3)},
		{"procedure 22", header(1, 2, progNFS, 3, 22, none), accepted(acceptProcUnavail)},
		{"mount procedure 6", header(1, 2, progMount, 3, 6, none), accepted(acceptProcUnavail)},
		{"no arguments", header(1, 2, progNFS, 3, 1, none), accepted(acceptGarbageArgs)},
		{"handle of 65 bytes", append(header(1, 2, progNFS, 3, 1, none), opaque(make([]byte, 65))...), accepted(acceptGarbageArgs)},
		{"handle longer than the call", append(header(1, 2, progNFS, 3, 1, none), words(60, 1)...), accepted(acceptGarbageArgs)},
		{"DES credentials", header(1, 2, progNFS, 3, 0, put64(nil, 3<<32)), denied(rejectAuth, authRejectedCred)},
		{"GSS credentials", header(1, 2, progNFS, 3, 0, put64(nil, 6<<32)), denied(rejectAuth, authRejectedCred)},
		{"17 groups", header(1, 2, progNFS, 3, 0, manyGids), denied(rejectAuth, authBadCred)},
		{"short credentials", header(1, 2, progNFS, 3, 0, short), denied(rejectAuth, authBadCred)},
		{"long credentials", header(1, 2, progNFS, 3, 0, long), denied(rejectAuth, authBadCred)},
		{"no verifier", header(1, 2, progNFS, 3, 0, none)[:32], denied(rejectAuth, authBadCred)},
	} {
		c.write(record(l.call))
		if got := c.read(); !bytes.Equal(got, l.want) {
			t.Errorf("%s: got % x, want % x", l.name, got, l.want)
		}
	}
	// A reply is not answered, and does no harm.
	c.write(record(words(9, msgReply, 0, 0, 0, 0)))
	c.nfs(0)
	if n := r.Stats().Errors; n == 0 {
		t.Error("errors are not counted")
	}
}

// TestBrokenStreams: each of these ends its own connection and nothing else.
func TestBrokenStreams(t *testing.T) {
	r, _ := serveTree(t)
	good := dial(t, r.addr)
	root := good.mount("/debian-12")
	for name, b := range map[string][]byte{
		"HTTP":             []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"TLS":              {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03},
		"empty record":     {0x80, 0, 0, 0},
		"short record":     {0x80, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7},
		"huge record":      {0xff, 0xff, 0xff, 0xff},
		"huge fragment":    {0x7f, 0xff, 0xff, 0xff},
		"empty fragments":  make([]byte, 4*300),
		"half a mark":      {0x80},
		"half a record":    {0x80, 0, 0, 40, 1, 2, 3},
		"half, more to do": {0, 0, 0, 4, 1, 2, 3, 4},
	} {
		bad := dial(t, r.addr)
		bad.write(b)
		bad.nc.(*net.TCPConn).CloseWrite()
		rest, err := io.ReadAll(bad.nc)
		if len(rest) != 0 || err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: got % x, %v", name, rest, err)
		}
		good.nfs(1, opaque(root)).want(t, 0)
	}
	long := 0
	for _, e := range r.seen(Refused) {
		if strings.Contains(e.Reason, "too long") {
			long++
		}
	}
	if long < 3 {
		t.Errorf("events %+v", r.seen(Refused))
	}
}

func TestFragments(t *testing.T) {
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	root := c.mount("/debian-12")
	msg := append(header(77, 2, progNFS, 3, 1, c.cred), opaque(root)...)
	for _, size := range []int{1, 3, 4, 50, len(msg)} {
		var b []byte
		for rest := msg; ; {
			n := min(size, len(rest))
			mark := uint32(n)
			if n == len(rest) {
				mark |= lastFragment
			}
			b = append(put32(b, mark), rest[:n]...)
			if rest = rest[n:]; len(rest) == 0 {
				break
			}
		}
		// In one piece, then byte by byte.
		c.write(b)
		first := c.read()
		for i := range b {
			c.write(b[i : i+1])
		}
		if second := c.read(); !bytes.Equal(first, second) || len(first) != 24+4+attrSize {
			t.Errorf("fragments of %d: %d and %d bytes", size, len(first), len(second))
		}
	}
}

// TestPipelined sends many calls at once and takes the replies in any order.
func TestPipelined(t *testing.T) {
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	root := c.mount("/debian-12")
	big, a := c.lookup(root, "size-3145730")
	const calls = 300
	go func() {
		var b []byte
		for i := range uint32(calls) {
			b = append(b, record(append(header(i, 2, progNFS, 3, 1, c.cred), opaque(root)...))...)
			b = append(b, record(append(header(calls+i, 2, progNFS, 3, 6, c.cred),
				append(opaque(big), append(long(uint64(i)*10_000), words(50_000)...)...)...))...)
		}
		c.nc.Write(b)
	}()
	want := pattern(int(a.size))
	seen := map[uint32]bool{}
	for range 2 * calls {
		d := &decoder{b: c.read()}
		xid := d.u32()
		if seen[xid] {
			t.Fatalf("two replies to %d", xid)
		}
		seen[xid] = true
		d.take(20)
		d.want(t, 0)
		if xid < calls {
			readAttr(d)
			finished(t, d)
			continue
		}
		postAttr(t, d)
		d.u32()
		d.u32()
		off := int(xid-calls) * 10_000
		if got := d.opaque(readMax); !bytes.Equal(got, want[off:min(off+50_000, len(want))]) {
			t.Fatalf("data at %d differs", off)
		}
	}
}

// TestSlowClient asks for a lot and takes nothing: it must cost the server no memory and nobody else any time.
func TestSlowClient(t *testing.T) {
	r, _ := serveTree(t)
	slow := dial(t, r.addr)
	h, _ := slow.lookup(slow.mount("/debian-12"), "size-1048576")
	ask := record(append(header(5, 2, progNFS, 3, 6, slow.cred), append(opaque(h), append(long(0), words(1<<20)...)...)...))
	slow.nc.SetDeadline(time.Now().Add(500 * time.Millisecond))
	sent := 0
	for range 100_000 {
		if _, err := slow.nc.Write(ask); err != nil {
			break
		}
		sent++
	}
	if sent == 100_000 {
		t.Error("the server goes on reading from a client that takes nothing")
	}
	if n := r.Stats().ReadBytes; n > 64<<20 {
		t.Errorf("%d bytes were prepared for it", n)
	}
	fast := dial(t, r.addr)
	if b, _ := fast.readFile(h, 0, 1<<20); len(b) != 1<<20 {
		t.Error("another client is not served")
	}
}

func TestManyClients(t *testing.T) {
	need.Patience(t)
	r, _ := serveTree(t)
	want := pattern(100_003)
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			c := dial(t, r.addr)
			root := c.mount("debian-12")
			for range 5 {
				h, _ := c.lookup(root, "size-100003")
				b, _ := c.readFile(h, 0, readMax)
				many, _ := c.lookup(root, "many")
				if !bytes.Equal(b, want) || len(c.listAll(many, true, 4096, 16384)) != manyFiles+2 {
					t.Error("wrong data")
				}
			}
			c.nc.Close()
		})
	}
	wg.Wait()
	deadline := time.Now().Add(5 * time.Second)
	for r.Stats().Connections != 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if st := r.Stats(); st.Connections != 0 || st.Accepted != 40 || st.Errors != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestConnLimit(t *testing.T) {
	r, _ := serveTree(t)
	var open []*rpcClient
	for range crowd.PerClient {
		c := dial(t, r.addr)
		c.nfs(0)
		open = append(open, c)
	}
	extra := dial(t, r.addr)
	if _, err := extra.nc.Read(make([]byte, 1)); err == nil {
		t.Error("one connection too many is served")
	}
	if got := r.seen(Refused); len(got) != 1 || !strings.Contains(got[0].Reason, "connections already") {
		t.Errorf("events %+v", got)
	}
	open[0].nc.Close()
	for range 100 {
		if r.Stats().Connections < crowd.PerClient {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	dial(t, r.addr).nfs(0)
}

func TestMount(t *testing.T) {
	path := planted.image(t)
	r := start(t, map[string]string{"/debian-12": path, "/debian-12@3": path})
	c := dial(t, r.addr)
	want := c.mount("/debian-12")
	for _, p := range []string{"debian-12", "/debian-12/", "//debian-12", "/debian-12@3"} {
		if !bytes.Equal(c.mount(p), want) {
			t.Errorf("%q gives another handle", p)
		}
	}
	if usr, _ := c.lookup(want, "usr"); !bytes.Equal(c.mount("/debian-12/usr"), usr) {
		t.Error("mounting a folder gives another handle than looking it up")
	}
	finished(t, c.call(progMount, 3, 3, str("/debian-12/usr")))
	for p, status := range map[string]uint32{
		"/debian-13": mountErrNoEnt, "/": mountErrNoEnt, "": mountErrNoEnt, "/debian-12/usr/none": mountErrNoEnt, "/debian-12/size-1": mountErrNotDir, "/debian-12/size-1/x": mountErrNotDir, "/debian-12/../x": mountErrNoEnt,
		strings.Repeat("x", 1025): mountErrNameTooLong,
	} {
		d := c.call(progMount, 3, 1, str(p))
		d.want(t, status)
		finished(t, d)
	}
	found := false
	for _, e := range r.seen(Refused) {
		found = found || e.Path == "/debian-13" && strings.Contains(e.Reason, "/debian-12, /debian-12@3")
	}
	if !found {
		t.Errorf("events %+v", r.seen(Refused))
	}
	d := c.call(progMount, 3, 5)
	for _, p := range []string{"/debian-12", "/debian-12@3"} {
		d.want(t, 1)
		if got := string(d.opaque(1024)); got != p {
			t.Errorf("export %q, want %q", got, p)
		}
		d.want(t, 0)
	}
	d.want(t, 0)
	finished(t, d)
	dump := func() (paths []string) {
		d := c.call(progMount, 3, 2)
		for d.bool() {
			if host := string(d.opaque(255)); host != "127.0.0.1" {
				t.Errorf("mounted by %q", host)
			}
			paths = append(paths, string(d.opaque(1024)))
		}
		finished(t, d)
		return paths
	}
	if got := dump(); !slices.Equal(got, []string{"/debian-12", "/debian-12@3"}) {
		t.Errorf("mounts %q", got)
	}
	finished(t, c.call(progMount, 3, 3, str("debian-12")))
	if got := dump(); !slices.Equal(got, []string{"/debian-12@3"}) {
		t.Errorf("mounts %q", got)
	}
	finished(t, c.call(progMount, 3, 4))
	if got := dump(); len(got) != 0 {
		t.Errorf("mounts %q", got)
	}
	if m, u := r.seen(Mount), r.seen(Unmount); len(m) != 6 || len(u) != 3 || m[4].Image != "debian-12@3" && m[0].Image != "debian-12" {
		t.Errorf("events %+v %+v", m, u)
	}
}

// Whoever mounts thousands of folders by long names has no answer to DUMP made that fills the memory when all connections ask for it.
func TestLongDump(t *testing.T) {
	need.Patience(t)
	path := planted.image(t)
	r := start(t, map[string]string{"/debian-12": path})
	c := dial(t, r.addr)
	for i := range mountsMax {
		c.mount("/debian-12" + strings.Repeat("/usr/..", i%130+1) + strings.Repeat("/.", i/130))
	}
	d := c.call(progMount, 3, 2)
	n, size := 0, len(d.b)
	for d.bool() {
		d.opaque(255)
		d.opaque(1024)
		n++
	}
	finished(t, d)
	if size > dumpMax || n < dumpMax/(2*mountPathMax) {
		t.Errorf("%d mounts in %d bytes", n, size)
	}
}

func TestPortmap(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- new(Server).ServePortmap(ctx, l, pc, 2049) }()
	c := dial(t, l.Addr().String())
	for _, q := range []struct{ prog, vers, proto, want uint32 }{
		{progNFS, 3, protoTCP, 2049}, {progMount, 3, protoTCP, 2049}, {progMount, 1, protoTCP, 2049}, {progPortmap, 2, protoUDP, 111},
		{progNFS, 3, protoUDP, 0}, {100021, 4, protoTCP, 0},
	} {
		args := words(q.prog, q.vers, q.proto, 0)
		d := c.call(progPortmap, 2, 3, args)
		d.want(t, q.want)
		finished(t, d)
		u, err := net.Dial("udp", pc.LocalAddr().String())
		must(t, err)
		u.SetDeadline(time.Now().Add(5 * time.Second))
		u.Write([]byte("garbage"))
		u.Write(append(header(42, 2, progPortmap, 2, 3, put64(nil, 0)), args...))
		buf := make([]byte, 100)
		n, err := u.Read(buf)
		must(t, err)
		if want := words(42, 1, 0, 0, 0, 0, q.want); !bytes.Equal(buf[:n], want) {
			t.Errorf("UDP: got % x, want % x", buf[:n], want)
		}
		u.Close()
	}
	d := c.call(progPortmap, 2, 4)
	n := 0
	for d.bool() {
		d.take(16)
		n++
	}
	finished(t, d)
	if n != 4 {
		t.Errorf("%d mappings", n)
	}
	for _, l := range []struct {
		prog, vers, proc uint32
		want             []byte
	}{
		{progPortmap, 4, 3, words(acceptProgMismatch, 2, 2)}, {progPortmap, 2, 1, words(acceptProcUnavail)},
		{progPortmap, 2, 5, words(acceptProcUnavail)}, {progNFS, 3, 0, words(acceptProgUnavail)},
	} {
		c.write(record(header(8, 2, l.prog, l.vers, l.proc, c.cred)))
		if got := c.read(); !bytes.Equal(got[20:], l.want) {
			t.Errorf("%v: % x", l, got)
		}
	}
	cancel()
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("does not end")
	}
}

func TestServeFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l.Close()
	if err := new(Server).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// FuzzCall sends any bytes as a record to all programs: there must be one whole reply or none.
func FuzzCall(f *testing.F) {
	exports, err := newFixed(map[string]string{"/debian-12": planted.image(f)})
	must(f, err)
	var e export
	e.id, e.img = exports.ids["/debian-12"], exports.images["/debian-12"]
	h := putHandle(nil, &e, e.img.Root())
	for proc := range uint32(22) {
		f.Add(append(header(1, 2, progNFS, 3, proc, sysCred(0, 0, 1)), append(append(h, str("name")...), make([]byte, 40)...)...))
	}
	for proc := range uint32(6) {
		f.Add(append(header(1, 2, progMount, 3, proc, sysCred(0, 0)), str("/debian-12")...))
		f.Add(append(header(1, 2, progPortmap, 2, proc, put64(nil, 0)), words(progNFS, 3, 6, 0)...))
	}
	f.Fuzz(func(t *testing.T, rec []byte) {
		c := &conn{s: &Server{Exports: exports}, cold: make(chan struct{}, coldMax)}
		c.programs = []program{nfsProgram(), mountProgram(), portmapProgram(2049)}
		c.io.init()
		if !c.answer(rec) || len(c.out) == 0 {
			return
		}
		if n := binary.BigEndian.Uint32(c.out) &^ lastFragment; int(n) != len(c.out)-4 || len(c.out) > dirMax+1024 {
			t.Errorf("a reply of %d bytes in %d", n, len(c.out))
		}
		c.wg.Wait()
	})
}

// FuzzRecords cuts any bytes into records; memory stays bounded.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{0x80, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 1, 9, 0x80, 0, 0, 0})
	f.Add(append(put32(nil, lastFragment|recordKeep+9), make([]byte, recordKeep+9)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, err := cut(t, b, len(readBuffer{}))
		for _, size := range []int{1, 3, 1000} {
			if pieces, err2 := cut(t, b, size); !slices.EqualFunc(pieces, whole, bytes.Equal) || (err == nil) != (err2 == nil) {
				t.Fatalf("in pieces of %d: %d records, %v; in large ones: %d, %v", size, len(pieces), err2, len(whole), err)
			}
		}
	})
}

// cut returns the records of a stream that comes in pieces of size bytes.
func cut(t *testing.T, stream []byte, size int) (all [][]byte, err error) {
	var r records
	for piece := range slices.Chunk(stream, size) {
		piece = slices.Clone(piece)
		r.add(piece)
		for {
			rec, ok, err := r.next()
			if err != nil {
				return all, err
			}
			if !ok {
				break
			}
			if len(rec) > recordKeep {
				t.Fatalf("a record of %d bytes", len(rec))
			}
			all = append(all, slices.Clone(rec))
		}
		if len(r.in) > 0 || cap(r.part) > 2*recordKeep {
			t.Fatalf("%d bytes are not used, %d are kept", len(r.in), cap(r.part))
		}
		clear(piece) // what is kept must be a copy
	}
	return all, nil
}
