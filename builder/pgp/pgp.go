// Package pgp checks the OpenPGP signatures of package archives: clearsigned files (InRelease) and detached signatures
// (Release.gpg), against keyrings on disk, as gpgv does for apt.
//
// What is accepted, and nothing else: a version 4 or 6 signature over binary or text data, hashed with SHA-224 or better
// (never MD5, SHA-1 or RIPEMD-160), made by an RSA key of at least 2048 bits, an Ed25519, Ed448 or NIST-curve ECDSA key
// (never DSA or ElGamal), at a time when that key was neither expired nor revoked, not before the key was made, and not
// itself expired. A file may carry several signatures, as Debian's do while keys change: one good one by a known key is
// enough. A bad one by a known key does not hurt when another is good, as with gpgv. The keys' own self-signatures may be
// SHA-1: the trust in a key comes from the keyring it lies in.
//
// There is no web of trust, no key server, and no GnuPG keybox (.kbx) files.
package pgp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// A Keyring is a set of public keys and the names of the files they came from.
type Keyring struct {
	names []string
	keys  openpgp.EntityList
}

// ReadKeyring reads keyring files, binary or armored, and puts them together.
func ReadKeyring(paths ...string) (*Keyring, error) {
	k := new(Keyring)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read keyring: %w", err)
		}
		one, err := ParseKeyring(path, data)
		if err != nil {
			return nil, err
		}
		k = k.Join(one)
	}
	return k, nil
}

// ParseKeyring reads a keyring, binary or armored; name is what errors call it.
func ParseKeyring(name string, data []byte) (*Keyring, error) {
	k := &Keyring{names: []string{name}}
	if len(data) >= 12 && string(data[8:12]) == "KBXf" {
		return nil, fmt.Errorf("read keyring %s: this is a GnuPG keybox; export the keys it holds: gpg --no-default-keyring --keyring %s --export > keyring.gpg", name, name)
	}
	if !isArmored(data) {
		keys, err := openpgp.ReadKeyRing(bytes.NewReader(data))
		if err != nil && len(data) > 0 {
			return nil, fmt.Errorf("read keyring %s: %w", name, err)
		}
		k.keys = keys
		return k, nil
	}
	// A file may hold several armored blocks one after the other; armor.Decode reads one and buffers beyond it.
	const end = "-----END PGP PUBLIC KEY BLOCK-----"
	for isArmored(data) {
		block := data
		i := bytes.Index(data, []byte(end))
		if i < 0 {
			return nil, fmt.Errorf("read keyring %s: armored block without its end", name)
		}
		block, data = data[:i+len(end)], data[i+len(end):]
		keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(append(slices.Clip(block), '\n')))
		if err != nil {
			return nil, fmt.Errorf("read keyring %s: %w", name, err)
		}
		k.keys = append(k.keys, keys...)
	}
	return k, nil
}

