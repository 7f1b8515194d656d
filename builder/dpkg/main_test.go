package dpkg

import (
	"os"
	"testing"

	"netroot/builder/chroot"
)

func TestMain(m *testing.M) {
	chroot.Main()
	os.Exit(m.Run())
}
