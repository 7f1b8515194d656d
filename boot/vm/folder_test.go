package vm

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Only the folder of a lab that is gone is swept: not one in use, not one just made, not another program's.
func TestSweepFolders(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	used, lock, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	left, old, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	old.Close() // as the kernel does when the process is killed
	fresh := filepath.Join(temp, folderPrefix+"fresh")
	other := filepath.Join(temp, "other")
	for _, dir := range []string{fresh, other} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * folderAge)
	for _, dir := range []string{used, left, other} {
		if err := os.Chtimes(dir, long, long); err != nil {
			t.Fatal(err)
		}
	}
	sweepFolders(temp)
	for dir, want := range map[string]bool{used: true, left: false, fresh: true, other: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", filepath.Base(dir), err, want)
		}
	}
}
