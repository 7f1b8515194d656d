package rpm

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
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
// A signature over the header is enough when the header vouches for the payload (rpm 4.14 and newer); older packages need the
// one over header and payload.
func (f *File) Verify(keys *pgp.Keyring, s pgp.Strength) error {
	if err := f.digests(); err != nil {
		return fmt.Errorf("%s: %w", f, err)
	}
	if keys == nil {
		return nil
	}
	whole := []Tag{SigPGP, SigGPG}
	over := map[Tag]func() io.Reader{SigRSA: f.header, SigDSA: f.header, SigPGP: f.body, SigGPG: f.body}
	choices := whole
	if f.Header.Has(TagPayloadDigest) {
		choices = []Tag{SigRSA, SigDSA, SigPGP, SigGPG}
	}
	for _, t := range choices {
		if sig := f.Signature.Bytes(t); sig != nil {
			return keys.VerifyPackage(f.String(), over[t](), sig, s)
		}
	}
	if f.Signature.Has(SigRSA) || f.Signature.Has(SigDSA) {
		return fmt.Errorf("%s: only its header is signed, and that says nothing of its files' archive", f)
	}
	return fmt.Errorf("%s is not signed", f)
}

// digests checks what the signature header and the header say of the bytes.
func (f *File) digests() error {
	if size, ok := f.Signature.Number(SigSize); ok && int64(size) != f.size-f.headerOff {
		return fmt.Errorf("it has %d bytes of header and payload instead of %d", f.size-f.headerOff, size)
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
	payload := ""
	if algo, _ := f.Header.Number(TagPayloadDigAlgo); algo == hashSHA256 {
		payload = f.Header.String(TagPayloadDigest)
	}
	if err := errors.Join(
		check("header", sha256.New(), f.header(), f.Signature.String(SigSHA256)),
		check("header", sha1.New(), f.header(), f.Signature.String(SigSHA1)),
		check("payload", sha256.New(), io.NewSectionReader(f.r, f.payload, f.size-f.payload), payload),
	); err != nil {
		return err
	}
	if payload == "" {
		if err := check("header and payload", md5.New(), f.body(), hex.EncodeToString(f.Signature.Bytes(SigMD5))); err != nil {
			return err
		}
	}
	if checks == 0 {
		return errors.New("it has no digest of any kind")
	}
	return nil
}

// hashSHA256 is OpenPGP's number for it (RFC 4880, 9.4), which headers use.
const hashSHA256 = 8
