package boot

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// What a machine does in a loop is told so often in this time, and of the rest only how many they were.
	calmFor = time.Minute
	// A whole boot is two dozen records. The second hundred of one kind in a minute is a loop, or an installation that loads packages.
	linesMax = 100
	// Forged addresses make as many machines as there are packets: of more topics than these in that time only the number is told.
	topicsMax = 4096
	// Reasons name files, and who asks for ever others must not use up the topics: behind so many all of a client's are one.
	reasonsMax = 16
	// Counts are due to be told within this time after their minute.
	calmTick = 10 * time.Second
)

// A kind of records is one that is kept from filling the log.
type kind struct {
	// topic is what counts as the same; ok is false for records that are no such kind. Those of topics that are fixed, which means
	// that only so many can ever be, are told apart whatever else there is.
	topic func(about record, level slog.Level) (topic record, fixed, ok bool)
	most  int    // of a topic in a minute
	many  string // message of the record that tells how many others there were
	why   string // its reason
}

var (
	// A machine that is refused tries again and again.
	refusedKind = kind{
		topic: func(about record, level slog.Level) (record, bool, bool) {
			about.host = ""
			if about.mac != "" {
				about.client = ""
			}
			return about, false, about.message == "refused" && level > slog.LevelInfo
		},
		most: 1, many: "refused", why: "more clients are refused than are told apart",
	}
	// Neither does one that is let in fill the log, with files that are not there or by mounting in a loop.
	lineKind = kind{
		topic: func(about record, _ slog.Level) (record, bool, bool) {
			about.reason = ""
			switch {
			case about.host != "": // one that asks by its UUID may do so by any MAC
				return record{message: about.message, service: about.service, host: about.host}, true, true
			case about.mac != "":
				about.client = ""
			case about.client == "":
				return about, false, false
			}
			return about, false, true
		},
		most: linesMax, many: "left out", why: "more machines do something than are told apart",
	}
)

// A calm passes records on as they come, but of a kind only so many a minute. The record after those that were left out has their
// number, as the attribute repeated; when none comes, the last of them is written late.
type calm struct {
	next  slog.Handler
	book  *book
	with  record
	attrs []slog.Attr // given with With
}

// newCalm keeps records of a kind from next. What is told late goes to out.
func newCalm(next, out slog.Handler, k kind) *calm {
	return &calm{next: next, book: &book{kind: k, out: out, topics: map[record]*topic{}, reasons: map[record]int{}}}
}

func (c *calm) Enabled(ctx context.Context, level slog.Level) bool { return c.next.Enabled(ctx, level) }

func (c *calm) WithAttrs(attrs []slog.Attr) slog.Handler {
	other := *c
	for _, a := range attrs {
		other.with.take(a)
	}
	other.attrs = slices.Concat(c.attrs, attrs)
	other.next = c.next.WithAttrs(attrs)
	return &other
}

func (c *calm) WithGroup(name string) slog.Handler {
	other := *c
	other.next = c.next.WithGroup(name)
	return &other
}

func (c *calm) Handle(ctx context.Context, r slog.Record) error {
	about, fixed, ok := c.book.kind.topic(c.with.of(r), r.Level)
	if !ok {
		return c.next.Handle(ctx, r)
	}
	left, say, others := c.book.say(about, fixed, r, c.attrs)
	if others > 0 {
		if err := c.book.out.Handle(ctx, c.book.othersRecord(r.Time, others)); err != nil {
			return err
		}
	}
	if !say {
		return nil
	}
	if left > 0 {
		r.AddAttrs(slog.Int("repeated", left))
	}
	return c.next.Handle(ctx, r)
}

// Run tells late what was left out, until ctx ends.
func (c *calm) Run(ctx context.Context) {
	tick := time.NewTicker(calmTick)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			c.book.tell(now, false)
		case <-ctx.Done():
			c.book.tell(time.Now(), true)
			return
		}
	}
}

