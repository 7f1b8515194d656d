// Package isofixture makes small ISOs for tests, by xorriso, with Rock Ridge as installers' and live systems' have it. For whatever is
// hard to get right in an ISO, see the tests of package iso.
package isofixture

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/need"
)

// Volume is the volume ID of every ISO that is made.
const Volume = "A VOLUME"

// Make writes an ISO of files that are given as name=content, over what is at path.
func Make(t testing.TB, path string, files ...string) {
	t.Helper()
	need.Tools(t, "xorriso")
	src := t.TempDir()
	for _, f := range files {
		name, text, _ := strings.Cut(f, "=")
		name = filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// xorriso would add to what is there.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if out, err := exec.Command("xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", Volume, "-o", path, src).CombinedOutput(); err != nil {
		t.Fatalf("xorriso: %v\n%s", err, out)
	}
}
