package tftp

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

// quiet fails when a packet comes.
func (r *rom) quiet(d time.Duration, what string) {
	r.t.Helper()
	buf := make([]byte, 2000)
	r.conn.SetReadDeadline(time.Now().Add(d))
	if n, _, err := r.conn.ReadFromUDP(buf); err == nil {
		r.t.Errorf("%s was answered: %q", what, buf[:n])
	}
}

// download gets a file over a network that loses some of what comes and some of what goes.
func (r *rom) download(blksize, window int, loss float64) []byte {
	r.t.Helper()
	rnd := rand.New(rand.NewPCG(3, uint64(blksize)))
	request := fmt.Sprintf("\x00\x01f\x00octet\x00blksize\x00%d\x00windowsize\x00%d\x00", blksize, window)
	server := r.peer
	r.send([]byte(request))
	var got []byte
	acked, in, started := uint16(0), 0, false
	ack := func() {
		in = 0
		if rnd.Float64() >= loss {
			r.ack(acked)
		}
	}
	buf := make([]byte, 70000)
	for {
		r.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, from, err := r.conn.ReadFromUDP(buf)
		switch {
		case err != nil && !started:
			r.peer = server
			r.send([]byte(request))
			continue
		case err != nil:
			ack()
			continue
		case rnd.Float64() < loss:
			continue
		}
		r.peer = from
		switch p := buf[:n]; p[1] {
		case opOack:
			started = true
			if acked == 0 {
				ack()
			}
		case opError:
			r.t.Fatalf("after %d bytes: %q", len(got), p[4:])
		case opData:
			started = true
			if binary.BigEndian.Uint16(p[2:]) != acked+1 {
				ack()
				continue
			}
			acked++
			got = append(got, p[4:]...)
			if in++; n-4 < blksize {
				r.ack(acked)
				return got
			}
			if in == window {
				ack()
			}
		}
	}
}

func TestWindowsAndLoss(t *testing.T) {
	need.Patience(t)
	t.Parallel()
	data := pattern(200 << 10)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, fsys := range map[string]fs.FS{"disk": os.DirFS(dir), "memory": fstest.MapFS{"f": {Data: data}}} {
		port, _ := serve(t, fsys)
		var wg sync.WaitGroup
		for _, c := range []struct {
			blksize, window int
			loss            float64
		}{{512, 1, 0}, {1428, 16, 0}, {1024, 64, 0}, {65464, 2, 0}, {8192, 8, 0.05}, {1428, 1, 0.1}, {1428, 4, 0.1}} {
			wg.Go(func() {
				if got := newROM(t, "127.0.0.1", port).download(c.blksize, c.window, c.loss); !bytes.Equal(got, data) {
					t.Errorf("from %s, %+v: the file came out different, %d bytes", name, c, len(got))
				}
			})
		}
		wg.Wait()
	}
}

// Several threads, each with its part of the clients.
func TestManyReactors(t *testing.T) {
	data := pattern(100 << 10)
	l, err := listen(t.Context(), netip.MustParseAddrPort("0.0.0.0:0"), nil, 3)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{FS: func(_, _ netip.Addr) fs.FS { return fstest.MapFS{"f": {Data: data}} }}
	serveOn(t, l, s)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(i))})
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			r := &rom{t, conn, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: l.Addr().(*net.UDPAddr).Port}}
			if !bytes.Equal(r.download(1024, 4, 0), data) {
				t.Error("the file came out different")
			}
		})
	}
	wg.Wait()
	for end := time.Now().Add(3 * time.Second); s.Stats().Reads < 12; time.Sleep(time.Millisecond) { // the last acknowledgement may be under way
		if time.Now().After(end) {
			t.Fatalf("%+v", s.Stats())
		}
	}
}

// Two servers of one machine, each on an address of its own.
func TestTwoServers(t *testing.T) {
	port := uint16(freePort(t))
	for _, addr := range []string{"127.0.0.2", "127.0.0.3"} {
		l, err := listen(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(addr), port), nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		serveOn(t, l, &Server{FS: func(_, local netip.Addr) fs.FS { return fstest.MapFS{"f": {Data: []byte(addr + " " + local.String())}} }})
	}
	for _, addr := range []string{"127.0.0.2", "127.0.0.3"} {
		if got := newROM(t, addr, int(port)).download(512, 1, 0); string(got) != addr+" "+addr {
			t.Errorf("%s answers %q", addr, got)
		}
	}
}

