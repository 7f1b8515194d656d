package nodes

import (
	"container/list"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Stages are the points of a boot, in order. "offer": the machine was told its boot file. "loader", "menu", "kernel",
// "initrd": that was sent to the end; menu is the loader's configuration, or iPXE's script. The others the machine tells
// itself once its root is mounted; those before the root with the time at which they were. "installed" is told by an installer, at any
// time after it was loaded.
var Stages = []string{
	stageOffer, stageLoader, stageMenu, stageKernel, stageInitrd,
	stageInitramfs, stageNetwork, stageRoot, stageSwitch, stageInit, stageUp, stageInstalled,
}

const (
	stageOffer, stageLoader, stageMenu, stageKernel, stageInitrd    = "offer", "loader", "menu", "kernel", "initrd"
	stageInitramfs, stageNetwork, stageRoot, stageSwitch, stageInit = "initramfs", "network", "nfs-root", "switch-root", "init"
	stageUp, stageInstalled                                         = "up", "installed"
	filesMax                                                        = 24 // names of files remembered of a boot
	again                                                           = 10 * time.Minute
	chainedWithin                                                   = 2 * time.Minute
	firstTold                                                       = 5 // index in Stages
)

func indexOf(stage string) int { return slices.Index(Stages, stage) }

// A node is a machine, with what is needed to go on with its boot.
type node struct {
	Machine
	Boot boot `json:"boot"`

	in *list.List
	at *list.Element
}

// boot is what is known of a boot beside its stages.
type boot struct {
	Offered  string             `json:"offered,omitempty"`  // boot file
	IPXE     bool               `json:"ipxe,omitempty"`     // it was iPXE that was offered it
	Waits    bool               `json:"waits,omitempty"`    // in a menu, for a person
	Files    []string           `json:"files,omitempty"`    // sent to the end
	Trouble  *Problem           `json:"trouble,omitempty"`  // nothing went well since
	Failures int                `json:"failures,omitempty"` // transfers broken off
	Missing  string             `json:"missing,omitempty"`  // file that was asked for last and is not there
	Told     map[string]float64 `json:"told,omitempty"`     // stage -> seconds since the kernel started
	Kernel   time.Time          `json:"kernel,omitzero"`    // it started
	Mounted  bool               `json:"mounted,omitempty"`  // something of the machine mounted a root
	Heard    time.Time          `json:"heard,omitzero"`     // the last event of the boot
	Entered  time.Time          `json:"entered,omitzero"`   // the stage it is in, as far as patience goes
}

// did is what an event changed in the course of a boot.
type did struct {
	last      func(image string) string // see Tracker
	began     bool
	reached   []string
	abandoned *stall // the boot before had not come to its end
}

// place puts n in front of the list it belongs to.
func (n *node) place(strangers, members *list.List) {
	n.in = strangers
	if n.Boots > 1 || indexOf(n.Stage) > indexOf(stageOffer) {
		n.in = members
	}
	n.at = n.in.PushFront(n)
}

// see takes over what every event tells.
func (n *node) see(e Event) {
	if n.FirstSeen.IsZero() {
		n.FirstSeen = e.Time
	}
	if e.Time.After(n.LastSeen) {
		n.LastSeen = e.Time
	}
	if e.Host != "" {
		n.Name = e.Host
	}
	if e.Interface != "" {
		n.Interface = e.Interface
	}
}

// A plan is what policy has for a boot that begins.
type plan struct {
	image string // to boot, "" when that is not known before
	waits bool   // in a menu, or it leaves for its own disk without another word
}

// take goes on with the boot.
func (n *node) take(e Event, p plan, last func(image string) string) did {
	d := did{last: last}
	switch e.Message {
	case "offer", "ack":
		n.offered(e, p, &d)
	case "read":
		n.read(e, p, &d)
	case "probe":
		n.hear(e)
	case "aborted":
		n.Boot.Failures++
		n.fault(e)
	case "refused":
		n.refused(e)
	case "mount":
		if n.loading() {
			n.Boot.Mounted = true
			n.runs(e.Image)
			n.hear(e)
		}
	case "stage":
		n.told(e, &d)
	case "installed":
		if len(n.Stages) > 0 {
			n.reach(stageInstalled, e.Time, "", &d)
		}
	}
	return d
}

// loading says whether a boot is under way of which the machine itself has told nothing yet.
func (n *node) loading() bool { return len(n.Stages) > 0 && len(n.Boot.Told) == 0 }

func (n *node) hear(e Event) {
	if len(n.Stages) > 0 {
		n.Boot.Heard = e.Time
	}
}

func (n *node) begin(at time.Time, p plan, d *did) {
	if len(n.Stages) > 0 && !n.Stalled && !n.final(d.last) && indexOf(n.Stage) > 0 {
		d.abandoned = n.stall(fmt.Sprintf("it started again %s after stage %s", span(at.Sub(n.Since)), n.Stage))
		n.LastError = &Problem{Time: at, Reason: d.abandoned.reason}
	}
	at = at.Truncate(time.Millisecond)
	n.Boots++
	n.Began, n.Stages, n.Stalled = at, nil, false
	n.Boot = boot{Waits: p.waits, Heard: at}
	n.Image, n.Generation = "", 0
	n.runs(p.image)
	d.began = true
}

// reach enters a stage once. Stages are kept in their order, whatever order they are heard of.
func (n *node) reach(stage string, at time.Time, note string, d *did) {
	i, found := slices.BinarySearchFunc(n.Stages, indexOf(stage), func(s Stage, index int) int { return indexOf(s.Stage) - index })
	if found {
		return
	}
	if at.Before(n.Began) {
		at = n.Began
	}
	n.Stages = slices.Insert(n.Stages, i, Stage{Stage: stage, Reached: at, Note: note})
	n.Boot.Heard = at
	n.Boot.Trouble, n.Boot.Failures, n.Boot.Missing = nil, 0, ""
	if i == len(n.Stages)-1 {
		n.Stage, n.Since, n.Stalled = stage, at, false
		n.Boot.Entered = at
	}
	d.reached = append(d.reached, stage)
}

func (n *node) offered(e Event, p plan, d *did) {
	// A ROM that loads iPXE as its boot file asks again as iPXE, which is no new boot.
	chained := n.Stage == stageLoader && e.IPXE && !n.Boot.IPXE && e.Time.Sub(n.Boot.Heard) < chainedWithin
	if n.Stage != stageOffer && !chained || n.Stalled || e.Time.Sub(n.Boot.Heard) > again {
		n.begin(e.Time, p, d)
	}
	n.reach(stageOffer, e.Time, e.File, d)
	n.Boot.Offered, n.Boot.IPXE, n.Boot.Heard = e.File, e.IPXE, e.Time
}

func (n *node) read(e Event, p plan, d *did) {
	began := e.Time.Add(-time.Duration(e.Seconds * float64(time.Second)))
	kind, image := n.classify(e.File)
	// Without an offer of ours, which another server may have made, the loader or iPXE's script is where a boot begins. A
	// machine that is up does not load these, though a person there may fetch anything else.
	if (kind == stageLoader || kind == stageMenu && !strings.HasPrefix(e.File, "pxelinux.cfg/")) &&
		(!n.loading() || n.Stalled || indexOf(n.Stage) >= indexOf(stageKernel)) {
		n.begin(began, p, d)
	}
	if len(n.Stages) == 0 && !d.began || len(n.Boot.Told) > 0 {
		return
	}
	n.Boot.Heard = e.Time
	if len(n.Boot.Files) < filesMax {
		n.Boot.Files = append(n.Boot.Files, e.File)
	}
	if kind == "" {
		return
	}
	if image != "" {
		n.runs(image)
	}
	n.reach(kind, e.Time, fmt.Sprintf("%s %s in %.1f s by %s", path.Base(e.File), size(e.Bytes), e.Seconds, e.Service), d)
}

// classify says which stage a file is, and for a kernel or initrd of which image.
func (n *node) classify(file string) (stage, image string) {
	dir, base := path.Split(file)
	switch parts := strings.Split(strings.TrimSuffix(dir, "/"), "/"); {
	case base == "boot.ipxe" || dir == "ipxe/" || dir == "pxelinux.cfg/":
		return stageMenu, ""
	case len(parts) == 2 && strings.HasPrefix(base, "vmlinuz"):
		return stageKernel, parts[0] + "@" + parts[1]
	case len(parts) == 2 && strings.HasPrefix(base, "initrd"):
		return stageInitrd, parts[0] + "@" + parts[1]
	}
	switch {
	case strings.HasSuffix(base, "pxelinux.0"), strings.HasSuffix(base, ".efi"), strings.HasSuffix(base, "pxe"), // undionly.kpxe, ipxe.pxe
		n.Boot.Offered != "" && strings.HasSuffix(n.Boot.Offered, file):
		return stageLoader, ""
	}
	return "", ""
}

// macInName finds the machine that a file is the configuration of: pxelinux.cfg/01-aa-bb-… and iPXE's script.
func macInName(file string) net.HardwareAddr {
	dir, base := path.Split(file)
	rest, ok := strings.CutPrefix(base, "01-")
	if !ok || dir != "pxelinux.cfg/" && dir != "ipxe/" {
		return nil
	}
	mac, err := net.ParseMAC(rest)
	if err != nil || len(mac) != 6 {
		return nil
	}
	return mac
}

func (n *node) runs(image string) {
	name, number, pinned := strings.Cut(image, "@")
	generation, err := strconv.Atoi(number)
	if pinned && err == nil {
		n.Image, n.Generation = name, generation
	} else if name != "" && name != n.Image {
		n.Image, n.Generation = name, 0
	}
}

func ref(image string, generation int) string {
	if generation == 0 {
		return image
	}
	return image + "@" + strconv.Itoa(generation)
}

func (n *node) refused(e Event) {
	// pxelinux looks for its configuration under a dozen names, and a client that does not know asks for this and that:
	// only the reason for a boot that does not go on may lie there.
	if e.Level < slog.LevelInfo || e.Reason == "not found" {
		if !strings.HasPrefix(e.File, "pxelinux.cfg/") && n.loading() {
			n.Boot.Missing = e.File
			n.Boot.Heard = e.Time
		}
		return
	}
	n.fault(e)
	switch {
	case e.Service == "dhcp": // whoever asks what to boot does not run any more, and gets nowhere
		n.Stages, n.Boot, n.Stalled = nil, boot{}, false
		n.Image, n.Generation = "", 0
		n.Stage, n.Since = "refused", e.Time
	case len(n.Stages) == 0:
		n.Stage, n.Since = "refused", e.Time
	}
}

// fault notes that something went wrong.
func (n *node) fault(e Event) {
	p := &Problem{Time: e.Time, Service: e.Service, File: e.File, Reason: e.Reason}
	n.LastError = p
	if n.loading() {
		n.Boot.Trouble = p
		n.Boot.Heard = e.Time
	}
}

// told takes over a stage that the machine tells of itself. The seconds since its kernel started tell one boot from the
// next, and where the kernel's start lies: stages before the root are told late, and never too early.
func (n *node) told(e Event, d *did) {
	index := indexOf(e.Stage)
	if index < firstTold {
		return
	}
	start := e.Time.Add(-seconds(e.Up))
	last, known := -1.0, false
	for stage, up := range n.Boot.Told {
		last = math.Max(last, up)
		known = known || stage == e.Stage && up == e.Up
	}
	switch {
	case known:
		n.hear(e)
		return
	case len(n.Stages) == 0, e.Up < last, n.Boot.Told == nil && start.Sub(n.Boot.Heard) > again:
		n.begin(start, plan{}, d)
	}
	if n.Boot.Told == nil {
		n.Boot.Told = map[string]float64{}
	}
	n.Boot.Told[e.Stage] = e.Up
	if n.Boot.Kernel.IsZero() || start.Before(n.Boot.Kernel) {
		n.Boot.Kernel = start
	}
	if e.Image != "" && (n.Image == "" || strings.Contains(e.Image, "@")) && !n.Boot.Mounted {
		n.runs(e.Image) // with a mount, that one is more exact: two generations may have the same root
	}
	n.reach(e.Stage, e.Time, "", d)
	n.Boot.Heard = e.Time
	for i, s := range n.Stages {
		if up, ok := n.Boot.Told[s.Stage]; ok {
			n.Stages[i].Reached = n.Boot.Kernel.Add(seconds(up))
		}
	}
	n.Since = n.Stages[len(n.Stages)-1].Reached
	if indexOf(n.Stages[0].Stage) >= firstTold {
		n.Began = n.Boot.Kernel // nothing else is known of its beginning
	}
}

// absorb takes over what was known by an address only.
func (n *node) absorb(o *node) {
	if !o.FirstSeen.IsZero() && o.FirstSeen.Before(n.FirstSeen) || n.FirstSeen.IsZero() {
		n.FirstSeen = o.FirstSeen
	}
	if o.LastError != nil && (n.LastError == nil || n.LastError.Time.Before(o.LastError.Time)) {
		n.LastError = o.LastError
	}
	if len(o.Stages) == 0 {
		return
	}
	if !n.loading() || o.Began.Sub(n.Boot.Heard) > again {
		stages, boot := o.Stages, o.Boot
		n.Stages, n.Boot, n.Began, n.Stage, n.Since, n.Stalled = stages, boot, o.Began, o.Stage, o.Since, o.Stalled
		n.Image, n.Generation = o.Image, o.Generation
		n.Boots += o.Boots
		return
	}
	for _, s := range o.Stages {
		n.reach(s.Stage, s.Reached, s.Note, &did{}) // counted when it was new
	}
	n.Boot.Files = append(n.Boot.Files, o.Boot.Files[:min(len(o.Boot.Files), max(0, filesMax-len(n.Boot.Files)))]...)
	n.Boot.Trouble, n.Boot.Failures, n.Boot.Missing = o.Boot.Trouble, o.Boot.Failures, o.Boot.Missing
}

// copy is the machine as it is kept on disk.
func (n *node) copy() *node {
	c := &node{Machine: n.view(), Boot: n.Boot}
	c.Boot.Files, c.Boot.Told = slices.Clone(n.Boot.Files), maps.Clone(n.Boot.Told)
	return c
}

// view is the machine as it is shown.
func (n *node) view() Machine {
	m := n.Machine
	m.Addresses = slices.Clone(n.Addresses)
	m.Stages = slices.Clone(n.Stages)
	before := m.Began
	for i := range m.Stages {
		s := &m.Stages[i]
		s.Seconds = round(max(0, s.Reached.Sub(before)))
		before = s.Reached
	}
	if len(m.Stages) > 0 {
		m.Seconds = round(max(0, m.Since.Sub(m.Began)))
	}
	return m
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func round(d time.Duration) float64 { return math.Round(d.Seconds()*100) / 100 }

func size(bytes int64) string {
	if bytes < 1e5 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
}
