// Package image writes and reads root images: one EROFS file system per generation, uncompressed, on one device.
//
// Write packs a folder so that nothing of it is lost: all mode bits, owners, modification times to the nanosecond,
// devices, extended attributes and ACLs, and hard links as one inode with as many names. Every regular file lies in one
// run of whole blocks, so that a server can send it straight from the image file; only files with large holes are kept
// as a map of chunks. The same folder always gives the same bytes.
//
// Open reads an image into an index of inodes for concurrent use. Inode numbers are places in the image, so they mean
// the same to every process and host that has the image.
//
// The writer is our own because github.com/erofs/go-erofs 0.3.1 writes every byte twice (a spool file first), has no hard
// links, no sparse files and no checksum. It is one of the readers that the tests compare with, beside the kernel and
// fsck.erofs. Not here, because no use needs them: compression, sharing of equal blocks, shared attributes, compact
// inodes, images over 16 TiB.
package image
