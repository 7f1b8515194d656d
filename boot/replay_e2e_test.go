//go:build e2e

package boot_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"netroot/boot/vm"
)

// A replay answers the calls of an NFS client with the answers that a server gave to the same calls before, and does nothing else: what a
// client takes with it is the way's and the client's own, and nobody's to save. It waits for the client by netpoll, as netroot does: a
// goroutine that waits in the system call itself costs the Go scheduler more.
type replay struct {
	listener net.Listener
	answers  [][]byte // records with their marks, in the order of the calls
	next     int
}

// newReplay listens at a port of the lab's server and has the client make its calls once, through to the server at the port behind.
func (c *contest) newReplay(b *testing.B, port, behind int, client func()) *replay {
	b.Helper()
	r := &replay{}
	check(b, c.lab.Do(vm.NSServer, func() (err error) {
		r.listener, err = net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	}))
	b.Cleanup(func() { r.listener.Close() })
	done := make(chan bool)
	go func() {
		client()
		close(done)
	}()
	accepted := make(chan net.Conn)
	go func() {
		for {
			nc, err := r.listener.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- nc
		}
	}()
	for recorded := false; !recorded; {
		select {
		case nc := <-accepted:
			r.record(nc, c.dial(b, behind))
		case <-done:
			recorded = true
		}
	}
	go func() {
		for nc := range accepted { // one after the other, as they were recorded
			r.replay(nc)
		}
	}()
	return r
}

// record carries calls and answers between client and server until the client ends.
func (r *replay) record(client, server net.Conn) {
	defer client.Close()
	defer server.Close()
	for {
		call, err := readRecord(client)
		if err != nil {
			return
		}
		if _, err := server.Write(call); err != nil {
			return
		}
		answer, err := readRecord(server)
		if err != nil {
			return
		}
		r.answers = append(r.answers, answer)
		if _, err := client.Write(answer); err != nil {
			return
		}
	}
}

// readRecord reads a record of one fragment, with its mark.
func readRecord(nc net.Conn) ([]byte, error) {
	b := make([]byte, 4)
	if _, err := io.ReadFull(nc, b); err != nil {
		return nil, err
	}
	b = append(b, make([]byte, binary.BigEndian.Uint32(b)&^(1<<31))...)
	_, err := io.ReadFull(nc, b[4:])
	return b, err
}

// replay answers every call with the next answer, under the call's xid (RFC 5531 section 9), until the client ends.
func (r *replay) replay(nc net.Conn) {
	defer nc.Close()
	raw, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 64<<10)
	have := 0
	raw.Read(func(fd uintptr) bool {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&buf[have])), uintptr(len(buf)-have), 0, 0, 0)
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 || n == 0 {
			return true
		}
		if have += int(n); have < 8 || have < 4+int(binary.BigEndian.Uint32(buf)&^(1<<31)) {
			return false
		}
		answer := r.answers[r.next]
		r.next, have = (r.next+1)%len(r.answers), 0
		copy(answer[4:8], buf[4:8])
		_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&answer[0])), uintptr(len(answer)), unix.MSG_NOSIGNAL, 0, 0)
		return errno != 0
	})
}

// cpu is what this process used: beside a replay it only waits for the client.
func (r *replay) cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	check(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
