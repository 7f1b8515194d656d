package pgp

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	//lint:ignore SA1019 nothing else reads version 3 signatures, and those of EL6 never change
	old "golang.org/x/crypto/openpgp/packet"
)

// ErrUnknownKey is wrapped by the error for a signature by a key that is not in the keyring.
var ErrUnknownKey = errors.New("the key is not known")

// A Strength says which signatures of packages, and of a repository's metadata, are accepted.
type Strength int

const (
	// Modern takes what the package comment says of archives, and version 3 signatures besides.
	Modern Strength = iota
	// Legacy takes SHA-1, DSA and RSA keys of 1024 bits as well: what packages of EL6 were signed with. Whoever can make
	// collisions of SHA-1 could have two packages signed as one.
	Legacy
)

// config is the strength in the library's words.
func (s Strength) config(now time.Time) *packet.Config {
	c := &packet.Config{
		Time:                        func() time.Time { return now },
		MinRSABits:                  2048,
		RejectPublicKeyAlgorithms:   map[packet.PublicKeyAlgorithm]bool{packet.PubKeyAlgoDSA: true, packet.PubKeyAlgoElGamal: true},
		RejectHashAlgorithms:        map[crypto.Hash]bool{crypto.MD5: true, crypto.RIPEMD160: true},
		RejectMessageHashAlgorithms: map[crypto.Hash]bool{crypto.MD5: true, crypto.SHA1: true, crypto.RIPEMD160: true},
	}
	if s == Legacy {
		c.MinRSABits = 1024
		c.RejectPublicKeyAlgorithms = map[packet.PublicKeyAlgorithm]bool{packet.PubKeyAlgoElGamal: true}
		c.RejectMessageHashAlgorithms = map[crypto.Hash]bool{crypto.MD5: true, crypto.RIPEMD160: true}
	}
	return c
}

// VerifyPackage checks the one signature packet that an RPM header holds, over what signed gives. name is what errors call
// the package. RPM has version 3 and version 4 packets (RFC 4880, 5.2); the expiry of a key does not count, as it does
// not for rpm: packages outlive their keys.
func (k *Keyring) VerifyPackage(name string, signed io.Reader, signature []byte, s Strength) error {
	op, err := packet.NewOpaqueReader(bytes.NewReader(signature)).Next()
	if err != nil || len(op.Contents) == 0 {
		return fmt.Errorf("%s: its signature cannot be read: %v", name, err)
	}
	const tagSignature = 2
	if op.Tag != tagSignature {
		return fmt.Errorf("%s: where its signature should be is a packet of type %d", name, op.Tag)
	}
	if op.Contents[0] == 3 {
		err = k.version3(signed, signature, s)
	} else {
		err = k.version4(op, signed, signature, s)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (k *Keyring) version4(op *packet.OpaquePacket, signed io.Reader, signature []byte, s Strength) error {
	p, err := op.Parse()
	if err != nil {
		return fmt.Errorf("its signature cannot be read: %w", err)
	}
	sig, ok := p.(*packet.Signature)
	if !ok || sig.IssuerKeyId == nil {
		return errors.New("its signature does not say whose it is")
	}
	entities := k.keys.EntitiesById(*sig.IssuerKeyId)
	if len(entities) == 0 {
		return fmt.Errorf("it is signed by key %016X, which is not in %s: %w", *sig.IssuerKeyId, k, ErrUnknownKey)
	}
	if sig.SigType != packet.SigTypeBinary {
		return fmt.Errorf("its signature is of type 0x%02x, not one over data", byte(sig.SigType))
	}
	if why := weak(sig.Hash, entities[0].PrimaryKey); why != "" && s != Legacy {
		return errWeak(*sig.IssuerKeyId, why)
	}
	if _, _, err := openpgp.VerifyDetachedSignature(k.keys, signed, bytes.NewReader(signature), s.config(sig.CreationTime)); err != nil {
		return fmt.Errorf("its signature by key %016X does not hold: %w", *sig.IssuerKeyId, reason(err))
	}
	return nil
}

// weak says what is too weak for Modern, if anything.
func weak(h crypto.Hash, key *packet.PublicKey) string {
	bits, _ := key.BitLength()
	switch {
	case h == crypto.SHA1 || h == crypto.MD5:
		return h.String()
	case key.PubKeyAlgo == packet.PubKeyAlgoDSA:
		return "DSA"
	case key.PubKeyAlgo == packet.PubKeyAlgoRSA && bits < 2048:
		return fmt.Sprintf("an RSA key of %d bits", bits)
	}
	return ""
}

func errWeak(id uint64, why string) error {
	return fmt.Errorf("its signature by key %016X is made with %s, which can be forged: if the distribution is as old as that, write legacy: true beside the key in the recipe", id, why)
}

func (k *Keyring) version3(signed io.Reader, signature []byte, s Strength) error {
	p, err := old.Read(bytes.NewReader(signature))
	if err != nil {
		return fmt.Errorf("its signature cannot be read: %w", err)
	}
	sig, ok := p.(*old.SignatureV3)
	if !ok || !sig.Hash.Available() {
		return errors.New("its signature is of a kind that is not known")
	}
	if sig.SigType != old.SigTypeBinary {
		return fmt.Errorf("its signature is of type 0x%02x, not one over data", byte(sig.SigType))
	}
	key, revoked := k.key(sig.IssuerKeyId, sig.CreationTime)
	if key == nil {
		return fmt.Errorf("it is signed by key %016X, which is not in %s: %w", sig.IssuerKeyId, k, ErrUnknownKey)
	}
	if revoked {
		return fmt.Errorf("its signature by key %016X does not hold: %w", sig.IssuerKeyId, reason(pgperrors.ErrKeyRevoked))
	}
	if sig.Hash == crypto.MD5 {
		return fmt.Errorf("its signature by key %016X is made with MD5, which is never accepted", sig.IssuerKeyId)
	}
	if why := weak(sig.Hash, key); why != "" && s != Legacy {
		return errWeak(sig.IssuerKeyId, why)
	}
	var raw bytes.Buffer
	if err := key.Serialize(&raw); err != nil {
		return err
	}
	p, err = old.Read(&raw)
	public, ok := p.(*old.PublicKey)
	if err != nil || !ok {
		return fmt.Errorf("key %016X cannot be used with version 3 signatures: %v", sig.IssuerKeyId, err)
	}
	h := sig.Hash.New()
	if _, err := io.Copy(h, signed); err != nil {
		return err
	}
	if err := public.VerifySignatureV3(h, sig); err != nil {
		return fmt.Errorf("its signature by key %016X does not hold: %w", sig.IssuerKeyId, err)
	}
	return nil
}

// key finds a primary key or subkey by its id, and tells whether what it signed at a time is void because it was revoked.
func (k *Keyring) key(id uint64, at time.Time) (key *packet.PublicKey, revoked bool) {
	for _, e := range k.keys {
		if e.PrimaryKey.KeyId == id {
			return e.PrimaryKey, e.Revoked(at)
		}
		for _, sub := range e.Subkeys {
			if sub.PublicKey.KeyId == id {
				return sub.PublicKey, e.Revoked(at) || sub.Revoked(nil, at)
			}
		}
	}
	return nil, false
}
