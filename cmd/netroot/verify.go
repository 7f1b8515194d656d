package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"netroot/boot/vm"
	"netroot/builder/store"
)

// verifyFlags are the flags of verify.
type verifyFlags struct {
	machine string
	run     []string
	console string
	timeout time.Duration
}

func (c *cli) verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify IMAGE[@GENERATION]",
		Short: "Prove in QEMU that an image boots without a disk",
		Long: `Boots the generation in a private network: a DHCP server that knows nothing of PXE, the real 'netroot serve', and a
QEMU machine without a disk that goes the whole way: PXE ROM, proxy-DHCP, TFTP, kernel, initramfs, NFS root, init.
Exit code 0 means the machine came up and every --run command succeeded; 3 means it did not, and the error says which
stage it did not reach. Nothing is left behind. Needs root, QEMU and dnsmasq.`,
		Example: `  netroot verify debian-12
  netroot verify debian-12-i386 --machine cpu=coreduo,memory=1024,nic=e1000
  netroot verify debian-12@3 --run 'systemctl is-active ssh' --console boot.log`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.openStore()
			if err != nil {
				return err
			}
			return c.verify(cmd.Context(), s, args[0], f)
		},
	}
	cmd.Flags().StringVar(&f.machine, "machine", "", "the machine, as KEY=VALUE,… with keys arch, cpu, cpus, memory (MiB), nic, mac, machine, accel")
	cmd.Flags().StringArrayVar(&f.run, "run", nil, "run this command in the booted machine and show its output; may be repeated")
	cmd.Flags().StringVar(&f.console, "console", "", "write the machine's console to this file")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "give up when it is not up after this long (default 5m)")
	return cmd
}

// verify boots a generation and prints the timeline of the boot.
func (c *cli) verify(ctx context.Context, s *store.Store, ref string, f verifyFlags) error {
	spec, err := vm.ParseSpec(f.machine)
	if err != nil {
		return usageError{fmt.Errorf("--machine: %w", err)}
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program to run it as the server: %w", err)
	}
	p, err := c.reporter()
	if err != nil {
		return err
	}
	options := vm.Options{
		Program: program, Store: s.Dir(), Ref: ref, Machine: spec,
		Run: f.run, Console: f.console, Timeout: f.timeout, Log: c.logger(p),
	}
	if !c.json {
		options.Out = c.stdout
	}
	result, err := vm.Verify(ctx, options)
	if c.json {
		if jsonErr := c.printJSON(result); jsonErr != nil {
			return jsonErr
		}
	}
	return err
}
