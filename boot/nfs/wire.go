package nfs

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"netroot/boot/sendfile"
)

// stallTimeout is how long a client may take nothing of what it was sent before it is disconnected.
const stallTimeout = 2 * time.Minute

// wire is a connection as a stream. One goroutine reads; whoever holds mu may send one or more whole replies.
//
// Its system calls never wait, and the Go scheduler is not told of them (RawSyscall), for the reason that package sendfile gives.
type wire struct {
	mu    sync.Mutex
	nc    net.Conn
	raw   syscall.RawConn // nil when nc is no socket
	armed bool            // a write deadline is set
	rooms *sync.Pool      // of *readBuffer

	// What the callbacks below work on; they are made once, so that sending and reading allocate nothing.
	out, in stream
	files   sendfile.Sender
	room    *readBuffer // found by read
	flags   int         // of send
	onRead  func(fd uintptr) bool
	onWrite func(fd uintptr) bool
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
	w.onRead, w.onWrite = w.readSome, w.writeSome
	w.files.Init(nc)
	w.files.Wait = w.putOff
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
	w.out.err = nil
	_, err := w.files.Send(e.file, off, int64(n), true)
	return w.end(err)
}

func (w *wire) end(err error) error {
	if w.armed {
		w.armed = false
		w.nc.SetWriteDeadline(time.Time{})
	}
	return errors.Join(w.out.err, err)
}

// putOff lets the client be silent for stallTimeout from now on.
func (w *wire) putOff() {
	w.armed = true
	w.nc.SetWriteDeadline(time.Now().Add(stallTimeout))
}

func (w *wire) writeSome(fd uintptr) bool {
	for len(w.out.buf) > 0 {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&w.out.buf[0])), uintptr(len(w.out.buf)), uintptr(w.flags), 0, 0)
		switch errno {
		case 0:
			w.out.buf = w.out.buf[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			w.putOff()
			return false
		default:
			w.out.err = errno
			return true
		}
	}
	return true
}

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
