package nodes

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"time"
)

// patience is how long the stage after each may take. Firmware waits for a slow switch port and for an IPv6 router before
// its first file; a lossy link takes minutes for an initrd; the initramfs has five tries at DHCP and 90 seconds for the
// mount before it gives up.
var patience = map[string]time.Duration{
	stageOffer:     2 * time.Minute,
	stageLoader:    2 * time.Minute,
	stageMenu:      5 * time.Minute,
	stageKernel:    5 * time.Minute,
	stageInitrd:    5 * time.Minute,
	stageInitramfs: 2 * time.Minute, // these three are told together
	stageNetwork:   2 * time.Minute,
	stageRoot:      2 * time.Minute,
	stageSwitch:    3 * time.Minute,
	stageInit:      6 * time.Minute, // a service may take 90 seconds to fail, and another one to wait for it
}

// troubled is how long after something went wrong it may stay the last thing heard of a boot, while files are loaded.
const troubled = time.Minute

// A stall is a boot that stopped, for the log.
type stall struct {
	stage, mac, client, host, image, reason string
}

// final says whether nothing more has to come.
func (n *node) final(last func(image string) string) bool {
	switch n.Stage {
	case stageUp, stageInstalled:
		return true
	case stageMenu:
		return n.Boot.Waits
	case stageKernel, stageInitrd, stageSwitch:
		return n.Image != "" && last(n.Ref()) == n.Stage
	}
	return len(n.Stages) == 0
}

// An answer of Last is believed for a while: an image without a generation may become another one.
type answer struct {
	stage string
	asked time.Time
}

const (
	answerHolds = time.Minute
	answersMax  = 1000
)

// last is what Last said, "" when it was not asked yet. It is called with the lock held, and asks for nothing itself.
func (t *Tracker) last(image string) string {
	a := t.lasts[image]
	if t.Last != nil && time.Since(a.asked) > answerHolds {
		if t.wanted == nil {
			t.wanted = map[string]bool{}
		}
		t.wanted[image] = true
	}
	return a.stage
}

// learn asks Last what was missed, without the lock: it may open an image on a slow disk.
func (t *Tracker) learn() {
	t.mu.Lock()
	wanted := t.wanted
	t.wanted = nil
	t.mu.Unlock()
	if len(wanted) == 0 {
		return
	}
	answers := map[string]answer{}
	for image := range wanted {
		answers[image] = answer{t.Last(image), time.Now()}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lasts == nil || len(t.lasts)+len(answers) > answersMax {
		t.lasts = map[string]answer{}
	}
	maps.Copy(t.lasts, answers)
	maps.DeleteFunc(t.watched, func(n *node, _ bool) bool { return n.final(t.last) })
}

// late says whether the boot has stopped. Whoever makes no progress has three times the patience as long as it is heard of.
func (n *node) late(now time.Time) bool {
	limit := patience[n.Stage]
	if p := n.Boot.Trouble; p != nil && p.Service != "nfs" && now.Sub(n.Boot.Heard) > troubled {
		return true
	}
	return now.Sub(n.Boot.Heard) > limit || now.Sub(n.Boot.Entered) > 3*limit
}

// stall describes the boot as one that stopped. how is what was seen of its end.
func (n *node) stall(how string) *stall {
	s := &stall{stage: n.Stage, mac: n.MAC, host: n.Name, image: n.Ref(), reason: how + ": " + n.why()}
	if len(n.Addresses) > 0 {
		s.client = n.Addresses[0].String()
	}
	return s
}

// Why guesses why the boot of a machine does not go on, "" when nothing is known of one.
func (t *Tracker) Why(mac net.HardwareAddr) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byMAC[mac.String()]
	if n == nil || len(n.Stages) == 0 {
		return ""
	}
	return n.why()
}

