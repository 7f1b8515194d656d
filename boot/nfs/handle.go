package nfs

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"syscall"

	"netroot/builder/image"
)

// Status codes of NFS version 3.
const (
	nfsOK          = 0
	errAcces       = 13
	errNoEnt       = 2
	errIO          = 5
	errNotDir      = 20
	errInval       = 22
	errROFS        = 30
	errNameTooLong = 63
	errStale       = 70
	errBadHandle   = 10001
	errBadCookie   = 10003
	errTooSmall    = 10005
	errJukebox     = 10008
)

// Exports are the images a server has. Implementations are called from many goroutines; an error that is (errors.Is) fs.ErrNotExist
// says that there is no such image, any other that it cannot be reached now. Images must stay open as long as the server runs.
type Exports interface {
	// Open finds an image by the path clients mount it by: "/debian-12" or "/debian-12@3". The identity must be the same for the same
	// content on every server and at all times.
	Open(path string) (id [16]byte, img *image.Image, err error)
	// ByID finds an image by its identity. It is asked again and again while clients use it, and must go on finding an
	// image that Open has stopped to find as long as its data is there.
	ByID(id [16]byte) (*image.Image, error)
	// List gives the paths that Open knows.
	List() []string
}

// A file handle is the version, three zero bytes, the image's identity and the inode number in network byte order.
const (
	handleVersion = 1
	handleSize    = 28
	handleMax     = 64 // NFS3_FHSIZE
)

func putHandle(b []byte, e *export, i *image.Inode) []byte {
	b = put32(b, handleSize)
	b = append(b, handleVersion, 0, 0, 0)
	b = append(b, e.id[:]...)
	return put64(b, i.Nid)
}

// parseHandle takes a handle apart; ok is false for one that this server cannot have made.
func parseHandle(h []byte) (id [16]byte, nid uint64, ok bool) {
	if len(h) != handleSize || h[0] != handleVersion || h[1]|h[2]|h[3] != 0 {
		return id, 0, false
	}
	copy(id[:], h[4:20])
	return id, binary.BigEndian.Uint64(h[20:]), true
}

// export is an image as one connection sees it.
type export struct {
	id   [16]byte
	img  *image.Image
	fsid uint64
	file syscall.RawConn // of the image file: keeps it from being closed inside a system call
}

func newExport(id [16]byte, img *image.Image) (*export, error) {
	raw, err := img.File().SyscallConn()
	if err != nil {
		return nil, err
	}
	return &export{id: id, img: img, fsid: binary.BigEndian.Uint64(id[:]), file: raw}, nil
}

// resolve finds the export and inode of a handle, or the status to answer.
func (c *conn) resolve(h []byte) (*export, *image.Inode, uint32) {
	id, nid, ok := parseHandle(h)
	if !ok {
		return nil, nil, errBadHandle
	}
	e := c.export
	if e == nil || e.id != id {
		img, err := c.s.Exports.ByID(id)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil, errStale
		case err == nil:
			e, err = newExport(id, img)
		}
		if err != nil {
			// Not STALE, which a machine would never recover from: it shall ask again.
			c.refused("", "find image of a file handle: "+err.Error())
			return nil, nil, errJukebox
		}
		c.export = e
	}
	i, ok := e.img.Inode(nid)
	if !ok {
		return nil, nil, errBadHandle
	}
	return e, i, nfsOK
}
