package dpkg

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Digest names what Assemble and Configure make of a root: it is the same for the same packages in the same order, architecture and apt sources.
// The date that a session is given comes from the packages, too (Newest); what else a script may ask for, the caller adds: the host's name
// and what program runs this.
func (r Root) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q\n", r.Arch, r.Sources)
	for _, p := range r.Packages {
		fmt.Fprintf(h, "%q %q %q %q\n", p.Name, p.Version, p.Arch, p.Sum())
	}
	return hex.EncodeToString(h.Sum(nil))
}
