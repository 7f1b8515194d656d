package nfs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"netroot/builder/need"
)

// serveTree serves the planted folder from an image made with args. Folder and image are made once.
func serveTree(t testing.TB, args ...string) (*running, string) {
	t.Helper()
	return start(t, map[string]string{"/debian-12": planted.image(t, args...)}), planted.dir
}

// planted is shared by the tests, which only read it.
var planted tree

type tree struct {
	mu        sync.Mutex
	dir, work string
	made      map[string]string
}

func (p *tree) image(t testing.TB, args ...string) string {
	t.Helper()
	need.Tools(t, "mkfs.erofs")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == "" {
		work, err := os.MkdirTemp("", "netroot-nfs-")
		must(t, err)
		p.work, p.dir, p.made = work, filepath.Join(work, "root"), map[string]string{}
		plant(t, p.dir)
	}
	key := strings.Join(args, " ")
	if p.made[key] == "" {
		path := filepath.Join(p.work, fmt.Sprintf("%d.erofs", len(p.made)))
		run(t, "mkfs.erofs", append(args, "--preserve-mtime", path, p.dir)...)
		p.made[key] = path
	}
	return p.made[key]
}

func (p *tree) remove() {
	if p.work != "" {
		os.RemoveAll(p.work)
	}
}

// TestWholeTree walks an export by READDIRPLUS, LOOKUP, GETATTR, READLINK and READ, and compares it with the folder it was made of.
func TestWholeTree(t *testing.T) {
	need.Patience(t)
	for _, args := range [][]string{nil, {"--chunksize=4096"}} {
		r, dir := serveTree(t, args...)
		c := dial(t, r.addr)
		names, inodes := 0, map[uint64]uint64{}
		var walk func(h []byte, path string, self, parent uint64)
		walk = func(h []byte, path string, self, parent uint64) {
			for n, e := range c.listAll(h, true, 8192, 32768) {
				if n < 2 {
					if want := []uint64{self, parent}[n]; e.name != []string{".", ".."}[n] || e.fileid != want {
						t.Errorf("%s: entry %d is %q %d, want %d", path, n, e.name, e.fileid, want)
					}
					continue
				}
				names++
				full := filepath.Join(path, e.name)
				h2, a := c.lookup(h, e.name)
				if !bytes.Equal(h2, e.handle) || a != e.attr || a.fileid != e.fileid {
					t.Errorf("%s: LOOKUP and READDIRPLUS differ", full)
				}
				d := c.nfs(1, opaque(h2))
				d.want(t, 0)
				if readAttr(d) != a {
					t.Errorf("%s: GETATTR differs", full)
				}
				finished(t, d)
				compareFile(t, c, filepath.Join(dir, full), h2, a, inodes)
				if a.typ == typeDir {
					walk(h2, full, a.fileid, self)
				}
			}
		}
		root := c.mount("/debian-12")
		d := c.nfs(1, opaque(root))
		d.want(t, 0)
		id := readAttr(d).fileid
		walk(root, "", id, id)
		want := -1
		filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { want++; return nil })
		if names != want {
			t.Errorf("%d names, want %d", names, want)
		}
		if st := r.Stats(); st.Errors != 0 || st.Calls["READ"] == 0 || st.Latencies["READ"].Count == 0 || st.ReadBytes == 0 || st.Connections != 1 {
			t.Errorf("stats %+v", st)
		}
	}
}

func compareFile(t *testing.T, c *rpcClient, path string, h []byte, a attr, inodes map[uint64]uint64) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	major, minor := splitDevice(st.Rdev)
	if a.typ != fileType(st.Mode) || a.mode != st.Mode&0o7777 || a.uid != st.Uid || a.gid != st.Gid || a.major != major || a.minor != minor ||
		int64(a.mtime) != st.Mtim.Sec || int64(a.mnsec) != st.Mtim.Nsec ||
		!info.IsDir() && (uint64(a.nlink) != st.Nlink || int64(a.size) != st.Size) {
		t.Errorf("%s: got %+v, want %+v", path, a, *st)
	}
	if first, ok := inodes[st.Ino]; ok && first != a.fileid {
		t.Errorf("%s: two file numbers for one file", path)
	}
	inodes[st.Ino] = a.fileid
	switch a.typ {
	case typeLnk:
		d := c.nfs(5, opaque(h))
		d.want(t, 0)
		postAttr(t, d)
		got := string(d.opaque(4096))
		finished(t, d)
		if want, _ := os.Readlink(path); got != want {
			t.Errorf("%s: link to %q, want %q", path, got, want)
		}
	case typeReg:
		want, err := os.ReadFile(path)
		must(t, err)
		for _, step := range []uint32{readMax * 2, 70_000, 4095} {
			if step == 4095 && len(want) > 200_000 {
				continue
			}
			var got []byte
			for eof := false; !eof; {
				var b []byte
				b, eof = c.readFile(h, uint64(len(got)), step)
				if len(b) == 0 && !eof {
					t.Fatalf("%s: nothing read at %d", path, len(got))
				}
				got = append(got, b...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: data differs in steps of %d", path, step)
			}
		}
		if b, eof := c.readFile(h, uint64(len(want)), 10); len(b) != 0 || !eof {
			t.Errorf("%s: %d bytes, end %v, at the end", path, len(b), eof)
		}
		if b, eof := c.readFile(h, 1<<63, 10); len(b) != 0 || !eof {
			t.Errorf("%s: %d bytes, end %v, far past the end", path, len(b), eof)
		}
	}
}

