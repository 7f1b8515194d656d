package rpm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"netroot/builder/need"
	"netroot/builder/pgp"
)

// buildPackage builds a small package, whose payload is compressed as rpm's word says: "w9.gzdio", "w7.xzdio", "w19.zstdio", "w9.bzdio".
func buildPackage(t testing.TB, payload string) string {
	t.Helper()
	need.Tools(t, "rpmbuild")
	dir := t.TempDir()
	spec := `Name: small
Epoch: 2
Version: 1.0
Release: 3.el6
Summary: x
License: x
BuildArch: noarch
AutoReqProv: no
%description
x
%install
mkdir -p %{buildroot}/etc/small %{buildroot}/usr/bin
echo hello > %{buildroot}/etc/small/conf
echo '#!/bin/sh' > %{buildroot}/usr/bin/small
chmod 4755 %{buildroot}/usr/bin/small
ln %{buildroot}/usr/bin/small %{buildroot}/usr/bin/also
ln -s small %{buildroot}/usr/bin/link
%files
%dir %attr(0750,root,mail) /etc/small
%config(noreplace) %attr(0640,nobody,mail) /etc/small/conf
/usr/bin/small
/usr/bin/also
/usr/bin/link
%ghost /etc/small/state
`
	file := filepath.Join(dir, "small.spec")
	if err := os.WriteFile(file, []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("rpmbuild", "-bb", "--define", "_topdir "+dir, "--define", "_binary_payload "+payload, "--define", "_dbpath "+filepath.Join(dir, "db"), file)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rpmbuild: %v\n%s", err, out)
	}
	return filepath.Join(dir, "RPMS", "noarch", "small-1.0-3.el6.noarch.rpm")
}

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestPayload compares what is read with what rpm says of the package, for every kind of compression.
func TestPayload(t *testing.T) {
	program := need.Tool(t, "rpm")
	for _, payload := range []string{"w9.gzdio", "w7.xzdio", "w7.lzdio", "w9.bzdio", "w19.zstdio"} {
		path := buildPackage(t, payload)
		f := open(t, path)
		if f.String() != "small-2:1.0-3.el6.noarch" {
			t.Errorf("%s: %s", payload, f)
		}
		if err := f.Verify(nil, pgp.Modern); err != nil {
			t.Errorf("%s: %v", payload, err)
		}
		out, err := exec.Command(program, "-qp", "--nosignature", "--qf", "[%{FILENAMES} %{FILEMODES:octal} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS} %{FILELINKTOS}\n]", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		entries, err := f.Entries()
		if err != nil {
			t.Fatal(err)
		}
		var ours strings.Builder
		for _, e := range entries {
			fmt.Fprintf(&ours, "%s %06o %s:%s %d %s\n", e.Name, e.Mode, e.User, e.Group, e.Flags, e.Link)
		}
		theirs := strings.ReplaceAll(string(out), " 0", " 0")
		if normal(ours.String()) != normal(theirs) {
			t.Errorf("%s: entries\n%swant\n%s", payload, ours.String(), theirs)
		}
		got := map[string]string{}
		if err := f.Walk(t.Context(), func(e *Entry, r io.Reader) error {
			data, err := io.ReadAll(r)
			got[e.Name] = string(data)
			return err
		}); err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
		if len(got) != 5 || got["/etc/small/conf"] != "hello\n" || got["/usr/bin/also"]+got["/usr/bin/small"] != "#!/bin/sh\n" || got["/usr/bin/link"] != "small" {
			t.Errorf("%s: payload %q", payload, got)
		}
	}
}

// normal drops the leading zeros of modes and trailing spaces, which differ between versions of rpm.
func normal(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, " 0", " "), " 0", " ")
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

// A signer makes keys and signs packages.
type signer struct{ program, home, keyring string }

