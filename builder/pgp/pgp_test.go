package pgp

import (
	"bytes"
	"crypto"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"netroot/builder/need"
)

const text = "Origin: Test\nSuite: stable\n- a line that begins with a hyphen\nSHA256:\n 00 1 x\n"

// newKey makes a key at a time, valid for a number of days or for ever.
func newKey(t *testing.T, made time.Time, days int) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Test", "", "test@example.org", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return made }, KeyLifetimeSecs: uint32(days * 86400)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// keyringOf is the binary keyring of some keys.
func keyringOf(t *testing.T, name string, keys ...*openpgp.Entity) *Keyring {
	t.Helper()
	var b bytes.Buffer
	for _, e := range keys {
		if err := e.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	k, err := ParseKeyring(name, b.Bytes())
	if err != nil || k.Len() != len(keys) {
		t.Fatalf("keyring of %d keys: %d, %v", len(keys), k.Len(), err)
	}
	return k
}

func clearsigned(t *testing.T, when time.Time, hash crypto.Hash, text string, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var priv []*packet.PrivateKey
	for _, e := range keys {
		priv = append(priv, e.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, priv, &packet.Config{DefaultHash: hash, Time: func() time.Time { return when }})
	if err != nil {
		t.Fatal(err)
	}
	// This encoder, unlike gpg, ends the text with one more line break.
	if _, err := w.Write([]byte(strings.TrimSuffix(text, "\n"))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

func detached(t *testing.T, when time.Time, text string, key *openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := openpgp.DetachSign(&b, []*openpgp.Entity{key}, strings.NewReader(text), &packet.Config{Time: func() time.Time { return when }}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func id(e *openpgp.Entity) string { return fmt.Sprintf("%016X", e.PrimaryKey.KeyId) }

func TestInline(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	year := now.AddDate(-1, 0, 0)
	a, b := newKey(t, year, 0), newKey(t, year, 0)
	expired := newKey(t, year, 30)
	ring := keyringOf(t, "a.gpg", a)
	signed := func(keys ...*openpgp.Entity) []byte { return clearsigned(t, now, crypto.SHA256, text, keys...) }
	good := signed(a)
	replace := func(old, new string) []byte {
		out := bytes.Replace(good, []byte(old), []byte(new), 1)
		if bytes.Equal(out, good) {
			t.Fatalf("%q is not there to be replaced", old)
		}
		return out
	}
	for name, c := range map[string]struct {
		ring *Keyring
		data []byte
		want string // in the error; empty: good
	}{
		"good":                   {ring, good, ""},
		"second of two":          {ring, signed(b, a), ""},
		"first of two":           {ring, signed(a, b), ""},
		"CRLF":                   {ring, bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")), ""},
		"unknown key":            {ring, signed(b), "test is signed by key " + id(b) + "; none is in keyring a.gpg"},
		"changed text":           {ring, replace("stable", "stablf"), "signature by key " + id(a)},
		"inserted line":          {ring, replace("Suite", "X: y\nSuite"), "signature by key " + id(a)},
		"text before":            {ring, append([]byte("Suite: evil\n"), good...), "does not start with"},
		"text after":             {ring, append(bytes.Clone(good), "Suite: evil\n"...), "after its signature"},
		"second message after":   {ring, append(bytes.Clone(good), good...), "after its signature"},
		"truncated":              {ring, good[:len(good)-40], "not a whole clearsigned file"},
		"unsigned":               {ring, []byte(text), "does not start with"},
		"empty":                  {ring, nil, "does not start with"},
		"web page":               {ring, []byte("<html>please log in</html>"), "a login page"},
		"key expired":            {keyringOf(t, "e.gpg", expired), signed(expired), "signature by key " + id(expired)},
		"signed before the end":  {keyringOf(t, "e.gpg", expired), clearsigned(t, year.AddDate(0, 0, 5), crypto.SHA256, text, expired), ""},
		"signed before the key":  {ring, clearsigned(t, year.AddDate(-1, 0, 0), crypto.SHA256, text, a), "signature by key " + id(a)},
		"bad known, good known":  {keyringOf(t, "ab.gpg", a, b), mixed(t, now, a, b), ""},
		"carriage return inside": {ring, clearsigned(t, now, crypto.SHA256, "a\rb\n", a), "carriage return"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.ring.VerifyInline("test", c.data, now)
			if c.want == "" {
				if err != nil || string(got) != text {
					t.Errorf("text %q, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || got != nil {
				t.Errorf("text %q, error %v lacks %q", got, err, c.want)
			}
		})
	}
}

// mixed carries a signature by b over another text, then a good one by a.
func mixed(t *testing.T, now time.Time, a, b *openpgp.Entity) []byte {
	t.Helper()
	sigs := append(inlineSig(t, clearsigned(t, now, crypto.SHA256, "other\n", b)), inlineSig(t, clearsigned(t, now, crypto.SHA256, text, a))...)
	good := clearsigned(t, now, crypto.SHA256, text, a)
	var out bytes.Buffer
	out.Write(good[:bytes.Index(good, []byte("-----BEGIN PGP SIGNATURE"))])
	w, err := armor.Encode(&out, "PGP SIGNATURE", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(sigs)
	w.Close()
	return append(out.Bytes(), '\n')
}

func inlineSig(t *testing.T, data []byte) []byte {
	t.Helper()
	_, sig, err := SplitInline("x", data)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestDetached(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	a, b := newKey(t, now.AddDate(-1, 0, 0), 0), newKey(t, now.AddDate(-1, 0, 0), 0)
	ring := keyringOf(t, "a.gpg", a)
	sig := detached(t, now, text, a)
	var armored bytes.Buffer
	w, err := armor.Encode(&armored, "PGP SIGNATURE", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(sig)
	w.Close()
	for name, c := range map[string]struct {
		data, sig []byte
		want      string
	}{
		"binary":      {[]byte(text), sig, ""},
		"armored":     {[]byte(text), armored.Bytes(), ""},
		"two":         {[]byte(text), append(detached(t, now, text, b), sig...), ""},
		"changed":     {[]byte(text + "x"), sig, "not as it was signed"},
		"unknown":     {[]byte(text), detached(t, now, text, b), "none is in keyring a.gpg"},
		"empty":       {[]byte(text), nil, "carries no signature"},
		"not a sig":   {[]byte(text), []byte("hello"), "Release"},
		"a key":       {[]byte(text), serialized(t, a), "is of type 0x13, not one over data"},
		"half":        {[]byte(text), sig[:len(sig)/2], "not as it was signed"},
		"half armour": {[]byte(text), armored.Bytes()[:40], "signature of Release"},
	} {
		t.Run(name, func(t *testing.T) {
			err := ring.VerifyDetached("Release", c.data, c.sig, now, Modern)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func serialized(t *testing.T, e *openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := e.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestKeyrings(t *testing.T) {
	now := time.Now()
	a, b, c := newKey(t, now, 0), newKey(t, now, 0), newKey(t, now, 0)
	armored := func(e *openpgp.Entity) string {
		var out bytes.Buffer
		w, _ := armor.Encode(&out, "PGP PUBLIC KEY BLOCK", nil)
		e.Serialize(w)
		w.Close()
		return out.String() + "\n"
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	binary := write("a.gpg", serialized(t, a))
	ascii := write("bc.asc", []byte("a comment\n"+armored(b)+"\n"+armored(c)))
	k, err := ReadKeyring(binary, ascii)
	if err != nil || k.Len() != 3 {
		t.Fatalf("%d keys, %v", k.Len(), err)
	}
	if got := k.String(); got != "keyrings "+binary+", "+ascii {
		t.Error(got)
	}
	signed := clearsigned(t, now, crypto.SHA512, text, c)
	if _, err := k.VerifyInline("x", signed, now); err != nil {
		t.Error(err)
	}
	fingerprint := fmt.Sprintf("%X", c.PrimaryKey.Fingerprint)
	if _, err := k.Only(strings.ToLower(fingerprint)+"!").VerifyInline("x", signed, now); err != nil {
		t.Error(err)
	}
	if only := k.Only(fmt.Sprintf("%X", a.PrimaryKey.Fingerprint)); only.Len() != 1 {
		t.Errorf("%d keys with one fingerprint", only.Len())
	} else if _, err := only.VerifyInline("x", signed, now); err == nil {
		t.Error("a key that was filtered out was used")
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"keybox.kbx": {append([]byte{0, 0, 0, 32, 1, 1, 0, 2}, "KBXf and more"...), "--export > keyring.gpg"},
		"junk.gpg":   {[]byte("hello, I am not a key"), "junk.gpg"},
		"cut.asc":    {[]byte(armored(a)[:120]), "without its end"},
	} {
		if _, err := ReadKeyring(write(name, c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v lacks %q", name, err, c.want)
		}
	}
	if _, err := ReadKeyring(filepath.Join(dir, "none.gpg")); err == nil || !strings.Contains(err.Error(), "none.gpg") {
		t.Errorf("missing file: %v", err)
	}
}

// gpg signs, gpgv is the oracle: what it accepts and refuses must be accepted and refused here.
func TestAgainstGPG(t *testing.T) {
	need.Patience(t)
	need.Tools(t, "gpg", "gpgv")
	home, err := os.MkdirTemp("", "gpg") // a short path: the agent's socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	run := func(stdin []byte, name string, args ...string) ([]byte, error) {
		cmd := exec.Command(name, append([]string{"--homedir", home, "--batch", "--quiet", "--no-tty"}, args...)...)
		cmd.Stdin = bytes.NewReader(stdin)
		return cmd.Output()
	}
	must := func(stdin []byte, args ...string) []byte {
		t.Helper()
		out, err := run(stdin, "gpg", args...)
		if err != nil {
			t.Fatalf("gpg %v: %v", args, err)
		}
		return out
	}
	for _, algo := range []string{"ed25519", "rsa2048", "nistp256", "rsa1024", "dsa2048"} {
		must(nil, "--passphrase", "", "--quick-gen-key", algo+"@example.org", algo, "sign", "never")
	}
	ring := filepath.Join(home, "ring.gpg")
	if err := os.WriteFile(ring, must(nil, "--export"), 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := ReadKeyring(ring)
	if err != nil || k.Len() != 5 {
		t.Fatalf("%d keys, %v", k.Len(), err)
	}
	long := []byte(strings.Repeat("a line with a space at its end \n- -- dashes\n\n", 50))
	for _, c := range []struct {
		key    string
		digest string
		accept bool
	}{
		{"ed25519", "SHA256", true}, {"ed25519", "SHA512", true}, {"rsa2048", "SHA256", true}, {"nistp256", "SHA384", true},
		{"rsa2048", "SHA1", false}, {"rsa2048", "RIPEMD160", false}, {"rsa1024", "SHA256", false}, {"dsa2048", "SHA256", false},
	} {
		t.Run(c.key+" "+c.digest, func(t *testing.T) {
			inline := must(long, "-u", c.key+"@example.org", "--digest-algo", c.digest, "--clearsign")
			sig := must(long, "-u", c.key+"@example.org", "--digest-algo", c.digest, "--detach-sign")
			if c.accept {
				if err := gpgv(t, home, ring, inline); err != nil {
					t.Fatalf("gpgv itself refuses: %v", err)
				}
			}
			if _, err := k.VerifyInline("inline", inline, time.Now()); (err == nil) != c.accept {
				t.Errorf("inline: %v", err)
			}
			if err := k.VerifyDetached("detached", long, sig, time.Now(), Modern); (err == nil) != c.accept {
				t.Errorf("detached: %v", err)
			}
			spoiled := bytes.Replace(inline, []byte("dashes"), []byte("dashed"), 1)
			if gpgv(t, home, ring, spoiled) == nil {
				t.Fatal("gpgv accepts a spoiled file")
			}
			if _, err := k.VerifyInline("inline", spoiled, time.Now()); err == nil {
				t.Error("a spoiled file was accepted")
			}
		})
	}
}

func gpgv(t *testing.T, home, ring string, data []byte) error {
	t.Helper()
	path := filepath.Join(home, "signed")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return exec.Command("gpgv", "--homedir", home, "--keyring", ring, path).Run()
}

func FuzzVerify(f *testing.F) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	t := new(testing.T)
	a := newKey(t, now.AddDate(-1, 0, 0), 0)
	other := newKey(t, now.AddDate(-1, 0, 0), 0)
	ring := keyringOf(t, "a.gpg", a)
	good := clearsigned(t, now, crypto.SHA256, text, a)
	f.Add(good)
	f.Add(clearsigned(t, now, crypto.SHA256, text, other, a))
	f.Add(good[:100])
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ring.VerifyInline("x", data, now)
		if err == nil && string(got) != text {
			t.Errorf("accepted a text that was never signed: %q", got)
		}
		_ = ring.VerifyDetached("x", []byte(text), data, now, Modern)
		_, _ = ParseKeyring("x", data)
	})
}
