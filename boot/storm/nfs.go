package storm

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"strings"
	"time"
)

// Programs and procedures of RFC 1813.
const (
	progNFS, progMount                                     = 100003, 100005
	mountMnt                                               = 1
	nfsGetattr, nfsLookup, nfsAccess, nfsReadlink, nfsRead = 1, 3, 4, 5, 6
	nfsReaddirplus, nfsFsinfo                              = 17, 19
	nfsOK, nfsNoent                                        = 0, 2
)

// nfsClient does one call at a time. A connection that ends is opened again and the call repeated, for as long as it takes: that is what
// a kernel does for a hard mount.
type nfsClient struct {
	m       *machine
	server  netip.AddrPort
	conn    net.Conn
	in      *bufio.Reader
	xid     uint32
	handles map[string][]byte // of paths; the root is "."
}

func (n *nfsClient) close() {
	if n.conn != nil {
		n.conn.Close()
		n.conn = nil
	}
}

func (n *nfsClient) mount(ctx context.Context, path string) error {
	r, err := n.call(ctx, progMount, mountMnt, xdrOpaque(nil, []byte(path)))
	if err == nil && r.u32() != nfsOK {
		err = errors.New("refused")
	}
	if err == nil {
		n.handles["."] = r.opaque()
		err = r.err
	}
	if err == nil {
		r, err = n.call(ctx, progNFS, nfsFsinfo, xdrOpaque(nil, n.handles["."]))
	}
	if err == nil && r.u32() != nfsOK {
		err = errors.New("FSINFO is refused")
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", path, err)
	}
	return nil
}

// silence is how long an answer may take before the connection is taken for dead: Linux waits a minute (timeo=600) and relies on TCP until then.
const silence = time.Minute

