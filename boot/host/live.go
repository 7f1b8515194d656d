package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"netroot/builder/strictyaml"
)

// pollInterval is how often the file is looked at. A change is taken over when two looks see the same: an editor that
// writes in place may be half-way, and half a list of hosts is a good policy that boots half of the machines.
const pollInterval = 500 * time.Millisecond

// A Live is the policy that is in force. While Watch runs it follows the file: on SIGHUP, and when the file changes, is
// replaced, or appears. A file that has a fault, or is gone, leaves the policy in force as it was.
type Live struct {
	paths      []string // the first that there is becomes the only one
	interfaces []string // instead of those of the file
	policy     atomic.Pointer[Policy]
	memory     memory
	installed  func(name string) bool // nil: nobody
	check      func(*Policy) error    // nil: all are good
	stamp      stamp
	interval   time.Duration // pollInterval, and less in tests
}

// Open reads the policy from the file at path. With interfaces given, those in the file do not count.
func Open(path string, interfaces []string) (*Live, error) {
	l := &Live{interfaces: interfaces, interval: pollInterval}
	return l, l.read(path)
}

// Find is Open for the first of the paths that there is. When there is none, everybody gets a menu until one appears.
func Find(paths, interfaces []string) (*Live, error) {
	l := &Live{paths: paths, interfaces: interfaces, interval: pollInterval}
	for _, path := range paths {
		if err := l.read(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return l, err
		}
	}
	l.set(Default())
	return l, nil
}

// Fixed is a policy that does not change.
func Fixed(p *Policy) *Live {
	l := &Live{}
	l.set(p)
	return l
}

// Policy returns the policy in force at this moment.
func (l *Live) Policy() *Policy { return l.policy.Load() }

// Decide says what m gets at this moment. One that asked with a UUID before is known by its MAC from then on.
func (l *Live) Decide(m Machine) Decision {
	p := l.Policy()
	return p.Decide(l.memory.complete(p, m))
}

// Knowing tells the policy which of the hosts that boot an image once have done so.
func (l *Live) Knowing(installed func(name string) bool) {
	l.installed = installed
	l.policy.Store(l.Policy().Knowing(installed))
}

// Require has every policy looked at before it comes into force, the one in force at once. A policy that check finds a fault in
// counts as one with a fault of its own.
func (l *Live) Require(check func(*Policy) error) error {
	l.check = check
	return check(l.Policy())
}

func (l *Live) set(p *Policy) {
	if l.installed != nil {
		p = p.Knowing(l.installed)
	}
	if len(l.interfaces) > 0 {
		p = p.On(l.interfaces)
	}
	l.policy.Store(p)
}

// read takes the policy from a file. What it is remembered by is read first: should the file change in between, it is read
// once more and not once too few.
func (l *Live) read(path string) error {
	stamp, _ := stampOf(path)
	p, err := load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l.paths, l.stamp = []string{path}, stamp
	if err == nil && l.check != nil {
		err = l.check(p)
	}
	if err == nil {
		l.set(p)
	}
	return err
}

// load is Load for a file that can be read again and again. Opening a pipe that nobody writes to would wait for ever, and with it
// whoever wants the server to end.
func load(path string) (*Policy, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return nil, strictyaml.Join((&strictyaml.Error{File: path, Msg: "is not a file that can be read again"}).WithHint("write the policy to an ordinary file"))
	}
	return Load(path)
}

// Watch follows the file until ctx ends. A nil log is silent.
func (l *Live) Watch(ctx context.Context, log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if len(l.paths) == 0 {
		<-ctx.Done()
		return
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	seen := l.stamp
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			asked = true
		case <-tick.C:
		}
		path, now := l.look()
		settled := now == seen
		seen = now
		if asked || settled && now != l.stamp {
			l.reload(path, now, log)
		}
	}
}

// look finds the file, and what it is remembered by: zero when there is none.
func (l *Live) look() (string, stamp) {
	for _, path := range l.paths {
		if s, err := stampOf(path); err == nil {
			return path, s
		}
	}
	return "", stamp{}
}

func (l *Live) reload(path string, now stamp, log *slog.Logger) {
	log = log.With("service", "policy")
	var err error
	switch {
	case path != "":
		log = log.With("file", path)
		err = l.read(path)
	case l.stamp == stamp{} && l.Policy().File() == "":
		log.Info("reloaded", "reason", "there is no netroot.yaml, and everybody gets a menu")
		return
	default:
		l.stamp = now
		if _, err = os.Stat(l.paths[0]); err == nil || errors.Is(err, fs.ErrNotExist) {
			err = strictyaml.Join(&strictyaml.Error{File: l.paths[0], Msg: "the file is gone"})
		} else {
			err = fmt.Errorf("the user that serve runs as must be able to read the file: %w", err)
		}
	}
	if err != nil {
		log.Error("not reloaded", "reason", fmt.Errorf("%w\nthe policy that was read before stays in force", err))
		return
	}
	log.Info("reloaded", "hosts", len(l.Policy().Hosts))
}

// A stamp tells one state of a file from another. The inode is that of the file itself, so it sees editors that write a
// new file and rename it, and symbolic links that are turned to another; the time of the last change of the inode sees
// what keeps size and modification time.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	s := info.Sys().(*syscall.Stat_t)
	return stamp{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}, nil
}
