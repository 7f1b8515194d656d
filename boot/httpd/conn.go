package httpd

import (
	"io"
	"net"
	"os"

	"netroot/boot/sendfile"
)

// listener gives out connections that send files as package sendfile does.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nc, nil
	}
	c := &conn{TCPConn: tcp}
	if !c.sender.Init(tcp) {
		return nc, nil
	}
	return c, nil
}

// A conn is a connection to one client. The http package writes to it from one goroutine.
type conn struct {
	*net.TCPConn
	sender sendfile.Sender
}

// ReadFrom implements io.ReaderFrom, which the http package calls for the body of an answer.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	part, ok := r.(*io.LimitedReader)
	if !ok {
		return c.TCPConn.ReadFrom(r)
	}
	f, ok := part.R.(*os.File)
	if !ok {
		return c.TCPConn.ReadFrom(r)
	}
	off, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	src, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	n, err := c.sender.Send(src, off, part.N, false)
	part.N -= n
	if _, seekErr := f.Seek(off+n, io.SeekStart); err == nil {
		err = seekErr
	}
	return n, err
}
