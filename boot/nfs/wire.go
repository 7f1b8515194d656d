package nfs

import (
	"encoding/binary"
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
	out     []byte
	outErr  error
	flags   int // of send
	files   sendfile.Sender
	take    func(p []byte) (on, sent bool) // of receive
	inErr   error
	again   bool        // readSome is to be called at once
	msg     unix.Msghdr // of recv
	iov     unix.Iovec
	control [24]byte // room for one number as a control message: CMSG_SPACE(4)
	onRead  func(fd uintptr) bool
	onWrite func(fd uintptr) bool
}

// readBuffer is room for what a client sends, as long as that is being looked at.
type readBuffer [16 << 10]byte

func (w *wire) init(nc net.Conn, rooms *sync.Pool) {
	w.nc, w.rooms = nc, rooms
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			w.raw = raw
			raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_INQ, 1) })
		}
	}
	w.msg.Iov, w.msg.Control = &w.iov, &w.control[0]
	w.msg.SetIovlen(1)
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
	w.out, w.outErr, w.flags = b, nil, unix.MSG_NOSIGNAL
	if more {
		w.flags |= unix.MSG_MORE
	}
	err := w.raw.Write(w.onWrite)
	w.out = nil
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
	w.outErr = nil
	_, err := w.files.Send(e.file, off, int64(n), true)
	return w.end(err)
}

func (w *wire) end(err error) error {
	if w.armed {
		w.armed = false
		w.nc.SetWriteDeadline(time.Time{})
	}
	return errors.Join(w.outErr, err)
}

// putOff lets the client be silent for stallTimeout from now on.
func (w *wire) putOff() {
	w.armed = true
	w.nc.SetWriteDeadline(time.Now().Add(stallTimeout))
}

func (w *wire) writeSome(fd uintptr) bool {
	for len(w.out) > 0 {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&w.out[0])), uintptr(len(w.out)), uintptr(w.flags), 0, 0)
		switch errno {
		case 0:
			w.out = w.out[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			w.putOff()
			return false
		default:
			w.outErr = errno
			return true
		}
	}
	return true
}

// receive gives f what the client sends, piece by piece as it comes, until f says that it shall not go on or the connection ends; io.EOF
// means that the client ended it. A piece is good until f returns. f also says whether it has sent something.
//
// A client that asks, waits and asks again is waited for within one call of the descriptor's RawRead. A descriptor is watched for changes
// (epoll(7), EPOLLET), of which RawRead forgets, when it begins, those that it was told of before. Within one call none is lost, so that
// what the kernel said to be read to its end need not be read once more to see that nothing came. The kernel tells of an end that way, and
// not of a reset, which may have come before what it goes with was read; so this is for pieces to which an answer could be sent.
func (w *wire) receive(f func(p []byte) (on, sent bool)) error {
	if w.raw == nil {
		return w.receiveByRead(f)
	}
	w.take, w.inErr, w.again = f, nil, true
	var err error
	for w.again && err == nil { // anew, a connection that was closed meanwhile ends
		w.again = false
		err = w.raw.Read(w.onRead)
	}
	w.take = nil
	return errors.Join(w.inErr, err)
}

func (w *wire) receiveByRead(f func(p []byte) (on, sent bool)) error {
	room := w.findRoom()
	defer w.rooms.Put(room)
	for {
		n, err := w.nc.Read(room[:])
		if n > 0 {
			if on, _ := f(room[:n]); !on {
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
}

func (w *wire) findRoom() *readBuffer {
	if room, ok := w.rooms.Get().(*readBuffer); ok {
		return room
	}
	return new(readBuffer)
}

// readSome hands on what is there. It returns false to be called when there is more.
func (w *wire) readSome(fd uintptr) bool {
	room := w.findRoom()
	defer w.rooms.Put(room)
	n, more, errno := w.recv(fd, room[:])
	switch {
	case errno == unix.EAGAIN:
		return false
	case errno == unix.EINTR:
		w.again = true
	case errno != 0:
		w.inErr = errno
	case n == 0:
		w.inErr = io.EOF
	default:
		on, sent := w.take(room[:n])
		if on && sent && !more {
			return false
		}
		w.again = on
	}
	return true
}

// recv reads, and tells whether there may be more to read, the end included (tcp_inq_hint in net/ipv4/tcp.c).
func (w *wire) recv(fd uintptr, p []byte) (n int, more bool, errno syscall.Errno) {
	w.iov.Base = &p[0]
	w.iov.SetLen(len(p))
	w.msg.SetControllen(len(w.control))
	r, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&w.msg)), 0)
	w.iov.Base = nil
	if errno != 0 {
		return 0, false, errno
	}
	return int(r), w.inQueue() != 0, 0
}

// inQueue is how many bytes the last message said to be left: some, as far as is known, where the kernel cannot tell.
func (w *wire) inQueue() uint32 {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&w.control[0]))
	if int(w.msg.Controllen) < unix.CmsgLen(4) || h.Level != unix.SOL_TCP || h.Type != unix.TCP_CM_INQ {
		return 1
	}
	return binary.NativeEndian.Uint32(w.control[unix.CmsgLen(0):])
}
