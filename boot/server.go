// Package boot hands the generations of a store to machines on the network: it starts every listener, gives them all
// the same policy, and stops them all when one fails.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"netroot/boot/host"
	"netroot/boot/httpd"
	"netroot/boot/install"
	"netroot/boot/neighbor"
	"netroot/boot/nfs"
	"netroot/boot/portowner"
	"netroot/boot/proxydhcp"
	"netroot/boot/sendfile"
	"netroot/boot/tftp"
	"netroot/boot/tftpboot"
	"netroot/builder/seed"
	"netroot/builder/store"
)

// Ports of the services; 0 turns a service off.
type Ports struct {
	DHCP, PXE int // 67 and 4011; both or none
	TFTP      int // 69
	HTTP      int // 80
	NFS       int // 2049, NFS and MOUNT
	Portmap   int // 111, only when nobody else has it
}

// DefaultPorts are the ones that firmware and clients expect.
var DefaultPorts = Ports{DHCP: 67, PXE: 4011, TFTP: 69, HTTP: 80, NFS: 2049, Portmap: 111}

// A Server serves one store by one policy.
type Server struct {
	Store  *store.Store
	Policy *host.Live // followed while it runs
	Ports  Ports
	Log    *slog.Logger // one record per event; nil is silent
	// Opened is called once, by the goroutine that calls Run, when every port is open and nobody was answered yet; nil is
	// nothing. An error ends the server.
	Opened func() error
}

// A service is a listener that is open and the function that serves it until ctx ends.
type service struct {
	name  string
	addr  net.Addr
	serve func(ctx context.Context) error
	close func() error
}

// Run opens every listener and serves until ctx ends, which is no error, or until one service fails. When a port
// cannot be had nothing is served at all.
func (s *Server) Run(ctx context.Context) error {
	neighbors, err := neighbor.Open()
	if err != nil {
		return err
	}
	defer neighbors.Close()
	guard := &guard{neighbors: neighbors, decide: s.Policy.Decide}
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	out := log.Handler()
	lines := newCalm(out, out, lineKind)
	log = slog.New(lines)
	keeps := s.keeps(log)
	watch := s.watch(log, keeps)
	defer watch.Close()
	if forget, err := s.Policy.Remember(s.Store.StateDir()); err == nil {
		defer forget()
	} else if keeps {
		log.Warn("not kept", "service", "policy", "reason", err.Error())
	}
	desk := s.desk()
	desk.Log = log
	s.Policy.Knowing(desk.Ledger.IsInstalled)
	if err := s.Policy.Require(s.checked(desk.Check, keeps, log)); err != nil {
		return err
	}
	refusals := newCalm(watch.Handler(lines), out, refusedKind) // what else is left out the tracker still sees
	log = slog.New(&journal{next: refusals, name: guard.name})
	if err := checkInterfaces(s.Policy.Policy().Interfaces, neighbors.Links(), log); err != nil {
		return err
	}
	services, err := s.listen(ctx, guard, watch, desk, log)
	if err != nil {
		return err
	}
	if s.Opened != nil {
		if err := s.Opened(); err != nil {
			closeAll(services)
			return err
		}
	}
	for _, sv := range services {
		log.Info("listening", "service", sv.name, "address", sv.addr.String())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		s.Policy.Watch(ctx, log)
		return nil
	})
	for _, run := range []func(context.Context){watch.Run, lines.Run, refusals.Run} {
		group.Go(func() error {
			run(ctx)
			return nil
		})
	}
	group.Go(func() error {
		desk.Ledger.Run(ctx, log)
		return nil
	})
	for _, sv := range services {
		group.Go(func() error {
			if err := sv.serve(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("serve %s: %w", sv.name, err)
			}
			return nil
		})
	}
	err = group.Wait()
	log.Info("stopped")
	return err
}

