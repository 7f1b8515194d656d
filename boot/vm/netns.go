package vm

import (
	"errors"
	"runtime"
	"sync"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name, held by one locked thread.
//
// The thread does all the work in it and lives until close: the namespace a process is born in is that of the
// thread that forked it, and the parent death signal is sent when that *thread* ends, not the process
// (prctl(2), PR_SET_PDEATHSIG).
type namespace struct {
	handle netns.NsHandle
	work   chan func()
	done   chan struct{}
	once   sync.Once
}

var errNamespaceClosed = errors.New("the lab is closed")

func newNamespace() (*namespace, error) {
	ns := &namespace{work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go ns.thread(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return ns, nil
}

func (ns *namespace) thread(ready chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread must not serve other goroutines afterwards
	if unix.Gettid() == unix.Getpid() {
		// The main thread never ends before the process does, and /proc/PID/ns shows its namespaces. Take
		// another one, and keep this one busy so that it is another one.
		again := make(chan error)
		go ns.thread(again)
		ready <- <-again
		runtime.UnlockOSThread()
		return
	}
	handle, err := netns.New()
	if err != nil {
		ready <- err
		return
	}
	ns.handle = handle
	ready <- nil
	for {
		select {
		case f := <-ns.work:
			f()
		case <-ns.done:
			handle.Close()
			return // a goroutine that returns locked takes its thread with it, and that the namespace
		}
	}
}

func (ns *namespace) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case ns.work <- func() { result <- f() }:
		return <-result
	case <-ns.done:
		return errNamespaceClosed
	}
}

func (ns *namespace) close() { ns.once.Do(func() { close(ns.done) }) }
