// Package customize makes of a configured root the root of one recipe, and of any root one that lives without a disk.
//
// A recipe's users come first, then its files (which users may own), host name and services, then netroot's own
// parts, then its hooks, which thus see everything. At the very end, what must not be the same on two machines is taken
// away again: host keys, machine id, random seeds.
//
// netroot's own parts tell the server how far the machine has come, keep the address lease alive, and keep everybody's hands
// off the interface that the root comes over. They are in the folder root beside this file, as they lie in a root.
//
// A root that was copied is first cleared of what belongs to the disks, cards and identity of its original (copied.go).
//
// A root made of packages alone also lacks what an installer would have written (family.go); what is provided is told.
//
// Limits: the parts that run after init are systemd units or init scripts. On a root with neither the scripts are there, but nothing
// calls them: such a machine boots, and reports no stage after switch-root. Users are made by the root's own useradd, groupadd and
// chpasswd, services are enabled by its systemctl, update-rc.d or chkconfig; a root that lacks them cannot have any.
package customize

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"netroot/builder/chroot"
	"netroot/builder/recipe"
	"netroot/builder/tree"
)

// Apply makes the root of session s what rec says. Nothing but the session's own layer is written to. It returns what it provided
// that neither a package nor the recipe has.
func Apply(ctx context.Context, rec *recipe.Recipe, s *chroot.Session, log *slog.Logger) ([]string, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := customizer{ctx: ctx, rec: rec, root: openRoot(s.Root()), run: s.Run, log: log}
	err := c.apply()
	return c.notes, err
}

type customizer struct {
	ctx  context.Context
	rec  *recipe.Recipe
	root rootDir
	run  func(context.Context, chroot.Command) error
	log  *slog.Logger

	notes []string
}

func (c *customizer) apply() error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"users", c.users},
		{"files", func() error { return c.root.files(c.rec) }},
		{"host name", func() error { return c.root.hostname(c.rec) }},
		{"services", c.services},
		{"netroot's own parts", func() error { return c.root.diskless(c.rec) }},
		{"writable folders", func() error { return c.root.writable(c.rec) }},
		{"what an installer leaves behind", c.provide},
		{"hooks", c.hooks},
		{"what finds nothing to do", func() error { return c.root.trim(c.rec) }},
		{"seal", func() error { return c.root.seal(c.rec) }},
	} {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if !c.root.hasSystemd() && !c.root.exists("/etc/init.d/netroot") {
		c.log.Warn("the root has neither systemd nor /etc/init.d: its machines will report no stage after switch-root, and renew no lease")
	}
	return nil
}

// files puts the recipe's files into the root.
func (r rootDir) files(rec *recipe.Recipe) error {
	for i := range rec.Files {
		f := &rec.Files[i]
		mode, err := strconv.ParseUint(f.Mode, 8, 12)
		if err != nil {
			return fmt.Errorf("%s: mode %q is not octal", f.Path, f.Mode)
		}
		uid, gid, err := r.owner(f.Owner)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		var data io.Reader = strings.NewReader(f.Content)
		if f.Source != "" {
			src, err := f.Open()
			if err != nil {
				return fmt.Errorf("%s: read its source: %w", f.Path, err)
			}
			defer src.Close()
			data = src
		}
		if err := r.write(f.Path, data, attributes{uint32(mode), uid, gid}); err != nil {
			return err
		}
	}
	return nil
}

// need finds a program of the root, or says which package has it.
func (c *customizer) need(program, pkg string) error {
	if _, ok := tree.LookPath(c.root.fsys, program); !ok {
		return fmt.Errorf("the root has no %s: add the package that has it (on Debian: %s)", program, pkg)
	}
	return nil
}

func (c *customizer) users() error {
	for i := range c.rec.Users {
		if err := c.user(&c.rec.Users[i]); err != nil {
			return fmt.Errorf("%s: %w", c.rec.Users[i].Name, err)
		}
	}
	return nil
}

func (c *customizer) user(u *recipe.User) error {
	for _, g := range u.Groups {
		if _, ok := c.root.group(g); ok {
			continue
		}
		if err := c.need("groupadd", "passwd"); err != nil {
			return err
		}
		c.log.Info("making a group that no package made", "group", g, "user", u.Name)
		if err := c.run(c.ctx, chroot.Command{Args: []string{"groupadd", g}}); err != nil {
			return err
		}
	}
	_, old := c.root.account(u.Name)
	var args []string
	if u.UID != nil {
		args = append(args, "--uid", strconv.Itoa(*u.UID))
	}
	if u.Home != "" {
		args = append(args, "-d", u.Home) // --home-dir or --home
	}
	shell := u.Shell
	if shell == "" && !old && c.root.exists("/bin/bash") {
		shell = "/bin/bash"
	}
	if shell != "" {
		if !c.root.exists(shell) {
			return fmt.Errorf("the root has no shell %s", shell)
		}
		args = append(args, "--shell", shell)
	}
	if len(u.Groups) > 0 {
		args = append(args, "--groups", strings.Join(u.Groups, ","))
	}
	switch {
	case !old:
		if err := c.need("useradd", "passwd"); err != nil {
			return err
		}
		// Distributions have groups that wait for a user of the same name (Debian: operator, staff).
		if _, ok := c.root.group(u.Name); ok {
			args = append(args, "--gid", u.Name)
		}
		args = append([]string{"useradd", "--create-home"}, append(args, u.Name)...)
	case len(args) > 0:
		if err := c.need("usermod", "passwd"); err != nil {
			return err
		}
		if len(u.Groups) > 0 {
			args = append(args, "--append")
		}
		args = append([]string{"usermod"}, append(args, u.Name)...)
	}
	if len(args) > 0 {
		if err := c.run(c.ctx, chroot.Command{Args: args}); err != nil {
			return err
		}
	}
	if u.Password != "" {
		if err := c.need("chpasswd", "passwd"); err != nil {
			return err
		}
		// On its standard input: a command line can be read by everybody.
		line := strings.NewReader(u.Name + ":" + u.Password + "\n")
		if err := c.run(c.ctx, chroot.Command{Args: []string{"chpasswd", "-e"}, Stdin: line}); err != nil {
			return err
		}
	}
	return c.sshKeys(u)
}

