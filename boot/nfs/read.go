package nfs

import (
	"errors"
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"netroot/builder/image"
)

// smallRead is up to which size data is copied into the batch of replies; larger data goes by sendfile, which costs
// two system calls of its own.
const smallRead = 16 << 10

// probeStep is how far apart the bytes are that tell whether data is in the page cache: read-ahead fills it in larger pieces.
const probeStep = 128 << 10

var zeros [64 << 10]byte // what holes read as; never written

func procRead(c *conn, q *call) bool {
	e, i, ok := c.file(q, 1)
	off, count := q.args.u64(), q.args.u32()
	if !ok || q.args.bad {
		return false
	}
	if i == nil {
		return true
	}
	status := uint32(nfsOK)
	switch {
	case !i.IsRegular():
		status = errInval
	case !mayRead(i, &q.cred):
		status = errAcces
	}
	if status != nfsOK {
		c.fail(status)
		c.out = putPostAttr(c.out, e, i)
		return true
	}
	off = min(off, uint64(i.Size)) // a READ past the end is one at the end
	n := int(min(uint64(count), readMax, uint64(i.Size)-off))
	r := read{e, i, int64(off), n}
	c.s.stats.readBytes.Add(uint64(n))
	if n <= smallRead {
		body := len(c.out)
		c.out = r.header(c.out)
		at := len(c.out)
		c.out = append(c.out, zeros[:n]...)
		if c.io.readNow(r, c.out[at:]) {
			c.out = pad(c.out, n)
			return true
		}
		c.out = c.out[:body]
	} else if c.io.cached(r) {
		c.out = r.header(c.out)
		c.out = endReply(c.out, c.start, padded(n))
		c.w.mu.Lock()
		c.err = c.sendRead(r, c.out)
		c.w.mu.Unlock()
		c.out, c.taken, c.sent = c.out[:0], true, true
		return true
	}
	c.fetch(r, q.xid)
	return true
}

// read is a checked READ call: n bytes from off on, all inside the file.
type read struct {
	e   *export
	i   *image.Inode
	off int64
	n   int
}

// header appends the results up to the data.
func (r read) header(b []byte) []byte {
	b = put32(b, nfsOK)
	b = putPostAttr(b, r.e, r.i)
	b = put32(b, uint32(r.n))
	b = putBool(b, r.off+int64(r.n) >= r.i.Size)
	return put32(b, uint32(r.n))
}

// each calls f for every piece of the data that lies together in the image; place is negative for a hole.
func (r read) each(f func(place int64, n int) error) error {
	for off, left := r.off, r.n; left > 0; {
		place, k, ok := r.e.img.Extent(r.i, off)
		if !ok {
			return io.ErrUnexpectedEOF
		}
		n := int(min(k, int64(left)))
		if err := f(place, n); err != nil {
			return err
		}
		off += int64(n)
		left -= n
	}
	return nil
}

// sendRead sends replies that are ready, the last of which is that of r up to its data, and the data. The caller holds c.w.mu.
// After an error the stream is broken and the connection has to end.
func (c *conn) sendRead(r read, replies []byte) error {
	err := c.w.send(replies, true)
	if err != nil {
		return err
	}
	err = r.each(func(place int64, n int) error {
		if place >= 0 {
			return c.w.sendfile(r.e, place, n)
		}
		for n > 0 {
			k := min(n, len(zeros))
			if err := c.w.send(zeros[:k], false); err != nil {
				return err
			}
			n -= k
		}
		return nil
	})
	if err == nil {
		err = c.w.send(zeros[:-r.n&3], false)
	}
	return err
}

// fetch answers r from another goroutine, which may wait for the disk. It waits itself when too many do so already: then nothing
// more is read from this client.
func (c *conn) fetch(r read, xid uint32) {
	c.s.stats.cold.Add(1)
	c.out, c.taken = c.out[:c.start], true
	timed := c.timed
	c.timed = watch{}   // it is over when the other goroutine is
	if len(c.out) > 0 { // do not let what is ready wait too
		if c.err = c.flush(); c.err != nil {
			return
		}
	}
	c.cold <- struct{}{}
	c.wg.Go(func() {
		err := c.answerCold(r, xid)
		timed.stop()
		<-c.cold
		if err != nil {
			c.nc.Close() // the reading goroutine ends by it, and is waited for
		}
	})
}

