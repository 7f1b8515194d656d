package nfs

import (
	"net/netip"
	"sync"
	"time"
)

const (
	refusalsTold    = 10 // of one client in a second
	refusalsClients = 4096
)

// quota keeps clients from filling the log with their refusals.
type quota struct {
	mu     sync.Mutex
	second int64
	told   map[netip.Addr]int
}

// take tells whether one more may be told of client.
func (q *quota) take(client netip.Addr, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if sec := now.Unix(); sec != q.second || q.told == nil {
		q.second, q.told = sec, make(map[netip.Addr]int)
	}
	if q.told[client] >= refusalsTold || len(q.told) >= refusalsClients && q.told[client] == 0 {
		return false
	}
	q.told[client]++
	return true
}