func TestNotAnswered(t *testing.T) {
	port, said := serve(t, fstest.MapFS{"f": {Data: pattern(5000)}})
	r := newROM(t, "127.0.0.1", port)
	for _, p := range []string{"", "\x00", "\x00\x01", "\x00\x03\x00\x01abc", "\x00\x04\x00\x01", "\x00\x05\x00\x00x\x00", "\x00\x06x\x00y\x00", "\xff\xff\xff\xff\xff"} {
		r.send([]byte(p))
	}
	r.quiet(100*time.Millisecond, "something that is no request")

	b := newROM(t, "127.255.255.255", port)
	raw, err := b.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := control(raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }); err != nil {
		t.Fatal(err)
	}
	b.request(1, "f", "octet")
	b.quiet(100*time.Millisecond, "a broadcast")
	said.wait(t, `msg=refused service=tftp client=127.0.0.1 file=f reason="the request was a broadcast"`)

	// A packet of a transfer that nobody knows is an error, once for a client that lost its server, and not for ever.
	r.request(1, "f", "octet")
	r.receive()
	lost := newROM(t, "127.0.0.1", r.peer.Port)
	lost.ack(7)
	if op, rest := lost.receive(); op != opError || rest[1] != codeUnknown {
		t.Errorf("got op %d %q", op, rest)
	}
	lost.send([]byte("\x00\x05\x00\x00x\x00"))
	lost.quiet(50*time.Millisecond, "an error")
	// What comes late for a transfer that has ended is not.
	r.send([]byte("\x00\x05\x00\x00enough\x00"))
	r.ack(1)
	r.quiet(50*time.Millisecond, "a late acknowledgement")
}

// The access to a file is denied, the mode unknown, the server full.
func TestErrorCodes(t *testing.T) {
	l, err := Listen(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.UDPAddr).Port
	s := &Server{MaxPerClient: 2, FS: func(_, _ netip.Addr) fs.FS { return guarded{fstest.MapFS{"f": {Data: pattern(5000)}}} }}
	said, _ := serveOn(t, l, s)
	refused := func(code byte, text string, words ...string) {
		t.Helper()
		r := newROM(t, "127.0.0.1", port)
		r.request(1, words...)
		if op, rest := r.receive(); op != opError || rest[1] != code || string(rest[2:]) != text+"\x00" {
			t.Errorf("%q: op %d %q", words, op, rest)
		}
	}
	refused(codeAccess, "access denied", "secret", "octet")
	said.wait(t, `msg=refused service=tftp client=127.0.0.1 file=secret reason="open secret: 52:54:00:12:34:56 is not listed: permission denied"`)
	r := newROM(t, "127.0.0.1", port)
	r.request(1, "unsure", "octet")
	r.quiet(300*time.Millisecond, "a client that may be another one")
	said.wait(t, `level=WARN msg=refused service=tftp client=127.0.0.1 file=unsure reason="not known: i/o timeout"`)
	refused(codeIllegal, "only the modes octet and netascii are known", "f", "mail")
	for range 2 {
		r := newROM(t, "127.0.0.1", port)
		r.request(1, "f", "octet")
		r.receive()
	}
	refused(codeOther, "too many transfers, ask again later", "f", "octet")
	said.wait(t, `level=WARN msg=refused service=tftp client=127.0.0.1 file=f reason="this client has 2 transfers under way"`)
	if got := s.Transfers(); len(got) != 2 || got[0].File != "f" || got[0].Size != 5000 || got[0].Client.Addr().String() != "127.0.0.1" {
		t.Errorf("under way: %+v", got)
	}
	if st := s.Stats(); st.Refused != 4 || st.Requests != 6 || st.Active != 2 {
		t.Errorf("%+v", st)
	}
}

// guarded denies access to one file, and does not know about another.
type guarded struct{ fs.FS }

func (g guarded) Open(name string) (fs.File, error) {
	switch name {
	case "unsure":
		return nil, fmt.Errorf("not known: %w", os.ErrDeadlineExceeded)
	case "secret":
		return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("52:54:00:12:34:56 is not listed: %w", fs.ErrPermission)}
	}
	return g.FS.Open(name)
}

