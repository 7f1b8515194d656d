package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netroot/builder/atomicfile"
	"netroot/builder/store"
)

// pruneAge is how long a cached package that no generation names lies untouched before gc removes it: the next build
// may want it again.
const pruneAge = 7 * 24 * time.Hour

func (c *cli) diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "diff IMAGE[@GENERATION] IMAGE[@GENERATION]",
		Short:   "Show which packages differ between two generations",
		Example: "  netroot diff debian-12@3 debian-12",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			var g [2]store.Generation
			for i, ref := range args {
				var err error
				if g[i], err = c.generation(ref); err != nil {
					return err
				}
			}
			d := store.Diff(g[0], g[1])
			if c.json {
				return c.printJSON(d)
			}
			say := func(format string, values ...any) { fmt.Fprintln(c.stdout, oneLine(fmt.Sprintf(format, values...))) }
			for _, p := range d.Removed {
				say("- %s %s %s", p.Name, p.Version, p.Arch)
			}
			for _, p := range d.Added {
				say("+ %s %s %s", p.Name, p.Version, p.Arch)
			}
			for _, ch := range d.Changed {
				say("  %s %s -> %s %s", ch.Name, ch.Old, ch.New, ch.Arch)
			}
			if d.Empty() {
				fmt.Fprintf(c.stderr, "netroot: %s and %s have the same packages\n", g[0].Ref(), g[1].Ref())
			}
			return nil
		},
	}
}

func (c *cli) rollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rollback IMAGE[@GENERATION]",
		Short:   "Make the generation before the current one, or the one named, current",
		Long:    "Machines that run are not touched: they go on with the generation they booted. The next boot takes the one made current.",
		Example: "  netroot rollback debian-12\n  netroot rollback debian-12@3",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := c.openStore()
			if err != nil {
				return err
			}
			ref := args[0]
			if !strings.Contains(ref, "@") {
				previous, err := s.Previous(ref)
				if err != nil {
					return err
				}
				ref = previous.Ref()
			}
			return c.setCurrent(s, ref)
		},
	}
}

func (c *cli) promoteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "promote IMAGE[@GENERATION]",
		Short:   "Make the newest generation, or the one named, current",
		Example: "  netroot promote debian-12\n  netroot promote debian-12@4",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := c.openStore()
			if err != nil {
				return err
			}
			return c.setCurrent(s, args[0])
		},
	}
}

func (c *cli) setCurrent(s *store.Store, ref string) error {
	g, err := s.SetCurrent(ref)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(summaryOf(g))
	}
	fmt.Fprintf(c.stdout, "%s is current\n", g.Ref())
	return nil
}

func (c *cli) gcCommand() *cobra.Command {
	var keep int
	cmd := &cobra.Command{
		Use:     "gc [IMAGE...]",
		Short:   "Remove old generations and what nobody needs in the cache",
		Long:    "The current generation, the newest, those that the policy pins and those that a running server holds stay in any case.",
		Example: "  netroot gc --keep 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep < 1 {
				return usageError{fmt.Errorf("--keep %d: at least one generation stays", keep)}
			}
			s, err := c.openStore()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if args, err = s.Images(); err != nil {
					return err
				}
			}
			return c.collect(cmd.Context(), s, args, keep)
		},
	}
	cmd.Flags().IntVar(&keep, "keep", 3, "generations of each image that stay")
	return cmd
}

// collect removes old generations of the images and then what nobody needs in the cache, and says what.
func (c *cli) collect(ctx context.Context, s *store.Store, images []string, keep int) error {
	pinned, err := c.pinned()
	if err != nil {
		return fmt.Errorf("find what the policy pins: %w", err)
	}
	for _, name := range images {
		removed, err := s.GC(name, keep, pinned[name]...)
		for _, g := range removed {
			if c.json {
				if err := c.printJSON(summaryOf(g)); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(c.stdout, "removed %s\n", g.Ref())
		}
		if err != nil {
			return err
		}
	}
	pruned, err := s.PruneCache(ctx, nil, pruneAge)
	if busy := (*store.BusyError)(nil); errors.As(err, &busy) {
		return nil // whatever is being built may need what lies there; the next time will do
	}
	if pruned.Entries > 0 {
		fmt.Fprintf(c.stderr, "netroot: removed %d packages from the cache\n", pruned.Entries)
	}
	return err
}

// pinned lists the generations that the policy names by number, for each image.
func (c *cli) pinned() (map[string][]int, error) {
	policy, err := c.policy()
	if err != nil {
		return nil, err
	}
	pinned := make(map[string][]int)
	for _, ref := range policy.Images() {
		if image, n, err := store.ParseRef(ref); err == nil && n > 0 {
			pinned[image] = append(pinned[image], n)
		}
	}
	return pinned, nil
}

func (c *cli) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export IMAGE[@GENERATION] FOLDER",
		Short: "Copy a generation's files out of the store",
		Long: `Copies root.erofs (or image.iso), vmlinuz, initrd.img and image.json into a folder, for another server or another tool.
Every file is checked against its SHA-256 first, and appears whole or not at all.`,
		Example: "  netroot export debian-12 /srv/debian-12",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := c.generation(args[0])
			if err != nil {
				return err
			}
			release, err := g.Hold()
			if err != nil {
				return err
			}
			defer release()
			if err := g.Verify(cmd.Context()); err != nil {
				return err
			}
			if g.Manifest.Seed != "" {
				fmt.Fprintf(c.stderr, "netroot: %s is copied, too: it is the %s seed, with all secrets that are in it\n", store.PartSeed, g.Manifest.Seed)
			}
			return exportGeneration(g, args[1])
		},
	}
}

// exportGeneration copies the parts and, last, the manifest: a folder with image.json in it is complete.
func exportGeneration(g store.Generation, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("export %s: %w", g.Ref(), err)
	}
	var names []string
	for name := range g.Manifest.Parts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range append(names, store.ManifestName) {
		if err := copyFile(g.Path(name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("export %s: %w", g.Ref(), err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	// A root holds password hashes: the copy is as closed as the original.
	out, err := atomicfile.Create(to, 0o640)
	if err != nil {
		return err
	}
	defer out.Abort()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return out.Commit()
}
