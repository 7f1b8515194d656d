package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"netroot/boot/dnsmasq"
	"netroot/boot/host"
	"netroot/builder/atomicfile"
)

func (c *cli) importDnsmasqCommand() *cobra.Command {
	var output string
	var force bool
	cmd := &cobra.Command{
		Use:   "import-dnsmasq FILE",
		Short: "Turn a dnsmasq.conf into a netroot.yaml",
		Long: `Reads who is answered beside another DHCP server, and with what, and writes the policy that does the same, with the
comments. A dhcp-host line that is commented out becomes a disabled host.

What cannot be translated is listed by line on standard error: a warning when another machine may boot, or the same from
elsewhere, than did with dnsmasq, else a note. The exit code is 0 all the same; it is 2 when dnsmasq would not start with
the file.`,
		Example: `  netroot import-dnsmasq /etc/dnsmasq.conf
  netroot import-dnsmasq /etc/dnsmasq.conf -o /etc/netroot/netroot.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return c.importDnsmasq(args[0], output, force)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the policy to this file")
	cmd.Flags().BoolVar(&force, "force", false, "write over that file when it is there")
	return cmd
}

func (c *cli) importDnsmasq(path, output string, force bool) error {
	if output != "" && !force {
		if _, err := os.Lstat(output); err == nil {
			return fmt.Errorf("write policy: %s is there already; give another name, or --force to write over it", output)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write policy: %w", err)
		}
	}
	file, err := dnsmasq.Load(path)
	if err != nil {
		return err
	}
	yaml, remarks := file.Translate()
	if _, err := host.Parse("the policy made of "+path, yaml); err != nil {
		return fmt.Errorf("translate %s, which is a fault of netroot: %v", path, err)
	}
	for _, r := range remarks {
		kind := "note"
		if r.Changes {
			kind = "warning"
		}
		fmt.Fprintf(c.stderr, "netroot: %s: %s\n", kind, r)
	}
	if output == "" {
		_, err := c.stdout.Write(yaml)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return fmt.Errorf("write policy %s: %w", output, err)
	}
	if err := atomicfile.Write(output, yaml, 0o644); err != nil {
		return fmt.Errorf("write policy: %w", err)
	}
	return nil
}
