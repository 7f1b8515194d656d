package dpkg

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"netroot/builder/chroot"
	"netroot/builder/lock"
	"netroot/builder/need"
)

func TestMain(m *testing.M) {
	chroot.Main()
	os.Exit(m.Run())
}

var stamp = time.Unix(1700000000, 123456789)

// A thing is one entry of a package made for a test.
type thing struct {
	name string // "usr/bin/x"; a trailing slash makes a folder
	data string
	link string
	hard bool
	mode int64
	head func(*tar.Header)
}

func (f thing) write(t testing.TB, w *tar.Writer) {
	t.Helper()
	h := &tar.Header{Name: "./" + f.name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: stamp, Format: tar.FormatPAX, Size: int64(len(f.data))}
	switch {
	case f.name == "" || strings.HasSuffix(f.name, "/"):
		h.Typeflag, h.Mode = tar.TypeDir, 0o755
	case f.hard:
		h.Typeflag, h.Linkname = tar.TypeLink, "./"+f.link
	case f.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
	}
	if f.mode != 0 {
		h.Mode = f.mode
	}
	if f.head != nil {
		f.head(h)
	}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if h.Typeflag == tar.TypeReg {
		io.WriteString(w, f.data)
	}
}

func tarOf(t testing.TB, things []thing, plain bool) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range things {
		if plain {
			f.head = func(h *tar.Header) { h.Format, h.ModTime = tar.FormatGNU, time.Unix(stamp.Unix(), 0) }
		}
		f.write(t, w)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compressed compresses by the ending of a member's name.
func compressed(t testing.TB, ext string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case "":
		return data
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	case ".xz":
		w, err = xz.NewWriter(&b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func arOf(members ...[2]string) []byte {
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range members {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m[0], 0, 0, 0, "100644", len(m[1]))
		b.WriteString(m[1])
		if len(m[1])%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// A pkg is a package made for a test.
type pkg struct {
	name    string
	fields  string // further lines of control
	control []thing
	files   []thing
	ext     string
	plain   bool // in the tar format that dpkg itself reads: without nanoseconds and extended attributes
}

func (p pkg) text() string {
	text := "Package: " + p.name + "\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b>\nDescription: test\n"
	for _, line := range strings.Split(strings.TrimSpace(p.fields), "\n") {
		if name, _, ok := strings.Cut(line, ":"); ok {
			if i := strings.Index(text, name+":"); i >= 0 {
				end := i + strings.IndexByte(text[i:], '\n') + 1
				text = text[:i] + text[end:]
			}
			text += line + "\n"
		}
	}
	return text
}

func (p pkg) bytes(t testing.TB) []byte {
	t.Helper()
	control := append([]thing{{name: "control", data: p.text()}}, p.control...)
	return arOf([2]string{"debian-binary", "2.0\n"},
		[2]string{"control.tar" + p.ext, string(compressed(t, p.ext, tarOf(t, control, p.plain)))},
		[2]string{"data.tar" + p.ext, string(compressed(t, p.ext, tarOf(t, p.files, p.plain)))})
}

// put unpacks a package into the cache.
func (p pkg) put(t testing.TB, c Cache) (lock.Package, error) {
	t.Helper()
	data := p.bytes(t)
	sum := sha256.Sum256(data)
	file := filepath.Join(t.TempDir(), p.name+".deb")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	control, err := parseControl(p.text())
	if err != nil {
		t.Fatal(err)
	}
	l := lock.Package{Name: p.name, Version: control.get("Version"), Arch: control.get("Architecture"),
		SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data)), Path: file}
	return l, Unpack(t.Context(), file, l.SHA256, c)
}

// build assembles packages in a new folder.
func build(t *testing.T, c Cache, pkgs ...pkg) (string, error) {
	t.Helper()
	need.Root(t)
	var locked []lock.Package
	for _, p := range pkgs {
		l, err := p.put(t, c)
		if err != nil {
			t.Fatal(err)
		}
		locked = append(locked, l)
	}
	dir := filepath.Join(t.TempDir(), "root")
	return dir, Assemble(t.Context(), Root{Packages: locked, Cache: c, Dir: dir, Arch: "amd64"})
}

func md5Of(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}
