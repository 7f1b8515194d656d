package boot

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// readable is a handler whose records can be compared.
func readable() (*strings.Builder, slog.Handler) {
	var out strings.Builder
	return &out, slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})
}

func TestJournal(t *testing.T) {
	known := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	name := func(client netip.Addr) (net.HardwareAddr, string, bool) {
		switch client.String() {
		case "10.0.0.1":
			return known, "vmegr", false
		case "10.0.0.2":
			return nil, "remote", false
		case "10.0.0.9":
			return nil, "", true
		}
		return nil, "", false
	}
	out, text := readable()
	handler := &journal{next: newCalm(text, text, refusedKind), name: name}
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
		{func() { log.Info("read", "client", "10.0.0.9") }, "msg=read client=10.0.0.9 asker=\"this machine\"\n"},
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
	refuse(calmFor, "10.0.0.3", "not listed")
	refuse(2*calmFor, "10.0.0.3", "not listed")
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
