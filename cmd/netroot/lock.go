package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (c *cli) lockCommand() *cobra.Command {
	var mirror, arch string
	cmd := &cobra.Command{
		Use:   "lock RECIPE",
		Short: "Write or refresh the lock file beside a recipe",
		Long: `Resolves the recipe to exact packages and writes their names, versions, paths below the mirror, sizes and SHA-256
(SHA-512 or, on EL6, SHA-1 where a repository tells that instead) to a file beside the recipe: site.yaml gets site.lock.
'netroot build --locked' then builds exactly these, from the cache as long as it has them.

A copied system is brought up to date in the store and pinned as a whole; 'build --locked' refuses one that has changed since,
unless the store still has what was locked.`,
		Example: "  netroot lock site.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, path, err := loadRecipe(args[0], arch)
			if err != nil {
				return err
			}
			if path == "" {
				return usageError{shippedHasNoLock(args[0])}
			}
			b, err := c.builder(mirror, 0)
			if err != nil {
				return err
			}
			pins, err := b.Resolve(cmd.Context(), r)
			if err != nil {
				return err
			}
			if err := pins.Write(path); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(pins)
			}
			fmt.Fprintf(c.stdout, "%s pins %d packages, %s\n", path, len(pins.Packages), megabytes(pins.Size()))
			return nil
		},
	}
	cmd.Flags().StringVar(&mirror, "mirror", "", mirrorUsage)
	cmd.Flags().StringVar(&arch, "arch", "", "resolve for this architecture instead of the recipe's")
	return cmd
}

func shippedHasNoLock(name string) error {
	return fmt.Errorf("the shipped recipe %[1]s has no folder for a lock file; save it with 'netroot recipes %[1]s > %[1]s.yaml' and use that file", name)
}
