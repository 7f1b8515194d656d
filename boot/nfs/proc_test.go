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
	"time"

	"netroot/builder/image"
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

func TestLookupNames(t *testing.T) {
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	root := c.mount("/debian-12")
	usr, usrAttr := c.lookup(root, "usr")
	bin, binAttr := c.lookup(usr, "bin")
	for _, l := range []struct {
		dir  []byte
		name string
		want uint64
	}{{bin, ".", binAttr.fileid}, {bin, "..", usrAttr.fileid}, {root, "..", usrAttr.fileid}} {
		_, a := c.lookup(l.dir, l.name)
		if l.name == ".." && bytes.Equal(l.dir, root) {
			if _, self := c.lookup(root, "."); a != self {
				t.Error("the parent of the root is not the root")
			}
			continue
		}
		if a.fileid != l.want {
			t.Errorf("%q is %d, want %d", l.name, a.fileid, l.want)
		}
	}
	file, _ := c.lookup(root, "size-1")
	for _, l := range []struct {
		dir    []byte
		name   string
		status uint32
	}{
		{root, "nothing", errNoEnt}, {root, "usr/bin", errNoEnt}, {root, "usr\x00", errNoEnt}, {root, "", errInval},
		{root, strings.Repeat("x", 255), errNoEnt}, {root, strings.Repeat("x", 256), errNameTooLong}, {root, strings.Repeat("x", 9000), errNameTooLong},
		{file, "x", errNotDir}, {file, ".", errNotDir},
	} {
		d := c.nfs(3, opaque(l.dir), str(l.name))
		d.want(t, l.status)
		postAttr(t, d)
		finished(t, d)
	}
}

func TestHandles(t *testing.T) {
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	root := c.mount("/debian-12")
	change := func(at int, to byte) []byte { h := bytes.Clone(root); h[at] = to; return h }
	for _, l := range []struct {
		h      []byte
		status uint32
	}{
		{nil, errBadHandle}, {root[:27], errBadHandle}, {append(bytes.Clone(root), 0), errBadHandle}, {change(0, 9), errBadHandle},
		{change(2, 1), errBadHandle}, {change(4, root[4]^1), errStale}, {change(20, 0x7f), errBadHandle}, {bytes.Repeat([]byte{1}, 64), errBadHandle},
	} {
		for _, proc := range []uint32{1, 3, 4, 5, 6, 16, 17, 18, 19, 20, 2, 21} {
			d := c.nfs(proc, opaque(l.h), make([]byte, 64))
			d.want(t, l.status)
			for len(d.b) > 0 { // nothing but "no attributes" may follow
				d.want(t, 0)
			}
			finished(t, d)
		}
	}
	// While the store cannot be asked, clients are told to wait; a new connection knows no image yet.
	r.exports.setDown(errDown)
	other := dial(t, r.addr)
	d := other.nfs(1, opaque(root))
	d.want(t, errJukebox)
	r.exports.setDown(nil)
	other.nfs(1, opaque(root)).want(t, nfsOK)
	if got := r.seen(Refused); len(got) != 1 || !strings.Contains(got[0].Reason, errDown.Error()) {
		t.Errorf("events %+v", got)
	}
}

// TestRestart: handles and cookies of one server are good on the next.
func TestRestart(t *testing.T) {
	path := planted.image(t)
	r := start(t, map[string]string{"/debian-12": path})
	c := dial(t, r.addr)
	h, a := c.lookup(c.mount("/debian-12"), "many")
	page, verf, _, _ := c.listPage(h, true, 0, 0, 2000, 4000)
	last := page[len(page)-1]
	r.stop()
	if _, err := c.nc.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlived the server")
	}
	again := start(t, map[string]string{"/renamed@7": path})
	c = dial(t, again.addr)
	d := c.nfs(1, opaque(h))
	d.want(t, 0)
	if readAttr(d) != a {
		t.Error("attributes changed")
	}
	next, verf2, _, status := c.listPage(h, true, last.cookie, verf, 2000, 4000)
	if status != 0 || verf2 != verf || next[0].name <= last.name {
		t.Errorf("listing does not go on: status %d", status)
	}
	// A stage is told by the image's name, though nobody has mounted it here.
	root, _ := c.lookup(h, "..")
	c.nfs(3, opaque(root), str(".netroot.stage=up,up=31.25")).want(t, errNoEnt)
	if got := again.seen(Stage); len(got) != 1 || got[0].Image != "renamed@7" {
		t.Errorf("events %+v", got)
	}
}

