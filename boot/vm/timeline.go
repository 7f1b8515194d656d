package vm

import (
	"encoding/json"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Stage is a point of a boot.
type Stage struct {
	Name    string
	After   time.Duration // since power-on
	Reached bool
	Note    string // what is known beside the time
}

// MarshalJSON gives seconds, or null for a stage that was not reached.
func (s Stage) MarshalJSON() ([]byte, error) {
	var seconds *float64
	if s.Reached {
		v := math.Round(s.After.Seconds()*100) / 100
		seconds = &v
	}
	return json.Marshal(struct {
		Stage   string   `json:"stage"`
		Seconds *float64 `json:"seconds"`
		Note    string   `json:"note,omitempty"`
	}{s.Name, seconds, s.Note})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Stage) UnmarshalJSON(data []byte) error {
	var v struct {
		Stage   string   `json:"stage"`
		Seconds *float64 `json:"seconds"`
		Note    string   `json:"note"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	*s = Stage{Name: v.Stage, Note: v.Note, Reached: v.Seconds != nil}
	if v.Seconds != nil {
		s.After = time.Duration(*v.Seconds * float64(time.Second))
	}
	return nil
}

// Timeline is a boot, stage by stage, in the order of Stages.
type Timeline []Stage

// Stages are the points of a boot, in order: the first proxy-DHCP offer; the first file asked for; kernel and initrd
// sent; then those that the machine tells itself.
var Stages = []string{"offer", "tftp", "kernel", "initramfs", "network", "nfs-root", "init", "up"}

// stageLine is what the machine prints on its console at each stage.
var stageLine = regexp.MustCompile(`netroot: image=(\S+) generation=(\d+) stage=([a-z-]+)`)

// Assemble finds the stages of one boot, that of the machine with this MAC which began at powerOn, in what the console
// and the server said. Of several sources the earliest counts: the console can be garbled where several programs write at
// once, and the server hears of the first stages only once the root is mounted.
func Assemble(powerOn time.Time, mac string, console []Line, events []Event) Timeline {
	t := make(Timeline, len(Stages))
	for i, name := range Stages {
		t[i].Name = name
	}
	a := assembler{powerOn: powerOn, timeline: t}
	var loaded loadedFiles
	for _, e := range events {
		switch {
		case e.Message == "offer" && strings.EqualFold(e.MAC, mac):
			a.reach("offer", e.Time, joinWords("on", e.Interface))
		case (e.Message == "read" || e.Message == "aborted") && (e.Service == "tftp" || e.Service == "http"):
			// Events of transfers are told at their end.
			a.reach("tftp", e.Time.Add(-time.Duration(e.Seconds*float64(time.Second))), joinWords(e.File))
			if e.Message == "read" && !e.Time.Before(powerOn) {
				if loaded.add(e) {
					a.reach("kernel", e.Time, loaded.String())
				}
			}
		case e.Message == "stage":
			a.reach(e.Stage, e.Time, "")
		}
	}
	for _, line := range console {
		if m := stageLine.FindStringSubmatch(line.Text); m != nil {
			note := ""
			if m[3] == "initramfs" {
				note = m[1] + "@" + m[2]
			}
			a.reach(m[3], line.End, note)
		} else if strings.Contains(line.Text, "] Linux version ") {
			a.reach("kernel", line.Time, "")
		}
	}
	return t
}

type assembler struct {
	powerOn  time.Time
	timeline Timeline
}

func (a assembler) reach(name string, at time.Time, note string) {
	if at.Before(a.powerOn) {
		return
	}
	for i := range a.timeline {
		s := &a.timeline[i]
		if s.Name != name {
			continue
		}
		if after := at.Sub(a.powerOn); !s.Reached || after < s.After {
			s.Reached, s.After = true, after
		}
		if s.Note == "" {
			s.Note = note
		}
	}
}

// loadedFiles remembers the kernel and the initrd.
type loadedFiles struct{ kernel, initrd *Event }

// add says whether both are there now.
func (l *loadedFiles) add(e Event) bool {
	switch name := path.Base(e.File); {
	case strings.HasPrefix(name, "vmlinuz"):
		l.kernel = &e
	case strings.HasPrefix(name, "initrd"):
		l.initrd = &e
	default:
		return false
	}
	return l.kernel != nil && l.initrd != nil
}

func (l *loadedFiles) String() string {
	var parts []string
	for _, e := range []*Event{l.kernel, l.initrd} {
		parts = append(parts, fmt.Sprintf("%s %.1f MB in %.1f s", path.Base(e.File), float64(e.Bytes)/1e6, e.Seconds))
	}
	return strings.Join(parts, ", ")
}

func joinWords(words ...string) string {
	if words[len(words)-1] == "" {
		return ""
	}
	return strings.Join(words, " ")
}

// At is the stage of that name.
func (t Timeline) At(name string) Stage {
	for _, s := range t {
		if s.Name == name {
			return s
		}
	}
	return Stage{Name: name}
}

// Missing is the first stage that was not reached, "" when the machine is up. A stage that was passed over
// without a sign, such as the kernel's on a silent console, is not missing.
func (t Timeline) Missing() string {
	missing := ""
	for i := len(t) - 1; i >= 0 && !t[i].Reached; i-- {
		missing = t[i].Name
	}
	return missing
}

// rows are the printed lines of the stages from the given one on, up to the last that was reached; while the boot goes on
// only up to the first gap, because the sources do not all tell a stage at the same moment.
func (t Timeline) rows(from int, over bool) []string {
	last := len(t)
	for last > 0 && !t[last-1].Reached {
		last--
	}
	if gap := slices.IndexFunc(t, func(s Stage) bool { return !s.Reached }); !over && gap >= 0 {
		last = gap
	}
	var before time.Duration
	for _, s := range t[:min(from, last)] {
		if s.Reached {
			before = s.After
		}
	}
	var out []string
	for _, s := range t[min(from, last):last] {
		if !s.Reached {
			out = append(out, fmt.Sprintf("  %-10s %8s", s.Name, "not seen"))
			continue
		}
		row := fmt.Sprintf("  %-10s %6.1f s  %+6.1f  %s", s.Name, s.After.Seconds(), (s.After - before).Seconds(), s.Note)
		out = append(out, strings.TrimRight(row, " "))
		before = s.After
	}
	return out
}

// String is the timeline as a table: stage, seconds since power-on, seconds since the stage before.
func (t Timeline) String() string { return strings.Join(t.rows(0, true), "\n") }
