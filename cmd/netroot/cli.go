package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"netroot/boot/doctor"
	"netroot/boot/privilege"
	"netroot/boot/vm"
	"netroot/builder/check"
	"netroot/builder/progress"
	"netroot/builder/store"
	"netroot/builder/strictyaml"
)

// Exit codes: scripts and nightly jobs depend on them.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2 // wrong usage, invalid recipe or configuration
	exitUnfit   = 3 // check or verify found the image unfit, or doctor something in the way
	exitBusy    = 4 // another build holds the image
	systemStore = "/var/lib/netroot"
)

// cli is the command line as a value: its own streams, so that a test can call it.
type cli struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	// limit starts the program again with less privileges; nil where this is not the program.
	limit func(privilege.Account) error

	storeDir, configFile, progressMode string
	json, verbose                      bool
}

// usageError is an error in how the program was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run carries out one command line and returns the exit code.
func (c *cli) run(ctx context.Context, args []string) int {
	root := c.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	c.sayError(err)
	return exitCode(err)
}

// exitCode maps an error to the documented exit code.
func exitCode(err error) int {
	var (
		usage  usageError
		busy   *store.BusyError
		unfit  *check.UnfitError
		failed *vm.FailedError
		faults *doctor.FaultError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage), strictyaml.List(err) != nil:
		return exitUsage
	case errors.As(err, &busy):
		return exitBusy
	case errors.As(err, &unfit), errors.As(err, &failed), errors.As(err, &faults):
		return exitUnfit
	}
	return exitFailed
}

func (c *cli) sayError(err error) {
	text := strings.TrimRight(safe(err.Error()), "\n")
	fmt.Fprintln(c.stderr, "netroot: "+strings.ReplaceAll(text, "\n", "\nnetroot: "))
}

func (c *cli) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "netroot",
		Short: "Turn a recipe into a machine that boots without a disk",
		Long: `netroot assembles an operating system from a recipe, publishes it as an immutable image, hands it to
machines by proxy-DHCP, TFTP, HTTP and NFS beside the DHCP server that is already there, and proves in QEMU that it boots.

Exit codes: 0 done, 1 failed, 2 wrong usage or invalid recipe, 3 the image is unfit or something is in the way of machines, 4 another build holds the image.`,
		Example: `  netroot build debian-12        # as root: build the shipped recipe
  netroot verify debian-12       # boot it in QEMU
  netroot serve                  # hand it to the machines on this network`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see '%s --help')", err, cmd.CommandPath())}
	})
	f := root.PersistentFlags()
	f.StringVar(&c.storeDir, "store", "", "folder of images and cache (default "+systemStore+", per-user data folder when not root)")
	f.StringVar(&c.configFile, "config", "", "policy file (default /etc/netroot/netroot.yaml, then ./netroot.yaml)")
	f.StringVar(&c.progressMode, "progress", "auto", "progress on standard error: auto, plain or none")
	f.BoolVar(&c.json, "json", false, "print data as one JSON object per line")
	f.BoolVarP(&c.verbose, "verbose", "v", false, "say more")
	root.AddCommand(
		c.buildCommand(), c.serveCommand(), c.nodesCommand(), c.verifyCommand(),
		c.imagesCommand(), c.showCommand(), c.diffCommand(), c.rollbackCommand(), c.promoteCommand(), c.gcCommand(), c.exportCommand(),
		c.lockCommand(), c.checkCommand(), c.reportCommand(), c.initramfsCommand(), c.tftpbootCommand(), c.unitsCommand(), c.protectCommand(),
		c.importDnsmasqCommand(), c.doctorCommand(), c.recipesCommand(), c.schemaCommand(), c.versionCommand(),
	)
	asUsageErrors(root)
	return root
}

// asUsageErrors makes a wrong number of arguments, and an unknown verb, exit with the code of wrong usage.
func asUsageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{fmt.Errorf("%w (see '%s --help')", err, cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		asUsageErrors(sub)
	}
}

// openStore opens the store that --store or the defaults name.
func (c *cli) openStore() (*store.Store, error) {
	dir := c.storeDir
	if dir == "" {
		dir = systemStore
		if os.Geteuid() != 0 {
			data := os.Getenv("XDG_DATA_HOME")
			if data == "" {
				home, err := os.UserHomeDir()
				if err != nil {
					return nil, fmt.Errorf("find the store: %w; give --store", err)
				}
				data = filepath.Join(home, ".local", "share")
			}
			dir = filepath.Join(data, "netroot")
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the store: %w", err)
	}
	return store.Open(dir)
}

// generation finds in the store the generation that IMAGE or IMAGE@GENERATION names.
func (c *cli) generation(ref string) (store.Generation, error) {
	s, err := c.openStore()
	if err != nil {
		return store.Generation{}, err
	}
	return s.Resolve(ref)
}

// reporter is the progress that the user asked for.
func (c *cli) reporter() (*progress.Reporter, error) {
	mode, err := progress.ParseMode(c.progressMode)
	if err != nil {
		return nil, usageError{fmt.Errorf("--progress: %w", err)}
	}
	return &progress.Reporter{Out: c.stderr, Mode: mode}, nil
}

// logger writes what happens to out, a line each.
func (c *cli) logger(out io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if c.verbose {
		level = slog.LevelDebug
	}
	return slog.New(newLineHandler(out, level))
}

// printJSON prints one object on a line of standard output.
func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
