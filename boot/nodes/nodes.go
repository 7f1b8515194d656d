// Package nodes knows every machine that the server has seen, and how far its boot has come. It learns that from the
// records the services log: they do not know it, and it knows nothing of their protocols.
//
// A record names a machine by its MAC, or by its address only; addresses are brought together with MACs by the records
// that have both, and by the names of the configuration files that boot loaders ask for. A machine of which only the address
// is known is one of its own until its MAC is learned.
//
// What is told is believed: a machine could tell stages that it never reached, or load another one's configuration. Nothing
// is decided by what this package knows; it is for the people who look. It sees only what the services log: which file is
// under way at the moment, whether a machine that is up still lives, or what a person does at a menu, it cannot tell.
package nodes

import (
	"cmp"
	"container/list"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"netroot/boot/host"
)

// A Tracker knows machines. Its zero value works; nothing is kept on disk before Open.
type Tracker struct {
	// Decide says what a machine boots: whoever has a menu to choose from may wait in it. It may be nil.
	Decide func(host.Machine) host.Decision
	// Last says which stage machines of an image (IMAGE@GENERATION) tell last: "up", "switch-root" when nothing in the root reports, "initrd"
	// when the initramfs is not netroot's, or "kernel" when there is none. nil means that all tell when they are up. Run asks, and nobody else waits for
	// a disk then.
	Last func(image string) string
	// Busy says whether a transfer to that address is under way, of which there is no record before its end; nil: it never is.
	Busy func(netip.Addr) bool
	// Log gets a record "stalled" for each boot that stops half-way; nil is silent.
	Log *slog.Logger
	// Limit is how many machines are remembered; 0 means 10,000. Those that never loaded anything are forgotten first.
	Limit int

	mu        sync.Mutex
	byMAC     map[string]*node
	byAddr    map[netip.Addr]*node
	strangers list.List // of *node: never loaded anything, the one seen last in front
	members   list.List // of *node: the others
	watched   map[*node]bool
	lasts     map[string]answer // of Last
	wanted    map[string]bool   // of these Run asks Last
	stats     Stats
	changed   time.Time // since the last write to disk; zero for not at all

	state state
}

const defaultLimit = 10_000

// Machine is what is known of one machine.
type Machine struct {
	Name       string       `json:"name,omitempty"`       // in the policy
	MAC        string       `json:"mac,omitempty"`        // empty when only the address is known
	Addresses  []netip.Addr `json:"addresses,omitempty"`  // the newest first
	Interface  string       `json:"interface,omitempty"`  // of the server
	Image      string       `json:"image,omitempty"`      // it boots, or runs
	Generation int          `json:"generation,omitempty"` // of the image
	Stage      string       `json:"stage"`                // reached last: one of Stages, or "seen", or "refused"
	Since      time.Time    `json:"since"`                // it is in this stage
	Seconds    float64      `json:"seconds"`              // from the start of the boot to this stage
	Stalled    bool         `json:"stalled,omitempty"`    // the stage after this one did not come in time
	Boots      int          `json:"boots"`                // begun, ever
	Began      time.Time    `json:"began,omitzero"`       // the last boot
	FirstSeen  time.Time    `json:"first_seen"`           //
	LastSeen   time.Time    `json:"last_seen"`            // a machine that runs need not show itself
	LastError  *Problem     `json:"last_error,omitempty"` //
	Stages     []Stage      `json:"stages,omitempty"`     // of the last boot
}

// Stage is a stage that a boot reached.
type Stage struct {
	Stage   string    `json:"stage"`
	Reached time.Time `json:"reached"`
	Seconds float64   `json:"seconds"` // since the stage before, or since the start of the boot
	Note    string    `json:"note,omitempty"`
}

// Problem is something that went wrong.
type Problem struct {
	Time    time.Time `json:"time"`
	Service string    `json:"service,omitempty"`
	File    string    `json:"file,omitempty"`
	Reason  string    `json:"reason"`
}

// String is the problem in one line, without its time.
func (p *Problem) String() string {
	return strings.Join(slices.DeleteFunc([]string{p.Service, p.File, p.Reason}, func(s string) bool { return s == "" }), ": ")
}

// Failed says whether the last error still matters: it came with the last boot, and the machine is not up since.
func (m *Machine) Failed() bool {
	return m.LastError != nil && !m.LastError.Time.Before(m.Began) && !(indexOf(m.Stage) >= indexOf(stageUp) && m.LastError.Time.Before(m.Since))
}

// Ref is the image with its generation, "" when none is known.
func (m *Machine) Ref() string { return ref(m.Image, m.Generation) }

