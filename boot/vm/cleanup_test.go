package vm

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain is also the victim of TestKill: a program that opens a lab, boots a machine and waits.
func TestMain(m *testing.M) {
	if os.Getenv("NETROOT_TEST_VICTIM") != "" {
		victim()
	}
	os.Exit(m.Run())
}

func victim() {
	lab, err := Open(context.Background(), Config{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	// A second machine than the usual one, in a namespace of its own making, would be a leak too.
	m, err := lab.Boot(MachineConfig{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	runtime.GC()
	fmt.Println("up", lab.Dir(), m.proc.Pid(), lab.proc[0].Pid())
	select {}
}

// namespaces is the set of network namespaces that any process or thread is in.
func namespaces(t *testing.T) map[string]bool {
	t.Helper()
	set := map[string]bool{}
	links, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if name, err := os.Readlink(l); err == nil { // a thread may be gone by now
			set[name] = true
		}
	}
	return set
}

// gone waits until none of the namespaces in use is left, and none of the processes.
func gone(t *testing.T, ns []string, pids ...string) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		left = nil
		now := namespaces(t)
		for _, n := range ns {
			if now[n] {
				left = append(left, n)
			}
		}
		for _, pid := range pids {
			if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
				left = append(left, "process "+pid)
			}
		}
		if left == nil {
			return
		}
	}
	t.Errorf("still there: %v", left)
}

func TestCloseLeavesNothing(t *testing.T) {
	needLab(t, "qemu-system-x86_64")
	mine, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	lab, err := Open(ctx, Config{})
	if err != nil {
		t.Fatal(err)
	}
	var ns []string
	for name := range lab.ns {
		if err := lab.Do(name, func() error {
			n, err := os.Readlink("/proc/thread-self/ns/net")
			ns = append(ns, n)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := lab.Boot(MachineConfig{})
	if err != nil {
		t.Fatal(err)
	}
	sleeper, err := lab.Start(NSServer, exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if now := namespaces(t); len(ns) != 3 || !now[ns[0]] || !now[ns[1]] || !now[ns[2]] {
		t.Fatalf("the lab's namespaces %v are not all in use", ns)
	}
	if err := lab.Close(); err != nil {
		t.Error(err)
	}
	gone(t, ns, fmt.Sprint(m.proc.Pid()), fmt.Sprint(sleeper.Pid()))
	if _, err := os.Stat(lab.Dir()); !os.IsNotExist(err) {
		t.Errorf("the folder %s is left: %v", lab.Dir(), err)
	}
	if now, err := os.Readlink("/proc/self/ns/net"); now != mine || err != nil {
		t.Errorf("this process is in %s now, was in %s", now, mine)
	}
	if err := lab.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if _, err := lab.Start(NSServer, exec.Command("true")); err == nil {
		t.Error("a closed lab starts a process")
	}
}

func TestKill(t *testing.T) {
	needLab(t, "qemu-system-x86_64")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NETROOT_TEST_VICTIM=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	before := namespaces(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) != 4 || words[0] != "up" {
		_ = cmd.Process.Kill()
		t.Fatalf("the victim said %q: %v", line, err)
	}
	// Only those that the victim's own threads and children are in: other labs may come and go meanwhile.
	var ns []string
	for _, pid := range append(words[2:], fmt.Sprint(cmd.Process.Pid)) {
		links, _ := filepath.Glob("/proc/" + pid + "/task/*/ns/net")
		for _, l := range links {
			if n, err := os.Readlink(l); err == nil && !before[n] {
				ns = append(ns, n)
			}
		}
	}
	if len(ns) < 3 {
		t.Errorf("the victim is in the namespaces %v, want three of its own", ns)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	defer os.RemoveAll(words[1])
	gone(t, ns, words[2:]...)
}
