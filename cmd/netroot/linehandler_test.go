package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"

	"netroot/builder/strictyaml"
)

func TestLineHandler(t *testing.T) {
	for want, write := range map[string]func(*slog.Logger){
		"netroot: offer mac=52:54:00:12:34:56 seconds=0.25 reason=\"two words\"\n": func(l *slog.Logger) {
			l.With("mac", "52:54:00:12:34:56").Info("offer", "seconds", 0.25, "reason", "two words")
		},
		"netroot: warning: refused reason=\"\"\n": func(l *slog.Logger) { l.Warn("refused", "reason", "") },
		"netroot: error: not reloaded file=n.yaml\nnetroot: n.yaml:1:1: unknown key \"a\"\nnetroot:     a: b\nnetroot:     ^\nnetroot: kept\n": func(l *slog.Logger) {
			l.Error("not reloaded", "reason", fmt.Errorf("%w\nkept", strictyaml.Join(&strictyaml.Error{File: "n.yaml", Line: 1, Column: 1, Msg: "unknown key \"a\"", Source: "a: b"})), "file", "n.yaml")
		},
		"netroot: read file=\"x\\nnetroot: offer\"\n": func(l *slog.Logger) { l.Info("read", "file", "x\nnetroot: offer") },
		"": func(l *slog.Logger) { l.Debug("probe") },
	} {
		var out bytes.Buffer
		write(slog.New(newLineHandler(&out, slog.LevelInfo)))
		if out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
}
