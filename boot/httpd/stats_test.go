package httpd

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/fstest"
)

// A gone is a client whose connection broke.
type gone struct{ http.ResponseWriter }

func (gone) Write([]byte) (int, error) { return 3, errors.New("connection reset by peer") }

func TestStats(t *testing.T) {
	files := fstest.MapFS{"file": {Data: []byte("twelve bytes")}}
	h := &Handler{
		FS:     func(_, _ netip.Addr) fs.FS { return files },
		Handle: map[string]http.Handler{"/metrics": http.NotFoundHandler()},
	}
	ask := func(method, path, span string) {
		r := httptest.NewRequest(method, path, nil)
		if span != "" {
			r.Header.Set("Range", span)
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	ask("GET", "/file", "")                                                             // 12 bytes
	ask("GET", "/file", "bytes=0-4")                                                    // 5 bytes
	ask("HEAD", "/file", "")                                                            // none
	ask("GET", "/file", "bytes=99-")                                                    // refused
	ask("GET", "/nosuch", "")                                                           // refused
	ask("GET", "/healthz", "")                                                          // no file
	ask("GET", "/metrics", "")                                                          // no file
	ask("POST", "/file", "")                                                            // no request for a file
	h.ServeHTTP(gone{httptest.NewRecorder()}, httptest.NewRequest("GET", "/file", nil)) // 3 bytes
	if got, want := h.Stats(), (Stats{Requests: 6, Refused: 2, Aborted: 1, Bytes: 12 + 5 + 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
