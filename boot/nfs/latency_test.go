package nfs

import (
	"testing"
	"time"
)

func TestLatency(t *testing.T) {
	var l latency
	for _, d := range []time.Duration{-1, 0, 10 * time.Microsecond, 11 * time.Microsecond, time.Second, 2 * time.Second} {
		l.observe(d)
	}
	want := Latency{Count: 6, Seconds: 3.000021, Buckets: [...]uint64{3, 4, 4, 4, 4, 4, 4, 4, 4, 5}}
	if got := l.load(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	watch{}.stop() // a call that is not timed
}
