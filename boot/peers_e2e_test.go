//go:build e2e

package boot_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/image"
	"netroot/builder/need"
	"netroot/builder/store"
)

// What the server is measured against runs beside it, on the loopback interface of the lab's server namespace: the same
// data, the same clients, the same minute. Other people's servers have the configuration that serves them best.

const (
	bigSize = 1 << 30

	netrootNFS, netrootHTTP, netrootTFTP = 20490, 20800, 20690
	ganeshaNFS, ganeshaMount, nginxHTTP  = 21490, 21491, 21800
	replayNFS                            = 22490
)

// contest is a lab with netroot and its peers in it.
type contest struct {
	lab    *vm.Lab
	folder string // what the peers serve: the root that netroot serves as an image
	image  string // its export path
	store  string
}

// newContest makes a root of 17,300 entries and a file of 1 GiB, and starts netroot for an image of it.
func newContest(b *testing.B) (*contest, *server) {
	b.Helper()
	need.Root(b)
	bench, err := setUp()
	check(b, err)
	dir := b.TempDir()
	published := filepath.Join(dir, "store")
	c := &contest{folder: filepath.Join(dir, "root"), image: "/big", store: published}
	plantRoot(b, c.folder)
	publishRoot(b, published, "big", c.folder)
	c.lab, err = vm.Open(b.Context(), vm.Config{})
	check(b, err)
	b.Cleanup(func() { c.lab.Close() })

	// On any address: clients of the loopback interface are not in the policy's networks.
	port := func(name string, n int) string { return fmt.Sprintf("--%s-port=%d", name, n) }
	return c, c.start(b, netrootNFS, bench.program, "serve", "--store", published, "--no-dhcp", "--portmap-port=0",
		port("nfs", netrootNFS), port("http", netrootHTTP), port("tftp", netrootTFTP))
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// plantRoot fills a folder as a Debian root is filled, by the number of entries and their kinds.
func plantRoot(b *testing.B, root string) {
	b.Helper()
	const folders, files, links = 1730, 8, 1 // 17,300 entries with the folders themselves
	text := bytes.Repeat([]byte("netroot\n"), 512)
	for i := range folders {
		dir := filepath.Join(root, fmt.Sprintf("usr%d/share%d/package-%04d", i%3, i%20, i))
		check(b, os.MkdirAll(dir, 0o755))
		for j := range files {
			check(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("some-file-%d.conf", j)), text[:(i*j*97)%len(text)], 0o644))
		}
		for j := range links {
			check(b, os.Symlink("some-file-0.conf", filepath.Join(dir, fmt.Sprintf("link-%d", j))))
		}
	}
	check(b, os.MkdirAll(filepath.Join(root, "data"), 0o755))
	f, err := os.Create(filepath.Join(root, "data/big"))
	check(b, err)
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), bigSize)
	check(b, err)
	check(b, f.Close())
}

// publishRoot makes a generation of a folder, whose initramfs is the big file.
func publishRoot(b *testing.B, dir, name, root string) {
	b.Helper()
	s, err := store.Open(dir)
	check(b, err)
	d, err := s.Begin(name)
	check(b, err)
	defer d.Abort()
	_, err = image.Write(context.Background(), filepath.Join(d.Dir(), store.PartRoot), root, image.Options{})
	check(b, err)
	check(b, os.WriteFile(filepath.Join(d.Dir(), store.PartKernel), []byte("kernel"), 0o644))
	check(b, os.Link(filepath.Join(root, "data/big"), filepath.Join(d.Dir(), store.PartInitramfs)))
	_, err = d.Publish(store.Manifest{})
	check(b, err)
}

// server is a process that is measured.
type server struct {
	*vm.Process
	log *bytes.Buffer
}

// start runs a server in the lab and waits until it takes connections.
func (c *contest) start(b *testing.B, port int, name string, args ...string) *server {
	b.Helper()
	log := &bytes.Buffer{}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := c.lab.Start(vm.NSServer, cmd)
	check(b, err)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := c.lab.Do(vm.NSServer, func() error {
			nc, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil {
				nc.Close()
			}
			return err
		})
		if err == nil {
			return &server{p, log}
		}
		if gone, exit := p.Exited(); gone || time.Now().After(end) {
			b.Fatalf("%s does not listen (ended: %v %v)\n%s", name, gone, exit, tail(log.String()))
		}
	}
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// ganesha serves the folder as nfs-ganesha does best: no delegation, no locks, NFS version 3 by TCP only.
func (c *contest) ganesha(b *testing.B) *server {
	b.Helper()
	program, rpcbind := need.Tool(b, "ganesha.nfsd"), need.Tool(b, "rpcbind")
	conf := filepath.Join(b.TempDir(), "ganesha.conf")
	check(b, os.WriteFile(conf, fmt.Appendf(nil, `
NFS_CORE_PARAM { NFS_Port = %d; MNT_Port = %d; Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
EXPORT_DEFAULTS { Squash = No_Root_Squash; SecType = sys; Access_Type = RO; Protocols = 3; Transports = TCP; }
EXPORT { Export_Id = 1; Path = %s; Pseudo = /root; FSAL { Name = VFS; } }
LOG { Default_Log_Level = EVENT; }
`, ganeshaNFS, ganeshaMount, c.folder), 0o644))
	// Both talk through /run, which shall be another one than this machine's.
	run := b.TempDir()
	inRun := func(command string) []string {
		return []string{"--mount", "--propagation", "private", "sh", "-c", fmt.Sprintf("mount --bind %s /run && mkdir -p /run/rpcbind /run/ganesha && exec %s", run, command)}
	}
	c.start(b, 111, "unshare", inRun(rpcbind+" -f -w")...)
	return c.start(b, ganeshaNFS, "unshare", inRun(program+" -F -f "+conf+" -L /dev/stderr -p /run/ganesha.pid")...)
}

