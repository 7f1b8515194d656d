package fetch

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"
)

// algorithms are told apart by the length of their sums in hex. SHA-1 is there for repositories of EL6, which know no
// other; whoever makes an Item of one decides whether that is good enough.
var algorithms = map[int]struct {
	name, folder string
	new          func() hash.Hash
}{
	2 * sha1.Size:   {"SHA-1", "sha1", sha1.New},
	2 * sha256.Size: {"SHA-256", "sha256", sha256.New},
	2 * sha512.Size: {"SHA-512", "sha512", sha512.New},
}

func validSum(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && algorithms[len(s)].new != nil && s == strings.ToLower(s)
}

// hashOf returns the hash function that made sum, which is valid.
func hashOf(sum string) hash.Hash { return algorithms[len(sum)].new() }

func hashName(sum string) string { return algorithms[len(sum)].name }

// folderOf is where the cache keeps blobs with sums of that length.
func folderOf(sum string) string {
	if a, ok := algorithms[len(sum)]; ok {
		return a.folder
	}
	return "sha256"
}
