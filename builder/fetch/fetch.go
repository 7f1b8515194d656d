// Package fetch downloads files whose size and SHA-256 are known beforehand into a content-addressed cache. Files come
// in parallel over kept-alive connections; every byte is hashed on its way to the disk, and a file gets its name in the
// cache only when size and digest agree. A download that was cut short goes on where it stopped, after what is on disk
// was hashed again. Network errors, 5xx answers and servers that fall silent are tried again with a growing pause; a file
// whose bytes are wrong is not, except when a resumed one may owe its fault to the old part.
//
// http:, https: and file: URLs are understood. Documents whose digest nobody knows beforehand (an InRelease file) come
// through Document, which keeps a copy only to ask the server "changed since?"; whoever reads one verifies it each time.
package fetch

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"netroot/builder/progress"
)

// A Fetcher downloads into Cache. The zero values of all other fields are useful.
type Fetcher struct {
	Cache    Cache
	Client   *http.Client                          // nil: one tuned for many small files from one server
	Proxy    func(*http.Request) (*url.URL, error) // of that client; nil: the environment's
	Jobs     int                                   // connections at a time; 0 is 8
	Attempts int                                   // tries per file; 0 is 5
	Pause    time.Duration                         // before the second try, doubled before each further one; 0 is half a second
	Stall    time.Duration                         // a server that sends nothing for this long is given up; 0 is 30 seconds
	Progress *progress.Reporter                    // nil is silent
	Log      *slog.Logger                          // nil is silent

	once   sync.Once
	client *http.Client
	silent sync.Map // the hosts that did not answer, or not to the end
}

// An Item is one file to fetch.
type Item struct {
	Name string // what errors call it: a package name
	URL  string
	Size int64
	Sum  string   // SHA-256 in hex; by its length also SHA-512, or SHA-1 for archives so old that they have nothing better
	Also []string // the same file at other servers, asked in this order when the one before does not have it
}

// A StatusError is an answer of a server other than the one hoped for.
type StatusError struct {
	Code   int
	Status string
	after  time.Duration // Retry-After
}

func (e *StatusError) Error() string { return "the server answered " + e.Status }

// NotFound says whether err means that the file is not on the server (or on the disk, for a file: URL).
func NotFound(err error) bool {
	if status, ok := errors.AsType[*StatusError](err); ok {
		return status.Code == http.StatusNotFound || status.Code == http.StatusGone
	}
	return errors.Is(err, os.ErrNotExist)
}

// Mismatch says whether err means that a file was there but its size or digest was not the one expected.
func Mismatch(err error) bool {
	_, ok := errors.AsType[*mismatch](err)
	return ok
}

// mismatch is a download that is not what was asked for.
type mismatch struct{ what string }

func (e *mismatch) Error() string { return e.what }

// Get puts every item into the cache and calls done(i, path) for items[i] as soon as it is there, also for those that
// were there already. done may be nil; it is called by several goroutines, at most one per CPU, while other items are still
// downloaded. The first error, of a download or of done, ends everything.
func (f *Fetcher) Get(ctx context.Context, items []Item, done func(i int, path string) error) error {
	var total int64
	var missing []int
	for i, it := range items {
		if !validSum(it.Sum) || it.Size < 0 {
			return fmt.Errorf("fetch %s: no size or no checksum to verify it with", it.Name)
		}
		if !f.Cache.Holds(it.Sum, it.Size) {
			missing = append(missing, i)
			total += it.Size
		}
	}
	// The largest first: it takes longest to unpack, and nobody should wait for it alone at the end.
	slices.SortStableFunc(missing, func(a, b int) int { return int(min(max(items[b].Size-items[a].Size, -1), 1)) })

	var task *progress.Task
	if len(missing) > 0 {
		label := "download"
		if len(items) == 1 {
			label += " " + items[0].Name
		}
		task = f.Progress.Start(label, total, progress.Bytes)
	}
	defer task.Abort()

	g, ctx := errgroup.WithContext(ctx)
	ready := make(chan int, len(items)) // never blocks a download
	var next, left atomic.Int64
	left.Store(int64(len(missing)))
	for _, i := range presentItems(items, missing) {
		ready <- i
	}
	if len(missing) == 0 {
		close(ready)
	}
	for range min(orDefault(f.Jobs, 8), len(missing)) {
		g.Go(func() error {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(missing) {
					return nil
				}
				i := missing[n]
				if err := f.get(ctx, items[i], task); err != nil {
					if _, several := errors.AsType[*nowhere](err); several {
						return fmt.Errorf("fetch %s from any of %d servers: %w", items[i].Name, 1+len(items[i].Also), err)
					}
					return fmt.Errorf("fetch %s from %s: %w", items[i].Name, Redact(items[i].URL), err)
				}
				ready <- i
				if left.Add(-1) == 0 {
					task.Done()
					close(ready)
				}
			}
		})
	}
	if done != nil {
		for range min(runtime.GOMAXPROCS(0), len(items)) {
			g.Go(func() error {
				for {
					select {
					case <-ctx.Done():
						return context.Cause(ctx)
					case i, ok := <-ready:
						if !ok {
							return nil
						}
						if err := done(i, f.Cache.Path(items[i].Sum)); err != nil {
							return err
						}
					}
				}
			})
		}
	}
	return g.Wait()
}

