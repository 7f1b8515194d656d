//go:build e2e

package boot_test

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkNFS reads a file of 1 GiB and walks a whole root with libnfs's programs, one and sixteen at once, from netroot and
// from nfs-ganesha.
func BenchmarkNFS(b *testing.B) {
	for _, tool := range []string{"nfs-cat", "nfs-ls"} {
		needPeer(b, tool)
	}
	c, netroot := newContest(b)
	ganesha := c.ganesha(b)
	url := func(export string, nfs, mount int, path string) string {
		return fmt.Sprintf("nfs://127.0.0.1%s%s?version=3&nfsport=%d&mountport=%d", export, path, nfs, mount)
	}
	for b.Loop() {
		for _, work := range []struct {
			label     string
			n, rounds int
			path      string
			program   []string
		}{
			{"read", 1, 7, "/data/big", []string{"nfs-cat"}},
			{"read16", 16, 3, "/data/big", []string{"nfs-cat"}},
			{"walk", 1, 7, "", []string{"nfs-ls", "-R"}},
			{"walk16", 16, 3, "", []string{"nfs-ls", "-R"}},
		} {
			at := func(url string) func() time.Duration {
				return func() time.Duration { return c.clients(b, work.n, work.program[0], append(work.program[1:], url)...) }
			}
			compare(b, work.label, work.rounds,
				side{netroot, at(url(c.image, netrootNFS, netrootNFS, work.path))},
				side{ganesha, at(url(c.folder, ganeshaNFS, ganeshaMount, work.path))})
		}
	}
}
