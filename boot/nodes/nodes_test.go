package nodes

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"os"

	"netroot/boot/host"
)

var update = flag.Bool("update", false, "rewrite what the sequences of testdata lead to")

// zero is the start of sequences that are written by hand.
var zero = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// TestSequences plays the events of testdata/*.txtar, recorded by `netroot serve --json -v` or written by hand as
// "SECONDS KIND KEY=VALUE…", and compares what is known after them, and what was logged meanwhile. "SECONDS check" looks for
// boots that stopped.
func TestSequences(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sequences: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			section := func(name string) *txtar.File {
				for i := range archive.Files {
					if archive.Files[i].Name == name {
						return &archive.Files[i]
					}
				}
				archive.Files = append(archive.Files, txtar.File{Name: name})
				return &archive.Files[len(archive.Files)-1]
			}
			var log plain
			tracker := &Tracker{Log: slog.New(&log)}
			policy, err := host.Parse("netroot.yaml", []byte("default: menu\nhosts:\n  - {name: vme1, mac: \"52:54:00:6e:72:01\", image: debian-12}\n"))
			if err != nil {
				t.Fatal(err)
			}
			tracker.Decide = policy.Decide
			tracker.Last = func(image string) string {
				switch {
				case strings.HasPrefix(image, "slc6"):
					return stageSwitch
				case strings.HasPrefix(image, "d-i"):
					return stageInitrd
				}
				return stageUp
			}
			start := play(t, tracker, string(section("events").Data))
			got := map[string]string{"machines": describe(tracker.Machines(), start), "log": log.String()}
			for _, name := range []string{"machines", "log"} {
				if *update {
					section(name).Data = []byte(got[name])
				} else if diff := cmp.Diff(string(section(name).Data), got[name]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// play sends the events through the tracker's handler, and returns the time of the first.
func play(t *testing.T, tracker *Tracker, events string) time.Time {
	t.Helper()
	handler := tracker.Handler(slog.DiscardHandler)
	start := zero
	first := true
	for line := range strings.Lines(events) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		var r slog.Record
		var with []slog.Attr
		if line[0] == '{' {
			r = recorded(t, line)
			if first {
				start = r.Time
			}
		} else {
			words := strings.Fields(line)
			after, err := strconv.ParseFloat(words[0], 64)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			now := zero.Add(seconds(after))
			if words[1] == "check" {
				tracker.check(now)
				continue
			}
			level := slog.LevelInfo
			if words[1] == "probe" {
				level = slog.LevelDebug
			}
			r = slog.NewRecord(now, level, words[1], 0)
			_, rest, _ := strings.Cut(line, words[1])
			for key, value := range attributes(rest) {
				a := slog.String(key, value)
				if v, err := strconv.ParseFloat(value, 64); err == nil {
					a = slog.Float64(key, v)
				} else if v, err := strconv.ParseBool(value); err == nil {
					a = slog.Bool(key, v)
				}
				if key == "service" { // as the services do
					with = append(with, a)
				} else {
					r.AddAttrs(a)
				}
			}
		}
		first = false
		if err := handler.WithAttrs(with).Handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	return start
}

// attributes reads KEY=VALUE pairs; a value with spaces is in quotes.
func attributes(s string) map[string]string {
	all := map[string]string{}
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		key, rest, _ := strings.Cut(s, "=")
		value, err := strconv.QuotedPrefix(rest)
		if err == nil {
			s = rest[len(value):]
			value, _ = strconv.Unquote(value)
		} else {
			value, s, _ = strings.Cut(rest, " ")
		}
		all[key] = value
	}
	return all
}

// recorded makes a record of a line of `netroot serve --json`.
func recorded(t *testing.T, line string) slog.Record {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	at, err := time.Parse(time.RFC3339Nano, fields["time"].(string))
	if err != nil {
		t.Fatal(err)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(fields["level"].(string))); err != nil {
		t.Fatal(err)
	}
	r := slog.NewRecord(at, level, fields["msg"].(string), 0)
	for key, value := range fields {
		if key != "time" && key != "level" && key != "msg" {
			r.AddAttrs(slog.Any(key, value))
		}
	}
	return r
}

// describe writes machines in lines that a person can check; times are seconds since start.
func describe(machines []Machine, start time.Time) string {
	var b strings.Builder
	at := func(t time.Time) string { return fmt.Sprintf("@%.2f", t.Sub(start).Seconds()) }
	for _, m := range machines {
		fmt.Fprintf(&b, "%s %s %v %s: %s %s %s after %.2f s, boots %d, seen %s..%s", m.Name, m.MAC, m.Addresses, m.Interface, m.Ref(), m.Stage, at(m.Since),
			m.Seconds, m.Boots, at(m.FirstSeen), at(m.LastSeen))
		if m.Stalled {
			b.WriteString(", stalled")
		}
		b.WriteByte('\n')
		for _, s := range m.Stages {
			fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("  %-11s %9s %+7.2f  %s", s.Stage, at(s.Reached), s.Seconds, s.Note), " "))
		}
		if p := m.LastError; p != nil {
			fmt.Fprintf(&b, "  error %s failed=%v: %s\n", at(p.Time), m.Failed(), strings.Join(strings.Fields(p.Service+" "+p.File+" "+p.Reason), " "))
		}
	}
	return b.String()
}

