package nfs

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stallTimeout is how long a client may take nothing of what it was sent before it is disconnected.
const stallTimeout = 2 * time.Minute

// wire is the sending side of a connection. Whoever holds mu may send one or more whole replies.
type wire struct {
	mu    sync.Mutex
	nc    net.Conn
	raw   syscall.RawConn // nil when nc is no socket
	armed bool            // a write deadline is set

	// What the callbacks below work on; they are made once, so that sending allocates nothing.
	buf     []byte
	flags   int
	src     int
	off     int64
	left    int
	err     error
	onWrite func(fd uintptr) bool
	onFile  func(fd uintptr) bool
	onSrc   func(fd uintptr)
}

func (w *wire) init(nc net.Conn) {
	w.nc = nc
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
	w.onWrite, w.onFile, w.onSrc = w.writeSome, w.sendSome, w.sendFrom
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
	w.buf, w.flags, w.err = b, unix.MSG_NOSIGNAL, nil
	if more {
		w.flags |= unix.MSG_MORE
	}
	err := w.raw.Write(w.onWrite)
	w.buf = nil
	return w.end(err)
}

// sendfile writes n bytes at off of the export's image.
func (w *wire) sendfile(e *export, off int64, n int) error {
	if w.raw == nil {
		buf := make([]byte, n)
		if _, err := e.img.File().ReadAt(buf, off); err != nil {
			return err
		}
		return w.send(buf, false)
	}
	w.off, w.left, w.err = off, n, nil
	return w.end(e.file.Control(w.onSrc))
}

func (w *wire) end(err error) error {
	if w.armed {
		w.armed = false
		w.nc.SetWriteDeadline(time.Time{})
	}
	return errors.Join(w.err, err)
}

func (w *wire) sendFrom(fd uintptr) {
	w.src = int(fd)
	if err := w.raw.Write(w.onFile); err != nil {
		w.err = err
	}
}

// block prepares for waiting until the socket takes more.
func (w *wire) block() bool {
	w.armed = true
	w.nc.SetWriteDeadline(time.Now().Add(stallTimeout))
	return false
}

func (w *wire) writeSome(fd uintptr) bool {
	for len(w.buf) > 0 {
		n, err := unix.SendmsgN(int(fd), w.buf, nil, nil, w.flags)
		switch err {
		case nil:
			w.buf = w.buf[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return w.block()
		default:
			w.err = err
			return true
		}
	}
	return true
}

func (w *wire) sendSome(fd uintptr) bool {
	for w.left > 0 {
		n, err := unix.Sendfile(int(fd), w.src, &w.off, w.left)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return w.block()
		case err != nil:
			w.err = &fileError{err}
			return true
		case n == 0:
			w.err = &fileError{io.ErrUnexpectedEOF}
			return true
		default:
			w.left -= n
		}
	}
	return true
}

// fileError may be the image's fault as well as the connection's: sendfile does not tell.
type fileError struct{ err error }

func (e *fileError) Error() string { return "sendfile: " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }
