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
	var services services
	var mac, uuid, arch string
	var ipxe bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Explain what would happen to a machine on this network, and what is in the way",
		Long: `Asks on each interface as a machine that boots would (a DISCOVER only: no address is taken) and reports who answers: the
DHCP server, other proxy-DHCP servers, a router that says what to boot. It looks who holds the ports that serve needs,
whether the firewall lets machines in, and at the health of the store. Run it as root: an ordinary user may neither ask as a
machine does nor see who holds a port, what the firewall does, and what serve remembers.

With --mac it also prints the exact offer and menu that this machine would get, and why; give --uuid, too, for one that the
policy lists by its UUID and that has not asked yet. Give the flags for interfaces, ports and services that serve is
started with. Exit code 0 means that nothing is in the way, 3 that something is.`,
		Example: `  netroot doctor
  netroot doctor --interface eno1 --mac 00:20:38:03:37:6c --arch bios
  netroot doctor --mac f4:4d:30:60:64:69 --uuid 58b41815-581e-c62a-d4e2-f44d30606469
  netroot doctor --http-port 8080 --json     # when that is how serve is started`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor.Doctor{Wait: wait, IPXE: ipxe}
			var err error
			if mac != "" {
				if d.MAC, err = host.ParseMAC(mac); err != nil {
					return usageError{fmt.Errorf("--mac: %w", err)}
				}
			}
			if uuid != "" {
				if mac == "" {
					return usageError{fmt.Errorf("--uuid: give --mac as well, the address that the machine asks from")}
				}
				if d.UUID, err = host.ParseUUID(uuid); err != nil {
					return usageError{fmt.Errorf("--uuid: %w", err)}
				}
			}
			if d.Arch, err = parseArch(arch); err != nil {
				return usageError{fmt.Errorf("--arch: %w", err)}
			}
			if wait <= 0 || wait > time.Minute {
				return usageError{fmt.Errorf("--wait %v: give up to a minute, as in 5s", wait)}
			}
			ports, err := services.chosen()
			if err != nil {
				return err
			}
			return c.doctor(cmd.Context(), d, services.interfaces, ports)
		},
	}
	f := cmd.Flags()
	services.add(f, "look")
	f.StringVar(&mac, "mac", "", "ask as the machine with this address, and show what it would get")
	f.StringVar(&uuid, "uuid", "", "the UUID it tells (as root there: cat /sys/class/dmi/id/product_uuid); a serve that runs remembers the two together")
	f.StringVar(&arch, "arch", "bios", "its firmware: bios, uefi, uefi32, arm64, or a number of RFC 4578")
	f.BoolVar(&ipxe, "ipxe", false, "it runs iPXE already")
	f.DurationVar(&wait, "wait", 5*time.Second, "how long to wait for answers; twice as long for the first DHCP server")
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

func (c *cli) doctor(ctx context.Context, d *doctor.Doctor, interfaces []string, ports boot.Ports) error {
	s, err := c.openStore()
	if err != nil {
		return err
	}
	live, err := c.livePolicy(interfaces)
	if err != nil {
		return err
	}
	live.Knowing(install.OpenLedger(s.StateDir()).IsInstalled)
	d.Forgot = live.Recall(s.StateDir())
	d.Store, d.Policy, d.Decide, d.Ports = s, live.Policy(), live.Decide, doctor.Ports(ports)
	d.Tree = (&boot.Server{Store: s, Policy: live, Ports: ports}).Tree()
	d.Tree.Log = c.logger(c.stderr)
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
