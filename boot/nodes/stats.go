package nodes

import "slices"

// BootSeconds are the upper bounds of the buckets of Stats.Durations.
var BootSeconds = []float64{10, 15, 20, 30, 40, 50, 60, 90, 120, 180, 300, 600}

// Stats are figures about all machines. Counters start with the tracker.
type Stats struct {
	Machines map[string]int    // by the stage they are in; "stalled" those of which the next did not come
	Begun    uint64            // boots
	Reached  map[string]uint64 // boots that reached a stage
	Stalled  map[string]uint64 // boots that stopped after a stage
	Duration Histogram         // seconds from the first sign of a boot until the machine was up
}

// A Histogram counts values. Buckets[i] are those of at most BootSeconds[i].
type Histogram struct {
	Count   uint64
	Sum     float64
	Buckets []uint64
}

func (h *Histogram) add(v float64) {
	if h.Buckets == nil {
		h.Buckets = make([]uint64, len(BootSeconds))
	}
	h.Count++
	h.Sum += v
	for i, bound := range BootSeconds {
		if v <= bound {
			h.Buckets[i]++
		}
	}
}

// account counts what an event did, and returns the boot that it ended early.
func (t *Tracker) account(n *node, d did) *stall {
	s := &t.stats
	if s.Reached == nil {
		s.Reached, s.Stalled = map[string]uint64{}, map[string]uint64{}
	}
	if d.began {
		s.Begun++
	}
	for _, stage := range d.reached {
		s.Reached[stage]++
		if stage == stageUp {
			s.Duration.add(n.Since.Sub(n.Began).Seconds())
		}
	}
	if d.abandoned != nil {
		s.Stalled[d.abandoned.stage]++
	}
	return d.abandoned
}

// Stats returns the figures.
func (t *Tracker) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Stats{Machines: map[string]int{}, Begun: t.stats.Begun, Reached: map[string]uint64{}, Stalled: map[string]uint64{}, Duration: t.stats.Duration}
	s.Duration.Buckets = slices.Clone(s.Duration.Buckets)
	if s.Duration.Buckets == nil {
		s.Duration.Buckets = make([]uint64, len(BootSeconds))
	}
	for _, stage := range Stages {
		s.Reached[stage] = t.stats.Reached[stage]
		if indexOf(stage) < indexOf(stageUp) {
			s.Stalled[stage] = t.stats.Stalled[stage]
		}
	}
	for n := range t.all() {
		if n.Stalled {
			s.Machines["stalled"]++
		} else {
			s.Machines[n.Stage]++
		}
	}
	return s
}
