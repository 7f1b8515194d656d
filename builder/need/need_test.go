package need

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
)

// A subject is a test that somebody else runs: it says how it ended.
type subject struct {
	testing.TB
	end string
}

func (s *subject) Helper() {}

func (s *subject) Skipf(format string, args ...any) {
	s.end = "skipped: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (s *subject) Fatalf(format string, args ...any) {
	s.end = "failed: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func end(f func(t testing.TB)) string {
	s := &subject{end: "cut short"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(s)
		s.end = "passed"
	}()
	<-done
	return s.end
}

func TestEnds(t *testing.T) {
	root := "needs root"
	if os.Geteuid() == 0 {
		root = ""
	}
	for name, c := range map[string]struct {
		ask    func(t testing.TB)
		reason string // empty: it is there
	}{
		"missing":     {func(t testing.TB) { Missing(t, "no %s", "IPv6") }, "no IPv6"},
		"an error":    {func(t testing.TB) { That(t, errors.New("100% absent")) }, "100% absent"},
		"no error":    {func(t testing.TB) { That(t, nil) }, ""},
		"root":        {Root, root},
		"a tool":      {func(t testing.TB) { Tools(t, "sh") }, ""},
		"one is gone": {func(t testing.TB) { Tools(t, "sh", "no-such-tool", "env") }, `needs a program that make deps installs: exec: "no-such-tool": executable file not found in $PATH`},
	} {
		for ci, word := range map[string]string{"": "skipped: ", "true": "failed: "} {
			t.Setenv("CI", ci)
			want := word + c.reason
			if c.reason == "" {
				want = "passed"
			}
			if got := end(c.ask); got != want {
				t.Errorf("%s, CI=%q: %s, want %s", name, ci, got, want)
			}
		}
	}
}

func TestTool(t *testing.T) {
	if path := Tool(t, "sh"); path != "/bin/sh" && path != "/usr/bin/sh" {
		t.Errorf("sh is %s", path)
	}
}
