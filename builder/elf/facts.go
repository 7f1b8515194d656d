package elf

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"netroot/builder/tree"
)

// open opens an ELF file of a root for a look at it.
func open(fsys fs.FS, name string) (*elf.File, func() error, error) {
	file, err := tree.Open(fsys, name)
	if err != nil {
		return nil, nil, err
	}
	r, ok := file.(io.ReaderAt)
	if !ok {
		b, err := io.ReadAll(file)
		if err != nil {
			file.Close()
			return nil, nil, err
		}
		r = bytes.NewReader(b)
	}
	f, err := elf.NewFile(r)
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("read %s: %w", name, err)
	}
	return f, file.Close, nil
}

// Kind says what a program or library runs on, as in "32-bit 386". What is no ELF file is an error.
func Kind(fsys fs.FS, name string) (string, error) {
	f, done, err := open(fsys, name)
	if err != nil {
		return "", err
	}
	defer done()
	o := object{class: f.Class, machine: f.Machine}
	return o.kind(), nil
}

// SOName returns the name that a library has for itself.
func SOName(fsys fs.FS, name string) (string, bool) {
	f, done, err := open(fsys, name)
	if err != nil {
		return "", false
	}
	defer done()
	names, err := f.DynString(elf.DT_SONAME)
	if err != nil || len(names) == 0 {
		return "", false
	}
	return names[0], true
}

// ConfDirs returns the folders that /etc/ld.so.conf names, includes followed.
func ConfDirs(fsys fs.FS) ([]string, error) { return ldSoConf(fsys) }

// LeastKernel returns the oldest Linux that a file runs on, as in "2.6.32": the note NT_GNU_ABI_TAG, which the C library puts
// into all that is linked with it, and heeds itself (glibc's elf/dl-load.c).
func LeastKernel(fsys fs.FS, name string) (release string, ok bool) {
	f, done, err := open(fsys, name)
	if err != nil {
		return "", false
	}
	defer done()
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<16 {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := p.ReadAt(notes, 0); err != nil && !errors.Is(err, io.EOF) {
			continue
		}
		if release, ok := abiTag(notes, f.ByteOrder); ok {
			return release, true
		}
	}
	return "", false
}

// abiTag finds the tag in a segment of notes: lengths of name and content, type, name, content, each padded to four bytes.
func abiTag(notes []byte, order binary.ByteOrder) (string, bool) {
	const linux, tag = 0, 1
	for len(notes) >= 12 {
		name, content := uint64(order.Uint32(notes)), uint64(order.Uint32(notes[4:]))
		kind := order.Uint32(notes[8:])
		pad := func(n uint64) uint64 { return (n + 3) &^ 3 }
		if 12+pad(name)+pad(content) > uint64(len(notes)) {
			return "", false
		}
		body := notes[12+pad(name):]
		if kind == tag && name == 4 && string(notes[12:16]) == "GNU\x00" && content >= 16 && order.Uint32(body) == linux {
			return fmt.Sprintf("%d.%d.%d", order.Uint32(body[4:]), order.Uint32(body[8:]), order.Uint32(body[12:])), true
		}
		notes = notes[12+pad(name)+pad(content):]
	}
	return "", false
}
