package vm

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/boot/host"
)

func TestPolicy(t *testing.T) {
	for name, want := range map[string]string{"debian-12": "debian-12", "slc6.8_v7768": "slc6-8-v7768", "é--": "machine", "": "machine", strings.Repeat("a", 70): strings.Repeat("a", 63)} {
		text := Policy(DefaultMAC.String(), name, "debian-12@3", "quiet")
		policy, err := host.Parse("netroot.yaml", []byte(text))
		if err != nil {
			t.Errorf("%v\n%s", err, text)
			continue
		}
		d := policy.Decide(host.Machine{MAC: DefaultMAC})
		if d.Ignore || d.Name != want || d.Image != "debian-12@3" || !slices.Equal(d.Cmdline, []string{"netroot.shell=ttyS1", "console=ttyS0,115200", "quiet"}) {
			t.Errorf("%q: decision %+v", name, d)
		}
		other := slices.Clone(DefaultMAC)
		other[5]++
		if d := policy.Decide(host.Machine{MAC: other}); !d.Ignore {
			t.Errorf("another machine: %+v", d)
		}
	}
}

// TestServeFails: a program that cannot serve is an error that quotes it, not a wait.
func TestServeFails(t *testing.T) {
	needLab(t)
	lab := openLab(t, Config{})
	program := filepath.Join(t.TempDir(), "netroot")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho 'netroot: port 69 for TFTP is taken' >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	began := time.Now()
	_, err := lab.Serve(ctx, ServerConfig{Program: program, Store: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "port 69 for TFTP is taken") || !strings.Contains(err.Error(), "it ended") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to see that", took)
	}
}