// plain writes records as lines.
type plain struct {
	mu  sync.Mutex
	out strings.Builder
}

func (h *plain) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.out.String()
}

func (h *plain) Enabled(context.Context, slog.Level) bool { return true }
func (h *plain) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *plain) WithGroup(string) slog.Handler            { return h }
func (h *plain) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.out.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&h.out, " %s=%s", a.Key, a.Value)
		return true
	})
	h.out.WriteByte('\n')
	return nil
}

func mac(i int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
}

// However many machines there are, or pretend to be, memory is bounded; one that has loaded something is kept longer than one
// that only asked.
func TestLimit(t *testing.T) {
	tracker := &Tracker{Limit: 100}
	now := zero
	tracker.Observe(Event{Time: now, Message: "offer", MAC: mac(0), File: "pxelinux.0"})
	tracker.Observe(Event{Time: now, Message: "read", Service: "tftp", MAC: mac(0), Client: netip.MustParseAddr("10.0.0.9"), File: "pxelinux.0"})
	for i := range 5000 {
		now = now.Add(time.Second)
		tracker.Observe(Event{Time: now, Message: "offer", MAC: mac(i + 1), Client: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), File: "pxelinux.0"})
	}
	if n := len(tracker.Machines()); n != 100 {
		t.Errorf("%d machines are known", n)
	}
	if len(tracker.byMAC) != 100 || len(tracker.byAddr) != 100 || len(tracker.watched) > 100 {
		t.Errorf("%d MACs, %d addresses, %d watched", len(tracker.byMAC), len(tracker.byAddr), len(tracker.watched))
	}
	if tracker.byMAC[mac(0).String()] == nil {
		t.Error("the machine that loaded its boot loader is forgotten")
	}
	if tracker.byMAC[mac(5000).String()] == nil || tracker.byMAC[mac(4900).String()] != nil {
		t.Error("it is not the oldest ones that are forgotten")
	}
}

// The MAC that the network has for an address counts for more than the name of the file that was asked for there.
func TestSomebodyElsesFile(t *testing.T) {
	tracker := &Tracker{}
	tracker.Observe(Event{Time: zero, Message: "offer", MAC: mac(1), Host: "one"})
	tracker.Observe(Event{Time: zero, Message: "read", Service: "http", MAC: mac(1), Client: netip.MustParseAddr("10.0.0.9"), File: "pxelinux.cfg/01-02-00-00-00-00-02"})
	all := tracker.Machines()
	if len(all) != 1 || all[0].MAC != mac(1).String() || all[0].Name != "one" || len(all[0].Addresses) != 1 {
		t.Errorf("known are %+v", all)
	}
}

// Trying out what a machine would be answered, as netroot doctor does, is nothing that the machine did.
func TestAskedInTheMachinesPlace(t *testing.T) {
	tracker := &Tracker{}
	log := slog.New(tracker.Handler(slog.DiscardHandler))
	log.Info("offer", "service", "dhcp", "mac", mac(1).String(), "host", "one", "file", "pxelinux.0")
	log.Info("stage", "service", "nfs", "mac", mac(1).String(), "client", "10.0.0.7", "image", "debian-12@1", "stage", "up", "up", 20.5)
	before := tracker.Machines()
	log.Info("offer", "service", "dhcp", "mac", mac(1).String(), "host", "one", "asker", "this machine", "file", "pxelinux.0", "client", "10.0.0.3")
	log.Info("refused", "service", "dhcp", "mac", mac(2).String(), "asker", "this machine", "reason", "it is not listed")
	if after := tracker.Machines(); !reflect.DeepEqual(after, before) || len(before) != 1 || before[0].Stage != "up" {
		t.Errorf("known were %+v\nand are %+v", before, after)
	}
}

// Records of a level that nobody wants to see are seen by the tracker, but not passed on; all others are.
func TestHandlerPassesOn(t *testing.T) {
	var out strings.Builder
	tracker := &Tracker{}
	next := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	log := slog.New(tracker.Handler(next)).With("service", "tftp")
	log.Debug("probe", "mac", mac(7).String())
	log.Info("read", "mac", mac(8).String(), "file", "x")
	log.Info("listening", "address", "0.0.0.0:69")
	want := "level=INFO msg=read service=tftp mac=02:00:00:00:00:08 file=x\nlevel=INFO msg=listening service=tftp address=0.0.0.0:69\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	if all := tracker.Machines(); len(all) != 2 || all[0].MAC != mac(7).String() {
		t.Errorf("known are %+v", all)
	}
}

