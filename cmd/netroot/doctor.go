package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netroot/boot"
	"netroot/boot/doctor"
	"netroot/boot/host"
	"netroot/boot/install"
	"netroot/boot/proxydhcp"
)

// architectures are words for the client types of RFC 4578 that are met.
var architectures = map[string]uint16{"bios": 0, "uefi": 7, "uefi32": 6, "arm64": 11}

func (c *cli) doctorCommand() *cobra.Command {
	var interfaces []string
	var mac, arch string
	var ipxe bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Explain what would happen to a machine on this network, and what is in the way",
		Long: `Asks on each interface as a machine that boots would (a DISCOVER only: no address is taken) and reports who answers: the
DHCP server, other proxy-DHCP servers, a router that says what to boot. It looks who holds the ports that serve needs,
whether the firewall lets machines in, and at the health of the store.

With --mac it also prints the exact offer and menu that this machine would get, and why. Exit code 0 means that nothing
is in the way, 3 that something is.`,
		Example: `  netroot doctor
  netroot doctor --interface eno1 --mac 00:20:38:03:37:6c --arch bios
  netroot doctor --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor.Doctor{Wait: wait, IPXE: ipxe}
			var err error
			if mac != "" {
				if d.MAC, err = host.ParseMAC(mac); err != nil {
					return usageError{fmt.Errorf("--mac: %w", err)}
				}
			}
			if d.Arch, err = parseArch(arch); err != nil {
				return usageError{fmt.Errorf("--arch: %w", err)}
			}
			if wait <= 0 || wait > time.Minute {
				return usageError{fmt.Errorf("--wait %v: give up to a minute, as in 5s", wait)}
			}
			return c.doctor(cmd.Context(), d, interfaces)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&interfaces, "interface", nil, "look at this interface only; may be repeated (default: those of the policy, else all)")
	f.StringVar(&mac, "mac", "", "ask as the machine with this address, and show what it would get")
	f.StringVar(&arch, "arch", "bios", "its firmware: bios, uefi, uefi32, arm64, or a number of RFC 4578")
	f.BoolVar(&ipxe, "ipxe", false, "it runs iPXE already")
	f.DurationVar(&wait, "wait", 5*time.Second, "how long to wait for answers")
	return cmd
}

func parseArch(s string) (uint16, error) {
	if n, ok := architectures[strings.ToLower(s)]; ok {
		return n, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a type of firmware: bios, uefi, uefi32, arm64, or a number of RFC 4578", s)
	}
	return uint16(n), nil
}

func (c *cli) doctor(ctx context.Context, d *doctor.Doctor, interfaces []string) error {
	s, err := c.openStore()
	if err != nil {
		return err
	}
	live, err := c.livePolicy(interfaces)
	if err != nil {
		return err
	}
	live.Knowing(install.OpenLedger(s.StateDir()).IsInstalled)
	d.Store, d.Policy = s, live.Policy()
	d.Tree = (&boot.Server{Store: s, Policy: live, Ports: boot.DefaultPorts}).Tree()
	d.DHCP = proxydhcp.Config{Script: d.Tree.ScriptURL}
	findings, err := d.Run(ctx)
	if err != nil {
		return err
	}
	for _, f := range findings {
		if c.json {
			if err := c.printJSON(f); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(c.stdout, "%-6s %s: %s\n", f.Level, f.About, f.What)
		if f.WayOut != "" && f.Level != doctor.OK {
			fmt.Fprintf(c.stdout, "       -> %s\n", f.WayOut)
		}
		for line := range strings.Lines(f.Text) {
			fmt.Fprintf(c.stdout, "         | %s\n", strings.TrimRight(line, "\n"))
		}
	}
	return doctor.Verdict(findings)
}
