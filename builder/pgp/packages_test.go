package pgp

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/gpgfixture"
)

// TestRevoked: what a key signed that its owner revoked since, because it got out, is nobody's, whatever the signature's version.
func TestRevoked(t *testing.T) {
	k := gpgfixture.New(t, "gpg1", "RSA", 2048)
	data := []byte("a package")
	signatures := map[string][]byte{
		"version 3": k.Detach(t, data, "--force-v3-sigs", "--digest-algo", "SHA256"),
		"version 4": k.Detach(t, data, "--digest-algo", "SHA256"),
	}
	verify := func(signature []byte) error {
		ring, err := ReadKeyring(k.Public)
		if err != nil {
			t.Fatal(err)
		}
		return ring.VerifyPackage("p.rpm", bytes.NewReader(data), signature, Modern)
	}
	for version, signature := range signatures {
		if err := verify(signature); err != nil {
			t.Errorf("%s, before: %v", version, err)
		}
	}
	gpg := func(input string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(k.Program, append([]string{"--homedir", k.Home, "--no-tty", "--yes", "--command-fd", "0"}, args...)...)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg1 %v: %v", args, err)
		}
		return out
	}
	revocation := filepath.Join(t.TempDir(), "revocation.asc")
	gpg("y\n1\n\ny\n", "--output", revocation, "--gen-revoke", "packager@example.org") // 1: the key has been compromised
	gpg("", "--import", revocation)
	if err := os.WriteFile(k.Public, gpg("", "--armor", "--export"), 0o644); err != nil {
		t.Fatal(err)
	}
	for version, signature := range signatures {
		if err := verify(signature); err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("%s, revoked: %v", version, err)
		}
	}
}
