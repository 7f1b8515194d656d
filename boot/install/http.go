package install

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strings"
	"time"

	"netroot/boot/host"
	"netroot/boot/memfile"
)

// Watched is a tree of boot files that notes when the machine m has loaded what it boots by.
func (d *Desk) Watched(tree fs.FS, m host.Machine) fs.FS { return watched{tree, d, m} }

type watched struct {
	fs.FS
	desk    *Desk
	machine host.Machine
}

func (w watched) Open(name string) (fs.File, error) {
	f, err := w.FS.Open(name)
	if dir := path.Dir(name); err == nil && (dir == "pxelinux.cfg" || dir == "ipxe" || dir == "grub" || name == "boot.ipxe") {
		if d := w.desk.Decide(w.machine); d.Name != "" && d.Image != "" {
			w.desk.Ledger.Loaded(d.Name)
		}
	}
	return f, err
}

// Deciding is decide for a service that machines ask first: it notes that they did.
func (d *Desk) Deciding(m host.Machine) host.Decision {
	decision := d.Decide(m)
	if decision.Name != "" && decision.Image != "" && !decision.Ignore && !m.Trial {
		d.Ledger.Asked(decision.Name)
	}
	return decision
}

// FS is the tree with the machine's seeds in it.
func (d *Desk) FS(tree fs.FS, m host.Machine, local netip.Addr) fs.FS {
	return withSeeds{tree, d, m, local}
}

type withSeeds struct {
	fs.FS
	desk    *Desk
	machine host.Machine
	local   netip.Addr
}

func (w withSeeds) Open(name string) (fs.File, error) {
	if !strings.HasPrefix(name, Dir+"/") {
		return w.FS.Open(name)
	}
	text, err := w.desk.Document(name, w.machine, w.local)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return memfile.New(path.Base(name), text), nil
}

// localAddress is the one of this machine that a client asked, invalid when that is not known.
func localAddress(r *http.Request) netip.Addr {
	a, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if a == nil {
		return netip.Addr{}
	}
	at, _ := netip.ParseAddrPort(a.String())
	return at.Addr().Unmap()
}

// Reports answers machines that say that they are installed. admit tells who is at an address; with os.ErrDeadlineExceeded the machine has to
// report again. A report is believed of a host that
// has begun to boot, however long ago: installations take hours. One that comes again is answered like the first. One of a host that has
// nothing to install is answered, too, and forgotten: with "boot: once" it would later be sent to an empty disk.
func (d *Desk) Reports(admit func(client, local netip.Addr) (host.Machine, error), log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, "no address", http.StatusBadRequest)
			return
		}
		log := log.With("service", "http", "client", client.Addr().Unmap().String(), "file", strings.TrimPrefix(r.URL.Path, "/"))
		m, err := admit(client.Addr().Unmap(), localAddress(r))
		decision := d.Decide(m)
		b := d.Ledger.Booted(decision.Name)
		switch {
		case err != nil:
		case decision.Name == "":
			err = refusal(m.String() + " is not under hosts: in netroot.yaml")
		case d.Asks && b.Asked.IsZero(), d.Loads && b.Loaded.IsZero():
			err = refusal(decision.Name + " says that it is installed, and never began to boot")
		}
		if err != nil {
			log.Warn("refused", "reason", err.Error())
			if errors.Is(err, os.ErrDeadlineExceeded) {
				w.Header().Set("Retry-After", "2")
				http.Error(w, "this server does not know yet who reports", http.StatusServiceUnavailable)
				return
			}
			http.Error(w, "this server does not know of an installation here; its log says why", http.StatusForbidden)
			return
		}
		answer := func() {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write([]byte("ok\n"))
		}
		log = log.With("host", decision.Name, "image", decision.Image)
		if !decision.Once && !d.installs(decision.Image) {
			log.Info("ignored", "reason", "it says that it is installed, has no boot: once, and its image installs nothing")
			answer()
			return
		}
		if err := d.Ledger.SetInstalled(decision.Name, Install{Time: time.Now().UTC().Truncate(time.Second), By: "the machine", MAC: m.MAC.String()}); err != nil {
			log.Error("not kept", "reason", err.Error())
			http.Error(w, "cannot remember that; try again", http.StatusInternalServerError)
			return
		}
		log.Info("installed")
		answer()
	})
}
