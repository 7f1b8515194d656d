package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"netroot/builder/store"
)

//go:embed serve.service
var serveUnit string

func (c *cli) unitsCommand() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "units serve [-- FLAG...]",
		Short: "Print the systemd unit that runs serve, locked up as far as it goes",
		Long: `Prints a unit for 'netroot serve' with this program, --store and --config, and the further flags of serve given after --.
It starts as an ordinary user who may open the ports and nothing else. The first lines of the unit say how to install it.`,
		Example: `  netroot units serve > /etc/systemd/system/netroot.service
  netroot units serve --store /srv/netroot -- --interface eno1`,
		ValidArgs: []string{"serve"},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] != "serve" || cmd.ArgsLenAtDash() > 1 || cmd.ArgsLenAtDash() < 0 && len(args) > 1 {
				return fmt.Errorf("there is one unit, serve, and flags for it come after --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.openStore()
			if err != nil {
				return err
			}
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			u := unit{User: user, Program: program, Store: s, Args: args[1:]}
			if c.configFile != "" {
				if u.Config, err = filepath.Abs(c.configFile); err != nil {
					return fmt.Errorf("find the policy: %w", err)
				}
			}
			if err := c.servesWith(cmd, u.Args); err != nil {
				return err
			}
			text, err := u.text()
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.stdout, text)
			return err
		},
	}
	cmd.Flags().StringVar(&user, "user", serverName, "the user and group to run as")
	return cmd
}

// servesWith says whether serve takes these flags: a unit with others would never start. The global flags that are among them count from
// then on.
func (c *cli) servesWith(cmd *cobra.Command, flags []string) error {
	serve := c.serveCommand()
	serve.Flags().AddFlagSet(cmd.InheritedFlags())
	err := serve.ParseFlags(flags)
	if err == nil {
		err = serve.ValidateArgs(serve.Flags().Args())
	}
	if err != nil {
		return usageError{fmt.Errorf("what comes after --: %w (see 'netroot serve --help')", err)}
	}
	return nil
}

// unit is what differs between the units of different sites.
type unit struct {
	User, Program, Config string
	Store                 *store.Store
	Args                  []string
}

func (u unit) text() (string, error) {
	t, err := template.New("serve.service").Parse(serveUnit)
	if err != nil {
		return "", fmt.Errorf("read the unit's template: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, u); err != nil {
		return "", fmt.Errorf("write the unit: %w", err)
	}
	return b.String(), nil
}

// Command is the value of ExecStart.
func (u unit) Command() string {
	words := []string{"serve", "--store", u.Store.Dir()}
	if u.Config != "" {
		words = append(words, "--config", u.Config)
	}
	return u.line(append(words, u.Args...))
}

// Protect is the value of ExecStartPre.
func (u unit) Protect() string {
	return u.line([]string{"protect", "--store", u.Store.Dir(), "--group", u.User, "--user", u.User})
}

// line is a command line of this program.
func (u unit) line(args []string) string {
	words := []string{quoted(u.Program)}
	for _, a := range args {
		words = append(words, quoted(strings.ReplaceAll(a, "$", "$$"))) // what systemd would take for a variable; not in the program's name
	}
	return strings.Join(words, " ")
}

// State says how the folder of what serve remembers gets there, and that it may be written.
func (u unit) State() string {
	if below, ok := strings.CutPrefix(u.Store.StateDir(), "/var/lib/"); ok {
		return "StateDirectory=" + quoted(below) + "\nStateDirectoryMode=0750"
	}
	return "ReadWritePaths=" + quoted("-"+u.Store.StateDir())
}

// Below says whether the unit needs something in one of these folders.
func (u unit) Below(folders ...string) bool {
	for _, path := range []string{u.Program, u.Store.Dir(), u.Config} {
		for _, f := range folders {
			if strings.HasPrefix(path, f+"/") {
				return true
			}
		}
	}
	return false
}

// quoted writes a word as systemd.syntax(7) has it.
func quoted(w string) string {
	w = strings.ReplaceAll(w, "%", "%%")
	if w != "" && !strings.ContainsAny(w, " \t\n\"'\\;") {
		return w
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(w) + `"`
}
