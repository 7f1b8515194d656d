package proxydhcp

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/boot/host"
	"netroot/builder/need"
)

func TestOnlyOnChosenInterfaces(t *testing.T) {
	s := newSite(t)
	s.serveOurs(t, &Server{Decide: func(host.Machine) host.Decision { return host.Decision{} }, Interfaces: []string{"lo", "eth7"}})
	if p := s.ask(t, asked["discover"], 300*time.Millisecond); p != nil {
		t.Errorf("answered on an interface that was not chosen:\n%s", dump(t, p))
	}
}

func TestEventsOfAnswers(t *testing.T) {
	s := newSite(t)
	said := &events{}
	log := slog.New(slog.NewTextHandler(said, nil))
	s.serveOurs(t, &Server{Log: log, Decide: func(m host.Machine) host.Decision {
		if m.Interface != "eth0" || m.UUID != "58b41815-581e-c62a-d4e2-f44d30606469" {
			return host.Decision{Ignore: true, Reason: fmt.Sprintf("asked about %+v, a trial: %v", m, m.Trial)}
		}
		return host.Decision{Name: "alpha"}
	}})
	if s.ask(t, asked["discover"], time.Second) == nil || s.ask(t, asked["boot server"], time.Second) == nil {
		t.Error("no answer")
	}
	s.ask(t, asked["intel"], 200*time.Millisecond)
	tried := asked["discover"] // by netroot doctor on another host, through a relay that fills packets up
	tried.packet = append(slices.Clone(tried.packet), Trial+"\x00\x00\x00\x00"...)
	if s.ask(t, tried, time.Second) == nil {
		t.Error("no answer to the doctor")
	}
	said.wait(t, `msg=offer service=dhcp mac=52:54:00:12:34:56 interface=eth0 host=alpha asker="netroot doctor" arch=0`)
	tried.packet = append(slices.Clone(asked["intel"].packet), Trial...)
	s.ask(t, tried, 200*time.Millisecond)
	said.wait(t, `msg=refused service=dhcp mac=52:54:00:12:34:56 interface=eth0 asker="netroot doctor" arch=0 reason="asked about`)
	said.wait(t, "a trial: true")
	for _, want := range []string{
		`msg=offer service=dhcp mac=52:54:00:12:34:56 interface=eth0 host=alpha arch=0 ipxe=false server=10.77.0.3 file=pxelinux.0`,
		`msg=ack service=dhcp mac=52:54:00:12:34:56 interface=eth0 host=alpha arch=0 ipxe=true server=10.77.0.3 file=tftp://10.77.0.3/pxelinux.0`,
		`msg=refused service=dhcp mac=52:54:00:12:34:56 interface=eth0 arch=0 reason="asked about`,
	} {
		said.wait(t, want)
	}
	within(t, s.srv, func() { // as netroot doctor asks
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: here.AsSlice()})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		raw, err := conn.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
				_ = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth0")
			})
		}
		for _, q := range []string{"discover", "intel"} {
			if err == nil {
				_, err = conn.WriteTo(asked[q].packet, &net.UDPAddr{IP: net.IPv4bcast, Port: 67})
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
	said.wait(t, `msg=offer service=dhcp mac=52:54:00:12:34:56 interface=eth0 host=alpha asker="this machine" arch=0`)
	said.wait(t, `msg=refused service=dhcp mac=52:54:00:12:34:56 interface=eth0 asker="this machine" arch=0 reason="asked about`)
	said.wait(t, "a trial: true")
}

// A socket on another port answers what its role does, for a firewall that sends requests on to it.
func TestOtherPorts(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	server := &Server{Decide: func(host.Machine) host.Decision { return host.Decision{} }}
	for name, c := range map[string]struct {
		role Role
		port uint16
		q    question
		want string
	}{
		"discover":    {Proxy, 1067, asked["discover"], "35010236"},
		"boot server": {BootServer, 14011, asked["boot server"], "35010536"},
	} {
		listening := make(chan bool)
		serving.Go(func() {
			within(t, s.srv, func() {
				conn, err := Listen(ctx, c.role, c.port, nil)
				close(listening)
				if err == nil {
					err = server.Serve(ctx, conn, c.role)
				}
				if err != nil {
					t.Error(err)
				}
			})
		})
		<-listening
		conn := s.socket(t, portClient)
		if _, err := conn.WriteTo(c.q.packet, &net.UDPAddr{IP: here.AsSlice(), Port: int(c.port)}); err != nil {
			t.Error(err)
		}
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 2000)
		n, _, err := conn.ReadFrom(buf)
		conn.Close()
		if err != nil || n < 300 || hex.EncodeToString(buf[240:244]) != c.want {
			t.Errorf("%s on port %d: %x, %v", name, c.port, buf[:n], err)
		}
	}
}

// The port is taken: by a process that does not share it, and by one that does.
func TestPortTaken(t *testing.T) {
	need.Patience(t)
	s := newSite(t)
	need.Tools(t, "dnsmasq", "python3")
	within(t, s.srv, func() {
		const hold = `import socket,sys,time
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,int(sys.argv[2]))
s.bind(("0.0.0.0",int(sys.argv[1])))
print("bound",flush=True)
time.sleep(100)`
		for _, c := range []struct {
			role  Role
			reuse string
			ok    bool
		}{{67, "0", false}, {67, "1", true}, {4011, "1", false}} {
			holder := inside(s.srv, "python3", "-c", hold, fmt.Sprint(c.role), c.reuse)
			out, err := holder.StdoutPipe()
			if err != nil {
				t.Error(err)
				return
			}
			startProcess(t, holder)
			out.Read(make([]byte, 10))
			var said bytes.Buffer
			conn, err := Listen(context.Background(), c.role, uint16(c.role), slog.New(slog.NewTextHandler(&said, nil)))
			want := fmt.Sprintf("(pid %d)", holder.Process.Pid)
			switch {
			case (err == nil) != c.ok:
				t.Errorf("port %d, reuse %s: %v", c.role, c.reuse, err)
			case err != nil && !strings.Contains(err.Error(), want):
				t.Errorf("%v does not name %s", err, want)
			case err == nil && !strings.Contains(said.String(), want):
				t.Errorf("%s does not name %s", &said, want)
			}
			if err == nil {
				conn.Close()
			}
			holder.Process.Kill()
			holder.Wait()
		}
	})
}
