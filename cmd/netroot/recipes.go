package main

import (
	"fmt"
	"io/fs"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

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
				return c.listRecipes()
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

// listRecipes says of each shipped recipe what it is.
func (c *cli) listRecipes() error {
	w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	for _, name := range recipe.Shipped() {
		text, err := fs.ReadFile(recipes.FS, name+".yaml")
		if err != nil {
			return err
		}
		about := firstSentence(string(text))
		if c.json {
			if err := c.printJSON(map[string]string{"name": name, "description": about}); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", name, about)
	}
	return w.Flush()
}

// firstSentence is that of the comment that a recipe begins with, without its full stop.
func firstSentence(text string) string {
	var words []string
	for line := range strings.Lines(text) {
		line, ok := strings.CutPrefix(line, "#")
		if line = strings.TrimSpace(line); !ok || line == "" {
			break
		}
		words = append(words, line)
	}
	sentence, _, _ := strings.Cut(strings.Join(words, " ")+" ", ". ")
	return strings.TrimSpace(sentence)
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
