package httpd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
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

	"netroot/builder/need"
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
			h := &Handler{FS: func(_, _ netip.Addr) fs.FS { return withPieces{os.DirFS(dir)} }}
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

// withPieces has, beside each file NAME, its part from pieceStart on as NAME.piece, as an ISO has files.
type withPieces struct{ fs.FS }

const pieceStart = 1<<20 + 3

type piece struct {
	*io.SectionReader
	f *os.File
}

func (p piece) Within() (*os.File, int64)  { return p.f, pieceStart }
func (p piece) Stat() (fs.FileInfo, error) { return p.f.Stat() }
func (p piece) Close() error               { return p.f.Close() }

func (w withPieces) Open(name string) (fs.File, error) {
	whole, ok := strings.CutSuffix(name, ".piece")
	f, err := w.FS.Open(whole)
	if !ok || err != nil {
		return f, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return piece{io.NewSectionReader(f.(*os.File), pieceStart, st.Size()-pieceStart), f.(*os.File)}, nil
}

// The bytes of a file leave by sendfile(2), as strace sees it, and so do those of one that is a part of another.
func TestSendfileSystemCall(t *testing.T) {
	need.Patience(t)
	t.Run("file", func(t *testing.T) { testSendfile(t, "initrd.img", 0) })
	t.Run("part of a file", func(t *testing.T) { testSendfile(t, "initrd.img.piece", pieceStart) })
}

func testSendfile(t *testing.T, name string, start int) {
	need.Tools(t, "strace")
	data := make([]byte, 24<<20+5)
	rand.NewChaCha8([32]byte{1}).Read(data)
	size := int64(len(data) - start)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "initrd.img"), data, 0o644); err != nil {
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
		if resp, err = http.Get("http://" + strings.TrimSpace(addr) + "/" + name); err == nil {
			var got []byte
			if got, err = io.ReadAll(resp.Body); !bytes.Equal(got, data[start:]) {
				t.Errorf("%d bytes came that are not the file's %d", len(got), size)
			}
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
