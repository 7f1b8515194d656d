package kmod

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"netroot/builder/tree"
)

// maxModule bounds what a module may unfold to; the largest of Debian's (amdgpu) has 30 MB.
const maxModule = 256 << 20

// Content returns the module's ELF file, decompressed, in memory that the next call uses again: all modules of a root together have
// hundreds of megabytes.
func (x *Index) Content(m *Module) ([]byte, error) {
	f, err := tree.Open(x.fsys, x.Path(m))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", m.Name, err)
	}
	defer f.Close()
	var r io.Reader = f
	switch path.Ext(m.File) {
	case ".ko":
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".xz":
		r, err = xz.NewReader(bufio.NewReader(f)) // it takes byte after byte
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1)); err == nil {
			defer z.Close()
			r = z
		}
	default:
		return nil, fmt.Errorf("read module %s: %s is compressed in an unknown way", m.Name, m.File)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress module %s: %w", m.File, err)
	}
	x.content.Reset()
	if _, err := x.content.ReadFrom(io.LimitReader(r, maxModule+1)); err != nil {
		return nil, fmt.Errorf("read module %s: %w", m.File, err)
	}
	if x.content.Len() > maxModule {
		return nil, fmt.Errorf("read module %s: larger than %d MiB", m.File, maxModule>>20)
	}
	return x.content.Bytes(), nil
}

// Modinfo returns the values that a module (its ELF file) gives for a key of modinfo(8), such as "firmware".
func Modinfo(ko []byte, key string) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	b, err := s.Data()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, kv := range strings.Split(string(b), "\x00") {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			list = append(list, v)
		}
	}
	return list, nil
}

// FindFirmware returns the file in the root (compressed or not) that the kernel would load for a firmware name.
func (x *Index) FindFirmware(name string) (file string, ok bool) {
	if !fs.ValidPath(name) { // names come out of modules: "../" has no place in one
		return "", false
	}
	for _, dir := range x.firmwareDirs() {
		for _, suffix := range []string{"", ".zst", ".xz"} {
			f := path.Join(dir, name+suffix)
			if info, err := tree.Stat(x.fsys, f); err == nil && info.Mode().IsRegular() {
				return f, true
			}
		}
	}
	return "", false
}

// Firmware returns the firmware files that the module says it may load.
func (x *Index) Firmware(m *Module) ([]string, error) {
	b, err := x.Content(m)
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(b, []byte("firmware=")) {
		return nil, nil
	}
	names, err := Modinfo(b, "firmware")
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", m.File, err)
	}
	return names, nil
}
