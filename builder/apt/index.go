package apt

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"netroot/builder/atomicfile"
	"netroot/builder/deb"
)

// A Package is one stanza of a Packages file: what is needed to choose, fetch and verify it.
type Package struct {
	Name      string
	Version   string
	Arch      string // amd64, i386, all
	Repo      string // "bookworm", "bookworm-security"
	Path      string // below the repository's base URL
	Size      int64
	SHA256    string
	Essential bool
	Priority  Priority

	multiArch                                        byte
	preDepends, depends, conflicts, breaks, provides string
}

func (p *Package) String() string { return p.Name + " " + p.Version }

// Priority is the archive's word for how much a system needs a package; a lower one is needed more.
type Priority byte

const (
	Required Priority = iota + 1
	Important
	Standard
	Optional
	Extra
)

var priorities = [...]string{Required: "required", Important: "important", Standard: "standard", Optional: "optional", Extra: "extra"}

const (
	multiArchSame byte = iota + 1
	multiArchForeign
	multiArchAllowed
)

// The compact form of a Packages file: magic, SHA-256 of the rest, and per package the strings of indexFields and a
// fixed part. It is made once per Packages file, named by that file's verified digest, and read in one go without copying.
const indexMagic = "netroot apt index 1\n"

const (
	fieldName = iota
	fieldVersion
	fieldArch
	fieldPath
	fieldSHA256
	fieldPreDepends
	fieldDepends
	fieldConflicts
	fieldBreaks
	fieldProvides
	fieldCount
)

var fieldNames = map[string]int{
	"Package": fieldName, "Version": fieldVersion, "Architecture": fieldArch, "Filename": fieldPath, "SHA256": fieldSHA256,
	"Pre-Depends": fieldPreDepends, "Depends": fieldDepends, "Conflicts": fieldConflicts, "Breaks": fieldBreaks,
	"Provides": fieldProvides,
}

// stanza collects the fields of one package.
type stanza struct {
	fields    [fieldCount][]byte
	size      int64
	essential bool
	priority  Priority
	multiArch byte
	any       bool
}

// compact reads a Packages file and returns its compact form. Stanzas of other architectures are left out, as are those
// that nothing could verify (no SHA-256) or that point outside of the repository.
func compact(r io.Reader, arch string) ([]byte, error) {
	out := make([]byte, len(indexMagic)+sha256.Size, 64<<10)
	br := bufio.NewReaderSize(r, 256<<10)
	var st stanza
	var field int // the string field that a continuation line belongs to, or -1
	var long []byte
	for lineNumber := 1; ; lineNumber++ {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) { // a line longer than the buffer: put it together
			long = append(long[:0], line...)
			for errors.Is(err, bufio.ErrBufferFull) {
				line, err = br.ReadSlice('\n')
				long = append(long, line...)
				if len(long) > 16<<20 {
					return nil, fmt.Errorf("line %d is longer than 16 MB", lineNumber)
				}
			}
			line = long
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		atEnd := err == io.EOF
		line = bytes.TrimRight(line, "\r\n\t ")
		switch {
		case len(line) == 0:
			if st.any {
				if out, err = st.appendTo(out, arch); err != nil {
					return nil, fmt.Errorf("stanza that ends at line %d: %w", lineNumber, err)
				}
			}
			st.reset()
			field = -1
		case line[0] == ' ' || line[0] == '\t':
			if field >= 0 {
				st.fields[field] = append(append(st.fields[field], ' '), bytes.TrimSpace(line)...)
			}
		default:
			colon := bytes.IndexByte(line, ':')
			if colon < 0 {
				return nil, fmt.Errorf("line %d has no colon: %.60q", lineNumber, line)
			}
			st.any = true
			if field, err = st.set(line[:colon], bytes.TrimLeft(line[colon+1:], " \t")); err != nil {
				return nil, fmt.Errorf("line %d: %w", lineNumber, err)
			}
		}
		if atEnd {
			break
		}
	}
	if st.any {
		var err error
		if out, err = st.appendTo(out, arch); err != nil {
			return nil, fmt.Errorf("last stanza: %w", err)
		}
	}
	copy(out, indexMagic)
	sum := sha256.Sum256(out[len(indexMagic)+sha256.Size:])
	copy(out[len(indexMagic):], sum[:])
	return out, nil
}

func (st *stanza) reset() {
	for i := range st.fields {
		st.fields[i] = st.fields[i][:0]
	}
	st.size, st.essential, st.priority, st.multiArch, st.any = 0, false, 0, 0, false
}

