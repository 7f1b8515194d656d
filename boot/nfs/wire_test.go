package nfs

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A client that breaks off with a reset while what it sent before was not read yet is gone at once, and not when the deadline says so: the
// kernel counts a reset neither among the bytes that are left nor as an end.
func TestResetBehindData(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	client, err := net.Dial("tcp4", l.Addr().String())
	must(t, err)
	nc, err := l.Accept()
	must(t, err)
	defer nc.Close()
	_, err = client.Write([]byte{0x80, 0, 0, 0x50, 1, 2, 3})
	must(t, err)
	client.(*net.TCPConn).SetLinger(0)
	must(t, client.Close())
	time.Sleep(50 * time.Millisecond) // until the kernel has both
	var w wire
	w.init(nc, new(sync.Pool))
	nc.SetReadDeadline(time.Now().Add(3 * time.Second))
	start, got := time.Now(), 0
	err = w.receive(func(p []byte) (on, sent bool) {
		got += len(p)
		return true, false
	})
	if took := time.Since(start); took > time.Second || got != 7 || err == nil {
		t.Errorf("%d bytes after %v, then %v", got, took, err)
	}
}