func TestProgress(t *testing.T) {
	l, err := Listen(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{FS: func(_, _ netip.Addr) fs.FS { return fstest.MapFS{"f": {Data: pattern(5000)}} }}
	if len(s.Transfers()) != 0 {
		t.Error("transfers before it serves")
	}
	said, _ := serveOn(t, l, s)
	r := newROM(t, "127.0.0.1", l.Addr().(*net.UDPAddr).Port)
	r.request(1, "/f", "octet")
	for n := uint16(1); n <= 3; n++ {
		r.receive()
		r.ack(n)
	}
	r.receive()
	if got := s.Transfers(); len(got) != 1 || got[0].Sent != 3*512 || got[0].Size != 5000 || got[0].File != "/f" || time.Since(got[0].Start) > time.Minute {
		t.Errorf("%+v", got)
	}
	// The machine is still there, but its loader is not: ICMP says so.
	r.conn.Close()
	said.wait(t, `msg=aborted service=tftp client=127.0.0.1 file=/f bytes=1536`)
	said.wait(t, `nobody listens at the client's port any more`)
	if n := len(s.Transfers()); n != 0 {
		t.Errorf("%d transfers are left", n)
	}
}

// The same request again, while it is answered and later.
func TestRequestAgain(t *testing.T) {
	port, said := serve(t, fstest.MapFS{"f": {Data: pattern(5000)}, "g": {Data: pattern(100)}})
	r := newROM(t, "127.0.0.1", port)
	server := r.peer
	r.request(1, "f", "octet")
	_, first := r.receive()
	time.Sleep(minWait)
	transfers := r.peer
	r.peer = server
	r.request(1, "f", "octet")
	if _, again := r.receive(); !bytes.Equal(again, first) || r.peer.Port != transfers.Port {
		t.Error("the answer is another one")
	}
	r.ack(1)
	r.receive()
	// Another request from the same port: that loader has begun anew.
	r.peer = server
	r.request(1, "g", "octet")
	if op, rest := r.receive(); op != opData || !bytes.Equal(rest[2:], pattern(100)) {
		t.Errorf("got op %d", op)
	}
	said.wait(t, `msg=aborted service=tftp client=127.0.0.1 file=f bytes=512`)
	r.ack(1)
	said.wait(t, "msg=read service=tftp client=127.0.0.1 file=g bytes=100")
}

// A file that is not in the page cache is fetched by another thread, and shared by those who load it.
func TestColdFile(t *testing.T) {
	dir := t.TempDir()
	data := pattern(2 << 20)
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{FS: func(_, _ netip.Addr) fs.FS { return os.DirFS(dir) }}
	serveOn(t, l, s)
	var wg sync.WaitGroup
	for _, window := range []int{1, 16} {
		wg.Go(func() {
			if !bytes.Equal(newROM(t, "127.0.0.1", l.Addr().(*net.UDPAddr).Port).download(1428, window, 0), data) {
				t.Error("the file came out different")
			}
		})
	}
	wg.Wait()
	if s.Stats().Cold == 0 {
		t.Skip("this file system cannot drop its cache")
	}
	t.Logf("%d of %d reads waited for the disk", s.Stats().Cold, 2*len(data)/1428)
}

func TestFileBecomesShorter(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, pattern(100000), 0o644); err != nil {
		t.Fatal(err)
	}
	port, said := serve(t, os.DirFS(filepath.Dir(name)))
	r := newROM(t, "127.0.0.1", port)
	r.request(1, "f", "octet")
	r.receive()
	if err := os.Truncate(name, 600); err != nil {
		t.Fatal(err)
	}
	r.ack(1)
	if op, rest := r.receive(); op != opError || !strings.Contains(string(rest), "cannot read file") {
		t.Errorf("got op %d %q", op, rest)
	}
	said.wait(t, "msg=aborted service=tftp client=127.0.0.1 file=f bytes=512")
}

var malformed = flag.Int("malformed", 100_000, "how many malformed packets TestMalformedPackets sends")

