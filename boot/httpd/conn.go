package httpd

import (
	"io"
	"net"
	"net/netip"
	"os"

	"netroot/boot/crowd"
	"netroot/boot/sendfile"
)

// listener gives out connections that send files as package sendfile does, and no client more than its share.
type listener struct {
	net.Listener
	crowd   crowd.Crowd
	refused func(client netip.Addr, reason string)
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := nc.(*net.TCPConn)
		if !ok {
			return nc, nil
		}
		client := tcp.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if reason := l.crowd.Add(tcp, client); reason != "" {
			l.refused(client, reason)
			tcp.Close()
			continue
		}
		c := &conn{TCPConn: tcp, crowd: &l.crowd}
		c.sends = c.sender.Init(tcp)
		return c, nil
	}
}

// A conn is a connection to one client. The http package writes to it from one goroutine.
type conn struct {
	*net.TCPConn
	crowd  *crowd.Crowd
	sender sendfile.Sender
	sends  bool
}

func (c *conn) Close() error {
	c.crowd.Remove(c.TCPConn)
	return c.TCPConn.Close()
}

// ReadFrom implements io.ReaderFrom, which the http package calls for the body of an answer.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	part, ok := r.(*io.LimitedReader)
	if !ok {
		return c.TCPConn.ReadFrom(r)
	}
	f, start := onDisk(part.R)
	if f == nil || !c.sends {
		return c.TCPConn.ReadFrom(r)
	}
	seeker := part.R.(io.Seeker)
	off, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	src, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	n, err := c.sender.Send(src, start+off, part.N, false)
	part.N -= n
	if _, seekErr := seeker.Seek(off+n, io.SeekStart); err == nil {
		err = seekErr
	}
	return n, err
}

// A within is a file that is a piece of another one, as those inside of an ISO are.
type within interface {
	io.Seeker
	Within() (f *os.File, start int64) // nil when it lies in several pieces
}

// onDisk finds the file on disk that what r reads lies in, and where it begins there.
func onDisk(r io.Reader) (f *os.File, start int64) {
	switch r := r.(type) {
	case *os.File:
		return r, 0
	case within:
		return r.Within()
	}
	return nil, 0
}
