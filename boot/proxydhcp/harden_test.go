package proxydhcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"netroot/boot/host"
	"netroot/builder/need"
)

var malformed = flag.Int("malformed", 100_000, "how many malformed packets to send")

// Interfaces change their address, go and come while the server runs: two seconds later at most it says the right address.
func TestInterfacesChange(t *testing.T) {
	s := newSite(t)
	s.serveOurs(t, &Server{Interfaces: []string{"eth0"}, Decide: func(host.Machine) host.Decision { return host.Decision{} }})
	says := func(want string) {
		t.Helper()
		var got netip.Addr
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			if p := s.ask(t, asked["discover"], 50*time.Millisecond); p != nil {
				if got = netip.AddrFrom4([4]byte(p[20:24])); got.String() == want {
					return
				}
			}
		}
		t.Errorf("the server says it is %v, want %s", got, want)
	}
	says("10.77.0.3")
	runIn(t, s.srv, "ip addr add 10.77.0.9/24 dev eth0")
	runIn(t, s.srv, "ip addr del 10.77.0.3/24 dev eth0")
	runIn(t, s.srv, "ip addr replace 10.77.0.9/24 dev eth0") // a second address of a network goes with the first
	says("10.77.0.9")
	runIn(t, s.srv, "ip link del eth0")
	s.connect(t)
	says("10.77.0.3")
}

// Machines send again what was lost on the way, and packets overtake each other: each gets its own answer.
func TestDuplicatedAndReordered(t *testing.T) {
	s := newSite(t)
	s.serveOurs(t, &Server{Decide: func(host.Machine) host.Decision { return host.Decision{} }})
	conn := s.socket(t, portClient)
	defer conn.Close()
	want := map[string]int{} // an answer: how often
	var send []question
	for _, name := range []string{"bios-discover", "intel-rom-without-uuid", "bios-inform-67", "ipxe-request-4011", "boot-item-behind-others"} {
		q := quirks[name].question
		req, err := Parse(q.packet)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Reply(req, decision, here, q.from, q.role, q.config)
		if err != nil {
			t.Fatal(err)
		}
		want[string(a.Packet)] = 3
		send = append(send, q, q, q)
	}
	random := rand.New(rand.NewPCG(1, 2))
	random.Shuffle(len(send), func(i, j int) { send[i], send[j] = send[j], send[i] })
	for _, q := range send {
		if _, err := conn.WriteTo(q.packet, q.target()); err != nil {
			t.Fatal(err)
		}
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1500)
	for range send {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("still missing %d kinds of answers: %v", len(want), err)
		}
		got := string(buf[:n])
		if want[got]--; want[got] < 0 {
			t.Errorf("an answer too many:\n%s", dump(t, []byte(got)))
		}
		if want[got] == 0 {
			delete(want, got)
		}
	}
}

// A machine that is refused all the time is one line, and one that says how often. Nobody is forgotten in the counts.
func TestStormOfRefused(t *testing.T) {
	s := newSite(t)
	said := &events{}
	server := &Server{Log: slog.New(slog.NewTextHandler(said, nil)), Decide: func(m host.Machine) host.Decision {
		return host.Decision{Ignore: m.MAC[5] != 0x56, Reason: "not listed"}
	}}
	stop := s.serveOurs(t, server)
	conn := s.socket(t, portClient)
	defer conn.Close()
	const storm = 2000
	bad := bytes.Clone(asked["discover"].packet)
	bad[33] = 1
	for range storm {
		if _, err := conn.WriteTo(bad, asked["discover"].target()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.WriteTo(asked["discover"].packet, asked["discover"].target()); err != nil || receive(t, conn, Proxy, 10*time.Second, xid(asked["discover"].packet)) == nil {
		t.Fatal("the machine beside it is not answered", err)
	}
	said.wait(t, "msg=offer")
	for end := time.Now().Add(5 * time.Second); server.Stats().Refused < storm && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	stop()
	lines := strings.Split(strings.TrimSpace(said.b.String()), "\n")
	refused := slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, "msg=refused") })
	if len(refused) != 2 || strings.Contains(refused[0], "repeated") || !strings.HasSuffix(refused[1], fmt.Sprintf("repeated=%d", storm-1)) {
		t.Errorf("%d refusals made these lines:\n%s", storm, strings.Join(refused, "\n"))
	}
	got, want := server.Stats(), Stats{Discovers: storm + 1, Refused: storm, Offers: 1, BytesIn: uint64(len(bad)) * (storm + 1), BytesOut: 300}
	if got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestRefusals(t *testing.T) {
	var r refusals
	start := time.Unix(1e9, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	note := func(seconds int, mac, reason string) bool {
		k := refusal{mac: mac, iface: "eth0", reason: reason}
		return r.note(at(seconds), k, event(at(seconds), "refused", k, ""))
	}
	due := func(seconds int, end bool) string {
		var said []string
		for _, record := range r.due(at(seconds), end) {
			line := record.Message
			record.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
			said = append(said, line)
		}
		slices.Sort(said)
		return strings.Join(said, "; ")
	}
	if !note(0, "a", "x") || note(1, "a", "x") || note(2, "a", "x") {
		t.Error("the first is to be written, and not those that repeat it")
	}
	if !note(2, "a", "y") || !note(2, "b", "x") {
		t.Error("another reason, or another machine, is to be written")
	}
	if got := due(9, false); got != "" {
		t.Errorf("too early: %s", got)
	}
	if got, want := due(10, false), "refused service=dhcp mac=a interface=eth0 repeated=2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if due(20, false); !note(21, "b", "x") {
		t.Error("who was quiet for a while is news again")
	}
	for i := range refusalsKept {
		note(22, strconv.Itoa(i), "x")
	}
	if len(r.recent) != refusalsKept {
		t.Errorf("%d kept, want %d", len(r.recent), refusalsKept)
	}
	if got := due(23, true); !strings.Contains(got, "more machines than are told apart") {
		t.Errorf("what did not fit is not told: %s", got)
	}
	if got := due(50, false); got != "" || len(r.recent) != 0 {
		t.Errorf("%d kept for ever, and said %s", len(r.recent), got)
	}
}