// presentItems lists what is not in missing.
func presentItems(items []Item, missing []int) []int {
	gone := make([]bool, len(items))
	for _, i := range missing {
		gone[i] = true
	}
	var present []int
	for i := range items {
		if !gone[i] {
			present = append(present, i)
		}
	}
	return present
}

// get brings one item into the cache, trying again as often as makes sense.
func (f *Fetcher) get(ctx context.Context, it Item, task *progress.Task) error {
	return f.retry(ctx, it.Name, func() error {
		urls := f.inOrder(it)
		failed := &nowhere{}
		for _, at := range urls {
			here := it
			here.URL = at
			err := f.getFrom(ctx, here, task)
			if _, ours := errors.AsType[*diskError](err); err == nil || ours || ctx.Err() != nil || len(urls) == 1 {
				return err
			}
			if answered := NotFound(err) || Mismatch(err); !answered {
				f.silent.Store(hostOf(at), true)
			}
			failed.urls, failed.errs = append(failed.urls, at), append(failed.errs, err)
		}
		return failed
	})
}

// inOrder lists the URLs of an item; those of hosts that did not answer before come last.
func (f *Fetcher) inOrder(it Item) []string {
	urls := append([]string{it.URL}, it.Also...)
	slices.SortStableFunc(urls, func(a, b string) int {
		_, badA := f.silent.Load(hostOf(a))
		_, badB := f.silent.Load(hostOf(b))
		switch {
		case badA == badB:
			return 0
		case badB:
			return -1
		}
		return 1
	})
	return urls
}

func hostOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.Host
}

// nowhere is what became of an item that none of several servers gave.
type nowhere struct {
	urls []string
	errs []error
}

func (e *nowhere) Unwrap() []error { return e.errs }

func (e *nowhere) Error() string {
	const most = 3
	var says []string
	for i, err := range e.errs[:min(len(e.errs), most)] {
		says = append(says, fmt.Sprintf("%s: %v", Redact(e.urls[i]), err))
	}
	if n := len(e.errs) - most; n > 0 {
		says = append(says, fmt.Sprintf("and no better from %d more", n))
	}
	return strings.Join(says, "; ")
}

// getFrom makes one attempt at one server.
func (f *Fetcher) getFrom(ctx context.Context, it Item, task *progress.Task) error {
	part, err := f.Cache.openPart(ctx, it.Sum, it.Size)
	if err != nil {
		return &diskError{err}
	}
	if part == nil { // another process was faster
		task.Add(it.Size)
		return nil
	}
	defer part.Close() // gives the lock back
	return f.try(ctx, it, part, task)
}

// retry runs try until it succeeds, fails for good, or was run Attempts times.
func (f *Fetcher) retry(ctx context.Context, name string, try func() error) error {
	attempts, pause := orDefault(f.Attempts, 5), orDefault(f.Pause, 500*time.Millisecond)
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !Temporary(err) {
			return err
		}
		if n >= attempts {
			return fmt.Errorf("tried %d times: %w", n, err)
		}
		wait := pause << (n - 1)
		if status, ok := errors.AsType[*StatusError](err); ok {
			wait = max(wait, min(status.after, time.Minute))
		}
		f.log().Warn("download failed, trying again", "file", name, "reason", err, "pause", wait)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// Temporary says whether another try may help.
func Temporary(err error) bool {
	if all, ok := errors.AsType[*nowhere](err); ok {
		return slices.ContainsFunc(all.errs, Temporary)
	}
	if _, ok := errors.AsType[*badPart](err); ok {
		return true
	}
	if status, ok := errors.AsType[*StatusError](err); ok {
		return status.Code >= 500 || status.Code == http.StatusTooManyRequests || status.Code == http.StatusRequestTimeout
	}
	if _, ok := errors.AsType[*mismatch](err); ok {
		return false
	}
	if _, ok := errors.AsType[*diskError](err); ok {
		return false
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return !dns.IsNotFound || dns.IsTemporary
	}
	return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) && !errors.Is(err, errUnsupported)
}

