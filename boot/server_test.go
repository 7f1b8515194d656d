package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"

	"netroot/boot/host"
	"netroot/boot/neighbor"
	"netroot/boot/nodes"
	"netroot/builder/store"
)

// freePort finds a port that is free for TCP and UDP at this moment.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// One policy and one store behind every protocol; all of them end with the context.
func TestServer(t *testing.T) {
	s := openStore(t)
	g := publish(t, s, "debian-12", "root")
	if err := os.WriteFile(filepath.Join(s.LoaderDir(), "pxelinux.0"), []byte("loader"), 0o644); err != nil {
		t.Fatal(err)
	}
	ports := Ports{TFTP: freePort(t), HTTP: freePort(t), NFS: freePort(t)}
	server := &Server{Store: s, Policy: host.Fixed(host.Default()), Ports: ports}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()

	base := fmt.Sprintf("http://127.0.0.1:%d/", ports.HTTP)
	get := func(name string) (int, string) {
		t.Helper()
		var err error
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			var r *http.Response
			if r, err = http.Get(base + name); err == nil {
				defer r.Body.Close()
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Fatal(err)
				}
				return r.StatusCode, string(body)
			}
		}
		t.Fatal(err)
		return 0, ""
	}
	if status, body := get("healthz"); status != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %q", status, body)
	}
	// The menu names this server's address as the client knows it, the NFS port, and the exact generation.
	root := fmt.Sprintf("root=nfs:127.0.0.1:/%s:vers=3,proto=tcp,nolock,nocto,actimeo=86400,port=%d,mountport=%d ", g.Ref(), ports.NFS, ports.NFS)
	status, menu := get("pxelinux.cfg/default")
	if status != 200 || !strings.Contains(menu, root) {
		t.Errorf("the menu: %d\n%s\nwant %s", status, menu, root)
	}
	if status, body := get("debian-12/1/vmlinuz"); status != 200 || body != store.PartKernel {
		t.Errorf("the kernel: %d %q", status, body)
	}
	if status, _ := get("debian-12/1/root.erofs"); status != 404 {
		t.Errorf("the root by HTTP: %d", status)
	}

	if status, body := get("v1/nodes"); status != 200 || body != "[]\n" {
		t.Errorf("nodes: %d %q", status, body)
	}
	if status, body := get("metrics"); status != 200 || !strings.Contains(body, `netroot_nfs_operations_total{operation="READ"} 0`) {
		t.Errorf("metrics: %d %s", status, body)
	}

	client, err := pin.NewClient(fmt.Sprintf("127.0.0.1:%d", ports.TFTP))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"pxelinux.0": "loader", "pxelinux.cfg/default": menu} {
		var got bytes.Buffer
		if from, err := client.Receive(name, "octet"); err != nil {
			t.Errorf("%s by TFTP: %v", name, err)
		} else if _, err := from.WriteTo(&got); err != nil || got.String() != want {
			t.Errorf("%s by TFTP: %v, %q", name, err, got.String())
		}
	}
	if c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", ports.NFS)); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}

	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not end")
	}
	if c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", ports.HTTP)); err == nil {
		c.Close()
		t.Error("HTTP is still served")
	}
}

// A port that is taken: an error that names it and the way out, and nothing is left listening.
func TestServerPortTaken(t *testing.T) {
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := openStore(t)
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	ports := Ports{HTTP: freePort(t), NFS: l.Addr().(*net.TCPAddr).Port}
	err = (&Server{Store: s, Policy: host.Fixed(host.Default()), Ports: ports}).Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("port %d for NFS is taken", ports.NFS)) || !strings.Contains(err.Error(), "--nfs-port") {
		t.Errorf("the error is %v", err)
	}
	var told bytes.Buffer
	(&nodes.Tracker{Log: slog.New(slog.NewTextHandler(&told, nil))}).Open(s.StateDir())
	if told.Len() > 0 {
		t.Errorf("the state is left locked: %s", told.String())
	}
	again, err := net.Listen("tcp4", fmt.Sprintf(":%d", ports.HTTP))
	if err != nil {
		t.Fatalf("HTTP is left listening: %v", err)
	}
	again.Close()
}

