package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A hangup that comes before serve follows its policy, as of a reload right after a start, ends nothing; later ones are heeded.
func TestServeEarlyHangup(t *testing.T) {
	dir := t.TempDir()
	config, kept := filepath.Join(dir, "netroot.yaml"), filepath.Join(dir, "store", "state", "nodes.json")
	for _, err := range []error{os.WriteFile(config, []byte("default: menu\n"), 0o644), os.MkdirAll(filepath.Dir(kept), 0o755), syscall.Mkfifo(kept, 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	serve := exec.Command(program(t), "serve", "--store", filepath.Join(dir, "store"), "--config", config, "--no-dhcp", "--no-tftp", "--no-nfs", "--http-port", fmt.Sprint(port))
	said, err := serve.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	defer serve.Wait()
	defer serve.Process.Kill()
	kill := time.AfterFunc(20*time.Second, func() {
		serve.Process.Kill()
		if f, err := os.OpenFile(kept, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil { // should serve never have come to read it
			f.Close()
		}
	})
	defer kill.Stop()
	pipe, err := os.OpenFile(kept, os.O_WRONLY, 0) // which waits for serve to read what it remembers, between the policy and the following of it
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{serve.Process.Signal(syscall.SIGHUP), pipe.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var all strings.Builder
	for lines := bufio.NewScanner(said); lines.Scan(); {
		fmt.Fprintln(&all, lines.Text())
		switch {
		case strings.Contains(lines.Text(), "listening"):
			go func() { // until the policy is followed
				for t.Context().Err() == nil {
					serve.Process.Signal(syscall.SIGHUP)
					time.Sleep(50 * time.Millisecond)
				}
			}()
		case strings.Contains(lines.Text(), "reloaded"):
			return
		}
	}
	t.Errorf("serve ended: %s", &all)
}
