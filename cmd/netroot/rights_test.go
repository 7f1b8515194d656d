package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWithoutRights has somebody who is not root call what only root can do: each says so.
func TestWithoutRights(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "netroot")
	copyProgram(t, program)
	store := filepath.Join(dir, "store")
	state := filepath.Join(store, "state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, "nodes.json"), []byte(`{"format":1,"machines":[]}`), 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"nodes"}, "nodes.json: permission denied; run it as root\n"},
		{[]string{"protect", "--group", "daemon"}, "netroot: protect store " + store + ": only root can give it to a group\n"},
	} {
		cmd := exec.CommandContext(t.Context(), program, append(c.args, "--store", store)...)
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		cmd.Dir, cmd.WaitDelay = dir, time.Second
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.HasSuffix(string(out), c.says) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%v: %v, %q", c.args, err, out)
		}
	}
}

// copyProgram puts this program where others may run it, under the name by which TestMain knows it.
func copyProgram(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, r); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
