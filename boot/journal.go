package boot

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// A machine that is refused tries again and again: the same is said of it once in this time.
	refusalEvery = time.Minute
	// Forged addresses make as many machines as there are packets: of more than these in that time only the number is told.
	refusalsMax = 4096
	manyRefused = "more clients are refused than are told apart"
)

// A journal completes the records of the services before they are written: one that names a client gets the attributes mac
// and host, as far as they are known. The same refusal of the same machine is passed on once a minute, and the next time with
// the number of those that were left out, as the attribute repeated; and so are those of more machines than can be told apart.
type journal struct {
	next slog.Handler
	name func(client netip.Addr) (mac net.HardwareAddr, host string)
	said *refusals
	with record // of the attributes given with With
}

// record is what matters here of a record's attributes.
type record struct{ client, mac, host, service, reason string }

func (r *record) take(a slog.Attr) {
	switch a.Key {
	case "client":
		r.client = a.Value.String()
	case "mac":
		r.mac = a.Value.String()
	case "host":
		r.host = a.Value.String()
	case "service":
		r.service = a.Value.String()
	case "reason":
		r.reason = a.Value.String()
	}
}

func newJournal(next slog.Handler, name func(netip.Addr) (net.HardwareAddr, string)) *journal {
	return &journal{next: next, name: name, said: &refusals{next: next, m: map[record]*refused{}}}
}

func (j *journal) Enabled(ctx context.Context, level slog.Level) bool {
	return j.next.Enabled(ctx, level)
}

func (j *journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	other := *j
	for _, a := range attrs {
		other.with.take(a)
	}
	other.next = j.next.WithAttrs(attrs)
	return &other
}

func (j *journal) WithGroup(name string) slog.Handler {
	other := *j
	other.next = j.next.WithGroup(name)
	return &other
}

func (j *journal) Handle(ctx context.Context, r slog.Record) error {
	about := j.with
	r.Attrs(func(a slog.Attr) bool {
		about.take(a)
		return true
	})
	if client, err := netip.ParseAddr(about.client); err == nil && about.mac == "" {
		mac, host := j.name(client)
		if about.mac = mac.String(); about.mac != "" {
			r.AddAttrs(slog.String("mac", about.mac))
		}
		if host != "" && about.host == "" {
			r.AddAttrs(slog.String("host", host))
		}
	}
	if r.Message == "refused" && r.Level > slog.LevelInfo {
		left, say, others := j.said.say(about, r.Time)
		if others > 0 {
			many := slog.NewRecord(r.Time, slog.LevelWarn, "refused", 0)
			many.AddAttrs(slog.String("service", "journal"), slog.String("reason", manyRefused), slog.Int("repeated", others))
			if err := j.said.next.Handle(ctx, many); err != nil {
				return err
			}
		}
		if !say {
			return nil
		}
		if left > 0 {
			r.AddAttrs(slog.Int("repeated", left))
		}
	}
	return j.next.Handle(ctx, r)
}

// refusals remembers which ones were written.
type refusals struct {
	next slog.Handler // without the attributes of one service

	mu     sync.Mutex
	m      map[record]*refused
	swept  time.Time
	others int       // that are not in m, since
	told   time.Time // of them
}

type refused struct {
	at   time.Time
	left int // not written since
}

// say tells whether a refusal is to be written, and how many of its kind were not; and how many others there were, when that is to be written.
func (s *refusals) say(about record, now time.Time) (left int, say bool, others int) {
	about.host = ""
	if about.mac != "" {
		about.client = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.m[about]
	if known == nil && len(s.m) >= refusalsMax && now.Sub(s.swept) >= time.Second {
		s.swept = now
		maps.DeleteFunc(s.m, func(_ record, r *refused) bool { return now.Sub(r.at) >= refusalEvery })
	}
	switch {
	case known != nil && now.Sub(known.at) < refusalEvery:
		known.left++
	case known != nil:
		left, say = known.left, true
		known.at, known.left = now, 0
	case len(s.m) >= refusalsMax:
		s.others++
	default:
		s.m[about] = &refused{at: now}
		say = true
	}
	if s.others > 0 && now.Sub(s.told) >= refusalEvery {
		others, s.others, s.told = s.others, 0, now
	}
	return left, say, others
}
