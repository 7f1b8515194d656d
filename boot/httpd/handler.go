// Package httpd serves the boot tree over HTTP, to iPXE and to people: GET and HEAD, ranges, conditional requests, and
// /healthz for whoever watches the server. It lists no folders, knows no TLS and changes nothing by itself.
package httpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 60 * time.Second
	shutdownGrace = 2 * time.Second
	// A client that takes no answer for so long, or less than this of a file, is stuck; an initramfs of 30 MB still gets half an hour.
	answerTimeout = time.Minute
	slowestRate   = 16 << 10 // bytes per second
)

// A Handler answers requests. It can be used without Serve.
type Handler struct {
	// FS returns the tree that a client sees at the address local of this machine. One whose Open says fs.ErrPermission
	// refuses the client, and one that says os.ErrDeadlineExceeded has it ask again.
	FS func(client, local netip.Addr) fs.FS
	// Handle answers GET and HEAD requests for exactly these paths, instead of a file. Whom it answers is its own affair.
	Handle map[string]http.Handler
	// Post answers POST requests for exactly these paths; their bodies are not read.
	Post map[string]http.Handler
	// Log gets one record per file sent and per refusal; nil is silent.
	Log *slog.Logger

	stats counters
}

// Serve answers on ln until ctx ends; then it gives requests under way a short while, and returns nil.
func (h *Handler) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout, // nobody has a body to send
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(h.log().Handler(), slog.LevelDebug),
	}
	l := &listener{Listener: ln, refused: func(client netip.Addr, reason string) {
		h.log().Warn("refused", "service", "http", "client", client.String(), "reason", reason)
	}}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve HTTP on %v: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		srv.Close()
	}
	<-done
	return nil
}

func (h *Handler) log() *slog.Logger {
	if h.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return h.Log
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	w.Header().Set("Server", "netroot")
	wait := func(d time.Duration) { _ = http.NewResponseController(w).SetWriteDeadline(start.Add(d)) }
	wait(answerTimeout) // for each answer anew: a connection keeps the one that it has
	if handler, ok := h.Post[r.URL.Path]; ok && r.Method == http.MethodPost {
		handler.ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this server is read-only", http.StatusMethodNotAllowed)
		return
	}
	if r.URL.Path == "/healthz" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		io.WriteString(w, "ok\n")
		return
	}
	if handler, ok := h.Handle[r.URL.Path]; ok {
		handler.ServeHTTP(w, r)
		return
	}
	h.stats.requests.Add(1)
	client, local := Addresses(r)
	name := strings.TrimPrefix(r.URL.Path, "/")
	log := h.log().With("service", "http", "client", client.String(), "file", clip(name))
	// A name with "..", doubled slashes or a slash at the end is not valid, and none of them is ever asked for in earnest.
	f, st, err := open(h.FS(client, local), name)
	if err != nil {
		h.stats.refused.Add(1)
	}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid):
		log.Info("refused", "reason", "not found")
		http.Error(w, "no such file here", http.StatusNotFound)
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		log.Warn("refused", "reason", err.Error())
		w.Header().Set("Retry-After", "2") // which iPXE heeds, too
		http.Error(w, "this server does not know yet who asks", http.StatusServiceUnavailable)
		return
	case errors.Is(err, fs.ErrPermission):
		log.Warn("refused", "reason", err.Error())
		http.Error(w, "this server has nothing for this machine; its log says why", http.StatusForbidden)
		return
	default:
		log.Warn("refused", "reason", err.Error())
		http.Error(w, "cannot read the file", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", contentType(name))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if st.ModTime().IsZero() {
		w.Header().Set("Cache-Control", "no-cache") // made for this request
	}
	wait(answerTimeout + time.Duration(st.Size()/slowestRate)*time.Second)
	cw := &counter{ResponseWriter: w}
	h.stats.active.Add(1)
	http.ServeContent(cw, r, "", st.ModTime(), f)
	h.stats.active.Add(-1)
	h.stats.sent(cw)
	attrs := []any{"bytes", cw.n, "status", cw.status, "seconds", time.Since(start).Seconds()}
	switch {
	case cw.err != nil:
		log.Info("aborted", append(attrs, "reason", cw.err.Error())...)
	case cw.status >= 400:
		log.Info("refused", append(attrs, "reason", http.StatusText(cw.status))...)
	case r.Method == http.MethodHead || cw.status == http.StatusNotModified:
		log.Debug("probe", attrs...)
	default:
		log.Info("read", attrs...)
	}
}

// open returns a regular file that can be read at any place.
func open(fsys fs.FS, name string) (file, fs.FileInfo, error) {
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\x00\\") {
		return nil, nil, fs.ErrInvalid
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	rs, ok := f.(file)
	if err == nil && !ok {
		err = fmt.Errorf("%s cannot be read at any place", name)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return rs, st, nil
}

type file interface {
	fs.File
	io.Seeker
}

func contentType(name string) string {
	if strings.HasSuffix(name, ".ipxe") || strings.HasPrefix(name, "ipxe/") || strings.HasPrefix(name, "pxelinux.cfg/") {
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

// Addresses returns the address of a client, and that of this machine which it asks.
func Addresses(r *http.Request) (client, local netip.Addr) {
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		client = ap.Addr().Unmap()
	}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			local = ap.Addr().Unmap()
		}
	}
	return client, local
}

// A counter sees what goes to the client. It passes ReadFrom on, by which files leave with sendfile(2).
type counter struct {
	http.ResponseWriter
	status int
	n      int64
	err    error
}

func (c *counter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	return n, c.count(int64(n), err)
}

func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r) // the http package's own writer implements io.ReaderFrom
	return n, c.count(n, err)
}

func (c *counter) count(n int64, err error) error {
	c.n += n
	if err != nil {
		c.err = err
	}
	return err
}

func clip(s string) string {
	if len(s) > 255 {
		return s[:255] + "…"
	}
	return s
}
