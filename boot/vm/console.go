package vm

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Line is one line of a console or a log.
type Line struct {
	Time time.Time // when its first byte came
	End  time.Time // when it was complete; a prompt can stand there long before
	Text string    // without line end, escape sequences and other control characters
}

// lineLog cuts what is written to it into lines, and passes the bytes on untouched to a copy, if there is one.
type lineLog struct {
	lines *feed[Line]
	copy  io.Writer

	mu    sync.Mutex
	part  []byte
	began time.Time
	last  time.Time
}

func newLineLog() *lineLog { return &lineLog{lines: newFeed[Line]()} }

// maxLine bounds memory when a machine writes without ever ending a line.
const maxLine = 16 << 10

func (l *lineLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = time.Now()
	if l.copy != nil {
		// A full disk must not end the machine: what is lost is the copy.
		_, _ = l.copy.Write(p)
	}
	for rest := p; len(rest) > 0; {
		if len(l.part) == 0 {
			l.began = l.last
		}
		line, tail, found := bytes.Cut(rest, []byte{'\n'})
		l.part = append(l.part, line...)
		if found || len(l.part) > maxLine {
			l.flush()
		}
		rest = tail
	}
	return len(p), nil
}

func (l *lineLog) flush() {
	l.lines.add(Line{Time: l.began, End: l.last, Text: clean(string(l.part))})
	l.part = l.part[:0]
}

// Close ends the stream; a last line without an end counts.
func (l *lineLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.flush()
	}
	l.lines.close()
	return nil
}

// quietSince is the time of the last byte, or the zero time.
func (l *lineLog) quietSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// unfinished is the last line as long as it has no end.
func (l *lineLog) unfinished() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return clean(string(l.part))
}

// tail is the last n lines that are not empty, and the one that is not complete yet.
func (l *lineLog) tail(n int) []string {
	part := l.unfinished()
	var out []string
	for _, line := range l.lines.all() {
		if strings.TrimSpace(line.Text) != "" {
			out = append(out, line.Text)
		}
	}
	if strings.TrimSpace(part) != "" {
		out = append(out, part)
	}
	return out[max(0, len(out)-n):]
}

// escapes are ECMA-48 control sequences (colours, cursor moves of firmware menus), the two-byte ones, and OSC strings.
var escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[()][0-9A-B]|[ -Z\\^-~])`)

func clean(s string) string {
	s = escapes.ReplaceAllString(s, "")
	s = strings.TrimRight(s, "\r")
	// A bare carriage return starts the line again: what is seen on a terminal is the last part.
	if i := strings.LastIndexByte(s, '\r'); i >= 0 {
		s = s[i+1:]
	}
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < ' ' || r == 0x7f) {
			return -1
		}
		return r
	}, s)
}
