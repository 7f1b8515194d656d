// Package install gives a machine what it asks for while it installs itself or starts, the seed of its image, and remembers which
// machines are installed.
//
// A seed may hold password hashes and keys. It is given to the one host that its address names, only while policy sends that host to
// the image, and only in the hour after that host began to boot: it asked by DHCP and loaded its configuration. Who the machine is,
// the caller finds out, by its MAC; a MAC is no proof, and who can forge one can have the seed. What is asked for and by whom is in the
// records of the service that gave it.
//
// A machine reports by POST that it is installed. With "boot: once" it is sent to its own disk from then on.
package install

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"netroot/boot/host"
	"netroot/builder/seed"
	"netroot/builder/store"
	"netroot/builder/strictyaml"
)

// Dir is the folder of the tree that seeds are in: seed/IMAGE@GENERATION/HOST/DOCUMENT.
const Dir = "seed"

// freshFor is how long after the beginning of its boot a machine gets its seed. Servers take minutes to start, and installers for
// their kernel, initrd and ISO.
const freshFor = time.Hour

// A Desk hands out seeds.
type Desk struct {
	Store interface {
		Resolve(ref string) (store.Generation, error)
	}
	Ledger *Ledger
	Decide func(host.Machine) host.Decision
	// Port is that of HTTP.
	Port int
	// Asks says that machines ask this server by DHCP, Loads that they load their configuration here: what they do elsewhere cannot be
	// seen and is not waited for.
	Asks, Loads bool
	Log         *slog.Logger // of Check; nil is silent
}

// A refusal is why a machine does not get a seed.
type refusal string

func (r refusal) Error() string        { return string(r) }
func (r refusal) Is(target error) bool { return target == fs.ErrPermission }

// Path is where a host finds its seed, with a slash at the end: cloud-init puts names of documents right behind it.
func Path(ref, host string) string { return Dir + "/" + ref + "/" + host + "/" }

// Authority is how a URL names a server: without the port where it is 80.
func Authority(server netip.Addr, port int) string {
	if port == 80 || port == 0 {
		return server.String()
	}
	return netip.AddrPortFrom(server, uint16(port)).String()
}

// asked is the name of a document, taken apart.
type asked struct{ ref, host, document string }

func parse(name string) (asked, error) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[0] != Dir {
		return asked{}, fs.ErrNotExist
	}
	a := asked{parts[1], parts[2], parts[3]}
	_, n, err := store.ParseRef(a.ref)
	known := slices.Concat(seed.CloudInit.Documents(), seed.KindPreseed.Documents(), seed.KindKickstart.Documents())
	if err != nil || n < 1 || strictyaml.HostName(a.host) != nil || !slices.Contains(known, a.document) {
		return asked{}, fs.ErrNotExist
	}
	return a, nil
}

// Document returns what the machine m gets under a name, from the server that it knows as local. An error that wraps fs.ErrPermission
// says why it gets nothing.
func (d *Desk) Document(name string, m host.Machine, local netip.Addr) (string, error) {
	a, err := parse(name)
	if err != nil {
		return "", err
	}
	decision := d.Decide(m)
	if why := refuse(a, m, decision, d.Ledger.Booted(decision.Name), d.Asks, d.Loads, time.Now()); why != "" {
		return "", refusal(why)
	}
	g, err := d.Store.Resolve(a.ref)
	if errors.Is(err, store.ErrNotFound) {
		return "", fs.ErrNotExist
	}
	if err != nil {
		return "", err
	}
	s, err := load(g)
	if err != nil {
		return "", err
	}
	if !slices.Contains(s.Kind.Documents(), a.document) {
		return "", fs.ErrNotExist
	}
	server := local
	if decision.Server.IsValid() {
		server = decision.Server
	}
	return s.Render(a.document, machineOf(m, decision, g.Ref(), Authority(server, d.Port)))
}

func machineOf(m host.Machine, d host.Decision, ref, server string) seed.Machine {
	as := seed.Machine{Name: d.Name, MAC: m.MAC.String(), Image: ref, Server: server, Vars: d.Vars}
	if m.Address.IsValid() {
		as.Address = m.Address.String()
	}
	return as
}

