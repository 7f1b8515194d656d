package boot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"netroot/builder/image"
	"netroot/builder/iso"
	"netroot/builder/store"
)

// rescanInterval bounds how often handles of unknown images make the server look through the store.
const rescanInterval = time.Second

// exports offers the generations of a store by NFS: "/IMAGE" is the current generation of an image and
// "/IMAGE@GENERATION" a certain one. Images are opened when they are first asked for and stay open, so that a
// generation that gc removes meanwhile goes on serving the machines that run it.
type exports struct {
	store *store.Store

	mu    sync.Mutex
	open  map[[16]byte]*image.Image
	holds []func() // one per open image; a hold ends when its function is garbage

	opening sync.Mutex // one opens an image, and who asks for those that are open does not wait for it

	search  sync.Mutex // one looks through the store, the others wait for what it finds
	scanned time.Time
	known   map[[16]byte]store.Generation // when it was scanned
}

// mountable is the part of a generation that machines can mount.
func mountable(g store.Generation) string {
	if g.Manifest.IsRoot() {
		return store.PartRoot
	}
	return store.PartISO
}

// imageID is what file handles name an image by: the start of the SHA-256 of root.erofs or image.iso, the same on every
// server that holds the generation. A kernel and an initrd alone have none.
func imageID(g store.Generation) ([16]byte, error) {
	var id [16]byte
	part, ok := g.Manifest.Parts[mountable(g)]
	if !ok && !g.Manifest.IsRoot() {
		return id, fmt.Errorf("%s is a kernel and an initrd, with nothing to mount: %w", g.Ref(), fs.ErrNotExist)
	}
	sum, err := hex.DecodeString(part.SHA256)
	if err != nil || len(sum) < len(id) {
		return id, fmt.Errorf("open %s: image.json has no SHA-256 of %s", g.Ref(), mountable(g))
	}
	copy(id[:], sum)
	return id, nil
}

// Open finds the image that an export path names.
func (e *exports) Open(path string) ([16]byte, *image.Image, error) {
	ref := strings.Trim(path, "/")
	g, err := e.store.Resolve(ref)
	if err != nil {
		if _, _, badName := store.ParseRef(ref); badName != nil || errors.Is(err, store.ErrNotFound) {
			err = fmt.Errorf("%w (%w)", err, fs.ErrNotExist)
		}
		return [16]byte{}, nil, err
	}
	id, err := imageID(g)
	if err != nil {
		return id, nil, err
	}
	img, err := e.image(id, g)
	return id, img, err
}

// ByID finds the image that a file handle names. An error that wraps fs.ErrNotExist means that no generation has it;
// any other that the question should be asked again.
func (e *exports) ByID(id [16]byte) (*image.Image, error) {
	if img, ok := e.opened(id); ok {
		return img, nil
	}
	// After a restart all machines that run ask at once. None of them is told to come back in five seconds, which
	// is what a Linux client does that is not answered.
	e.search.Lock()
	defer e.search.Unlock()
	if img, ok := e.opened(id); ok {
		return img, nil
	}
	g, ok := e.known[id]
	if !ok {
		if time.Since(e.scanned) < rescanInterval {
			return nil, errors.New("the store was searched a moment ago")
		}
		generations, err := e.generations()
		if err != nil {
			return nil, err
		}
		e.scanned, e.known = time.Now(), map[[16]byte]store.Generation{}
		for _, g := range generations {
			if have, err := imageID(g); err == nil {
				e.known[have] = g
			}
		}
		if g, ok = e.known[id]; !ok {
			return nil, fmt.Errorf("no generation in the store has the image %x: %w", id, fs.ErrNotExist)
		}
	}
	return e.image(id, g)
}

func (e *exports) opened(id [16]byte) (*image.Image, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	img, ok := e.open[id]
	return img, ok
}

// List returns the export paths, current generations first.
func (e *exports) List() []string {
	generations, err := e.generations()
	if err != nil {
		return nil
	}
	var names, pinned []string
	for _, g := range generations {
		if _, err := imageID(g); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if g.Current {
			names = append(names, "/"+g.Image)
		}
		pinned = append(pinned, "/"+g.Ref())
	}
	return append(names, pinned...)
}

func (e *exports) generations() ([]store.Generation, error) {
	images, err := e.store.Images()
	if err != nil {
		return nil, err
	}
	var all []store.Generation
	for _, name := range images {
		generations, err := e.store.Generations(name)
		if err != nil {
			return nil, err
		}
		all = append(all, generations...)
	}
	return all, nil
}

// iso finds the ISO of a generation.
func (e *exports) iso(g store.Generation) (*image.Image, error) {
	if g.Manifest.IsRoot() {
		return nil, fmt.Errorf("%s is no ISO: %w", g.Ref(), fs.ErrNotExist)
	}
	id, err := imageID(g)
	if err != nil {
		return nil, err
	}
	return e.image(id, g)
}

func (e *exports) image(id [16]byte, g store.Generation) (*image.Image, error) {
	if img, ok := e.opened(id); ok {
		return img, nil
	}
	e.opening.Lock()
	defer e.opening.Unlock()
	if img, ok := e.opened(id); ok {
		return img, nil
	}
	open := image.Open
	if !g.Manifest.IsRoot() {
		open = iso.Open
	}
	img, err := open(g.Path(mountable(g)))
	if err != nil {
		return nil, err
	}
	release, err := g.Hold()
	if err != nil {
		img.Close()
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.holds = append(e.holds, release)
	if e.open == nil {
		e.open = make(map[[16]byte]*image.Image)
	}
	e.open[id] = img
	return img, nil
}
