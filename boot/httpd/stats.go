package httpd

import "sync/atomic"

// Stats counts what a Handler did with requests for files since it was made.
type Stats struct {
	Requests uint64 // GET and HEAD of files
	Refused  uint64 // of these, the ones answered with an error
	Aborted  uint64 // files not sent to the end
	Active   int    // files being sent now
	Bytes    uint64 // of files sent, counted when each ends
}

// counters are Stats while they change.
type counters struct {
	requests, refused, aborted, bytes atomic.Uint64
	active                            atomic.Int64
}

// Stats returns the counts of this moment.
func (h *Handler) Stats() Stats {
	c := &h.stats
	return Stats{Requests: c.requests.Load(), Refused: c.refused.Load(), Aborted: c.aborted.Load(), Active: int(c.active.Load()), Bytes: c.bytes.Load()}
}

// sent counts a file that was sent, as far as it was.
func (c *counters) sent(w *counter) {
	if w.status >= 400 {
		c.refused.Add(1)
		return
	}
	c.bytes.Add(uint64(w.n))
	if w.err != nil {
		c.aborted.Add(1)
	}
}
