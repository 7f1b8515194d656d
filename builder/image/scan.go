package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A node is one inode of the tree that is packed.
type node struct {
	parent   *node // the folder of its first name
	name     string
	stat     unix.Stat_t
	xattrs   []xattr
	target   string    // of a symbolic link
	children []childOf // of a folder, sorted by name
	nlink    uint32
	holes    *chunkMap // of a file that is worth keeping sparse

	// Filled in by the layout.
	number     uint32
	nid        uint64
	headerSize int64 // inode and attributes
	dirents    []byte
	direntSize int64
	inline     bool
	block      uint32
}

type childOf struct {
	name string
	node *node
}

func (n *node) kind() uint32   { return n.stat.Mode & modeType }
func (n *node) isFolder() bool { return n.kind() == modeDir }

// path is the node's first name, relative to the root.
func (n *node) path() string {
	if n.parent == nil {
		return ""
	}
	return path.Join(n.parent.path(), n.name)
}

type xattr struct {
	index byte // of the prefix, EROFS_XATTR_INDEX_*
	name  string
	value []byte
}

// A tree is everything that is packed, but for the data.
type tree struct {
	root    string
	nodes   []*node // folders before what they hold, siblings sorted; the root is first
	folders int
	content int64
}

type scanner struct {
	tree
	exclude   map[string]bool
	buildTime time.Time
	links     map[linkKey][]*node
	list      []byte // for names of attributes
}

type linkKey struct{ dev, ino uint64 }

// scan reads the tree below root.
func scan(ctx context.Context, root string, o Options) (*tree, error) {
	s := &scanner{
		tree:      tree{root: root},
		exclude:   make(map[string]bool),
		buildTime: o.BuildTime,
		links:     make(map[linkKey][]*node),
		list:      make([]byte, 64<<10), // XATTR_LIST_MAX
	}
	for _, name := range o.Exclude {
		s.exclude[cleanInside(name)] = true
	}
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil { // follows: /proc/PID/root is a link
		return nil, &fs.PathError{Op: "stat", Path: root, Err: err}
	}
	if st.Mode&modeType != modeDir {
		return nil, fmt.Errorf("%s is not a folder", root)
	}
	top, err := s.inode(nil, "", st)
	if err != nil {
		return nil, err
	}
	if err := s.folder(ctx, top); err != nil {
		return nil, err
	}
	return &s.tree, nil
}

// inode makes the node of a file that was not met before.
func (s *scanner) inode(parent *node, name string, st unix.Stat_t) (*node, error) {
	n := &node{parent: parent, name: name, stat: st, nlink: 1}
	full := path.Join(s.root, n.path())
	if parent == nil {
		full = s.root + "/." // the attributes of what the link leads to
	}
	var err error
	if n.xattrs, err = s.readXattrs(full); err != nil {
		return nil, err
	}
	switch n.kind() {
	case modeDir:
		n.nlink = 2
		s.folders++
	case modeSymlink:
		if n.target, err = os.Readlink(full); err != nil {
			return nil, err
		}
	case modeRegular:
		if n.holes, err = findHoles(full, &st); err != nil {
			return nil, err
		}
		s.content += st.Size
	case modeChar, modeBlock:
		if unix.Major(st.Rdev) > 0xFFF || unix.Minor(st.Rdev) > 0xFFFFF {
			return nil, fmt.Errorf("%s: device %d:%d does not fit into an image", full, unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
	case modeFifo, modeSocket:
	default:
		return nil, fmt.Errorf("%s: files of type %#o cannot be kept in an image", full, n.kind())
	}
	n.number = uint32(len(s.nodes) + 1)
	s.nodes = append(s.nodes, n)
	return n, nil
}

// folder fills in the children of n and everything below them.
func (s *scanner) folder(ctx context.Context, n *node) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	inside := n.path()
	full := path.Join(s.root, inside)
	if n.parent != nil && s.exclude[inside] {
		if n.stat.Dev != n.parent.stat.Dev {
			n.stat.Mtim = unix.Timespec{}
			if !s.buildTime.IsZero() {
				n.stat.Mtim = unix.NsecToTimespec(s.buildTime.UnixNano())
			}
		}
		return nil
	}
	entries, err := os.ReadDir(full) // sorted bytewise, as the format wants it
	if err != nil {
		return err
	}
	n.children = make([]childOf, 0, len(entries))
	for _, e := range entries {
		child, err := s.child(n, e.Name())
		if err != nil {
			return err
		}
		n.children = append(n.children, childOf{e.Name(), child})
		if child.isFolder() {
			n.nlink++
			if err := s.folder(ctx, child); err != nil {
				return err
			}
		}
	}
	return nil
}

// child returns the node a name leads to: a further name of one that is there already, or a new one.
// The link count of the source says only whether to look: it also counts names outside the tree, such as those in a
// cache of unpacked packages.
func (s *scanner) child(parent *node, name string) (*node, error) {
	inside := path.Join(parent.path(), name)
	full := path.Join(s.root, inside)
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: full, Err: err}
	}
	if st.Mode&modeType == modeDir {
		return s.inode(parent, name, st)
	}
	if s.exclude[inside] {
		return nil, fmt.Errorf("exclude %s: not a folder", full)
	}
	if st.Nlink < 2 {
		return s.inode(parent, name, st)
	}
	key := linkKey{st.Dev, st.Ino}
	for _, n := range s.links[key] {
		if sameInode(&n.stat, &st) {
			n.nlink++
			return n, nil
		}
	}
	n, err := s.inode(parent, name, st)
	if err == nil {
		s.links[key] = append(s.links[key], n)
	}
	return n, err
}

