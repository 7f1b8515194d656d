package main

import (
	"fmt"
	"io/fs"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"netroot/builder/recipe"
	"netroot/recipes"
)

func (c *cli) recipesCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "recipes [NAME]",
		Short:   "List the shipped recipes, or print one to start from",
		Example: "  netroot recipes\n  netroot recipes debian-12 > site.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				for _, name := range recipe.Shipped() {
					if c.json {
						if err := c.printJSON(map[string]string{"name": name}); err != nil {
							return err
						}
						continue
					}
					fmt.Fprintln(c.stdout, name)
				}
				return nil
			}
			data, err := fs.ReadFile(recipes.FS, args[0]+".yaml")
			if err != nil {
				return usageError{fmt.Errorf("no shipped recipe %q; shipped are: %s", args[0], strings.Join(recipe.Shipped(), ", "))}
			}
			_, err = c.stdout.Write(data)
			return err
		},
	}
}

func (c *cli) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print a JSON Schema of recipes, for editors",
		Example: "  netroot schema > netroot.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := c.stdout.Write(recipe.Schema())
			return err
		},
	}
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the program's version",
		Example: "  netroot version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := version
			if info, ok := debug.ReadBuildInfo(); ok && v == "unknown" && info.Main.Version != "" {
				v = info.Main.Version
			}
			if c.json {
				return c.printJSON(map[string]string{"version": v, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			fmt.Fprintf(c.stdout, "netroot %s (%s %s/%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
