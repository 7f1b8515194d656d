//go:build e2e

package boot_test

import (
	"cmp"
	"os"
	"strconv"
	"testing"
	"time"

	"netroot/boot/vm"
)

// TestE2ELossyLink boots behind a cable that loses, doubles and disorders frames.
//
//	NETROOT_LOSS=0.2 NETROOT_DELAY=300ms    other shares and delays than five per cent and none
func TestE2ELossyLink(t *testing.T) {
	t.Parallel()
	loss, err := strconv.ParseFloat(cmp.Or(os.Getenv("NETROOT_LOSS"), "0.05"), 64)
	if err != nil {
		t.Fatal(err)
	}
	delay, err := time.ParseDuration(cmp.Or(os.Getenv("NETROOT_DELAY"), "0s"))
	if err != nil {
		t.Fatal(err)
	}
	link := &vm.Link{Loss: loss, Duplicate: loss, Reorder: loss, Delay: delay, Seed: 5}
	s, gen := words(t, vm.DefaultMAC, nil)
	// A boot is some 3,000 questions, most of which wait for the answer to the one before. What is lost is asked again after a while.
	s.patience = 6*time.Minute + 3000*2*delay + time.Duration(loss*40*float64(time.Minute))
	s.boot(t, vm.MachineConfig{Link: link})
	s.await(t, gen, 0, s.machine.PowerOn)
	t.Logf("up with %s", link)
	s.expect(t, "systemctl is-system-running --wait; systemctl --failed --no-legend", "running")
}