func TestStages(t *testing.T) {
	for name, want := range map[string]string{
		".netroot.stage=init,up=12.34":                                "init 12.34s",
		".netroot.stage=nfs-root,up=0.00":                             "nfs-root 0s",
		".netroot.stage=up,up=100":                                    "up 1m40s",
		".netroot.stage=,up=1":                                        "",
		".netroot.stage=up":                                           "",
		".netroot.stage=up,up=":                                       "",
		".netroot.stage=up,up=-1":                                     "",
		".netroot.stage=up,up=NaN":                                    "",
		".netroot.stage=up,up=1e300":                                  "",
		".netroot.stage=UP,up=1":                                      "",
		".netroot.stage=a\nb,up=1":                                    "",
		".netroot.stage=" + strings.Repeat("x", 33) + ",up=1":         "",
		"netroot.stage=up,up=1":                                       "",
		".netroot.stage=" + strings.Repeat("x", 32) + ",up=1.2345678": strings.Repeat("x", 32) + " 1.23s",
	} {
		stage, up, ok := parseStage(name)
		got := ""
		if ok {
			got = fmt.Sprint(stage, " ", up)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	root := c.mount("/debian-12")
	usr, _ := c.lookup(root, "usr")
	for range 2 { // sent again: told once
		c.nfs(3, opaque(root), str(".netroot.stage=init,up=12.34")).want(t, errNoEnt)
	}
	c.nfs(3, opaque(usr), str(".netroot.stage=up,up=1")).want(t, errNoEnt)
	got := r.seen(Stage)
	if len(got) != 1 || got[0].Stage != "init" || got[0].Up != 12340*time.Millisecond || got[0].Image != "debian-12" || got[0].Client.String() != "127.0.0.1" {
		t.Errorf("events %+v", got)
	}
}

func TestAccess(t *testing.T) {
	file := func(mode, uid, gid uint32) *image.Inode { return &image.Inode{Mode: mode, UID: uid, GID: gid} }
	const all = 0x3f
	user := credentials{uid: 1000, gid: 100, gids: [authMaxGids]uint32{7, 8}, ngids: 2}
	for _, c := range []struct {
		i    *image.Inode
		cred credentials
		want uint32
	}{
		{file(0o100644, 0, 0), credentials{}, accessRead},
		{file(0o100000, 5, 5), credentials{}, accessRead},
		{file(0o100100, 5, 5), credentials{}, accessRead | accessExecute},
		{file(0o040000, 5, 5), credentials{}, accessRead | accessLookup},
		{file(0o100644, 0, 0), user, accessRead},
		{file(0o100640, 0, 0), user, 0},
		{file(0o100640, 0, 100), user, accessRead},
		{file(0o100640, 0, 8), user, accessRead},
		{file(0o100640, 0, 9), user, 0},
		{file(0o100604, 0, 8), user, 0},
		{file(0o100077, 1000, 8), user, 0},
		{file(0o100700, 1000, 8), user, accessRead | accessExecute},
		{file(0o104711, 0, 0), user, accessExecute},
		{file(0o040711, 0, 0), user, accessLookup},
		{file(0o040744, 0, 0), user, accessRead},
	} {
		if got := access(c.i, &c.cred, all); got != c.want {
			t.Errorf("mode %o of %d:%d for %d: %#x, want %#x", c.i.Mode, c.i.UID, c.i.GID, c.cred.uid, got, c.want)
		}
	}
	if got := access(file(0o100644, 0, 0), &user, 0x3c); got != 0 {
		t.Errorf("unasked access %#x", got)
	}

	r, _ := serveTree(t)
	root := dial(t, r.addr)
	top := root.mount("/debian-12")
	secret, _ := root.lookup(top, "secret")
	key, _ := root.lookup(secret, "key")
	bin, _ := root.lookup(top, "usr")
	bin, _ = root.lookup(bin, "bin")
	su, _ := root.lookup(bin, "su")
	for _, cred := range [][]byte{sysCred(1000, 1000, 1, 2, 3), put64(nil, authNone)} {
		c := dial(t, r.addr)
		c.cred = cred
		c.nfs(3, opaque(secret), str("key")).want(t, errAcces)
		c.nfs(6, opaque(key), long(0), words(10)).want(t, errAcces)
		c.nfs(16, opaque(secret), long(0), long(0), words(4096)).want(t, errAcces)
		c.nfs(6, opaque(su), long(0), words(10)).want(t, nfsOK) // may be executed, so it must be readable
		d := c.nfs(4, opaque(su), words(all))
		d.want(t, 0)
		postAttr(t, d)
		d.want(t, accessExecute)
		finished(t, d)
	}
	if b, _ := root.readFile(key, 0, 100); string(b) != "key\n" {
		t.Errorf("root reads %q", b)
	}
}

// TestReadOnly: whatever writes is refused with attributes, whatever does not decode is garbage.
func TestReadOnly(t *testing.T) {
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	root := c.mount("/debian-12")
	file, _ := c.lookup(root, "size-4096")
	h, f := opaque(root), opaque(file)
	sattr := words(1, 0o644, 1, 0, 1, 0, 1, 0, 0, 1, 2, 5, 6)
	name := str("new")
	wcc := func(d *decoder) { d.want(t, 0); postAttr(t, d) }
	for _, p := range []struct {
		name  string
		proc  uint32
		args  [][]byte
		after []func(*decoder)
	}{
		{"SETATTR", 2, [][]byte{f, sattr, words(1, 5, 6)}, []func(*decoder){wcc}},
		{"WRITE", 7, [][]byte{f, long(0), words(5, 2), str("hello")}, []func(*decoder){wcc}},
		{"CREATE", 8, [][]byte{h, name, words(1), sattr}, []func(*decoder){wcc}},
		{"CREATE exclusive", 8, [][]byte{h, name, words(2), long(1)}, []func(*decoder){wcc}},
		{"MKDIR", 9, [][]byte{h, name, sattr}, []func(*decoder){wcc}},
		{"SYMLINK", 10, [][]byte{h, name, sattr, str("target")}, []func(*decoder){wcc}},
		{"MKNOD", 11, [][]byte{h, name, words(typeChr), sattr, words(1, 3)}, []func(*decoder){wcc}},
		{"MKNOD fifo", 11, [][]byte{h, name, words(typeFifo), sattr}, []func(*decoder){wcc}},
		{"REMOVE", 12, [][]byte{h, name}, []func(*decoder){wcc}},
		{"RMDIR", 13, [][]byte{h, name}, []func(*decoder){wcc}},
		{"RENAME", 14, [][]byte{h, name, h, name}, []func(*decoder){wcc, wcc}},
		{"LINK", 15, [][]byte{f, h, name}, []func(*decoder){func(d *decoder) { postAttr(t, d) }, wcc}},
		{"COMMIT", 21, [][]byte{f, long(0), words(0)}, []func(*decoder){wcc}},
	} {
		d := c.nfs(p.proc, p.args...)
		if status := d.u32(); status != errROFS {
			t.Errorf("%s: status %d", p.name, status)
			continue
		}
		for _, f := range p.after {
			f(d)
		}
		finished(t, d)
		// The same without its last word.
		args := bytes.Join(p.args, nil)
		c.xid++
		c.write(record(append(header(c.xid, 2, progNFS, 3, p.proc, c.cred), args[:len(args)-4]...)))
		if got := c.read(); len(got) != 24 || got[23] != acceptGarbageArgs {
			if p.name != "WRITE" { // whose data is not looked at
				t.Errorf("%s cut short: % x", p.name, got)
			}
		}
	}
	// A WRITE far bigger than allowed, by a client that does not ask FSINFO: refused all the same, and the connection goes on.
	d := c.nfs(7, f, long(0), words(1<<20, 2), str(strings.Repeat("x", 1<<20)))
	d.want(t, errROFS)
	c.nfs(0)
}

func TestInfo(t *testing.T) {
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	h := opaque(c.mount("/debian-12"))
	c.nfs(0)
	d := c.nfs(18, h)
	d.want(t, 0)
	postAttr(t, d)
	if total, free := d.u64(), d.u64(); total == 0 || free != 0 {
		t.Errorf("%d bytes, %d free", total, free)
	}
	d.u64()
	if files, free := d.u64(), d.u64(); files < 200 || free != 0 {
		t.Errorf("%d files, %d free", files, free)
	}
	d.u64()
	d.u32()
	finished(t, d)
	d = c.nfs(19, h)
	d.want(t, 0)
	postAttr(t, d)
	d.want(t, readMax)
	d.want(t, readMax)
	d.take(5*4 + 8 + 8 + 4)
	finished(t, d)
	d = c.nfs(20, h)
	d.want(t, 0)
	postAttr(t, d)
	d.u32()
	d.want(t, 255)
	d.take(16)
	finished(t, d)
}

// TestNoAllocation: what machines ask most must not feed the garbage collector.
func TestNoAllocation(t *testing.T) {
	r, _ := serveTree(t)
	probe := dial(t, r.addr)
	root := probe.mount("/debian-12")
	usr, _ := probe.lookup(root, "many")
	file, _ := probe.lookup(root, "size-5001")
	c := &conn{s: r.Server, programs: []program{nfsProgram()}}
	c.io.init()
	for name, rec := range map[string][]byte{
		"GETATTR":     append(header(1, 2, progNFS, 3, 1, sysCred(1, 2, 3)), opaque(root)...),
		"LOOKUP":      append(header(1, 2, progNFS, 3, 3, sysCred(1, 2, 3)), append(opaque(root), str("usr")...)...),
		"LOOKUP none": append(header(1, 2, progNFS, 3, 3, sysCred(1, 2, 3)), append(opaque(root), str("a name that is longer than thirty-two bytes")...)...),
		"ACCESS":      append(header(1, 2, progNFS, 3, 4, sysCred(1, 2, 3)), append(opaque(root), words(63)...)...),
		"READ":        append(header(1, 2, progNFS, 3, 6, sysCred(1, 2, 3)), append(opaque(file), words(0, 0, 8192)...)...),
		"READDIRPLUS": append(header(1, 2, progNFS, 3, 17, sysCred(1, 2, 3)), append(opaque(usr), words(0, 0, 0, 0, 4096, 32768)...)...),
	} {
		if n := testing.AllocsPerRun(100, func() {
			c.out = c.out[:0]
			if !c.answer(rec) || len(c.out) < 28 {
				t.Errorf("%s is not answered", name)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
