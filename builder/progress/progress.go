// Package progress tells a person, or the log of a nightly job, how far a long step is. On a terminal the oldest
// unfinished task is drawn as a bar; everywhere else a task says a whole line now and then, and each task ends with one
// line in either case. Everything carries the prefix "netroot: ".
//
// Only one bar is drawn at a time: when downloading and unpacking overlap, the later task stays silent until it is the
// oldest one left. A program that also logs to the same terminal gives its logger the Reporter as writer, so that log
// lines appear above the bar and not inside it.
package progress

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

const prefix = "netroot: "

// plainInterval is the least time between two plain lines of one task. A variable of the Reporter would be one knob
// too many: a log that is read the next morning wants few lines.
const plainInterval = 3 * time.Second

// Mode says how progress is shown.
type Mode int

const (
	Auto  Mode = iota // a bar when Out is a terminal, lines otherwise
	Plain             // lines
	None              // nothing at all
)

// ParseMode reads the value of a --progress flag.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "auto", "":
		return Auto, nil
	case "plain":
		return Plain, nil
	case "none":
		return None, nil
	}
	return Auto, fmt.Errorf("progress %q: must be auto, plain or none", s)
}

// Unit is what a task counts.
type Unit int

const (
	Bytes Unit = iota
	Items
)

// A Reporter shows tasks on Out. A nil Reporter is silent; so is one without Out.
type Reporter struct {
	Out  io.Writer
	Mode Mode

	mu    sync.Mutex
	tasks []*Task // unfinished, oldest first
}

// A Task is one step of known or unknown length. A nil Task does nothing.
type Task struct {
	r       *Reporter
	label   string
	unit    Unit
	total   int64
	n       int64
	start   time.Time
	said    time.Time // when the last plain line was printed
	bar     *progressbar.ProgressBar
	current bool // the bar is on the screen
	done    bool
}

func (r *Reporter) silent() bool { return r == nil || r.Out == nil || r.Mode == None }

func (r *Reporter) terminal() bool {
	f, ok := r.Out.(*os.File)
	return r.Mode == Auto && ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// Start begins a task of total units; a total of 0 or less is unknown.
func (r *Reporter) Start(label string, total int64, unit Unit) *Task {
	if r.silent() {
		return nil
	}
	now := time.Now()
	t := &Task{r: r, label: label, unit: unit, total: max(total, 0), start: now, said: now}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tasks = append(r.tasks, t)
	return t
}

// Step prints one line.
func (r *Reporter) Step(format string, args ...any) {
	if r.silent() {
		return
	}
	fmt.Fprint(r, prefix+strings.TrimRight(fmt.Sprintf(format, args...), "\n")+"\n")
}

// Write passes whole lines through to Out, above a bar that may be there. Unlike the rest it is not silenced by None:
// what is written here is somebody else's log.
func (r *Reporter) Write(p []byte) (int, error) {
	if r == nil || r.Out == nil {
		return len(p), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hide()
	return r.Out.Write(p)
}

// hide takes the bar off the screen; the next Add draws it again.
func (r *Reporter) hide() {
	if len(r.tasks) > 0 && r.tasks[0].current {
		_ = r.tasks[0].bar.Clear()
		r.tasks[0].current = false
	}
}

// Add says that n more units are done. It may be called by many goroutines at once.
func (t *Task) Add(n int64) {
	if t == nil {
		return
	}
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	t.n += n
	if t.done || t.r.tasks[0] != t {
		return
	}
	if t.r.terminal() {
		if t.bar == nil {
			t.bar = newBar(t)
		}
		t.current = true
		_ = t.bar.Set64(t.n)
		return
	}
	if now := time.Now(); now.Sub(t.said) >= plainInterval {
		t.said = now
		fmt.Fprintf(t.r.Out, "%s%s: %s\n", prefix, t.label, status(t.n, t.total, t.unit, now.Sub(t.start)))
	}
}

// Done ends the task with a line that says how much it was and how long it took.
func (t *Task) Done() {
	if t == nil {
		return
	}
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	if t.end() {
		fmt.Fprintf(t.r.Out, "%s%s: %s in %s\n", prefix, t.label, amount(t.n, t.unit), seconds(time.Since(t.start)))
	}
}

// Abort ends the task without a word: the error that follows says enough.
func (t *Task) Abort() {
	if t == nil {
		return
	}
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	t.end()
}

// end takes the task off the screen and tells whether it was still there. The caller holds the lock.
func (t *Task) end() bool {
	if t.done {
		return false
	}
	t.done = true
	t.r.hide()
	t.r.tasks = slices.DeleteFunc(t.r.tasks, func(o *Task) bool { return o == t })
	return true
}

func newBar(t *Task) *progressbar.ProgressBar {
	total := t.total
	if total == 0 {
		total = -1
	}
	opts := []progressbar.Option{
		progressbar.OptionSetWriter(t.r.Out),
		progressbar.OptionSetDescription(prefix + t.label),
		progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionFullWidth(),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionUseANSICodes(true),
	}
	if t.unit == Bytes {
		opts = append(opts, progressbar.OptionShowBytes(true))
	}
	return progressbar.NewOptions64(total, opts...)
}

// status is the middle part of a plain line.
func status(n, total int64, unit Unit, elapsed time.Duration) string {
	s := amount(n, unit)
	if total > 0 {
		s += " of " + amount(total, unit) + fmt.Sprintf(", %d%%", n*100/total)
	}
	if unit == Bytes && elapsed > 0 {
		s += fmt.Sprintf(", %s/s", amount(int64(float64(n)/elapsed.Seconds()), Bytes))
	}
	return s
}

func amount(n int64, unit Unit) string {
	switch {
	case unit == Items:
		return fmt.Sprintf("%d", n)
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000*1000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000*1000*1000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}

func seconds(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