// badPart is a mismatch of a download that went on from an old part: the part was thrown away and a whole download may help.
type badPart struct{ error }

func (e *badPart) Unwrap() error { return e.error }

// diskError is a failure of this side.
type diskError struct{ error }

func (e *diskError) Unwrap() error { return e.error }

// try makes one attempt, going on behind what part already holds.
func (f *Fetcher) try(ctx context.Context, it Item, part *os.File, task *progress.Task) (err error) {
	sum := hashOf(it.Sum)
	have, err := rehash(part, sum, it.Size)
	if err != nil {
		return &diskError{err}
	}
	counted := have // what the task was told, to be taken back when this try fails
	task.Add(counted)
	defer func() {
		if err != nil {
			task.Add(-counted)
		}
	}()
	resumed := have > 0
	if have < it.Size {
		body, start, err := f.open(ctx, it.URL, have)
		if status, ok := errors.AsType[*StatusError](err); ok && resumed && status.Code == http.StatusRequestedRangeNotSatisfiable {
			os.Remove(part.Name()) // the file over there is shorter than our part: one of both is not what we want
			return &badPart{err}
		}
		if err != nil {
			return err
		}
		defer body.Close()
		if start != have { // the server knows no ranges and sends the whole file
			task.Add(-counted)
			counted, have, resumed = 0, 0, false
			sum.Reset()
			if err := restart(part); err != nil {
				return &diskError{err}
			}
		}
		n, err := copyCounted(part, sum, io.LimitReader(body, it.Size-have+1), func(n int64) {
			counted += n
			task.Add(n)
		})
		have += n
		if err != nil {
			if errors.Is(err, syscall.ENOSPC) {
				os.Remove(part.Name()) // gives the space back
			}
			return err
		}
	}
	var wrong *mismatch
	switch got := hex.EncodeToString(sum.Sum(nil)); {
	case have > it.Size:
		wrong = &mismatch{fmt.Sprintf("size more than %d", it.Size)}
	case have < it.Size:
		wrong = &mismatch{fmt.Sprintf("size %d instead of %d", have, it.Size)}
	case got != it.Sum:
		wrong = &mismatch{fmt.Sprintf("%s %s instead of %s", hashName(it.Sum), got, it.Sum)}
	}
	if wrong != nil {
		os.Remove(part.Name())
		if resumed {
			return &badPart{wrong}
		}
		return wrong
	}
	if err := part.Sync(); err != nil {
		return &diskError{err}
	}
	if err := os.Rename(part.Name(), f.Cache.Path(it.Sum)); err != nil {
		return &diskError{err}
	}
	return nil
}

// rehash hashes what an earlier try left and returns its length; a part that is too long is emptied.
func rehash(part *os.File, sum hash.Hash, size int64) (int64, error) {
	info, err := part.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > size {
		return 0, restart(part)
	}
	return io.Copy(sum, part)
}

func restart(part *os.File) error {
	if err := part.Truncate(0); err != nil {
		return err
	}
	_, err := part.Seek(0, io.SeekStart)
	return err
}

// copyCounted copies to the disk and the hash, and tells the two sides' errors apart.
func copyCounted(dst io.Writer, sum hash.Hash, src io.Reader, count func(int64)) (int64, error) {
	buf := make([]byte, 64<<10)
	var total int64
	for {
		n, err := src.Read(buf)
		if n > 0 {
			sum.Write(buf[:n])
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return total, &diskError{fmt.Errorf("write to the cache: %w", werr)}
			}
			total += int64(n)
			count(int64(n))
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

func (f *Fetcher) log() *slog.Logger {
	if f.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return f.Log
}
