package nfs

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stallTimeout is how long a client may take nothing of what it was sent before it is disconnected.
const stallTimeout = 2 * time.Minute

// wire is a connection as a stream. One goroutine reads; whoever holds mu may send one or more whole replies.
//
// Its system calls never wait, but for the one in soon, and the Go scheduler is not told of them (RawSyscall). Each call that it is told of keeps its
// monitor awake, which then looks every 20 µs for calls that take long, as a sendfile of 1 MiB does, and gives their
// processor to another thread: measured on loopback that was a third of all processor time, and most context switches.
type wire struct {
	mu    sync.Mutex
	nc    net.Conn
	raw   syscall.RawConn // nil when nc is no socket
	armed bool            // a write deadline is set
	rooms *sync.Pool      // of *readBuffer

	// What the callbacks below work on; they are made once, so that sending and reading allocate nothing.
	out, in stream
	room    *readBuffer // found by read
	flags   int         // of send
	src     int
	off     int64
	left    int
	onRead  func(fd uintptr) bool
	onWrite func(fd uintptr) bool
	onFile  func(fd uintptr) bool
	onSrc   func(fd uintptr)
}

// stream is one direction.
type stream struct {
	buf []byte
	n   int
	err error
}

func (w *wire) init(nc net.Conn, rooms *sync.Pool) {
	w.nc, w.rooms = nc, rooms
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
	w.onRead, w.onWrite, w.onFile, w.onSrc = w.readSome, w.writeSome, w.sendSome, w.sendFrom
}

// send writes b. With more, data of the same record follows at once, and TCP shall not send a short segment now.
func (w *wire) send(b []byte, more bool) error {
	if len(b) == 0 {
		return nil
	}
	if w.raw == nil {
		w.nc.SetWriteDeadline(time.Now().Add(stallTimeout))
		_, err := w.nc.Write(b)
		return err
	}
	w.out, w.flags = stream{buf: b}, unix.MSG_NOSIGNAL
	if more {
		w.flags |= unix.MSG_MORE
	}
	err := w.raw.Write(w.onWrite)
	w.out.buf = nil
	return w.end(err)
}

// sendfile writes n bytes at off of the export's image, which were in the page cache a moment ago: should they have to be read
// from the disk again, a processor of the scheduler waits too.
func (w *wire) sendfile(e *export, off int64, n int) error {
	if w.raw == nil {
		buf := make([]byte, n)
		if _, err := e.img.File().ReadAt(buf, off); err != nil {
			return err
		}
		return w.send(buf, false)
	}
	w.off, w.left, w.out.err = off, n, nil
	return w.end(e.file.Control(w.onSrc))
}

func (w *wire) end(err error) error {
	if w.armed {
		w.armed = false
		w.nc.SetWriteDeadline(time.Time{})
	}
	return errors.Join(w.out.err, err)
}

func (w *wire) sendFrom(fd uintptr) {
	w.src = int(fd)
	if err := w.raw.Write(w.onFile); err != nil {
		w.out.err = err
	}
}

// block prepares for waiting until the socket takes more.
func (w *wire) block() bool {
	w.armed = true
	w.nc.SetWriteDeadline(time.Now().Add(stallTimeout))
	return false
}

// pollers are the threads that wait in soon.
var pollers atomic.Int32

// soon waits a moment, on the thread itself, until the client has taken what it was sent: the way through Go's scheduler costs a
// single client half of the speed. Only as many threads as there are processors wait so.
func soon(fd uintptr) bool {
	defer pollers.Add(-1)
	if int(pollers.Add(1)) > runtime.GOMAXPROCS(0) {
		return false
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1)
	return n > 0 && err == nil
}

func (w *wire) writeSome(fd uintptr) bool {
	for len(w.out.buf) > 0 {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&w.out.buf[0])), uintptr(len(w.out.buf)), uintptr(w.flags), 0, 0)
		switch errno {
		case 0:
			w.out.buf = w.out.buf[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return w.block()
		default:
			w.out.err = errno
			return true
		}
	}
	return true
}

func (w *wire) sendSome(fd uintptr) bool {
	for w.left > 0 {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDFILE, fd, uintptr(w.src), uintptr(unsafe.Pointer(&w.off)), uintptr(w.left), 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			if soon(fd) {
				continue
			}
			return w.block()
		case errno != 0:
			w.out.err = &fileError{errno}
			return true
		case n == 0:
			w.out.err = &fileError{io.ErrUnexpectedEOF}
			return true
		default:
			w.left -= int(n)
		}
	}
	return true
}

// fileError may be the image's fault as well as the connection's: sendfile does not tell.
type fileError struct{ err error }

func (e *fileError) Error() string { return "sendfile: " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// read is as of source.
func (w *wire) read(p []byte) (int, *readBuffer, error) {
	if w.raw == nil {
		var room *readBuffer
		if p == nil {
			room = w.findRoom()
			p = room[:]
		}
		n, err := w.nc.Read(p)
		return n, room, err
	}
	w.in, w.room = stream{buf: p}, nil
	err := w.raw.Read(w.onRead)
	w.in.buf = nil
	if err == nil {
		err = w.in.err
	}
	if err == nil && w.in.n == 0 {
		err = io.EOF
	}
	return w.in.n, w.room, err
}

func (w *wire) findRoom() *readBuffer {
	if room, ok := w.rooms.Get().(*readBuffer); ok {
		return room
	}
	return new(readBuffer)
}

func (w *wire) readSome(fd uintptr) bool {
	p := w.in.buf
	if p == nil {
		w.room = w.findRoom()
		p = w.room[:]
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, 0, 0)
		switch errno {
		case 0:
			w.in.n = int(n)
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			if w.room != nil {
				w.rooms.Put(w.room)
				w.room = nil
			}
			return false
		default:
			w.in.err = errno
			return true
		}
	}
}
