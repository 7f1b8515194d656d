//go:build e2e

package tftp

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"netroot/boot/vm"
)

// A peer is a server that is measured.
type peer struct {
	name string
	cmd  func(dir string) *exec.Cmd
}

func peers() []peer {
	own := func(kind string) func(string) *exec.Cmd {
		return func(dir string) *exec.Cmd {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), childServer+"="+kind+",69,,"+dir)
			return cmd
		}
	}
	return []peer{
		{"netroot", own("netroot")},
		{"dnsmasq", func(dir string) *exec.Cmd {
			return exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--group=root", "--pid-file=",
				"--log-facility=-", "--enable-tftp", "--tftp-root="+dir, "--interface=eth0", "--bind-interfaces")
		}},
		{"tftpd-hpa", func(dir string) *exec.Cmd {
			return exec.Command("in.tftpd", "--foreground", "--user", "root", "--address", "0.0.0.0:69", "--secure", dir)
		}},
		{"pin", own("pin")},
	}
}

// BenchmarkTFTP sets the server beside dnsmasq and tftpd-hpa as Debian has them, and pin/tftp, each in a network of the same kind, in
// turn and several times over, with the same clients and the same file in the page cache. What counts is the median of each one's
// rounds; of machines that were served whole, the fewest. The figures to quote are the ratios: x-PEER is how many times its speed ours
// is, cpu/PEER what part of its processor time.
func BenchmarkTFTP(b *testing.B) {
	for _, c := range []struct {
		name            string
		clients, size   int
		blksize, window int
		rounds          int
	}{
		{"1client/512", 1, 4 << 20, 512, 1, 7},
		{"1client/1428", 1, 16 << 20, 1428, 1, 7},
		{"1client/1428,window=16", 1, 64 << 20, 1428, 16, 3},
		{"200clients/1428", 200, 8 << 20, 1428, 1, 3},
		{"200clients/1428,window=16", 200, 8 << 20, 1428, 16, 3},
	} {
		b.Run(c.name, func(b *testing.B) {
			data := pattern(c.size)
			var stations []*station
			for _, p := range peers() {
				if c.window == 1 || p.name == "netroot" { // the others have no windows
					stations = append(stations, newStation(b, p, c.clients, data))
				}
			}
			rounds := make([][]result, len(stations))
			for b.Loop() {
				for range c.rounds {
					for i, s := range stations {
						rounds[i] = append(rounds[i], s.measure(b, c.clients, data, c.blksize, c.window))
					}
				}
			}
			ours := middle(rounds[0])
			b.ReportMetric(0, "ns/op")
			for i, s := range stations {
				r := middle(rounds[i])
				b.ReportMetric(r.rate, s.name+"-MB/s")
				b.ReportMetric(float64(r.served), s.name+"-served")
				if r.cpu > 0 {
					b.ReportMetric(r.cpu, s.name+"-cpu-s/GB")
				}
				if i == 0 {
					continue
				}
				b.ReportMetric(ours.rate/r.rate, "x-"+s.name)
				if r.cpu > 0 {
					b.ReportMetric(ours.cpu/r.cpu, "cpu/"+s.name)
				}
			}
		})
	}
}

// middle is the median of each figure of several rounds, and the fewest that were served.
func middle(rounds []result) result {
	var rates, cpus []float64
	served := rounds[0].served
	for _, r := range rounds {
		rates, cpus, served = append(rates, r.rate), append(cpus, r.cpu), min(served, r.served)
	}
	slices.Sort(rates)
	slices.Sort(cpus)
	return result{rate: rates[len(rates)/2], served: served, cpu: cpus[len(cpus)/2]}
}

// A station is a server at work and the clients that ask it.
type station struct {
	peer
	lab  *vm.Lab
	load *load
	proc *vm.Process
	said strings.Builder
}

func newStation(b *testing.B, p peer, clients int, data []byte) *station {
	b.Helper()
	lab, err := vm.Open(b.Context(), vm.Config{Networks: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { lab.Close() })
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o644); err != nil {
		b.Fatal(err)
	}
	s := &station{peer: p, lab: lab}
	var server, client *net.Interface
	if err := lab.Do(vm.NSServer, func() (err error) { server, err = net.InterfaceByName("eth0"); return err }); err != nil {
		b.Fatal(err)
	}
	err = lab.Do(vm.NSRouter, func() (err error) {
		if client, err = net.InterfaceByName("eth0"); err != nil {
			return err
		}
		s.load, err = newLoad("eth0", client.Index, lab.ServerAddr(0), client.HardwareAddr, server.HardwareAddr)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	err = lab.Do(vm.NSServer, func() error {
		// The clients cannot take apart what a network card would: the server's kernel has to.
		if link, err := netlink.LinkByName("eth0"); err != nil {
			return err
		} else if err := netlink.LinkSetGSOMaxSegs(link, 1); err != nil {
			return err
		}
		for i := range clients {
			ip := net.IPv4(10, 77, byte(1+i/250), byte(1+i%250))
			if err := netlink.NeighAdd(&netlink.Neigh{LinkIndex: server.Index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: client.HardwareAddr}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	cmd := p.cmd(dir)
	cmd.Stdout, cmd.Stderr = &s.said, &s.said
	if s.proc, err = lab.Start(vm.NSServer, cmd); err != nil {
		b.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; { // until it answers
		if took, c := s.load.fetch(1, "file", data[:0], 512, 1, 200*time.Millisecond); took > 0 && c[0].started {
			return s
		}
		if time.Now().After(end) {
			b.Fatalf("%s does not answer: %s", p.name, &s.said)
		}
	}
}

type result struct {
	rate   float64 // MB/s, of those that were served whole
	served int
	cpu    float64 // seconds of user and system time of the server per GB; 0 where another process did the work
}

func (s *station) measure(b *testing.B, clients int, data []byte, blksize, window int) result {
	b.Helper()
	before := cpuSeconds(b, s.proc.Pid())
	took, all := s.load.fetch(clients, "file", data, blksize, window, 2*time.Minute)
	var r result
	for _, c := range all {
		if c.failed != "" {
			b.Fatalf("%s: %s", s.name, c.failed)
		}
		if c.done {
			r.served++
		}
	}
	gb := float64(r.served) * float64(len(data)) / 1e9
	if gb > 0 {
		r.cpu = (cpuSeconds(b, s.proc.Pid()) - before) / gb
		r.rate = gb * 1e3 / took.Seconds()
	}
	return r
}

// cpuSeconds is what a process and its children that have ended used.
func cpuSeconds(b *testing.B, pid int) float64 {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := 0
	for _, s := range f[11:15] {
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return float64(ticks) / 100
}
