package vm

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	"netroot/boot/nodes"
)

// FailedError says that a machine did not come up, or came up unfit.
type FailedError struct {
	Ref     string   // IMAGE@GENERATION
	Stage   string   // the stage that was not reached; "run" when a command in the machine failed
	After   string   // how long that was waited for
	Reason  string   // the likely cause and the way out
	Console []string // the console's last lines
}

func (e *FailedError) Error() string {
	var b strings.Builder
	if e.Stage == "run" {
		fmt.Fprintf(&b, "%s came up, but %s", e.Ref, e.Reason)
	} else {
		fmt.Fprintf(&b, "%s did not come up: stage %s was not reached within %s: %s", e.Ref, e.Stage, e.After, e.Reason)
	}
	if len(e.Console) > 0 {
		fmt.Fprintf(&b, "\n  the console's last lines:\n    %s", strings.Join(e.Console, "\n    "))
	}
	return b.String()
}

// fatal are console texts after which a boot goes nowhere, with what they mean.
var fatal = []struct{ text, meaning string }{
	{"Kernel panic - not syncing", "the kernel gave up"},
	{"This kernel requires", "the kernel does not run on this CPU; build the recipe with another kernel package or give --machine cpu=…"},
	{"Use a kernel appropriate for your CPU", "the kernel does not run on this CPU; build the recipe with another kernel package or give --machine cpu=…"},
	{"CPU does not support x86-64-v", "the root was built for newer CPUs; give --machine cpu=Nehalem (v2) or cpu=max"},
	{"Could not find kernel image", "pxelinux did not get the kernel"},
	{"Failed to load ldlinux.c32", "pxelinux did not get its second part; is ldlinux.c32 in the store's loader folder?"},
	{"Loading failed:", "pxelinux could not load a file"},
	{"Not enough memory to load", "the initrd does not fit; give --machine memory=…"},
	{"No more network devices", "the PXE ROM found nothing to boot"},
	{"You are in emergency mode", "init gave up and asks for a person"},
	{"Entering emergency mode", "init gave up and asks for a person"},
}

// fatalLine is the first line of the console that ends all hope, with its meaning.
func fatalLine(console []Line) (line, meaning string, ok bool) {
	for _, l := range console {
		for _, f := range fatal {
			if strings.Contains(l.Text, f.text) {
				return strings.TrimSpace(l.Text), f.meaning, true
			}
		}
	}
	return "", "", false
}

// diagnose guesses why a stage was not reached.
func diagnose(stage, mac string, console []Line, events []Event) string {
	var says []string
	if line, meaning, ok := fatalLine(console); ok {
		says = append(says, fmt.Sprintf("%s: %q", meaning, line))
	}
	switch stage {
	case "offer":
		if reason := lastReason(events, "dhcp", mac); reason != "" {
			says = append(says, "netroot serve refused it: "+reason)
		} else {
			says = append(says, "netroot serve saw no PXE request of "+mac)
		}
	case "tftp", "kernel":
		says = append(says, whyNotLoaded(mac, events))
	case "initramfs":
		says = append(says, "the kernel started no /init")
	case "network", "nfs-root":
		if reason := lastReason(events, "nfs", ""); reason != "" {
			says = append(says, "the NFS server refused: "+reason)
		}
		says = append(says, ownWords(console, "/init did not get through"))
	case "init":
		says = append(says, ownWords(console, "the root was mounted, but its init did not get to its first service"))
	case "up":
		says = append(says, failedUnits(console))
	}
	return strings.Join(slices.DeleteFunc(says, func(s string) bool { return s == "" }), "; ")
}

// whyNotLoaded asks what tells the administrator of a real server the same. There is one machine in a lab, so an event
// without a MAC is about this one.
func whyNotLoaded(mac string, events []Event) string {
	var tracker nodes.Tracker
	machine, err := net.ParseMAC(mac)
	if err != nil {
		return ""
	}
	for _, e := range events {
		of, err := net.ParseMAC(e.MAC)
		if err != nil {
			of = machine
		}
		client, _ := netip.ParseAddr(e.Client)
		tracker.Observe(nodes.Event{Time: e.Time, Level: slog.LevelInfo, Message: e.Message, Service: e.Service, Client: client, MAC: of,
			File: e.File, Bytes: e.Bytes, Seconds: e.Seconds, Reason: e.Reason})
	}
	return tracker.Why(machine)
}

// lastReason is why the server last refused something or broke it off.
func lastReason(events []Event, service, mac string) string {
	for _, e := range slices.Backward(events) {
		if e.Service == service && (e.Message == "refused" || e.Message == "aborted") && (mac == "" || strings.EqualFold(e.MAC, mac)) {
			return strings.TrimSpace(e.File + " " + e.Reason)
		}
	}
	return ""
}

// ownWords are the last things that netroot's /init said about itself.
func ownWords(console []Line, otherwise string) string {
	var out []string
	for _, l := range slices.Backward(console) {
		if i := strings.Index(l.Text, "netroot: "); i >= 0 && !stageLine.MatchString(l.Text) {
			out = append(out, l.Text[i+len("netroot: "):])
		}
		if len(out) == 3 {
			break
		}
	}
	if out == nil {
		return otherwise
	}
	slices.Reverse(out)
	return "/init says: " + strings.Join(out, " | ")
}

func failedUnits(console []Line) string {
	var failed []string
	for _, l := range console {
		if i := strings.Index(l.Text, "[FAILED] "); i >= 0 {
			failed = append(failed, strings.TrimSuffix(l.Text[i+len("[FAILED] "):], "."))
		}
	}
	if failed == nil {
		return "init started but did not come to the end of its services"
	}
	return strings.Join(failed[:min(4, len(failed))], "; ")
}
