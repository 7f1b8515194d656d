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
)

func TestJournal(t *testing.T) {
	var out strings.Builder
	known := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	name := func(client netip.Addr) (net.HardwareAddr, string) {
		switch client.String() {
		case "10.0.0.1":
			return known, "vmegr"
		case "10.0.0.2":
			return nil, "remote"
		}
		return nil, ""
	}
	handler := newJournal(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}}), name)
	log := slog.New(handler)
	for _, c := range []struct {
		log  func()
		want string
	}{
		{func() { log.Info("read", "service", "http", "client", "10.0.0.1", "file", "f") },
			"msg=read service=http client=10.0.0.1 file=f mac=02:00:00:00:00:01 host=vmegr\n"},
		{func() { log.With("service", "tftp", "client", "10.0.0.1").Info("read", "file", "f") },
			"msg=read service=tftp client=10.0.0.1 file=f mac=02:00:00:00:00:01 host=vmegr\n"},
		{func() { log.Info("mount", "client", "10.0.0.2") }, "msg=mount client=10.0.0.2 host=remote\n"},
		{func() { log.Info("mount", "client", "10.0.0.3") }, "msg=mount client=10.0.0.3\n"},
		{func() { log.With("mac", "00:11:22:33:44:55").Info("offer", "client", "10.0.0.1") },
			"msg=offer mac=00:11:22:33:44:55 client=10.0.0.1\n"},
		{func() { log.Info("listening", "service", "nfs") }, "msg=listening service=nfs\n"},
		{func() { log.Info("read", "client", "invalid IP") }, "msg=read client=\"invalid IP\"\n"},
		{func() { log.WithGroup("x").Info("read", "file", "f") }, "msg=read x.file=f\n"},
	} {
		out.Reset()
		c.log()
		if got := out.String(); got != c.want {
			t.Errorf("got  %swant %s", got, c.want)
		}
	}

	// Refusals: the first, not those after it, and after a while how many they were.
	out.Reset()
	now := time.Now()
	refuse := func(after time.Duration, client, reason string) {
		r := slog.NewRecord(now.Add(after), slog.LevelWarn, "refused", 0)
		r.AddAttrs(slog.String("client", client), slog.String("reason", reason))
		if err := handler.Handle(context.Background(), r); err != nil {
			t.Error(err)
		}
	}
	for i := range 100 {
		refuse(time.Duration(i)*time.Millisecond, "10.0.0.3", "not listed")
	}
	refuse(time.Second, "10.0.0.3", "disabled")
	refuse(time.Second, "10.0.0.4", "not listed")
	refuse(time.Second, "10.0.0.1", "not listed")
	refuse(refusalEvery, "10.0.0.3", "not listed")
	refuse(2*refusalEvery, "10.0.0.3", "not listed")
	want := `msg=refused client=10.0.0.3 reason="not listed"
msg=refused client=10.0.0.3 reason=disabled
msg=refused client=10.0.0.4 reason="not listed"
msg=refused client=10.0.0.1 reason="not listed" mac=02:00:00:00:00:01 host=vmegr
msg=refused client=10.0.0.3 reason="not listed" repeated=99
msg=refused client=10.0.0.3 reason="not listed"
`
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// Each packet may bear another address: neither memory nor log grow with them, and who is refused when that is over is told again.
func TestJournalFlood(t *testing.T) {
	var out strings.Builder
	handler := newJournal(slog.NewTextHandler(&out, nil), func(netip.Addr) (net.HardwareAddr, string) { return nil, "" })
	now := time.Now()
	refuse := func(after time.Duration, i int) {
		client := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}).String()
		r := slog.NewRecord(now.Add(after), slog.LevelWarn, "refused", 0)
		r.AddAttrs(slog.String("service", "tftp"), slog.String("client", client), slog.String("reason", client+" is not listed"))
		if err := handler.Handle(context.Background(), r); err != nil {
			t.Error(err)
		}
	}
	const many = 20 * refusalsMax
	for i := range many {
		refuse(time.Duration(i)*time.Second/(many/2), i) // in two seconds
	}
	if n := strings.Count(out.String(), "\n"); n < refusalsMax || n > refusalsMax+1 {
		t.Errorf("%d refusals were written of %d", n, many)
	}
	if n := len(handler.said.m); n > refusalsMax {
		t.Errorf("%d refusals are remembered", n)
	}
	out.Reset()
	refuse(refusalEvery+3*time.Second, many)
	want := fmt.Sprintf("level=WARN msg=refused service=journal reason=%q repeated=%d\n", manyRefused, many-refusalsMax-1)
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, want) || !strings.Contains(got, " is not listed\"\n") {
		t.Errorf("after it: %s, want %s", got, want)
	}
}
