package rpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// A Tag names a field of a header (rpm's include/rpm/rpmtag.h).
type Tag uint32

// The fields that are read here.
const (
	TagHeaderImmutable Tag = 63

	TagName           Tag = 1000
	TagVersion        Tag = 1001
	TagRelease        Tag = 1002
	TagEpoch          Tag = 1003
	TagArch           Tag = 1022
	TagFileSizes      Tag = 1028
	TagProvideNames   Tag = 1047
	TagRequireNames   Tag = 1049
	TagFileModes      Tag = 1030
	TagFileRDevs      Tag = 1033
	TagFileMTimes     Tag = 1034
	TagFileDigests    Tag = 1035
	TagFileLinkTos    Tag = 1036
	TagFileFlags      Tag = 1037
	TagFileUserNames  Tag = 1039
	TagFileGroupNames Tag = 1040
	TagFileInodes     Tag = 1096
	TagDirIndexes     Tag = 1116
	TagBaseNames      Tag = 1117
	TagDirNames       Tag = 1118
	TagPayloadFormat  Tag = 1124
	TagPayloadCompr   Tag = 1125
	TagFileCaps       Tag = 5010
	TagFileDigestAlgo Tag = 5011
	TagLongFileSizes  Tag = 5008
	TagPayloadDigest  Tag = 5092
	TagPayloadDigAlgo Tag = 5093
)

// Fields of the signature header.
const (
	SigDSA    Tag = 267 // over the header
	SigRSA    Tag = 268 // over the header
	SigSHA1   Tag = 269 // of the header, in hex
	SigSHA256 Tag = 273 // of the header, in hex
	SigSize   Tag = 1000
	SigPGP    Tag = 1002 // RSA, over header and payload
	SigMD5    Tag = 1004 // of header and payload
	SigGPG    Tag = 1005 // DSA, over header and payload
)

// types of fields
const (
	typeChar   = 1
	typeInt8   = 2
	typeInt16  = 3
	typeInt32  = 4
	typeInt64  = 5
	typeString = 6
	typeBin    = 7
	typeArray  = 8
	typeI18N   = 9
)

// Limits of rpm itself (lib/header.c): entries of an index, bytes of a store.
const (
	maxEntries = 0x0000ffff
	maxStore   = 0x0fffffff
	leadSize   = 96
	introSize  = 16
	entrySize  = 16
)

var (
	leadMagic   = []byte{0xed, 0xab, 0xee, 0xdb}
	headerMagic = []byte{0x8e, 0xad, 0xe8, 0x01}
)

// A Header is the index of one header section and the bytes that it points into.
type Header struct {
	entries map[Tag]headerEntry
	store   []byte
	size    int64 // of the whole section
}

type headerEntry struct {
	kind, offset, count uint32
}

// readHeader reads the header section at off.
func readHeader(r io.ReaderAt, off, size int64) (*Header, error) {
	var intro [introSize]byte
	if _, err := r.ReadAt(intro[:], off); err != nil {
		return nil, short(err)
	}
	if !bytes.HasPrefix(intro[:], headerMagic) {
		return nil, fmt.Errorf("no header at byte %d", off)
	}
	n, length := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
	whole := introSize + int64(n)*entrySize + int64(length)
	if n == 0 || n > maxEntries || length > maxStore || off+whole > size {
		return nil, fmt.Errorf("the header at byte %d claims %d entries and %d bytes, of a file of %d", off, n, length, size)
	}
	buf := make([]byte, whole-introSize)
	if _, err := r.ReadAt(buf, off+introSize); err != nil {
		return nil, short(err)
	}
	return newHeader(buf[:n*entrySize], buf[n*entrySize:])
}

// newHeader reads an index into a store.
func newHeader(index, store []byte) (*Header, error) {
	h := &Header{entries: make(map[Tag]headerEntry, len(index)/entrySize), store: store, size: introSize + int64(len(index)+len(store))}
	length := uint32(len(store))
	for ; len(index) > 0; index = index[entrySize:] {
		word := func(i int) uint32 { return binary.BigEndian.Uint32(index[4*i:]) }
		e := headerEntry{kind: word(1), offset: word(2), count: word(3)}
		if e.offset > length || e.count > length+1 {
			return nil, fmt.Errorf("field %d points behind the end of its header", word(0))
		}
		h.entries[Tag(word(0))] = e
	}
	return h, nil
}

