package boot

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netroot/boot/nodes"
)

// Each packet may bear another address: neither memory nor log grow with them, and who is refused when that is over is told again.
func TestJournalFlood(t *testing.T) {
	var out strings.Builder
	text := slog.NewTextHandler(&out, nil)
	handler := newCalm(text, text, refusedKind)
	now := time.Now()
	refuse := func(after time.Duration, i int) {
		client := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}).String()
		r := slog.NewRecord(now.Add(after), slog.LevelWarn, "refused", 0)
		r.AddAttrs(slog.String("service", "tftp"), slog.String("client", client), slog.String("reason", client+" is not listed"))
		if err := handler.Handle(context.Background(), r); err != nil {
			t.Error(err)
		}
	}
	const many = 20 * topicsMax
	for i := range many {
		refuse(time.Duration(i)*time.Second/(many/2), i) // in two seconds
	}
	if n := strings.Count(out.String(), "\n"); n < topicsMax || n > topicsMax+1 {
		t.Errorf("%d refusals were written of %d", n, many)
	}
	if n := len(handler.book.topics); n > topicsMax {
		t.Errorf("%d refusals are remembered", n)
	}
	out.Reset()
	refuse(calmFor+3*time.Second, many)
	want := fmt.Sprintf("level=WARN msg=refused service=journal reason=%q repeated=%d\n", refusedKind.why, many-topicsMax-1)
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, want) || !strings.Contains(got, " is not listed\"\n") {
		t.Errorf("after it: %s, want %s", got, want)
	}
}

// What a machine that is let in does in a loop fills no log, and is told by its number; those who watch it see all of it.
func TestCalmLoop(t *testing.T) {
	out, text := readable()
	lines := newCalm(text, text, lineKind)
	tracker := &nodes.Tracker{}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	handler := &journal{next: newCalm(tracker.Handler(lines), text, refusedKind), name: func(netip.Addr) (net.HardwareAddr, string, bool) { return mac, "", false }}
	now := time.Now().UTC()
	write := func(after time.Duration, level slog.Level, message string, attrs ...slog.Attr) {
		r := slog.NewRecord(now.Add(after), level, message, 0)
		r.AddAttrs(attrs...)
		if err := handler.WithAttrs([]slog.Attr{slog.String("service", "http"), slog.String("client", "10.0.0.1")}).Handle(context.Background(), r); err != nil {
			t.Error(err)
		}
	}
	file := func(i int) slog.Attr { return slog.String("file", fmt.Sprint("f", i)) }
	missing := slog.String("reason", "not found")
	const loop = 5000
	for i := range loop {
		write(time.Duration(i)*time.Millisecond, slog.LevelInfo, "refused", file(i), missing)
		write(time.Duration(i)*time.Millisecond, slog.LevelInfo, "mount", slog.String("image", "debian-12@3"))
		write(time.Duration(i)*time.Millisecond, slog.LevelWarn, "refused", file(i), slog.String("reason", "cannot read "+fmt.Sprint(i)))
	}
	if n := strings.Count(out.String(), "\n"); n != 2*linesMax {
		t.Errorf("%d records were written", n)
	}
	if n := len(handler.next.(*calm).book.topics); n != reasonsMax+1 {
		t.Errorf("the reasons of one machine are %d topics", n)
	}
	if n := strings.Count(out.String(), "msg=mount "); n != linesMax {
		t.Errorf("%d mounts were written", n)
	}
	if m := tracker.Machines(); len(m) != 1 || !m[0].LastSeen.Equal(now.Add((loop-1)*time.Millisecond).Truncate(time.Millisecond)) {
		t.Errorf("those who watch it saw %+v", m)
	}
	// The next one tells of those before; of what is not done again the last one is told late.
	out.Reset()
	write(calmFor, slog.LevelInfo, "mount")
	lines.book.tell(now.Add(calmFor-time.Second), false)
	lines.book.tell(now.Add(calmFor+time.Second), false)
	lines.book.tell(now.Add(calmFor+2*time.Second), true)
	want := fmt.Sprintf("msg=mount service=http client=10.0.0.1 mac=02:00:00:00:00:01 repeated=%d\n", loop-linesMax)
	late := fmt.Sprintf("msg=refused service=http client=10.0.0.1 file=f%d reason=\"not found\" mac=02:00:00:00:00:01 repeated=%d\n", loop-1, loop+reasonsMax+1-linesMax-1)
	if got, rest, _ := strings.Cut(out.String(), "\n"); got+"\n" != want || rest != late {
		t.Errorf("after it:\n%swant\n%s%s", out, want, late)
	}
	if lines.book.tell(now.Add(3*calmFor), false); len(lines.book.topics) != 0 || len(lines.book.reasons) != 0 {
		t.Errorf("%d topics are remembered", len(lines.book.topics))
	}
}

// Machines that are listed are told of whatever else there is, and those that are not by their number.
func TestCalmCrowd(t *testing.T) {
	out, text := readable()
	c := newCalm(text, text, lineKind)
	now := time.Now()
	offer := func(attrs ...slog.Attr) {
		r := slog.NewRecord(now, slog.LevelInfo, "offer", 0)
		r.AddAttrs(attrs...)
		if err := c.Handle(context.Background(), r); err != nil {
			t.Error(err)
		}
	}
	for i := range 2 * topicsMax {
		offer(slog.String("mac", fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255)))
	}
	if n := strings.Count(out.String(), "\n"); n != topicsMax+1 { // and one that tells of the first that was left out
		t.Errorf("%d offers were told of", n)
	}
	out.Reset()
	offer(slog.String("mac", "02:00:00:00:00:01"), slog.String("host", "vmegr"))
	c.book.tell(now, true)
	want := fmt.Sprintf("msg=offer mac=02:00:00:00:00:01 host=vmegr\nmsg=\"left out\" service=journal reason=%q repeated=%d\n", lineKind.why, topicsMax-1)
	if out.String() != want {
		t.Errorf("got  %swant %s", out, want)
	}
}
