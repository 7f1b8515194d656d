package storm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	opRead, opData, opAck, opError, opOptions = 1, 3, 4, 5, 6
	blockSize                                 = 1408 // pxelinux's TFTP_LARGEBLK
)

// ticks are pxelinux's waits for a packet (TimeoutTable in core/fs/pxe/tftp.c), in 1/18.2 of a second. The table goes on to
// minutes; what has not come by then does not come.
var ticks = []int{2, 2, 3, 3, 4, 5, 6, 7, 9, 10, 12, 15, 18, 21, 26, 31, 37, 44, 53, 64, 77, 92}

const tick = time.Second * 10 / 182

// tftp gets a file as pxelinux does: with tsize and a large block size, one block at a time, the last packet once more when
// nothing comes. Its content goes into keep, or nowhere.
func (m *machine) tftp(ctx context.Context, server netip.Addr, name string, keep *[]byte) (int64, error) {
	f, err := m.cfg.socket(unix.SOCK_DGRAM, netip.AddrPortFrom(m.address, 0), nil)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	fail := func(err error) (int64, error) { return 0, fmt.Errorf("TFTP of %s: %w", name, err) }
	t := transfer{block: 1, size: 512}
	to := net.Addr(net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, 69)))
	packet := fmt.Appendf([]byte{0, opRead}, "%s\x00octet\x00tsize\x000\x00blksize\x00%d\x00", name, blockSize)
	buf := make([]byte, blockSize+4)
	for silent := 0; ; {
		if _, err := conn.WriteTo(packet, to); err != nil && !refused(err) {
			return fail(err)
		}
		if t.over {
			m.Bytes += t.got
			return t.got, nil
		}
		if err := conn.SetReadDeadline(time.Now().Add(tick * time.Duration(ticks[silent]))); err != nil {
			return fail(err)
		}
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				if ctx.Err() != nil {
					return fail(ctx.Err())
				}
				m.Resent++
				if silent++; silent == len(ticks) {
					return fail(errors.New("no answer"))
				}
				break // and send the last packet again
			}
			answer, err := t.take(buf[:n], keep)
			if err != nil {
				return fail(err)
			}
			if answer != nil {
				silent, packet, to = 0, answer, from
				break
			}
		}
	}
}

// transfer is how far a client is.
type transfer struct {
	block uint16 // the one that comes next
	size  int
	got   int64
	over  bool
}

// take reads a packet and returns the answer to it; none for what was answered before.
func (t *transfer) take(p []byte, keep *[]byte) ([]byte, error) {
	if len(p) < 4 {
		return nil, nil
	}
	switch block := binary.BigEndian.Uint16(p[2:]); p[1] {
	case opError:
		text, _, _ := bytes.Cut(p[4:], []byte{0})
		return nil, fmt.Errorf("error %d: %s", block, text)
	case opOptions:
		if t.got > 0 {
			return nil, nil
		}
		words := strings.Split(string(p[2:]), "\x00")
		for i := 0; i+1 < len(words); i += 2 {
			if strings.EqualFold(words[i], "blksize") {
				size, err := strconv.Atoi(words[i+1])
				if err != nil || size > blockSize || size < 8 {
					return nil, fmt.Errorf("a block size of %q", words[i+1])
				}
				t.size = size
			}
		}
		return []byte{0, opAck, 0, 0}, nil
	case opData:
		if block != t.block {
			return nil, nil
		}
		t.block++
		t.got += int64(len(p) - 4)
		t.over = len(p)-4 < t.size
		if keep != nil {
			*keep = append(*keep, p[4:]...)
		}
		return []byte{0, opAck, p[2], p[3]}, nil
	}
	return nil, nil
}

// fetch gets a file by TFTP or, as lpxelinux does when the name is a URL, by HTTP.
func (m *machine) fetch(ctx context.Context, server netip.Addr, name string) error {
	if !strings.HasPrefix(name, "http://") {
		_, err := m.tftp(ctx, server, name, nil)
		return err
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return m.connect(to)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, name, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", name, resp.Status)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	m.Bytes += n
	return err
}

// connect opens a TCP connection from the machine's address.
func (m *machine) connect(to netip.AddrPort) (net.Conn, error) {
	f, err := m.cfg.socket(unix.SOCK_STREAM, netip.AddrPortFrom(m.address, 0), func(fd int) error {
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 20})
	})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Connecting blocks a thread, but only the creation of a socket is bound to the one that is in the namespace.
	if err := unix.Connect(int(f.Fd()), &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return nil, os.NewSyscallError("connect to "+to.String(), err)
	}
	return net.FileConn(f)
}