// An image on a disk that hangs stops nobody who tells the tracker of something, and its machine is not said to have stopped.
func TestSlowImage(t *testing.T) {
	asked, answer := make(chan string), make(chan string)
	var out plain
	tracker := &Tracker{Log: slog.New(&out), Last: func(image string) string {
		asked <- image
		return <-answer
	}}
	log := slog.New(tracker.Handler(slog.DiscardHandler))
	log.Info("read", "service", "tftp", "mac", mac(1).String(), "file", "pxelinux.0")
	log.Info("read", "service", "tftp", "mac", mac(1).String(), "file", "live/3/vmlinuz")
	log.Info("read", "service", "tftp", "mac", mac(1).String(), "file", "live/3/initrd.img")
	checked := make(chan bool)
	go func() {
		tracker.check(time.Now().Add(time.Hour))
		close(checked)
	}()
	if image := <-asked; image != "live@3" {
		t.Errorf("asked about %q", image)
	}
	log.Info("offer", "service", "dhcp", "mac", mac(2).String(), "file", "pxelinux.0")
	if n := len(tracker.Machines()); n != 2 {
		t.Errorf("%d machines", n)
	}
	answer <- stageInitrd
	<-checked
	if strings.Contains(out.String(), mac(1).String()) || !strings.Contains(out.String(), mac(2).String()) {
		t.Errorf("stopped:\n%s", out.String())
	}
	log.Info("read", "service", "tftp", "mac", mac(1).String(), "file", "pxelinux.0") // what is known is not asked again
	if strings.Contains(out.String(), "started again") {
		t.Errorf("stopped:\n%s", out.String())
	}
}

// Many services log at once while people look.
func TestConcurrent(t *testing.T) {
	tracker := &Tracker{Limit: 50}
	tracker.Open(t.TempDir())
	log := slog.New(tracker.Handler(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var wg, runner sync.WaitGroup
	runner.Go(func() { tracker.Run(ctx) })
	for worker := range 8 {
		wg.Go(func() {
			for i := range 300 {
				m, client := mac(i%97).String(), fmt.Sprintf("10.0.0.%d", i%97)
				log.Info("offer", "service", "dhcp", "mac", m, "file", "pxelinux.0")
				log.Info("read", "service", "tftp", "mac", m, "client", client, "file", "pxelinux.0", "bytes", 1, "seconds", 0.1)
				log.Info("stage", "service", "nfs", "client", client, "stage", Stages[firstTold+i%6], "up", float64(worker))
				if i%50 == 0 {
					tracker.check(time.Now().Add(time.Hour))
					tracker.Machines()
					tracker.Stats()
					tracker.save(true)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	runner.Wait()
	if s := tracker.Stats(); s.Begun == 0 || s.Reached[stageLoader] == 0 {
		t.Errorf("%+v", s)
	}
}

// FuzzEvents: whatever records say, the tracker stays within its bounds and what it shows is in order.
func FuzzEvents(f *testing.F) {
	f.Add("0 offer service=dhcp mac=02:00:00:00:00:01 file=pxelinux.0\n1 read service=tftp client=10.0.0.1 file=pxelinux.cfg/01-02-00-00-00-00-01\n2 stage client=10.0.0.1 stage=up up=3")
	f.Add("5 stage client=10.0.0.1 stage=up up=-3\n1 mount client=10.0.0.1 image=a@b\n9 read client=::1 file=ipxe/01-\n2 refused mac=x")
	f.Fuzz(func(t *testing.T, text string) {
		tracker := &Tracker{Limit: 8}
		in := bufio.NewScanner(strings.NewReader(text))
		for i := 0; in.Scan() && i < 100; i++ {
			after, kind, _ := strings.Cut(in.Text(), " ")
			kind, rest, _ := strings.Cut(kind, " ")
			sec, err := strconv.Atoi(after)
			if err != nil {
				continue
			}
			e := Event{Time: zero.Add(time.Duration(sec) * time.Second), Message: kind}
			for key, value := range attributes(rest) {
				e.set(slog.String(key, value))
				if v, err := strconv.ParseFloat(value, 64); err == nil {
					e.set(slog.Float64(key, v))
				}
			}
			tracker.Observe(e)
			tracker.check(e.Time)
		}
		if all := tracker.Machines(); len(all) > 8 {
			t.Errorf("%d machines", len(all))
		} else {
			for _, m := range all {
				for i := 1; i < len(m.Stages); i++ {
					if indexOf(m.Stages[i-1].Stage) >= indexOf(m.Stages[i].Stage) {
						t.Errorf("%s comes before %s", m.Stages[i-1].Stage, m.Stages[i].Stage)
					}
				}
			}
			if _, err := json.Marshal(all); err != nil {
				t.Error(err)
			}
		}
	})
}
