package proxydhcp

import (
	"log/slog"
	"sync"
	"time"
)

// A machine that is refused asks again and again, and anybody can send a million packets: the same refusal of the same
// machine is written once, and then once in a while with the number of those in between. So is what does not fit when more
// machines are refused than are kept apart, as when each packet bears another address.
const (
	refusalPause = 10 * time.Second
	refusalsKept = 4096
)

// A refusal is a machine and why it was not answered.
type refusal struct{ mac, iface, reason, asker string }

// refusals are those of the last while.
type refusals struct {
	mu     sync.Mutex
	recent map[refusal]*repeats
	excess int // refusals of machines that are not in recent
}

type repeats struct {
	said   time.Time
	count  int // since then
	record slog.Record
}

// note says whether the refusal is to be written now.
func (r *refusals) note(now time.Time, k refusal, record slog.Record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, ok := r.recent[k]
	switch {
	case ok:
		seen.count++
		return false
	case len(r.recent) >= refusalsKept:
		r.excess++
		return false
	case r.recent == nil:
		r.recent = map[refusal]*repeats{}
	}
	r.recent[k] = &repeats{said: now, record: record}
	return true
}

// due returns the records to write for what was held back until now, and forgets who was quiet. At the end all is due.
func (r *refusals) due(now time.Time, end bool) []slog.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var records []slog.Record
	for k, seen := range r.recent {
		switch {
		case now.Sub(seen.said) < refusalPause && !end:
			continue
		case seen.count == 0:
			delete(r.recent, k)
			continue
		}
		record := seen.record.Clone()
		record.Time = now
		record.Add("repeated", seen.count)
		records = append(records, record)
		seen.said, seen.count = now, 0
	}
	if r.excess > 0 {
		record := slog.NewRecord(now, slog.LevelInfo, "refused", 0)
		record.Add("service", "dhcp", "reason", "more machines than are told apart", "repeated", r.excess)
		records = append(records, record)
		r.excess = 0
	}
	return records
}
