// Package gpgfixture makes keys and signatures for tests with GnuPG: gpg (2) for those of today, and gpg1 (1.4) for those of old
// distributions, whose signatures have version 3. The keys live as long as the test.
package gpgfixture

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/need"
)

// A Key is one key, of packager@example.org, and what it takes to sign with it.
type Key struct {
	Program string // gpg or gpg1
	Home    string // its folder
	Public  string // the file of the public key, armored
}

// New makes a key of a kind (RSA, DSA) and a size in bits.
func New(t testing.TB, program, kind string, bits int) *Key {
	t.Helper()
	need.Tools(t, program)
	home, err := os.MkdirTemp("", "gpg") // the agent's socket lies in it, whose path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	k := &Key{Program: program, Home: home, Public: filepath.Join(home, "keys.asc")}
	batch := fmt.Sprintf("Key-Type: %s\nKey-Length: %d\nKey-Usage: sign\nName-Real: packager\nName-Email: packager@example.org\nExpire-Date: 0\n", kind, bits)
	if program == "gpg" {
		batch = "%no-protection\n" + batch
	}
	cmd := exec.Command(program, "--homedir", home, "--batch", "--gen-key")
	cmd.Stdin = strings.NewReader(batch + "%commit\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	out, err := exec.Command(program, "--homedir", home, "--armor", "--export").Output()
	if err != nil || len(out) == 0 {
		t.Fatalf("%s --export: %v", program, err)
	}
	if err := os.WriteFile(k.Public, out, 0o644); err != nil {
		t.Fatal(err)
	}
	return k
}

// Detach signs data and returns the signature. Arguments go to the program: --armor, --digest-algo SHA1, --force-v3-sigs.
func (k *Key) Detach(t testing.TB, data []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(k.Program, append([]string{"--homedir", k.Home, "--batch", "--no-secmem-warning"}, append(args, "--detach-sign")...)...)
	cmd.Stdin = strings.NewReader(string(data))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s --detach-sign: %v", k.Program, err)
	}
	return out
}

// SignRPM signs a copy of a package with rpmsign and returns the copy; rpmv3 signs header and payload together, too, as all rpms did
// before 4.14. Arguments go to the program that signs.
func (k *Key) SignRPM(t testing.TB, path string, rpmv3 bool, args ...string) string {
	t.Helper()
	need.Tools(t, "rpmsign")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(copied, data, 0o644); err != nil {
		t.Fatal(err)
	}
	command := "%{__gpg} gpg --homedir " + k.Home + " --batch --no-verbose --no-armor --no-secmem-warning --yes " + strings.Join(args, " ") + " -u packager -sbo %{__signature_filename} %{__plaintext_filename}"
	cmd := exec.Command("rpmsign", "--addsign", "--define", "__gpg "+need.Tool(t, k.Program), "--define", "_gpg_name packager", "--define", "__gpg_sign_cmd "+command)
	if rpmv3 {
		cmd.Args = append(cmd.Args, "--rpmv3")
	}
	cmd.Args = append(cmd.Args, copied)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rpmsign: %v\n%s", err, out)
	}
	return copied
}
