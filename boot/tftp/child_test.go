package tftp

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"
)

// childServer makes this test program a server, so that it can be killed: KIND,PORT,STATE,FOLDER.
const childServer = "TFTP_TEST_SERVER"

func TestMain(m *testing.M) {
	how := os.Getenv(childServer)
	if how == "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, serveChild(strings.SplitN(how, ",", 4)))
	os.Exit(1)
}

func serveChild(how []string) error {
	port, err := strconv.ParseUint(how[1], 10, 16)
	if err != nil {
		return err
	}
	if how[0] == "pin" {
		s := pin.NewServer(func(name string, to io.ReaderFrom) error {
			f, err := os.Open(filepath.Join(how[3], filepath.Clean("/"+name)))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = to.ReadFrom(f)
			return err
		}, nil)
		s.SetBlockSize(1468)
		return s.ListenAndServe(":" + how[1])
	}
	var state *State
	if how[2] != "" {
		if state, err = OpenState(how[2]); err != nil {
			return err
		}
	}
	l, err := Listen(context.Background(), uint16(port), state)
	if err != nil {
		return err
	}
	s := &Server{FS: func(_, _ netip.Addr) fs.FS { return os.DirFS(how[3]) }, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	return s.Serve(context.Background(), l)
}

// startChild starts a server of its own process and waits until it answers.
func startChild(t *testing.T, port int, state, dir string, said *events) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=netroot,%d,%s,%s", childServer, port, state, dir))
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 600)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		c.Write([]byte("\x00\x02are you there\x00octet\x00"))
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		// The answer comes from the port for transfers, which this socket does not listen to; that it is refused would be told.
		if _, err := c.Read(buf); err != nil && os.IsTimeout(err) {
			return cmd
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("the server does not answer:\n%s", said)
	return nil
}

// freePort finds a UDP port that is free at this moment.
func freePort(t *testing.T) int {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}
