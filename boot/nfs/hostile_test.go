package nfs

import (
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"netroot/boot/crowd"
	"netroot/builder/need"
)

var malformed = flag.Int("malformed", 30_000, "how many malformed records and datagrams TestMalformed sends")

// live is the memory in use after everything was collected that can be.
func live() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// from dials from one of the addresses of the loopback interface.
func from(t testing.TB, source, addr string) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 10 * time.Second}
	return d.Dial("tcp4", addr)
}

// Ten thousand connections of one machine that never say anything, and then those of a hundred machines: another one is served, and
// what they cost is bounded.
func TestSilentConnections(t *testing.T) {
	need.Patience(t)
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	if limit.Cur < 12_000 {
		t.Skipf("needs 12,000 file descriptors, may have %d", limit.Cur)
	}
	r, _ := serveTree(t)
	good := dial(t, r.addr)
	root := good.mount("/debian-12")
	before := live()
	var open []net.Conn
	defer func() {
		for _, nc := range open {
			nc.Close()
		}
	}()
	for range 10_000 {
		nc, err := from(t, "127.0.0.7", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		nc.(*net.TCPConn).SetLinger(0)
		open = append(open, nc)
		if len(open) > crowd.PerClient+100 { // those that were refused need not stay on this side
			open[0].Close()
			open = open[1:]
		}
	}
	good.nfs(1, opaque(root)).want(t, nfsOK)
	dial(t, r.addr).nfs(1, opaque(root)).want(t, nfsOK)
	if n := r.Stats().Connections; n > crowd.PerClient+2 {
		t.Errorf("%d connections are open", n)
	}
	// With half a call each, so that a buffer is held.
	for machine := range 8 {
		for range 100 {
			nc, err := from(t, netip.AddrFrom4([4]byte{127, 0, 1, byte(machine + 1)}).String(), r.addr)
			must(t, err)
			_, err = nc.Write([]byte{0x80, 0, 0, 0x50, 1, 2, 3})
			must(t, err)
			open = append(open, nc)
		}
	}
	dial(t, r.addr).nfs(1, opaque(root)).want(t, nfsOK)
	if grown := int64(live()) - int64(before); grown > 100<<20 {
		t.Errorf("%d MB for them", grown>>20)
	}
	if n := len(r.seen(Refused)); n == 0 || n > 40*refusalsTold {
		t.Errorf("%d refusals were told", n)
	}
}

// mangle makes a record of a good one: bytes changed, cut off, repeated, lengths that lie.
func mangle(rng *rand.Rand, b []byte) []byte {
	b = append([]byte(nil), b...)
	for range 1 + rng.IntN(4) {
		switch at := rng.IntN(len(b)); rng.IntN(5) {
		case 0:
			b[at] = byte(rng.Uint32())
		case 1:
			binary.BigEndian.PutUint32(b[at&^3:][:4:4], rng.Uint32()>>(rng.IntN(32)))
		case 2:
			b = b[:at&^3+4]
		case 3:
			b = append(b, b[at:]...)
		case 4:
			copy(b[at:], []byte{0xff, 0xff, 0xff, 0xff})
		}
		b = b[:min(len(b), 2000)&^3]
		if len(b) < 4 {
			b = make([]byte, 4)
		}
	}
	return b
}

// Malformed records to both services over TCP and datagrams to the portmapper, from clients that do not care for answers: nothing ends, memory stays
// where it was, and a good client is served all the time.
func TestMalformed(t *testing.T) {
	need.Patience(t)
	r, _ := serveTree(t)
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- r.ServePortmap(t.Context(), l, pc, 2049) }()
	good := dial(t, r.addr)
	root := good.mount("/debian-12")
	h := opaque(root)
	var seeds [][]byte
	for proc := range uint32(len(nfsNames)) {
		seeds = append(seeds, append(header(1, 2, progNFS, 3, proc, sysCred(0, 0, 1)), append(h, append(str("name"), make([]byte, 60)...)...)...))
	}
	for proc := range uint32(6) {
		seeds = append(seeds, append(header(1, 2, progMount, 3, proc, sysCred(0, 0)), str("/debian-12")...))
	}
	portmap := append(header(1, 2, progPortmap, 2, 3, put64(nil, 0)), words(progNFS, 3, 6, 0)...)
	services := []struct {
		addr  string
		seeds [][]byte
	}{{r.addr, seeds}, {l.Addr().String(), [][]byte{portmap, header(1, 2, progPortmap, 2, 4, put64(nil, 0))}}}
	before := live()
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(client), 1))
			udp, err := net.Dial("udp4", pc.LocalAddr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer udp.Close()
			for sent, turn := 0, 0; sent < *malformed/2; turn++ {
				to := services[turn%len(services)]
				nc, err := from(t, netip.AddrFrom4([4]byte{127, 0, 2, byte(client + 1)}).String(), to.addr)
				if err != nil {
					t.Error(err)
					return
				}
				go func() { // takes answers until the end
					for buf := make([]byte, 64<<10); err == nil; {
						_, err = nc.Read(buf)
					}
				}()
				nc.SetWriteDeadline(time.Now().Add(10 * time.Second))
				for range 500 {
					sent++
					if turn%len(services) == 0 {
						udp.Write(mangle(rng, portmap))
					}
					rec := record(mangle(rng, to.seeds[rng.IntN(len(to.seeds))]))
					if rng.IntN(200) == 0 {
						binary.BigEndian.PutUint32(rec, rng.Uint32()) // a record that claims up to 4 GB
					}
					if _, err := nc.Write(rec); err != nil {
						var timeout net.Error
						if errors.As(err, &timeout) && timeout.Timeout() {
							t.Error("the server takes nothing for ten seconds")
						}
						break
					}
				}
				nc.(*net.TCPConn).SetLinger(0)
				nc.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for served := 0; ; served++ {
		good.nc.SetDeadline(time.Now().Add(30 * time.Second))
		good.nfs(1, h).want(t, nfsOK)
		select {
		case <-done:
		case <-time.After(time.Millisecond):
			continue
		}
		t.Logf("%d records to each, %d good calls meanwhile, %d refusals told", *malformed, served, len(r.seen(Refused)))
		break
	}
	for end := time.Now().Add(10 * time.Second); r.Stats().Connections > 1 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if n := r.Stats().Connections; n != 1 {
		t.Errorf("%d connections are left", n)
	}
	if grown := int64(live()) - int64(before); grown > 16<<20 {
		t.Errorf("%d MB more than before", grown>>20)
	}
	select {
	case err := <-ended:
		t.Errorf("the portmapper ended: %v", err)
	default:
	}
}

// FuzzDatagram sends any bytes to the portmapper: an answer is never much longer than the question, for the source may be forged.
func FuzzDatagram(f *testing.F) {
	f.Add(append(header(1, 2, progPortmap, 2, 3, put64(nil, 0)), words(progNFS, 3, 6, 0)...))
	f.Add(header(1, 2, progPortmap, 2, 4, put64(nil, 0)))
	f.Add(header(1, 2, progPortmap, 2, 5, sysCred(0, 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &conn{s: &Server{}, programs: []program{portmapProgram(2049)}}
		if reply := c.packet(b); len(reply) > len(b)+100 {
			t.Errorf("%d bytes for %d", len(reply), len(b))
		}
	})
}
