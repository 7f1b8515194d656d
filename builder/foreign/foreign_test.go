package foreign

import (
	"testing"

	"netroot/builder/chroot"
)

func TestNeed(t *testing.T) {
	before := chroot.Starts32()
	t.Run("while it is needed", func(t *testing.T) {
		Need(t)
		Need(t)
		if !chroot.Starts32() {
			t.Error("programs for i386 do not run")
		}
	})
	if after := chroot.Starts32(); after != before {
		t.Errorf("programs for i386 run before: %v, after: %v", before, after)
	}
}