func short(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Has says whether the field is there.
func (h *Header) Has(t Tag) bool {
	_, ok := h.entries[t]
	return ok
}

// Strings returns a text or a list of texts, nil when the field is not there or cut off.
func (h *Header) Strings(t Tag) []string {
	e, ok := h.entries[t]
	if !ok || e.kind != typeString && e.kind != typeArray && e.kind != typeI18N {
		return nil
	}
	count := e.count
	if e.kind == typeString {
		count = 1
	}
	out := make([]string, 0, count)
	for rest := h.store[e.offset:]; count > 0; count-- {
		end := bytes.IndexByte(rest, 0)
		if end < 0 {
			return nil
		}
		out = append(out, string(rest[:end]))
		rest = rest[end+1:]
	}
	return out
}

// String returns a text, "" when the field is not there.
func (h *Header) String(t Tag) string {
	if s := h.Strings(t); len(s) > 0 {
		return s[0]
	}
	return ""
}

// Numbers returns a list of numbers, of whatever width they are stored in.
func (h *Header) Numbers(t Tag) []uint64 {
	e, ok := h.entries[t]
	width := map[uint32]uint32{typeChar: 1, typeInt8: 1, typeInt16: 2, typeInt32: 4, typeInt64: 8}[e.kind]
	if !ok || width == 0 || uint64(e.offset)+uint64(e.count)*uint64(width) > uint64(len(h.store)) {
		return nil
	}
	out := make([]uint64, e.count)
	for i := range out {
		var v uint64
		for _, b := range h.store[e.offset+uint32(i)*width:][:width] {
			v = v<<8 | uint64(b)
		}
		out[i] = v
	}
	return out
}

// Number returns the first number of a field.
func (h *Header) Number(t Tag) (uint64, bool) {
	if n := h.Numbers(t); len(n) > 0 {
		return n[0], true
	}
	return 0, false
}

// Bytes returns binary data, nil when the field is not there.
func (h *Header) Bytes(t Tag) []byte {
	e, ok := h.entries[t]
	if !ok || e.kind != typeBin || uint64(e.offset)+uint64(e.count) > uint64(len(h.store)) {
		return nil
	}
	return h.store[e.offset:][:e.count]
}

// A File is an opened .rpm: a lead that nobody reads any more, a header of signatures and digests, the header, and the payload.
type File struct {
	Signature, Header *Header

	r         io.ReaderAt
	headerOff int64
	payload   int64 // where it begins
	size      int64
}

// Open reads the headers of a package file. It checks their form, not that the file is what it was when it was signed: see
// Verify.
func Open(r io.ReaderAt, size int64) (*File, error) {
	var lead [leadSize]byte
	if _, err := r.ReadAt(lead[:], 0); err != nil || !bytes.HasPrefix(lead[:], leadMagic) {
		return nil, errors.New("it is no RPM package")
	}
	if binary.BigEndian.Uint16(lead[6:]) != 0 {
		return nil, errors.New("it is a source package")
	}
	sig, err := readHeader(r, leadSize, size)
	if err != nil {
		return nil, fmt.Errorf("read the signatures: %w", err)
	}
	f := &File{Signature: sig, r: r, size: size}
	f.headerOff = leadSize + (sig.size+7)&^7
	if f.Header, err = readHeader(r, f.headerOff, size); err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	f.payload = f.headerOff + f.Header.size
	for _, t := range []Tag{TagName, TagVersion, TagRelease, TagArch} {
		if f.Header.String(t) == "" {
			return nil, fmt.Errorf("the header has no field %d", t)
		}
		// They make the names of files, and words of rpm's command line.
		if s := f.Header.String(t); strings.ContainsFunc(s, func(c rune) bool { return c == '/' || c <= ' ' || c == 0x7f }) {
			return nil, fmt.Errorf("the header has %q where no slash, blank or control character may be", s)
		}
	}
	return f, nil
}

// EVR returns the version of the package.
func (f *File) EVR() EVR {
	v := EVR{Version: f.Header.String(TagVersion), Release: f.Header.String(TagRelease)}
	if epoch, ok := f.Header.Number(TagEpoch); ok {
		v.Epoch = fmt.Sprint(epoch)
	}
	return v
}

// String is the package as rpm writes it.
func (f *File) String() string {
	return f.Header.String(TagName) + "-" + f.EVR().String() + "." + f.Header.String(TagArch)
}

// HashHeader writes the header section to h. It tells one package from another: it has the digests of the files.
func (f *File) HashHeader(h hash.Hash) error {
	_, err := io.Copy(h, f.header())
	return err
}

// header returns the bytes of the header section: what SigRSA, SigDSA and the digests of the header are over.
func (f *File) header() io.Reader { return io.NewSectionReader(f.r, f.headerOff, f.Header.size) }

// body returns the bytes of header and payload: what SigPGP, SigGPG and SigMD5 are over.
func (f *File) body() io.Reader { return io.NewSectionReader(f.r, f.headerOff, f.size-f.headerOff) }

// Payload returns where the compressed payload lies, and how it is compressed, as the ending of a file's name says it.
func (f *File) Payload() (r io.ReaderAt, size int64, ext string, err error) {
	compressors := map[string]string{"": ".gz", "gzip": ".gz", "xz": ".xz", "lzma": ".lzma", "bzip2": ".bz2", "zstd": ".zst"}
	name := f.Header.String(TagPayloadCompr)
	ext, ok := compressors[name]
	if !ok {
		return nil, 0, "", fmt.Errorf("its payload is compressed by %q, which is not known", name)
	}
	if format := f.Header.String(TagPayloadFormat); format != "cpio" && format != "" {
		return nil, 0, "", fmt.Errorf("its payload is a %q, not a cpio archive", format)
	}
	return io.NewSectionReader(f.r, f.payload, f.size-f.payload), f.size - f.payload, ext, nil
}
