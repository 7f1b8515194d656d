package tftpboot

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"netroot/builder/store"
)

// isoDir is where ISOs and what is in them have their names. An image may be called so, too: its files are not as deep.
const isoDir = "images"

// openISO opens IMAGE/GENERATION/image.iso, or IMAGE/GENERATION/iso/PATH.
func (t *Tree) openISO(name string) (fs.File, error) {
	parts := strings.SplitN(name, "/", 4)
	if len(parts) < 3 || t.ISO == nil {
		return nil, fs.ErrNotExist
	}
	g, err := t.generation(parts[0], parts[1])
	if err != nil {
		return nil, err
	}
	switch {
	case g.Manifest.IsRoot():
	case len(parts) == 3 && parts[2] == store.PartISO:
		return os.Open(g.Path(store.PartISO))
	case len(parts) == 4 && parts[2] == "iso":
		img, err := t.ISO(g)
		if err != nil {
			return nil, err
		}
		f, err := img.FS().Open(parts[3])
		if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
			err = fs.ErrNotExist
		}
		return f, err
	}
	return nil, fs.ErrNotExist
}

// A place is where a machine finds a generation.
type place struct {
	server     netip.Addr
	nfs        int
	base       string // URL of the tree
	image      string
	generation int
}

// nfsPath is what the generation is mounted by.
func (p place) nfsPath() string { return fmt.Sprintf("%s:/%s@%d", p.server, p.image, p.generation) }

// url is that of a file of the generation's ISO, or of the ISO itself.
func (p place) url(name string) string {
	return fmt.Sprintf("%s%s/%s/%d/%s", p.base, isoDir, p.image, p.generation, name)
}

// AsksPortmapper tells a medium whose machines find NFS by asking port 111 only: casper and live-boot mount with klibc's nfsmount, which
// has no option for the port of MOUNT.
func AsksPortmapper(m *store.Medium) bool {
	return m != nil && m.Deliver == store.ByNFS && (m.Family == store.Casper || m.Family == store.Live)
}

// Askers lists the current generations of which AsksPortmapper is true.
func Askers(s *store.Store) ([]string, error) {
	images, err := s.Images()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, image := range images {
		if g, err := s.Resolve(image); err == nil && AsksPortmapper(g.Manifest.Medium) {
			list = append(list, g.Ref())
		}
	}
	return list, nil
}

// mediumCmdline is what tells the initrd of a medium where the rest of it is. The words are those of casper(7), live-boot(7),
// the installation guides of anaconda, and dracut.cmdline(7). name is that of the machine, "" when it has none.
func mediumCmdline(m *store.Medium, at place, name string) []string {
	var args []string
	short, _, _ := strings.Cut(name, ".")
	switch m.Family {
	case store.Casper, store.Live:
		args = append(args, "boot="+m.Family)
		if m.Family == store.Casper {
			// live-boot asks DHCP by itself, and takes dhcp for the name of a card when it fetches.
			args = append(args, "ip=dhcp")
		}
		switch {
		case m.Deliver == store.ByNFS:
			if m.Family == store.Casper {
				// casper-md5check reads the whole medium at every boot (casper 1.440) unless it is told not to (1.443), by a word that is not
				// the last one (until 1.468, LP #1892369) and among the first 1023 bytes.
				args = append(args, "fsck.mode=skip")
			}
			args = append(args, "netboot=nfs", "nfsroot="+at.nfsPath())
			if at.nfs != 2049 && m.Family == store.Live {
				// casper does not read it, whatever casper(7) says, and has the port from the portmapper.
				args = append(args, fmt.Sprintf("nfsopts=port=%d", at.nfs))
			}
		case m.Family == store.Casper:
			// cloud-init takes url= for its own, and would read the ISO into memory once more, in each of two stages; it looks for the
			// other name first (cmd/main.py, parse_cmdline_url).
			args = append(args, "cloud-config-url=/dev/null", "url="+at.url(store.PartISO))
		default:
			args = append(args, "fetch="+at.url("iso/"+m.Live))
		}
		if short != "" {
			args = append(args, "hostname="+short)
		}
	case store.Anaconda:
		repo := "inst.repo="
		if m.Old {
			repo = "repo="
		}
		args = append(args, "ip=dhcp")
		switch {
		case m.Deliver == store.ByNFS && m.Old: // anaconda of EL6 has no options but these
			args = append(args, repo+"nfs:nolock:"+at.nfsPath())
		case m.Deliver == store.ByNFS:
			args = append(args, repo+fmt.Sprintf("nfs:vers=3,proto=tcp,nolock,port=%d,mountport=%d:%s", at.nfs, at.nfs, at.nfsPath()))
		default:
			args = append(args, repo+at.url("iso/"))
		}
	case store.DracutLive:
		args = append(args, "ip=dhcp", "root=live:"+at.url("iso/"+m.Live), "rd.live.image")
	}
	return args
}