// call repeats a call until it is answered.
func (n *nfsClient) call(ctx context.Context, program, procedure uint32, args []byte) (*xdr, error) {
	for try := 0; ; try++ {
		n.m.Calls++
		r, err := n.try(program, procedure, args)
		if err == nil && (program != progNFS || !r.later()) {
			return r, nil
		}
		if err == nil { // NFS_JUKEBOX_RETRY_TIME
			select {
			case <-time.After(5 * time.Second):
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		n.close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w, after %w", ctx.Err(), err)
		}
		n.m.Broken++
		// Linux waits three seconds before it connects again (xprt.c: XS_TCP_INIT_REEST_TO), and longer each time.
		select {
		case <-time.After(min(time.Duration(try+1), 5) * 200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (n *nfsClient) try(program, procedure uint32, args []byte) (*xdr, error) {
	if n.conn == nil {
		conn, err := n.m.connect(n.server)
		if err != nil {
			return nil, err
		}
		n.conn, n.in = conn, bufio.NewReaderSize(conn, 64<<10)
	}
	n.xid++
	body := make([]byte, 4, 128+len(args))
	for _, v := range []uint32{n.xid, 0, 2, program, 3, procedure, 1, 20, 0, 0, 0, 0, 0, 0, 0} { // AUTH_SYS, root, no groups
		body = binary.BigEndian.AppendUint32(body, v)
	}
	body = append(body, args...)
	binary.BigEndian.PutUint32(body, 1<<31|uint32(len(body)-4))
	if err := n.conn.SetDeadline(time.Now().Add(silence)); err != nil {
		return nil, err
	}
	if _, err := n.conn.Write(body); err != nil {
		return nil, err
	}
	r, err := readRecord(n.in)
	if err != nil {
		return nil, err
	}
	if xid, reply, state := r.u32(), r.u32(), r.u32(); xid != n.xid || reply != 1 || state != 0 {
		return nil, fmt.Errorf("an answer to call %d of %d, denied: %d", xid, n.xid, state)
	}
	r.u32() // verifier
	r.opaque()
	if status := r.u32(); status != 0 || r.err != nil {
		return nil, fmt.Errorf("procedure %d of program %d is not accepted: %d %w", procedure, program, status, r.err)
	}
	return r, nil
}

func readRecord(in io.Reader) (*xdr, error) {
	var b []byte
	for last := false; !last; {
		var mark [4]byte
		if _, err := io.ReadFull(in, mark[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(mark[:])
		last = n>>31 == 1
		if n &= 1<<31 - 1; n > 4<<20 {
			return nil, fmt.Errorf("a record of %d bytes", n)
		}
		at := len(b)
		b = append(b, make([]byte, n)...)
		if _, err := io.ReadFull(in, b[at:]); err != nil {
			return nil, err
		}
	}
	return &xdr{b: b}, nil
}

// handle finds a path, component by component where it was not met before. nil is a name that is not there.
func (n *nfsClient) handle(ctx context.Context, name string) ([]byte, error) {
	if h, ok := n.handles[name]; ok {
		return h, nil
	}
	dir, err := n.handle(ctx, path.Dir(name))
	if dir == nil || err != nil {
		return nil, err
	}
	return n.lookup(ctx, dir, name)
}

func (n *nfsClient) lookup(ctx context.Context, dir []byte, name string) ([]byte, error) {
	r, err := n.call(ctx, progNFS, nfsLookup, xdrOpaque(xdrOpaque(nil, dir), []byte(path.Base(name))))
	if err != nil {
		return nil, err
	}
	switch status := r.u32(); status {
	case nfsOK:
		n.handles[name] = r.opaque()
		return n.handles[name], r.err
	case nfsNoent:
		return nil, nil
	default:
		return nil, fmt.Errorf("LOOKUP %s: %s", name, status32(status))
	}
}

// status32 names the two errors that nobody may see.
func status32(status uint32) string {
	switch status {
	case 5:
		return "I/O error"
	case 70:
		return "stale file handle"
	}
	return fmt.Sprintf("status %d", status)
}

// replay does one call of a recorded boot.
func (n *nfsClient) replay(ctx context.Context, c Call) error {
	if c.Kind == "lookup" {
		dir, err := n.handle(ctx, path.Dir(c.Path))
		if err == nil && dir != nil {
			_, err = n.lookup(ctx, dir, c.Path)
		}
		return err
	}
	h, err := n.handle(ctx, c.Path)
	if h == nil || err != nil {
		return err // of another version of the image: not there
	}
	args := xdrOpaque(nil, h)
	var procedure uint32
	switch c.Kind {
	case "access":
		procedure, args = nfsAccess, binary.BigEndian.AppendUint32(args, 0x3f)
	case "getattr":
		procedure = nfsGetattr
	case "readlink":
		procedure = nfsReadlink
	case "readdirplus":
		procedure = nfsReaddirplus
		args = binary.BigEndian.AppendUint64(args, 0)
		args = binary.BigEndian.AppendUint64(args, 0)
		args = binary.BigEndian.AppendUint32(args, 32<<10)
		args = binary.BigEndian.AppendUint32(args, 64<<10)
	case "read":
		procedure = nfsRead
		args = binary.BigEndian.AppendUint64(args, c.Offset)
		args = binary.BigEndian.AppendUint32(args, c.Count)
	default:
		return fmt.Errorf("a recorded call of an unknown kind %q", c.Kind)
	}
	r, err := n.call(ctx, progNFS, procedure, args)
	if err != nil {
		return fmt.Errorf("%s %s: %w", strings.ToUpper(c.Kind), c.Path, err)
	}
	if status := r.u32(); status != nfsOK {
		return fmt.Errorf("%s %s: %s", strings.ToUpper(c.Kind), c.Path, status32(status))
	}
	if c.Kind != "read" {
		return nil
	}
	r.attributes()
	count := r.u32()
	r.u32() // end of file
	data := r.opaque()
	if r.err != nil || len(data) != int(count) || count > c.Count {
		return fmt.Errorf("READ %s at %d: %d bytes of %d, %w", c.Path, c.Offset, len(data), count, r.err)
	}
	n.m.Bytes += int64(count)
	if n.m.cfg.Check != nil {
		return n.m.cfg.Check(c.Path, c.Offset, data)
	}
	return nil
}

func xdrOpaque(b, data []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	b = append(b, data...)
	return append(b, make([]byte, -len(data)&3)...)
}

// xdr is a reply that is read from the front; the first thing that is not there is the error.
type xdr struct {
	b   []byte
	err error
}

func (x *xdr) u32() uint32 {
	if len(x.b) < 4 {
		x.b, x.err = nil, io.ErrUnexpectedEOF
		return 0
	}
	v := binary.BigEndian.Uint32(x.b)
	x.b = x.b[4:]
	return v
}

func (x *xdr) opaque() []byte {
	n := int(x.u32())
	padded := n + (-n & 3)
	if n < 0 || padded > len(x.b) {
		x.b, x.err = nil, io.ErrUnexpectedEOF
		return nil
	}
	data := x.b[:n:n]
	x.b = x.b[padded:]
	return data
}

// later says that the answer is NFS3ERR_JUKEBOX: ask again, the server cannot tell yet.
func (x *xdr) later() bool { return len(x.b) >= 4 && binary.BigEndian.Uint32(x.b) == 10008 }

// attributes skips a post_op_attr.
func (x *xdr) attributes() {
	const size = 84 // fattr3
	if x.u32() == 0 {
		return
	}
	if len(x.b) < size {
		x.b, x.err = nil, io.ErrUnexpectedEOF
		return
	}
	x.b = x.b[size:]
}