// checkInterfaces looks for the interfaces to serve. One that is not there may come later, so it is only a warning; when none
// is there, it is rather a typing error.
func checkInterfaces(names []string, links []neighbor.Link, log *slog.Logger) error {
	var have, missing []string
	for _, l := range links {
		have = append(have, l.Name)
	}
	for _, name := range names {
		if !slices.Contains(have, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if len(missing) == len(names) {
		return fmt.Errorf("serve on %s: no such interface; this machine has %s", strings.Join(missing, ", "), strings.Join(have, ", "))
	}
	for _, name := range missing {
		log.Warn("missing", "interface", name, "reason", "there is no such interface now; it is served when it comes. This machine has "+strings.Join(have, ", "))
	}
	return nil
}

func closeAll(services []service) {
	for _, sv := range services {
		sv.close()
	}
}

// Tree is what the server's machines load.
func (s *Server) Tree() *tftpboot.Tree {
	return &tftpboot.Tree{Store: s.Store, Loader: s.Store.LoaderDir(), Decide: s.Policy.Decide, NFSPort: s.Ports.NFS, HTTPPort: s.Ports.HTTP}
}

// desk hands out what machines ask for while they install themselves.
func (s *Server) desk() *install.Desk {
	return &install.Desk{
		Store: s.Store, Ledger: install.OpenLedger(s.Store.StateDir()), Decide: s.Policy.Decide,
		Port: s.Ports.HTTP, Asks: s.Ports.DHCP != 0, Loads: s.Ports.TFTP != 0,
	}
}

func (s *Server) listen(ctx context.Context, guard *guard, watch *watcher, desk *install.Desk, log *slog.Logger) (services []service, err error) {
	defer func() {
		if err != nil {
			closeAll(services)
		}
	}()
	images := &exports{store: s.Store}
	tree := s.Tree()
	tree.Log, tree.ISO = log, images.iso
	bootFiles := func(m host.Machine, local netip.Addr) fs.FS { return desk.Watched(tree.FS(local, m), m) }

	if s.Ports.DHCP != 0 {
		dhcp := &proxydhcp.Server{Decide: desk.Deciding, Links: guard.neighbors, Log: log, Config: proxydhcp.Config{Script: tree.ScriptURL}}
		watch.figures.DHCP = dhcp.Stats
		for _, at := range []struct {
			role proxydhcp.Role
			port int
		}{{proxydhcp.Proxy, s.Ports.DHCP}, {proxydhcp.BootServer, s.Ports.PXE}} {
			conn, err := proxydhcp.Listen(ctx, at.role, uint16(at.port), log)
			if err != nil {
				return services, err
			}
			services = append(services, service{"dhcp", conn.LocalAddr(), func(ctx context.Context) error { return dhcp.Serve(ctx, conn, at.role) }, conn.Close})
		}
	}
	if s.Ports.TFTP != 0 {
		state, err := tftp.OpenState(filepath.Join(s.Store.StateDir(), "tftp.state"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // then transfers end with this process, and that is all
			log.Warn("not kept", "service", "tftp", "reason", err.Error())
		}
		l, err := tftp.Listen(ctx, uint16(s.Ports.TFTP), state)
		if err != nil {
			return services, taken("TFTP", s.Ports.TFTP, "tftp", err)
		}
		t := &tftp.Server{FS: guard.files(bootFiles), Known: guard.known, Interfaces: func() []string { return s.Policy.Policy().Interfaces }, Log: log}
		watch.transfers(t)
		services = append(services, service{"tftp", l.Addr(), func(ctx context.Context) error { return t.Serve(ctx, l) }, l.Close})
	}
	if s.Ports.HTTP != 0 {
		l, err := sendfile.Listen(ctx, ":"+strconv.Itoa(s.Ports.HTTP))
		if err != nil {
			return services, taken("HTTP", s.Ports.HTTP, "http", err)
		}
		withSeeds := func(m host.Machine, local netip.Addr) fs.FS { return desk.FS(bootFiles(m, local), m, local) }
		h := &httpd.Handler{FS: guard.files(withSeeds), Log: log, Post: map[string]http.Handler{seed.ReportPath: desk.Reports(guard.admit, log)}}
		watch.figures.HTTP = h.Stats
		services = append(services, service{"http", l.Addr(), func(ctx context.Context) error {
			h.Handle = watch.handlers() // now all services are there that have figures
			return h.Serve(ctx, l)
		}, l.Close})
	}
	if s.Ports.NFS != 0 {
		l, err := sendfile.Listen(ctx, ":"+strconv.Itoa(s.Ports.NFS))
		if err != nil {
			return services, taken("NFS", s.Ports.NFS, "nfs", err)
		}
		n := &nfs.Server{Exports: images, Admit: guard.connections, Known: guard.known, Log: log}
		watch.Last, watch.figures.NFS = images.last, n.Stats
		services = append(services, service{"nfs", l.Addr(), func(ctx context.Context) error { return n.Serve(ctx, l) }, l.Close})
		if pm, ok := s.portmap(n, log); ok {
			services = append(services, pm)
		}
	}
	return services, nil
}

// taken explains an error of listen.
func taken(name string, port int, flag string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		protocol := "tcp"
		if name == "TFTP" {
			protocol = "udp"
		}
		owner := portowner.Of(protocol, uint16(port))
		return fmt.Errorf("port %d for %s is taken by %v: %w; stop that one, give another --%s-port, or --no-%s", port, name, owner, err, flag, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("port %d for %s needs root: %w; run with sudo, or give another --%s-port", port, name, err, flag)
	}
	return fmt.Errorf("listen for %s: %w", name, err)
}
