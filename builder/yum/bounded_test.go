package yum

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"netroot/builder/fetch"
)

// whole is data of any length within the limits.
func whole(data []byte) *bounded { return dataFile{kind: "primary"}.bound(bytes.NewReader(data)) }

// repack puts a text in place of a file of a repository and vouches for it in repomd.xml, where it says of the unpacked size what is stated.
func repack(t *testing.T, dir, name string, text []byte, stated string) {
	t.Helper()
	name = filepath.Join("repodata", name)
	data := text
	if strings.HasSuffix(name, ".gz") {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		z.Write(text)
		z.Close()
		data = packed.Bytes()
	}
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
	rewrite(t, filepath.Join(dir, "repodata", "repomd.xml"), func(s string) string {
		entry := regexp.MustCompile(`<data type="(\w+)"><checksum.*href="` + regexp.QuoteMeta(name) + `".*</data>`)
		return entry.ReplaceAllString(s, fmt.Sprintf(`<data type="$1"><checksum type="sha256">%x</checksum><location href="%s"/><size>%d</size>%s</data>`, sha256.Sum256(data), name, len(data), stated))
	})
}

// TestBombs has metadata that is small as it is served and unpacks to what would fill the memory.
func TestBombs(t *testing.T) {
	const much = 48 << 20
	long := bytes.Repeat([]byte("a"), much)
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		says   string
	}{
		{"more than is stated", func(t *testing.T, dir string) {
			repack(t, dir, "primary.xml.gz", bytes.Repeat([]byte("<a/>"), much/4), "<open-size>1234</open-size>")
		}, "read repodata/primary.xml.gz: it unpacks to more than the 1234 bytes that repomd.xml states"},
		{"stated", func(t *testing.T, dir string) {
			repack(t, dir, "primary.xml.gz", nil, "<open-size>999999999999</open-size>")
			os.Remove(filepath.Join(dir, "repodata", "primary.xml.gz")) // nobody asks for it
		}, "repodata/primary.xml.gz unpacks to 999999999999 bytes, as repomd.xml states, and no more than 805306368 are read"},
		{"long to fetch", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, "repodata", "repomd.xml"), func(s string) string {
				return regexp.MustCompile(`<size>\d+`).ReplaceAllString(s, "<size>999999999999")
			})
		}, "repodata/primary.xml.gz has 999999999999 bytes, as repomd.xml states"},
		{"one text", func(t *testing.T, dir string) {
			repack(t, dir, "primary.xml.gz", append([]byte("<metadata><package><name>"), long...), "")
		}, "read repodata/primary.xml.gz: it has a text of more than 1048576 bytes"},
		{"one tag", func(t *testing.T, dir string) {
			repack(t, dir, "primary.xml.gz", append([]byte(`<metadata a="`), long...), "")
		}, "read repodata/primary.xml.gz: it has a text of more than 1048576 bytes"},
		{"one path", func(t *testing.T, dir string) {
			repack(t, dir, "filelists.xml.gz", append([]byte("<filelists><package><file>"), long...), "")
		}, "read repodata/filelists.xml.gz: it has a text of more than 1048576 bytes"},
		{"groups", func(t *testing.T, dir string) {
			repack(t, dir, "comps.xml.gz", append([]byte("<comps>"), bytes.Repeat([]byte("<a/>"), much/4)...), "")
		}, "read repodata/comps.xml.gz: it unpacks to more than 33554432 bytes, which is more than any repository has"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeRepoPacked(t, dir, small(t), comps, "gz", "gz")
			c.damage(t, dir)
			held := new(runtime.MemStats)
			runtime.GC()
			runtime.ReadMemStats(held)
			before := held.Sys
			_, err := Open(t.Context(), Config{Repos: []Repo{{Name: "fixture", BaseURL: "file://" + dir}}, Arch: "i686"}, &fetch.Fetcher{Cache: fetch.Cache{Dir: t.TempDir()}})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nwant %q", err, c.says)
			}
			if runtime.ReadMemStats(held); held.Sys-before > much {
				t.Errorf("%d MiB of memory more", (held.Sys-before)>>20)
			}
		})
	}
}

// endless is a text again and again.
type endless struct{ text, rest []byte }

func (e *endless) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		e.rest = e.text
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// TestElements has packages without end, and one without an end.
func TestElements(t *testing.T) {
	for text, says := range map[string]string{
		"<a/>": "a package has more than 262144 elements, near byte 10",
		`<name>a</name><arch>noarch</arch><version ver="1"/>` + strings.Repeat("<a/>", 1000) + "</package><package>": "it has more than 524288 elements",
	} {
		r := dataFile{kind: "primary"}.bound(io.MultiReader(strings.NewReader("<package>"), &endless{text: []byte(text)}))
		r.elements = 2 * maxOfPackage
		if _, err := parsePrimary(r, &Repo{}, func(*Package) bool { return true }); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v\nwant %q", err, says)
		}
	}
}
