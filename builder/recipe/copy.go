package recipe

import (
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"netroot/builder/strictyaml"
)

// A Copy is an installed system that a root is copied from.
type Copy struct {
	From        string   `yaml:"from" jsonschema:"required" jsonschema_description:"A folder, a tar in any compression (both relative to this file), or a machine that runs: ssh://[user@]host[:port][/path]."`
	FileSystems []string `yaml:"file_systems" jsonschema_description:"Folders that are copied even when they are file systems of their own; left out: /boot, /usr, /var, /opt."`
	Exclude     []string `yaml:"exclude" jsonschema_description:"Absolute paths in the copied system that are left out, with all that is below; * and ? stand for letters of one name."`
	HostKeys    string   `yaml:"host_keys" jsonschema:"enum=new,enum=keep" jsonschema_description:"new: every machine makes its own SSH host keys at boot (the default). keep: all have those of the original, and whoever reads the image has them, too."`
	SSHConfig   string   `yaml:"ssh_config" jsonschema_description:"Configuration file for ssh, relative to this file; left out, root's own."`
	SSHOptions  []string `yaml:"ssh_options" jsonschema_description:"Options for ssh, as in ssh_config(5): IdentityFile=/root/.ssh/copy."`
}

// defaultFileSystems are where installers put parts of the system.
var defaultFileSystems = []string{"/boot", "/usr", "/var", "/opt"}

const (
	sshPattern       = `^ssh://([A-Za-z0-9_][A-Za-z0-9._-]*@)?(\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]|[A-Za-z0-9][A-Za-z0-9._-]*)(:[0-9]{1,5})?(/[^?#]*)?$`
	excludedPattern  = `^(/([^/.\x00-\x1f][^/\x00-\x1f]*|\.[^/.\x00-\x1f][^/\x00-\x1f]*|\.\.[^/\x00-\x1f]+))+/?$`
	sshOptionPattern = `^[A-Za-z0-9]+[ =][^\x00-\x1f]+$`
	versionPattern   = `^[A-Za-z0-9][A-Za-z0-9._+~-]*$`
)

var (
	sshRE       = regexp.MustCompile(sshPattern)
	excludedRE  = regexp.MustCompile(excludedPattern)
	sshOptionRE = regexp.MustCompile(sshOptionPattern)
	versionRE   = regexp.MustCompile(versionPattern)
)

func (c *checker) copy(y *Copy) {
	const at = "$.from.copy"
	switch {
	case !c.given(at+".from", y.From):
	case strings.HasPrefix(y.From, "ssh:"):
		c.sshAddress(at+".from", y.From)
	case !c.noDots(at+".from", y.From):
	default:
		y.From = c.hostFile(y.From)
		if _, err := os.Stat(y.From); err != nil && c.origin.fsys == nil {
			e := c.at(at+".from", "%s %s", y.From, strictyaml.FileError(y.From, err).Msg)
			if e.Err = err; strings.Contains(y.From, "@") || strings.Contains(y.From, ":") {
				e.WithHint("a machine that runs is named as in: ssh://root@host")
			}
		}
	}
	c.each(at+".file_systems", y.FileSystems, func(s string) error {
		if !excludedRE.MatchString(s) || path.Clean(s) != s {
			return fmt.Errorf("%q is not the plain absolute path of a folder", s)
		}
		return nil
	})
	c.each(at+".exclude", y.Exclude, func(s string) error {
		if _, err := path.Match(s, ""); err != nil || !excludedRE.MatchString(s) {
			return fmt.Errorf("%q is not an absolute path, with * and ? for any letters", s)
		}
		return nil
	})
	if c.given(at+".ssh_config", y.SSHConfig) {
		y.SSHConfig = c.keyring(at+".ssh_config", y.SSHConfig)
	}
	c.each(at+".ssh_options", y.SSHOptions, func(s string) error {
		return match(s, sshOptionRE, `an option of ssh, as in "Port=2222"`)
	})
	if !strings.HasPrefix(y.From, "ssh:") {
		for _, key := range []string{"ssh_config", "ssh_options"} {
			if c.doc.Has(at + "." + key) {
				c.at(at+"."+key, "says how ssh is called, and this copy is not taken by ssh")
			}
		}
	}
}

func (c *checker) sshAddress(at, address string) {
	userinfo, _, named := strings.Cut(strings.TrimPrefix(address, "ssh://"), "@")
	if _, password, has := strings.Cut(userinfo, ":"); named && has {
		e := c.at(at, "an address with a password in it")
		if password != "" {
			e.Source = strings.ReplaceAll(e.Source, password, "***")
		}
		e.WithHint("ssh logs in with a key: put this host's into ~/.ssh/authorized_keys there")
		return
	}
	if !sshRE.MatchString(address) || slices.Contains(strings.Split(address, "/"), "..") {
		c.at(at, "%q is not ssh://[user@]host[:port][/path]", address)
	}
}

// checkCopy finds what only goes with other sources.
func checkCopy(parts []part, r *Recipe) []*strictyaml.Error {
	var errs []*strictyaml.Error
	for _, p := range parts {
		if r.From.Copy != nil && p.doc.Has("$.packages") {
			e := p.doc.AtKey("$.packages", "packages: are not installed into a copy, which has those of its original")
			errs = append(errs, e.WithHint("install them on the original, or in a hook"))
		}
		if r.Medium() && p.doc.Has("$.kernel.version") {
			errs = append(errs, p.doc.AtKey("$.kernel.version", "version: chooses among the kernels of a root, and an ISO's or netboot's is named in from:"))
		}
	}
	return errs
}

func mergeCopy(base *From, y *Copy) {
	if base.Copy == nil {
		*base = From{Copy: &Copy{}}
	}
	b := base.Copy
	b.From = y.From
	if y.HostKeys != "" {
		b.HostKeys = y.HostKeys
	}
	if y.SSHConfig != "" {
		b.SSHConfig = y.SSHConfig
	}
	b.FileSystems = union(b.FileSystems, y.FileSystems)
	b.Exclude = union(b.Exclude, y.Exclude)
	b.SSHOptions = union(b.SSHOptions, y.SSHOptions)
}

// digestible is the copy without what its lock says better: what was copied.
func (y *Copy) digestible() *Copy { return &Copy{HostKeys: y.HostKeys} }
