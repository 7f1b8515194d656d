package progress

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/builder/need"
)

func TestSilent(t *testing.T) {
	var r *Reporter
	r.Step("nobody hears %d", 1)
	task := r.Start("x", 10, Items)
	task.Add(1)
	task.Done()
	task.Abort()
	var out bytes.Buffer
	none := &Reporter{Out: &out, Mode: None}
	none.Step("nothing")
	task = none.Start("x", 10, Items)
	task.Add(3)
	task.Done()
	if out.Len() != 0 {
		t.Errorf("mode none wrote %q", out.String())
	}
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	r := &Reporter{Out: &out}
	r.Step("resolved %d packages", 7)
	task := r.Start("download", 4_000_000, Bytes)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { task.Add(10_000) })
	}
	wg.Wait()
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("lines came faster than the interval: %q", out.String())
	}
	task.said = time.Now().Add(-2 * plainInterval)
	task.Add(1_000_000)
	task.Done()
	task.Done()
	task.Add(1) // a late worker
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %d lines: %q", len(lines), lines)
	}
	if lines[0] != "netroot: resolved 7 packages" {
		t.Errorf("step: %q", lines[0])
	}
	if !strings.HasPrefix(lines[1], "netroot: download: 2.0 MB of 4.0 MB, 50%, ") {
		t.Errorf("progress: %q", lines[1])
	}
	if !strings.HasPrefix(lines[2], "netroot: download: 2.0 MB in ") {
		t.Errorf("end: %q", lines[2])
	}
	if strings.Contains(out.String(), "\r") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("terminal codes in plain output: %q", out.String())
	}
}

func TestOldestTaskSpeaks(t *testing.T) {
	var out bytes.Buffer
	r := &Reporter{Out: &out, Mode: Plain}
	a, b := r.Start("a", 2, Items), r.Start("b", 2, Items)
	a.said, b.said = time.Time{}, time.Time{}
	b.Add(1)
	if out.Len() != 0 {
		t.Errorf("the younger task spoke: %q", out.String())
	}
	a.Add(1)
	a.Abort()
	b.Add(1)
	b.Done()
	for _, want := range []string{"a: 1 of 2, 50%\n", "b: 2 of 2, 100%\n", "b: 2 in "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q lacks %q", out.String(), want)
		}
	}
}

func TestParseMode(t *testing.T) {
	for s, want := range map[string]Mode{"auto": Auto, "": Auto, "plain": Plain, "none": None} {
		if got, err := ParseMode(s); err != nil || got != want {
			t.Errorf("ParseMode(%q) = %v, %v", s, got, err)
		}
	}
	if _, err := ParseMode("fancy"); err == nil {
		t.Error("fancy was accepted")
	}
}

// A bar is drawn on a real pseudo-terminal, log lines go above it, and Done leaves one plain line.
func TestBar(t *testing.T) {
	master, slave := openPTY(t)
	t.Setenv("TERM", "xterm")
	read := make(chan string)
	go func() {
		var all []byte
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			all = append(all, buf[:n]...)
			if err != nil || bytes.Contains(all, []byte("END")) {
				break
			}
		}
		read <- string(all)
	}()
	r := &Reporter{Out: slave}
	task := r.Start("download", 100, Items)
	for range 4 {
		task.Add(25)
		time.Sleep(110 * time.Millisecond)
	}
	if _, err := r.Write([]byte("a log line\n")); err != nil {
		t.Fatal(err)
	}
	task.Done()
	r.Step("END")
	select {
	case got := <-read:
		for _, want := range []string{"netroot: download", "%", "a log line", "netroot: download: 100 in "} {
			if !strings.Contains(got, want) {
				t.Errorf("terminal got %q, which lacks %q", got, want)
			}
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nothing came out of the terminal")
	}
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		need.Missing(t, "no pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	name, err := unlockPTY(master)
	if err != nil {
		need.Missing(t, "no pseudo-terminal: %v", err)
	}
	slave, err = os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		need.Missing(t, "no pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}
