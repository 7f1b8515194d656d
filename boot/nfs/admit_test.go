package nfs

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A client that is refused gets no byte on any of the ports, and is named; one that is admitted is served beside it.
func TestAdmit(t *testing.T) {
	r := &running{exports: &fixed{}}
	s := &Server{
		Exports: r.exports,
		Admit: func(client, local netip.Addr) error {
			if client == netip.MustParseAddr("127.0.0.66") {
				return errors.New("not for " + client.String() + " at " + local.String())
			}
			return nil
		},
		Event: func(e Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	nfs, err := net.Listen("tcp4", "0.0.0.0:0")
	must(t, err)
	pmTCP, err := net.Listen("tcp4", "0.0.0.0:0")
	must(t, err)
	pmUDP, err := net.ListenPacket("udp4", "0.0.0.0:0")
	must(t, err)
	ended := make(chan error, 2)
	go func() { ended <- s.Serve(ctx, nfs) }()
	go func() { ended <- s.ServePortmap(ctx, pmTCP, pmUDP, 2049) }()
	defer func() {
		cancel()
		must(t, errors.Join(<-ended, <-ended))
	}()

	port := func(a net.Addr) string { return a.String()[strings.LastIndexByte(a.String(), ':'):] }
	ask := func(network, from, to string, rec []byte) error {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		if network == "udp4" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
		nc, err := d.Dial(network, to)
		must(t, err)
		defer nc.Close()
		wait := 5 * time.Second
		if network == "udp4" && from == "127.0.0.66" {
			wait = 200 * time.Millisecond
		}
		nc.SetDeadline(time.Now().Add(wait))
		if _, err := nc.Write(rec); err != nil {
			return err
		}
		_, err = nc.Read(make([]byte, 100))
		return err
	}
	null := func(prog, vers uint32) []byte { return header(7, 2, prog, vers, 0, put64(nil, 0)) }
	for _, l := range []struct {
		network, port string
		rec           []byte
	}{
		{"tcp4", port(nfs.Addr()), record(null(progNFS, 3))},
		{"tcp4", port(pmTCP.Addr()), record(null(progPortmap, 2))},
		{"udp4", port(pmUDP.LocalAddr()), null(progPortmap, 2)},
	} {
		// The answer to a datagram must come from the address that was asked, or a connected socket does not see it.
		if err := ask(l.network, "127.0.0.1", "127.0.0.5"+l.port, l.rec); err != nil {
			t.Errorf("%s %s: the admitted client: %v", l.network, l.port, err)
		}
		before := len(r.seen(Refused))
		err := ask(l.network, "127.0.0.66", "127.0.0.5"+l.port, l.rec)
		if err == nil {
			t.Errorf("%s %s: the refused client gets an answer", l.network, l.port)
		}
		var timeout net.Error
		if l.network == "tcp4" && errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s %s: the refused client's connection stays open", l.network, l.port)
		}
		got := r.seen(Refused)[before:]
		if len(got) != 1 || got[0].Client.String() != "127.0.0.66" || got[0].Reason != "not for 127.0.0.66 at 127.0.0.5" {
			t.Errorf("%s %s: events %+v", l.network, l.port, got)
		}
	}
}
