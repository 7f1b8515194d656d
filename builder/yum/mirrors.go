package yum

import (
	"context"
	"crypto"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"

	"netroot/builder/fetch"
)

// strengths are the digests that a metalink may vouch with, the best first. MD5 is not among them: anybody can forge it.
var strengths = []struct {
	kind string
	hash crypto.Hash
}{{"sha512", crypto.SHA512}, {"sha256", crypto.SHA256}, {"sha1", crypto.SHA1}}

// vouches says whether d is the digest of data.
func (d digest) vouches(data []byte) bool {
	for _, s := range strengths {
		if s.kind == d.kind {
			h := s.hash.New()
			h.Write(data)
			return hex.EncodeToString(h.Sum(nil)) == d.hex
		}
	}
	return false
}

// A documenter fetches a file whose digest is not known.
type documenter func(ctx context.Context, url string, max int64) ([]byte, error)

// find reads a repository at the first of its mirrors whose repomd.xml is right and leads to files that are there. The files
// may come from any of them: their digests are known.
func (o *opener) find(ctx context.Context, repo *Repo) (*source, error) {
	bases, accept, err := o.bases(ctx, repo)
	if err != nil {
		return nil, err
	}
	failed, busy := make([]error, len(bases)), make([]bool, len(bases))
	try := func(i int, document documenter) (*source, error) {
		s := &source{repo: repo, bases: slices.Concat(bases[i:], bases[:i])}
		failed[i] = o.read(ctx, s, accept, func(ctx context.Context, url string, max int64) ([]byte, error) {
			data, err := document(ctx, url, max)
			busy[i] = err != nil && fetch.Temporary(err)
			return data, err
		})
		if failed[i] == nil {
			return s, nil
		}
		if len(bases) > 1 {
			o.log.Warn("mirror passed over", "repository", repo.Name, "mirror", fetch.Redact(bases[i]), "reason", failed[i])
		}
		return nil, context.Cause(ctx)
	}
	// Where there are several, each is asked once before any is waited for.
	for i := range bases {
		document := o.fetcher.DocumentOnce
		if len(bases) == 1 {
			document = o.fetcher.Document
		}
		if s, err := try(i, document); s != nil || err != nil {
			return s, err
		}
	}
	for i := range bases {
		if len(bases) > 1 && busy[i] {
			if s, err := try(i, o.fetcher.Document); s != nil || err != nil {
				return s, err
			}
		}
	}
	if n := len(failed) - 3; n > 0 {
		failed = append(failed[:3], fmt.Errorf("and nothing better at %d more mirrors", n))
	}
	return nil, errors.Join(failed...)
}

// read reads what the first mirror of a source says; document fetches repomd.xml.
func (o *opener) read(ctx context.Context, s *source, accept []digest, document documenter) (err error) {
	if s.md, err = o.repomd(ctx, s.repo, s.bases[0], accept, document); err != nil {
		return err
	}
	if err = o.primary(ctx, s); err == nil {
		s.groups, err = o.groups(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("at %s: %w", fetch.Redact(s.bases[0]), err)
	}
	return nil
}

// bases lists where a repository may be, the best first, and the digests of which its repomd.xml must have one: no digests
// when nobody tells them.
func (o *opener) bases(ctx context.Context, repo *Repo) (urls []string, accept []digest, err error) {
	if repo.BaseURL != "" {
		base, err := o.cfg.expand(strings.TrimRight(repo.BaseURL, "/"))
		return []string{base}, nil, err
	}
	list := repo.MirrorList
	if repo.Metalink != "" {
		list = repo.Metalink
	}
	address, err := o.cfg.expand(list)
	if err != nil {
		return nil, nil, err
	}
	data, err := o.fetcher.Document(ctx, address, maxRepomd)
	if err != nil {
		return nil, nil, err
	}
	if repo.Metalink != "" {
		urls, accept, err = parseMetalink(data, repo.Legacy)
	} else {
		urls, err = parseMirrorlist(data)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", fetch.Redact(address), err)
	}
	for i := range urls {
		if urls[i], err = o.cfg.expand(urls[i]); err != nil {
			return nil, nil, err
		}
	}
	return urls, accept, nil
}

// xmlHashes are the digests of one state of a file.
type xmlHashes struct {
	Hashes []struct {
		Type string `xml:"type,attr"`
		Sum  string `xml:",chardata"`
	} `xml:"verification>hash"`
}

// best returns the strongest digest; SHA-1 only with legacy.
func (x xmlHashes) best(legacy bool) (digest, bool) {
	for _, s := range strengths {
		for _, h := range x.Hashes {
			if d, err := newDigest(h.Type, h.Sum); err == nil && d.kind == s.kind && (d.kind != "sha1" || legacy) {
				return d, true
			}
		}
	}
	return digest{}, false
}

// parseMetalink reads a metalink of version 3 as MirrorManager writes it: the URLs of repomd.xml, best first, with the name of the file
// cut off, and the digests of what it may be: today's, and those before, which mirrors that lag behind still have (mm0:alternates; librepo
// takes them, too). Without a digest in it, there is none.
func parseMetalink(data []byte, legacy bool) (urls []string, accept []digest, err error) {
	var x struct {
		XMLName xml.Name `xml:"metalink"`
		Files   []struct {
			xmlHashes
			Name   string      `xml:"name,attr"`
			Before []xmlHashes `xml:"alternates>alternate"`
			URLs   []struct {
				Preference int    `xml:"preference,attr"`
				URL        string `xml:",chardata"`
			} `xml:"resources>url"`
		} `xml:"files>file"`
	}
	if err := xml.Unmarshal(data, &x); err != nil {
		return nil, nil, fmt.Errorf("it is no metalink: %w", err)
	}
	type ranked struct {
		url  string
		rank int
	}
	var all []ranked
	told := false
	for _, f := range x.Files {
		if f.Name != "repomd.xml" {
			continue
		}
		for _, state := range append([]xmlHashes{f.xmlHashes}, f.Before...) {
			told = told || len(state.Hashes) > 0
			if d, ok := state.best(legacy); ok {
				accept = append(accept, d)
			}
		}
		for _, u := range f.URLs {
			base, ok := strings.CutSuffix(strings.TrimSpace(u.URL), "/repodata/repomd.xml")
			if ok && isURL(base) {
				all = append(all, ranked{base, u.Preference})
			}
		}
	}
	switch {
	case len(all) == 0:
		return nil, nil, errors.New("it names no mirror that has a repomd.xml by http, https or file")
	case told && len(accept) == 0 && !legacy:
		return nil, nil, errors.New("it vouches for repomd.xml by digests only that can be forged, such as SHA-1: if it is as old as that, write legacy: true beside the repository in the recipe")
	case told && len(accept) == 0:
		return nil, nil, errors.New("it vouches for repomd.xml by digests only that are not accepted")
	}
	slices.SortStableFunc(all, func(a, b ranked) int { return b.rank - a.rank })
	for _, r := range all {
		urls = append(urls, r.url)
	}
	return urls, accept, nil
}

// parseMirrorlist reads base URLs, one a line.
func parseMirrorlist(data []byte) ([]string, error) {
	var urls []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimRight(strings.TrimSpace(line), "/"); isURL(line) {
			urls = append(urls, line)
		}
	}
	if len(urls) == 0 {
		return nil, errors.New("it names no mirror by http, https or file")
	}
	return urls, nil
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "file:")
}
