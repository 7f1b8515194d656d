package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// running starts Run; the returned function ends it, and closes the tracker.
func running(t *testing.T, tracker *Tracker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() {
		tracker.Run(ctx)
		close(ended)
	}()
	return func() {
		cancel()
		<-ended
		tracker.Close()
	}
}

func boots(tracker *Tracker, now time.Time, upTo string) {
	client := netip.MustParseAddr("10.0.0.7")
	for i, stage := range Stages[:indexOf(upTo)+1] {
		e := Event{Time: now.Add(time.Duration(i) * time.Second), MAC: mac(1), Client: client, Host: "vme1", Message: "read", Service: "tftp"}
		switch stage {
		case stageOffer:
			e.Message, e.Service, e.Client, e.File = "offer", "dhcp", netip.Addr{}, "pxelinux.0"
		case stageLoader:
			e.File = "pxelinux.0"
		case stageMenu:
			e.File = "pxelinux.cfg/01-02-00-00-00-00-01"
		case stageKernel:
			e.File = "debian-12/7/vmlinuz"
		case stageInitrd:
			e.File = "debian-12/7/initrd.img"
		default:
			e.Message, e.Service, e.Stage, e.Up, e.Image = "stage", "nfs", stage, float64(i), "debian-12@7"
		}
		tracker.Observe(e)
	}
}

// What is known survives the server, however it ends, and a boot goes on where it was.
func TestStateSurvives(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first := &Tracker{}
		first.Open(dir)
		stop := running(t, first)
		boots(first, time.Now(), stageInitrd)
		time.Sleep(3 * time.Second) // killed later than this, a server has written it
		kept, err := Read(dir)
		if err != nil || !kept.Running || len(kept.Machines) != 1 {
			t.Fatalf("kept while it runs: %+v, %v", kept, err)
		}
		if diff := cmp.Diff(first.Machines(), kept.Machines, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("kept (-known +kept):\n%s", diff)
		}
		stop()
		if kept, err = Read(dir); err != nil || kept.Running {
			t.Fatalf("after its end: %+v, %v", kept, err)
		}

		second := &Tracker{}
		second.Open(dir)
		// Only the address is told.
		second.Observe(Event{Time: time.Now(), Message: "stage", Service: "nfs", Client: netip.MustParseAddr("10.0.0.7"), Image: "debian-12@7", Stage: stageUp, Up: 20})
		all := second.Machines()
		if len(all) != 1 || all[0].Stage != stageUp || all[0].Boots != 1 || len(all[0].Stages) != 6 || all[0].Name != "vme1" || all[0].Ref() != "debian-12@7" {
			t.Errorf("after it is read: %+v", all)
		}
		running(t, second)()
	})
}

// A boot that was under way when the server was stopped for a week is given its time again.
func TestStateStall(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first := &Tracker{}
		first.Open(dir)
		boots(first, time.Now(), stageInitrd)
		running(t, first)()
		time.Sleep(7 * 24 * time.Hour)

		var log plain
		second := &Tracker{Log: slog.New(&log)}
		second.Open(dir)
		stop := running(t, second)
		time.Sleep(patience[stageInitrd] - 2*time.Second)
		if log.String() != "" {
			t.Errorf("too early: %s", log.String())
		}
		time.Sleep(time.Hour)
		stop()
		if n := strings.Count(log.String(), "stalled"); n != 1 || !strings.Contains(log.String(), "mac=02:00:00:00:00:01") || !strings.Contains(log.String(), "stage=initrd") {
			t.Errorf("told: %s", log.String())
		}
		kept, err := Read(dir)
		if err != nil || len(kept.Machines) != 1 || !kept.Machines[0].Stalled || !kept.Machines[0].Failed() {
			t.Errorf("kept: %+v, %v", kept, err)
		}
	})
}

// While a file is on its way to a machine its boot has not stopped, however long that takes.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := true
		var log plain
		tracker := &Tracker{Log: slog.New(&log), Busy: func(a netip.Addr) bool { return busy && a == netip.MustParseAddr("10.0.0.7") }}
		boots(tracker, time.Now(), stageKernel)
		stop := running(t, tracker)
		time.Sleep(time.Hour)
		if log.String() != "" {
			t.Errorf("told of a boot that goes on: %s", log.String())
		}
		stop()
		busy = false
		stop = running(t, tracker)
		time.Sleep(time.Hour)
		stop()
		if n := strings.Count(log.String(), "stalled"); n != 1 {
			t.Errorf("told %d times: %s", n, log.String())
		}
	})
}

