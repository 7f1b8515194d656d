//go:build e2e

package boot_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/need"
)

// BenchmarkNFS reads a file of 1 GiB and walks a whole root with libnfs's programs, one and sixteen at once, from netroot and
// from nfs-ganesha.
func BenchmarkNFS(b *testing.B) {
	need.Tools(b, "nfs-cat", "nfs-ls")
	c, netroot := newContest(b)
	ganesha := c.ganesha(b)
	for b.Loop() {
		for _, work := range []struct {
			label     string
			n, rounds int
			path      string
			program   []string
		}{
			{"read", 1, 5, "/data/big", []string{"nfs-cat"}},
			{"read16", 16, 2, "/data/big", []string{"nfs-cat"}},
			{"walk", 1, 15, "", []string{"nfs-ls", "-R"}},
			{"walk16", 16, 3, "", []string{"nfs-ls", "-R"}},
		} {
			at := func(url string) func() time.Duration {
				return func() time.Duration { return c.clients(b, work.n, work.program[0], append(work.program[1:], url)...) }
			}
			var way []side
			if work.label == "walk" { // of which most is waiting for one another
				through := at(nfsURL(c.image, replayNFS, replayNFS, work.path))
				way = append(way, side{c.newReplay(b, replayNFS, netrootNFS, func() { through() }), through})
			}
			compare(b, work.label, work.rounds,
				side{netroot, at(nfsURL(c.image, netrootNFS, netrootNFS, work.path))},
				side{ganesha, at(nfsURL(c.folder, ganeshaNFS, ganeshaMount, work.path))}, way...)
		}
	}
}

func nfsURL(export string, nfs, mount int, path string) string {
	return fmt.Sprintf("nfs://127.0.0.1%s%s?version=3&nfsport=%d&mountport=%d", export, path, nfs, mount)
}

// BenchmarkHTTP reads a file of 1 GiB by curl from netroot and from nginx; of sixty-four at once each reads 128 MiB of it.
func BenchmarkHTTP(b *testing.B) {
	need.Tools(b, "curl")
	c, netroot := newContest(b)
	nginx := c.nginx(b)
	for b.Loop() {
		for _, work := range []struct {
			label     string
			n, rounds int
			part      string
		}{{"http", 1, 5, "0-"}, {"http64", 64, 3, "0-134217727"}} {
			get := func(port int, path string) func() time.Duration {
				return func() time.Duration {
					return c.clients(b, work.n, "curl", "-sSf", "-r", work.part, "-o", "/dev/null", fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
				}
			}
			compare(b, work.label, work.rounds, side{netroot, get(netrootHTTP, "/big/1/initrd.img")}, side{nginx, get(nginxHTTP, "/data/big")})
		}
	}
}

// BenchmarkMemory holds 200 NFS mounts of a root that has been walked once, and 200 downloads of 1 GiB that are under way, and
// compares what netroot has resident with the sum of nfs-ganesha, nginx and dnsmasq. The page cache is nobody's.
func BenchmarkMemory(b *testing.B) {
	const clients = 200
	dnsmasq := need.Tool(b, "dnsmasq")
	need.Tools(b, "nfs-ls")
	c, netroot := newContest(b)
	ganesha, nginx := c.ganesha(b), c.nginx(b)
	proxy := c.start(b, 5353, dnsmasq, "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=",
		"--port=5353", "--interface=eth0", "--dhcp-range=10.77.0.0,proxy", "--pxe-service=x86PC,netroot,pxelinux", "--enable-tftp", "--tftp-root="+c.folder)
	for b.Loop() {
		c.clients(b, 1, "nfs-ls", "-R", nfsURL(c.image, netrootNFS, netrootNFS, ""))
		c.clients(b, 1, "nfs-ls", "-R", nfsURL(c.folder, ganeshaNFS, ganeshaMount, ""))
		for range clients {
			c.hold(b, netrootNFS, netrootNFS, c.image)
			c.hold(b, ganeshaNFS, ganeshaMount, c.folder)
			c.download(b, netrootHTTP, "/big/1/initrd.img")
			c.download(b, nginxHTTP, "/data/big")
		}
		ours, sum := netroot.resident(b), int64(0)
		for name, peer := range map[string]*server{"nfs-ganesha": ganesha, "nginx": nginx, "dnsmasq": proxy} {
			b.Logf("%s: %.1f MB", name, float64(peer.resident(b))/1e6)
			sum += peer.resident(b)
		}
		b.Logf("netroot: %.1f MB", float64(ours)/1e6)
		b.ReportMetric(float64(ours)/1e6, "MB")
		b.ReportMetric(float64(ours)/float64(sum), "memory/peers")
	}
}

// dial connects inside the lab, for as long as the benchmark runs.
func (c *contest) dial(b *testing.B, port int) net.Conn {
	b.Helper()
	var nc net.Conn
	check(b, c.lab.Do(vm.NSServer, func() (err error) {
		nc, err = net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	}))
	b.Cleanup(func() { nc.Close() })
	check(b, nc.SetDeadline(time.Now().Add(time.Minute)))
	return nc
}

// hold mounts an export, lists its root and stays connected.
func (c *contest) hold(b *testing.B, nfs, mount int, export string) {
	b.Helper()
	const progNFS, progMount, mnt, readdirplus = 100003, 100005, 1, 17
	text := func(t []byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(t))), append(t, make([]byte, -len(t)&3)...)...)
	}
	words := func(v ...uint32) (out []byte) {
		for _, w := range v {
			out = binary.BigEndian.AppendUint32(out, w)
		}
		return out
	}
	call := func(nc net.Conn, prog, proc uint32, args ...[]byte) []byte {
		cred := append(words(1), text(words(0, 0, 0, 0, 0))...) // AUTH_SYS: root of nowhere
		rec := bytes.Join(append([][]byte{words(7, 0, 2, prog, 3, proc), cred, words(0, 0)}, args...), nil)
		_, err := nc.Write(append(words(1<<31|uint32(len(rec))), rec...))
		check(b, err)
		head := make([]byte, 4)
		_, err = io.ReadFull(nc, head)
		check(b, err)
		reply := make([]byte, binary.BigEndian.Uint32(head)&^(1<<31))
		_, err = io.ReadFull(nc, reply)
		check(b, err)
		if len(reply) < 28 || !bytes.Equal(reply[4:28], words(1, 0, 0, 0, 0, 0)) {
			b.Fatalf("program %d, procedure %d: % x", prog, proc, reply[:min(len(reply), 40)])
		}
		return reply[28:]
	}
	m := c.dial(b, mount)
	reply := call(m, progMount, mnt, text([]byte(export)))
	handle := reply[4 : 4+binary.BigEndian.Uint32(reply)]
	m.Close()
	call(c.dial(b, nfs), progNFS, readdirplus, text(handle), words(0, 0, 0, 0, 8192, 32768))
}

// download begins to read a file and does not go on.
func (c *contest) download(b *testing.B, port int, path string) {
	b.Helper()
	nc := c.dial(b, port)
	_, err := fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: netroot\r\n\r\n", path)
	check(b, err)
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	check(b, err)
	if resp.StatusCode != http.StatusOK || resp.ContentLength != bigSize {
		b.Fatalf("%s: %s, %d bytes", path, resp.Status, resp.ContentLength)
	}
	_, err = io.CopyN(io.Discard, resp.Body, 64<<10)
	check(b, err)
}
