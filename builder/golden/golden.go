// Package golden compares what tests make with readable files of testdata, and gives their programs the switch -update, which writes the
// files anew. Whoever updates reads the change before he commits it: that is all that makes such a file a test.
//
// Its files are text and one file is one comparison; tests whose goldens are parts of a larger file keep a switch of their own.
package golden

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Compare fails the test, which goes on, where the file at path does not hold got.
func Compare(t testing.TB, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read what is expected (-update writes it): %v", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", path, diff)
	}
}
