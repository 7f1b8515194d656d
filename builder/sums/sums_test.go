package sums

import (
	"strings"
	"testing"
)

const (
	a = "f8e3086f3cea0fb3fefb29937ab5ed9d19e767079633960ccb50e76153effc98"
	b = "00000000000000000000000000000000000000000000000000000000000000bb"
)

func TestFind(t *testing.T) {
	ubuntu := a + " *ubuntu-20.04.3-live-server-amd64.iso\n" + b + " *ubuntu-20.04.3-desktop-amd64.iso\n"
	debian := strings.ToUpper(b) + "  ./netboot/debian-installer/amd64/linux\n" + a + "  ./netboot/gtk/debian-installer/amd64/linux\n"
	fedora := "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# Fedora-Server-dvd-x86_64-40-1.14.iso: 2612854784 bytes\nSHA256 (Fedora-Server-dvd-x86_64-40-1.14.iso) = " + a + "\n-----BEGIN PGP SIGNATURE-----\n"
	for _, c := range []struct{ list, wanted, sum, err string }{
		{ubuntu, "ubuntu-20.04.3-live-server-amd64.iso", a, ""},
		{ubuntu, "somewhere/else/ubuntu-20.04.3-desktop-amd64.iso", b, ""},
		{strings.ReplaceAll(ubuntu, "\n", "\r\n"), "ubuntu-20.04.3-desktop-amd64.iso", b, ""},
		{debian, "netboot/debian-installer/amd64/linux", b, ""},
		{debian, "netboot/gtk/debian-installer/amd64/linux", a, ""},
		{debian, "linux", "", "has 2 files called linux"},
		{fedora, "Fedora-Server-dvd-x86_64-40-1.14.iso", a, ""},
		{ubuntu, "other.iso", "", "has 2 files, and other.iso is not among them"},
		{"<html>not found</html>", "x.iso", "", "is not a list"},
		{a[:32] + "  x.iso\n", "x.iso", "", "no SHA-256 in it"},
		{"", "x.iso", "", "is not a list"},
	} {
		got, err := Find("LIST", []byte(c.list), c.wanted)
		switch {
		case c.err == "" && (err != nil || got != c.sum):
			t.Errorf("%s: %q, %v", c.wanted, got, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %q, %v, want an error with %q", c.wanted, got, err, c.err)
		}
	}
}

func TestRelative(t *testing.T) {
	for _, c := range [][3]string{
		{"http://m/debian/images/SHA256SUMS", "http://m/debian/images/netboot/linux", "netboot/linux"},
		{"http://m/debian/images/SHA256SUMS", "/srv/iso/x.iso", "x.iso"},
		{"/srv/iso/SHA256SUMS", "/srv/iso/x.iso", "x.iso"},
	} {
		if got := Relative(c[0], c[1]); got != c[2] {
			t.Errorf("%s from %s is called %q, want %q", c[1], c[0], got, c[2])
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add([]byte(a+" *x.iso\n"), "x.iso")
	f.Add([]byte("SHA256 (x.iso) = "+a), "d/x.iso")
	f.Fuzz(func(t *testing.T, list []byte, wanted string) {
		if sum, err := Find("list", list, wanted); err == nil && (len(sum) != 64 || strings.ToLower(sum) != sum) {
			t.Errorf("%q", sum)
		}
	})
}
