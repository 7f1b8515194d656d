package tftp

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Operations and error codes of RFC 1350, with RFC 2347's.
const (
	opRead  = 1
	opWrite = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOack  = 6

	codeOther    = 0
	codeNotFound = 1
	codeAccess   = 2
	codeIllegal  = 4
	codeUnknown  = 5 // unknown transfer ID
)

const (
	header       = 4 // of a data packet
	defaultBlock = 512
	minBlock     = 8     // RFC 2348
	maxBlock     = 65464 // RFC 2348
	maxWindow    = 64
	// A window is at most this much, whatever its blocks are: it is sent at one stroke, into a client's receive ring.
	maxWindowBytes = 128 << 10
	maxTimeout     = 255 // RFC 2349
)

// A request is a read or write request, with the options that are understood.
type request struct {
	write    bool
	name     string
	netascii bool
	options  []option // in the client's order, each once
}

type option struct {
	name  string // blksize, tsize, timeout or windowsize
	value int
}

var (
	errNoRequest = errors.New("not a request")
	errMode      = errors.New("only the modes octet and netascii are known")
)

// parse reads a request. Names of options and modes are in either case; an option that is unknown or has no meaning is left
// out, as RFC 2347 wants. The last string may lack its NUL, and what follows the last whole option is ignored.
func parse(p []byte) (request, error) {
	var r request
	if len(p) < 4 || p[0] != 0 || p[1] != opRead && p[1] != opWrite {
		return r, errNoRequest
	}
	r.write = p[1] == opWrite
	words := strings.Split(string(p[2:]), "\x00")
	if len(words) < 2 {
		return r, errNoRequest
	}
	// A boot file of DHCP option 67 without a NUL makes some clients take the option that follows, END, for a part of the name.
	r.name = words[0]
	for strings.HasSuffix(r.name, "\xff") {
		r.name = r.name[:len(r.name)-1]
	}
	switch strings.ToLower(words[1]) {
	case "octet":
	case "netascii":
		r.netascii = true
	default:
		return r, errMode
	}
	for w := words[2:]; len(w) >= 2; w = w[2:] {
		o := option{name: strings.ToLower(w[0])}
		n, err := strconv.ParseUint(w[1], 10, 63)
		if err != nil || slices.ContainsFunc(r.options, func(have option) bool { return have.name == o.name }) {
			continue
		}
		o.value = int(min(n, 1<<31-1))
		switch {
		case o.name == "blksize" && n >= minBlock:
		case o.name == "tsize":
		case o.name == "timeout" && n >= 1 && n <= maxTimeout:
		case o.name == "windowsize" && n >= 1 && n <= 65535: // RFC 7440
		default:
			continue
		}
		r.options = append(r.options, o)
	}
	return r, nil
}

// Terms are what a transfer goes by.
type terms struct {
	blksize, window int
	timeout         int    // seconds between resends at most, 0 when the client did not say
	sized           bool   // the client was told the size
	oack            []byte // nil: the first data block is the answer
}

// negotiate answers the options of a request for a file of size bytes, where blocks may have at most limit bytes.
func negotiate(r request, size int64, limit int) terms {
	limit = max(min(limit, maxBlock), minBlock)
	t := terms{blksize: defaultBlock, window: 1} // what a client that asks for nothing gets on any network
	for _, o := range r.options {
		if o.name == "blksize" {
			t.blksize = min(o.value, limit)
		}
	}
	var b []byte
	for _, o := range r.options {
		value := int64(o.value)
		switch o.name {
		case "blksize":
			value = int64(t.blksize)
		case "timeout":
			t.timeout = o.value
		case "windowsize":
			t.window = max(min(o.value, maxWindow, maxWindowBytes/t.blksize), 1)
			value = int64(t.window)
		case "tsize":
			if r.netascii {
				continue // the size on disk is not that of the transfer; dnsmasq leaves it out, too
			}
			value, t.sized = size, true
		}
		b = append(append(b, o.name...), 0)
		b = append(strconv.AppendInt(b, value, 10), 0)
	}
	if b != nil {
		t.oack = append([]byte{0, opOack}, b...)
	}
	return t
}

// errorPacket makes an ERROR.
func errorPacket(code uint16, text string) []byte {
	p := binary.BigEndian.AppendUint16([]byte{0, opError}, code)
	return append(append(p, clip(text, maxErrorText)...), 0)
}

// Clean turns the name a client asks for into a path for an fs.FS. Firmware sends names with and without a leading slash,
// with doubled ones (pxelinux, after a prefix) and with backslashes (Windows loaders). A name that would leave the tree is
// an error, even where cleaning would bring it back.
func Clean(name string) (string, error) {
	p := strings.TrimLeft(strings.ReplaceAll(name, `\`, "/"), "/")
	if slices.Contains(strings.Split(p, "/"), "..") {
		return "", errors.New("the name leaves the served tree")
	}
	if strings.ContainsRune(p, 0) || p == "" {
		return "", errors.New("not a file name")
	}
	p = path.Clean(p)
	if !fs.ValidPath(p) {
		return "", errors.New("not a file name")
	}
	return p, nil
}

// clip shortens what a client sent before it goes into a log line.
func clip(s string, n int) string {
	s = strings.TrimRight(s, "\x00")
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
