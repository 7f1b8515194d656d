package tftp

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for packet, want := range map[string]string{
		"\x00\x01pxelinux.0\x00octet\x00":                                      "read pxelinux.0",
		"\x00\x01pxelinux.0\x00OCTET\x00blksize\x001408\x00tsize\x000\x00":     "read pxelinux.0 blksize=1408 tsize=0",
		"\x00\x01a\x00NetAscii\x00":                                            "read a as text",
		"\x00\x02a\x00octet\x00":                                               "write a",
		"\x00\x01a\x00octet":                                                   "read a",
		"\x00\x01pxelinux.0\xff\x00octet\x00":                                  "read pxelinux.0",
		"\x00\x01a\x00octet\x00BlkSize\x001024\x00WINDOWSIZE\x0016\x00":        "read a blksize=1024 windowsize=16",
		"\x00\x01a\x00octet\x00blksize\x001024\x00blksize\x0099\x00":           "read a blksize=1024",
		"\x00\x01a\x00octet\x00blksize\x007\x00tsize\x00x\x00timeout\x000\x00": "read a",
		"\x00\x01a\x00octet\x00blksize\x00-1\x00timeout\x00256\x00":            "read a",
		"\x00\x01a\x00octet\x00timeout\x00255\x00multicast\x00\x00":            "read a timeout=255",
		"\x00\x01a\x00octet\x00blksize\x0099999999999\x00":                     "read a blksize=2147483647",
		"\x00\x01a\x00octet\x00blksize\x00512\x00\x00\x00\xff\xff\xff":         "read a blksize=512", // garbage behind
		"\x00\x01a\x00octet\x00blksize":                                        "read a",
		"\x00\x01a\x00mail\x00":                                                "only the modes octet and netascii are known",
		"\x00\x01a\x00":                                                        "only the modes octet and netascii are known",
		"\x00\x01abcdef":                                                       "not a request",
		"\x00\x03\x00\x01data":                                                 "not a request",
		"\x01\x01a\x00octet\x00":                                               "not a request",
		"\x00\x01":                                                             "not a request",
		"":                                                                     "not a request",
	} {
		if got := describe(parse([]byte(packet))); got != want {
			t.Errorf("%q: %s, want %s", packet, got, want)
		}
	}
}

func describe(r request, err error) string {
	if err != nil {
		return err.Error()
	}
	s := "read "
	if r.write {
		s = "write "
	}
	s += r.name
	if r.netascii {
		s += " as text"
	}
	for _, o := range r.options {
		s += fmt.Sprintf(" %s=%d", o.name, o.value)
	}
	return s
}

func TestNegotiate(t *testing.T) {
	const size = 42430
	for _, c := range []struct {
		options string // of the request
		limit   int
		want    string
		oack    string
	}{
		{"", 1468, "blocks of 512, window 1", ""},
		{"tsize 0", 1468, "blocks of 512, window 1", "tsize 42430"},
		{"blksize 1432 tsize 0", 1468, "blocks of 1432, window 1", "blksize 1432 tsize 42430"},
		{"tsize 0 blksize 65464", 1468, "blocks of 1468, window 1", "tsize 42430 blksize 1468"},
		{"blksize 65464", 65504, "blocks of 65464, window 1", "blksize 65464"},
		{"blksize 65464 windowsize 16", 65504, "blocks of 65464, window 2", "blksize 65464 windowsize 2"},
		{"windowsize 4 timeout 3", 1468, "blocks of 512, window 4, timeout 3", "windowsize 4 timeout 3"},
		{"windowsize 65535 blksize 8", 1468, "blocks of 8, window 64", "windowsize 64 blksize 8"},
		{"netascii tsize 0 blksize 1024", 1468, "blocks of 1024, window 1", "blksize 1024"},
		{"blksize 1468", 296 - overhead, "blocks of 264, window 1", "blksize 264"}, // a modem
		{"", 296 - overhead, "blocks of 512, window 1", ""},
	} {
		mode, options := "octet", c.options
		if rest, ok := strings.CutPrefix(options, "netascii "); ok {
			mode, options = "netascii", rest
		}
		r, err := parse([]byte("\x00\x01f\x00" + mode + "\x00" + strings.ReplaceAll(options, " ", "\x00") + "\x00"))
		if err != nil {
			t.Fatal(err)
		}
		tm := negotiate(r, size, c.limit)
		got := fmt.Sprintf("blocks of %d, window %d", tm.blksize, tm.window)
		if tm.timeout > 0 {
			got += fmt.Sprintf(", timeout %d", tm.timeout)
		}
		oack := ""
		if tm.oack != nil {
			oack = strings.ReplaceAll(strings.TrimSuffix(string(tm.oack[2:]), "\x00"), "\x00", " ")
		}
		if got != c.want || oack != c.oack {
			t.Errorf("%q at most %d: %s, acknowledged %q; want %s, %q", c.options, c.limit, got, oack, c.want, c.oack)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"\x00\x01pxelinux.0\x00octet\x00blksize\x001408\x00tsize\x000\x00", "\x00\x02\x00\x00", "\x00\x01a\x00netascii\x00windowsize\x0099999\x00timeout\x001"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := parse(p)
		if err != nil {
			if !errors.Is(err, errNoRequest) && !errors.Is(err, errMode) {
				t.Fatal(err)
			}
			return
		}
		for _, limit := range []int{0, 544, 1468, 65504} {
			tm := negotiate(r, 1<<40, limit)
			if tm.blksize < minBlock || tm.blksize > maxBlock || tm.window < 1 || tm.window > maxWindow || tm.timeout < 0 || tm.timeout > maxTimeout ||
				tm.window > 1 && tm.window*tm.blksize > maxWindowBytes || len(tm.oack) > 150 {
				t.Fatalf("%q: %+v", p, tm)
			}
		}
	})
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"pxelinux.0", "/pxelinux.cfg//default", `\a\b`, "../x", "a/..", "..0", "", "/", "a\x00b", "./a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		p, err := Clean(name)
		if err == nil && (!fs.ValidPath(p) || strings.Contains(p, `\`) || p == ".." || strings.HasPrefix(p, "../")) {
			t.Fatalf("%q became %q", name, p)
		}
	})
}
