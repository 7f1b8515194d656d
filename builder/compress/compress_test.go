package compress

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"netroot/builder/need"
)

// TestXZBlocks checks the parallel decoder against xz itself.
func TestXZBlocks(t *testing.T) {
	need.Patience(t)
	need.Tools(t, "xz")
	var plain bytes.Buffer
	for i := range 40_000 {
		plain.WriteString(strings.Repeat("ab", i%7) + string(rune('a'+i%26)))
	}
	for _, args := range [][]string{{"--block-size=20000"}, {"--block-size=16385", "--check=sha256"}, {"--block-size=10000", "--check=none", "-0"}, {"-6", "--check=crc32"}} {
		cmd := exec.Command("xz", append(args, "-T2", "-c")...)
		cmd.Stdin = bytes.NewReader(plain.Bytes())
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		size := int64(len(packed))
		blocks, _, ok := xzBlocks(bytes.NewReader(packed), size)
		if want := len(args) > 1 && strings.HasPrefix(args[0], "--block") || args[0] == "--block-size=20000"; ok != want {
			t.Errorf("%v: parallel is %v with %d blocks", args, ok, len(blocks))
		}
		z, err := Open(t.Context(), bytes.NewReader(packed), size, ".xz")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(got, plain.Bytes()) {
			t.Errorf("%v: %d of %d bytes, %v", args, len(got), plain.Len(), err)
		}
		z.Close()
		if !ok {
			continue
		}
		// A flipped bit anywhere is noticed, but for files without checksums.
		if strings.Contains(strings.Join(args, " "), "check=none") {
			continue
		}
		for at := 20; at < len(packed); at += len(packed) / 50 {
			bad := bytes.Clone(packed)
			bad[at] ^= 0x10
			if z, err := Open(t.Context(), bytes.NewReader(bad), size, ".xz"); err == nil {
				if got, err := io.ReadAll(z); err == nil && !bytes.Equal(got, plain.Bytes()) {
					t.Errorf("%v: a flipped bit at %d goes unnoticed", args, at)
				}
				z.Close()
			}
		}
		// Giving up in the middle leaves nobody waiting.
		z, _ = Open(t.Context(), bytes.NewReader(packed), size, ".xz")
		io.ReadFull(z, make([]byte, 10))
		z.Close()
		if _, err := z.Read(make([]byte, 10)); err == nil {
			t.Error("a closed reader reads")
		}
	}
}

func FuzzXZIndex(f *testing.F) {
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := w.Write([]byte("hello")); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		blocks, flags, ok := xzBlocks(bytes.NewReader(data), int64(len(data)))
		if !ok {
			return
		}
		var end int64
		for _, b := range blocks {
			if b.off < end || b.off+b.unpadded > int64(len(data)) || b.size > maxBlock {
				t.Fatalf("block %+v of a file of %d bytes", b, len(data))
			}
			end = b.off + b.unpadded
			io.Copy(io.Discard, b.stream(bytes.NewReader(data), flags))
		}
	})
}
