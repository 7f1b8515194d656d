package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"netroot/builder/strictyaml"
)

// lineHandler writes a log record as one line for people: "netroot: MESSAGE key=value …", with the time left to
// the journal that keeps it. Values that hold spaces or quotes are quoted; the faults of a file, which
// have several lines, follow as they are. Nothing else may break the line: names come from the network.
type lineHandler struct {
	out    io.Writer
	level  slog.Level
	prefix string // attributes given with With, already formatted
	mu     *sync.Mutex
}

func newLineHandler(out io.Writer, level slog.Level) *lineHandler {
	return &lineHandler{out: out, level: level, mu: new(sync.Mutex)}
}

func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString("netroot: ")
	if r.Level >= slog.LevelError {
		b.WriteString("error: ")
	} else if r.Level >= slog.LevelWarn {
		b.WriteString("warning: ")
	}
	b.WriteString(oneLine(r.Message))
	b.WriteString(h.prefix)
	below := ""
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && strictyaml.List(err) != nil {
			below += "\n" + err.Error()
			return true
		}
		writeAttr(&b, a)
		return true
	})
	b.WriteString(strings.ReplaceAll(safe(below), "\n", "\nnetroot: "))
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.out, b.String())
	return err
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		writeAttr(&b, a)
	}
	with := *h
	with.prefix += b.String()
	return &with
}

// WithGroup leaves names as they are: no part of netroot groups its attributes.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }

func writeAttr(b *strings.Builder, a slog.Attr) {
	a.Value = a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return
	}
	text := a.Value.String()
	if a.Value.Kind() == slog.KindFloat64 {
		text = strconv.FormatFloat(a.Value.Float64(), 'f', 2, 64)
	}
	if text == "" || strings.ContainsAny(text, " \"=") || !printable(text) {
		text = strconv.Quote(text)
	}
	fmt.Fprintf(b, " %s=%s", a.Key, text)
}

// printable says whether a text can be shown as it is. What comes from the network may be meant for the terminal, which obeys control
// characters, or for the reader, who takes a line's end for one.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) })
}

// safe is a text of several lines with what a terminal would obey, or show as something else, as Go writes it in a string: packages,
// repositories and copied machines have their words in what is told of them.
func safe(s string) string {
	var b strings.Builder
	for s != "" {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '\n', r == '\t', strconv.IsPrint(r) && (r != utf8.RuneError || n > 1):
			b.WriteString(s[:n])
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
		s = s[n:]
	}
	return b.String()
}

// oneLine is safe for what has to stay one line: its words cannot begin another one, which would read as netroot's own.
func oneLine(s string) string { return strings.ReplaceAll(safe(s), "\n", `\n`) }

// plain is s, with what is not printable as Go writes it in a string.
func plain(s string) string {
	if printable(s) {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}
