package neighbor

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	// patience is how long a machine is given to say its MAC. It has usually told it before its first packet, because it asked
	// for ours then; the kernel asks again after a second.
	patience = 1500 * time.Millisecond
	// A machine that did not answer is not asked again for this long, and no more than questionsMax are asked at a time:
	// forged addresses must not keep anybody busy, nor fill the kernel's table (gc_thresh3 in arp(7), 1024 entries).
	quiet        = time.Second
	questionsMax = 256

	discard = 9 // RFC 863: the packet is only there to be addressed
)

// A Peer is what is known of the other end.
type Peer struct {
	Self   bool             // this machine itself
	Near   bool             // on a network of this machine; else behind a router, and nobody can tell its MAC
	Link   Link             // where answers to it go; when it is behind a router, where it came in as far as local tells
	MAC    net.HardwareAddr // nil when it is not known
	Busy   bool             // and the network was not asked for it, because there were too many questions
	Client netip.Addr
}

// Known says at once who has the address client, which asked the address local of this machine (or an invalid one, when that
// is not known).
func (t *Table) Known(client, local netip.Addr) Peer {
	p, _ := t.known(client, local)
	return p
}

// Locate is Known, but asks the network for the MAC of a machine that the kernel has forgotten, and waits a little for the
// answer.
func (t *Table) Locate(ctx context.Context, client, local netip.Addr) Peer {
	p, links := t.known(client, local)
	if p.MAC != nil || len(links) == 0 {
		return p
	}
	var wg sync.WaitGroup
	var busy atomic.Bool
	for _, l := range links {
		wg.Go(func() {
			if !t.ask(ctx, key{l.Index, p.Client}) {
				busy.Store(true)
			}
		})
	}
	wg.Wait()
	if busy.Load() {
		t.lookAgain() // that much is done for whoever asks
	}
	p, _ = t.known(client, local)
	p.Busy = p.MAC == nil && busy.Load()
	return p
}

func (t *Table) known(client, local netip.Addr) (Peer, []Link) {
	client, local = client.Unmap(), local.Unmap()
	v := t.view.Load()
	p := Peer{Client: client}
	if v.own(client) {
		p.Self = true
		return p, nil
	}
	links := v.near(client, local)
	if len(links) == 0 {
		if i, ok := v.owner[local]; ok {
			p.Link = v.links[i]
		}
		return p, nil
	}
	p.Near, p.Link = true, links[0]
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, l := range links {
		if mac, ok := t.macs[key{l.Index, client}]; ok {
			p.Link, p.MAC = l, net.HardwareAddr(mac)
			break
		}
	}
	return p, links
}

// A question is a MAC that somebody waits for.
type question struct {
	done chan struct{}
	once sync.Once
}

func (q *question) answer() { q.once.Do(func() { close(q.done) }) }

// ask returns when the table has the MAC, or when it is clear that it will not. Those who ask the same wait together. It is false when
// there are too many questions.
func (t *Table) ask(ctx context.Context, k key) bool {
	t.mu.Lock()
	_, known := t.macs[k] // since it was missed
	q := t.open[k]
	if known {
		q = nil
	} else if q == nil && len(t.open) < questionsMax {
		q = &question{done: make(chan struct{})}
		t.open[k] = q
		go t.pursue(k, q)
	}
	t.mu.Unlock()
	if q == nil {
		return known
	}
	select {
	case <-q.done:
	case <-ctx.Done():
	}
	return true
}

// pursue gets an answer to a question, and keeps the question for a while when there is none.
func (t *Table) pursue(k key, q *question) {
	t.lookAgain()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-q.done:
	default:
		_, _ = t.poke.WriteTo(nil, &ipv4.ControlMessage{IfIndex: k.index}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(k.addr, discard)))
	}
	select {
	case <-q.done:
	case <-timeout.C:
		q.answer()
		time.Sleep(quiet)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, k)
}

// lookAgain reads the kernel's tables for those who miss something, but not for each of them.
func (t *Table) lookAgain() {
	now := time.Now().UnixNano()
	last := t.looked.Load()
	if now-last > int64(100*time.Millisecond) && t.looked.CompareAndSwap(last, now) {
		_ = t.reread()
	}
}