// A damaged file is put aside and told, and serving goes on.
func TestStateDamaged(t *testing.T) {
	for name, text := range map[string]string{
		"cut off":      `{"format":1,"machines":[{"mac":"02:00`,
		"other format": `{"format":2}`,
		"not a stage":  `{"format":1,"machines":[{"mac":"02:00:00:00:00:01","stage":"up","stages":[{"stage":"flying"}]}]}`,
		"null":         `{"format":1,"machines":[null]}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, stateFile)
			if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
			if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("Read: %v", err)
			}
			var log plain
			tracker := &Tracker{Log: slog.New(&log)}
			tracker.Open(dir)
			if !strings.HasPrefix(log.String(), "damaged service=nodes reason=") || !strings.Contains(log.String(), path+damaged) {
				t.Errorf("told: %s", log.String())
			}
			if data, err := os.ReadFile(path + damaged); err != nil || string(data) != text {
				t.Errorf("put aside: %q, %v", data, err)
			}
			boots(tracker, time.Now(), stageUp)
			running(t, tracker)()
			if kept, err := Read(dir); err != nil || len(kept.Machines) != 1 {
				t.Errorf("kept: %+v, %v", kept, err)
			}
		})
	}
}

// A disk that is full, or gone, is told once, and written to when it can be again.
func TestStateNotWritable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	var log plain
	tracker := &Tracker{Log: slog.New(&log)}
	tracker.Open(dir)
	boots(tracker, time.Now(), stageUp)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	tracker.save(true)
	tracker.save(true)
	if n := strings.Count(log.String(), "not kept"); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
	}
	if len(tracker.Machines()) != 1 {
		t.Error("the machine is forgotten")
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	tracker.save(true)
	if kept, err := Read(dir); err != nil || len(kept.Machines) != 1 {
		t.Errorf("kept: %+v, %v", kept, err)
	}
}

// Two servers of one store: the second one keeps nothing, and says so.
func TestStateTwoServers(t *testing.T) {
	dir := t.TempDir()
	first := &Tracker{}
	first.Open(dir)
	boots(first, time.Now(), stageUp)
	first.save(true)
	var log plain
	second := &Tracker{Log: slog.New(&log)}
	second.Open(dir)
	second.Observe(Event{Time: time.Now(), Message: "offer", MAC: mac(2)})
	running(t, second)()
	if !strings.Contains(log.String(), "another netroot serve") {
		t.Errorf("told: %s", log.String())
	}
	if kept, err := Read(dir); err != nil || len(kept.Machines) != 1 || kept.Machines[0].MAC != mac(1).String() || !kept.Running {
		t.Errorf("kept: %+v, %v", kept, err)
	}
}

// FuzzState: whatever the state file holds, it is taken in or put aside, and the tracker goes on.
// The folder is the server's user's, and a server started by root opens files there before it is that user: by a link in it root makes nothing
// elsewhere.
func TestStateLink(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Symlink(elsewhere, filepath.Join(dir, lockFile)); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	tracker := &Tracker{Log: slog.New(slog.NewTextHandler(&out, nil))}
	tracker.Open(dir)
	defer tracker.Close()
	if _, err := os.Lstat(elsewhere); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(out.String(), "not kept") {
		t.Errorf("what the link points to: %v; said: %s", err, &out)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"format":1,"written":"2026-11-25T15:30:00Z","machines":[{"mac":"02:00:00:00:00:01","addresses":["10.0.0.7"],"stage":"offer","boots":1,` +
		`"stages":[{"stage":"offer","reached":"2026-11-25T15:20:00Z","seconds":0}],"boot":{"offered":"pxelinux.0","told":{"up":3}}}]}`))
	f.Add([]byte(`{"format":1,"machines":[{"addresses":["10.0.0.7","10.0.0.7",""],"stage":""},{"mac":"02:00:00:00:00:01","stage":"up"},{"mac":"02-00-00-00-00-01"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), data, 0o640); err != nil {
			t.Fatal(err)
		}
		tracker := &Tracker{Limit: 4}
		tracker.Open(dir)
		defer tracker.Close()
		boots(tracker, time.Now(), stageUp)
		tracker.check(time.Now().Add(time.Hour))
		if all := tracker.Machines(); len(all) == 0 || len(all) > 4 {
			t.Errorf("%d machines", len(all))
		}
		if len(tracker.byMAC) > 4 || len(tracker.byAddr) > 4*addressesMax {
			t.Errorf("%d MACs, %d addresses", len(tracker.byMAC), len(tracker.byAddr))
		}
	})
}

func TestReadNothing(t *testing.T) {
	if _, err := Read(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// The fields of /v1/nodes are a contract.
func TestHTTP(t *testing.T) {
	tracker := &Tracker{}
	get := func() string {
		w := httptest.NewRecorder()
		tracker.ServeHTTP(w, httptest.NewRequest("GET", "/v1/nodes", nil))
		if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
		return w.Body.String()
	}
	if got := get(); got != "[]\n" {
		t.Errorf("without machines: %q", got)
	}
	boots(tracker, zero, stageLoader)
	tracker.Observe(Event{Time: zero.Add(9 * time.Second), Message: "aborted", Service: "tftp", Client: netip.MustParseAddr("10.0.0.7"), Interface: "eno1", File: "ldlinux.c32", Reason: "no answer"})
	var got any
	if err := json.Unmarshal([]byte(get()), &got); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want := `[
  {
    "addresses": [
      "10.0.0.7"
    ],
    "began": "2026-11-25T12:00:00Z",
    "boots": 1,
    "first_seen": "2026-11-25T12:00:00Z",
    "interface": "eno1",
    "last_error": {
      "file": "ldlinux.c32",
      "reason": "no answer",
      "service": "tftp",
      "time": "2026-11-25T12:00:09Z"
    },
    "last_seen": "2026-11-25T12:00:09Z",
    "mac": "02:00:00:00:00:01",
    "name": "vme1",
    "seconds": 1,
    "since": "2026-11-25T12:00:01Z",
    "stage": "loader",
    "stages": [
      {
        "note": "pxelinux.0",
        "reached": "2026-11-25T12:00:00Z",
        "seconds": 0,
        "stage": "offer"
      },
      {
        "note": "pxelinux.0 0 bytes in 0.0 s by tftp",
        "reached": "2026-11-25T12:00:01Z",
        "seconds": 1,
        "stage": "loader"
      }
    ]
  }
]`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
}
