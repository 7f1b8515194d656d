package nfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// rpcClient is a client that can also do everything wrong.
type rpcClient struct {
	t    testing.TB
	nc   net.Conn
	xid  uint32
	cred []byte // opaque_auth
}

func dial(t testing.TB, addr string) *rpcClient {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return &rpcClient{t: t, nc: nc, xid: 0x1000, cred: sysCred(0, 0)}
}

func sysCred(uid, gid uint32, gids ...uint32) []byte {
	b := put32(nil, 7)
	b = putString(b, "machine")
	b = put32(put32(b, uid), gid)
	b = put32(b, uint32(len(gids)))
	for _, g := range gids {
		b = put32(b, g)
	}
	return append(put32(put32(nil, authSys), uint32(len(b))), b...)
}

func header(xid, rpcvers, prog, vers, proc uint32, cred []byte) []byte {
	var b []byte
	for _, v := range []uint32{xid, msgCall, rpcvers, prog, vers, proc} {
		b = put32(b, v)
	}
	return put64(append(b, cred...), 0)
}

func record(b []byte) []byte { return append(put32(nil, lastFragment|uint32(len(b))), b...) }

func (c *rpcClient) write(b []byte) {
	c.t.Helper()
	_, err := c.nc.Write(b)
	must(c.t, err)
}

// read returns the next record.
func (c *rpcClient) read() []byte {
	c.t.Helper()
	rec, err := readRecord(c.nc)
	must(c.t, err)
	return rec
}

func readRecord(r io.Reader) ([]byte, error) {
	var mark [4]byte
	if _, err := io.ReadFull(r, mark[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(mark[:])
	if n&lastFragment == 0 || n&^lastFragment > 4<<20 {
		return nil, fmt.Errorf("record mark %#x", n)
	}
	b := make([]byte, n&^lastFragment)
	_, err := io.ReadFull(r, b)
	return b, err
}

// call does a call and returns its results, which must be there.
func (c *rpcClient) call(prog, vers, proc uint32, args ...[]byte) *decoder {
	c.t.Helper()
	c.xid++
	c.write(record(append(header(c.xid, 2, prog, vers, proc, c.cred), bytes.Join(args, nil)...)))
	d := &decoder{b: c.read()}
	if xid := d.u32(); xid != c.xid {
		c.t.Fatalf("xid %#x, want %#x", xid, c.xid)
	}
	for i, want := range []uint32{msgReply, replyAccepted, 0, 0, acceptSuccess} {
		if got := d.u32(); got != want || d.bad {
			c.t.Fatalf("reply word %d is %d, want %d (program %d version %d procedure %d)", i+1, got, want, prog, vers, proc)
		}
	}
	return d
}

func (c *rpcClient) nfs(proc uint32, args ...[]byte) *decoder {
	c.t.Helper()
	return c.call(progNFS, 3, proc, args...)
}

func str(s string) []byte    { return putString(nil, s) }
func opaque(h []byte) []byte { return putString(nil, string(h)) }
func long(v uint64) []byte   { return put64(nil, v) }

func words(v ...uint32) (b []byte) {
	for _, x := range v {
		b = put32(b, x)
	}
	return b
}

func (d *decoder) want(t testing.TB, v uint32) {
	t.Helper()
	if got := d.u32(); got != v || d.bad {
		t.Fatalf("got %d, want %d (bad %v)", got, v, d.bad)
	}
}

// finished checks that a reply has been decoded to its last byte.
func finished(t testing.TB, d *decoder) {
	t.Helper()
	if d.bad || len(d.b) != 0 {
		t.Fatalf("reply does not end where it should: bad %v, %d bytes left", d.bad, len(d.b))
	}
}

type attr struct {
	typ, mode, nlink, uid, gid uint32
	size, used                 uint64
	major, minor               uint32
	fsid, fileid               uint64
	mtime, mnsec               uint32
}

func readAttr(d *decoder) (a attr) {
	a.typ, a.mode, a.nlink, a.uid, a.gid = d.u32(), d.u32(), d.u32(), d.u32(), d.u32()
	a.size, a.used = d.u64(), d.u64()
	a.major, a.minor = d.u32(), d.u32()
	a.fsid, a.fileid = d.u64(), d.u64()
	d.u64()
	a.mtime, a.mnsec = d.u32(), d.u32()
	d.u64()
	return a
}

// postAttr reads a post_op_attr, which must hold attributes.
func postAttr(t testing.TB, d *decoder) attr {
	t.Helper()
	d.want(t, 1)
	return readAttr(d)
}

func (c *rpcClient) mount(path string) []byte {
	c.t.Helper()
	d := c.call(progMount, 3, 1, str(path))
	d.want(c.t, 0)
	h := bytes.Clone(d.opaque(handleMax))
	d.want(c.t, 1)
	d.want(c.t, authSys)
	finished(c.t, d)
	return h
}

// lookup returns handle and attributes of a name.
func (c *rpcClient) lookup(dir []byte, name string) ([]byte, attr) {
	c.t.Helper()
	d := c.nfs(3, opaque(dir), str(name))
	if status := d.u32(); status != 0 {
		c.t.Fatalf("lookup %q: status %d", name, status)
	}
	h := bytes.Clone(d.opaque(handleMax))
	a := postAttr(c.t, d)
	postAttr(c.t, d)
	finished(c.t, d)
	return h, a
}

func (c *rpcClient) readFile(h []byte, off uint64, count uint32) ([]byte, bool) {
	c.t.Helper()
	d := c.nfs(6, opaque(h), long(off), words(count))
	d.want(c.t, 0)
	postAttr(c.t, d)
	n, eof := d.u32(), d.bool()
	b := d.opaque(readMax)
	finished(c.t, d)
	if int(n) != len(b) {
		c.t.Fatalf("count %d, but %d bytes", n, len(b))
	}
	return b, eof
}
