package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func (c *cli) protectCommand() *cobra.Command {
	group := serverName
	cmd := &cobra.Command{
		Use:   "protect",
		Short: "Close the store to all but root and the group that serve runs in",
		Long: `Root images hold password hashes and host keys, so a store is closed to all but root and one group. build and serve, started by root, see
to it by themselves; this is for a store that was built before there was the group, and what the unit of 'netroot units serve' does first.`,
		Example: "  netroot protect\n  netroot protect --store /srv/netroot --group pxe",
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
				return usageError{fmt.Errorf("protect store %s: %w", s.Dir(), err)}
			}
			corrected, err := s.Protect(gid)
			for _, what := range corrected {
				fmt.Fprintf(c.stderr, "netroot: corrected: %s\n", what)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&group, "group", serverName, "the group that may read it")
	return cmd
}