// set takes one field and returns its number when continuation lines belong to it.
func (st *stanza) set(key, value []byte) (int, error) {
	switch string(key) {
	case "Size":
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil || n < 0 {
			return -1, fmt.Errorf("size %q is not a number", value)
		}
		st.size = n
	case "Essential":
		st.essential = string(value) == "yes"
	case "Priority":
		for p, word := range priorities {
			if word != "" && string(value) == word {
				st.priority = Priority(p)
			}
		}
	case "Multi-Arch":
		switch string(value) {
		case "same":
			st.multiArch = multiArchSame
		case "foreign":
			st.multiArch = multiArchForeign
		case "allowed":
			st.multiArch = multiArchAllowed
		}
	default:
		if field, ok := fieldNames[string(key)]; ok {
			st.fields[field] = append(st.fields[field][:0], value...)
			return field, nil
		}
	}
	return -1, nil
}

func (st *stanza) appendTo(out []byte, arch string) ([]byte, error) {
	if a := string(st.fields[fieldArch]); a != arch && a != "all" {
		return out, nil
	}
	if len(st.fields[fieldSHA256]) != 64 {
		return out, nil
	}
	if name := string(st.fields[fieldName]); !deb.ValidName(name) {
		return out, fmt.Errorf("%q is not a package name", name)
	}
	path := strings.TrimPrefix(string(st.fields[fieldPath]), "./")
	if !filepath.IsLocal(path) {
		return out, fmt.Errorf("package %s has the path %q, which leaves the repository", st.fields[fieldName], path)
	}
	st.fields[fieldPath] = append(st.fields[fieldPath][:0], path...)
	essential := byte(0)
	if st.essential {
		essential = 1
	}
	out = append(out, essential, byte(st.priority), st.multiArch)
	out = binary.AppendUvarint(out, uint64(st.size))
	for _, f := range st.fields {
		out = binary.AppendUvarint(out, uint64(len(f)))
		out = append(out, f...)
	}
	return out, nil
}

var errIndex = errors.New("the compact package list is damaged")

// expand reads the compact form. The strings of the packages share data's memory, which must not be changed any more.
func expand(data []byte, repo string) ([]Package, error) {
	const head = len(indexMagic) + sha256.Size
	if len(data) < head || string(data[:len(indexMagic)]) != indexMagic {
		return nil, errIndex
	}
	if sum := sha256.Sum256(data[head:]); string(sum[:]) != string(data[len(indexMagic):head]) {
		return nil, errIndex
	}
	body := unsafe.String(unsafe.SliceData(data), len(data))[head:]
	pkgs := make([]Package, 0, len(body)/220+1)
	for len(body) > 0 {
		if len(body) < 4 {
			return nil, errIndex
		}
		pkgs = append(pkgs, Package{Repo: repo, Essential: body[0] == 1, Priority: Priority(body[1]), multiArch: body[2]})
		p := &pkgs[len(pkgs)-1]
		body = body[3:]
		size, rest, ok := uvarint(body)
		if !ok {
			return nil, errIndex
		}
		p.Size, body = int64(size), rest
		for _, dst := range [fieldCount]*string{&p.Name, &p.Version, &p.Arch, &p.Path, &p.SHA256, &p.preDepends, &p.depends, &p.conflicts, &p.breaks, &p.provides} {
			n, rest, ok := uvarint(body)
			if !ok || n > uint64(len(rest)) {
				return nil, errIndex
			}
			*dst, body = rest[:n], rest[n:]
		}
	}
	return pkgs, nil
}

func uvarint(s string) (uint64, string, bool) {
	var v uint64
	for i := 0; i < len(s) && i < 9; i++ {
		v |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			return v, s[i+1:], true
		}
	}
	return 0, s, false
}

// indexCache keeps compact forms in a folder.
type indexCache struct{ dir string }

func (c indexCache) path(sum, arch string) string {
	return filepath.Join(c.dir, sum+"."+arch)
}

// load returns the packages of the Packages file with the digest sum, if its compact form is there and whole.
func (c indexCache) load(sum, arch, repo string) ([]Package, bool) {
	path := c.path(sum, arch)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	pkgs, err := expand(data, repo)
	if err != nil {
		os.Remove(path)
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // in use: sweep leaves it
	return pkgs, true
}

func (c indexCache) store(sum, arch string, data []byte) error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return fmt.Errorf("make folder for package lists: %w", err)
	}
	c.sweep(time.Now().AddDate(0, 0, -30))
	return atomicfile.Write(c.path(sum, arch), data, 0o644)
}

// sweep removes what nobody used since then: every update of an archive leaves a list behind.
func (c indexCache) sweep(since time.Time) {
	entries, _ := os.ReadDir(c.dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().Before(since) {
			os.Remove(filepath.Join(c.dir, e.Name()))
		}
	}
}
