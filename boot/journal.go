package boot

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
)

// A journal completes the records of the services before they are written: one that names a client gets the attributes mac
// and host, as far as they are known, and asker when it is this machine: somebody who looks at the server here is no machine that boots.
type journal struct {
	next slog.Handler
	name func(client netip.Addr) (mac net.HardwareAddr, host string, self bool)
	with record // of the attributes given with With
}

// record is what matters here of a record.
type record struct{ message, client, mac, host, service, reason string }

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

// of completes what is known by With.
func (r record) of(one slog.Record) record {
	r.message = one.Message
	one.Attrs(func(a slog.Attr) bool {
		r.take(a)
		return true
	})
	return r
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
	about := j.with.of(r)
	if client, err := netip.ParseAddr(about.client); err == nil && about.mac == "" {
		mac, host, self := j.name(client)
		if self {
			r.AddAttrs(slog.String("asker", "this machine"))
		}
		if mac.String() != "" {
			r.AddAttrs(slog.String("mac", mac.String()))
		}
		if host != "" && about.host == "" {
			r.AddAttrs(slog.String("host", host))
		}
	}
	return j.next.Handle(ctx, r)
}