// A flood of packets that mean nothing, or nearly something, on both ports. Memory stays, and others are served.
func TestMalformedPackets(t *testing.T) {
	need.Patience(t)
	data := pattern(100 << 10)
	l, err := Listen(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{FS: func(_, _ netip.Addr) fs.FS { return fstest.MapFS{"f": {Data: data}} }}
	said, _ := serveOn(t, l, s)
	port := l.Addr().(*net.UDPAddr).Port
	seeds := [][]byte{[]byte("\x00\x01f\x00octet\x00blksize\x001428\x00windowsize\x0016\x00"), {0, 4, 0, 1}, {0, 3, 0, 1, 9}, []byte("\x00\x05\x00\x01no\x00"), []byte("\x00\x06tsize\x000\x00"), make([]byte, 1400)}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	rnd := rand.New(rand.NewPCG(5, 6))
	start := time.Now()
	r := newROM(t, "127.0.0.1", port)
	for i := range *malformed {
		if i%1000 == 0 {
			r.conn.Close()
			r = newROM(t, "127.0.0.1", port)
		}
		r.peer.Port = port
		if i&1 == 0 {
			r.peer.Port = int(l.port)
		}
		p := bytes.Clone(seeds[rnd.IntN(len(seeds))])
		for range rnd.IntN(4) {
			p[rnd.IntN(len(p))] = byte(rnd.Uint32())
		}
		r.send(p[:rnd.IntN(len(p)+1)])
	}
	if got := newROM(t, "127.0.0.1", port).download(1428, 1, 0); !bytes.Equal(got, data) {
		t.Error("the file came out different")
	}
	said.forget()
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%v, %d KiB, %+v", time.Since(start), grown>>10, s.Stats())
	if grown > 16<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}

// Forged requests: those whose senders never answer give way.
func TestForgedRequests(t *testing.T) {
	l, err := Listen(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &serving{Server: &Server{}, ctx: t.Context(), l: l, wake: make(chan struct{}, 1)}
	s.log = s.logger()
	r := newReactor(s, l.data[0])
	s.reactors = []*reactor{r}
	ask := func(addr netip.Addr, port uint16) bool {
		from := netip.AddrPortFrom(addr, port)
		tr := &transfer{key: keyOf(from), client: from, packet: "x", opening: true, start: time.Now()}
		ok, _ := s.admit(r, tr)
		if ok {
			tr.opening = false
			tr.src = &source{size: 5000}
			tr.terms = terms{blksize: 512, window: 1}
			tr.begin(tr.start)
		}
		return ok
	}
	one, taken := netip.MustParseAddr("10.0.0.1"), 0
	for port := range 1000 {
		if ask(one, uint16(port+1)) {
			taken++
		}
	}
	if taken != maxFreshPerClient {
		t.Errorf("%d requests of one address are answered, want %d", taken, maxFreshPerClient)
	}
	for i := range 10000 {
		if !ask(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 2070) {
			t.Fatalf("request %d is not answered", i)
		}
	}
	if n := len(r.active); n > maxFresh || len(r.clients) > maxFresh || len(r.fresh) > 3*maxFresh || len(r.ended) > maxRemembered {
		t.Errorf("%d transfers, %d clients, %d in line, %d remembered", n, len(r.clients), len(r.fresh), len(r.ended))
	}
}

// tshark is a third reader of what goes over the wire.
func TestTsharkReadsTheConversation(t *testing.T) {
	need.Tools(t, "tshark")
	port, _ := serve(t, fstest.MapFS{"f": {Data: pattern(5000)}, "text": {Data: []byte("a\r\nb\n")}})
	pcap := []byte{0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 101} // link type 101: raw IP
	packets := 0
	record := func(from, to uint16, p []byte) {
		n := uint32(len(p) + 28)
		pcap = binary.BigEndian.AppendUint32(append(pcap, make([]byte, 8)...), n)
		pcap = binary.BigEndian.AppendUint32(pcap, n)
		pcap = append(pcap, 0x45, 0, byte(n>>8), byte(n), 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
		for _, v := range []uint16{from, to, uint16(len(p) + 8), 0} {
			pcap = binary.BigEndian.AppendUint16(pcap, v)
		}
		pcap = append(pcap, p...)
		packets++
	}
	for _, words := range [][]string{{"f", "octet", "blksize", "1024", "tsize", "0", "windowsize", "2", "timeout", "3"}, {"text", "netascii", "blksize", "16"}, {"none", "octet"}, {"../x", "octet"}} {
		r := newROM(t, "127.0.0.1", port)
		here := uint16(r.conn.LocalAddr().(*net.UDPAddr).Port)
		say := func(p []byte) {
			to := uint16(r.peer.Port)
			if to == uint16(port) {
				to = 69
			}
			record(here, to, p)
			r.send(p)
		}
		say([]byte("\x00\x01" + strings.Join(words, "\x00") + "\x00"))
		var got []byte
		for last := false; !last; {
			op, rest := r.receive()
			record(uint16(r.peer.Port), here, append([]byte{0, op}, rest...))
			switch op {
			case opOack:
				say([]byte{0, opAck, 0, 0})
			case opData:
				got = append(got, rest[2:]...)
				last = words[0] == "f" && len(got) == 5000 || words[0] == "text" && len(rest) < 18
				if last || words[0] != "f" || rest[1]%2 == 0 {
					say(append([]byte{0, opAck}, rest[:2]...))
				}
			default:
				last = true
			}
		}
		if words[0] == "text" && string(got) != "a\r\x00\r\nb\r\n" {
			t.Errorf("the text came as %q", got)
		}
	}
	file := filepath.Join(t.TempDir(), "pcap")
	if err := os.WriteFile(file, pcap, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tshark", "-r", file, "-T", "fields", "-e", "frame.number", "-e", "tftp.opcode", "-e", "_ws.malformed", "-e", "_ws.expert.message", "-E", "separator=;").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != packets {
		t.Fatalf("%d packets, tshark shows %d:\n%s", packets, len(lines), out)
	}
	for _, line := range lines {
		// What it has to say of an error packet is that it is one.
		if f := strings.Split(line, ";"); f[1] == "" || f[2] != "" || f[3] != "" && (f[1] != "5" || f[3] != "TFTP ERROR packet") {
			t.Errorf("tshark reads %s", line)
		}
	}
}
