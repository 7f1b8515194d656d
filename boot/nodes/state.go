package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
)

const (
	stateFile = "nodes.json"
	lockFile  = "nodes.lock" // held by the server that writes stateFile, so that readers know whether one is running
	damaged   = ".damaged"

	saveAfter   = time.Second
	checkEvery  = time.Second
	stateFormat = 1
)

// state is where a tracker keeps what it knows.
type state struct {
	dir    string
	lock   *os.File
	took   time.Duration // the last write
	failed string        // what was last said about a write that failed
}

// content is the state file.
type content struct {
	Format   int       `json:"format"`
	Written  time.Time `json:"written"`
	Machines []*node   `json:"machines"`
}

// Open makes dir the folder where the tracker keeps what it knows, makes it when it is missing, and reads what is there. Nothing that goes wrong with
// it keeps a server from serving: it is told, and then nothing is kept.
func (t *Tracker) Open(dir string) {
	var lock *os.File
	err := os.Mkdir(dir, 0o750)
	if err == nil || errors.Is(err, fs.ErrExist) {
		lock, err = os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o640)
	}
	if err == nil {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			lock.Close()
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("another netroot serve keeps its own there")
	}
	if err != nil {
		t.say("not kept", fmt.Sprintf("machines are forgotten at the end: keep state in %s: %v", dir, err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state.dir, t.state.lock = dir, lock
	path := filepath.Join(dir, stateFile)
	c, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		aside := path + damaged
		t.say("damaged", fmt.Sprintf("%v; it is put aside as %s", err, aside))
		if err := os.Rename(path, aside); err != nil {
			t.say("damaged", fmt.Sprintf("put %s aside: %v", path, err))
		}
		return
	}
	now := time.Now().UTC()
	for _, n := range slices.Backward(c.Machines) { // the one seen last comes first
		t.resume(n, now)
	}
	t.changed = time.Time{}
}

// resume takes a machine of the state file in. Its boot may have gone on unseen, so it gets its full time again.
func (t *Tracker) resume(n *node, now time.Time) {
	mac, err := net.ParseMAC(n.MAC)
	if err == nil {
		n.MAC = mac.String()
	} else if n.MAC != "" || len(n.Addresses) == 0 {
		return
	}
	addresses := n.Addresses
	n.Addresses = nil
	if len(n.Stages) > 0 {
		n.Boot.Heard, n.Boot.Entered = now, now
	}
	t.add(n)
	for _, a := range slices.Backward(addresses) {
		t.own(n, a)
	}
	t.touch(n)
}

func read(path string) (content, error) {
	var c content
	data, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read machines: %w", err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("read machines from %s: %w", path, err)
	}
	if c.Format != stateFormat {
		return c, fmt.Errorf("read machines from %s: format %d, this program knows %d", path, c.Format, stateFormat)
	}
	for _, n := range c.Machines {
		if n == nil || len(n.Stages) > 0 && indexOf(n.Stage) < 0 {
			return c, fmt.Errorf("read machines from %s: a machine is not one", path)
		}
		for _, s := range n.Stages {
			if indexOf(s.Stage) < 0 {
				return c, fmt.Errorf("read machines from %s: there is no stage %q", path, s.Stage)
			}
		}
	}
	return c, nil
}

// Run looks for boots that stopped and keeps the state file current until ctx ends.
func (t *Tracker) Run(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			t.save(true)
			return
		case <-tick.C:
			t.check(time.Now().UTC())
			t.save(false)
		}
	}
}

// Close leaves the folder to others, after Run.
func (t *Tracker) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.lock != nil {
		t.state.lock.Close()
	}
	t.state = state{}
}

func (t *Tracker) dirty() {
	if t.changed.IsZero() {
		t.changed = time.Now()
	}
}

// save writes the state file when something changed a while ago, or at once. A write that takes long, because there are
// many machines or the disk is slow, is done less often.
func (t *Tracker) save(atOnce bool) {
	t.mu.Lock()
	since := t.changed
	if t.state.dir == "" || since.IsZero() || !atOnce && time.Since(since) < max(saveAfter, 20*t.state.took) {
		t.mu.Unlock()
		return
	}
	start := time.Now()
	c := content{Format: stateFormat, Written: start.UTC().Truncate(time.Second)}
	for n := range t.all() {
		c.Machines = append(c.Machines, n.copy())
	}
	t.changed = time.Time{}
	path := filepath.Join(t.state.dir, stateFile)
	t.mu.Unlock()
	out, err := json.Marshal(c)
	if err == nil {
		err = atomicfile.Write(path, append(out, '\n'), 0o640)
	}
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	t.mu.Lock()
	t.state.took = time.Since(start)
	if err != nil {
		t.dirty() // tried again
		t.state.took = max(t.state.took, time.Second)
	}
	news := failed != "" && (t.state.failed == "")
	t.state.failed = failed
	t.mu.Unlock()
	if news {
		t.say("not kept", "keep state: "+failed)
	}
}

func (t *Tracker) say(message, reason string) {
	if t.Log != nil {
		t.Log.Warn(message, slog.String("service", "nodes"), slog.String("reason", reason))
	}
}

// Kept is what the state file of a server says.
type Kept struct {
	Running  bool      // the server that writes it
	Written  time.Time // last, which is when something changed last
	Machines []Machine
}

// Read reads what a server keeps in dir. An error that wraps fs.ErrNotExist means that none ever did.
func Read(dir string) (Kept, error) {
	c, err := read(filepath.Join(dir, stateFile))
	if err != nil {
		return Kept{}, err
	}
	k := Kept{Written: c.Written, Running: locked(filepath.Join(dir, lockFile))}
	for _, n := range c.Machines {
		k.Machines = append(k.Machines, n.Machine)
	}
	sortMachines(k.Machines)
	return k, nil
}

// locked says whether somebody holds the lock.
func locked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
