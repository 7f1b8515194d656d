package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
	"netroot/builder/progress"
)

// Take puts a file of this host into the cache under its SHA-256, which it returns with the size. The cache gets bytes of its own, so that
// the file may be written over later: shared ones where the file system can do that (reflink), else a copy, made while
// they are hashed. A file that is in the cache already, and was not touched since, is not read again. What a killed Take leaves, gc
// removes.
func (f *Fetcher) Take(ctx context.Context, path string) (sum string, size int64, err error) {
	src, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return "", 0, err
	}
	if !st.Mode().IsRegular() {
		return "", 0, fmt.Errorf("read %s: not a regular file", path)
	}
	known := identify(path, st)
	if sum, ok := f.remembered(known); ok {
		return sum, st.Size(), nil
	}
	dir := filepath.Join(f.Cache.Dir, "sha256", "in")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", 0, fmt.Errorf("make cache folder: %w", err)
	}
	part, err := os.CreateTemp(dir, "*.part")
	if err != nil {
		return "", 0, fmt.Errorf("make a file in the cache: %w", err)
	}
	defer os.Remove(part.Name())
	defer part.Close()
	task := f.Progress.Start("read "+filepath.Base(path), st.Size(), progress.Bytes)
	defer task.Abort()
	if sum, size, err = takeBytes(ctx, src, part, task.Add); err != nil {
		return "", 0, fmt.Errorf("copy %s into the cache: %w", path, err)
	}
	now, err := src.Stat()
	if err != nil || size != st.Size() || !now.ModTime().Equal(st.ModTime()) || now.Size() != size {
		return "", 0, fmt.Errorf("copy %s into the cache: it changed meanwhile; try again when it is complete", path)
	}
	target := f.Cache.Path(sum)
	if f.Cache.Holds(sum, size) {
		task.Done()
		f.remember(known, sum)
		return sum, size, nil
	}
	if err := errors.Join(part.Chmod(0o644), part.Sync(), os.MkdirAll(filepath.Dir(target), 0o755)); err != nil {
		return "", 0, fmt.Errorf("copy %s into the cache: %w", path, err)
	}
	if err := os.Rename(part.Name(), target); err != nil {
		return "", 0, fmt.Errorf("copy %s into the cache: %w", path, err)
	}
	task.Done()
	f.remember(known, sum)
	return sum, size, nil
}

// taken tells by what the system keeps of a file whether it is the same as before. Every write changes the last field, which nobody
// can set.
type taken struct {
	Path                string
	Device, Inode       uint64
	Size, Mtime, Change int64 // bytes, and nanoseconds since 1970
	SHA256              string
}

func identify(path string, info fs.FileInfo) taken {
	t := taken{Path: path, Size: info.Size(), Mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		t.Device, t.Inode, t.Change = st.Dev, st.Ino, st.Ctim.Nano()
	}
	return t
}

func (f *Fetcher) takenPath(path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(f.Cache.Dir, "documents", "taken-"+hex.EncodeToString(sum[:]))
}

// remembered returns the sum of a file that was taken before and is as it was.
func (f *Fetcher) remembered(now taken) (string, bool) {
	data, err := os.ReadFile(f.takenPath(now.Path))
	var was taken
	if err != nil || json.Unmarshal(data, &was) != nil || !validSum(was.SHA256) || !f.Cache.Holds(was.SHA256, was.Size) {
		return "", false
	}
	sum := was.SHA256
	was.SHA256 = ""
	return sum, was == now
}

// remember writes down what a file was when it was taken. It is only a saving. The clock of a file system may tick slowly, so one that
// has just been written may be written again without a sign of it.
func (f *Fetcher) remember(was taken, sum string) {
	if time.Since(time.Unix(0, was.Change)) < 2*time.Second {
		return
	}
	was.SHA256 = sum
	path := f.takenPath(was.Path)
	data, err := json.Marshal(was)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = atomicfile.Write(path, data, 0o644)
	}
	if err != nil {
		f.log().Warn("not remembered", "file", was.Path, "reason", err)
	}
}

const takeChunk = 1 << 20

// takeBytes copies and hashes. What is written is handed to the disk at once, so that little is left for the sync at the end.
func takeBytes(ctx context.Context, src, dst *os.File, count func(int64)) (string, int64, error) {
	shared := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
	from := src
	if shared {
		from = dst // what was shared cannot change any more
	}
	h := sha256.New()
	type chunk struct {
		data []byte
		at   int64
	}
	free, full := make(chan []byte, 4), make(chan chunk, 4)
	for range cap(free) {
		free <- make([]byte, takeChunk)
	}
	failed := make(chan error, 1)
	go func() { // the writer
		var err error
		for c := range full {
			if err == nil && !shared {
				if _, err = dst.WriteAt(c.data, c.at); err == nil {
					_ = unix.SyncFileRange(int(dst.Fd()), c.at, int64(len(c.data)), unix.SYNC_FILE_RANGE_WRITE)
				}
			}
			free <- c.data[:cap(c.data)]
		}
		failed <- err
	}()
	var size int64
	var err error
	for err == nil {
		if err = ctx.Err(); err != nil {
			break
		}
		buf := <-free
		var n int
		n, err = from.ReadAt(buf, size)
		h.Write(buf[:n])
		full <- chunk{buf[:n], size}
		size += int64(n)
		count(int64(n))
	}
	close(full)
	if werr := <-failed; werr != nil {
		return "", 0, werr
	}
	if err != io.EOF {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// Size asks how long the file at an http: or https: URL is.
func (f *Fetcher) Size(ctx context.Context, url string) (int64, error) {
	var size int64
	err := f.retry(ctx, filepath.Base(url), func() (err error) {
		size, err = f.size(ctx, url)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the size of %s: %w", Redact(url), err)
	}
	return size, nil
}

func (f *Fetcher) size(ctx context.Context, url string) (int64, error) {
	// Not HEAD, which some servers answer otherwise, or not at all.
	resp, err := f.request(ctx, url, http.Header{"Range": {"bytes=0-0"}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		if resp.ContentLength >= 0 {
			return resp.ContentLength, nil
		}
	case http.StatusPartialContent:
		_, total, _ := strings.Cut(resp.Header.Get("Content-Range"), "/")
		if n, err := strconv.ParseInt(total, 10, 64); err == nil && n >= 0 {
			return n, nil
		}
	default:
		return 0, statusError(resp)
	}
	return 0, errors.New("the server does not tell it")
}
