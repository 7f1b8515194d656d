// Package nfs serves images to their machines: read-only NFS version 3 (RFC 1813) with its MOUNT protocol and as
// much of NFSACL as Linux needs on one TCP port, and a portmapper (RFC 1833, version 2) for clients that are not told it.
//
// The server has no state. A file handle is the image's identity and an inode number inside it, so handles outlive the
// process and are good on every server that holds the same image; directory cookies are positions in a sorted folder that
// never changes. A request that is sent twice is answered twice with the same bytes, which is why there is no reply cache.
//
// Metadata is answered from the image's index in memory, on the goroutine that read the request, and replies leave in
// batches. File data goes from the page cache to the socket by sendfile; a read that the disk must be asked for first is
// handed to another goroutine, so that it holds up nobody: replies may leave in another order than requests came.
//
// Limits: TCP only (the portmapper also UDP); credentials are AUTH_NONE and AUTH_SYS, which prove nothing, so whoever reaches the
// port can read every file; no locking protocol (mount with nolock); every write is answered with NFS3ERR_ROFS.
// Access is judged by mode bits, root is root (no_root_squash), access control lists in an image are not looked at.
package nfs
