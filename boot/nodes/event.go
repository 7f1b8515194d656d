package nodes

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"
)

// An Event is one record of the server, as far as it tells about a machine.
type Event struct {
	Time      time.Time
	Level     slog.Level
	Message   string // offer, ack, read, probe, aborted, refused, mount, stage, installed; others are nobody's boot
	Service   string
	Client    netip.Addr
	MAC       net.HardwareAddr
	Host      string
	Interface string
	File      string
	Bytes     int64
	Seconds   float64
	IPXE      bool
	Image     string
	Stage     string
	Up        float64 // seconds since the machine's kernel started
	Reason    string
	Asker     string // who asked in the machine's place; "" is the machine
}

// What a client sends is kept only so far.
const (
	textMax   = 255
	reasonMax = 400
)

// set takes over one attribute of a record.
func (e *Event) set(a slog.Attr) {
	v := a.Value.Resolve()
	switch a.Key {
	case "service":
		e.Service = clip(v.String(), textMax)
	case "client":
		if addr, err := netip.ParseAddr(v.String()); err == nil && !addr.IsUnspecified() {
			e.Client = addr.Unmap()
		}
	case "mac":
		if mac, err := net.ParseMAC(v.String()); err == nil {
			e.MAC = mac
		}
	case "host":
		e.Host = clip(v.String(), textMax)
	case "interface":
		e.Interface = clip(v.String(), textMax)
	case "file":
		e.File = clip(v.String(), textMax)
	case "bytes":
		e.Bytes = int64(number(v))
	case "seconds":
		e.Seconds = number(v)
	case "ipxe":
		e.IPXE = v.Kind() == slog.KindBool && v.Bool()
	case "image":
		e.Image = clip(v.String(), textMax)
	case "stage":
		e.Stage = clip(v.String(), textMax)
	case "up":
		e.Up = number(v)
	case "asker":
		e.Asker = clip(v.String(), textMax)
	case "reason":
		e.Reason = clip(v.String(), reasonMax)
	}
}

func number(v slog.Value) float64 {
	switch v.Kind() {
	case slog.KindInt64:
		return float64(v.Int64())
	case slog.KindUint64:
		return float64(v.Uint64())
	case slog.KindFloat64:
		return v.Float64()
	case slog.KindDuration:
		return v.Duration().Seconds()
	}
	return 0
}

func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// Handler passes records on to next and shows them to the tracker on the way: the services do not know that they are
// watched. The tracker also sees records of a level that next does not want, because probes and files that are not there
// tell how a boot goes on.
func (t *Tracker) Handler(next slog.Handler) slog.Handler { return &tap{tracker: t, next: next} }

type tap struct {
	tracker *Tracker
	next    slog.Handler
	with    Event // of the attributes given with With
}

func (h *tap) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelDebug || h.next.Enabled(ctx, level)
}

func (h *tap) Handle(ctx context.Context, r slog.Record) error {
	if told(r.Message) {
		e := h.with
		e.Time, e.Level, e.Message = r.Time, r.Level, r.Message
		r.Attrs(func(a slog.Attr) bool {
			e.set(a)
			return true
		})
		h.tracker.Observe(e)
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

func (h *tap) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.next = h.next.WithAttrs(attrs)
	for _, a := range attrs {
		with.with.set(a)
	}
	return &with
}

// WithGroup leaves names as they are: no part of netroot groups its attributes.
func (h *tap) WithGroup(string) slog.Handler { return h }

// told says whether records of this kind are about a machine.
func told(message string) bool {
	switch message {
	case "offer", "ack", "read", "probe", "aborted", "refused", "mount", "unmount", "stage", "installed":
		return true
	}
	return false
}