func (c *customizer) sshKeys(u *recipe.User) error {
	if len(u.SSHKeys) == 0 {
		return nil
	}
	a, ok := c.root.account(u.Name)
	if !ok {
		return errors.New("the user is not in /etc/passwd")
	}
	dir := filepath.Join(a.home, ".ssh")
	if err := c.root.mkdirAll(dir); err != nil {
		return err
	}
	resolved, err := tree.Resolve(c.root.fsys, dir)
	if err != nil {
		return err
	}
	// sshd refuses keys that others could write (sshd(8), StrictModes).
	if err := os.Lchown(c.root.host(resolved), a.uid, a.gid); err != nil {
		return fmt.Errorf("%s: %w", dir, cause(err))
	}
	if err := os.Chmod(c.root.host(resolved), 0o700); err != nil {
		return fmt.Errorf("%s: %w", dir, cause(err))
	}
	var text strings.Builder
	for _, key := range u.SSHKeys {
		text.WriteString(strings.TrimSpace(key) + "\n")
	}
	return c.root.write(filepath.Join(dir, "authorized_keys"), strings.NewReader(text.String()), attributes{0o600, a.uid, a.gid})
}

// services enables and disables, with whatever tool the root's init has for it.
func (c *customizer) services() error {
	if len(c.rec.Services.Enable)+len(c.rec.Services.Disable) == 0 {
		return nil
	}
	tool, ok := "", false
	for _, tool = range []string{"systemctl", "update-rc.d", "chkconfig"} {
		if _, ok = tree.LookPath(c.root.fsys, tool); ok {
			break
		}
	}
	if !ok {
		return errors.New("the root has none of systemctl, update-rc.d and chkconfig: services cannot be enabled or disabled in it")
	}
	set := func(verb, flag string, names []string) error {
		for _, name := range names {
			args := map[string][]string{
				"systemctl":   {"systemctl", verb, "--", name},
				"update-rc.d": {"update-rc.d", name, verb},
				"chkconfig":   {"chkconfig", name, flag},
			}[tool]
			// SYSTEMD_OFFLINE: only links are made, nobody is asked for a bus (systemctl(1)).
			if err := c.run(c.ctx, chroot.Command{Args: args, Env: []string{"SYSTEMD_OFFLINE=1"}}); err != nil {
				return fmt.Errorf("%s %s: %w", verb, name, err)
			}
		}
		return nil
	}
	if err := set("enable", "on", c.rec.Services.Enable); err != nil {
		return err
	}
	return set("disable", "off", c.rec.Services.Disable)
}

// hooks runs the recipe's scripts in the root, in their order.
func (c *customizer) hooks() error {
	if len(c.rec.Hooks) == 0 {
		return nil
	}
	restore, err := c.root.lendResolver("/etc/resolv.conf")
	if err != nil {
		return err
	}
	for _, h := range c.rec.Hooks {
		c.log.Info("running hook", "hook", h.Name)
		if err := c.hook(h); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	return restore()
}

// lendResolver gives a root whose resolv.conf is empty the host's, so that hooks can reach the network by name, and returns
// what takes it away again unless a hook has changed it.
func (r rootDir) lendResolver(host string) (restore func() error, err error) {
	const name = "/etc/resolv.conf"
	keep := func() error { return nil }
	lent, err := os.ReadFile(host)
	if err != nil || len(lent) == 0 || r.link(name) != "" {
		return keep, nil
	}
	if now, err := tree.ReadFile(r.fsys, name); err != nil || len(now) > 0 {
		return keep, nil
	}
	if err := r.writeString(name, string(lent)); err != nil {
		return nil, err
	}
	return func() error {
		if now, err := tree.ReadFile(r.fsys, name); err != nil || !bytes.Equal(now, lent) {
			return nil
		}
		return r.writeString(name, "")
	}, nil
}

func (c *customizer) hook(h recipe.Hook) error {
	// /tmp of a session is its own and never part of the image.
	const name = "/tmp/netroot-hook"
	if err := c.root.write(name, strings.NewReader(h.Script), attributes{mode: 0o700}); err != nil {
		return err
	}
	defer c.root.remove(name)
	args := []string{name}
	if !strings.HasPrefix(h.Script, "#!") {
		args = []string{"/bin/sh", "-e", name}
	}
	out := &lines{log: func(line string) { c.log.Debug(line, "hook", h.Name) }}
	defer out.flush()
	return c.run(c.ctx, chroot.Command{
		Args:   args,
		Env:    []string{"NETROOT_IMAGE=" + c.rec.Name, "NETROOT_ARCH=" + c.rec.Arch, "SYSTEMD_OFFLINE=1"},
		Output: out,
	})
}

// lines hands on what is written to it line by line.
type lines struct {
	log  func(string)
	rest bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest.Write(p)
	for {
		i := bytes.IndexByte(l.rest.Bytes(), '\n')
		if i < 0 {
			return len(p), nil
		}
		l.log(strings.TrimRight(string(l.rest.Next(i+1)), "\r\n"))
	}
}

func (l *lines) flush() {
	if l.rest.Len() > 0 {
		l.log(l.rest.String())
		l.rest.Reset()
	}
}