// nginx serves the folder from the page cache by sendfile, one worker per processor.
func (c *contest) nginx(b *testing.B) *server {
	b.Helper()
	program := need.Tool(b, "nginx")
	dir := b.TempDir()
	check(b, os.Chmod(dir, 0o755))
	conf := filepath.Join(dir, "nginx.conf")
	check(b, os.WriteFile(conf, fmt.Appendf(nil, `
daemon off; user root; worker_processes auto; pid %[1]s/pid; error_log stderr;
events { worker_connections 1024; }
http {
	access_log off; sendfile on; tcp_nopush on; keepalive_timeout 60;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server { listen 127.0.0.1:%[2]d; root %[3]s; }
}
`, dir, nginxHTTP, c.folder), 0o644))
	return c.start(b, nginxHTTP, program, "-c", conf)
}

// clients runs n copies of a client at once, each of which must succeed, and returns how long they took together.
func (c *contest) clients(b *testing.B, n int, name string, args ...string) time.Duration {
	b.Helper()
	began := time.Now()
	var all []*vm.Process
	var said []*bytes.Buffer
	for range n {
		cmd := exec.Command(name, args...)
		errs := &bytes.Buffer{}
		cmd.Stderr = errs
		p, err := c.lab.Start(vm.NSServer, cmd)
		check(b, err)
		all, said = append(all, p), append(said, errs)
	}
	for i, p := range all {
		<-p.Done()
		if _, err := p.Exited(); err != nil {
			b.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, tail(said[i].String()))
		}
	}
	return time.Since(began)
}

// family are a process and its children, as of /proc.
func family(pid int) []int {
	all := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, f := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(f); err == nil {
				all = append(all, family(child)...)
			}
		}
	}
	return all
}

// cpu is the processor time that a server and its children have used.
func (s *server) cpu(b *testing.B) time.Duration {
	b.Helper()
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture that Go knows
	var sum time.Duration
	for _, pid := range family(s.Pid()) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		check(b, err)
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		user, err := strconv.Atoi(f[11])
		check(b, err)
		system, err := strconv.Atoi(f[12])
		check(b, err)
		sum += time.Duration(user+system) * tick
	}
	return sum
}

// resident is the memory of a server and its children that nobody else has: what would be free without it.
func (s *server) resident(b *testing.B) (bytes int64) {
	b.Helper()
	for _, pid := range family(s.Pid()) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		check(b, err)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); f[0] == "Pss:" {
				kb, err := strconv.ParseInt(f[1], 10, 64)
				check(b, err)
				bytes += kb << 10
			}
		}
	}
	return bytes
}

// A side of a comparison is a server, and work that uses it and says how long that took.
type side struct {
	server interface {
		cpu(*testing.B) time.Duration
	}
	work func() time.Duration
}

// compare has netroot, a peer and, where there is one, what does nothing on the same way do their work in turn. It reports how many times
// the peer's throughput, and what part of the peer's processor time, netroot and the way alone have. Walls are medians, processor time is
// the sum.
func compare(b *testing.B, label string, rounds int, ours, theirs side, way ...side) {
	b.Helper()
	sides := append([]side{ours, theirs}, way...)
	wall, cpu := make([][]time.Duration, len(sides)), make([]time.Duration, len(sides))
	for round := range rounds + 1 {
		for n := range sides {
			i := (round + n) % len(sides)
			before := sides[i].server.cpu(b)
			took := sides[i].work()
			if round == 0 { // warms the page cache and the servers' own
				continue
			}
			cpu[i] += sides[i].server.cpu(b) - before
			wall[i] = append(wall[i], took)
		}
	}
	median := func(i int) float64 {
		slices.Sort(wall[i])
		return wall[i][len(wall[i])/2].Seconds()
	}
	for i, suffix := range []string{0: "/peer", 2: "/peer-at-best"}[:len(sides)] {
		b.Logf("%s: %s %.3f s, %.3f s of CPU (walls %v)", label, []string{"netroot", "peer", "way"}[i], median(i), cpu[i].Seconds()/float64(rounds), wall[i])
		if i != 1 {
			b.ReportMetric(median(1)/median(i), label+"-speed"+suffix)
			b.ReportMetric(cpu[i].Seconds()/cpu[1].Seconds(), label+"-cpu"+suffix)
		}
	}
}
