package iso

import (
	"errors"
	"fmt"
	"io"

	"netroot/builder/image"
)

// Types of st_mode.
const (
	modeType    = 0o170000
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeSymlink = 0o120000
	plainMode   = 0o555 // of what has no mode, as Linux mounts it
)

// A walker reads all folders from the root down.
type walker struct {
	file     io.ReaderAt
	size     int64
	volume   *volume
	rock     bool
	susp     susp
	budget   int64 // bytes of records that may be read: folders that share their blocks would be read for ever
	assembly *image.Assembly
	folders  []folder
	seen     map[int64]bool // places of folders

	sector   [sectorSize]byte // the last continuation area
	sectorAt int64
}

type folder struct {
	inode *image.Inode
	start int64
	size  int64
	path  string
}

func (w *walker) walk() error {
	w.seen, w.sectorAt = map[int64]bool{}, -1
	if !w.volume.joliet {
		var err error
		if w.susp, w.rock, err = findSUSP(w.file, w.volume); err != nil {
			return err
		}
	}
	root, err := readRecord(w.volume.root, firstSector*sectorSize+156, w.volume.blockSize)
	if err != nil {
		return err
	}
	if _, err := w.addFolder(root.start, nil, "/"); err != nil {
		return fmt.Errorf("the root folder %w", err)
	}
	for n := 0; n < len(w.folders); n++ {
		if err := w.fill(w.folders[n]); err != nil {
			return err
		}
	}
	return nil
}

// number is the inode number that Linux gives to what has its record at place (isofs_get_ino).
func number(place int64) uint64 { return uint64(place >> 5) }

// addFolder reads the record that a folder has of itself, and leaves its other records for later.
func (w *walker) addFolder(start int64, parent *image.Inode, path string) (*image.Inode, error) {
	if w.seen[start] {
		return nil, fmt.Errorf("has two names: the folder at byte %d is found again as %s", start, path)
	}
	w.seen[start] = true
	b := make([]byte, 255)
	if n, err := w.file.ReadAt(b, start); err != nil && err != io.EOF {
		return nil, err
	} else if n < 34 {
		return nil, &image.OutsideError{End: start + 34}
	}
	dot, err := readRecord(b, start, w.volume.blockSize)
	if err != nil {
		return nil, err
	}
	if !dot.isDir() || dot.name != "\x00" || dot.start != start {
		return nil, fmt.Errorf("has no record of itself at byte %d", start)
	}
	if dot.size <= 0 || dot.start > w.size-dot.size {
		return nil, &image.OutsideError{End: dot.start + dot.size}
	}
	i := image.Inode{Nid: number(start), Mode: modeDir | plainMode, Nlink: 2, Size: dot.size, Mtime: dot.time}
	if w.rock {
		k, err := w.rockOf(dot)
		if err != nil {
			return nil, err
		}
		k.apply(&i)
		if i.Mode&modeType != modeDir {
			return nil, fmt.Errorf("has the mode %#o, which is not one of a folder", i.Mode)
		}
	}
	inode, err := w.assembly.Folder(i, parent)
	if err != nil {
		return nil, err
	}
	w.folders = append(w.folders, folder{inode, start, dot.size, path})
	return inode, nil
}

// apply gives an inode what Rock Ridge says of it.
func (k *rock) apply(i *image.Inode) {
	if k.px {
		i.Mode, i.Nlink, i.UID, i.GID = k.mode, k.nlink, k.uid, k.gid
		if t := i.Mode & modeType; t == 0o020000 || t == 0o060000 {
			i.Rdev = k.device
		}
	}
	if !k.mtime.IsZero() {
		i.Mtime = k.mtime
	}
}

