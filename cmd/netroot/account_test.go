package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/boot/vm"
	"netroot/builder/need"
)

// After its ports are open, serve is the user netroot with no capability on any thread, and everything still works: answers,
// transfers, a policy that is read again, and what it remembers.
func TestServeWithoutPrivileges(t *testing.T) {
	need.Patience(t)
	t.Parallel()
	s := openGuarded(t, "default: ignore\nhosts:\n  - {name: listed, mac: \""+listedMAC+"\", image: debian-12}\n")
	pid, err := os.ReadFile(s.pid)
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strings.TrimSpace(string(pid))
	if name, err := os.ReadFile(proc + "/comm"); err != nil || string(name) != "netroot\n" {
		t.Errorf("the process is called %q, %v", name, err)
	}
	const server = "10.77.0.3"
	if offers := s.discover(t, 0, listedMAC); !strings.HasPrefix(offers[listedMAC], server+" ") {
		t.Errorf("offers: %q", offers)
	}
	s.admitted(t, "the listed machine", s.fetch(t, vm.NSRouter, "", server))

	powerless(t, proc, "Uid: 54321 54321 54321 54321", "Gid: 54321 54321 54321 54321", "Groups: 54321")

	// The store is closed to others, and what the server remembers is its own.
	for path, want := range map[string]struct {
		uid, gid uint32
		mode     uint32
	}{"": {0, 54321, 0o750}, "images/debian-12/1/root.erofs": {0, 54321, 0o640}, "state": {54321, 54321, 0o750}, "state/nodes.lock": {54321, 54321, 0o640}} {
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(s.store, path), &st); err != nil || st.Uid != want.uid || st.Gid != want.gid || st.Mode&0o777 != want.mode {
			t.Errorf("%s: owner %d:%d, mode %#o, %v; want %+v", path, st.Uid, st.Gid, st.Mode&0o777, err, want)
		}
	}

	// The policy is read again when it changes, and one that cannot be read is complained about.
	policies, err := filepath.Glob(filepath.Join(s.lab.Dir(), "netroot-*.yaml"))
	if err != nil || len(policies) != 1 {
		t.Fatalf("policies: %v, %v", policies, err)
	}
	if err := os.WriteFile(policies[0], []byte("default: ignore\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.event(t, func(e vm.Event) bool { return e.Message == "reloaded" }); err != nil {
		t.Errorf("the policy is not read again: %+v", s.server.Events())
	}
	s.refused(t, "a machine that is not listed any more", s.fetch(t, vm.NSRouter, "", server))
	if err := os.Chmod(policies[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := s.event(t, func(e vm.Event) bool { return e.Message == "not reloaded" }); err != nil || !strings.Contains(e.Reason, "permission denied") {
		t.Errorf("a policy that cannot be read: %+v, %v", e, err)
	}
	if err := s.server.Stop(); err != nil {
		t.Error(err)
	}

	if _, err := os.Stat(filepath.Join(s.store, "state", "nodes.json")); err != nil {
		t.Errorf("nothing is remembered: %v", err)
	}
}

// powerless looks at every thread of a server that has done some work: it has no capability, and what else is wanted.
func powerless(t *testing.T, proc string, want ...string) {
	t.Helper()
	threads, err := filepath.Glob(proc + "/task/*/status")
	if err != nil || len(threads) < 3 {
		t.Fatalf("threads: %v, %v", threads, err)
	}
	want = append(want, "CapInh: 0000000000000000", "CapPrm: 0000000000000000", "CapEff: 0000000000000000", "CapAmb: 0000000000000000", "NoNewPrivs: 1")
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		var have []string
		for line := range strings.Lines(string(text)) {
			have = append(have, strings.Join(strings.Fields(line), " "))
		}
		for _, w := range want {
			if !slices.Contains(have, w) {
				t.Errorf("%s lacks %q:\n%s", thread, w, text)
			}
		}
	}
}

// Where there is no user netroot, serve stays root without a capability, says so, and works all the same.
func TestServeWithoutUser(t *testing.T) {
	t.Parallel()
	lab := openLab(t)
	s := &guarded{lab: lab, pid: filepath.Join(t.TempDir(), "pid")}
	var err error
	s.server, err = lab.Serve(t.Context(), vm.ServerConfig{Program: programAmong(t, s.pid, ""), Store: testStoreIn(t, lab.Dir()),
		Policy: "default: menu\n", Args: []string{"--user="}})
	if err != nil {
		t.Fatal(err)
	}
	runs, err := s.event(t, func(e vm.Event) bool { return e.Message == "runs" })
	if err != nil || !strings.Contains(runs.Reason, "there is no user netroot; make one with: useradd ") {
		t.Errorf("%+v, %v", runs, err)
	}
	s.admitted(t, "a machine", s.fetch(t, vm.NSRouter, "", "10.77.0.3"))
	pid, err := os.ReadFile(s.pid)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(runs.Reason, "it keeps its capabilities") != usesCgo(t) {
		t.Errorf("%+v", runs)
	}
	if usesCgo(t) {
		return
	}
	powerless(t, "/proc/"+strings.TrimSpace(string(pid)), "Uid: 0 0 0 0")
}

// usesCgo says whether this test, and so the program that it is, was built with cgo.
func usesCgo(t *testing.T) bool {
	t.Helper()
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("no build information")
	}
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"})
}

// event waits for a record of the server.
func (s *guarded) event(t *testing.T, match func(vm.Event) bool) (vm.Event, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return s.server.WaitEvent(ctx, 0, match)
}

// A policy that the user could not read again is an error at the start.
func TestServeUnreadablePolicy(t *testing.T) {
	t.Setenv("PRIVATE", "1")
	lab := openLab(t)
	_, err := lab.Serve(t.Context(), vm.ServerConfig{Program: programWithUser(t, filepath.Join(t.TempDir(), "pid")), Store: testStoreIn(t, lab.Dir()),
		Policy: "default: menu\n", Args: []string{"--user", "netroot"}})
	if err == nil || !strings.Contains(err.Error(), "serve runs as user netroot, who cannot read "+lab.Dir()) || !strings.Contains(err.Error(), "--user root") {
		t.Errorf("the error is %v", err)
	}
}
