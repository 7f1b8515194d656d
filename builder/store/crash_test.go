package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/lock"
	"netroot/builder/need"
)

const helperEnv = "NETROOT_STORE_TEST"

// TestMain lets the test binary be the other process: a build that is killed, or one that holds a lock.
func TestMain(m *testing.M) {
	switch mode, dir, _ := strings.Cut(os.Getenv(helperEnv), ":"); mode {
	case "publish":
		os.Exit(publishForever(dir))
	case "hold":
		os.Exit(holdDraft(dir))
	}
	os.Exit(m.Run())
}

func publishForever(dir string) int {
	s, err := Open(dir)
	for i := 0; err == nil; i++ {
		var d *Draft
		if d, err = s.Begin("x"); err != nil {
			break
		}
		os.WriteFile(filepath.Join(d.Scratch(), "junk"), nil, 0o644)
		if err = writeParts(d.Dir(), fmt.Sprint(os.Getpid(), i), 2000); err != nil {
			break
		}
		if i == 0 {
			fmt.Println("ready")
		}
		if _, err = d.Publish(Manifest{}); err == nil && i%3 == 2 {
			_, err = s.GC("x", 2)
		}
	}
	fmt.Println(err)
	return 1
}

func holdDraft(dir string) int {
	s, err := Open(dir)
	if err == nil {
		_, err = s.Begin("x")
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	time.Sleep(time.Minute)
	return 1
}

// helper starts this binary as another process and waits until it says that it is ready.
func helper(t testing.TB, mode, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+mode+":"+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	return cmd
}

// TestKill kills builds that publish and collect at random moments. Whatever they were doing, there is a current
// generation with the right bytes, it never goes back, and the next build finds a clean store and a free number.
func TestKill(t *testing.T) {
	need.Patience(t)
	s := testStore(t)
	publish(t, s, "x", Manifest{})
	last := 1
	between, dirty := 0, 0
	for range 40 {
		cmd := helper(t, "publish", s.Dir())
		time.Sleep(time.Duration(rand.Int64N(int64(40 * time.Millisecond))))
		cmd.Process.Kill()
		cmd.Wait()

		if left := leftovers(t, s); len(left) > 0 {
			dirty++
		}
		gens, err := s.Generations("x")
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range gens {
			if err := g.Verify(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		current, err := s.Resolve("x")
		if err != nil {
			t.Fatal(err)
		}
		if current.Number < last {
			t.Fatalf("current went back from %d to %d", last, current.Number)
		}
		newest := gens[len(gens)-1].Number
		if newest != current.Number {
			between++
		}
		g := publish(t, s, "x", Manifest{})
		if g.Number != newest+1 || !g.Current {
			t.Fatalf("the next build is %d after %d, current %v", g.Number, newest, g.Current)
		}
		if left := leftovers(t, s); left != nil {
			t.Fatalf("the next build left %v", left)
		}
		last = g.Number
	}
	t.Logf("40 kills, %d generations; %d left something in work, %d hit between publishing and the swap", last, dirty, between)
	if dirty == 0 {
		t.Error("no kill hit a build: the test shows nothing")
	}
}

// TestKillBetween is the moment that TestKill seldom hits.
func TestKillBetween(t *testing.T) {
	s := testStore(t)
	publish(t, s, "x", Manifest{})
	d, err := s.Begin("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeParts(d.Dir(), "", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := d.publish(Manifest{}); err != nil {
		t.Fatal(err)
	}
	d.unlock() // as the kernel does for a dead process
	if g, err := s.Resolve("x"); err != nil || g.Number != 1 {
		t.Errorf("current is %s, %v", g.Ref(), err)
	}
	if g := publish(t, s, "x", Manifest{}); g.Number != 3 {
		t.Errorf("the next build is %d", g.Number)
	}
	if left := leftovers(t, s); left != nil {
		t.Errorf("left %v", left)
	}
}

func TestBusy(t *testing.T) {
	s := testStore(t)
	other := helper(t, "hold", s.Dir())
	_, err := s.Begin("x")
	var busy *BusyError
	if !errors.As(err, &busy) {
		t.Fatalf("error %v", err)
	}
	host, _ := os.Hostname()
	if busy.PID != other.Process.Pid || busy.Host != host || time.Since(busy.Since) > time.Minute {
		t.Errorf("holder %+v, want process %d on %s", busy, other.Process.Pid, host)
	}
	wantError(t, err, "image x is held by another build", fmt.Sprintf("process %d on %s", other.Process.Pid, host), "since 20")
	if left := leftovers(t, s); len(left) != 1 {
		t.Errorf("the refused build touched the other's work: %v", left)
	}
	publish(t, s, "y", Manifest{}) // another image is free
	_, err = s.PruneCache(t.Context(), nil, 0)
	if !errors.As(err, &busy) {
		t.Errorf("the cache was pruned under a build: %v", err)
	}
	if _, err := s.GC("y", 1); err != nil {
		t.Errorf("another image's generations cannot be collected: %v", err)
	}
	other.Process.Kill()
	other.Wait()
	publish(t, s, "x", Manifest{})
}

func TestBeginOnce(t *testing.T) {
	s := testStore(t)
	var wg sync.WaitGroup
	drafts := make([]*Draft, 16)
	for i := range drafts {
		wg.Go(func() {
			d, err := s.Begin("x")
			var busy *BusyError
			if err != nil && !errors.As(err, &busy) {
				t.Error(err)
			}
			drafts[i] = d
		})
	}
	wg.Wait()
	got := 0
	for _, d := range drafts {
		if d != nil {
			got++
			d.Abort()
			d.Abort()
		}
	}
	if got != 1 {
		t.Errorf("%d builds hold the image", got)
	}
	publish(t, s, "x", Manifest{})
}

// TestBeginLeavesNeighbours has two images of which one name begins with the other.
func TestBeginLeavesNeighbours(t *testing.T) {
	s := testStore(t)
	long, err := s.Begin("debian-12-i386")
	if err != nil {
		t.Fatal(err)
	}
	defer long.Abort()
	publish(t, s, "debian-12", Manifest{})
	publish(t, s, "debian", Manifest{})
	if _, err := os.Stat(long.Dir()); err != nil {
		t.Error(err)
	}
}

// TestSetCurrentRace swaps from many sides at once: each swap succeeds and the link is whole at any time.
func TestSetCurrentRace(t *testing.T) {
	s := testStore(t)
	for range 3 {
		publish(t, s, "x", Manifest{})
	}
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			if _, err := s.SetCurrent(fmt.Sprintf("x@%d", i%3+1)); err != nil {
				t.Error(err)
			}
			if _, err := s.Resolve("x"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestDiskFull(t *testing.T) {
	need.Root(t)
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(disk, unix.MNT_DETACH)
	s, err := Open(filepath.Join(disk, "store"))
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, "x", Manifest{})
	d, err := s.Begin("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeParts(d.Dir(), "", 1); err != nil {
		t.Fatal(err)
	}
	// The disk fills up with everything written but the manifest.
	filler, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	big := &lock.Lock{}
	for i := range 500 {
		big.Packages = append(big.Packages, lock.Package{Name: fmt.Sprint(i), SHA256: strings.Repeat("0", 64)})
	}
	_, err = d.Publish(Manifest{Lock: big})
	wantError(t, err, "publish x", "no space left on device")
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("not ENOSPC: %v", err)
	}
	if left := leftovers(t, s); left != nil {
		t.Errorf("left %v", left)
	}
	if g, err := s.Resolve("x"); err != nil || g.Number != 1 || g.Verify(t.Context()) != nil {
		t.Errorf("current is %s, %v", g.Ref(), err)
	}
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if g := publish(t, s, "x", Manifest{}); g.Number != 2 {
		t.Errorf("the next build is %d", g.Number)
	}
}
