package rpm

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"netroot/builder/pgp"
)

// Verify checks that the file is what it was when it was made: the digests of its header and payload, and one signature that a
// key of keys has made. With no keys the digests are all there is.
//
// A signature over the header is enough when the header vouches for the payload (rpm 4.14 and newer) with a digest that can be checked
// here; other packages need the one over header and payload.
func (f *File) Verify(keys *pgp.Keyring, s pgp.Strength) error {
	by, err := f.digests()
	if err != nil {
		return fmt.Errorf("%s: %w", f, err)
	}
	if keys == nil {
		if by == nothing {
			return fmt.Errorf("%s: no digest that is known here vouches for its files' archive, and no signature is asked for", f)
		}
		return nil
	}
	whole := []Tag{SigPGP, SigGPG}
	over := map[Tag]func() io.Reader{SigRSA: f.header, SigDSA: f.header, SigPGP: f.body, SigGPG: f.body}
	choices := whole
	if by == theHeader {
		choices = []Tag{SigRSA, SigDSA, SigPGP, SigGPG}
	}
	for _, t := range choices {
		if sig := f.Signature.Bytes(t); sig != nil {
			return keys.VerifyPackage(f.String(), over[t](), sig, s)
		}
	}
	if f.Signature.Has(SigRSA) || f.Signature.Has(SigDSA) {
		return fmt.Errorf("%s: only its header is signed, and that has no digest that is known here of its files' archive", f)
	}
	return fmt.Errorf("%s is not signed", f)
}

// voucher is what vouches for a payload by a digest that was checked.
type voucher int

const (
	nothing         voucher = iota
	signatureHeader         // which is itself not signed
	theHeader               // which may be
)

// digests checks what the signature header and the header say of the bytes.
func (f *File) digests() (voucher, error) {
	if size, ok := f.Signature.Number(SigSize); ok && int64(size) != f.size-f.headerOff {
		return nothing, fmt.Errorf("it has %d bytes of header and payload instead of %d", f.size-f.headerOff, size)
	}
	checks := 0
	check := func(what string, h hash.Hash, r io.Reader, want string) error {
		if want == "" {
			return nil
		}
		checks++
		if _, err := io.Copy(h, r); err != nil {
			return short(err)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != want {
			return fmt.Errorf("the digest of its %s is %s instead of %s", what, got, want)
		}
		return nil
	}
	if err := errors.Join(
		check("header", sha256.New(), f.header(), f.Signature.String(SigSHA256)),
		check("header", sha1.New(), f.header(), f.Signature.String(SigSHA1)),
	); err != nil {
		return nothing, err
	}
	by, payload := nothing, f.Header.String(TagPayloadDigest)
	if algo, _ := f.Header.Number(TagPayloadDigAlgo); payload != "" && payloadHashes[algo] != nil {
		by = theHeader
		if err := check("payload", payloadHashes[algo](), io.NewSectionReader(f.r, f.payload, f.size-f.payload), payload); err != nil {
			return nothing, err
		}
	} else if sum := f.Signature.Bytes(SigMD5); sum != nil {
		by = signatureHeader
		if err := check("header and payload", md5.New(), f.body(), hex.EncodeToString(sum)); err != nil {
			return nothing, err
		}
	}
	if checks == 0 {
		return nothing, errors.New("it has no digest of any kind")
	}
	return by, nil
}

// payloadHashes are the digests that can vouch for a payload, by OpenPGP's numbers for them (RFC 4880, 9.4), which headers use. SHA-1 and
// MD5 are not among them: a signature over a header with such a digest would be no stronger than that.
var payloadHashes = map[uint64]func() hash.Hash{8: sha256.New, 9: sha512.New384, 10: sha512.New, 11: sha256.New224}
