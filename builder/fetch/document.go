package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"netroot/builder/atomicfile"
)

// stored is what is kept of a document: the server's own words about it, and their URL and digest so that a damaged or
// mixed-up file is noticed.
type stored struct {
	URL          string
	ETag         string `json:",omitempty"`
	LastModified string `json:",omitempty"`
	SHA256       string
}

// Document fetches a file of at most max bytes whose digest is not known. When the server gave an ETag or a date last
// time, it is asked whether the file changed. The bytes are not verified: the caller checks their signature.
func (f *Fetcher) Document(ctx context.Context, url string, max int64) ([]byte, error) {
	var data []byte
	err := f.retry(ctx, filepath.Base(url), func() (err error) {
		data, err = f.document(ctx, url, max)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", Redact(url), err)
	}
	return data, nil
}

// DocumentOnce is Document without a second try: for whoever has another server to ask.
func (f *Fetcher) DocumentOnce(ctx context.Context, url string, max int64) ([]byte, error) {
	data, err := f.document(ctx, url, max)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", Redact(url), err)
	}
	return data, nil
}

func (f *Fetcher) document(ctx context.Context, url string, max int64) ([]byte, error) {
	if !strings.HasPrefix(url, "http:") && !strings.HasPrefix(url, "https:") {
		body, _, err := f.open(ctx, url, 0)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		return readLimited(body, max)
	}
	path := f.documentPath(url)
	meta, old := loadStored(path, url)
	header := http.Header{}
	if meta.ETag != "" {
		header.Set("If-None-Match", meta.ETag)
	}
	if meta.LastModified != "" {
		header.Set("If-Modified-Since", meta.LastModified)
	}
	resp, err := f.request(ctx, url, header)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && old != nil:
		return old, nil
	case resp.StatusCode != http.StatusOK:
		return nil, statusError(resp)
	}
	data, err := readLimited(resp.Body, max)
	if err != nil {
		return nil, err
	}
	if n := resp.ContentLength; n >= 0 && n != int64(len(data)) {
		return nil, io.ErrUnexpectedEOF
	}
	f.keep(path, data, stored{URL: url, ETag: resp.Header.Get("ETag"), LastModified: settled(resp.Header)})
	return data, nil
}

// settled returns the Last-Modified header when it can be relied on: dates have whole seconds, so a file that was written
// in the second in which it was served may change once more without changing its date (RFC 9110, 8.8.2.2).
func settled(h http.Header) string {
	modified, err := http.ParseTime(h.Get("Last-Modified"))
	served, serr := http.ParseTime(h.Get("Date"))
	if err != nil || serr != nil || served.Sub(modified) < 2*time.Second {
		return ""
	}
	return h.Get("Last-Modified")
}

func (f *Fetcher) documentPath(url string) string {
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(f.Cache.Dir, "documents", hex.EncodeToString(sum[:]))
}

// keep stores a document for the next time. It is only a saving: when it fails, nothing is lost.
func (f *Fetcher) keep(path string, data []byte, meta stored) {
	if meta.ETag == "" && meta.LastModified == "" {
		return
	}
	sum := sha256.Sum256(data)
	meta.SHA256 = hex.EncodeToString(sum[:])
	head, err := json.Marshal(meta)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = atomicfile.Write(path, append(append(head, '\n'), data...), 0o644)
	}
	if err != nil {
		f.log().Warn("document not kept", "file", path, "reason", err)
	}
}

// loadStored reads what keep wrote; anything odd about it means that there is nothing.
func loadStored(path, url string) (stored, []byte) {
	all, err := os.ReadFile(path)
	if err != nil {
		return stored{}, nil
	}
	head, data, ok := bytes.Cut(all, []byte("\n"))
	var meta stored
	if !ok || json.Unmarshal(head, &meta) != nil || meta.URL != url {
		return stored{}, nil
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != meta.SHA256 {
		return stored{}, nil
	}
	return meta, data
}

func readLimited(r io.Reader, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, &mismatch{fmt.Sprintf("size more than %d", max)}
	}
	return data, nil
}
