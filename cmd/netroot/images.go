package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netroot/builder/store"
)

func (c *cli) imagesCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "images",
		Short:   "List images and their generations",
		Example: "  netroot images\n  netroot images --json | jq .generation",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := c.openStore()
			if err != nil {
				return err
			}
			images, err := s.Images()
			if err != nil {
				return err
			}
			var all []store.Generation
			for _, name := range images {
				generations, err := s.Generations(name)
				if err != nil {
					return err
				}
				all = append(all, generations...)
			}
			if c.json {
				for _, g := range all {
					if err := c.printJSON(summaryOf(g)); err != nil {
						return err
					}
				}
				return nil
			}
			if len(all) == 0 {
				fmt.Fprintf(c.stderr, "netroot: %s holds no image yet; make one with: netroot build debian-12\n", s.Dir())
				return nil
			}
			return printGenerations(c.stdout, all)
		},
	}
}

// generationSummary is what `images --json` prints of a generation.
type generationSummary struct {
	Image      string    `json:"image"`
	Generation int       `json:"generation"`
	Current    bool      `json:"current"`
	Created    time.Time `json:"created"`
	Arch       string    `json:"arch"`
	Kernel     string    `json:"kernel"`
	Packages   int       `json:"packages"`
	Bytes      int64     `json:"bytes"`
	Damaged    string    `json:"damaged,omitempty"`
}

func summaryOf(g store.Generation) generationSummary {
	s := generationSummary{
		Image: g.Image, Generation: g.Number, Current: g.Current, Created: g.Manifest.Created,
		Arch: g.Manifest.Arch, Kernel: g.Manifest.KernelRelease, Bytes: g.Size(),
	}
	if g.Manifest.Lock != nil {
		s.Packages = len(g.Manifest.Lock.Packages)
	}
	if g.Err != nil {
		s.Damaged = g.Err.Error()
	}
	return s
}

func printGenerations(out io.Writer, generations []store.Generation) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tGENERATION\tCREATED\tARCH\tKERNEL\tPACKAGES\tSIZE\t")
	for _, g := range generations {
		s := summaryOf(g)
		if g.Err != nil {
			fmt.Fprintf(w, "%s\t%d\tdamaged: %s\n", s.Image, s.Generation, oneLine(g.Err.Error()))
			continue
		}
		mark := ""
		if s.Current {
			mark = "current"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%d\t%s\t%s\n", s.Image, s.Generation,
			s.Created.Local().Format("2006-01-02 15:04"), oneLine(s.Arch), oneLine(s.Kernel), s.Packages, megabytes(s.Bytes), mark)
	}
	return w.Flush()
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func (c *cli) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show IMAGE[@GENERATION]",
		Short:   "Show what a generation was made of",
		Example: "  netroot show debian-12\n  netroot show debian-12@3 --json | jq -r '.lock.packages[].name'",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			g, err := c.generation(args[0])
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(g.Manifest)
			}
			m := g.Manifest
			w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
			row := func(name, format string, values ...any) {
				fmt.Fprintf(w, "%s\t%s\n", name, oneLine(fmt.Sprintf(format, values...)))
			}
			row("generation", "%s%s", g.Ref(), map[bool]string{true: " (current)"}[g.Current])
			row("created", "%s", m.Created.Local().Format(time.RFC3339))
			row("architecture", "%s", m.Arch)
			row("kernel", "%s", m.KernelRelease)
			row("command line", "%s", strings.Join(m.Cmdline, " "))
			if medium := m.Medium; medium != nil {
				row("medium", "%s %s (%s)", medium.File, medium.Label, medium.Family)
				if medium.Deliver != "" {
					row("delivered by", "%s", medium.Deliver)
				}
				if medium.Memory > 0 {
					row("memory needed", "%s", megabytes(medium.Memory))
				}
			} else {
				row("writable", "%s %s", m.Writable, m.OverlaySize)
			}
			if m.Seed != "" {
				row("seed", "%s, given only to hosts that are sent to this image", m.Seed)
			}
			row("recipe", "%s", m.Recipe)
			row("lock", "%s", m.LockDigest)
			for _, part := range []string{store.PartKernel, store.PartInitramfs, store.PartRoot, store.PartISO} {
				if _, ok := m.Parts[part]; !ok {
					continue
				}
				row(part, "%s  sha256 %s", megabytes(m.Parts[part].Size), m.Parts[part].SHA256)
			}
			for _, note := range m.Notes {
				row("note", "%s", note)
			}
			if m.Lock != nil {
				row("packages", "%d, %s as downloaded", len(m.Lock.Packages), megabytes(m.Lock.Size()))
				for _, p := range m.Lock.Packages {
					row("", "%s %s %s", p.Name, p.Version, p.Arch)
				}
			}
			return w.Flush()
		},
	}
}
