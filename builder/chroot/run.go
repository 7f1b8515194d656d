package chroot

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Command is a program to run in the root.
type Command struct {
	Args   []string  // the program, by name or path inside the root, and its arguments
	Env    []string  // added to the session's own clean environment
	Dir    string    // inside the root; empty is "/"
	Stdin  io.Reader // nil is /dev/null
	Output io.Writer // standard output and error together, in order; nil keeps only the end, for the error
}

// An ExitError is a program that ran and failed.
type ExitError struct {
	Args   []string
	Code   int    // 128+signal when a signal ended it, as a shell says it
	Signal string // "" or the name of that signal
	Tail   string // the last lines it wrote
}

func (e *ExitError) Error() string {
	why := fmt.Sprintf("exit code %d", e.Code)
	if e.Signal != "" {
		why = "ended by " + e.Signal
	}
	args := strings.Join(e.Args, " ")
	if len(args) > 120 {
		args = args[:120] + "…"
	}
	if e.Tail == "" {
		return fmt.Sprintf("run %s: %s", args, why)
	}
	return fmt.Sprintf("run %s: %s; its last output:\n%s", args, why, e.Tail)
}

const (
	tailBytes  = 4096
	tailLines  = 20
	maxMessage = 64 << 20
	// drain is how long Run listens on for the end of the output after the program ended: a daemon it left behind
	// may hold the other end of the pipe for ever.
	drain = 300 * time.Millisecond
)

// A request asks PID 1 to run a program, or to kill one.
type request struct {
	ID   int
	Kill bool     `json:",omitempty"`
	Args []string `json:",omitempty"`
	Env  []string `json:",omitempty"`
	Dir  string   `json:",omitempty"`
}

// A reply is PID 1's answer: to the setup (ID 0), or that a program ended.
type reply struct {
	ID     int
	Code   int
	Signal string `json:",omitempty"`
	Error  string `json:",omitempty"` // it could not be started, or the setup failed
	Note   string `json:",omitempty"`
}

// Run runs a program in the root and waits for it. When ctx ends first, the program and its descendants are killed.
// The error is an *ExitError when the program ran and failed.
func (s *Session) Run(ctx context.Context, c Command) error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return errors.New("run in root: no program was named")
	}
	fail := func(err error) error { return fmt.Errorf("run %s in root: %w", c.Args[0], err) }
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer outR.Close()
	defer outW.Close()
	in, closeIn, err := input(c.Stdin)
	if err != nil {
		return fail(err)
	}
	defer closeIn()

	answer := make(chan reply, 1)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fail(errors.New("the session is closed"))
	}
	s.next++
	id := s.next
	s.waiting[id] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, id)
		s.mu.Unlock()
	}()
	if err := s.tell(request{ID: id, Args: c.Args, Env: c.Env, Dir: c.Dir}, in, outW); err != nil {
		return fail(fmt.Errorf("the session is gone: %w%s", err, s.stderr.after()))
	}
	outW.Close() // the copy that counts is PID 1's now
	closeIn()

	last := &tail{max: tailBytes}
	var w io.Writer = last
	if c.Output != nil {
		w = io.MultiWriter(last, c.Output)
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, outR)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			// The writer is broken: go on reading, or the program hangs on a full pipe.
			io.Copy(io.Discard, outR)
		} else {
			err = nil
		}
		copied <- err
	}()

	var r reply
	select {
	case r = <-answer:
	case <-ctx.Done():
		s.tell(request{ID: id, Kill: true})
		select {
		case r = <-answer:
		case <-s.ended:
		}
	case <-s.ended:
		r.Error = "the session ended while it ran" + s.stderr.after()
	}
	outR.SetReadDeadline(time.Now().Add(drain))
	copyErr := <-copied
	switch {
	case ctx.Err() != nil && (r.Code != 0 || r.Error != ""):
		return fail(ctx.Err())
	case r.Error != "":
		return fail(errors.New(r.Error))
	case r.Code != 0:
		return &ExitError{Args: c.Args, Code: r.Code, Signal: r.Signal, Tail: lastLines(last.String())}
	case copyErr != nil:
		return fail(fmt.Errorf("pass on its output: %w", copyErr))
	}
	return nil
}

// input returns the file that a program reads, and what closes it. A reader that is no file is copied into a pipe.
func input(r io.Reader) (*os.File, func(), error) {
	if f, ok := r.(*os.File); ok && f != nil {
		return f, func() {}, nil // the caller's to close
	}
	if r == nil {
		f, err := os.Open(os.DevNull)
		return f, func() { f.Close() }, err
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	go func() {
		io.Copy(pw, r) // EPIPE: the program did not read all of it, which is its right
		pw.Close()
	}()
	return pr, func() { pr.Close() }, nil
}

// lastLines cuts a text down to whole lines that are worth showing.
func lastLines(s string) string {
	cut := len(s) >= tailBytes
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if cut && len(lines) > 1 {
		lines = lines[1:] // its beginning is lost
	}
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	return strings.Join(lines, "\n")
}

// tell sends a request, with files for the program.
func (s *Session) tell(r request, files ...*os.File) error {
	s.send.Lock()
	defer s.send.Unlock()
	return writeMessage(s.conn, r, files)
}

// receive hands the replies out until PID 1 is gone.
func (s *Session) receive() {
	for {
		var r reply
		if err := readMessage(s.conn, &r); err != nil {
			return // Run sees s.ended
		}
		s.mu.Lock()
		if ch := s.waiting[r.ID]; ch != nil {
			ch <- r
			delete(s.waiting, r.ID)
		}
		s.mu.Unlock()
	}
}

// writeMessage writes a length, to which the files are attached (unix(7), SCM_RIGHTS), and a JSON value.
func writeMessage(c *net.UnixConn, v any, files []*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return fmt.Errorf("arguments and environment of %d bytes are too long", len(body))
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, _, err := c.WriteMsgUnix(head, rights, nil); err != nil {
		return err
	}
	_, err = c.Write(body)
	return err
}

// readMessage reads what writeMessage wrote, when no files come with it.
func readMessage(c *net.UnixConn, v any) error {
	_, err := readMessageFiles(c, v)
	return err
}

// readMessageFiles reads what writeMessage wrote and the descriptors that came with it.
func readMessageFiles(c *net.UnixConn, v any) (fds []int, err error) {
	var head [4]byte
	oob := make([]byte, 256)
	for got := 0; got < len(head); {
		n, oobn, _, _, err := c.ReadMsgUnix(head[got:], oob)
		if err != nil {
			return fds, err
		}
		if n == 0 {
			return fds, io.EOF
		}
		got += n
		msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return fds, err
		}
		for _, m := range msgs {
			got, err := syscall.ParseUnixRights(&m)
			if err != nil {
				return fds, err
			}
			fds = append(fds, got...)
		}
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return fds, fmt.Errorf("message of %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c, body); err != nil {
		return fds, err
	}
	return fds, json.Unmarshal(body, v)
}
