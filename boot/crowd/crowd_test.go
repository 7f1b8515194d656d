package crowd

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func pipe(t *testing.T) net.Conn {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a
}

func TestCrowd(t *testing.T) {
	var c Crowd
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	first := pipe(t)
	if reason := c.Add(first, address(0)); reason != "" {
		t.Fatal(reason)
	}
	for range PerClient - 1 {
		if reason := c.Add(pipe(t), address(0)); reason != "" {
			t.Fatal(reason)
		}
	}
	late := pipe(t)
	if reason := c.Add(late, address(0)); !strings.Contains(reason, "this client has 256 connections") {
		t.Errorf("one client's last is told %q", reason)
	}
	c.Remove(late) // which was not taken in
	c.Remove(first)
	c.Remove(first)
	if reason := c.Add(first, address(0)); reason != "" {
		t.Errorf("after another one has ended: %q", reason)
	}
	if reason := c.Add(late, address(0)); reason == "" {
		t.Error("one that ended twice has made room for two")
	}
	for i := range Max - PerClient {
		if reason := c.Add(pipe(t), address(1+i/PerClient)); reason != "" {
			t.Fatal(reason)
		}
	}
	if reason := c.Add(late, address(999)); !strings.Contains(reason, "there are 4096 connections") {
		t.Errorf("another client is told %q", reason)
	}
	c.Close()
	if _, err := first.Write([]byte("x")); err == nil {
		t.Error("a connection is open after Close")
	}
	c.Remove(first)
	if reason := c.Add(late, address(999)); !strings.Contains(reason, "stopping") {
		t.Errorf("after Close: %q", reason)
	}
}
