package nfs

import (
	"bufio"
	"bytes"
	"context"
	"io/fs"
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

	"github.com/vishvananda/netns"

	"netroot/builder/need"
)

// TestLibnfs lets libnfs list the whole tree and read files.
func TestLibnfs(t *testing.T) {
	need.Patience(t)
	need.Tools(t, "nfs-ls", "nfs-cat")
	r, dir := serveTree(t)
	url := func(path string) string {
		return "nfs://127.0.0.1/debian-12" + path + "?version=3&nfsport=" + r.port + "&mountport=" + r.port
	}
	// nfs-ls prints: mode, links, uid, gid, size, name.
	listed := map[string]bool{}
	for line := range strings.Lines(run(t, "nfs-ls", "-R", url(""))) {
		f := strings.Fields(line)
		if len(f) != 6 {
			t.Fatalf("line %q", line)
		}
		listed[f[5]] = true
		switch f[5] {
		case "usr/bin/su":
			if f[1] != "2" || f[4] != "5000" {
				t.Errorf("line %q", line)
			}
		case "tmp":
			if !strings.HasPrefix(f[0], "drwxrwxrw") {
				t.Errorf("line %q", line)
			}
		}
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel := strings.TrimPrefix(path, dir+"/")
		if !listed[rel] {
			t.Errorf("%s is not listed", rel)
		}
		delete(listed, rel)
		if d.Type().IsRegular() && !strings.Contains(path, "/many/") {
			want, err := os.ReadFile(path)
			must(t, err)
			got := run(t, "nfs-cat", url(strings.TrimPrefix(path, dir)))
			if got != string(want) {
				t.Errorf("%s: %d bytes, want %d", path, len(got), len(want))
			}
		}
		return nil
	})
	must(t, err)
	for name := range listed {
		t.Errorf("%s is listed and not there", name)
	}
	if st := r.Stats(); st.Errors != 0 {
		t.Errorf("stats %+v", st)
	}
}

// inNamespace runs f on a thread in a new network namespace that has only a loopback interface.
func inNamespace(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	need.Root(t)
	need.Tools(t, "ip")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	must(t, err)
	defer home.Close()
	ns, err := netns.New()
	if err != nil {
		need.Missing(t, "no network namespaces here: %v", err)
	}
	defer ns.Close()
	defer netns.Set(home)
	run(t, "ip", "link", "set", "lo", "up")
	f(t)
}

// TestShowmount finds everything by port 111, as a client does that is told nothing.
func TestShowmount(t *testing.T) {
	need.Root(t)
	need.Tools(t, "showmount", "rpcinfo")
	path := planted.image(t)
	inNamespace(t, func(t *testing.T) {
		exports, err := newFixed(map[string]string{"/debian-12": path, "/debian-12@3": path})
		must(t, err)
		r := startExports(t, exports, "127.0.0.1:0")
		l, err := net.Listen("tcp", "127.0.0.1:111")
		must(t, err)
		pc, err := net.ListenPacket("udp", "127.0.0.1:111")
		must(t, err)
		port, _ := strconv.Atoi(r.port)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.ServePortmap(ctx, l, pc, port) }()
		defer func() { cancel(); must(t, <-ended) }()

		if got, want := run(t, "showmount", "--no-headers", "-e", "127.0.0.1"), "/debian-12   (everyone)\n/debian-12@3 (everyone)\n"; got != want {
			t.Errorf("showmount -e: %q, want %q", got, want)
		}
		dial(t, r.addr).mount("/debian-12")
		if got, want := run(t, "showmount", "--no-headers", "-a", "127.0.0.1"), "127.0.0.1:/debian-12\n"; got != want {
			t.Errorf("showmount -a: %q, want %q", got, want)
		}
		if got := run(t, "rpcinfo", "-t", "127.0.0.1", "nfs", "3"); !strings.Contains(got, "program 100003 version 3 ready and waiting") {
			t.Errorf("rpcinfo -t: %q", got)
		}
		got := strings.Fields(run(t, "rpcinfo", "-p", "127.0.0.1"))
		for _, w := range []string{"100000", "100003", "100005", "portmapper", "nfs", "mountd", r.port, "111"} {
			if !slices.Contains(got, w) {
				t.Errorf("rpcinfo -p lacks %s: %q", w, got)
			}
		}
	})
}

