package main

import (
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"netroot/builder/check"
	"netroot/builder/image"
	"netroot/builder/iso"
	"netroot/builder/store"
)

func (c *cli) checkCommand() *cobra.Command {
	var facts check.Facts
	cmd := &cobra.Command{
		Use:   "check IMAGE[@GENERATION]|FOLDER",
		Short: "Look for what would keep a root from booting or working without a disk",
		Long: `Runs the checks that build runs, on a published image or on any folder that holds a root.
Exit code 3 means that at least one error was found.`,
		Example: "  netroot check debian-12\n  netroot check /srv/roots/old",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if g, ok := c.medium(args[0]); ok {
				if err := checkMedium(g); err != nil {
					return err
				}
				fmt.Fprintf(c.stderr, "netroot: %s is taken as it came, and can be read\n", g.Manifest.Medium.File)
				return nil
			}
			for _, id := range facts.PCI {
				if !pciRE.MatchString(id) {
					return usageError{fmt.Errorf("--pci %s: write VENDOR:DEVICE in hexadecimal, as lspci -n shows it: 8086:100e", id)}
				}
			}
			root, m, done, err := c.openRoot(args[0])
			if err != nil {
				return err
			}
			defer done()
			if m != nil {
				pci := facts.PCI
				facts = factsOf(m)
				facts.PCI = pci
			}
			findings := check.Run(root, facts)
			for _, f := range findings {
				if c.json {
					if err := c.printJSON(f); err != nil {
						return err
					}
					continue
				}
				fmt.Fprintln(c.stdout, oneLine(f.String()))
			}
			if len(findings) == 0 {
				fmt.Fprintf(c.stderr, "netroot: nothing is known to be wrong with %s\n", args[0])
			}
			return check.Fitness(args[0], findings)
		},
	}
	cmd.Flags().StringSliceVar(&facts.PCI, "pci", nil, "a network card that must work, as VENDOR:DEVICE (lspci -n); may be repeated")
	return cmd
}

var pciRE = regexp.MustCompile(`^[0-9a-fA-F]{4}:[0-9a-fA-F]{4}$`)

// factsOf is what is known of the root of a generation without looking at it.
func factsOf(m *store.Manifest) check.Facts {
	facts := check.Facts{Kernel: m.KernelRelease, Cmdline: m.Cmdline, Size: m.OverlaySize, Notes: m.Notes}
	if m.Lock != nil {
		facts.Packages = m.Lock.Installed()
	}
	return facts
}

// medium finds a generation that is no root.
func (c *cli) medium(arg string) (store.Generation, bool) {
	if strings.ContainsRune(arg, '/') {
		return store.Generation{}, false
	}
	g, err := c.generation(arg)
	return g, err == nil && !g.Manifest.IsRoot()
}

// checkMedium reads all folders of an ISO.
func checkMedium(g store.Generation) error {
	if _, ok := g.Manifest.Parts[store.PartISO]; !ok {
		return nil
	}
	img, err := iso.Open(g.Path(store.PartISO))
	if err != nil {
		return err
	}
	return img.Close()
}

// openRoot opens a root for reading: a folder when arg is the path of one (it holds a slash, or there is no such
// image), else a generation in the store, whose manifest comes with it.
func (c *cli) openRoot(arg string) (root fs.FS, m *store.Manifest, done func() error, err error) {
	info, statErr := os.Stat(arg)
	isDir := statErr == nil && info.IsDir()
	if strings.ContainsRune(arg, '/') || arg == "." {
		if statErr != nil {
			return nil, nil, nil, fmt.Errorf("open root: %w", statErr)
		}
		if !isDir {
			return nil, nil, nil, fmt.Errorf("open root %s: it is neither a folder nor an image of the store", arg)
		}
		return os.DirFS(arg), nil, func() error { return nil }, nil
	}
	g, err := c.generation(arg)
	if err != nil {
		if isDir {
			return os.DirFS(arg), nil, func() error { return nil }, nil
		}
		return nil, nil, nil, err
	}
	if !g.Manifest.IsRoot() {
		return nil, nil, nil, fmt.Errorf("open root %s: it is no root but %s, which is taken as it came", g.Ref(), g.Manifest.Medium.File)
	}
	img, err := image.Open(g.Path(store.PartRoot))
	if err != nil {
		return nil, nil, nil, err
	}
	return img.FS(), &g.Manifest, img.Close, nil
}
