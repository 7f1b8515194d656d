package vm

import (
	"context"
	"io"
	"sync"
)

// feed is an append-only list that several goroutines follow, each at its own pace.
type feed[T any] struct {
	mu      sync.Mutex
	items   []T
	closed  bool
	changed chan struct{}
}

func newFeed[T any]() *feed[T] { return &feed[T]{changed: make(chan struct{})} }

func (f *feed[T]) add(v T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.items = append(f.items, v)
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed[T]) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// all is what there is so far. The slice must not be written to.
func (f *feed[T]) all() []T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.items[:len(f.items):len(f.items)]
}

// wait returns the first item at or after position from that matches, and the position behind it.
// When the feed is closed before that the error is io.EOF.
func (f *feed[T]) wait(ctx context.Context, from int, match func(T) bool) (T, int, error) {
	for i := from; ; {
		f.mu.Lock()
		items, closed, changed := f.items, f.closed, f.changed
		f.mu.Unlock()
		for ; i < len(items); i++ {
			if match(items[i]) {
				return items[i], i + 1, nil
			}
		}
		var zero T
		if closed {
			return zero, i, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return zero, i, ctx.Err()
		}
	}
}
