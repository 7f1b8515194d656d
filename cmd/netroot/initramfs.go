package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"netroot/builder/atomicfile"
	"netroot/builder/initramfs"
)

func (c *cli) initramfsCommand() *cobra.Command {
	var root, out string
	var o initramfs.Options
	cmd := &cobra.Command{
		Use:   "initramfs --root IMAGE|FOLDER --output FILE",
		Short: "Write an NFS-root initramfs from any root folder or image",
		Long: `Takes shell, mount, switch_root, modprobe, ip and a DHCP client out of the root, with the libraries they need and the
kernel modules for NFS, overlay and wired network cards. The result understands dracut's words on the kernel command
line: root=nfs:SERVER:/PATH[:OPTIONS], ip=, BOOTIF=, rd.overlay, rd.break, rd.shell, rd.debug.`,
		Example: "  netroot initramfs --root /srv/roots/site --output initrd.img",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if root == "" || out == "" {
				return usageError{fmt.Errorf("give both --root and --output")}
			}
			fsys, _, done, err := c.openRoot(root)
			if err != nil {
				return err
			}
			defer done()
			o.Root, o.Log = fsys, c.logger(c.stderr)
			f, err := atomicfile.Create(out, 0o644)
			if err != nil {
				return err
			}
			defer f.Abort()
			report, err := initramfs.Write(f, o)
			if err != nil {
				return fmt.Errorf("write %s: %w", out, err)
			}
			if err := f.Commit(); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(report)
			}
			fmt.Fprintf(c.stdout, "%s: %s for kernel %s\n", out, megabytes(report.Size), report.Release)
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "an image of the store, or a folder that holds a root")
	cmd.Flags().StringVarP(&out, "output", "o", "", "the file to write")
	cmd.Flags().StringVar(&o.Release, "kernel", "", "kernel release (default: the newest in the root)")
	cmd.Flags().StringVar(&o.Compression, "compression", "", "gzip or zstd (default: what the kernel can read)")
	cmd.Flags().StringSliceVar(&o.Modules, "module", nil, "a further kernel module to include; may be repeated")
	return cmd
}
