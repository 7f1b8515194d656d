//go:build e2e

package proxydhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

// BenchmarkProxyDHCP puts the same packets to this package and to dnsmasq, each in a process of its own on a network of its
// own, by turns. "max" keeps 64 requests under way, "p99" sends 1,000 a second; both say how long an answer took and what
// processor time the server spent on it. Each server writes its log to a file: one line an answer.
//
// A third one only sends back what it gets: what it takes is the way's own, and nobody's to save.
func BenchmarkProxyDHCP(b *testing.B) {
	need.Root(b)
	need.Tools(b, "dnsmasq", "ip", "nsenter")
	for _, q := range []struct{ name, question string }{{"discover", "discover"}, {"bootserver", "boot server"}} {
		b.Run(q.name, func(b *testing.B) {
			peers := []*peer{newPeer(b, "netroot"), newPeer(b, "dnsmasq"), newPeer(b, "echo")}
			const rounds = 9
			for range b.N {
				for range rounds {
					for _, p := range peers {
						p.flood(b, asked[q.question], time.Second/2)
						p.pace(b, asked[q.question], time.Second/2, 1000)
					}
				}
			}
			for _, p := range peers {
				p.report(b)
			}
			ours, theirs, way := peers[0], peers[1], peers[2]
			b.ReportMetric(median(ours.rates)/median(theirs.rates), "x-answers/s")
			b.ReportMetric(median(theirs.p99)/median(ours.p99), "x-p99")
			b.ReportMetric(median(theirs.p99)/median(way.p99), "x-p99-at-most")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func init() { servers["echo"] = echo }

// echo sends every packet back as an answer, and does nothing else: no server can be quicker on the same way.
func echo() error {
	errs := make(chan error)
	for _, port := range []int{int(Proxy), int(BootServer)} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: port})
		}
		if err != nil {
			return err
		}
		go func() {
			runtime.LockOSThread() // which waits in the system call itself
			buf := make([]byte, maxPacket)
			for {
				n, _, err := unix.Recvfrom(fd, buf, 0)
				if err == nil {
					buf[0] = opReply
					err = unix.Sendto(fd, buf[:n], 0, &unix.SockaddrInet4{Port: portClient, Addr: [4]byte{10, 77, 0, 150}})
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	fmt.Println("ready")
	return <-errs
}

// A peer is one server under load and the figures of its rounds.
type peer struct {
	name    string
	site    site
	process *exec.Cmd
	conn    *net.UDPConn

	rates, p50, p99, cpu []float64
	lost                 int
}

func newPeer(b testing.TB, name string) *peer {
	p := &peer{name: name, site: newSite(b)}
	switch name {
	case "netroot":
		p.process = p.site.serveApart(b)
	case "dnsmasq":
		p.process = p.site.dnsmasq(b, "--log-facility="+filepath.Join(b.TempDir(), "log"))
	case "echo":
		p.process = p.site.program(name)
		out, err := p.process.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		startProcess(b, p.process)
		if _, err := out.Read(make([]byte, 1)); err != nil {
			b.Fatalf("echo: %v", err)
		}
	}
	p.conn = p.site.socket(b, portClient)
	b.Cleanup(func() { p.conn.Close() })
	return p
}

// number makes the packet that of another machine, with another transaction.
func number(packet []byte, n uint32) {
	binary.BigEndian.PutUint32(packet[4:], n)
	binary.BigEndian.PutUint16(packet[32:], uint16(n%1000))
}

// flood keeps a window of requests under way.
func (p *peer) flood(b *testing.B, q question, d time.Duration) {
	const window = 64
	pc := ipv4.NewPacketConn(p.conn)
	out, in := make([]ipv4.Message, window), make([]ipv4.Message, window)
	for i := range out {
		out[i] = ipv4.Message{Buffers: [][]byte{slices.Clone(q.packet)}, Addr: q.target()}
		in[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 1500)}}
	}
	var sent uint32
	answers, underway, cpu := 0, 0, p.cpuTime(b)
	start := time.Now()
	for time.Since(start) < d {
		for underway < window {
			batch := out[:window-underway]
			for i := range batch {
				number(batch[i].Buffers[0], sent)
				sent++
			}
			n, err := pc.WriteBatch(batch, 0)
			if err != nil {
				b.Fatal(err)
			}
			underway += n
		}
		p.conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := pc.ReadBatch(in, 0)
		if err != nil { // what has not come by now is lost
			p.lost += underway
			underway = 0
			continue
		}
		answers += n
		underway -= n
	}
	took := time.Since(start).Seconds()
	p.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	for underway > 0 {
		n, err := pc.ReadBatch(in, 0)
		if err != nil {
			p.lost += underway
			break
		}
		answers += n
		underway -= n
	}
	p.rates = append(p.rates, float64(answers)/took)
	p.cpu = append(p.cpu, (p.cpuTime(b)-cpu).Seconds()/float64(answers)*1e6)
}

// pace sends at a fixed rate. The kernel notes when an answer came, so the times do not depend on when this process runs.
func (p *peer) pace(b *testing.B, q question, d time.Duration, rate int) {
	total := int(d.Seconds() * float64(rate))
	at := make([]int64, total)
	done := make(chan []float64)
	p.conn.SetReadDeadline(time.Now().Add(d + 500*time.Millisecond))
	go func() {
		var took []float64
		buf, oob := make([]byte, 1500), make([]byte, 128)
		for len(took) < total {
			n, nn, _, _, err := p.conn.ReadMsgUDP(buf, oob)
			if err != nil {
				break
			}
			xid := int(binary.BigEndian.Uint32(buf[4:n]))
			if xid < total {
				took = append(took, float64(stamp(oob[:nn])-at[xid])/1e3)
			}
		}
		done <- took
	}()
	packet, to := slices.Clone(q.packet), q.target()
	start := time.Now()
	for i := range total {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		number(packet, uint32(i))
		at[i] = time.Now().UnixNano()
		if _, err := p.conn.WriteTo(packet, to); err != nil {
			b.Error(err)
		}
	}
	took := <-done
	if len(took) == 0 {
		b.Fatalf("%s does not answer any more", p.name)
	}
	p.lost += total - len(took)
	slices.Sort(took)
	p.p50 = append(p.p50, took[len(took)/2])
	p.p99 = append(p.p99, took[len(took)*99/100])
}

// stamp reads the time of arrival out of a control message.
func stamp(oob []byte) int64 {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			return (*unix.Timespec)(unsafe.Pointer(&m.Data[0])).Nano()
		}
	}
	return 0
}

// cpuTime is what the server used so far (proc(5): utime and stime, in hundredths of a second).
func (p *peer) cpuTime(b *testing.B) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.process.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int
	for _, s := range f[11:13] {
		n, _ := strconv.Atoi(s)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func (p *peer) report(b *testing.B) {
	b.ReportMetric(median(p.rates), p.name+"-answers/s")
	b.ReportMetric(median(p.p50), p.name+"-p50-µs")
	b.ReportMetric(median(p.p99), p.name+"-p99-µs")
	b.ReportMetric(median(p.cpu), p.name+"-cpu-µs/answer")
	b.Logf("%-8s answers/s %.0f, p50 %.0f µs, p99 %.0f µs, cpu %.1f µs an answer, lost %d", p.name, p.rates, p.p50, p.p99, p.cpu, p.lost)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
