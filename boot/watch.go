package boot

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"

	"netroot/boot/host"
	"netroot/boot/httpd"
	"netroot/boot/metrics"
	"netroot/boot/nodes"
	"netroot/boot/tftp"
	"netroot/builder/store"
)

// watcher sees what happens, for people and for their monitoring.
type watcher struct {
	*nodes.Tracker
	figures metrics.Sources
	policy  *host.Live
}

// watch makes the watcher of a server. It writes to log what it finds; what it knows is kept in the store.
func (s *Server) watch(log *slog.Logger, keeps bool) *watcher {
	w := &watcher{Tracker: &nodes.Tracker{Log: log, Decide: s.Policy.Decide}, policy: s.Policy}
	w.figures.Nodes = w.Stats
	if keeps {
		w.Open(s.Store.StateDir())
	}
	return w
}

// keeps says whether there is a store to keep what is learned in, and warns of one that has nothing to hand out.
func (s *Server) keeps(log *slog.Logger) bool {
	log = log.With("service", "store", "file", s.Store.Dir())
	if _, err := os.Stat(s.Store.Dir()); errors.Is(err, fs.ErrNotExist) {
		log.Warn("empty", "reason", "there is no such store: machines have nothing to boot, and what is learned of them is not kept; make an image with: netroot build debian-12, and start serve again")
		return false
	}
	if images, err := s.Store.Images(); err == nil && len(images) == 0 {
		log.Warn("empty", "reason", "the store holds no image: machines have nothing to boot until there is one; make it with: netroot build debian-12")
	}
	return true
}

// checked is check, and a warning for each image that the policy names and the store has not: it may still be built, and until then
// the machines that are to boot it have only a menu that says so. Nothing is missing in a store that is not there.
func (s *Server) checked(check func(*host.Policy) error, store bool, log *slog.Logger) func(*host.Policy) error {
	return func(p *host.Policy) error {
		if err := check(p); err != nil || !store {
			return err
		}
		for _, ref := range slices.Compact(slices.Sorted(slices.Values(p.Images()))) {
			if _, err := s.Store.Resolve(ref); err != nil {
				log.Warn("missing", "service", "policy", "file", p.File(), "image", ref, "reason", "the policy names it: "+err.Error())
			}
		}
		return nil
	}
}

// transfers takes the figures of TFTP, and looks at its transfers before it says that a boot has stopped.
func (w *watcher) transfers(t *tftp.Server) {
	w.figures.TFTP = t.Stats
	w.Busy = func(client netip.Addr) bool {
		return slices.ContainsFunc(t.Transfers(), func(one tftp.Transfer) bool { return one.Client.Addr().Unmap() == client })
	}
}

// handlers are what HTTP answers beside files.
func (w *watcher) handlers() map[string]http.Handler {
	return map[string]http.Handler{
		"/v1/nodes": w.monitorsOnly(w.Tracker),
		"/metrics":  w.monitorsOnly(metrics.Handler(w.figures)),
	}
}

// monitorsOnly refuses whoever is neither this machine nor among the policy's monitors: names, addresses and images of all
// machines are not for everybody on their network.
func (w *watcher) monitorsOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		client, local := httpd.Addresses(r)
		if !mayMonitor(client, local, w.policy.Policy().Monitors) {
			http.Error(rw, "only for this machine and for those under monitors: in netroot.yaml", http.StatusForbidden)
			return
		}
		h.ServeHTTP(rw, r)
	})
}

// mayMonitor takes the address of a client and that of this machine which it asks. They are the same when a machine asks itself.
func mayMonitor(client, local netip.Addr, monitors []netip.Prefix) bool {
	return client.IsLoopback() || client.IsValid() && client == local || slices.ContainsFunc(monitors, func(p netip.Prefix) bool { return p.Contains(client) })
}

// stageUnit is what makes a machine report its last stage.
const stageUnit = "usr/lib/systemd/system/multi-user.target.wants/netroot-stage-up.service"

// last says which stage machines of an image tell last: those with systemd that they are up, and who starts an initramfs that is not ours
// nothing at all.
func (e *exports) last(ref string) string {
	if g, err := e.store.Resolve(ref); err == nil && !g.Manifest.IsRoot() {
		if _, ok := g.Manifest.Parts[store.PartInitramfs]; ok {
			return "initrd"
		}
		return "kernel"
	}
	if e.tellsUp(ref) {
		return "up"
	}
	return "switch-root"
}

func (e *exports) tellsUp(ref string) bool {
	_, img, err := e.Open("/" + ref)
	if err != nil {
		return false
	}
	i := img.Root()
	for part := range strings.SplitSeq(stageUnit, "/") {
		if !i.IsDir() {
			return false
		}
		next, ok := img.Lookup(i, part)
		if !ok {
			return false
		}
		i = next
	}
	return true
}
