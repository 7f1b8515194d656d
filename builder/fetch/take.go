package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/builder/progress"
)

// Take puts a file of this host into the cache under its SHA-256, which it returns with the size. The cache gets bytes of its own, so that
// the file may be written over later: shared ones where the file system can do that (reflink), else a copy, made while
// they are hashed. What a killed Take leaves, gc removes.
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
	if f.Cache.has(sum, size) {
		task.Done()
		return sum, size, nil
	}
	if err := errors.Join(part.Chmod(0o644), part.Sync(), os.MkdirAll(filepath.Dir(target), 0o755)); err != nil {
		return "", 0, fmt.Errorf("copy %s into the cache: %w", path, err)
	}
	if err := os.Rename(part.Name(), target); err != nil {
		return "", 0, fmt.Errorf("copy %s into the cache: %w", path, err)
	}
	task.Done()
	return sum, size, nil
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
		return 0, fmt.Errorf("ask for the size of %s: %w", redact(url), err)
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
