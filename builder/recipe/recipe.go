// Package recipe reads recipes: the YAML files that say what a diskless root is made of. Reading is pure, in that nothing is
// downloaded and no root is touched; it looks only at the recipe, the files it includes and the files it copies from.
//
// Every fault of a recipe comes back as strictyaml.Errors, with file, line and column, and the line itself.
//
// Limits: apt and yum are the sources that this build can install from; an ISO, or a kernel and an initrd (netboot), are taken as they
// are, and a copy has the packages of its original. A file is copied from one file; folders and links are what hooks are for.
package recipe

import (
	"io"
	"io/fs"

	"netroot/builder/seed"
)

// A Recipe is what one image is made of, with everything it includes already merged in.
type Recipe struct {
	Include  string   `yaml:"include" jsonschema_description:"A recipe to build upon: a file, relative to this one, or the name of a shipped recipe. What is said here overrides it; lists are appended to its lists."`
	Name     string   `yaml:"name" jsonschema_description:"The image's name in the store, in menus and in NFS paths."`
	Arch     string   `yaml:"arch" jsonschema_description:"What the machine's processor runs. i686 takes packages for i386, i586 and i686."`
	From     From     `yaml:"from" jsonschema_description:"Where the files come from: exactly one source."`
	Packages []string `yaml:"packages" jsonschema_description:"Packages to install, with what they depend on."`
	Deliver  string   `yaml:"deliver" jsonschema:"enum=nfs,enum=http" jsonschema_description:"How the files of an ISO reach the machine. nfs: it reads what it needs (the default where it can). http: it downloads them into its memory."`
	Kernel   Kernel   `yaml:"kernel" jsonschema_description:"How the kernel is started."`
	Root     Root     `yaml:"root" jsonschema_description:"How the machine sees its root."`
	Hostname string   `yaml:"hostname" jsonschema_description:"The host name of a machine that neither netroot.yaml nor DHCP names; left out, the recipe's name."`
	Users    []User   `yaml:"users" jsonschema_description:"Users to make, or to change when packages made them (root)."`
	Files    []File   `yaml:"files" jsonschema_description:"Files to put into the root, replacing what packages put there."`
	Services Services `yaml:"services" jsonschema_description:"Services to start at boot, or not to."`
	Hooks    []Hook   `yaml:"hooks" jsonschema_description:"Scripts that are run in the root when all else is done, in this order."`

	Autoinstall *Autoinstall      `yaml:"autoinstall" json:",omitempty" jsonschema_description:"What cloud-init and Ubuntu's installer ask the server for. Templates (text/template) with .Name, .MAC, .Address, .Image, .Server and .Vars of the machine."`
	Preseed     *Text             `yaml:"preseed,bare" json:",omitempty" jsonschema_description:"The Debian installer's answers, a template likewise."`
	Kickstart   *Text             `yaml:"kickstart,bare" json:",omitempty" jsonschema_description:"Anaconda's answers, a template likewise."`
	Vars        map[string]string `yaml:"vars,literal,secret" json:",omitempty" jsonschema_description:"Variables of these templates, which hosts and networks in netroot.yaml may give otherwise."`

	files []string // every recipe file that was read
	seed  *seed.Seed
}

// From is the source of the files.
type From struct {
	Apt     *Apt     `yaml:"apt" jsonschema_description:"Debian packages."`
	Yum     *Yum     `yaml:"yum" jsonschema_description:"RPM packages."`
	ISO     *ISO     `yaml:"iso" jsonschema_description:"A live or installation ISO, taken as it is."`
	Netboot *Netboot `yaml:"netboot" jsonschema_description:"A kernel and an initrd, taken as they are."`
	Copy    *Copy    `yaml:"copy,bare" jsonschema_description:"An installed system: where it is, or a mapping."`
}

// Apt is a Debian archive.
type Apt struct {
	Suite      string   `yaml:"suite" jsonschema_description:"The release: bookworm."`
	Components []string `yaml:"components" jsonschema_description:"The parts of the archive; left out, those of this host's own apt sources."`
	Mirror     string   `yaml:"mirror" jsonschema_description:"Base URL of the archive (http, https or file); left out, that of this host's own apt sources."`
	Keyring    string   `yaml:"keyring" jsonschema_description:"File of OpenPGP keys that may sign the archive, relative to this file; left out, this host's own apt keyrings."`
}

// Yum is one or more RPM repositories.
type Yum struct {
	Mirror     string   `yaml:"mirror" jsonschema_description:"Base URL (http, https or file) of the repositories that have a path."`
	ReleaseVer string   `yaml:"releasever,literal" jsonschema_description:"What $releasever stands for."`
	Repos      []Repo   `yaml:"repos" jsonschema_description:"The repositories."`
	Groups     []string `yaml:"groups" jsonschema_description:"Groups of packages, by id or name: their mandatory, default and conditional members."`
	Exclude    []string `yaml:"exclude" jsonschema_description:"Names of packages that must not be there; * and ? stand for any letters."`
}

