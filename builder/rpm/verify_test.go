package rpm

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/builder/gpgfixture"
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
	need.Patience(t)
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

func keys(t *testing.T, k *gpgfixture.Key) *pgp.Keyring {
	t.Helper()
	ring, err := pgp.ReadKeyring(k.Public)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestSignatures(t *testing.T) {
	need.Patience(t)
	path := buildPackage(t, "w9.gzdio")
	modern := gpgfixture.New(t, "gpg", "RSA", 2048)
	rsa := gpgfixture.New(t, "gpg1", "RSA", 2048)
	dsa := gpgfixture.New(t, "gpg1", "DSA", 1024)
	strong := gpgfixture.New(t, "gpg", "DSA", 2048)
	for _, c := range []struct {
		name     string
		path     string
		by       *gpgfixture.Key
		strength pgp.Strength
		says     string // "" is good
	}{
		{"version 4 RSA SHA-256", modern.SignRPM(t, path, false, "--digest-algo", "sha256"), modern, pgp.Modern, ""},
		{"version 4 RSA SHA-256 over all", modern.SignRPM(t, path, true, "--digest-algo", "sha256"), modern, pgp.Modern, ""},
		{"version 3 RSA SHA-256", rsa.SignRPM(t, path, true, "--force-v3-sigs", "--digest-algo", "sha256"), rsa, pgp.Modern, ""},
		{"version 3 RSA SHA-1", rsa.SignRPM(t, path, true, "--force-v3-sigs", "--digest-algo", "sha1"), rsa, pgp.Modern, "SHA-1, which can be forged: if the distribution is as old as that, write legacy: true"},
		{"version 3 RSA SHA-1, legacy", rsa.SignRPM(t, path, true, "--force-v3-sigs", "--digest-algo", "sha1"), rsa, pgp.Legacy, ""},
		{"version 4 RSA SHA-1", rsa.SignRPM(t, path, false, "--digest-algo", "sha1"), rsa, pgp.Modern, "SHA-1, which can be forged"},
		{"version 4 RSA SHA-1, legacy", rsa.SignRPM(t, path, false, "--digest-algo", "sha1"), rsa, pgp.Legacy, ""},
		{"version 3 DSA SHA-1, legacy", dsa.SignRPM(t, path, true, "--force-v3-sigs", "--digest-algo", "sha1"), dsa, pgp.Legacy, ""},
		{"version 3 DSA SHA-1", dsa.SignRPM(t, path, true, "--force-v3-sigs", "--digest-algo", "sha1"), dsa, pgp.Modern, "SHA-1"},
		{"version 4 DSA SHA-1, legacy", dsa.SignRPM(t, path, false, "--digest-algo", "sha1"), dsa, pgp.Legacy, ""},
		{"version 4 DSA SHA-1 over all, legacy", dsa.SignRPM(t, path, true, "--digest-algo", "sha1"), dsa, pgp.Legacy, ""},
		{"version 4 DSA SHA-1", dsa.SignRPM(t, path, false, "--digest-algo", "sha1"), dsa, pgp.Modern, "SHA-1, which can be forged"},
		{"version 4 DSA SHA-256", strong.SignRPM(t, path, false, "--digest-algo", "sha256"), strong, pgp.Modern, "DSA, which can be forged"},
		{"version 4 DSA SHA-256, legacy", strong.SignRPM(t, path, false, "--digest-algo", "sha256"), strong, pgp.Legacy, ""},
		{"another's key", rsa.SignRPM(t, path, true, "--force-v3-sigs", "--digest-algo", "sha256"), modern, pgp.Modern, "which is not in keyring"},
		{"not signed", path, modern, pgp.Modern, "small-2:1.0-3.el6.noarch is not signed"},
	} {
		err := open(t, c.path).Verify(keys(t, c.by), c.strength)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v\nwant %q", c.name, err, c.says)
		}
	}
	// Every byte of a signed package is covered: a flipped bit anywhere is noticed.
	signed := rsa.SignRPM(t, path, true, "--force-v3-sigs", "--digest-algo", "sha256")
	good, err := os.ReadFile(signed)
	if err != nil {
		t.Fatal(err)
	}
	ring := keys(t, rsa)
	f, err := Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	for at := int(f.headerOff); at < len(good); at += 1 + len(good)/200 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x20
		if f, err := Open(bytes.NewReader(bad), int64(len(bad))); err == nil && f.Verify(ring, pgp.Modern) == nil {
			t.Errorf("a flipped bit at %d goes unnoticed", at)
		}
	}
	for _, cut := range []int{0, 95, 96, 120, len(good) / 2, len(good) - 1} {
		if f, err := Open(bytes.NewReader(good[:cut]), int64(cut)); err == nil && f.Verify(ring, pgp.Modern) == nil {
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

// set overwrites the value of a tag in a header.
func set(t *testing.T, header []byte, tag Tag, value []byte) {
	t.Helper()
	entries := int(binary.BigEndian.Uint32(header[8:]))
	for i := range entries {
		if entry := header[16+16*i:]; Tag(binary.BigEndian.Uint32(entry)) == tag {
			copy(header[16+16*entries+int(binary.BigEndian.Uint32(entry[8:])):], value)
			return
		}
	}
	t.Fatalf("no tag %d", tag)
}

// signatureHeaderOf writes one with binary fields, and the SHA-256 of the header.
func signatureHeaderOf(header []byte, fields map[Tag][]byte) []byte {
	var index, store bytes.Buffer
	add := func(tag Tag, kind uint32, count int, value []byte) {
		for _, n := range []uint32{uint32(tag), kind, uint32(store.Len()), uint32(count)} {
			binary.Write(&index, binary.BigEndian, n)
		}
		store.Write(value)
	}
	for _, tag := range slices.Sorted(maps.Keys(fields)) {
		add(tag, typeBin, len(fields[tag]), fields[tag])
	}
	add(SigSHA256, typeString, 1, fmt.Appendf(nil, "%x\x00", sha256.Sum256(header)))
	out := []byte{0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0}
	out = binary.BigEndian.AppendUint32(out, uint32(len(fields)+1))
	out = binary.BigEndian.AppendUint32(out, uint32(store.Len()))
	out = slices.Concat(out, index.Bytes(), store.Bytes())
	return append(out, make([]byte, -len(out)&7)...)
}

// TestPayloadDigests has packages whose headers vouch for their payload in other ways than by SHA-256: a signature over the header
// is as good as that.
func TestPayloadDigests(t *testing.T) {
	path := buildPackage(t, "w9.gzdio")
	signer := gpgfixture.New(t, "gpg", "RSA", 2048)
	ring := keys(t, signer)
	built := open(t, path)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lead, header, payload := file[:leadSize], file[built.headerOff:built.payload], file[built.payload:]
	right := fmt.Sprintf("%x\x00", sha256.Sum224(payload)) // it has room where SHA-256 was
	wrong := fmt.Sprintf("%x\x00", sha256.Sum224(nil))
	sign := func(parts ...[]byte) []byte {
		return signer.Detach(t, bytes.Join(parts, nil), "--digest-algo", "SHA256")
	}
	const sha224, other = 11, 99
	for _, c := range []struct {
		name    string
		algo    uint32
		digest  string
		fields  []Tag // of the signature header
		keys    *pgp.Keyring
		changed bool // the payload, afterwards
		says    string
	}{
		{"SHA-224, header signed", sha224, right, []Tag{SigRSA}, ring, false, ""},
		{"SHA-224, header signed, changed", sha224, right, []Tag{SigRSA}, ring, true, "the digest of its payload is"},
		{"SHA-224, wrong", sha224, wrong, []Tag{SigRSA}, ring, false, "the digest of its payload is"},
		{"unknown, header signed", other, right, []Tag{SigRSA}, ring, false, "only its header is signed"},
		{"unknown, header signed, changed", other, right, []Tag{SigRSA}, ring, true, "only its header is signed"},
		{"unknown, both signed", other, right, []Tag{SigRSA, SigPGP}, ring, false, ""},
		{"unknown, both signed, changed", other, right, []Tag{SigRSA, SigPGP}, ring, true, "does not hold"},
		{"unknown, MD5", other, right, []Tag{SigMD5}, nil, false, ""},
		{"unknown, MD5, changed", other, right, []Tag{SigMD5}, nil, true, "the digest of its header and payload is"},
		{"unknown, nothing else", other, right, nil, nil, false, "no digest that is known here"},
	} {
		h, p := bytes.Clone(header), bytes.Clone(payload)
		set(t, h, TagPayloadDigAlgo, binary.BigEndian.AppendUint32(nil, c.algo))
		set(t, h, TagPayloadDigest, []byte(c.digest))
		fields := map[Tag][]byte{}
		for _, tag := range c.fields {
			switch tag {
			case SigRSA:
				fields[tag] = sign(h)
			case SigPGP:
				fields[tag] = sign(h, p)
			case SigMD5:
				sum := md5.Sum(slices.Concat(h, p))
				fields[tag] = sum[:]
			}
		}
		if c.changed {
			p[len(p)-9] ^= 1
		}
		data := slices.Concat(lead, signatureHeaderOf(h, fields), h, p)
		f, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		err = f.Verify(c.keys, pgp.Modern)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v\nwant %q", c.name, err, c.says)
		}
	}
}

// TestNamesThatAreNone has packages whose names would be paths, or several words.
func TestNamesThatAreNone(t *testing.T) {
	path := buildPackage(t, "w9.gzdio")
	at := open(t, path).headerOff
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"/", " ", "\n", "\x1b"} {
		forged := bytes.Clone(file)
		set(t, forged[at:], TagName, []byte(bad))
		if f, err := Open(bytes.NewReader(forged), int64(len(forged))); err == nil {
			t.Errorf("%q was opened", f)
		}
	}
}
