package boot

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"netroot/boot/host"
	"netroot/boot/nodes"
	"netroot/builder/store"
)

// Records of the services end up in what people and their monitoring read; others are turned away.
func TestWatch(t *testing.T) {
	s := openStore(t)
	publish(t, s, "debian-12", "root")
	policy, err := host.Parse("netroot.yaml", []byte("monitors: [192.168.2.0/24]\n"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	next := slog.NewTextHandler(&out, nil)
	w := (&Server{Store: s, Policy: host.Fixed(policy)}).watch(slog.New(next), true)
	log := slog.New(w.Handler(next))
	log.Info("offer", "service", "dhcp", "mac", "02:00:00:00:00:01", "host", "vme1", "file", "pxelinux.0")
	log.Info("stage", "service", "nfs", "mac", "02:00:00:00:00:01", "client", "10.0.0.7", "image", "debian-12@1", "stage", "up", "up", 20.5)
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("the log has %d lines:\n%s", n, out.String())
	}
	for path, want := range map[string]string{
		"/v1/nodes": `"image":"debian-12","generation":1,"stage":"up"`,
		"/metrics":  "\n" + `netroot_boot_stages_total{stage="up"} 1` + "\n",
	} {
		for client, status := range map[string]int{
			"127.0.0.1:4711": 200, "[::ffff:127.0.0.1]:4711": 200, "192.168.2.9:1": 200, "[::ffff:192.168.2.9]:1": 200,
			"192.168.3.9:1": 403, "10.0.0.7:1": 403, "nonsense": 403, "": 403,
		} {
			r := httptest.NewRequest("GET", path, nil)
			r.RemoteAddr = client
			got := httptest.NewRecorder()
			w.handlers()[path].ServeHTTP(got, r)
			body := got.Body.String()
			if got.Code != status || strings.Contains(body, want) != (status == 200) {
				t.Errorf("%s for %s: %d %s", path, client, got.Code, body)
			}
		}
	}
	r := httptest.NewRequest("GET", "/v1/nodes", nil) // by one of the server's own addresses
	r.RemoteAddr = "10.0.0.3:1"
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 3), Port: 80})))
	got := httptest.NewRecorder()
	w.handlers()["/v1/nodes"].ServeHTTP(got, r)
	var machines []nodes.Machine
	if err := json.Unmarshal(got.Body.Bytes(), &machines); err != nil || len(machines) != 1 || machines[0].Name != "vme1" || machines[0].Stage != "up" {
		t.Errorf("%v: %s", err, got.Body)
	}
}

// Only a root with systemd tells that it is up, and a medium tells nothing.
func TestLastStage(t *testing.T) {
	s := openStore(t)
	publish(t, s, "sysv", "root")
	publishFile(t, s, "systemd", stageUnit, "[Unit]")
	e := &exports{store: s}
	publishMedium(t, s, "memtest", store.Medium{Family: store.Memtest})
	for ref, want := range map[string]string{
		"systemd@1": "up", "systemd": "up", "sysv@1": "switch-root", "nosuch@1": "switch-root", "": "switch-root", "memtest@1": "kernel",
	} {
		if got := e.last(ref); got != want {
			t.Errorf("%q: %s, want %s", ref, got, want)
		}
	}
}
