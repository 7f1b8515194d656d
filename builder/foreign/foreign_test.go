package foreign

import (
	"testing"

	"golang.org/x/sys/unix"

	"netroot/builder/chroot"
)

// TestI386 holds the rule twice: it stays when the first of both lets go, and goes with the last.
func TestI386(t *testing.T) {
	before, known := alone(t)
	first, err := I386()
	if err != nil {
		Need(t) // says so, and skips
	}
	second, err := I386()
	if err != nil {
		t.Fatal(err)
	}
	if !chroot.Starts32() {
		t.Error("programs for i386 do not run")
	}
	if err := first(); err != nil {
		t.Error(err)
	}
	if !chroot.Starts32() {
		t.Error("programs for i386 do not run any more, and one who needs them is left")
	}
	if err := second(); err != nil {
		t.Error(err)
	}
	if after, still := alone(t); known && still && after != before {
		t.Errorf("programs for i386 run before: %v, after: %v", before, after)
	}
}

// alone says whether programs for i386 run by the kernel alone. That is not known while tests of other packages hold the rule.
func alone(t *testing.T) (runs, known bool) {
	t.Helper()
	f, err := lock(held(), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return false, false
	}
	defer f.Close()
	return chroot.Starts32(), true
}