// book remembers what was written.
type book struct {
	kind kind
	out  slog.Handler

	mu      sync.Mutex
	topics  map[record]*topic
	reasons map[record]int // topics that differ only by their reason
	swept   time.Time
	others  int       // that are not in topics, since
	told    time.Time // of them
}

// topic is what was written of one in the minute that began with since.
type topic struct {
	since   time.Time
	written int
	left    int         // not written
	last    slog.Record // of these
	attrs   []slog.Attr // of last, by With
}

// say tells whether a record is to be written, and how many of its topic were not; and how many others there were, when that is to be written.
func (b *book) say(about record, fixed bool, r slog.Record, attrs []slog.Attr) (left int, say bool, others int) {
	now := r.Time
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.topics[about]
	if known == nil && len(b.topics) >= topicsMax && now.Sub(b.swept) >= time.Second {
		b.swept = now
		for about, t := range b.topics {
			if now.Sub(t.since) >= calmFor && t.left == 0 {
				b.forget(about)
			}
		}
	}
	if known == nil && about.reason != "" && b.reasons[about.anyReason()] >= reasonsMax {
		about = about.anyReason()
		known = b.topics[about]
	}
	switch {
	case known != nil && now.Sub(known.since) < calmFor && known.written >= b.kind.most:
		known.left++
		known.last, known.attrs = r, attrs
	case known != nil && now.Sub(known.since) < calmFor:
		known.written++
		say = true
	case known != nil:
		left, say = known.left, true
		*known = topic{since: now, written: 1}
	case len(b.topics) >= topicsMax && !fixed:
		b.others++
	default:
		b.topics[about] = &topic{since: now, written: 1}
		if about.reason != "" {
			b.reasons[about.anyReason()]++
		}
		say = true
	}
	return left, say, b.dueOthers(now)
}

func (r record) anyReason() record {
	r.reason = ""
	return r
}

func (b *book) forget(about record) {
	delete(b.topics, about)
	if all := about.anyReason(); about.reason != "" {
		if b.reasons[all]--; b.reasons[all] == 0 {
			delete(b.reasons, all)
		}
	}
}

func (b *book) dueOthers(now time.Time) (others int) {
	if b.others > 0 && now.Sub(b.told) >= calmFor {
		others, b.others, b.told = b.others, 0, now
	}
	return others
}

// tell writes the last of each topic whose minute is over, with the number of those before it, and forgets who was quiet. At the end all is due.
func (b *book) tell(now time.Time, end bool) {
	var records []slog.Record
	b.mu.Lock()
	for about, t := range b.topics {
		switch {
		case now.Sub(t.since) < calmFor && !end:
		case t.left == 0:
			b.forget(about)
		default:
			r := slog.NewRecord(t.last.Time, t.last.Level, t.last.Message, 0)
			r.AddAttrs(t.attrs...)
			t.last.Attrs(func(a slog.Attr) bool {
				r.AddAttrs(a)
				return true
			})
			if t.left > 1 {
				r.AddAttrs(slog.Int("repeated", t.left-1))
			}
			records = append(records, r)
			*t = topic{since: now, written: 1}
		}
	}
	if end {
		b.told = time.Time{}
	}
	others := b.dueOthers(now)
	b.mu.Unlock()
	slices.SortFunc(records, func(x, y slog.Record) int { return x.Time.Compare(y.Time) })
	if others > 0 {
		records = append(records, b.othersRecord(now, others))
	}
	for _, r := range records {
		if b.out.Enabled(context.Background(), r.Level) {
			_ = b.out.Handle(context.Background(), r) // as slog.Logger does: a log that cannot be written stops nobody
		}
	}
}

func (b *book) othersRecord(now time.Time, others int) slog.Record {
	r := slog.NewRecord(now, slog.LevelWarn, b.kind.many, 0)
	r.AddAttrs(slog.String("service", "journal"), slog.String("reason", b.kind.why), slog.Int("repeated", others))
	return r
}