// stuck is a log that nobody reads.
type stuck struct {
	slog.Handler
	read chan bool
}

func (h stuck) Handle(context.Context, slog.Record) error { <-h.read; return nil }

// A terminal that was stopped, a pipe that is full: machines boot all the same.
func TestLogStandsStill(t *testing.T) {
	s := newSite(t)
	log := stuck{slog.NewTextHandler(&bytes.Buffer{}, nil), make(chan bool)}
	stop := s.serveOurs(t, &Server{Log: slog.New(log), Decide: func(host.Machine) host.Decision { return host.Decision{} }})
	for range 10 {
		if s.ask(t, asked["discover"], 5*time.Second) == nil {
			t.Error("no answer")
		}
	}
	close(log.read)
	stop()
}

// spoil makes a packet that is wrong in one of many ways, or right but from a machine that is refused.
func spoil(random *rand.Rand, good []byte) []byte {
	p := bytes.Clone(good)
	p[28] = 2 // another machine than the one that is answered
	for i := 29; i < 34; i++ {
		p[i] = byte(random.Uint32())
	}
	switch random.IntN(8) {
	case 0:
		p = p[:random.IntN(len(p))]
	case 1:
		for i := range p {
			p[i] = byte(random.Uint32())
		}
	case 2: // lengths that lie
		for range 1 + random.IntN(8) {
			p[headerLen+4+random.IntN(len(p)-headerLen-4)] = byte(random.Uint32())
		}
	case 3:
		p[0], p[1], p[2] = byte(random.IntN(3)), byte(random.Uint32()), byte(random.Uint32())
	case 4: // overloads itself
		p = append(p[:headerLen+4], 52, 1, 3)
		p = append(p, bytes.Repeat([]byte{52, 1, 3}, random.IntN(300))...)
	case 5: // one option in very many parts
		p = append(p[:headerLen+4], bytes.Repeat([]byte{60, byte(random.IntN(4)), 'P', 'X', 'E'}, random.IntN(200))...)
	case 6: // relays and addresses of nobody
		for i := 12; i < 28; i++ {
			p[i] = byte(random.Uint32())
		}
		p[12], p[24] = 0, 0 // no way there
	}
	if len(p) > 28 && p[28] == 0x52 {
		p[28] = 2
	}
	return p
}

// Packets as no client sends them, as fast as they are taken in. Between them a machine that does belong is answered, the
// server's memory does not grow, and its log stays short.
func TestMalformedPackets(t *testing.T) {
	need.Patience(t)
	s := newSite(t)
	server := s.serveApart(t)
	conn := s.socket(t, portClient)
	defer conn.Close()
	pc := ipv4.NewPacketConn(conn)
	random := rand.New(rand.NewPCG(3, 4))
	goods := [][]byte{asked["discover"].packet, asked["boot server"].packet, fixture(t, "qemu-discover").packet, fixture(t, "intel-bootserver").packet}
	control := bytes.Clone(asked["boot server"].packet)
	var before int
	start := time.Now()
	const batch = 64
	for sent := 0; sent < *malformed; sent += batch {
		messages := make([]ipv4.Message, batch, batch+1)
		for i := range messages {
			to := &net.UDPAddr{IP: here.AsSlice(), Port: []int{int(Proxy), int(BootServer)}[random.IntN(2)]}
			messages[i] = ipv4.Message{Buffers: [][]byte{spoil(random, goods[random.IntN(len(goods))])}, Addr: to}
		}
		binary.BigEndian.PutUint32(control[4:], uint32(sent))
		messages = append(messages, ipv4.Message{Buffers: [][]byte{control}, Addr: asked["boot server"].target()})
		for len(messages) > 0 {
			n, err := pc.WriteBatch(messages, 0)
			if err != nil {
				t.Fatal(err)
			}
			messages = messages[n:]
		}
		if receive(t, conn, BootServer, 10*time.Second, uint32(sent)) == nil {
			t.Fatalf("after %d packets a machine that belongs is not answered", sent+batch)
		}
		if sent <= *malformed/10 {
			before = resident(t, server.Process.Pid)
		}
	}
	after := resident(t, server.Process.Pid)
	if after > 2*before {
		t.Errorf("the server's memory grew from %d to %d KiB", before, after)
	}
	log, err := os.ReadFile(server.Stdout.(*os.File).Name())
	if err != nil {
		t.Fatal(err)
	}
	lines, limit := bytes.Count(log, []byte("refused")), refusalsKept*int(2+time.Since(start)/refusalPause)
	if lines == 0 || lines > limit {
		t.Errorf("%d refusals in the log, want at most %d", lines, limit)
	}
	t.Logf("%d packets, memory of the server %d KiB after a tenth of them, %d KiB at the end", *malformed, before, after)
}

// resident is the memory of a process in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
