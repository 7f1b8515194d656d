package image

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// An Assembly puts the inodes of a file system of another kind together into an Image, so that whoever reads and serves images
// does so with it too. Its files must lie in the clear: each as runs of bytes of the one file on disk.
type Assembly struct{ img *Image }

// A Run is a piece of a file's data: Size bytes at Place of the file on disk.
type Run struct{ Place, Size int64 }

// Assemble begins an Image that lies in f, whose path is what errors call it and which has size bytes. The Image takes f over.
func Assemble(f *os.File, path string, size int64) *Assembly {
	img := &Image{path: path, file: f, size: size, byNid: make(map[uint64]*Inode)}
	img.super.blockBits = 11 // of ISO 9660
	return &Assembly{img}
}

// OutsideError is an inode whose data ends past the end of the image.
type OutsideError struct{ End int64 }

func (e *OutsideError) Error() string {
	return fmt.Sprintf("has data up to byte %d, past the end of the image", e.End)
}

func (a *Assembly) add(i Inode) (*Inode, error) {
	if _, taken := a.img.byNid[i.Nid]; taken {
		return nil, fmt.Errorf("inode %d is there twice", i.Nid)
	}
	p := &i
	a.img.byNid[i.Nid] = p
	a.img.used += i.Size
	return p, nil
}

// File adds an inode that is neither folder nor symlink. Its size is that of its runs.
func (a *Assembly) File(i Inode, runs []Run) (*Inode, error) {
	i.side, i.Size = -1, 0
	var list []extent
	for _, r := range runs {
		if r.Size == 0 {
			continue
		}
		if r.Place < 0 || r.Size < 0 || r.Size > a.img.size || r.Place > a.img.size-r.Size {
			return nil, &OutsideError{r.Place + r.Size}
		}
		if n := len(list); n == 0 || list[n-1].place+i.Size-list[n-1].off != r.Place {
			list = append(list, extent{i.Size, r.Place})
		}
		i.Size += r.Size
	}
	if len(list) > 0 {
		i.head, i.headOff = i.Size, list[0].place
	}
	if len(list) > 1 {
		i.side = int32(len(a.img.chunks))
		a.img.chunks = append(a.img.chunks, list)
	}
	return a.add(i)
}

// Symlink adds a symlink.
func (a *Assembly) Symlink(i Inode, target string) (*Inode, error) {
	if target == "" || len(target) > symlinkMax || strings.ContainsRune(target, 0) {
		return nil, fmt.Errorf("is a symlink with a target of %d bytes", len(target))
	}
	i.Size, i.side = int64(len(target)), int32(len(a.img.links))
	a.img.links = append(a.img.links, target)
	return a.add(i)
}

// Folder adds a folder, which is in parent; the first one is the root, and its parent nil.
func (a *Assembly) Folder(i Inode, parent *Inode) (*Inode, error) {
	p, err := a.add(i)
	if err != nil {
		return nil, err
	}
	if parent == nil {
		if a.img.root != nil {
			return nil, errors.New("is a second root")
		}
		a.img.root, parent = p, p
	}
	a.img.addDir(p, parent)
	return p, nil
}

// Fill gives a folder its entries. Of several with one name the first stays, as with a reader that stops at what it finds.
func (a *Assembly) Fill(dir *Inode, entries []Entry) {
	slices.SortStableFunc(entries, func(x, y Entry) int { return strings.Compare(x.Name, y.Name) })
	a.img.dirs[dir.side].entries = slices.CompactFunc(entries, func(x, y Entry) bool { return x.Name == y.Name })
}

// Image ends the assembly.
func (a *Assembly) Image() (*Image, error) {
	if a.img.root == nil {
		return nil, errors.New("there is no root folder")
	}
	return a.img, nil
}
