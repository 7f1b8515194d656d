package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/builder/need"
)

// unitOf runs the verb, as for a store and a policy at these places.
func unitOf(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	c := &cli{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
	if code := c.run(context.Background(), args); code != exitDone {
		t.Fatalf("%q: exit code %d: %s", args, code, &errs)
	}
	return out.String()
}

// systemd finds nothing wrong with the unit, and little that could still be locked.
func TestServeUnit(t *testing.T) {
	need.Tools(t, "systemd-analyze")
	for name, args := range map[string][]string{
		"system": {"units", "serve", "--store", "/var/lib/netroot"},
		"own":    {"units", "serve", "--store", "/srv/100% ours/net$root", "--config", "/srv/pol\"icy.yaml", "--user", "daemon", "--", "--interface", "eno1", "--json"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "netroot.service")
			if err := os.WriteFile(file, []byte(unitOf(t, args...)), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("systemd-analyze", "verify", file).CombinedOutput()
			if err != nil || strings.Contains(string(out), "netroot.service") {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
			out, err = exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=25", file).CombinedOutput()
			if err != nil {
				t.Errorf("systemd-analyze security: %v\n%s", err, out)
			}
		})
	}
}

// A unit with flags that serve does not take would never start.
func TestServeUnitFlags(t *testing.T) {
	for _, flags := range [][]string{{"--htp-port", "8080"}, {"--http-port", "x"}, {"eno1"}} {
		var out, errs bytes.Buffer
		c := &cli{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
		code := c.run(context.Background(), append([]string{"units", "serve", "--store", "/srv/netroot", "--"}, flags...))
		if code != exitUsage || out.Len() > 0 || !strings.Contains(errs.String(), "netroot serve --help") {
			t.Errorf("%q: exit code %d: %s%s", flags, code, &errs, &out)
		}
	}
}

// Paths are those of the global flags, and words come out as they went in.
func TestServeUnitPaths(t *testing.T) {
	for _, c := range []struct {
		args       []string
		has, hasnt []string
	}{
		{[]string{"--store", "/var/lib/netroot"},
			[]string{" serve --store /var/lib/netroot", " protect --store /var/lib/netroot --group netroot --user netroot", "StateDirectory=netroot/state", "User=netroot"}, []string{"ReadWritePaths=", "--config"}},
		{[]string{"--store", "/home/netroot/store", "--user", "images"},
			[]string{"ReadWritePaths=-/home/netroot/store/state", "ProtectHome=read-only", "User=images", "Group=images"}, []string{"StateDirectory="}},
		{[]string{"--store", "/var/tmp/store"}, []string{"PrivateTmp=no"}, nil},
		{[]string{"--store", "/srv/100% ours/net$root", "--config", "/srv/pol\"icy.yaml", "--", "--interface", "eno1"},
			[]string{` serve --store "/srv/100%% ours/net$$root" --config "/srv/pol\"icy.yaml" --interface eno1`, `ReadWritePaths="-/srv/100%% ours/net$root/state"`}, nil},
	} {
		lines := strings.Split(unitOf(t, append([]string{"units", "serve"}, c.args...)...), "\n")
		for _, want := range c.has {
			if !slices.ContainsFunc(lines, func(l string) bool {
				return l == want || (strings.HasPrefix(l, "ExecStart=/") || strings.HasPrefix(l, "ExecStartPre=+/")) && strings.HasSuffix(l, want)
			}) {
				t.Errorf("%q: no line %q in\n%s", c.args, want, strings.Join(lines, "\n"))
			}
		}
		for _, not := range c.hasnt {
			if strings.Contains(strings.Join(lines, "\n"), not) {
				t.Errorf("%q: there is %q", c.args, not)
			}
		}
	}
}
