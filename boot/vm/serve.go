package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Event is one record of `netroot serve --json`.
type Event struct {
	Time      time.Time `json:"time"`
	Level     string    `json:"level"`
	Message   string    `json:"msg"` // offer, ack, refused, read, aborted, mount, stage, listening, …
	Service   string    `json:"service"`
	Client    string    `json:"client"`
	MAC       string    `json:"mac"`
	Interface string    `json:"interface"`
	File      string    `json:"file"`
	Bytes     int64     `json:"bytes"`
	Seconds   float64   `json:"seconds"`
	Reason    string    `json:"reason"`
	Stage     string    `json:"stage"`
	Image     string    `json:"image"`
	Raw       string    `json:"-"` // the line as it came
}

// parseEvent reads one line of JSON; a field of an unexpected type is left out rather than losing the event.
func parseEvent(line string) (Event, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		return Event{}, fmt.Errorf("read event %q: %w", line, err)
	}
	e := Event{Raw: line}
	for key, into := range map[string]any{
		"time": &e.Time, "level": &e.Level, "msg": &e.Message, "service": &e.Service, "client": &e.Client,
		"mac": &e.MAC, "interface": &e.Interface, "file": &e.File, "bytes": &e.Bytes, "seconds": &e.Seconds,
		"reason": &e.Reason, "stage": &e.Stage, "image": &e.Image,
	} {
		if raw, ok := fields[key]; ok {
			_ = json.Unmarshal(raw, into)
		}
	}
	return e, nil
}

// ServerConfig is a `netroot serve` to be run in the Lab.
type ServerConfig struct {
	Program string   // the netroot binary
	Store   string   // folder of the store
	Policy  string   // text of netroot.yaml; "" is the menu for everybody
	Args    []string // further arguments of serve
}

// Server is a running `netroot serve`.
type Server struct {
	lab    *Lab
	cfg    ServerConfig
	policy string
	proc   *Process
	events *feed[Event]
	stderr *lineLog
}

// Serve starts `netroot serve --json` in the namespace srv and waits until it listens.
func (l *Lab) Serve(ctx context.Context, cfg ServerConfig) (*Server, error) {
	f, err := os.CreateTemp(l.dir, "netroot-*.yaml")
	if err != nil {
		return nil, fmt.Errorf("write the lab's policy: %w", err)
	}
	_, err = f.WriteString(cfg.Policy)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("write the lab's policy: %w", err)
	}
	s := &Server{lab: l, cfg: cfg, policy: f.Name(), events: newFeed[Event]()}
	return s, s.start(ctx)
}

func (s *Server) start(ctx context.Context) error {
	store, err := filepath.Abs(s.cfg.Store)
	if err != nil {
		return err
	}
	// As root: the lab's folder, and a store that is not the system's, may be closed to others.
	args := append([]string{"serve", "--json", "--store", store, "--config", s.policy, "--user", "root"}, s.cfg.Args...)
	cmd := exec.Command(s.cfg.Program, args...)
	cmd.Dir = s.lab.dir
	s.stderr = newLineLog()
	cmd.Stderr = s.stderr
	out, in := io.Pipe()
	cmd.Stdout = in
	from := len(s.events.all())
	if s.proc, err = s.lab.Start(NSServer, cmd); err != nil {
		return err
	}
	go s.decode(out)
	proc, stderr := s.proc, s.stderr
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	go func() {
		select {
		case <-proc.Done():
			cancel() // no need to wait for an event that cannot come
		case <-ctx.Done():
		}
		<-proc.Done()
		in.Close()
		stderr.Close()
	}()
	_, err = s.WaitEvent(ctx, from, func(e Event) bool { return e.Message == "listening" })
	if err == nil {
		return nil
	}
	if gone, exit := s.proc.Exited(); gone {
		return fmt.Errorf("start netroot serve in the lab: it ended (%v): %s", exit, strings.Join(s.stderr.tail(5), "; "))
	}
	return fmt.Errorf("start netroot serve in the lab: it does not listen: %w", err)
}

// decode reads events to the end of the stream. Lines that are no JSON are kept as what the program said.
func (s *Server) decode(r io.Reader) {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			if e, perr := parseEvent(string(line)); perr == nil {
				s.events.add(e)
			} else {
				_, _ = s.stderr.Write(append(line, '\n'))
			}
		}
		if err != nil {
			return
		}
	}
}

// Events is what the server has told so far, also before it was restarted.
func (s *Server) Events() []Event { return s.events.all() }

// WaitEvent waits for an event that matches, at or after number from.
func (s *Server) WaitEvent(ctx context.Context, from int, match func(Event) bool) (Event, error) {
	e, _, err := s.events.wait(ctx, from, match)
	return e, err
}

// Kill ends the server with SIGKILL: it has no chance to tidy up.
func (s *Server) Kill() { s.proc.Kill() }

// Stop ends the server with SIGTERM.
func (s *Server) Stop() error { return s.proc.Stop(10 * time.Second) }

// Restart starts the server again after Kill or Stop.
func (s *Server) Restart(ctx context.Context) error { return s.start(ctx) }

// Exited says whether the server is gone, and why.
func (s *Server) Exited() (bool, error) {
	gone, err := s.proc.Exited()
	if !gone {
		return false, nil
	}
	return true, fmt.Errorf("netroot serve ended (%v): %s", err, strings.Join(s.stderr.tail(5), "; "))
}

// Policy is the netroot.yaml that gives one machine an image, a console and the command channel of Shell, and boots
// nobody else. The machine gets the name, as far as it can be that of a host.
func Policy(mac, name, image string, cmdline ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "default: ignore\nhosts:\n  - name: %s\n    mac: [%s]\n    image: %s\n    cmdline:\n",
		strconv.Quote(hostName(name)), strconv.Quote(mac), strconv.Quote(image))
	for _, word := range append([]string{"netroot.shell=ttyS1", "console=ttyS0,115200"}, cmdline...) {
		fmt.Fprintf(&b, "      - %s\n", strconv.Quote(word))
	}
	return b.String()
}

// hostName makes a label of the DNS of any text (RFC 1123, 2.1).
func hostName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '-' || '0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z') {
			return r
		}
		return '-'
	}, s)
	if s = strings.Trim(s[:min(len(s), 63)], "-"); s == "" {
		return "machine"
	}
	return s
}