func isArmored(data []byte) bool {
	return bytes.Contains(data, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----"))
}

// Join returns a keyring with the keys of both.
func (k *Keyring) Join(other *Keyring) *Keyring {
	return &Keyring{names: slices.Concat(k.names, other.names), keys: slices.Concat(k.keys, other.keys)}
}

// Only returns the keys one of whose fingerprints (of the primary key or a subkey) is listed, in hex.
func (k *Keyring) Only(fingerprints ...string) *Keyring {
	want := func(fp []byte) bool {
		return slices.ContainsFunc(fingerprints, func(s string) bool { return strings.EqualFold(strings.TrimSuffix(s, "!"), hex.EncodeToString(fp)) })
	}
	out := &Keyring{names: k.names}
	for _, e := range k.keys {
		ok := want(e.PrimaryKey.Fingerprint)
		for _, sub := range e.Subkeys {
			ok = ok || want(sub.PublicKey.Fingerprint)
		}
		if ok {
			out.keys = append(out.keys, e)
		}
	}
	return out
}

// Len returns the number of keys.
func (k *Keyring) Len() int { return len(k.keys) }

// String names the files of the keyring.
func (k *Keyring) String() string {
	switch {
	case len(k.names) == 0:
		return "an empty keyring"
	case len(k.names) == 1:
		return "keyring " + k.names[0]
	case len(k.names) <= 3:
		return "keyrings " + strings.Join(k.names, ", ")
	}
	return fmt.Sprintf("keyrings %s and %d more in %s", k.names[0], len(k.names)-1, filepath.Dir(k.names[len(k.names)-1]))
}

// VerifyInline checks a clearsigned file and returns the text that is signed, and only that. name is what errors call the file.
// Text before or after the signed part is refused: no archive writes it, and a reader that skips it can be fooled.
func (k *Keyring) VerifyInline(name string, data []byte, now time.Time) ([]byte, error) {
	text, signature, err := SplitInline(name, data)
	if err != nil {
		return nil, err
	}
	// RFC 9580, 7: the signature covers lines that end in CR LF, without the line ending of the last.
	signed := bytes.ReplaceAll(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"), []byte("\r\n"))
	if err := k.check(name, signed, signature, now, Modern); err != nil {
		return nil, err
	}
	return text, nil
}

// SplitInline takes a clearsigned file apart without any check of its signature; the signature is binary.
func SplitInline(name string, data []byte) (text, signature []byte, err error) {
	if !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, nil, fmt.Errorf("%s is not a clearsigned file: it does not start with BEGIN PGP SIGNED MESSAGE (a login page of the network may have come instead)", name)
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, nil, fmt.Errorf("%s is not a whole clearsigned file: its armor cannot be read", name)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, fmt.Errorf("%s has %d bytes after its signature, which nobody signed", name, len(rest))
	}
	if bytes.ContainsAny(block.Plaintext, "\r") {
		return nil, nil, fmt.Errorf("%s has a carriage return inside a line", name)
	}
	signature, err = io.ReadAll(block.ArmoredSignature.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: read the armored signature: %w", name, err)
	}
	return append(block.Plaintext, '\n'), signature, nil
}

// VerifyDetached checks data against a detached signature, binary or armored. Legacy takes version 3 signatures besides what it says.
func (k *Keyring) VerifyDetached(name string, data, signature []byte, now time.Time, s Strength) error {
	if bytes.HasPrefix(bytes.TrimSpace(signature), []byte("-----BEGIN")) {
		block, err := armor.Decode(bytes.NewReader(signature))
		if err != nil {
			return fmt.Errorf("signature of %s: %w", name, err)
		}
		if signature, err = io.ReadAll(block.Body); err != nil {
			return fmt.Errorf("signature of %s: %w", name, err)
		}
	}
	return k.check(name, data, signature, now, s)
}

// check looks for one good signature among the packets of signature.
func (k *Keyring) check(name string, signed, signature []byte, now time.Time, s Strength) error {
	config := s.config(now)
	var unknown []string // key ids nobody here knows
	var bad []error      // signatures by known keys that do not hold
	packets := packet.NewOpaqueReader(bytes.NewReader(signature))
	for {
		op, err := packets.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("packet cannot be read: %w", err))
			break
		}
		const tagSignature = 2
		if s == Legacy && op.Tag == tagSignature && len(op.Contents) > 0 && op.Contents[0] == 3 {
			var raw bytes.Buffer
			err := op.Serialize(&raw)
			if err == nil {
				err = k.version3(bytes.NewReader(signed), raw.Bytes(), s)
			}
			if err == nil {
				return nil
			}
			bad = append(bad, err)
			continue
		}
		p, err := op.Parse()
		if err != nil {
			bad = append(bad, err)
			continue
		}
		sig, ok := p.(*packet.Signature)
		if !ok || sig.IssuerKeyId == nil {
			continue
		}
		id := fmt.Sprintf("%016X", *sig.IssuerKeyId)
		if len(k.keys.EntitiesById(*sig.IssuerKeyId)) == 0 {
			unknown = append(unknown, id)
			continue
		}
		if sig.SigType != packet.SigTypeBinary && sig.SigType != packet.SigTypeText {
			bad = append(bad, fmt.Errorf("signature by key %s is of type 0x%02x, not one over data", id, byte(sig.SigType)))
			continue
		}
		var raw bytes.Buffer
		if err := op.Serialize(&raw); err != nil {
			bad = append(bad, err)
			continue
		}
		if _, _, err := openpgp.VerifyDetachedSignature(k.keys, bytes.NewReader(signed), &raw, config); err != nil {
			bad = append(bad, fmt.Errorf("signature by key %s: %w", id, reason(err)))
			continue
		}
		return nil
	}
	switch {
	case len(bad) > 0:
		return fmt.Errorf("%s is not as it was signed, or signed in a way that is not accepted: %w", name, errors.Join(bad...))
	case len(unknown) > 0:
		return fmt.Errorf("%s is signed by %s; none is in %s (name the right one with keyring:)", name, listKeys(unknown), k)
	}
	return fmt.Errorf("%s carries no signature", name)
}

func listKeys(ids []string) string {
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 1 {
		return "key " + ids[0]
	}
	return "keys " + strings.Join(ids, ", ")
}

// reason puts the library's words for what a person meets most into plain ones.
func reason(err error) error {
	switch {
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return errors.New("the signature has expired")
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return errors.New("the key had expired when it signed")
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return errors.New("the key is revoked")
	}
	return err
}
