// Package sendfile sends parts of files into TCP connections by sendfile(2), to one client that takes a gigabyte a second as
// well as to hundreds that take little.
//
// The standard library's way waits in Go's scheduler whenever the socket is full. A client that reads as fast as it is sent to fills
// and empties the socket's buffer thousands of times a second, and the way through the scheduler costs it up to half of the speed.
// A Sender waits up to a millisecond on the thread itself before it takes that way.
package sendfile

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// chunk is how much one system call may send, in bytes: a thread that sends more keeps others from its processor.
const chunk = 1 << 20

// patience is how long a thread waits for the client, in milliseconds.
const patience = 1

// A Sender sends into one connection, one part at a time. The zero value must be made ready by Init.
type Sender struct {
	// Wait is called before each longer wait for the client; nil is nothing. It is where a deadline is put off.
	Wait func()

	raw    syscall.RawConn
	src    int
	off    int64
	left   int64
	warm   int64 // up to here the file is in the page cache
	err    error
	full   int  // how often the socket was
	paced  bool // or needs no looking after
	probe  [1]byte
	onFile func(fd uintptr) bool // made once, so that sending allocates nothing
	onSrc  func(fd uintptr)
}

// Init makes the Sender ready to send into nc, and tells whether it can: whether nc is a socket.
func (s *Sender) Init(nc net.Conn) bool {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	s.raw, s.onFile, s.onSrc = raw, s.some, s.from
	return true
}

// Send sends n bytes at off of src, and returns how many were sent. An error of sendfile(2) is an *Error.
//
// The Go scheduler is not told of the system calls for data in the page cache. Each call that it is told of keeps its monitor awake,
// which then looks every 20 µs for calls that take long, as a sendfile of 1 MiB does, and gives their processor to another thread:
// measured on loopback that was a third of all processor time, and most context switches. With warm, the data was in the page cache
// a moment ago; otherwise that is found out. Should such data have to be read from the disk all the same, a processor of the scheduler
// waits too.
func (s *Sender) Send(src syscall.RawConn, off, n int64, warm bool) (int64, error) {
	defer active.Add(-1)
	active.Add(1)
	s.off, s.left, s.err, s.warm = off, n, nil, 0
	if warm {
		s.warm = off + n
	}
	err := src.Control(s.onSrc)
	if s.err != nil {
		err = s.err
	}
	return n - s.left, err
}

func (s *Sender) from(fd uintptr) {
	s.src = int(fd)
	if err := s.raw.Write(s.onFile); err != nil {
		s.err = err
	}
}

func (s *Sender) some(fd uintptr) bool {
	for s.left > 0 {
		n, errno := s.sendfile(fd)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			// Early, so that the first file of a boot gains by it, and then ever more rarely.
			if s.full++; !s.paced && (s.full&(s.full-1) == 0 || s.full%1024 == 0) {
				s.paced = pace(fd)
			}
			if soon(fd) {
				continue
			}
			if s.Wait != nil {
				s.Wait()
			}
			return false
		case errno != 0:
			s.err = &Error{errno}
			return true
		case n == 0:
			s.err = &Error{io.ErrUnexpectedEOF}
			return true
		default:
			s.left -= int64(n)
		}
	}
	return true
}

func (s *Sender) sendfile(fd uintptr) (n uintptr, errno syscall.Errno) {
	count, off := min(s.left, chunk), uintptr(unsafe.Pointer(&s.off))
	if s.off+count > s.warm && s.cached(s.off+count-1) {
		s.warm = s.off + count
	}
	if s.off+count <= s.warm {
		n, _, errno = unix.RawSyscall6(unix.SYS_SENDFILE, fd, uintptr(s.src), off, uintptr(count), 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_SENDFILE, fd, uintptr(s.src), off, uintptr(count), 0, 0)
	}
	return n, errno
}

// cached tells whether the byte at off can be read without waiting (preadv2 with RWF_NOWAIT). What was read before it, the kernel's
// read-ahead brought in with it.
func (s *Sender) cached(off int64) bool {
	iov := unix.Iovec{Base: &s.probe[0], Len: 1}
	n, _, errno := unix.RawSyscall6(unix.SYS_PREADV2, uintptr(s.src), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_NOWAIT)
	return n == 1 && errno == 0
}

// active are the Senders at work.
var active atomic.Int32

// soon waits a moment until the client has taken what it was sent. With more clients than processors there is something else to do.
func soon(fd uintptr) bool {
	if int(active.Load()) > runtime.GOMAXPROCS(0) {
		return false
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, patience)
	return n > 0 && err == nil
}

// An Error may be the file's fault as well as the connection's: sendfile(2) does not tell.
type Error struct{ Err error }

func (e *Error) Error() string { return "sendfile: " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }
