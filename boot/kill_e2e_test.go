//go:build e2e

package boot_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
)

// A stage is a point of a boot at which serve is killed.
type stage struct {
	name  string
	wait  func(context.Context) error
	later time.Duration // into the middle of what begins then
}

// TestE2EKilledInEveryStage kills serve, with no chance to tidy up, in each stage of one boot, and starts it again two
// seconds later. The machine asks by TFTP, whose transfers are in the middle of a file when they lose their server.
func TestE2EKilledInEveryStage(t *testing.T) {
	t.Parallel()
	killed(t, "pxelinux", func(s *site) []stage {
		return []stage{
			{"offer", s.event("offer", ""), 0},
			{"loader", s.event("read", "pxelinux.0"), 0},
			{"menu", s.event("read", "ldlinux.c32"), 0},
			{"kernel", s.event("read", "pxelinux.cfg/"), 700 * time.Millisecond},
			{"initrd", s.event("read", "vmlinuz"), time.Second},
			{"initramfs", s.says("stage=initramfs"), 0},
			{"mount", s.says("stage=network"), 0},
			{"init", s.says("stage=init"), 3 * time.Second},
		}
	})
}

// TestE2EKilledWithHTTP does the same to a machine whose ROM is iPXE and loads by HTTP, where a connection that is lost is an error
// at once and iPXE's script asks again. Between the offer and the script nobody asks again but the firmware, so that
// is left out.
func TestE2EKilledWithHTTP(t *testing.T) {
	t.Parallel()
	killed(t, "script", func(s *site) []stage {
		return []stage{
			{"kernel", s.event("read", "ipxe/"), 100 * time.Millisecond},
			{"initrd", s.event("read", "vmlinuz"), 300 * time.Millisecond},
			{"init", s.says("stage=init"), 3 * time.Second},
		}
	})
}

// event waits for the server to tell of something about a file.
func (s *site) event(message, file string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := s.server.WaitEvent(ctx, 0, func(e vm.Event) bool { return e.Message == message && strings.Contains(e.File, file) })
		return err
	}
}

// says waits for a text on the machine's console.
func (s *site) says(text string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := s.machine.WaitConsole(ctx, 0, text)
		return err
	}
}

// killed boots a machine and kills serve in each of the stages.
func killed(t *testing.T, ipxe string, stages func(*site) []stage) {
	b := needBench(t)
	gen := b.build(t, wordsImage, wordsImage)
	lab := openLab(t, vm.Config{})
	s := &site{lab: lab}
	s.serve(t, b, "ipxe: "+ipxe+"\n"+vm.Policy(vm.DefaultMAC.String(), "killed", wordsImage))
	s.boot(t, vm.MachineConfig{})

	for _, stage := range stages(s) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		if err := stage.wait(ctx); err != nil {
			t.Fatalf("before %s: %v\n%s", stage.name, err, strings.Join(s.machine.ConsoleTail(20), "\n"))
		}
		time.Sleep(stage.later)
		s.server.Kill()
		t.Logf("killed in %s, %.1f s after power-on", stage.name, time.Since(s.machine.PowerOn).Seconds())
		time.Sleep(2 * time.Second)
		if err := s.server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	s.await(t, gen, 0, s.machine.PowerOn)
	s.expect(t, "systemctl is-system-running --wait; systemctl --failed --no-legend", "running")
	kernels := 0
	for _, line := range s.machine.Console() {
		if strings.Contains(line.Text, "] Linux version ") {
			kernels++
		}
		for _, bad := range []string{"I/O error", "tale file handle", "Input/output error"} {
			// Before it iPXE says so of a connection that it lost, and asks again.
			if kernels > 0 && strings.Contains(line.Text, bad) {
				t.Errorf("the console has %q", line.Text)
			}
		}
	}
	if kernels != 1 {
		t.Errorf("the kernel was started %d times: this was not one boot", kernels)
	}
}
