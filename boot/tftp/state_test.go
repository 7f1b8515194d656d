package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/builder/need"
)

func openState(t *testing.T, path string) *State {
	t.Helper()
	s, err := OpenState(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStateRemembers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	now := time.Now()
	s := openState(t, path)
	if got := s.load(now); len(got) != 0 {
		t.Fatalf("a new file holds %v", got)
	}
	s.setPort(40069)
	transfers := map[string]*transfer{}
	for i, name := range []string{"/debian-12/7/initrd.img", "a", "b", strings.Repeat("n", maxName), "ended"} {
		tr := testTransfer(100<<20, terms{blksize: 1428, window: 1 + i, timeout: 3})
		tr.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 2070)
		tr.local = netip.MustParseAddr("10.0.0.250")
		tr.asked, tr.start, tr.acked, tr.src.id = name, now, int64(i)*20000, 99
		tr.slot = s.add(tr, now)
		transfers[name] = tr
	}
	s.remove(transfers["ended"].slot)
	delete(transfers, "ended")
	transfers["a"].slot.progress(20001, now.Add(-time.Minute))
	transfers["b"].slot.progress(1, now.Add(-time.Hour))
	if s.add(&transfer{client: netip.MustParseAddrPort("10.0.0.9:1"), asked: strings.Repeat("n", maxName+1)}, now) != nil {
		t.Error("a name that is too long was cut")
	}
	if _, err := OpenState(path); err == nil || !strings.Contains(err.Error(), "another server uses it") {
		t.Errorf("two servers share the file: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = openState(t, path)
	defer s.Close()
	if s.port() != 40069 {
		t.Errorf("the port is %d", s.port())
	}
	delete(transfers, "b") // too long ago
	transfers["a"].acked = 20001
	for _, got := range s.load(now) {
		want := transfers[got.name]
		if want == nil {
			t.Errorf("%s came back", got.name)
			continue
		}
		delete(transfers, got.name)
		if got.client != want.client || got.local != want.local || got.acked != want.acked || got.size != want.src.size || got.id != 99 ||
			got.blksize != 1428 || got.window != want.window || got.timeout != 3 || got.start.Unix() != now.Unix() {
			t.Errorf("%s came back as %+v", got.name, got)
		}
	}
	for name := range transfers {
		t.Errorf("%.20s is lost", name)
	}
}

// A file of another version, of a machine that lost power, or full.
func TestStateDamaged(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string][]byte{"empty": nil, "short": []byte(stateMagic), "text": bytes.Repeat([]byte("text"), stateSize/4), "other": make([]byte, stateSize)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openState(t, path)
		if got := s.load(time.Now()); len(got) != 0 || s.port() != 0 {
			t.Errorf("%s: %v, port %d", name, got, s.port())
		}
		s.Close()
	}
	s := openState(t, filepath.Join(dir, "full"))
	s.load(time.Now())
	tr := testTransfer(1000, terms{blksize: 512, window: 1})
	tr.local, tr.asked = netip.MustParseAddr("10.0.0.1"), "f"
	for i := range stateSlots + 1 {
		if slot := s.add(tr, time.Now()); (slot != nil) != (i < stateSlots) {
			t.Fatalf("slot %d: %v", i, slot)
		}
	}
	s.Close()
	if err := os.Symlink("full", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"link", "no/where", "."} {
		if _, err := OpenState(filepath.Join(dir, path)); err == nil {
			t.Errorf("%s was opened", path)
		}
	}
}

func FuzzSlot(f *testing.F) {
	mem := make([]byte, slotSize)
	p := &slot{0, mem}
	tr := testTransfer(100000, terms{blksize: 1428, window: 16})
	tr.local, tr.asked = netip.MustParseAddr("10.0.0.1"), "pxelinux.0"
	now := time.Unix(2000000000, 0)
	p.write(tr, now)
	f.Add(bytes.Clone(mem))
	f.Add(make([]byte, slotSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		mem := make([]byte, slotSize)
		copy(mem, b)
		if n := binary.LittleEndian.Uint16(mem[slotFixed+14:]); n <= maxName { // else no input would pass the checksum
			binary.LittleEndian.PutUint32(mem[slotSum:], (&slot{0, mem}).sum(int(n)))
		}
		s, ok := (&slot{0, mem}).read(now)
		if !ok {
			return
		}
		tr := &transfer{client: s.client, local: s.local, asked: s.name, terms: s.terms, src: &source{size: s.size}}
		tr.resume(now, s.acked)
		if tr.acked >= tr.last || tr.sent > tr.last || tr.sent <= tr.acked {
			t.Fatalf("%+v", tr)
		}
	})
}

// The server is killed in the middle of everything, and its successor goes on: other people's clients do not notice.
// (atftp would: its socket is connected, and it takes the ICMP error of the moment between the two for the end.)
func TestKilledAndStartedAgain(t *testing.T) {
	need.Patience(t)
	need.Tools(t, "curl", "tftp")
	t.Parallel()
	dir := t.TempDir()
	data := pattern(8 << 20)
	if err := os.WriteFile(filepath.Join(dir, "initrd.img"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	state, port := filepath.Join(t.TempDir(), "state"), freePort(t)
	said := &events{}
	server := startChild(t, port, state, dir, said)
	p := fmt.Sprint(port)
	clients := map[string]*exec.Cmd{
		"curl":     exec.Command("curl", "-sS", "-o", "out", "tftp://127.0.0.1:"+p+"/initrd.img"),
		"tftp-hpa": exec.Command("tftp", "-m", "binary", "127.0.0.1", p, "-c", "get", "initrd.img", "out"),
	}
	done := make(chan error, len(clients))
	for name, cmd := range clients {
		cmd.Dir = t.TempDir()
		go func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				done <- fmt.Errorf("%s: %w: %s", name, err, out)
				return
			}
			got, err := os.ReadFile(filepath.Join(cmd.Dir, "out"))
			if err == nil && !bytes.Equal(got, data) {
				err = fmt.Errorf("%s got another file, %d bytes", name, len(got))
			}
			done <- err
		}()
	}
	said.wait(t, "msg=started service=tftp client=127.0.0.1 file=initrd.img")
	kills := 0
	for left := len(clients); left > 0; {
		select {
		case err := <-done:
			left--
			if err != nil {
				t.Error(err)
			}
		case <-time.After(100 * time.Millisecond):
			if kills == 4 {
				continue
			}
			kills++
			server.Process.Kill()
			server.Wait()
			server = startChild(t, port, state, dir, said)
		}
	}
	if kills == 0 || !strings.Contains(said.String(), "msg=resumed") {
		t.Errorf("nothing was interrupted, with %d kills:\n%s", kills, said)
	}
	t.Logf("%d kills, %d transfers taken up again", kills, strings.Count(said.String(), "msg=resumed"))
}

// serveState runs a server with a state until stop is called.
func serveState(t *testing.T, path string, fsys fs.FS) (l *Listener, said *events, stop func()) {
	t.Helper()
	l, err := Listen(t.Context(), 0, openState(t, path))
	if err != nil {
		t.Fatal(err)
	}
	said, stop = serveOn(t, l, &Server{FS: func(_, _ netip.Addr) fs.FS { return fsys }})
	return l, said, stop
}

// What changed while no server was there is not mixed into what a client has already.
func TestFileChangedBetweenServers(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "state")
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, pattern(5000), 0o644); err != nil {
		t.Fatal(err)
	}
	l, _, stop := serveState(t, path, os.DirFS(dir))
	r := newROM(t, "127.0.0.1", l.Addr().(*net.UDPAddr).Port)
	r.request(1, "f", "octet")
	r.receive()
	r.ack(1)
	if op, rest := r.receive(); op != opData || !bytes.Equal(rest[2:], pattern(5000)[512:1024]) {
		t.Fatalf("got op %d", op)
	}
	stop()
	if err := os.WriteFile(name, make([]byte, 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	_, said, stop := serveState(t, path, os.DirFS(dir))
	defer stop()
	if op, rest := r.receive(); op != opError || !strings.Contains(string(rest), "the file changed") {
		t.Errorf("got op %d %q", op, rest)
	}
	said.wait(t, "msg=aborted service=tftp client=127.0.0.1 file=f bytes=512")
}

// A stop, and a start at once, as after an upgrade.
func TestStoppedAndStartedAgain(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "state")
	data := pattern(200 << 10)
	if err := os.WriteFile(filepath.Join(dir, "f"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	l, _, stop := serveState(t, path, os.DirFS(dir))
	r := newROM(t, "127.0.0.1", l.Addr().(*net.UDPAddr).Port)
	r.request(1, "f", "octet", "windowsize", "4", "blksize", "1024")
	if op, rest := r.receive(); op != opOack {
		t.Fatalf("got op %d %q", op, rest)
	}
	r.ack(0)
	got, block := []byte{}, uint16(0)
	for len(got) < len(data) {
		op, rest := r.receive()
		if op != opData {
			t.Fatalf("block %d: op %d %q", block, op, rest)
		}
		if n := binary.BigEndian.Uint16(rest); n == block+1 {
			block = n
			got = append(got, rest[2:]...)
		}
		if block%4 == 0 {
			r.ack(block)
		}
		if block == 100 && stop != nil {
			start := time.Now()
			stop()
			if took := time.Since(start); took > time.Second {
				t.Errorf("the stop took %v", took)
			}
			stop = nil
			var said *events
			_, said, stop = serveState(t, path, os.DirFS(dir))
			defer stop()
			said.wait(t, "msg=resumed service=tftp client=127.0.0.1 file=f")
		}
	}
	if !bytes.Equal(got, data) {
		t.Error("the file came out different")
	}
}

// The port that clients know is in other hands: there is a new one, and what was under way is over.
func TestPortOfTransfersTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := openState(t, path)
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.LocalAddr().(*net.UDPAddr).Port)
	s.load(time.Now())
	s.setPort(port)
	tr := testTransfer(1000, terms{blksize: 512, window: 1})
	tr.local, tr.asked = netip.MustParseAddr("10.0.0.1"), "f"
	s.add(tr, time.Now())
	for _, n := range []int{1, 3} {
		l, err := listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), s, n)
		if err != nil {
			t.Fatal(err)
		}
		if l.port == port || s.port() != l.port || len(s.load(time.Now())) != 0 {
			t.Errorf("%d sockets on port %d, saved %d", len(l.data), l.port, s.port())
		}
		if _, err := listen(t.Context(), netip.MustParseAddrPort(l.Addr().String()), nil, 1); !errors.Is(err, os.ErrExist) && err == nil {
			t.Error("two servers on one port")
		}
		l.state = nil
		l.Close()
	}
	s.Close()
}

