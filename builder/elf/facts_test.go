package elf

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
)

// The host's own C library says what its readelf -n would.
func TestFacts(t *testing.T) {
	host := os.DirFS("/")
	c, err := Resolve(host, "/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range c.Files {
		if kind, err := Kind(host, name); err != nil || kind == "" {
			t.Errorf("%s: %q, %v", name, kind, err)
		}
		// The interpreter itself has no tag.
		if least, ok := LeastKernel(host, name); (!ok || least != "3.2.0") && !strings.Contains(name, "/ld-") {
			t.Errorf("%s: runs on Linux %q or newer", name, least)
		}
	}
	if _, err := Kind(host, "/etc/passwd"); err == nil {
		t.Error("/etc/passwd is an ELF file")
	}
}

func FuzzABITag(f *testing.F) {
	f.Add([]byte("\x04\x00\x00\x00\x10\x00\x00\x00\x01\x00\x00\x00GNU\x00\x00\x00\x00\x00\x02\x00\x00\x00\x06\x00\x00\x00\x20\x00\x00\x00"))
	f.Add([]byte("\x04\x00\x00\x00\x03\x00\x00\x00\x03\x00\x00\x00GNU\x00abc"))
	f.Fuzz(func(t *testing.T, notes []byte) {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if release, ok := abiTag(notes, order); ok && release == "" {
				t.Error("a tag without a release")
			}
		}
	})
}
