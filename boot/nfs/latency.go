package nfs

import (
	"sync/atomic"
	"time"
)

// sampleEvery is which calls of a procedure are timed: looking at the clock twice costs as much as answering a GETATTR does.
const sampleEvery = 16

// LatencySeconds are the upper bounds of the buckets of a Latency.
var LatencySeconds = [...]float64{10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 1e-3, 5e-3, 25e-3, 100e-3, 1}

// A Latency tells how long calls of one procedure took from the call until its reply was ready to be sent, or was sent; waiting
// for the disk included, waiting for the network not. Only the first and then every sixteenth call is timed.
type Latency struct {
	Count   uint64
	Seconds float64                     // sum
	Buckets [len(LatencySeconds)]uint64 // those of at most LatencySeconds[i]
}

// latency is a Latency while it changes. Its buckets do not include the lower ones.
type latency struct {
	nanoseconds, above atomic.Uint64
	buckets            [len(LatencySeconds)]atomic.Uint64
}

func (l *latency) observe(d time.Duration) {
	l.nanoseconds.Add(uint64(max(0, d)))
	for i, bound := range LatencySeconds {
		if d.Seconds() <= bound {
			l.buckets[i].Add(1)
			return
		}
	}
	l.above.Add(1)
}

func (l *latency) load() Latency {
	v := Latency{Seconds: time.Duration(l.nanoseconds.Load()).Seconds()}
	for i := range l.buckets {
		v.Count += l.buckets[i].Load()
		v.Buckets[i] = v.Count
	}
	v.Count += l.above.Load()
	return v
}

// watch is the time of one call that is timed; its zero value is one that is not.
type watch struct {
	of    *latency
	since time.Time
}

func (w watch) stop() {
	if w.of != nil {
		w.of.observe(time.Since(w.since))
	}
}