// Machines that went away with the server before this one are waited for beside the others, whose transfers go on at once.
func TestAbsentKeepNobodyWaiting(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(filepath.Join(dir, "f"), pattern(5000), 0o644); err != nil {
		t.Fatal(err)
	}
	l, _, stop := serveState(t, path, os.DirFS(dir))
	var roms []*rom
	for i := range 20 {
		r := newROM(t, "127.0.0.1", l.Addr().(*net.UDPAddr).Port)
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 7, byte(i+1))})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r.conn = conn
		r.request(1, "f", "octet")
		r.receive()
		r.ack(1)
		r.receive()
		roms = append(roms, r)
	}
	stop()
	l, err := Listen(t.Context(), 0, openState(t, path))
	if err != nil {
		t.Fatal(err)
	}
	alive, found := roms[len(roms)/2], make(chan bool)
	known := func(client, _ netip.Addr) bool {
		return client.String() == alive.conn.LocalAddr().(*net.UDPAddr).IP.String()
	}
	said, stop := serveOn(t, l, &Server{Known: known, FS: func(client, local netip.Addr) fs.FS {
		if !known(client, local) {
			<-found
		}
		return os.DirFS(dir)
	}})
	defer stop()
	defer close(found)
	if op, rest := alive.receive(); op != opData || !bytes.Equal(rest[2:], pattern(5000)[512:1024]) {
		t.Fatalf("got op %d", op)
	}
	said.wait(t, "msg=resumed service=tftp client="+alive.conn.LocalAddr().(*net.UDPAddr).IP.String())
}
