package yum

import (
	"encoding/xml"
	"fmt"
	"io"
)

// Metadata that is packed may unpack to a thousand times its size, and repositories need not be signed. dnf 4.14 does not look at the sizes
// that repomd.xml states for what is unpacked. Fedora, the largest distribution of RPMs, has 200 MB of primary metadata, 1 GB of lists
// of files, and 3 MB of groups.
const (
	maxPrimary   = 768 << 20
	maxFilelists = 2 << 30 // read as a stream, nothing of it is kept but what was asked for
	maxGroups    = 32 << 20
	maxToken     = 1 << 20 // one tag, or the text up to the next one
	maxElements  = 8 << 20 // of all packages
	maxOfPackage = 1 << 18 // kernels provide tens of thousands of symbols
)

// limit is how many bytes a file may unpack to.
func (f dataFile) limit() int64 {
	most := int64(maxGroups)
	switch f.kind {
	case "primary":
		most = maxPrimary
	case "filelists":
		most = maxFilelists
	}
	if f.openSize > 0 {
		return min(most, f.openSize)
	}
	return most
}

// moderate refuses what repomd.xml itself says is too much, before it is fetched.
func (f dataFile) moderate() error {
	most := dataFile{kind: f.kind}.limit()
	switch {
	case f.size > most:
		return fmt.Errorf("%s has %d bytes, as repomd.xml states, and no more than %d are read", f.href, f.size, most)
	case f.openSize > most:
		return fmt.Errorf("%s unpacks to %d bytes, as repomd.xml states, and no more than %d are read", f.href, f.openSize, most)
	}
	return nil
}

// bound ends what is read of a file with an error once it is more than it should be.
func (f dataFile) bound(r io.Reader) *bounded {
	limit := f.limit()
	over := fmt.Errorf("it unpacks to more than %d bytes, which is more than any repository has", limit)
	if limit == f.openSize {
		over = fmt.Errorf("it unpacks to more than the %d bytes that repomd.xml states: it is damaged, or meant to fill the memory; its owner has to run createrepo_c again", limit)
	}
	return &bounded{r: r, left: limit, over: over, untilToken: limit, elements: maxElements}
}

// bounded reads a limited number of bytes, and of those a limited number for each token of XML, which the decoder holds in memory. Of
// elements whoever reads takes no more than so many.
type bounded struct {
	r                io.Reader
	left, untilToken int64
	over             error
	elements         int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.untilToken < 0 {
		return 0, fmt.Errorf("it has a text of more than %d bytes, which none needs", maxToken)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left+1)])
	b.left -= int64(n)
	b.untilToken -= int64(n)
	if b.left < 0 {
		return 0, b.over
	}
	return n, err
}

// token reads the next one.
func (b *bounded) token(dec *xml.Decoder) (xml.Token, error) {
	b.untilToken = maxToken
	return dec.RawToken()
}