// refuse says why a machine does not get what it asks for, "" when it does.
func refuse(a asked, m host.Machine, d host.Decision, b Boot, asks, loads bool, now time.Time) string {
	image, _, _ := strings.Cut(d.Image, "@")
	wanted, _, _ := strings.Cut(a.ref, "@")
	old := func(t time.Time) bool { return now.Sub(t) > freshFor || t.Sub(now) > time.Minute }
	switch {
	case d.Ignore:
		return d.Reason
	case d.Name == "":
		return fmt.Sprintf("%s is not under hosts: in netroot.yaml, and a seed is only for a machine that is", m)
	case !strings.EqualFold(d.Name, a.host):
		return fmt.Sprintf("%s asks for the seed of %s", d.Name, a.host)
	case d.Local && d.Once:
		return d.Reason
	case image == "" || image != wanted:
		return fmt.Sprintf("%s is not sent to %s by the policy", d.Name, wanted)
	case asks && m.MAC != nil && old(b.Asked): // what is behind a router may have asked through a relay, and is known by its address only
		return fmt.Sprintf("%s did not ask what to boot in the last hour: a seed is given to a machine that has just begun to boot", d.Name)
	case loads && old(b.Loaded):
		return fmt.Sprintf("%s did not load its boot configuration here in the last hour: a seed is given to a machine that has just begun to boot", d.Name)
	case !asks && !loads:
		return "this server serves neither DHCP nor boot configurations, so it cannot see that " + d.Name + " began to boot"
	}
	return ""
}

// load reads the seed of a generation.
func load(g store.Generation) (*seed.Seed, error) {
	if g.Manifest.Seed == "" {
		return nil, fs.ErrNotExist
	}
	data, err := os.ReadFile(g.Path(store.PartSeed))
	if err != nil {
		return nil, err
	}
	return seed.Parse(data)
}

// installs tells whether an image has a seed that installs an operating system and reports when it has.
func (d *Desk) installs(ref string) bool {
	g, err := d.Store.Resolve(ref)
	return err == nil && seed.Kind(g.Manifest.Seed).Installs()
}

// Endless says of each host with "boot: once" why its image is not booted once: nothing in it reports the end of an installation. Hosts
// that are installed, and images that are not in the store, are left out. The names of the hosts are the keys.
func (d *Desk) Endless(p *host.Policy) map[string]string {
	found := map[string]string{}
	for i := range p.Hosts {
		h := &p.Hosts[i]
		if !h.Once || h.Disabled || p.Decide(h.As()).Local {
			continue
		}
		g, err := d.Store.Resolve(h.Image)
		if err != nil || seed.Kind(g.Manifest.Seed).Installs() {
			continue
		}
		what := "has no autoinstall, preseed or kickstart"
		if g.Manifest.IsRoot() {
			what = "is a diskless root, which installs nothing"
		}
		found[h.Name] = fmt.Sprintf("%s has boot: once, and %s %s: nothing reports that it is installed, and it boots that image again and again until somebody says so", h.Name, g.Ref(), what)
	}
	return found
}

// Check says what hosts of a policy lack that the seeds of their images need. Images that are not in the store are not judged: they may be
// built later, and then their build does it. What is no fault and likely an error is logged.
func (d *Desk) Check(p *host.Policy) error {
	var faults []*strictyaml.Error
	for i := range p.Hosts {
		h := &p.Hosts[i]
		if h.Image == "" || h.Disabled || h.Local {
			continue
		}
		g, err := d.Store.Resolve(h.Image)
		if err != nil {
			continue
		}
		s, err := load(g)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the seed of %s: %w", g.Ref(), err)
		}
		faults = append(faults, CheckHost(p, h, s, g.Ref())...)
	}
	if len(faults) == 0 && d.Log != nil {
		endless := d.Endless(p)
		for _, name := range slices.Sorted(maps.Keys(endless)) {
			d.Log.Warn("endless", "service", "install", "host", name, "reason", endless[name]+", with: netroot nodes --installed "+name)
		}
	}
	return strictyaml.Join(faults...)
}

// CheckHost says what is wrong with a seed as one host gets it.
func CheckHost(p *host.Policy, h *host.Host, s *seed.Seed, ref string) []*strictyaml.Error {
	var given []map[string]string
	missing := s.Missing(h.Vars)
	for _, vars := range p.Variables(h) {
		if lacks := s.Missing(vars); len(lacks) == 0 {
			given = append(given, vars)
		} else if len(lacks) < len(missing) {
			missing = lacks
		}
	}
	if len(given) == 0 {
		e := p.Fault(h, "host %s has no value for %s, which the seed of %s needs", h.Name, strings.Join(missing, ", "), ref)
		return []*strictyaml.Error{e.WithHint("add vars: {%s: …} to the host, to its network, or to the recipe", missing[0])}
	}
	m := h.As()
	if m.MAC == nil {
		m.MAC = []byte{2, 0, 0, 0, 0, 1}
	}
	if !m.Address.IsValid() {
		m.Address = netip.AddrFrom4([4]byte{192, 0, 2, 2}) // RFC 5737: nobody's
	}
	for _, vars := range given {
		list := strictyaml.List(s.CheckFor(machineOf(m, host.Decision{Name: h.Name, Vars: vars}, ref, "192.0.2.1")))
		for _, e := range list {
			e.Msg += ", as host " + h.Name + " gets it"
		}
		if len(list) > 0 {
			return list
		}
	}
	return nil
}
