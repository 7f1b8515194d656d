package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"netroot/boot"
	"netroot/boot/host"
	"netroot/boot/install"
)

func (c *cli) tftpbootCommand() *cobra.Command {
	var server string
	ports := boot.DefaultPorts
	cmd := &cobra.Command{
		Use:   "tftpboot FOLDER --server ADDRESS",
		Short: "Lay the boot files out in a folder, for someone else's TFTP server",
		Long: `Writes pxelinux, its configuration for each machine of the policy, and the kernels and initramfses of all generations.
The roots are still served by 'netroot serve' at ADDRESS. Run it again after every build; it removes only what it wrote.`,
		Example: "  netroot tftpboot /srv/tftp --server 192.168.2.82\n  netroot serve --no-dhcp --no-tftp",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := netip.ParseAddr(server)
			if err != nil || !address.Is4() {
				return usageError{fmt.Errorf("--server %q: give the IPv4 address that clients know 'netroot serve' by", server)}
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
			done, err := tree.Write(cmd.Context(), args[0], address, policy.Machines())
			if err != nil {
				return err
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
