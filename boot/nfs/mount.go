package nfs

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"

	"netroot/builder/image"
)

// MOUNT version 3: RFC 1813 appendix I.
const (
	progMount = 100005

	mountPathMax = 1024
	dumpMax      = 256 << 10 // bytes of the answer to DUMP, which nobody needs whole

	mountErrNoEnt       = 2
	mountErrIO          = 5
	mountErrNotDir      = 20
	mountErrNameTooLong = 63
)

func mountProgram() program {
	return program{number: progMount, version: 3, procs: []procedure{
		{"NULL", procNull}, {"MNT", procMnt}, {"DUMP", procDump}, {"UMNT", procUmnt}, {"UMNTALL", procUmntAll}, {"EXPORT", procExport},
	}}
}

// cleanPath brings the ways of writing an export's path into one: "debian-12", "/debian-12/" and "//debian-12" are "/debian-12".
func cleanPath(p string) string {
	parts := strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
	return "/" + strings.Join(parts, "/")
}

func procMnt(c *conn, q *call) bool {
	raw := q.args.opaque(recordKeep)
	if q.args.bad {
		return false
	}
	given := string(raw)
	if len(given) > mountPathMax {
		c.fail(mountErrNameTooLong)
		c.refused(given[:64]+"…", "mount: the path is longer than 1024 bytes")
		return true
	}
	path, e, dir, err := c.findExport(cleanPath(given))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			c.fail(mountErrNoEnt)
			c.refused(given, fmt.Sprintf("mount: %v; this server has %s", err, someOf(c.s.Exports.List())))
		} else if errors.Is(err, syscall.ENOTDIR) {
			c.fail(mountErrNotDir)
			c.refused(given, "mount: "+err.Error())
		} else {
			c.fail(mountErrIO)
			c.refused(given, "mount: "+err.Error())
		}
		return true
	}
	c.export = e
	name := strings.TrimPrefix(path, "/")
	c.s.mounts.add(c.client, cleanPath(given), name, e.id)
	c.s.emit(Event{Kind: Mount, Client: c.client, Path: given, Image: name})
	c.out = put32(c.out, nfsOK)
	c.out = putHandle(c.out, e, dir)
	c.out = put32(c.out, 1) // one flavor
	c.out = put32(c.out, authSys)
	return true
}

// findExport finds the export that is the longest beginning of path, and the folder in it that is the rest: libnfs mounts the
// folder of the file it wants.
func (c *conn) findExport(path string) (string, *export, *image.Inode, error) {
	id, img, err := c.s.Exports.Open(path)
	export, first := path, err
	for errors.Is(err, fs.ErrNotExist) {
		end := strings.LastIndexByte(export, '/')
		if end <= 0 {
			return "", nil, nil, first
		}
		export = export[:end]
		id, img, err = c.s.Exports.Open(export)
	}
	if err != nil {
		return "", nil, nil, err
	}
	e, err := newExport(id, img)
	if err != nil {
		return "", nil, nil, err
	}
	dir := img.Root()
	for part := range strings.FieldsFuncSeq(path[len(export):], func(r rune) bool { return r == '/' }) {
		next, ok := img.Lookup(dir, part)
		if !ok && dir.IsDir() {
			return "", nil, nil, fmt.Errorf("%s has no folder %s: %w", export, path[len(export):], fs.ErrNotExist)
		}
		if !ok || !next.IsDir() {
			return "", nil, nil, fmt.Errorf("%s in %s: %w", path[len(export):], export, syscall.ENOTDIR)
		}
		dir = next
	}
	return export, e, dir, nil
}

// someOf names the first few of a list.
func someOf(list []string) string {
	const few = 10
	switch {
	case len(list) == 0:
		return "no image"
	case len(list) > few:
		return strings.Join(list[:few], ", ") + fmt.Sprintf(" and %d more", len(list)-few)
	}
	return strings.Join(list, ", ")
}

func procUmnt(c *conn, q *call) bool {
	given := string(q.args.opaque(mountPathMax))
	if q.args.bad {
		return false
	}
	c.s.mounts.remove(c.client, cleanPath(given))
	c.s.emit(Event{Kind: Unmount, Client: c.client, Path: given, Image: strings.TrimPrefix(cleanPath(given), "/")})
	return true
}

func procUmntAll(c *conn, _ *call) bool {
	c.s.mounts.remove(c.client, "")
	c.s.emit(Event{Kind: Unmount, Client: c.client})
	return true
}

func procDump(c *conn, _ *call) bool {
	start := len(c.out)
	for _, m := range c.s.mounts.list() {
		if len(c.out)-start > dumpMax-2*mountPathMax {
			break
		}
		c.out = put32(c.out, 1)
		c.out = putString(c.out, m.client.String())
		c.out = putString(c.out, m.path)
	}
	c.out = put32(c.out, 0)
	return true
}

func procExport(c *conn, _ *call) bool {
	for _, path := range c.s.Exports.List() {
		c.out = put32(c.out, 1)
		c.out = putString(c.out, path)
		c.out = put32(c.out, 0) // no groups: for everybody
	}
	c.out = put32(c.out, 0)
	return true
}

// mountList remembers who said that it mounted what, for DUMP, and by which name an image was mounted, for events. Nothing depends on
// it: it is empty after a restart, and forgets what is too much.
type mountList struct {
	mu     sync.Mutex
	mounts []mounted
	names  map[[16]byte]string
}

type mounted struct {
	client netip.Addr
	path   string
}

func (l *mountList) add(client netip.Addr, path, name string, id [16]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.names == nil || len(l.names) > mountsMax {
		l.names = make(map[[16]byte]string)
	}
	// The name with a generation says more than the one without.
	if !strings.Contains(l.names[id], "@") {
		l.names[id] = name
	}
	m := mounted{client, path}
	if slices.Contains(l.mounts, m) {
		return
	}
	if len(l.mounts) >= mountsMax {
		l.mounts = slices.Delete(l.mounts, 0, len(l.mounts)/2)
	}
	l.mounts = append(l.mounts, m)
}

// remove forgets one mount of a client, or all when path is empty.
func (l *mountList) remove(client netip.Addr, path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mounts = slices.DeleteFunc(l.mounts, func(m mounted) bool {
		return m.client == client && (path == "" || m.path == path)
	})
}

func (l *mountList) list() []mounted {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.mounts)
}

// name is what to call an image in an event. After a restart nobody has mounted it yet, and the exports are asked.
func (l *mountList) name(exports Exports, id [16]byte) string {
	l.mu.Lock()
	name := l.names[id]
	l.mu.Unlock()
	if name != "" {
		return name
	}
	want, err := exports.ByID(id)
	if err != nil {
		return hex.EncodeToString(id[:])
	}
	for _, path := range slices.Backward(exports.List()) { // those with a generation come last
		if have, img, err := exports.Open(path); err == nil && have == id && sameImage(img, want) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.names == nil {
				l.names = make(map[[16]byte]string)
			}
			l.names[id] = strings.TrimPrefix(path, "/")
			return l.names[id]
		}
	}
	return hex.EncodeToString(id[:])
}

func sameImage(a, b *image.Image) bool { return a.Size() == b.Size() }