func (c *conn) answerCold(r read, xid uint32) error {
	out := beginAccepted(make([]byte, 0, 256), xid, acceptSuccess)
	if err := r.warm(); err != nil {
		c.s.stats.errors.Add(1)
		if !errors.Is(err, io.ErrClosedPipe) {
			c.refused("", "read "+r.e.img.Path()+": "+err.Error())
		}
		out = put32(out, errIO)
		out = endReply(putPostAttr(out, r.e, r.i), 0, 0)
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		return c.w.send(out, false)
	}
	out = endReply(r.header(out), 0, padded(r.n))
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.sendRead(r, out)
}

// warm brings the data into the page cache, and finds out whether all of it can be read: sendfile could only break off.
func (r read) warm() error {
	f := r.e.img.File()
	return r.each(func(place int64, n int) error {
		if place < 0 {
			return nil
		}
		var err error
		cerr := r.e.file.Control(func(fd uintptr) {
			// All at once, and as much again for the read that will come next; what lies past the file in the image
			// is another file's, which does no harm.
			unix.Fadvise(int(fd), place, 2*int64(n), unix.FADV_WILLNEED)
		})
		if cerr != nil {
			return cerr
		}
		var b [1]byte
		page := int64(unix.Getpagesize())
		for at := place; at < place+int64(n); at = (at + page) &^ (page - 1) {
			if _, err = f.ReadAt(b[:], at); err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF // the file became shorter
				}
				return err
			}
		}
		return nil
	})
}

// fileReader reads what is in the page cache and nothing else (preadv2 with RWF_NOWAIT). Where the file system cannot tell, it
// says that everything is.
type fileReader struct {
	iov     unix.Iovec
	off     int64
	flags   uintptr
	n       int
	errno   syscall.Errno
	onFile  func(fd uintptr)
	probe   [1]byte
	unknown bool
}

func (f *fileReader) init() { f.onFile = f.preadv }

func (f *fileReader) preadv(fd uintptr) {
	call := unix.RawSyscall6 // see wire
	if f.flags == 0 {
		call = unix.Syscall6 // it may wait
	}
	n, _, errno := call(unix.SYS_PREADV2, fd, uintptr(unsafe.Pointer(&f.iov)), 1, uintptr(f.off), 0, f.flags)
	f.n, f.errno = int(n), errno
}

// at reads all of p, which is not empty, at off.
func (f *fileReader) at(e *export, p []byte, off int64) bool {
	f.flags = unix.RWF_NOWAIT
	for {
		f.iov.Base, f.off = &p[0], off
		f.iov.SetLen(len(p))
		err := e.file.Control(f.onFile)
		f.iov.Base = nil
		switch {
		case err != nil:
			return false
		case f.errno == 0:
			return f.n == len(p)
		case f.errno == unix.EINTR:
		case f.errno == unix.EOPNOTSUPP && f.flags != 0, f.errno == unix.ENOSYS && f.flags != 0:
			f.unknown, f.flags = true, 0
		default:
			return false
		}
	}
}

// readNow reads the data of r into p if no disk has to be waited for.
func (f *fileReader) readNow(r read, p []byte) bool {
	for off := r.off; len(p) > 0; {
		place, k, ok := r.e.img.Extent(r.i, off)
		if !ok {
			return false
		}
		n := int(min(k, int64(len(p))))
		if place >= 0 && !f.at(r.e, p[:n], place) {
			return false
		}
		p, off = p[n:], off+int64(n)
	}
	return true
}

// cached guesses whether all of r is in the page cache.
func (f *fileReader) cached(r read) bool {
	for off, end := r.off, r.off+int64(r.n); off < end; {
		place, k, ok := r.e.img.Extent(r.i, off)
		if !ok {
			return false
		}
		k = min(k, end-off)
		for at := int64(0); place >= 0 && at < k; at += probeStep {
			if !f.at(r.e, f.probe[:], place+at) {
				return false
			}
		}
		if place >= 0 && !f.at(r.e, f.probe[:], place+k-1) {
			return false
		}
		off += k
	}
	return true
}