// Observe takes one event in.
func (t *Tracker) Observe(e Event) {
	if !told(e.Message) || e.Asker != "" {
		return
	}
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	mac := e.MAC
	if mac == nil && e.Client.IsValid() {
		if e.Client.IsLoopback() {
			return // somebody at the server itself
		}
		mac = macInName(e.File)
	}
	if mac == nil && !e.Client.IsValid() {
		return
	}
	p := plan{waits: true}
	if t.Decide != nil && mac != nil && (e.Message == "offer" || e.Message == "ack" || e.Message == "read") {
		p = planOf(t.Decide(host.Machine{MAC: mac, Interface: e.Interface, Address: e.Client, Near: e.Client}), e.Host)
	}

	t.mu.Lock()
	n := t.find(mac, e.Client)
	n.see(e)
	did := n.take(e, p, t.last)
	if n.Stage == "" {
		n.Stage, n.Since = "seen", e.Time
	}
	abandoned := t.account(n, did)
	t.touch(n)
	t.mu.Unlock()
	if abandoned != nil {
		t.tell(*abandoned)
	}
}

// planOf makes a plan of a decision. When the server called the machine by another name, it knows it by something that is
// not in the records, and the decision is another.
func planOf(d host.Decision, name string) plan {
	if name != "" && name != d.Name {
		return plan{waits: true}
	}
	if d.Local {
		return plan{waits: true}
	}
	return plan{image: d.Image, waits: d.Image == ""}
}

// find returns the machine of a MAC, or of an address when mac is nil, and remembers that the two belong together.
func (t *Tracker) find(mac net.HardwareAddr, addr netip.Addr) *node {
	if mac == nil {
		n := t.byAddr[addr]
		if n == nil {
			n = &node{}
			t.add(n)
			t.own(n, addr)
		}
		return n
	}
	key := mac.String()
	n := t.byMAC[key]
	if n == nil {
		n = &node{Machine: Machine{MAC: key}}
		t.add(n)
	}
	if addr.IsValid() {
		t.own(n, addr)
	}
	return n
}

// own gives the address to n. A machine that was known by this address only was n all the time.
func (t *Tracker) own(n *node, addr netip.Addr) {
	old := t.byAddr[addr]
	if old == n {
		return
	}
	if old != nil && old.MAC == "" {
		n.absorb(old)
		t.forget(old)
	} else if old != nil {
		old.Addresses = slices.DeleteFunc(old.Addresses, func(a netip.Addr) bool { return a == addr })
	}
	t.byAddr[addr] = n
	n.Addresses = slices.Insert(n.Addresses, 0, addr)
	if len(n.Addresses) > addressesMax {
		for _, a := range n.Addresses[addressesMax:] {
			delete(t.byAddr, a)
		}
		n.Addresses = n.Addresses[:addressesMax]
	}
}

const addressesMax = 4

func (t *Tracker) add(n *node) {
	if t.byMAC == nil {
		t.byMAC, t.byAddr, t.watched = map[string]*node{}, map[netip.Addr]*node{}, map[*node]bool{}
	}
	limit := t.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	if t.strangers.Len()+t.members.Len() >= limit {
		oldest := t.strangers.Back()
		if oldest == nil {
			oldest = t.members.Back()
		}
		t.forget(oldest.Value.(*node))
	}
	if n.MAC != "" {
		if twin := t.byMAC[n.MAC]; twin != nil {
			t.forget(twin)
		}
		t.byMAC[n.MAC] = n
	}
	n.place(&t.strangers, &t.members)
}

func (t *Tracker) forget(n *node) {
	if t.byMAC[n.MAC] == n {
		delete(t.byMAC, n.MAC)
	}
	for _, a := range n.Addresses {
		if t.byAddr[a] == n {
			delete(t.byAddr, a)
		}
	}
	delete(t.watched, n)
	n.in.Remove(n.at)
}

// touch puts n in front of its list, and on or off the watch.
func (t *Tracker) touch(n *node) {
	n.in.Remove(n.at)
	n.place(&t.strangers, &t.members)
	if n.Stalled || n.final(t.last) {
		delete(t.watched, n)
	} else {
		t.watched[n] = true
	}
	t.dirty()
}

// Machines returns what is known, sorted by name and MAC; machines without a name come last.
func (t *Tracker) Machines() []Machine {
	t.mu.Lock()
	all := make([]Machine, 0, t.strangers.Len()+t.members.Len())
	for n := range t.all() {
		all = append(all, n.view())
	}
	t.mu.Unlock()
	sortMachines(all)
	return all
}

func sortMachines(all []Machine) {
	slices.SortFunc(all, func(a, b Machine) int {
		if (a.Name == "") != (b.Name == "") {
			return cmp.Compare(b.Name, a.Name)
		}
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.MAC, b.MAC), slices.CompareFunc(a.Addresses, b.Addresses, netip.Addr.Compare))
	})
}

func (t *Tracker) all() func(yield func(*node) bool) {
	return func(yield func(*node) bool) {
		for _, l := range []*list.List{&t.strangers, &t.members} {
			for e := l.Front(); e != nil; e = e.Next() {
				if !yield(e.Value.(*node)) {
					return
				}
			}
		}
	}
}
