package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Options are what Write can be told. The zero value packs everything.
type Options struct {
	// Exclude names folders, as paths inside the root, that become empty: what a running system mounts over.
	// One that is not there is no error. One that is a mount point gets BuildTime for its modification time.
	Exclude []string
	// BuildTime goes into the superblock, and nothing is younger: a later modification time is written as this one, so
	// that a tree made twice from the same sources gives the same image. Zero is 1970, and leaves all times as they are.
	BuildTime time.Time
	// Progress is called now and then, never concurrently, with the bytes of the image that are written so far.
	Progress func(done, total int64)
}

// Stats says what Write wrote.
type Stats struct {
	Files   int    // inodes that are no folders
	Folders int    // with the root
	Content int64  // sum of the sizes of all regular files, each counted once
	Size    int64  // bytes of the image
	SHA256  string // of the image, in hex
}

// Write packs the folder root, which may be one like /proc/PID/root, into an image file at path. The tree must not
// change meanwhile; when a file does, that is an error. The image is written but not synced; when Write fails it leaves
// no file.
func Write(ctx context.Context, path string, root string, o Options) (Stats, error) {
	stats, err := write(ctx, path, root, o)
	if err != nil {
		return Stats{}, fmt.Errorf("write image of %s: %w", root, err)
	}
	return stats, nil
}

func write(ctx context.Context, path, root string, o Options) (stats Stats, err error) {
	t, err := scan(ctx, root, o)
	if err != nil {
		return Stats{}, err
	}
	l, err := layOut(t)
	if err != nil {
		return Stats{}, err
	}
	meta := l.encode(o.BuildTime)
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return Stats{}, err
	}
	defer func() {
		if closeErr := out.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			os.Remove(path)
		}
	}()
	if err := reserve(out, l.size()); err != nil {
		return Stats{}, err
	}
	w := &writer{out: out, root: t.root, total: l.size(), sum: sha256.New(), progress: o.Progress}
	if err := w.run(ctx, meta, l.data); err != nil {
		return Stats{}, err
	}
	return Stats{
		Files:   len(t.nodes) - t.folders,
		Folders: t.folders,
		Content: t.content,
		Size:    l.size(),
		SHA256:  hex.EncodeToString(w.sum.Sum(nil)),
	}, nil
}

// reserve takes the disk space at once: a disk that is too small is known before any work, and the image lies in few
// pieces. File systems that cannot do it find out later.
func reserve(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil, errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil
		}
		return fmt.Errorf("make room for %d MB in %s: %w", (size+1e6-1)/1e6, f.Name(), err)
	}
}

// An extent is a part of a source file and its place in the image. Extents are sorted by place; what no extent covers
// is zero.
type sourceExtent struct {
	node *node
	from int64 // in the source file
	size int64
	at   int64 // in the image
}

// A batch is a stretch of the image that one goroutine fills and writes. They are hashed in order.
type batch struct {
	at      int64
	size    int64
	buf     []byte
	extents []sourceExtent
	filled  chan struct{}
}

// batchSize is large enough for the system calls of a batch to count for nothing, and so small that those under way do not either.
const batchSize = 256 << 10

type writer struct {
	out      *os.File
	root     string
	total    int64
	sum      hash.Hash
	progress func(done, total int64)
	pool     sync.Pool
}

// run writes the metadata and then the data, and hashes all of it once.
func (w *writer) run(ctx context.Context, meta []byte, data []sourceExtent) error {
	if _, err := w.out.WriteAt(meta, 0); err != nil {
		return err
	}
	w.sum.Write(meta)
	workers := max(4, runtime.GOMAXPROCS(0))
	todo, order := make(chan *batch), make(chan *batch, workers)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(todo)
		defer close(order)
		return eachBatch(int64(len(meta)), w.total, data, func(b *batch) error {
			for _, c := range []chan *batch{order, todo} {
				select {
				case c <- b:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	for range workers {
		group.Go(func() error {
			for b := range todo {
				if err := w.fill(b); err != nil {
					return err
				}
				close(b.filled)
			}
			return nil
		})
	}
	group.Go(func() error { return w.digest(ctx, order) })
	return group.Wait()
}

// eachBatch cuts the image from start to end into batches.
func eachBatch(start, end int64, data []sourceExtent, emit func(*batch) error) error {
	for at := start; at < end; {
		b := &batch{at: at, size: min(batchSize, end-at), filled: make(chan struct{})}
		at += b.size
		for len(data) > 0 && data[0].at < at {
			e := data[0]
			if past := e.at + e.size - at; past > 0 {
				e.size -= past
				data[0].from, data[0].size, data[0].at = data[0].from+e.size, past, at
			} else {
				data = data[1:]
			}
			b.extents = append(b.extents, e)
		}
		if err := emit(b); err != nil {
			return err
		}
	}
	return nil
}

// fill reads a batch's sources and writes it.
func (w *writer) fill(b *batch) error {
	buf, _ := w.pool.Get().(*[batchSize]byte)
	if buf == nil {
		buf = new([batchSize]byte)
	}
	b.buf = buf[:b.size]
	filled := int64(0)
	for _, e := range b.extents {
		start := e.at - b.at
		clear(b.buf[filled:start])
		if err := w.read(e, b.buf[start:start+e.size]); err != nil {
			return err
		}
		filled = start + e.size
	}
	clear(b.buf[filled:])
	_, err := w.out.WriteAt(b.buf, b.at)
	return err
}

var errChanged = errors.New("it changed while it was being packed")

// read fills p from a source file. atime is left alone where that is allowed: it would dirty every inode of the tree.
func (w *writer) read(e sourceExtent, p []byte) error {
	name := path.Join(w.root, e.node.path())
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := retry(func() (int, error) { return unix.Open(name, flags|unix.O_NOATIME, 0) })
	if errors.Is(err, unix.EPERM) {
		fd, err = retry(func() (int, error) { return unix.Open(name, flags, 0) })
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Size != e.node.stat.Size || st.Mtim != e.node.stat.Mtim || st.Mode != e.node.stat.Mode {
		return &fs.PathError{Op: "read", Path: name, Err: errChanged}
	}
	for off := e.from; len(p) > 0; {
		n, err := retry(func() (int, error) { return unix.Pread(fd, p, off) })
		if err != nil {
			return &fs.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			return &fs.PathError{Op: "read", Path: name, Err: io.ErrUnexpectedEOF}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// writeBack is how much is handed to the disk at a time, so that the sync of the publisher finds little left to do.
const writeBack = 16 << 20

// digest hashes the batches in order.
func (w *writer) digest(ctx context.Context, order <-chan *batch) error {
	started := int64(0)
	for b := range order {
		select {
		case <-b.filled:
		case <-ctx.Done():
			return ctx.Err()
		}
		w.sum.Write(b.buf)
		w.pool.Put((*[batchSize]byte)(b.buf[:batchSize]))
		b.buf = nil
		done := b.at + b.size
		if done-started >= writeBack || done == w.total {
			// Only a hint: what fails here fails again in the sync.
			unix.SyncFileRange(int(w.out.Fd()), started, done-started, unix.SYNC_FILE_RANGE_WRITE)
			started = done
		}
		if w.progress != nil {
			w.progress(done, w.total)
		}
	}
	return ctx.Err()
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// cleanInside makes a path inside the root relative to it: "/proc/" is "proc".
func cleanInside(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}