// A Repo is one RPM repository. Exactly one of Path, BaseURL, MirrorList and Metalink says where it is.
type Repo struct {
	Name         string   `yaml:"name" jsonschema:"required" jsonschema_description:"What it is called in messages and in the lock."`
	Path         string   `yaml:"path" jsonschema_description:"Folder below the mirror that has repodata in it."`
	BaseURL      string   `yaml:"baseurl" jsonschema_description:"URL (http, https or file) of the folder that has repodata in it; $releasever and $basearch are filled in."`
	MirrorList   string   `yaml:"mirrorlist" jsonschema_description:"URL of a list of such URLs."`
	Metalink     string   `yaml:"metalink" jsonschema_description:"URL of a metalink file with such URLs."`
	GPGKey       []string `yaml:"gpgkey,one" jsonschema_description:"Files of OpenPGP keys that may sign packages, relative to this file."`
	GPGCheck     *bool    `yaml:"gpgcheck" jsonschema_description:"false takes packages without a look at their signatures."`
	RepoGPGCheck bool     `yaml:"repo_gpgcheck" jsonschema_description:"Whether the repository's own metadata must be signed, too."`
	Legacy       bool     `yaml:"legacy" jsonschema_description:"Takes SHA-1, DSA and short RSA keys for this repository, which can be forged: for distributions as old as EL6."`
	Priority     int      `yaml:"priority" jsonschema:"minimum=1,maximum=99" jsonschema_description:"Of a package in several repositories those of the lowest number count; left out, 99."`
	Exclude      []string `yaml:"exclude" jsonschema_description:"Names of packages that are not taken from here; * and ? stand for any letters."`
}

// Kernel says how the kernel is started.
type Kernel struct {
	Version string   `yaml:"version,literal" jsonschema_description:"Release of the kernel to boot, as uname -r says it; left out, the newest in the root."`
	Cmdline []string `yaml:"cmdline" jsonschema_description:"Kernel parameters, one an item. One with a comma in it needs quotes inside [ ]."`
}

// Root says how the machine sees its root.
type Root struct {
	Writable string   `yaml:"writable" jsonschema:"enum=overlay,enum=bind,enum=no" jsonschema_description:"overlay: changes go to memory (the default). bind: the same for kernels without overlayfs. no: read-only."`
	Size     string   `yaml:"size,literal" jsonschema_description:"Limit of the memory that changes may take: a share of the whole (50%, the default) or a size (512m, 2g)."`
	Folders  []string `yaml:"folders" jsonschema_description:"With bind: the folders that can be written to. Each is copied into memory at boot, so that large ones cost time and memory. Left out, /etc, /var, /root, /tmp, /home, /mnt and /media."`
}

// A File is put into the root.
type File struct {
	Path    string `yaml:"path" jsonschema:"required" jsonschema_description:"Absolute path in the root."`
	Content string `yaml:"content" jsonschema_description:"What is in the file."`
	Source  string `yaml:"source" jsonschema_description:"A file to copy, relative to this one."`
	Mode    string `yaml:"mode,literal" jsonschema_description:"Permission bits in octal; left out, 0644."`
	Owner   string `yaml:"owner" jsonschema_description:"user:group, by name or number; left out, root:root."`

	sum  string // SHA-256 of what the source held when the recipe was read
	open func() (fs.File, error)
}

// Open opens the bytes of a file that has a source.
func (f *File) Open() (io.ReadCloser, error) { return f.open() }

// Sum is the SHA-256, in hex, that the source's bytes had when the recipe was read; "" when the content is in the recipe.
func (f *File) Sum() string { return f.sum }

// A Hook is a script that is run in the root.
type Hook struct {
	Name   string `yaml:"name" jsonschema:"required" jsonschema_description:"What it is called in messages."`
	Script string `yaml:"script" jsonschema:"required" jsonschema_description:"The script. Without #! it is run by /bin/sh -e."`
}

// A User is somebody who can own files and perhaps log in.
type User struct {
	Name     string   `yaml:"name" jsonschema:"required" jsonschema_description:"Login name."`
	Password string   `yaml:"password,secret" jsonschema_description:"A crypt(3) hash (mkpasswd -m yescrypt), or * for none; left out, a new user has none and an existing one keeps his."`
	SSHKeys  []string `yaml:"ssh_keys,secret" jsonschema_description:"Public keys that may log in, as in ~/.ssh/id_ed25519.pub."`
	UID      *int     `yaml:"uid" jsonschema:"minimum=1,maximum=4294967294" jsonschema_description:"Number; left out, the next free one."`
	Groups   []string `yaml:"groups" jsonschema_description:"Further groups; one that does not exist is made."`
	Shell    string   `yaml:"shell" jsonschema_description:"Login shell; left out, the root's own default."`
	Home     string   `yaml:"home" jsonschema_description:"Home folder; left out, /home/NAME."`
}

// Services are started at boot, or not.
type Services struct {
	Enable  []string `yaml:"enable" jsonschema_description:"Services to start at boot."`
	Disable []string `yaml:"disable" jsonschema_description:"Services not to start at boot."`
}

// Paths lists every recipe file that was read: the named one first, then what it includes.
func (r *Recipe) Paths() []string { return r.files }
