package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Shell is a command channel to a POSIX shell at the other end of a serial line.
//
// It expects nothing of the line: the shell may come later, print prompts, echo, or turn line feeds round.
// Before every command it makes the line raw and waits until the shell answers a question that cannot be
// confused with its own echo. Output comes back byte for byte, standard error mixed in.
type Shell struct {
	conn io.ReadWriteCloser

	run   sync.Mutex // one command at a time
	nonce int

	mu      sync.Mutex
	buf     []byte
	err     error
	changed chan struct{}
}

// NewShell takes over the connection.
func NewShell(conn io.ReadWriteCloser) *Shell {
	s := &Shell{conn: conn, changed: make(chan struct{}), nonce: 1000}
	go s.read()
	return s
}

func (s *Shell) read() {
	chunk := make([]byte, 32<<10)
	for {
		n, err := s.conn.Read(chunk)
		s.mu.Lock()
		s.buf = append(s.buf, chunk[:n]...)
		s.err = err
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Close ends the channel; a command that waits fails.
func (s *Shell) Close() error { return s.conn.Close() }

// Run waits for the shell, runs a command (any text for sh -c, standard input empty) and returns its output
// and exit status. When ctx ends first the command may go on in the machine; the next Run waits for its end.
func (s *Shell) Run(ctx context.Context, command string) (output string, exit int, err error) {
	s.run.Lock()
	defer s.run.Unlock()
	if err := s.sync(ctx); err != nil {
		return "", -1, fmt.Errorf("run %q in the machine: no shell answers on the second serial line: %w", command, err)
	}
	s.nonce++
	n := strconv.Itoa(s.nonce)
	// The markers are written in two halves, so that an echo of this line does not look like one.
	line := fmt.Sprintf("printf '\\n%%s%%s\\n' netroot-begin- %s; /bin/sh -c %s </dev/null 2>&1; printf '\\n%%s%%s %%d;\\n' netroot-end- %s $?\n",
		n, quote(command), n)
	if err := s.send(ctx, line); err != nil {
		return "", -1, fmt.Errorf("run %q in the machine: %w", command, err)
	}
	begin, end := []byte("netroot-begin-"+n), []byte("netroot-end-"+n+" ")
	err = s.wait(ctx, func(buf []byte) bool {
		i := bytes.Index(buf, begin)
		if i < 0 {
			return false
		}
		// The line end is LF, or CR LF where the terminal could not be made raw.
		rest := buf[i+len(begin):]
		j := bytes.LastIndex(rest, end)
		if j < 0 {
			return false
		}
		status, _, ok := bytes.Cut(rest[j+len(end):], []byte(";"))
		if !ok {
			return false
		}
		var convErr error
		exit, convErr = strconv.Atoi(string(status))
		_, body, _ := bytes.Cut(rest[:j], []byte("\n"))
		body = bytes.TrimSuffix(bytes.TrimSuffix(body, []byte("\n")), []byte("\r"))
		output = string(body)
		return convErr == nil
	})
	if err != nil {
		return "", -1, fmt.Errorf("run %q in the machine: no end of it: %w", command, err)
	}
	return output, exit, nil
}

// sync asks until the shell answers. Of what is sent to a line that nobody has opened yet the start gets lost, some
// sixteen bytes or a few times that (the 8250 driver clears the FIFO when it opens the port, and the next bytes are there
// at once). Half a line could be a syntax error, which ends a shell that is not interactive; so the start is empty lines.
func (s *Shell) sync(ctx context.Context) error {
	for {
		s.nonce++
		question := strings.Repeat("\n", 128) + fmt.Sprintf("stty raw -echo 2>/dev/null; PS1= PS2= PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb; "+
			"export PATH TERM; echo netroot$((%d+1))sync\n", s.nonce-1)
		s.mu.Lock()
		s.buf = s.buf[:0]
		s.mu.Unlock()
		if err := s.send(ctx, question); err != nil {
			return err
		}
		answer := fmt.Appendf(nil, "netroot%dsync", s.nonce)
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := s.wait(try, func(buf []byte) bool { return bytes.Contains(buf, answer) })
		cancel()
		if err == nil || ctx.Err() != nil || s.closed() {
			return err
		}
	}
}

func (s *Shell) closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// send writes without ever blocking past ctx: a machine that reads nothing fills the socket's buffer.
func (s *Shell) send(ctx context.Context, text string) error {
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(s.conn, text)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Shell) wait(ctx context.Context, ok func([]byte) bool) error {
	for {
		s.mu.Lock()
		found, err, changed := ok(s.buf), s.err, s.changed
		s.mu.Unlock()
		if found {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// quote makes one word of a text for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