// newSigner makes a key of the given kind with gpg (2) or gpg1 (1.4).
func newSigner(t *testing.T, program, kind string, bits int) *signer {
	t.Helper()
	need.Tools(t, program, "rpmsign")
	home, err := os.MkdirTemp("", "gpg") // its socket has a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	s := &signer{program: program, home: home, keyring: filepath.Join(home, "keys.asc")}
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
	if err := os.WriteFile(s.keyring, out, 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// sign signs a copy of a package with rpmsign and returns the copy. Arguments go to the program that signs.
func (s *signer) sign(t *testing.T, path string, rpmv3 bool, args ...string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(copied, data, 0o644); err != nil {
		t.Fatal(err)
	}
	command := "%{__gpg} gpg --homedir " + s.home + " --batch --no-verbose --no-armor --no-secmem-warning --yes " + strings.Join(args, " ") + " -u packager -sbo %{__signature_filename} %{__plaintext_filename}"
	program, err := exec.LookPath(s.program)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("rpmsign", "--addsign", "--define", "__gpg "+program, "--define", "_gpg_name packager", "--define", "__gpg_sign_cmd "+command)
	if rpmv3 {
		cmd.Args = append(cmd.Args, "--rpmv3")
	}
	cmd.Args = append(cmd.Args, copied)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rpmsign: %v\n%s", err, out)
	}
	return copied
}

func (s *signer) keys(t *testing.T) *pgp.Keyring {
	t.Helper()
	k, err := pgp.ReadKeyring(s.keyring)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignatures(t *testing.T) {
	path := buildPackage(t, "w9.gzdio")
	modern := newSigner(t, "gpg", "RSA", 2048)
	rsa := newSigner(t, "gpg1", "RSA", 2048)
	dsa := newSigner(t, "gpg1", "DSA", 1024)
	for _, c := range []struct {
		name     string
		path     string
		by       *signer
		strength pgp.Strength
		says     string // "" is good
	}{
		{"version 4 RSA SHA-256", modern.sign(t, path, false, "--digest-algo", "sha256"), modern, pgp.Modern, ""},
		{"version 4 RSA SHA-256 over all", modern.sign(t, path, true, "--digest-algo", "sha256"), modern, pgp.Modern, ""},
		{"version 3 RSA SHA-256", rsa.sign(t, path, true, "--force-v3-sigs", "--digest-algo", "sha256"), rsa, pgp.Modern, ""},
		{"version 3 RSA SHA-1", rsa.sign(t, path, true, "--force-v3-sigs", "--digest-algo", "sha1"), rsa, pgp.Modern, "SHA-1, which can be forged: if the distribution is as old as that, write legacy: true"},
		{"version 3 RSA SHA-1, legacy", rsa.sign(t, path, true, "--force-v3-sigs", "--digest-algo", "sha1"), rsa, pgp.Legacy, ""},
		{"version 4 RSA SHA-1", rsa.sign(t, path, false, "--digest-algo", "sha1"), rsa, pgp.Modern, "SHA-1, which can be forged"},
		{"version 4 RSA SHA-1, legacy", rsa.sign(t, path, false, "--digest-algo", "sha1"), rsa, pgp.Legacy, ""},
		{"version 3 DSA SHA-1, legacy", dsa.sign(t, path, true, "--force-v3-sigs", "--digest-algo", "sha1"), dsa, pgp.Legacy, ""},
		{"version 3 DSA SHA-1", dsa.sign(t, path, true, "--force-v3-sigs", "--digest-algo", "sha1"), dsa, pgp.Modern, "SHA-1"},
		{"another's key", rsa.sign(t, path, true, "--force-v3-sigs", "--digest-algo", "sha256"), modern, pgp.Modern, "which is not in keyring"},
		{"not signed", path, modern, pgp.Modern, "small-2:1.0-3.el6.noarch is not signed"},
	} {
		err := open(t, c.path).Verify(c.by.keys(t), c.strength)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v\nwant %q", c.name, err, c.says)
		}
	}
	// Every byte of a signed package is covered: a flipped bit anywhere is noticed.
	signed := rsa.sign(t, path, true, "--force-v3-sigs", "--digest-algo", "sha256")
	good, err := os.ReadFile(signed)
	if err != nil {
		t.Fatal(err)
	}
	keys := rsa.keys(t)
	f, err := Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	for at := int(f.headerOff); at < len(good); at += 1 + len(good)/200 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x20
		if f, err := Open(bytes.NewReader(bad), int64(len(bad))); err == nil && f.Verify(keys, pgp.Modern) == nil {
			t.Errorf("a flipped bit at %d goes unnoticed", at)
		}
	}
	for _, cut := range []int{0, 95, 96, 120, len(good) / 2, len(good) - 1} {
		if f, err := Open(bytes.NewReader(good[:cut]), int64(cut)); err == nil && f.Verify(keys, pgp.Modern) == nil {
			t.Errorf("cut to %d bytes, and it goes unnoticed", cut)
		}
	}
}

func FuzzOpen(f *testing.F) {
	if data, err := os.ReadFile(buildPackage(f, "w1.gzdio")); err == nil {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		r.Verify(nil, pgp.Modern)
		r.Entries()
		r.Walk(t.Context(), func(e *Entry, data io.Reader) error {
			if !strings.HasPrefix(e.Name, "/") || strings.Contains(e.Name+"/", "/../") {
				t.Fatalf("name %q got through", e.Name)
			}
			_, err := io.CopyN(io.Discard, data, 1<<20)
			if err == io.EOF {
				err = nil
			}
			return err
		})
	})
}