// fill reads a folder's records.
func (w *walker) fill(f folder) error {
	fail := func(name string, err error) error { return fmt.Errorf("%s%s: %w", f.path, name, err) }
	if w.budget -= f.size; w.budget < 0 {
		return fail("", errors.New("the folders hold more records than the ISO has room for"))
	}
	data := make([]byte, f.size)
	if _, err := w.file.ReadAt(data, f.start); err != nil {
		return fail("", fmt.Errorf("read folder: %w", err))
	}
	var entries []image.Entry
	var parts []record // of a file that goes on
	for at := 0; at < len(data); {
		if data[at] == 0 { // no record crosses the end of a sector (ECMA-119 6.8.1.1)
			at = (at/sectorSize + 1) * sectorSize
			continue
		}
		r, err := readRecord(data[at:min(len(data), (at/sectorSize+1)*sectorSize)], f.start+int64(at), w.volume.blockSize)
		if err != nil {
			return fail("", err)
		}
		at += int(data[at])
		if r.isDot() || r.flags&flagAssociated != 0 {
			continue
		}
		if len(parts) > 0 && parts[0].name != r.name {
			return fail("", fmt.Errorf("%q does not go on in the next record, as it should", plainName(parts[0].name)))
		}
		parts = append(parts, r)
		if r.flags&flagMore != 0 {
			continue
		}
		e, ok, err := w.entry(f, parts)
		if err != nil {
			return fail(plainName(parts[0].name), err)
		}
		if ok {
			entries = append(entries, e)
		}
		parts = parts[:0]
	}
	if len(parts) > 0 {
		return fail("", fmt.Errorf("%q goes on in a record that is not there", plainName(parts[0].name)))
	}
	w.assembly.Fill(f.inode, entries)
	return nil
}

// entry makes the inode of a file with all its records, or says that it is not to be shown.
func (w *walker) entry(f folder, parts []record) (e image.Entry, ok bool, err error) {
	r := parts[0]
	k := &rock{}
	if w.rock {
		if k, err = w.rockOf(r); err != nil {
			return e, false, err
		}
		if k.relocated {
			return e, false, nil
		}
	}
	switch {
	case k.name.Len() > 0:
		e.Name = k.name.String()
	case w.volume.joliet:
		e.Name = jolietName(r.name)
	default:
		e.Name = plainName(r.name)
	}
	if e.Name == "" || e.Name == "." || e.Name == ".." || containsAny(e.Name) {
		return e, false, fmt.Errorf("%q is not a name", e.Name)
	}
	switch {
	case k.child != 0:
		e.Inode, err = w.addFolder(k.child*int64(w.volume.blockSize), f.inode, f.path+e.Name+"/")
		return e, err == nil, err
	case r.isDir():
		e.Inode, err = w.addFolder(r.start, f.inode, f.path+e.Name+"/")
		return e, err == nil, err
	}
	i := image.Inode{Nid: number(r.place), Mode: modeRegular | plainMode, Nlink: 1, Mtime: r.time}
	k.apply(&i)
	switch i.Mode & modeType {
	case modeDir:
		return e, false, errors.New("its record is one of a file, its mode one of a folder")
	case modeSymlink:
		e.Inode, err = w.assembly.Symlink(i, k.target.text.String())
		return e, err == nil, err
	case modeRegular:
	case 0:
		i.Mode |= modeRegular
	default:
		parts = nil // a device has no data
	}
	var runs []image.Run
	for _, p := range parts {
		runs = append(runs, image.Run{Place: p.start, Size: p.size})
	}
	e.Inode, err = w.assembly.File(i, runs)
	return e, err == nil, err
}

func containsAny(name string) bool {
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return true
		}
	}
	return false
}

// rockOf reads what Rock Ridge says of a record.
func (w *walker) rockOf(r record) (*rock, error) {
	skip := w.susp.skip
	if len(w.folders) == 0 { // it is the root's own
		skip = w.susp.first
	}
	return parseRock(r.use[min(skip, len(r.use)):], &systemUse{read: w.continuation})
}

// continuation reads a piece of a block that a system use area goes on in.
func (w *walker) continuation(block, off, size int64) ([]byte, error) {
	at := block*int64(w.volume.blockSize) + off
	if size > sectorSize || size > w.size || at > w.size-size {
		return nil, fmt.Errorf("%d bytes at byte %d are outside of the ISO, or too many", size, at)
	}
	if w.budget -= size; w.budget < 0 {
		return nil, errors.New("more is continued than the ISO has room for")
	}
	b := make([]byte, size)
	if w.sectorAt >= 0 && at >= w.sectorAt && at+size <= w.sectorAt+sectorSize {
		copy(b, w.sector[at-w.sectorAt:])
		return b, nil
	}
	start := at &^ (sectorSize - 1)
	n, err := w.file.ReadAt(w.sector[:], start)
	if err != nil && err != io.EOF {
		w.sectorAt = -1
		return nil, err
	}
	clear(w.sector[n:])
	w.sectorAt = start
	if at+size > start+sectorSize {
		_, err = w.file.ReadAt(b, at)
		return b, err
	}
	copy(b, w.sector[at-start:])
	return b, nil
}
