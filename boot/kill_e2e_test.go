//go:build e2e

package boot_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"netroot/boot/vm"
)

// TestE2EKilledInEveryStage kills serve, with no chance to tidy up, in each stage of one boot, and starts it again two
// seconds later. The machine asks by TFTP, whose transfers are in the middle of a file when they lose their server.
func TestE2EKilledInEveryStage(t *testing.T) {
	b := needBench(t)
	gen, err := b.current(wordsImage)
	if err != nil {
		gen = b.build(t, wordsImage, wordsImage)
	}
	lab, err := vm.Open(t.Context(), vm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{lab: lab}
	s.server, err = lab.Serve(t.Context(), vm.ServerConfig{Program: b.program, Store: b.store,
		Policy: "ipxe: pxelinux\n" + vm.Policy(vm.DefaultMAC.String(), "killed", wordsImage)})
	if err != nil {
		t.Fatal(err)
	}
	s.boot(t, vm.MachineConfig{})

	read := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.server.WaitEvent(ctx, 0, func(e vm.Event) bool { return e.Message == "read" && strings.Contains(e.File, name) })
			return err
		}
	}
	says := func(text string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.machine.WaitConsole(ctx, 0, text)
			return err
		}
	}
	for _, stage := range []struct {
		name  string
		wait  func(context.Context) error
		later time.Duration // into the middle of what begins then
	}{
		{"offer", func(ctx context.Context) error {
			_, err := s.server.WaitEvent(ctx, 0, func(e vm.Event) bool { return e.Message == "offer" })
			return err
		}, 0},
		{"loader", read("pxelinux.0"), 0},
		{"menu", read("ldlinux.c32"), 0},
		{"kernel", read("pxelinux.cfg/"), 700 * time.Millisecond},
		{"initrd", read("vmlinuz"), time.Second},
		{"initramfs", says("stage=initramfs"), 0},
		{"mount", says("stage=network"), 0},
		{"init", says("stage=init"), 3 * time.Second},
	} {
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
	for _, line := range s.machine.Console() {
		for _, bad := range []string{"I/O error", "tale file handle", "Input/output error"} {
			if strings.Contains(line.Text, bad) {
				t.Errorf("the console has %q", line.Text)
			}
		}
	}
	kernels := 0
	for _, line := range s.machine.Console() {
		if strings.Contains(line.Text, "] Linux version ") {
			kernels++
		}
	}
	if kernels != 1 {
		t.Errorf("the kernel was started %d times: this was not one boot", kernels)
	}
}
