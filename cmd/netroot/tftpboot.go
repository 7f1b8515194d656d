package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"netroot/boot"
	"netroot/boot/host"
	"netroot/boot/install"
	"netroot/builder/store"
)

func (c *cli) tftpbootCommand() *cobra.Command {
	var server string
	ports := boot.DefaultPorts
	cmd := &cobra.Command{
		Use:   "tftpboot FOLDER --server ADDRESS",
		Short: "Lay the boot files out in a folder, for someone else's TFTP server",
		Long: `Writes pxelinux, its configuration for each machine of the policy, and the kernels and initramfses of all generations.
The roots are still served by 'netroot serve' at ADDRESS. Run it again after every build; it removes only what it wrote.

A machine that installs itself needs two things more. Its seed, to which its configuration points, is given only by a serve
that sees machines begin to boot: leave --no-dhcp out there. And with "boot: once" its configuration starts the installer
until this is run again after the installation; do so before the machine boots, or it installs itself once more.`,
		Example: "  netroot tftpboot /srv/tftp --server 192.168.2.82\n  netroot serve --no-tftp\n  netroot serve --no-dhcp --no-tftp            # diskless machines only",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := netip.ParseAddr(server)
			if err != nil || !address.Is4() {
				return usageError{fmt.Errorf("--server %q: give the IPv4 address that clients know 'netroot serve' by", server)}
			}
			for flag, port := range map[string]int{"nfs-port": ports.NFS, "http-port": ports.HTTP} {
				if port < 1 || port > 65535 {
					return usageError{fmt.Errorf("--%s %d: ports go from 1 to 65535", flag, port)}
				}
			}
			s, err := c.openStore()
			if err != nil {
				return err
			}
			policy, err := c.policy()
			if err != nil {
				return err
			}
			policy = policy.Knowing(install.OpenLedger(s.StateDir()).IsInstalled)
			tree := (&boot.Server{Store: s, Policy: host.Fixed(policy), Ports: ports}).Tree()
			tree.Log = c.logger(c.stderr)
			done, err := tree.Write(cmd.Context(), args[0], address, policy.Machines())
			if err != nil {
				return err
			}
			if names := seeded(s, policy); len(names) > 0 {
				fmt.Fprintf(c.stderr, "netroot: warning: the configurations of %s point to seeds, which 'netroot serve --no-dhcp --no-tftp' refuses to everybody: leave --no-dhcp out, "+
					"and run this again after each installation\n", strings.Join(names, ", "))
			}
			if c.json {
				return c.printJSON(done)
			}
			fmt.Fprintf(c.stdout, "%s: %d files written, %d unchanged, %d removed\n", args[0], done.New, done.Same, done.Removed)
			return nil
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "the address that clients know this server by")
	cmd.Flags().IntVar(&ports.NFS, "nfs-port", ports.NFS, "TCP port of NFS and MOUNT there")
	cmd.Flags().IntVar(&ports.HTTP, "http-port", ports.HTTP, "TCP port of HTTP there")
	return cmd
}

// seeded names the hosts that are sent to an image with a seed.
func seeded(s *store.Store, p *host.Policy) (names []string) {
	for i := range p.Hosts {
		d := p.Decide(p.Hosts[i].As())
		if g, err := s.Resolve(d.Image); d.Image != "" && err == nil && g.Manifest.Seed != "" {
			names = append(names, d.Name)
		}
	}
	return names
}
