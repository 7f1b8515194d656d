package vm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"netroot/builder/golden"
)

// record is a boot on paper: lines "SECONDS console TEXT" and "SECONDS event JSON", times since power-on.
func record(t *testing.T, path string) (powerOn time.Time, console []Line, events []Event) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	powerOn = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for scan := bufio.NewScanner(f); scan.Scan(); {
		words := strings.SplitN(strings.TrimLeft(scan.Text(), " "), " ", 3)
		if len(words) < 3 {
			words = append(words, "")
		}
		seconds, err := strconv.ParseFloat(words[0], 64)
		if err != nil {
			t.Fatalf("%s: %q: %v", path, scan.Text(), err)
		}
		at := powerOn.Add(time.Duration(seconds * float64(time.Second)))
		switch words[1] {
		case "console":
			console = append(console, Line{Time: at, End: at, Text: clean(words[2])})
		case "event":
			e, err := parseEvent(words[2])
			if err != nil {
				t.Fatal(err)
			}
			e.Time = at
			events = append(events, e)
		}
	}
	return powerOn, console, events
}

// TestRecords reads recorded boots, good and bad, and compares what is said about them.
func TestRecords(t *testing.T) {
	records, err := filepath.Glob("testdata/*.record")
	if err != nil || len(records) == 0 {
		t.Fatalf("no records: %v", err)
	}
	for _, path := range records {
		t.Run(filepath.Base(path), func(t *testing.T) {
			powerOn, console, events := record(t, path)
			mac := DefaultMAC.String()
			timeline := Assemble(powerOn, mac, console, events)
			got := timeline.String() + "\n"
			if missing := timeline.Missing(); missing != "" {
				got += fmt.Sprintf("missing: %s\nbecause: %s\n", missing, diagnose(missing, mac, console, events))
			}
			golden.Compare(t, strings.TrimSuffix(path, ".record")+".golden", got)
		})
	}
}

func TestTimelineJSON(t *testing.T) {
	in := Timeline{{Name: "offer", After: 2510 * time.Millisecond, Reached: true, Note: "on eth0"}, {Name: "tftp"}}
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := `[{"stage":"offer","seconds":2.51,"note":"on eth0"},{"stage":"tftp","seconds":null}]`; string(data) != want {
		t.Errorf("got %s, want %s", data, want)
	}
	var out Timeline
	if err := json.Unmarshal(data, &out); err != nil || !cmp.Equal(in, out) {
		t.Errorf("read back %v, %v", out, err)
	}
}

// TestSecondBoot: what belongs to the boot before does not count.
func TestSecondBoot(t *testing.T) {
	powerOn, console, events := record(t, "testdata/up.record")
	last := powerOn.Add(10 * time.Minute)
	again := Assemble(last.Add(time.Second), DefaultMAC.String(), console, events)
	if got := again.Missing(); got != "offer" {
		t.Errorf("after a reset the first missing stage is %q", got)
	}
	other := Assemble(powerOn, "52:54:00:00:00:99", console, events)
	if other.At("offer").Reached {
		t.Error("the offer to another machine counts")
	}
}

func TestParseEvent(t *testing.T) {
	e, err := parseEvent(`{"time":"2026-03-01T12:00:01.5Z","level":"INFO","msg":"stage","service":"nfs","client":"10.77.0.100","stage":"up","up":"31.20","bytes":"many"}`)
	if err != nil || e.Message != "stage" || e.Stage != "up" || e.Bytes != 0 || e.Time.Nanosecond() != 5e8 {
		t.Errorf("%+v, %v", e, err)
	}
	for _, bad := range []string{"", "panic: x", "[1]", "{"} {
		if _, err := parseEvent(bad); err == nil {
			t.Errorf("%q is an event", bad)
		}
	}
}

func TestLineLog(t *testing.T) {
	var raw strings.Builder
	l := newLineLog()
	l.copy = &raw
	in := []string{"Sea", "BIOS\r\n\x1b[2J\x1b[01;31mred\x1b[0m\n", "10%\r100%\r\n", "tail"}
	for _, s := range in {
		if n, err := l.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := l.tail(2); !cmp.Equal(got, []string{"100%", "tail"}) {
		t.Errorf("tail %q", got)
	}
	l.Close()
	var got []string
	for _, line := range l.lines.all() {
		got = append(got, line.Text)
	}
	if diff := cmp.Diff([]string{"SeaBIOS", "red", "100%", "tail"}, got); diff != "" {
		t.Error(diff)
	}
	if raw.String() != strings.Join(in, "") {
		t.Errorf("the copy is %q", raw.String())
	}
}

func FuzzConsole(f *testing.F) {
	f.Add("\x1b[2J\x1b]0;title\x07text\r\nnetroot: image=a generation=1 stage=up\n")
	f.Add(`{"msg":"read","file":"a/1/vmlinuz","seconds":1e300,"bytes":-1}`)
	f.Fuzz(func(t *testing.T, in string) {
		l := newLineLog()
		_, _ = l.Write([]byte(in))
		l.Close()
		lines := l.lines.all()
		for _, line := range lines {
			if strings.ContainsFunc(line.Text, func(r rune) bool { return r < 0x80 && unicode.IsControl(r) && r != '\t' }) {
				t.Fatalf("control characters in %q", line.Text)
			}
		}
		var events []Event
		if e, err := parseEvent(in); err == nil {
			events = append(events, e)
		}
		timeline := Assemble(time.Time{}, "", lines, events)
		for _, stage := range Stages {
			_ = diagnose(stage, "", lines, events)
		}
		if _, err := json.Marshal(timeline); err != nil {
			t.Fatal(err)
		}
	})
}