// why guesses why the stage after the last one did not come.
func (n *node) why() string {
	b := &n.Boot
	trouble := ""
	if p := b.Trouble; p != nil {
		trouble = strings.TrimSpace(p.File + " " + p.Reason)
		if b.Failures > 1 {
			trouble = fmt.Sprintf("%s, after %d transfers that broke off", trouble, b.Failures)
		}
		trouble = "the last thing heard is: " + p.Service + " " + trouble
	}
	switch {
	case trouble != "" && (indexOf(n.Stage) < indexOf(stageInitrd) || b.Trouble.Service == "nfs"):
		return trouble
	case b.Missing != "" && indexOf(n.Stage) < indexOf(stageInitrd):
		return "it asked for " + b.Missing + ", which is not there"
	}
	switch n.Stage {
	case stageOffer:
		port := "UDP port 69"
		if strings.HasPrefix(b.Offered, "http:") {
			port = "the TCP port of HTTP"
		}
		return fmt.Sprintf("it was offered %s and never asked for it: its firmware took another server's offer or got no address, or %s is blocked",
			b.Offered, port)
	case stageLoader:
		if b.sent("pxelinux.0") && !b.sent("ldlinux.c32") {
			return "it loaded pxelinux.0 and never asked for ldlinux.c32: the loader hangs on this firmware, or asks another server"
		}
		return "it has its loader and never asked for a configuration: the loader hangs on this firmware, or asks another server"
	case stageMenu:
		return "it knows what to boot and did not load the kernel to its end: somebody stopped it at the menu, or the link is lost"
	case stageKernel:
		return "it has the kernel and did not load the initrd to its end: too little memory, or the link is lost"
	case stageInitrd:
		if b.Mounted {
			return "it mounted its root and never spoke: the initramfs is not netroot's, or hangs"
		}
		return "it has kernel and initrd, and its initramfs never mounted the root: the kernel does not run there (CPU without 64 bit or PAE, " +
			"too little memory), or has no driver for the network card, or DHCP gave no address; its screen says which"
	case stageInitramfs, stageNetwork, stageRoot:
		return "its root is mounted, but the initramfs did not hand over to it; its screen says why"
	case stageSwitch:
		return "its root is mounted, but init did not get to its first service; its screen says why"
	case stageInit:
		return "init runs, but did not get to the end of its services: one hangs or failed (systemctl list-jobs; systemctl --failed)"
	}
	return "not known"
}

// sent says whether a file of that name was sent to its end.
func (b *boot) sent(name string) bool {
	return slices.ContainsFunc(b.Files, func(f string) bool { return strings.HasSuffix(path.Base(f), name) })
}

// check finds boots that stopped, and tells each once.
func (t *Tracker) check(now time.Time) {
	t.learn()
	var found []stall
	t.mu.Lock()
	for n := range t.watched {
		if !n.late(now) {
			continue
		}
		if t.Busy != nil && n.loading() && len(n.Addresses) > 0 && t.Busy(n.Addresses[0]) {
			n.Boot.Heard, n.Boot.Entered = now, now
			continue
		}
		s := n.stall(fmt.Sprintf("nothing came after stage %s for %s", n.Stage, span(now.Sub(n.Since))))
		n.Stalled = true
		n.LastError = &Problem{Time: now, Reason: s.reason}
		t.account(n, did{abandoned: s})
		delete(t.watched, n)
		t.dirty()
		found = append(found, *s)
	}
	t.mu.Unlock()
	slices.SortFunc(found, func(a, b stall) int { return cmp.Compare(a.mac+a.client, b.mac+b.client) })
	for _, s := range found {
		t.tell(s)
	}
}

func (t *Tracker) tell(s stall) {
	if t.Log == nil {
		return
	}
	attrs := []slog.Attr{slog.String("service", "nodes")}
	for _, a := range []slog.Attr{
		slog.String("mac", s.mac), slog.String("client", s.client), slog.String("host", s.host), slog.String("image", s.image),
		slog.String("stage", s.stage), slog.String("reason", s.reason),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	t.Log.LogAttrs(context.Background(), slog.LevelWarn, "stalled", attrs...)
}

// span is a duration in the words of a person.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.0f h", d.Hours())
}
