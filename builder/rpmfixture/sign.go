package rpmfixture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Signing says how packages are signed.
type Signing struct {
	Program string   // gpg, or gpg1 for signatures as old distributions have them
	Args    []string // for it: --force-v3-sigs, --digest-algo SHA1
	V3      bool     // header and payload are signed together, too, as all rpms did before 4.14
}

// A signer is a key and how to sign with it.
type signer struct {
	Signing
	home, public string
}

// open makes a key in the folder, or finds it there.
func (s Signing) open(ctx context.Context, home string) (*signer, error) {
	k := &signer{s, home, filepath.Join(home, "RPM-GPG-KEY")}
	if _, err := os.Stat(k.public); err == nil {
		return k, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	batch := "Key-Type: RSA\nKey-Length: 2048\nKey-Usage: sign\nName-Real: packager\nName-Email: packager@example.org\nExpire-Date: 0\n%commit\n"
	if s.Program == "gpg" {
		batch = "%no-protection\n" + batch
	}
	gen := exec.CommandContext(ctx, s.Program, "--homedir", home, "--batch", "--gen-key")
	gen.Stdin = strings.NewReader(batch)
	if err := run(gen); err != nil {
		return nil, err
	}
	key, err := exec.CommandContext(ctx, s.Program, "--homedir", home, "--armor", "--export").Output()
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("%s --export: %w", s.Program, errors.Join(err))
	}
	return k, os.WriteFile(k.public, key, 0o644)
}

// close ends gpg's agent.
func (k *signer) close() {
	if k.Program == "gpg" {
		exec.Command("gpgconf", "--homedir", k.home, "--kill", "all").Run()
	}
}

// id tells signers apart.
func (k *signer) id() string {
	if k == nil {
		return ""
	}
	key, _ := os.ReadFile(k.public)
	return fmt.Sprint(k.Args, k.V3) + string(key)
}

func (k *signer) sign(ctx context.Context, file string) error {
	program, err := exec.LookPath(k.Program)
	if err != nil {
		return err
	}
	command := "%{__gpg} gpg --homedir " + k.home + " --batch --no-verbose --no-armor --no-secmem-warning --yes " + strings.Join(k.Args, " ") + " -u packager -sbo %{__signature_filename} %{__plaintext_filename}"
	args := []string{"--addsign", "--define", "__gpg " + program, "--define", "_gpg_name packager", "--define", "__gpg_sign_cmd " + command}
	if k.V3 {
		args = append(args, "--rpmv3")
	}
	return run(exec.CommandContext(ctx, "rpmsign", append(args, file)...))
}