// TestTshark has Wireshark's dissectors judge every reply.
func TestTshark(t *testing.T) {
	need.Patience(t)
	need.Root(t)
	need.Tools(t, "tshark", "reordercap", "tcpdump", "nfs-ls")
	path := planted.image(t)
	inNamespace(t, func(t *testing.T) {
		exports, err := newFixed(map[string]string{"/debian-12": path})
		must(t, err)
		r := startExports(t, exports, "127.0.0.1:2049")
		file := filepath.Join(t.TempDir(), "nfs.pcap")
		dump := exec.Command("tcpdump", "-i", "lo", "-B", "16384", "-U", "-w", file, "--immediate-mode", "tcp", "port", "2049")
		stderr, err := dump.StderrPipe()
		must(t, err)
		must(t, dump.Start())
		for lines := bufio.NewScanner(stderr); lines.Scan() && !strings.Contains(lines.Text(), "listening on"); {
		}
		run(t, "nfs-ls", "-R", "nfs://127.0.0.1/debian-12?version=3&nfsport=2049&mountport=2049")
		exercise(t, r)
		for last := int64(-1); ; { // tcpdump drops what it has not written when it is told to stop
			time.Sleep(200 * time.Millisecond)
			info, err := os.Stat(file)
			must(t, err)
			if info.Size() == last {
				break
			}
			last = info.Size()
		}
		must(t, dump.Process.Signal(os.Interrupt))
		dump.Wait()
		// Two processors may hand a call and its reply to tcpdump in the wrong order; tshark wants the call first.
		ordered := file + ".ordered"
		run(t, "reordercap", file, ordered)
		file = ordered

		if out := run(t, "tshark", "-r", file, "-Y", "_ws.malformed || _ws.short || rpc.unknown_body", "-V"); out != "" {
			t.Errorf("malformed packets:\n%s", out[:min(len(out), 4000)])
		}
		seen := map[string]bool{}
		replies := run(t, "tshark", "-r", file, "-Y", "rpc.msgtyp == 1", "-T", "fields", "-e", "nfs.procedure_v3", "-e", "nfs.status3", "-E", "occurrence=a", "-E", "aggregator=,")
		for line := range strings.Lines(replies) {
			f := strings.Split(strings.TrimRight(line, "\n"), "\t")
			for p := range strings.SplitSeq(f[0], ",") {
				seen[p] = true
			}
		}
		for p := range nfsNames {
			if !seen[strconv.Itoa(p)] {
				t.Errorf("Wireshark saw no reply to procedure %d (%s)", p, nfsNames[p])
			}
		}
		status := run(t, "tshark", "-r", file, "-Y", "nfs.status3 == 30", "-T", "fields", "-e", "frame.number")
		if len(strings.Fields(status)) < 5 {
			t.Errorf("few NFS3ERR_ROFS: %q", status)
		}
	})
}

// exercise calls every procedure once, well and badly.
func exercise(t *testing.T, r *running) {
	t.Helper()
	c := dial(t, r.addr)
	root := c.mount("/debian-12")
	h := opaque(root)
	file, _ := c.lookup(root, "size-3145730")
	link, _ := c.lookup(root, "bin")
	f, name, sattr := opaque(file), str("new"), words(0, 0, 0, 0, 0, 0)
	bad := opaque(bytes.Repeat([]byte{1}, handleSize))
	for proc, args := range map[uint32][]byte{
		0: nil, 1: h, 2: append(f, append(sattr, words(0)...)...), 3: append(h, name...), 4: append(h, words(63)...), 5: opaque(link),
		6: append(f, words(0, 0, 300_000)...), 7: append(f, append(words(0, 0, 5, 2), str("hello")...)...),
		8: append(h, append(name, append(words(0), sattr...)...)...), 9: append(h, append(name, sattr...)...),
		10: append(h, append(name, append(sattr, name...)...)...), 11: append(h, append(name, append(words(typeFifo), sattr...)...)...),
		12: append(h, name...), 13: append(h, name...), 14: append(h, append(name, append(h, name...)...)...), 15: append(f, append(h, name...)...),
		16: append(h, words(0, 0, 0, 0, 4096)...), 17: append(h, words(0, 0, 0, 0, 4096, 8192)...), 18: h, 19: h, 20: h, 21: append(f, words(0, 0, 0)...),
	} {
		c.nfs(proc, args)
		if proc != 0 {
			c.nfs(proc, bad, make([]byte, 60))
		}
	}
	for _, proc := range []uint32{0, 2, 5} {
		c.call(progMount, 3, proc)
	}
	c.call(progMount, 3, 1, str("/nothing"))
	c.call(progMount, 3, 3, str("/debian-12"))
}
