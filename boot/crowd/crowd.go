// Package crowd keeps the connections of a listener few enough for all clients to have some: a machine that opens thousands and says
// nothing takes none of another's.
package crowd

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// The most connections, in all and of one client. A machine that boots has three or four.
const (
	Max       = 4096
	PerClient = 256
)

// A Crowd is the open connections of one listener. The zero value is empty.
type Crowd struct {
	mu      sync.Mutex
	closed  bool
	conns   map[net.Conn]netip.Addr
	clients map[netip.Addr]int
}

// Add takes a connection in, or says why not; then it is the caller's to close.
func (c *Crowd) Add(nc net.Conn, client netip.Addr) (reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return "the server is stopping"
	case len(c.conns) >= Max:
		return fmt.Sprintf("there are %d connections already", Max)
	case c.clients[client] >= PerClient:
		return fmt.Sprintf("this client has %d connections already", PerClient)
	}
	if c.conns == nil {
		c.conns, c.clients = map[net.Conn]netip.Addr{}, map[netip.Addr]int{}
	}
	c.conns[nc] = client
	c.clients[client]++
	return ""
}

// Remove forgets a connection that was taken in, once.
func (c *Crowd) Remove(nc net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	client, in := c.conns[nc]
	if !in {
		return
	}
	delete(c.conns, nc)
	if c.clients[client]--; c.clients[client] <= 0 {
		delete(c.clients, client)
	}
}

// Close closes all connections, and takes no more in.
func (c *Crowd) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for nc := range c.conns {
		nc.Close()
	}
}
