package nfs

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"netroot/builder/image"
)

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
