package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"netroot/boot/privilege"
)

func (c *cli) protectCommand() *cobra.Command {
	group, user := serverName, ""
	cmd := &cobra.Command{
		Use:   "protect",
		Short: "Close the store to all but root and the group that serve runs in",
		Long: `Root images hold password hashes and host keys, so a store is closed to all but root and one group. build and serve, started by root, see
to it by themselves; this is for a store that was built before there was the group, and what the unit of 'netroot units serve' does first.
With --user it also gives the folder of what serve remembers to the user that serve is started as.`,
		Example: "  netroot protect\n  netroot protect --store /srv/netroot --group pxe --user pxe",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := c.openStore()
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return fmt.Errorf("protect store %s: only root can give it to a group", s.Dir())
			}
			gid, err := groupID(group)
			if err != nil {
				return usageError{fmt.Errorf("protect store %s: %w; make the group, as in the first lines of 'netroot units serve', or give another --group", s.Dir(), err)}
			}
			var server privilege.Account
			if user != "" {
				if server, err = privilege.Lookup(user, group); err != nil {
					return usageError{fmt.Errorf("protect store %s: %w", s.Dir(), err)}
				}
			}
			corrected, err := s.Protect(gid)
			for _, what := range corrected {
				fmt.Fprintf(c.stderr, "netroot: corrected: %s\n", what)
			}
			if err != nil || user == "" {
				return err
			}
			return s.GiveState(server.UID, server.GID)
		},
	}
	cmd.Flags().StringVar(&group, "group", serverName, "the group that may read it")
	cmd.Flags().StringVar(&user, "user", "", "the user that serve is started as, where that is not root")
	return cmd
}
