package golden

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A subject is a test that may fail.
type subject struct {
	testing.TB
	said string
}

func (s *subject) Helper() {}

func (s *subject) Errorf(format string, args ...any) { s.said += fmt.Sprintf(format, args...) }

func TestCompare(t *testing.T) {
	defer func(old bool) { *update = old }(*update)
	path := filepath.Join(t.TempDir(), "x.golden")
	if err := os.WriteFile(path, []byte("a\nb\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		update     bool
		got, wrong string
	}{{false, "a\nb\n", ""}, {false, "a\nc\n", path}, {true, "a\nc\n", ""}, {false, "a\nc\n", ""}, {false, "a\nb\n", path}} {
		*update = c.update
		s := &subject{}
		Compare(s, path, c.got)
		if (s.said == "") != (c.wrong == "") || !strings.Contains(s.said, c.wrong) {
			t.Errorf("%q with -update=%v: it says %q", c.got, c.update, s.said)
		}
	}
}
