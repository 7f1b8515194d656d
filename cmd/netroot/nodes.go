package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netroot/boot/host"
	"netroot/boot/install"
	"netroot/boot/nodes"
)

func (c *cli) nodesCommand() *cobra.Command {
	var installed, reinstall bool
	cmd := &cobra.Command{
		Use:   "nodes [NAME|MAC]",
		Short: "Show the machines that were seen, and how far their boots have come",
		Long: `Lists every machine that 'netroot serve' has seen: what it boots, the stage that it has reached and since when, how long
it took to get there from the first sign of the boot, how many boots it has begun, and what went wrong in the last one.
With a name or a MAC it shows that machine alone, with every stage of its last boot. It reads what the server keeps in the
store, so it also works after the server has ended.

With --installed or --reinstall it changes what a host with "boot: once" does at its next boot: start its own disk, or install
itself from its image again. Machines report by themselves that they are installed; this is for those that cannot.

Stages: ` + strings.Join(nodes.Stages, ", ") + `;
seen and refused are machines that did not get as far.`,
		Example: `  netroot nodes
  netroot nodes vmegr
  netroot nodes --reinstall nuc
  netroot nodes --installed nuc                # its installer cannot report, or was used by hand
  netroot nodes --json | jq -r 'select(.stage != "up") | .name'`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if s, err := c.openStore(); err == nil {
				kept, _ := nodes.Read(s.StateDir())
				for _, m := range kept.Machines {
					if m.Name != "" {
						names = append(names, m.Name)
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := c.openStore()
			if err != nil {
				return err
			}
			if installed || reinstall {
				if len(args) == 0 || installed && reinstall {
					return usageError{errors.New("--installed and --reinstall are each for one host, as in: netroot nodes --reinstall nuc")}
				}
				return c.setInstalled(install.OpenLedger(s.StateDir()), args[0], installed)
			}
			return c.nodes(s.StateDir(), strings.Join(args, ""))
		},
	}
	cmd.Flags().BoolVar(&installed, "installed", false, "the host NAME is installed: it boots its own disk from now on")
	cmd.Flags().BoolVar(&reinstall, "reinstall", false, "have the host NAME install itself again at its next boot")
	return cmd
}

// setInstalled changes what a host with boot: once does next. A server that runs heeds it at once.
func (c *cli) setInstalled(ledger *install.Ledger, name string, done bool) error {
	policy, err := c.policy()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(policy.Hosts, func(h host.Host) bool { return strings.EqualFold(h.Name, name) })
	if i < 0 {
		return fmt.Errorf("%s is not under hosts: in netroot.yaml", name)
	}
	h := policy.Hosts[i]
	if !h.Once {
		return fmt.Errorf("%s does not have boot: once in netroot.yaml, so it boots %s whenever it boots", h.Name, cmp.Or(h.Image, "what it is given a menu of"))
	}
	if done {
		if err := ledger.SetInstalled(h.Name, install.Install{Time: time.Now().UTC().Truncate(time.Second), By: "netroot nodes"}); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "%s boots its own disk from now on\n", h.Name)
		return nil
	}
	was, err := ledger.Reinstall(h.Name)
	if err != nil {
		return err
	}
	if !was {
		fmt.Fprintf(c.stderr, "netroot: %s was not installed yet\n", h.Name)
	}
	fmt.Fprintf(c.stdout, "%s installs itself from %s at its next boot\n", h.Name, h.Image)
	return nil
}

// nodes prints the machines that the state in dir knows, or the one called who.
func (c *cli) nodes(dir, who string) error {
	kept, err := nodes.Read(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if who != "" {
			return fmt.Errorf("%s was not seen: no 'netroot serve' has seen a machine on this store", who)
		}
		fmt.Fprintln(c.stderr, "netroot: no 'netroot serve' has seen a machine on this store")
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run it as root", err)
	case err != nil:
		return err
	}
	machines := kept.Machines
	if who != "" {
		if machines = called(machines, who); len(machines) == 0 {
			return fmt.Errorf("%s was not seen; 'netroot nodes' lists the machines that were", who)
		}
	}
	if !kept.Running {
		fmt.Fprintf(c.stderr, "netroot: netroot serve is not running; this is what it knew at %s\n", kept.Written.Local().Format(time.DateTime))
	}
	switch {
	case c.json:
		for _, m := range machines {
			if err := c.printJSON(m); err != nil {
				return err
			}
		}
	case who != "":
		for _, m := range machines {
			if err := printMachine(c.stdout, m); err != nil {
				return err
			}
		}
	default:
		return printMachines(c.stdout, machines)
	}
	return nil
}

// called finds machines by name, MAC or address, as the policy would. A machine with two cards is there twice.
func called(machines []nodes.Machine, who string) []nodes.Machine {
	mac, err := host.ParseMAC(who)
	var found []nodes.Machine
	for _, m := range machines {
		if strings.EqualFold(m.Name, who) || err == nil && m.MAC == mac.String() || len(m.Addresses) > 0 && m.Addresses[0].String() == who {
			found = append(found, m)
		}
	}
	return found
}

func printMachines(out io.Writer, machines []nodes.Machine) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tMAC\tADDRESS\tIMAGE\tSTAGE\tSINCE\tTOOK\tBOOTS\tERROR")
	for _, m := range machines {
		stage, problem := m.Stage, ""
		if m.Stalled {
			stage += " (stalled)"
		}
		if m.Failed() {
			problem = plain(m.LastError.String())
		}
		took := "-"
		if len(m.Stages) > 0 {
			took = fmt.Sprintf("%.1f s", m.Seconds)
		}
		row := fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s", dash(m.Name), dash(m.MAC), dash(address(m)), dash(m.Ref()), stage,
			m.Since.Local().Format(time.DateTime), took, m.Boots, problem)
		fmt.Fprintln(w, strings.TrimRight(row, "\t"))
	}
	return w.Flush()
}

func printMachine(out io.Writer, m nodes.Machine) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, plain(value))
		}
	}
	var addresses []string
	for _, a := range m.Addresses {
		addresses = append(addresses, a.String())
	}
	stage := m.Stage
	if m.Stalled {
		stage += ", stalled"
	}
	row("name", m.Name)
	row("MAC", m.MAC)
	row("addresses", strings.Join(addresses, ", "))
	row("interface", m.Interface)
	row("image", m.Ref())
	row("stage", stage+", since "+m.Since.Local().Format(time.DateTime))
	row("seen", m.FirstSeen.Local().Format(time.DateTime)+" to "+m.LastSeen.Local().Format(time.DateTime))
	row("boots", fmt.Sprint(m.Boots))
	if m.LastError != nil {
		row("last error", m.LastError.Time.Local().Format(time.DateTime)+" "+m.LastError.String())
	}
	if err := w.Flush(); err != nil || len(m.Stages) == 0 {
		return err
	}
	fmt.Fprintf(out, "last boot, at %s:\n", m.Began.Local().Format(time.DateTime))
	for _, s := range m.Stages {
		line := fmt.Sprintf("  %-11s %7.1f s  %+6.1f  %s", s.Stage, s.Reached.Sub(m.Began).Seconds(), s.Seconds, plain(s.Note))
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

func address(m nodes.Machine) string {
	if len(m.Addresses) == 0 {
		return ""
	}
	return m.Addresses[0].String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