type listed struct {
	name   string
	fileid uint64
	cookie uint64
	attr   attr
	handle []byte
}

// listAll reads a folder, and checks that every reply is within its limits.
func (c *rpcClient) listAll(h []byte, plus bool, dircount, maxcount uint32) (all []listed) {
	c.t.Helper()
	var cookie, verf uint64
	for {
		page, v, eof, status := c.listPage(h, plus, cookie, verf, dircount, maxcount)
		if status != 0 {
			c.t.Fatalf("list at cookie %d: status %d", cookie, status)
		}
		all = append(all, page...)
		if eof {
			return all
		}
		if len(page) == 0 {
			c.t.Fatal("an empty page that is not the last")
		}
		cookie, verf = page[len(page)-1].cookie, v
	}
}

func (c *rpcClient) listPage(h []byte, plus bool, cookie, verf uint64, dircount, maxcount uint32) (page []listed, v uint64, eof bool, status uint32) {
	c.t.Helper()
	var d *decoder
	if plus {
		d = c.nfs(17, opaque(h), long(cookie), long(verf), words(dircount, maxcount))
	} else {
		d = c.nfs(16, opaque(h), long(cookie), long(verf), words(maxcount))
	}
	if status = d.u32(); status != 0 {
		postAttr(c.t, d)
		finished(c.t, d)
		return
	}
	if len(d.b) > int(maxcount) {
		c.t.Errorf("a reply of %d bytes, allowed are %d", len(d.b), maxcount)
	}
	postAttr(c.t, d)
	v = d.u64()
	names := 0
	for d.bool() {
		e := listed{fileid: d.u64(), name: string(d.opaque(255))}
		e.cookie = d.u64()
		names += 24 + padded(len(e.name))
		if plus {
			e.attr = postAttr(c.t, d)
			d.want(c.t, 1)
			e.handle = bytes.Clone(d.opaque(handleMax))
		}
		page = append(page, e)
	}
	eof = d.bool()
	finished(c.t, d)
	if plus && names > int(dircount) && len(page) > 1 {
		c.t.Errorf("%d bytes of names, allowed are %d", names, dircount)
	}
	return
}

func TestReaddirSizes(t *testing.T) {
	r, dir := serveTree(t)
	c := dial(t, r.addr)
	h, _ := c.lookup(c.mount("/debian-12"), "many")
	want := []string{".", ".."}
	entries, _ := os.ReadDir(filepath.Join(dir, "many"))
	for _, e := range entries {
		want = append(want, e.Name())
	}
	names := func(list []listed) (n []string) {
		for _, e := range list {
			n = append(n, e.name)
		}
		return n
	}
	for _, plus := range []bool{false, true} {
		for _, size := range []uint32{512, 1000, 8192, 65536, 1 << 31} {
			for _, dircount := range []uint32{0, 300, size} {
				if got := names(c.listAll(h, plus, dircount, size)); !slices.Equal(got, want) {
					t.Fatalf("plus %v, counts %d %d: %d names, want %d", plus, dircount, size, len(got), len(want))
				}
				if !plus {
					break
				}
			}
		}
		// Every single entry can be asked for by the cookie before it.
		all := c.listAll(h, plus, 1<<20, 1<<20)
		_, verf, _, _ := c.listPage(h, plus, 0, 0, 512, 512)
		for n := 0; n < len(all); n += 97 {
			page, _, _, status := c.listPage(h, plus, all[n].cookie, verf, 400, 1000)
			if status != 0 || n+1 < len(all) && page[0].name != all[n+1].name {
				t.Fatalf("after cookie %d: status %d", all[n].cookie, status)
			}
		}
		for _, bad := range []struct {
			cookie, verf uint64
			count        uint32
			status       uint32
		}{
			{0, 0, 10, errTooSmall}, {0, 0, 100, errTooSmall}, {0, 0, 131, errTooSmall}, {99999, verf, 4096, errBadCookie},
			{3, verf + 1, 4096, errBadCookie}, {1 << 63, verf, 4096, errBadCookie},
		} {
			if _, _, _, status := c.listPage(h, plus, bad.cookie, bad.verf, 4096, bad.count); status != bad.status {
				t.Errorf("cookie %d, count %d: status %d, want %d", bad.cookie, bad.count, status, bad.status)
			}
		}
		if _, _, eof, status := c.listPage(h, plus, all[len(all)-1].cookie, verf, 4096, 4096); status != 0 || !eof {
			t.Errorf("after the last cookie: status %d, end %v", status, eof)
		}
	}
	file, _ := c.lookup(c.mount("/debian-12"), "size-1")
	if _, _, _, status := c.listPage(file, false, 0, 0, 0, 4096); status != errNotDir {
		t.Errorf("list a file: status %d", status)
	}
}
