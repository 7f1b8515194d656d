package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

var errUnsupported = errors.New("only http:, https: and file: URLs can be fetched")

// newClient returns a client for many small files from one server: as many kept-alive connections as jobs (the default
// transport keeps two), no transparent decompression (the digest is that of the bytes as they travel), and no limit on the
// whole transfer, because a stalled one is noticed byte by byte.
func newClient(jobs int, proxy func(*http.Request) (*url.URL, error)) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	if proxy != nil {
		t.Proxy = proxy
	}
	t.MaxIdleConnsPerHost = jobs
	t.MaxIdleConns = 2 * jobs
	t.DisableCompression = true
	t.ReadBufferSize = 64 << 10
	return &http.Client{Transport: t}
}

func (f *Fetcher) httpClient() *http.Client {
	if f.Client != nil {
		return f.Client
	}
	f.once.Do(func() { f.client = newClient(orDefault(f.Jobs, 8), f.Proxy) })
	return f.client
}

// open starts reading rawURL from offset on. The server may begin at 0 instead; start says where the body begins.
func (f *Fetcher) open(ctx context.Context, rawURL string, offset int64) (body io.ReadCloser, start int64, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errUnsupported, err)
	}
	switch u.Scheme {
	case "file":
		return openFile(u, offset)
	case "http", "https":
	default:
		return nil, 0, fmt.Errorf("%w, not %q", errUnsupported, u.Scheme)
	}
	var header http.Header
	if offset > 0 {
		header = http.Header{"Range": {"bytes=" + strconv.FormatInt(offset, 10) + "-"}}
	}
	resp, err := f.request(ctx, rawURL, header)
	if err != nil {
		return nil, 0, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp.Body, 0, nil
	case http.StatusPartialContent:
		if first, ok := rangeStart(resp.Header.Get("Content-Range")); ok && first == offset {
			return resp.Body, offset, nil
		}
		resp.Body.Close()
		return nil, 0, &StatusError{Code: resp.StatusCode, Status: fmt.Sprintf("%s with range %q, asked from %d on", resp.Status, resp.Header.Get("Content-Range"), offset)}
	}
	return nil, 0, statusError(resp)
}

// request sends a GET whose answer, headers and body, is given up when nothing comes for Stall.
func (f *Fetcher) request(ctx context.Context, rawURL string, header http.Header) (*http.Response, error) {
	stall := orDefault(f.Stall, 30*time.Second)
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stall, func() { cancel(fmt.Errorf("the server sent nothing for %s", stall)) })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err == nil {
		if header != nil {
			req.Header = header
		}
		req.Header.Set("User-Agent", "netroot")
		var resp *http.Response
		if resp, err = f.httpClient().Do(req); err == nil {
			resp.Body = &stallReader{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timer: timer, stall: stall}
			return resp, nil
		}
		if uerr, ok := errors.AsType[*url.Error](err); ok {
			err = uerr.Err // the URL is named by the caller, without its password
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
	}
	timer.Stop()
	cancel(nil)
	return nil, err
}

// stallReader cancels a request whose body does not move.
type stallReader struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func (r *stallReader) Read(p []byte) (int, error) {
	r.timer.Reset(r.stall)
	n, err := r.ReadCloser.Read(p)
	r.timer.Stop() // a slow disk on this side is not the server's fault
	if err != nil && err != io.EOF {
		if cause := context.Cause(r.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (r *stallReader) Close() error {
	r.timer.Stop()
	err := r.ReadCloser.Close()
	r.cancel(nil)
	return err
}

// statusError makes an error of an answer and drains a short body, so that the connection can be used again.
func statusError(resp *http.Response) error {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	resp.Body.Close()
	e := &StatusError{Code: resp.StatusCode, Status: resp.Status}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.after = time.Duration(min(s, 3600)) * time.Second
	}
	return e
}

// rangeStart reads the first byte's number from "bytes 5-11/12" (RFC 9110, 14.4).
func rangeStart(s string) (int64, bool) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, false
	}
	first, _, ok := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return n, ok && err == nil
}

func openFile(u *url.URL, offset int64) (io.ReadCloser, int64, error) {
	if u.Host != "" && u.Host != "localhost" {
		return nil, 0, fmt.Errorf("%w: file URL with host %q; write file:///path", errUnsupported, u.Host)
	}
	name := u.Path
	if name == "" {
		name = u.Opaque // file:path
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, 0, fmt.Errorf("%w: %s is not a regular file", errUnsupported, name)
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, offset, nil
}

// Redact returns a URL fit for a log: without a password, and without a user that has none, which may be a token.
func Redact(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "a URL that cannot be read"
	}
	if password, _ := u.User.Password(); u.User != nil && password == "" {
		u.User = url.User("xxxxx")
	}
	return u.Redacted()
}
