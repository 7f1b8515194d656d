package host

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A journal is what a Live has logged.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func watch(t *testing.T, l *Live) *journal {
	t.Helper()
	l.interval = 20 * time.Millisecond
	log := &journal{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		l.Watch(ctx, slog.New(slog.NewTextHandler(log, nil)))
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return log
}

// until waits for what a Live does on its own within two looks at the file, and much longer on a busy machine.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it does not happen", what)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The ways in which files are changed, one after the other on one Live.
func TestLiveFollowsTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "netroot.yaml")
	text := func(image string) string {
		return fmt.Sprintf("hosts: [{name: a, mac: 00:20:38:03:37:6c, image: %s}]\n", image)
	}
	m := Machine{MAC: mac("00:20:38:03:37:6c")}
	write(t, file, text("one"))
	live, err := Open(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	boots := func(image string) func() bool { return func() bool { return live.Decide(m).Image == image } }
	if !boots("one")() {
		t.Fatalf("%+v", live.Decide(m))
	}
	log := watch(t, live)

	write(t, file, text("two")) // in place, as long as before
	until(t, "written in place", boots("two"))

	write(t, file+".new", text("three"))
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	until(t, "renamed over", boots("three"))

	for _, name := range []string{"four", "five"} {
		write(t, filepath.Join(dir, name), text(name))
		os.Remove(filepath.Join(dir, "link"))
		if err := os.Symlink(name, filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "link"), file); err != nil {
			t.Fatal(err)
		}
		until(t, "a symbolic link to "+name, boots(name))
	}
	write(t, filepath.Join(dir, "five"), text("six"))
	until(t, "what the link leads to", boots("six"))

	write(t, file, "hosts:\n  - name: a\n    mac: 00:20:38:03:37:6c\n    image: Seven\n    bogus: 1\n")
	until(t, "a bad edit", func() bool { return strings.Contains(log.String(), "not reloaded") })
	if !boots("six")() {
		t.Errorf("after a bad edit: %+v", live.Decide(m))
	}
	if got := log.String(); !strings.Contains(got, "netroot.yaml:5:5: unknown key") || !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "stays in force") {
		t.Errorf("a bad edit is logged as\n%s", got)
	}

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	until(t, "the file is gone", func() bool { return strings.Contains(log.String(), "netroot.yaml: the file is gone") })
	if !boots("six")() {
		t.Errorf("without the file: %+v", live.Decide(m))
	}
	write(t, file, text("eight"))
	until(t, "the file is back", boots("eight"))

	// Each was logged once: more looks at the same file say nothing.
	time.Sleep(10 * live.interval)
	if got := log.String(); strings.Count(got, "not reloaded") != 2 || strings.Count(got, "msg=reloaded") != 6 {
		t.Errorf("the log:\n%s", got)
	}
}

// A file that is there and cannot be read is not called gone.
func TestLiveOfAFileOutOfReach(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "etc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "netroot.yaml")
	write(t, file, "default: local\n")
	live, err := Open(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	log := watch(t, live)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "not a folder")
	until(t, "out of reach", func() bool { return strings.Contains(log.String(), "must be able to read the file") })
	if d := live.Decide(Machine{MAC: mac("00:20:38:03:37:6c")}); !d.Local {
		t.Errorf("without the file: %+v", d)
	}
}

// Opening a pipe that nobody writes to has no end: it is refused at the start, and in the place of the file it stops neither what
// comes after nor the server's end.
func TestLiveOfAPipe(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "netroot.yaml")
	if err := syscall.Mkfifo(file, 0o644); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := Open(file, nil)
		opened <- err
	}()
	select {
	case err := <-opened:
		if err == nil || !strings.Contains(err.Error(), "is not a file that can be read again") {
			t.Errorf("a pipe: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("waits for whoever writes to the pipe")
	}

	os.Remove(file)
	write(t, file, "default: local\n")
	live, err := Open(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	log := watch(t, live)
	os.Remove(file)
	if err := syscall.Mkfifo(file, 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, "a pipe in its place", func() bool { return strings.Contains(log.String(), "can be read again") })
	os.Remove(file)
	write(t, file, "default: ignore\n")
	until(t, "the file again", func() bool { return live.Decide(Machine{MAC: mac("00:20:38:03:37:6c")}).Ignore })
}

func TestLiveReloadsOnHangup(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "netroot.yaml")
	write(t, file, "default: ignore\n")
	live, err := Open(file, []string{"eth9"})
	if err != nil {
		t.Fatal(err)
	}
	// Before Watch catches it, and after, it would end the tests: one that is on its way when this test ends comes later.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	log := watch(t, live)
	// A file that did not change is read again, too: that is what tells an administrator that it is in force.
	until(t, "SIGHUP", func() bool {
		_ = syscall.Kill(os.Getpid(), syscall.SIGHUP)
		return strings.Contains(log.String(), "msg=reloaded")
	})
	if d := live.Decide(Machine{MAC: mac("00:20:38:03:37:6c"), Interface: "eth0"}); !d.Ignore || !strings.Contains(d.Reason, "came in on eth0, which is not among the interfaces") {
		t.Errorf("the interfaces given are forgotten: %+v", d)
	}
}

// No file anywhere: a menu for everybody, until one appears, which then is the one.
func TestLiveFindsAFileThatAppears(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.yaml"), filepath.Join(dir, "second.yaml")
	live, err := Find([]string{first, second}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := Machine{MAC: mac("00:20:38:03:37:6c")}
	if d := live.Decide(m); d.Ignore || d.Image != "" {
		t.Errorf("without a file: %+v", d)
	}
	watch(t, live)
	write(t, second, "default: local\n")
	until(t, "a file appears", func() bool { return live.Decide(m).Local })
	if got := live.Policy().File(); got != second {
		t.Errorf("the policy is that of %s", got)
	}
}

func TestLiveStartsWithNoFault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "netroot.yaml")
	if _, err := Open(file, nil); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a file that must be there is not: %v", err)
	}
	write(t, file, "defualt: ignore\n")
	for name, open := range map[string]func() (*Live, error){
		"Open": func() (*Live, error) { return Open(file, nil) },
		"Find": func() (*Live, error) { return Find([]string{"/nowhere", file}, nil) },
	} {
		if _, err := open(); err == nil || !strings.Contains(err.Error(), `did you mean "default"?`) {
			t.Errorf("%s of a bad file: %v", name, err)
		}
	}
}
