package httpd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const servedFolder = "NETROOT_TEST_SERVED_FOLDER" // makes this program a server of that folder

func TestMain(m *testing.M) {
	if dir := os.Getenv(servedFolder); dir != "" {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err == nil {
			fmt.Println(ln.Addr())
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				defer cancel()
				io.Copy(io.Discard, os.Stdin) // until it is closed
			}()
			h := &Handler{FS: func(_, _ netip.Addr) fs.FS { return os.DirFS(dir) }}
			err = h.Serve(ctx, ln)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The bytes of a file leave by sendfile(2), as strace sees it.
func TestSendfileSystemCall(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	const size = 24<<20 + 5
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "initrd.img"), make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command("strace", "-f", "-qq", "-e", "trace=sendfile", "-o", trace, os.Args[0])
	cmd.Env = append(os.Environ(), servedFolder+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		var resp *http.Response
		if resp, err = http.Get("http://" + strings.TrimSpace(addr) + "/initrd.img"); err == nil {
			_, err = io.CopyN(io.Discard, resp.Body, size)
			resp.Body.Close()
		}
	}
	stdin.Close()
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	sent := int64(0)
	for _, m := range regexp.MustCompile(`sendfile.*= (\d+)`).FindAllStringSubmatch(string(text), -1) {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		sent += n
	}
	// The http package writes the first 512 bytes together with the header.
	if sent != size && sent != size-512 {
		t.Errorf("%d bytes of %d left by sendfile(2)", sent, size)
	}
}