// sameInode tells whether two names with the same inode number are links. An overlay may show one number for a file of
// the lower layer and for its changed copy in the upper one (Documentation/filesystems/overlayfs.rst, "Inode properties").
func sameInode(a, b *unix.Stat_t) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && a.Size == b.Size && a.Mtim == b.Mtim &&
		a.Ctim == b.Ctim && a.Rdev == b.Rdev && a.Nlink == b.Nlink
}

// xattrPrefixes are those the format can name, EROFS_XATTR_INDEX_*. Attributes with other names are made up by the file
// system that the tree lies on (system.nfs4_acl, btrfs.compression) and are not the tree's.
var xattrPrefixes = []struct {
	index  byte
	prefix string
	whole  bool // the prefix is the name
}{
	{1, "user.", false},
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{4, "trusted.", false},
	{6, "security.", false},
}

// foreignXattr tells which attributes belong to the host and not to the tree: the bookkeeping of overlayfs, and the
// labels that the host's own SELinux policy gives to every file it sees.
func foreignXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || name == "security.selinux"
}

func (s *scanner) readXattrs(full string) ([]xattr, error) {
	size, err := retry(func() (int, error) { return unix.Llistxattr(full, s.list) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "list attributes of", Path: full, Err: err}
	}
	var attrs []xattr
	for name := range bytes.SplitSeq(s.list[:size], []byte{0}) {
		a, ok := splitXattr(string(name))
		if !ok {
			continue
		}
		value, err := getXattr(full, string(name))
		if err != nil {
			return nil, &fs.PathError{Op: "read attribute " + string(name) + " of", Path: full, Err: err}
		}
		if len(value) > math.MaxUint16 {
			return nil, fmt.Errorf("%s: attribute %s has %d bytes, an image takes %d", full, name, len(value), math.MaxUint16)
		}
		a.value = value
		attrs = append(attrs, a)
	}
	slices.SortFunc(attrs, func(a, b xattr) int {
		if a.index != b.index {
			return int(a.index) - int(b.index)
		}
		return strings.Compare(a.name, b.name)
	})
	total := int64(xattrHeaderSize)
	for _, a := range attrs {
		total += a.size()
	}
	if (total-xattrHeaderSize)/4+1 > math.MaxUint16 {
		return nil, fmt.Errorf("%s: its attributes take %d bytes, too many for an image", full, total)
	}
	return attrs, nil
}

func splitXattr(name string) (xattr, bool) {
	if name == "" || foreignXattr(name) {
		return xattr{}, false
	}
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p.prefix)
		if ok && p.whole == (rest == "") {
			return xattr{index: p.index, name: rest}, true
		}
	}
	return xattr{}, false
}

func getXattr(full, name string) ([]byte, error) {
	value := make([]byte, 256)
	for {
		n, err := retry(func() (int, error) { return unix.Lgetxattr(full, name, value) })
		switch {
		case err == nil:
			return value[:n], nil
		case errors.Is(err, unix.ERANGE) && len(value) <= math.MaxUint16:
			value = make([]byte, math.MaxUint16+1) // XATTR_SIZE_MAX
		default:
			return nil, err
		}
	}
}

// A chunkMap says which chunks of a file hold data.
type chunkMap struct {
	bits uint8  // log2 of the chunk size
	data []bool // by chunk
	at   []uint32
}

const (
	// A file is kept sparse when that saves this much: a map costs every reader more than a run of blocks. In practice
	// it is /var/log/lastlog, which is 292 GB long as soon as a user has the number 2^32-2.
	sparseGain = 1 << 20
	maxChunks  = 1 << 16
)

// findHoles looks for holes when the file takes fewer blocks than its size needs.
func findHoles(full string, st *unix.Stat_t) (*chunkMap, error) {
	if st.Size-st.Blocks*512 < sparseGain {
		return nil, nil
	}
	f, err := os.Open(full)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := &chunkMap{bits: blockBits}
	for (st.Size-1)>>m.bits+1 > maxChunks {
		m.bits++
	}
	m.data = make([]bool, (st.Size-1)>>m.bits+1)
	kept := int64(0)
	for off := int64(0); off < st.Size; {
		start, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no data after off
			break
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
			return nil, nil // the file system knows no holes
		}
		if err != nil {
			return nil, err
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		for c := start >> m.bits; c<<m.bits < min(end, st.Size); c++ {
			if !m.data[c] {
				m.data[c] = true
				kept += 1 << m.bits
			}
		}
		off = end
	}
	if st.Size-kept < sparseGain {
		return nil, nil
	}
	m.at = make([]uint32, len(m.data))
	return m, nil
}
