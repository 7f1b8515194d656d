package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"netroot/boot/nodes"
	"netroot/builder/atomicfile"
	"netroot/builder/check"
	"netroot/builder/recipe"
	"netroot/builder/store"
)

func (c *cli) reportCommand() *cobra.Command {
	var r reportOptions
	cmd := &cobra.Command{
		Use:   "report IMAGE[@GENERATION]",
		Short: "Collect into one file what somebody who is to help needs to see of an image",
		Long: `Writes a .tar.gz of what is known of an image: what its recipe says, the packages it was made of, what check finds, the machines
that boot it and how far they came, and the consoles and logs that are given.

Of the recipe there are no passwords, SSH keys, contents of files or scripts; of seeds there is nothing. Password hashes, private keys and
what stands behind the name of a password, passphrase or key are blotted out of everything else, too. Host names, addresses and MACs are in it: look it through before you send it on.`,
		Example: "  netroot report slc68-v7768 --console minicom.cap --log build.log",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if r.output == "" {
				r.output = strings.ReplaceAll(path.Base(args[0]), "@", "-") + "-report.tar.gz"
			}
			if err := c.report(args[0], r); err != nil {
				return fmt.Errorf("report on %s: %w", args[0], err)
			}
			fmt.Fprintln(c.stdout, r.output)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&r.output, "output", "o", "", "file to write (default IMAGE-report.tar.gz)")
	f.StringVar(&r.recipe, "recipe", "", "recipe of the image (default the shipped one of that name)")
	f.StringSliceVar(&r.consoles, "console", nil, "what a machine showed on its serial console (verify --console writes one too); may be repeated")
	f.StringSliceVar(&r.logs, "log", nil, "what build or serve wrote; may be repeated")
	return cmd
}

type reportOptions struct {
	output, recipe string
	consoles, logs []string
}

// A document is one file of a report.
type document struct {
	name string
	data []byte
}

func (c *cli) report(ref string, o reportOptions) error {
	image, _, err := store.ParseRef(ref)
	if err != nil {
		return usageError{err}
	}
	docs := []document{{"host.txt", c.host()}}
	add := func(name string, v any) error {
		data, err := blottedJSON(v)
		docs = append(docs, document{name, data})
		return err
	}
	if o.recipe == "" && slices.Contains(recipe.Shipped(), image) {
		o.recipe = image
	}
	if o.recipe != "" {
		r, err := recipe.Find(o.recipe)
		if err != nil {
			return err
		}
		if err := add("recipe.json", shown(r)); err != nil {
			return err
		}
	}
	g, err := c.generation(ref)
	switch {
	case err == nil:
		findings, err := c.findings(ref)
		if err != nil {
			findings = []check.Finding{{Severity: check.Error, Check: "report", Problem: err.Error()}}
		}
		if err := errors.Join(add("image.json", g.Manifest), add("lock.json", g.Manifest.Lock), add("check.json", findings)); err != nil {
			return err
		}
	default:
		docs = append(docs, document{"image.txt", blot([]byte("there is none: " + err.Error() + "\n"))})
	}
	machines, err := c.machines(image)
	if err != nil {
		return err
	}
	if err := add("machines.json", machines); err != nil {
		return err
	}
	for kind, files := range map[string][]string{"console": o.consoles, "log": o.logs} {
		for i, file := range files {
			data, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				// What failed early leaves no console; the rest is all the more wanted.
				fmt.Fprintf(c.stderr, "netroot: %s is not there, and not in the report\n", file)
				continue
			}
			if err != nil {
				return err
			}
			docs = append(docs, document{fmt.Sprintf("%s-%d.txt", kind, i+1), blot(data)})
		}
	}
	slices.SortFunc(docs, func(a, b document) int { return strings.Compare(a.name, b.name) })
	data, err := pack(image+"-report", docs, time.Now())
	if err != nil {
		return err
	}
	return atomicfile.Write(o.output, data, 0o600)
}

// host says where the report was made.
func (c *cli) host() []byte {
	var u unix.Utsname
	unix.Uname(&u)
	text := func(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }
	return fmt.Appendf(nil, "netroot %s\n%s %s %s\n%s\n", version, text(u.Sysname[:]), text(u.Release[:]), text(u.Machine[:]), time.Now().Format(time.RFC3339))
}

// findings is what check says of an image.
func (c *cli) findings(ref string) ([]check.Finding, error) {
	root, m, done, err := c.openRoot(ref)
	if err != nil {
		return nil, err
	}
	defer done()
	return check.Run(root, factsOf(m)), nil
}

// machines are those that boot the image, or that boot nothing.
func (c *cli) machines(image string) ([]nodes.Machine, error) {
	s, err := c.openStore()
	if err != nil {
		return nil, err
	}
	kept, err := nodes.Read(s.StateDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return slices.DeleteFunc(kept.Machines, func(m nodes.Machine) bool { return m.Image != image && m.Image != "" }), nil
}

// shownRecipe is what a report tells of a recipe.
type shownRecipe struct {
	Name, Arch, Hostname          string
	From                          recipe.From
	Packages                      []string
	Kernel                        recipe.Kernel
	Root                          recipe.Root
	Services                      recipe.Services
	Users, Files, Hooks, Included []string
}

func shown(r *recipe.Recipe) shownRecipe {
	s := shownRecipe{Name: r.Name, Arch: r.Arch, Hostname: r.Hostname, From: r.From, Packages: r.Packages, Kernel: r.Kernel, Root: r.Root, Services: r.Services}
	for _, u := range r.Users {
		s.Users = append(s.Users, u.Name)
	}
	for _, f := range r.Files {
		s.Files = append(s.Files, f.Path+" "+f.Mode+" "+f.Owner)
	}
	for _, h := range r.Hooks {
		s.Hooks = append(s.Hooks, h.Name)
	}
	for _, p := range r.Paths() {
		s.Included = append(s.Included, filepath.Base(p))
	}
	return s
}

// pack makes the archive.
func pack(folder string, docs []document, at time.Time) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for _, d := range docs {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: folder + "/" + d.name, Mode: 0o644, Size: int64(len(d.data)), ModTime: at}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(d.data); err != nil {
			return nil, err
		}
	}
	err := errors.Join(w.Close(), z.Close())
	return out.Bytes(), err
}
