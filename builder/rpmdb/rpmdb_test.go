package rpmdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/builder/need"
)

func run(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// headers reads a database file whole.
func headers(t *testing.T, path string) [][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var list [][]byte
	if err := Read(f, info.Size(), func(h []byte) error { list = append(list, bytes.Clone(h)); return nil }); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return list
}

// installed makes a database of a few dozen packages with rpm itself. They have no files but lists of words to provide, so that headers
// are of many sizes.
func installed(t *testing.T, dir, backend string, n int) (path string) {
	t.Helper()
	t.Helper()
	top := filepath.Join(dir, "top")
	for i := range n {
		var provides strings.Builder
		for j := range i * i * 3 {
			fmt.Fprintf(&provides, "Provides: word-%d-%d\n", i, j)
		}
		spec := fmt.Sprintf("Name: demo%d\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n%s%%description\nx\n%%files\n", i, provides.String())
		name := filepath.Join(dir, fmt.Sprintf("demo%d.spec", i))
		if err := os.WriteFile(name, []byte(spec), 0o644); err != nil {
			t.Fatal(err)
		}
		run(t, nil, "rpmbuild", "-bb", "--define", "_topdir "+top, "--define", "_rpmdir "+top, "--define", "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm", "--define", "_dbpath "+dir+"/none", name)
	}
	rpms, err := filepath.Glob(top + "/*.rpm")
	if err != nil || len(rpms) != n {
		t.Fatalf("%d packages, %v", len(rpms), err)
	}
	db := filepath.Join(dir, backend)
	run(t, nil, append([]string{"rpm", "-i", "--justdb", "--nodeps", "--define", "_db_backend " + backend, "--dbpath", db}, rpms...)...)
	return filepath.Join(db, Files[Format(backend)])
}

// rpm writes a database, and this package finds every package in it, whole. Debian's rpm cannot write ndb; the same headers in a file
// laid out as rpmpkg.c does it come out again.
func TestRead(t *testing.T) {
	need.Patience(t)
	need.Tools(t, "rpm", "rpmbuild")
	const n = 14
	path := installed(t, t.TempDir(), string(SQLite), n)
	list := headers(t, path)
	if len(list) != n {
		t.Fatalf("%d packages of %d", len(list), n)
	}
	for _, h := range list {
		if il, dl := binary.BigEndian.Uint32(h), binary.BigEndian.Uint32(h[4:]); int(8+16*il+dl) != len(h) {
			t.Errorf("a header of %d bytes says it has %d entries and %d bytes", len(h), il, dl)
		}
		i := bytes.Count(h, []byte("\x00word-")) // in its list of what it provides
		if !bytes.Contains(h, fmt.Appendf(nil, "\x00demo%d\x00", isqrt(i/3))) {
			t.Errorf("a header has %d words of another", i)
		}
	}
	slots, blobs := []byte("RpmP\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00"+strings.Repeat("\x00", 16)), []byte(nil)
	for i, h := range list {
		number := uint32(i + 1)
		size := (16 + len(h) + 12 + 15) &^ 15
		slots = le(append(slots, "Slot"...), number, uint32(4096+len(blobs))/16, uint32(size)/16)
		blob := append(le([]byte("BlbS"), number, 1, uint32(len(h))), h...)
		blobs = append(append(blobs, blob...), make([]byte, size-len(blob))...)
	}
	for len(slots) < 4096 {
		slots = le(append(slots, "Slot"...), 0, 0, 0)
	}
	ndb := filepath.Join(t.TempDir(), "Packages.db")
	if err := os.WriteFile(ndb, append(slots, blobs...), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := headers(t, ndb); !slices.EqualFunc(got, list, bytes.Equal) {
		t.Errorf("ndb has %d headers, which are not those that were put there", len(got))
	}
}

func le(b []byte, numbers ...uint32) []byte {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

func isqrt(n int) int {
	i := 0
	for (i+1)*(i+1) <= n {
		i++
	}
	return i
}

// Berkeley DB's own loader writes the hash file that rpm of EL6 would.
func TestReadBerkeleyDB(t *testing.T) {
	need.Tools(t, "db5.3_load")
	for _, pageSize := range []int{512, 4096, 32768} {
		var dump bytes.Buffer
		fmt.Fprintf(&dump, "VERSION=3\nformat=bytevalue\ntype=hash\ndb_pagesize=%d\nHEADER=END\n", pageSize)
		fmt.Fprintf(&dump, " 00000000\n 39050000\n") // rpm's record 0
		want := map[string]bool{}
		for i := 1; i <= 60; i++ {
			value := bytes.Repeat([]byte{byte(i), byte(i >> 8), 0xfe}, 10+i*i)
			want[string(value)] = true
			fmt.Fprintf(&dump, " %08x\n %x\n", i, value)
		}
		dump.WriteString("DATA=END\n")
		path := filepath.Join(t.TempDir(), "Packages")
		run(t, dump.Bytes(), "db5.3_load", path)
		got := headers(t, path)
		for _, value := range got {
			if !want[string(value)] {
				t.Errorf("pages of %d: %d bytes that nobody put there", pageSize, len(value))
			}
			delete(want, string(value))
		}
		if len(want) != 0 {
			t.Errorf("pages of %d: %d values were not found", pageSize, len(want))
		}
	}
}

func TestReadNothing(t *testing.T) {
	for _, data := range []string{"", "x", "SQLite format 3\x00", "RpmP", strings.Repeat("\x00", 4096)} {
		if err := Read(strings.NewReader(data), int64(len(data)), func([]byte) error { return nil }); err == nil {
			t.Errorf("%.20q: no error", data)
		}
	}
}

func FuzzRead(f *testing.F) {
	sqlite := append([]byte("SQLite format 3\x00\x02\x00\x01\x01\x00\x40\x20\x20"), make([]byte, 1000)...)
	sqlite[100], sqlite[104] = sqliteLeaf, 1
	f.Add(sqlite)
	ndb := append([]byte("RpmP\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00"), make([]byte, 4080)...)
	copy(ndb[32:], "Slot\x01\x00\x00\x00\x02\x00\x00\x00\x01")
	f.Add(ndb)
	bdb := make([]byte, 1024)
	binary.LittleEndian.PutUint32(bdb[12:], bdbMagic)
	binary.LittleEndian.PutUint32(bdb[20:], 512)
	bdb[25], bdb[32] = bdbHashMeta, 1
	bdb[512+20], bdb[512+25] = 2, bdbHash
	f.Add(bdb)
	f.Fuzz(func(t *testing.T, data []byte) {
		total := 0
		_ = Read(bytes.NewReader(data), int64(len(data)), func(h []byte) error { total += len(h); return nil })
	})
}
