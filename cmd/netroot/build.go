package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"netroot/boot/install"
	"netroot/builder"
	"netroot/builder/lock"
	"netroot/builder/recipe"
	"netroot/builder/strictyaml"
)

const mirrorUsage = "take packages from this mirror instead of the recipe's or the host's; of RPM repositories, those that have a path: below it"

// buildFlags are the flags of build.
type buildFlags struct {
	mirror, arch          string
	locked, force, verify bool
	jobs, keep            int
}

func (c *cli) buildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build RECIPE...",
		Short: "Build, check and publish the image of a recipe",
		Long: `RECIPE is a file or the name of a shipped recipe (see 'netroot recipes').

When neither the recipe nor the packages it resolves to have changed, nothing is built, so that a nightly job is cheap.
Killed at any moment, build leaves the generation that was current as it was.

A recipe with from: {copy: ssh://root@HOST} (or a folder, or a tar) copies an installed system and makes it diskless; each change is
told. Interrupted, it goes on where it ended: what has arrived is kept.

A recipe with from: {iso: …} takes the ISO of an installer or a live system as it is, one with from: {netboot: …} a kernel and an
initrd. What the installer would ask is answered by autoinstall: (Ubuntu), preseed: (Debian) or kickstart: (the RPM family).`,
		Example: `  netroot build debian-12
  netroot build almalinux-9 --mirror http://mirror.site/almalinux    # RPMs, checked with the key that the recipe names
  netroot build site.yaml --keep 5 --verify    # what a nightly job runs: promote only what boots

  # a copy of a machine that is installed, which then boots without its disk
  printf 'name: twin\narch: amd64\nfrom: {copy: ssh://root@old.site}\n' > twin.yaml && netroot build twin.yaml

  # an installer; its first lines say what its hosts need
  netroot recipes ubuntu-20.04-autoinstall && netroot build ubuntu-20.04-autoinstall`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				if err := c.build(cmd.Context(), arg, f); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&f.mirror, "mirror", "", mirrorUsage)
	cmd.Flags().StringVar(&f.arch, "arch", "", "build for this architecture instead of the recipe's: "+strings.Join(recipe.Arches(), ", "))
	cmd.Flags().BoolVar(&f.locked, "locked", false, "build exactly the packages of the lock file beside the recipe")
	cmd.Flags().BoolVar(&f.force, "force", false, "build even when nothing changed")
	cmd.Flags().BoolVar(&f.verify, "verify", false, "boot the new generation in QEMU and make it current only when it is up")
	cmd.Flags().IntVar(&f.jobs, "jobs", 0, "downloads and unpackings at a time (default: by processors)")
	cmd.Flags().IntVar(&f.keep, "keep", 0, "remove all but this many generations afterwards (default: keep all)")
	return cmd
}

func (c *cli) build(ctx context.Context, arg string, f buildFlags) error {
	if f.keep < 0 || f.jobs < 0 {
		return usageError{fmt.Errorf("--keep and --jobs take a positive number")}
	}
	r, lockPath, err := loadRecipe(arg, f.arch)
	if err != nil {
		return err
	}
	if f.verify && r.Medium() {
		return usageError{fmt.Errorf("--verify: what an ISO or a netboot kernel starts does not tell how far its boot has come; leave it out for %s", arg)}
	}
	if err := c.checkSeed(r); err != nil {
		return err
	}
	b, err := c.builder(f.mirror, f.jobs)
	if err != nil {
		return err
	}
	server, _, err := account("")
	if err != nil {
		return err
	}
	if err := errors.Join(b.Store.Prepare(), secure(b.Store, server, b.Log)); err != nil {
		return err
	}
	options := builder.Options{Force: f.force, Candidate: f.verify}
	if f.locked {
		if lockPath == "" {
			return usageError{shippedHasNoLock(arg)}
		}
		if options.Locked, err = lock.Read(lockPath); err != nil {
			return fmt.Errorf("%w; write it with: netroot lock %s", err, arg)
		}
	}
	result, err := b.Build(ctx, r, options)
	if err != nil {
		return err
	}
	g := result.Generation
	if result.New && f.verify {
		if err := c.verify(ctx, b.Store, g.Ref(), verifyFlags{}); err != nil {
			return fmt.Errorf("%s is published but not current: %w", g.Ref(), err)
		}
		if g, err = b.Store.SetCurrent(g.Ref()); err != nil {
			return err
		}
	}
	if f.keep > 0 {
		if err := c.collect(ctx, b.Store, []string{g.Image}, f.keep); err != nil {
			return err
		}
	}
	if c.json {
		return c.printJSON(struct {
			generationSummary
			New bool `json:"new"`
		}{summaryOf(g), result.New})
	}
	if result.New {
		fmt.Fprintf(c.stdout, "%s is published\n", g.Ref())
		return nil
	}
	fmt.Fprintf(c.stdout, "%s is up to date\n", g.Ref())
	if !g.Current {
		fmt.Fprintf(c.stderr, "netroot: it is not the current generation; make it so with: netroot promote %s\n", g.Ref())
	}
	return nil
}

// checkSeed says, before anything is built, what the hosts that are sent to the image lack for its seed.
func (c *cli) checkSeed(r *recipe.Recipe) error {
	s := r.Seed()
	if s == nil {
		return nil
	}
	policy, err := c.policy()
	if err != nil {
		return err
	}
	var faults []*strictyaml.Error
	for i := range policy.Hosts {
		if h := &policy.Hosts[i]; h.Image == r.Name && !h.Disabled { // image@3 keeps the seed it was built with
			faults = append(faults, install.CheckHost(policy, h, s, r.Name)...)
		}
	}
	return strictyaml.Join(faults...)
}

// builder makes a builder over the store.
func (c *cli) builder(mirror string, jobs int) (*builder.Builder, error) {
	s, err := c.openStore()
	if err != nil {
		return nil, err
	}
	p, err := c.reporter()
	if err != nil {
		return nil, err
	}
	return &builder.Builder{Store: s, Mirror: mirror, Jobs: jobs, Progress: p, Log: c.logger(p)}, nil
}

// loadRecipe reads a recipe by file name or by the name of a shipped one. lockPath is where its lock file belongs, ""
// for a shipped recipe.
func loadRecipe(arg, arch string) (r *recipe.Recipe, lockPath string, err error) {
	if r, err = recipe.Find(arg); err != nil {
		return nil, "", err
	}
	if _, err := os.Stat(arg); err == nil {
		lockPath = strings.TrimSuffix(arg, filepath.Ext(arg)) + ".lock"
	}
	if arch != "" {
		if err := r.SetArch(arch); err != nil {
			return nil, "", usageError{fmt.Errorf("--arch: %w", err)}
		}
	}
	return r, lockPath, nil
}