// A store that is not there, or empty, is told of once, with the way out.
func TestServerEmptyStore(t *testing.T) {
	empty := openStore(t)
	if err := empty.Prepare(); err != nil {
		t.Fatal(err)
	}
	none := openStore(t)
	for want, s := range map[string]*store.Store{"there is no such store": none, "the store holds no image": empty} {
		var told bytes.Buffer
		server := &Server{Store: s, Policy: host.Fixed(host.Default()), Ports: Ports{TFTP: freePort(t), HTTP: freePort(t)}, Log: slog.New(slog.NewTextHandler(&told, nil))}
		ctx, cancel := context.WithCancel(context.Background())
		server.Opened = func() error { cancel(); return nil }
		if err := server.Run(ctx); err != nil {
			t.Error(err)
		}
		if strings.Count(told.String(), "level=WARN") != 1 || !strings.Contains(told.String(), want) || !strings.Contains(told.String(), "netroot build debian-12") {
			t.Errorf("%s", &told)
		}
	}
	if _, err := os.Stat(none.Dir()); !os.IsNotExist(err) {
		t.Errorf("serve made %s: %v", none.Dir(), err)
	}
}

// An image that the policy names and the store has not is told of when the policy comes into force, and stops nobody.
func TestServerMissingImage(t *testing.T) {
	s := openStore(t)
	publish(t, s, "debian-12", "root")
	policy, err := host.Parse("netroot.yaml", []byte("default: debian-13\nhosts:\n  - {name: a, mac: \"02:00:00:00:00:01\", image: debian-12}\n  - {name: b, mac: \"02:00:00:00:00:02\", image: debian-12@7}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var told bytes.Buffer
	server := &Server{Store: s, Policy: host.Fixed(policy), Ports: Ports{HTTP: freePort(t)}, Log: slog.New(slog.NewTextHandler(&told, nil))}
	ctx, cancel := context.WithCancel(context.Background())
	server.Opened = func() error { cancel(); return nil }
	if err := server.Run(ctx); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"level=WARN msg=missing service=policy file=netroot.yaml image=debian-12@7 ", "image=debian-13 "} {
		if strings.Count(told.String(), want) != 1 {
			t.Errorf("no %q in\n%s", want, &told)
		}
	}
	if strings.Count(told.String(), "msg=missing") != 2 {
		t.Errorf("%s", &told)
	}
}

func TestServerUnknownInterface(t *testing.T) {
	err := (&Server{Store: openStore(t), Policy: host.Fixed(host.Default().On([]string{"nosuch0"})), Ports: Ports{HTTP: freePort(t)}}).Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "serve on nosuch0: no such interface") || !strings.Contains(err.Error(), "lo") {
		t.Errorf("the error is %v", err)
	}
}

// An interface that is missing beside others is said aloud, and served when it comes.
func TestCheckInterfaces(t *testing.T) {
	links := []neighbor.Link{{Name: "lo"}, {Name: "eno1"}}
	for _, c := range []struct{ names, fails, warns string }{
		{"", "", ""},
		{"eno1", "", ""},
		{"eno1 eno7", "", "interface=eno7"},
		{"eno7 eno8", "serve on eno7, eno8: no such interface; this machine has lo, eno1", ""},
	} {
		var said strings.Builder
		err := checkInterfaces(strings.Fields(c.names), links, slog.New(slog.NewTextHandler(&said, nil)))
		if c.fails == "" && err != nil || c.fails != "" && (err == nil || err.Error() != c.fails) {
			t.Errorf("%q: %v", c.names, err)
		}
		if !strings.Contains(said.String(), c.warns) || (said.Len() > 0) != (c.warns != "") {
			t.Errorf("%q: said %q", c.names, &said)
		}
	}
}
