// Package iso reads ISO 9660 images (ECMA-119) without mounting them and without root: plain ones, with Joliet names, and with the
// Rock Ridge extension (SUSP and RRIP 1.12), which comes first where it is there. What it gives is an image.Image, whose files
// lie at known places of the ISO, so that they can be served straight from it.
//
// Names, modes and times are as of a mount by Linux: plain names in lower case and without their version, 0555 for what has no
// mode. Inode numbers are those of Linux, too: places of directory records, the same for everybody who has the ISO.
//
// The reader is our own because github.com/diskfs/go-diskfs 1.9.4 shows a file of several extents (one over 4 GiB) as several
// files of one name and a wrong size, panics on continuation areas as genisoimage writes them, and does not tell where data
// lies beyond one extent. It is one of the readers that the tests compare with, beside xorriso and isoinfo.
//
// Not here: interleaved files, zisofs compression, sparse files, extended attributes, multi-session disks (the first session is read), UDF.
// Hard links are inodes of their own, as for Linux.
package iso

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"netroot/builder/image"
)

const (
	sectorSize  = 2048
	firstSector = 16 // ECMA-119 6.2.1: the system area comes before
	maxVolumes  = 64 // descriptors that are looked at; real ISOs have four
)

var le = binary.LittleEndian

// Open reads the tree of the ISO at path. The image keeps the file open until it is closed.
func Open(path string) (*image.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open ISO: %w", err)
	}
	img, err := read(f, path)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open ISO %s: %w", path, err)
	}
	return img, nil
}

func read(f *os.File, path string) (*image.Image, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return readTree(f, st.Size(), image.Assemble(f, path, st.Size()))
}

// readTree reads the ISO that r holds.
func readTree(r io.ReaderAt, size int64, assembly *image.Assembly) (*image.Image, error) {
	v, err := chooseVolume(r, size)
	if err != nil {
		return nil, err
	}
	w := &walker{file: r, size: size, volume: v, budget: size, assembly: assembly}
	if err := w.walk(); err != nil {
		if outside := (*image.OutsideError)(nil); errors.As(err, &outside) {
			return nil, fmt.Errorf("it is cut off: it has %d bytes and its volume %d (%w); get it again", size, v.size, err)
		}
		return nil, err
	}
	return assembly.Image()
}

// A volume is what a volume descriptor says (ECMA-119 8.4, 8.5).
type volume struct {
	joliet    bool
	blockSize int
	size      int64 // bytes
	root      []byte
}

// chooseVolume reads the descriptors. Rock Ridge hangs on the primary volume; where that has none, a Joliet volume has better names.
func chooseVolume(r io.ReaderAt, size int64) (*volume, error) {
	var primary, joliet *volume
	b := make([]byte, sectorSize)
	for n := range int64(maxVolumes) {
		if _, err := r.ReadAt(b, (firstSector+n)*sectorSize); err != nil {
			if n == 0 || primary == nil && err == io.EOF {
				return nil, notISO(r, size)
			}
			break // no terminator: enough was seen
		}
		if string(b[1:6]) != "CD001" {
			if n == 0 {
				return nil, notISO(r, size)
			}
			break
		}
		switch b[0] {
		case 1, 2:
			v, err := readVolume(b)
			if err != nil {
				return nil, err
			}
			if b[0] == 1 && primary == nil {
				primary = v
			} else if v.joliet && joliet == nil {
				joliet = v
			}
		}
		if b[0] == 255 {
			break
		}
	}
	if primary == nil {
		return nil, errors.New("it has no primary volume descriptor, which every ISO 9660 image has")
	}
	if joliet == nil {
		return primary, nil
	}
	_, rock, err := findSUSP(r, primary)
	if err == nil && !rock {
		return joliet, nil
	}
	return primary, err
}

// readVolume decodes a descriptor; b is a copy's worth of bytes that the caller uses again.
func readVolume(b []byte) (*volume, error) {
	v := &volume{blockSize: int(le.Uint16(b[128:])), root: bytes.Clone(b[156 : 156+34])}
	switch v.blockSize {
	case 512, 1024, 2048:
	default:
		return nil, fmt.Errorf("its blocks have %d bytes, and 512, 1024 or 2048 were expected", v.blockSize)
	}
	v.size = int64(le.Uint32(b[80:])) * int64(v.blockSize)
	if b[0] == 2 {
		// Escape sequences of UCS-2 levels 1 to 3 (Joliet specification).
		esc := string(b[88:91])
		v.joliet = esc == "%/@" || esc == "%/C" || esc == "%/E"
	}
	return v, nil
}

// Label is the name of the volume of an ISO, "" when it cannot be read.
func Label(r io.ReaderAt) string {
	b := make([]byte, sectorSize)
	if _, err := r.ReadAt(b, firstSector*sectorSize); err != nil || string(b[1:6]) != "CD001" || b[0] != 1 {
		return ""
	}
	return strings.TrimRight(string(b[40:72]), " \x00")
}

// magics are what people take for an ISO, by how it starts.
var magics = []struct{ head, what string }{
	{"<", "a page in HTML or XML, perhaps a login or error page that came instead of the download"},
	{"\x1f\x8b", "compressed with gzip: unpack it first"},
	{"\xfd7zXZ\x00", "compressed with xz: unpack it first"},
	{"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"},
	{"BZh", "compressed with bzip2: unpack it first"},
	{"PK\x03\x04", "a ZIP archive: unpack it first"},
	{"7z\xbc\xaf", "a 7-Zip archive: unpack it first"},
	{"hsqs", "a squashfs file system, as found inside of live ISOs"},
	{"QFI\xfb", "a disk of a virtual machine (qcow2)"},
	{"\x7fELF", "a program"},
	{"-----BEGIN PGP", "an OpenPGP file, perhaps the signature of the ISO"},
}

// notISO says what a file is that is no ISO.
func notISO(r io.ReaderAt, size int64) error {
	const want = "expected \"CD001\" at byte 32769, with which every ISO 9660 image marks itself"
	if size == 0 {
		return errors.New("it is not an ISO: it is empty")
	}
	head := make([]byte, min(size, firstSector*sectorSize+6))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return err
	}
	trimmed := bytes.TrimLeft(head, " \t\r\n\ufeff")
	for _, m := range magics {
		if bytes.HasPrefix(trimmed, []byte(m.head)) {
			return fmt.Errorf("it is not an ISO but %s; %s", m.what, want)
		}
	}
	switch {
	case size < (firstSector+1)*sectorSize:
		return fmt.Errorf("it is not an ISO, or cut off: it has %d bytes; %s", size, want)
	case string(head[firstSector*sectorSize+1:][:5]) == "BEA01":
		return fmt.Errorf("it is a UDF image without ISO 9660 in it, which is not read here; %s", want)
	case len(head) > 512 && head[510] == 0x55 && head[511] == 0xaa:
		return fmt.Errorf("it is not an ISO but the image of a disk with partitions; %s", want)
	}
	return fmt.Errorf("it is not an ISO: %s", want)
}
