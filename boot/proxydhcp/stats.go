package proxydhcp

import "sync/atomic"

// Stats counts what a Server did since it started.
type Stats struct {
	Discovers, Requests, Informs, Others uint64 // DHCP packets that came in, by message type, whoever they were for
	Malformed                            uint64 // packets that were no request of a DHCP client
	Offers, Acks                         uint64 // answers
	Refused                              uint64 // requests to boot that were not answered, for a reason that is an event
	BytesIn, BytesOut                    uint64 // of all packets and of the answers, without headers of UDP and IP
}

// counters are Stats while they change.
type counters struct {
	discovers, requests, informs, others, malformed, offers, acks, refused, bytesIn, bytesOut atomic.Uint64
}

// Stats returns the counts of this moment.
func (s *Server) Stats() Stats {
	c := &s.counters
	return Stats{
		Discovers: c.discovers.Load(), Requests: c.requests.Load(), Informs: c.informs.Load(), Others: c.others.Load(),
		Malformed: c.malformed.Load(), Offers: c.offers.Load(), Acks: c.acks.Load(), Refused: c.refused.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
	}
}

// received counts a packet that was read.
func (c *counters) received(kind byte) {
	switch kind {
	case messageDiscover:
		c.discovers.Add(1)
	case messageRequest:
		c.requests.Add(1)
	case messageInform:
		c.informs.Add(1)
	default:
		c.others.Add(1)
	}
}
