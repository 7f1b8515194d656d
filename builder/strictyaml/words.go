package strictyaml

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Patterns of words that both recipes and netroot.yaml hold. They are written so that RE2 and the regular expressions of
// JSON Schema (ECMA-262) read them alike.
const (
	// ImagePattern is the name of an image: a folder of the store, an NFS export, a word on the kernel command line.
	ImagePattern = `^[a-z0-9][a-z0-9.-]{0,62}$`
	// HostNamePattern is RFC 1123 section 2.1: letters, digits and hyphens, no hyphen at either end of a label.
	HostNamePattern = `^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`
	// ParameterPattern is one kernel parameter: no white space, except between double quotes, which the kernel honours
	// (lib/cmdline.c, next_arg). Nor is there a ${ in it: iPXE takes it for a variable.
	ParameterPattern = `^([^\s"$]|\$+[^\s"${]|\$*"([^"\n\r$]|\$+[^"\n\r${])*\$*")+\$*$`
)

// maxHostName is HOST_NAME_MAX of Linux: sethostname(2) refuses more.
const maxHostName = 64

var (
	imageRE     = regexp.MustCompile(ImagePattern)
	hostNameRE  = regexp.MustCompile(HostNamePattern)
	parameterRE = regexp.MustCompile(ParameterPattern)
)

// ImageName says what is wrong with the name of an image, if anything.
func ImageName(s string) error {
	if !imageRE.MatchString(s) {
		return fmt.Errorf("%q cannot name an image: up to 63 lower-case letters, digits, dots and hyphens, a letter or digit first", s)
	}
	switch s {
	case "menu", "ignore", "local":
		return fmt.Errorf("%q cannot name an image: netroot.yaml uses the word for something else", s)
	case "pxelinux.cfg", "pxelinux.0", "lpxelinux.0", "ipxe", "boot.ipxe", "healthz", "metrics", "v1", "seed", "grub":
		return fmt.Errorf("%q cannot name an image: it is the name of something that is served", s)
	}
	if strings.HasSuffix(s, ".c32") {
		return fmt.Errorf("%q cannot name an image: modules of pxelinux are named so", s)
	}
	return nil
}

// HostName says what is wrong with the name of a machine, if anything.
func HostName(s string) error {
	switch {
	case len(s) > maxHostName:
		return fmt.Errorf("a host name of %d characters: Linux takes at most %d", len(s), maxHostName)
	case strings.Contains(s, "_"):
		return fmt.Errorf("%q is not a host name: RFC 1123 has no underscore, use a hyphen", s)
	case !hostNameRE.MatchString(s):
		return fmt.Errorf("%q is not a host name: RFC 1123 has letters, digits and hyphens, with dots between labels", s)
	}
	return nil
}

// KernelParameter says what is wrong with one item of a kernel command line, if anything. Parameters that netroot writes
// itself are wrong: a second root= would win over the one that names the generation.
func KernelParameter(s string) error {
	if s == "" {
		return errors.New("an empty kernel parameter")
	}
	if strings.Contains(s, "${") {
		return fmt.Errorf("%q holds ${, which iPXE takes for a variable of its own", s)
	}
	if !parameterRE.MatchString(s) {
		if strings.ContainsAny(s, " \t\n") {
			return fmt.Errorf("%q is more than one kernel parameter: write each as an item of its own", s)
		}
		return fmt.Errorf("%q is not a kernel parameter", s)
	}
	key, _, _ := strings.Cut(s, "=")
	switch {
	case key == "root", key == "nfsroot", key == "initrd", key == "BOOTIF", key == "BOOT_IMAGE",
		key == "netroot.image", key == "netroot.hostname":
		return fmt.Errorf("%s= is written by netroot itself, for each generation and machine", key)
	}
	return nil
}

// maxParameters leaves room for what netroot itself writes into the 2047 bytes that x86 kernels keep of a command line.
const maxParameters = 1200

// KernelParameters says what is wrong with a list of kernel parameters as a whole, if anything.
func KernelParameters(list []string) error {
	if n := len(strings.Join(list, " ")); n > maxParameters {
		return fmt.Errorf("kernel parameters of %d bytes: beside those of netroot there is room for %d, and kernels cut what is longer", n, maxParameters)
	}
	return nil
}

// hashPattern is a hash of a crypt(3) method that a password may be hashed with: the strong ones of crypt(5), each in full. MD5 ($1$) and
// the DES of old are left out: they are broken in minutes.
const hashPattern = `(\$6\$(rounds=[0-9]+\$)?[^$:\s]{1,16}\$[./0-9A-Za-z]{86}` +
	`|\$5\$(rounds=[0-9]+\$)?[^$:\s]{1,16}\$[./0-9A-Za-z]{43}` +
	`|\$g?y\$[./0-9A-Za-z]+\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{43}` +
	`|\$7\$[./0-9A-Za-z]{11,97}\$[./0-9A-Za-z]{43}` +
	`|\$2[abxy]\$[0-9]{2}\$[./0-9A-Za-z]{53})`

// PasswordPattern adds to the hashes what is no password at all (*, !), and a hash that is locked (!HASH).
const PasswordPattern = `^([*!]|!!|!\*|!?` + hashPattern + `)$`

var passwordRE = regexp.MustCompile(PasswordPattern)

// PasswordHash says what is wrong with a password hash, if anything.
func PasswordHash(s string) error {
	switch {
	case passwordRE.MatchString(s):
		return nil
	case strings.HasPrefix(s, "$1$"):
		return errors.New("an MD5 hash, which is broken in minutes")
	case strings.HasPrefix(s, "$"):
		return errors.New("a password hash that is cut short or of an unknown method")
	}
	return errors.New("not a password hash; a password itself has no place in a recipe")
}
