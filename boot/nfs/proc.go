package nfs

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"netroot/builder/image"
)

const (
	progNFS = 100003

	nameMax = 255
	readMax = 1 << 20
	wtMax   = 64 << 10 // writes are refused, but a client must be told some size
	dirPref = 64 << 10
	dirMax  = 256 << 10
)

// nfsNames are the procedures in the order of their numbers.
var nfsNames = [...]string{
	"NULL", "GETATTR", "SETATTR", "LOOKUP", "ACCESS", "READLINK", "READ", "WRITE", "CREATE", "MKDIR", "SYMLINK", "MKNOD",
	"REMOVE", "RMDIR", "RENAME", "LINK", "READDIR", "READDIRPLUS", "FSSTAT", "FSINFO", "PATHCONF", "COMMIT",
}

// programs are values made per listener; these functions list what there is.
func nfsProgram() program {
	run := [len(nfsNames)]func(*conn, *call) bool{
		procNull, procGetattr, procSetattr, procLookup, procAccess, procReadlink, procRead, procWrite, procCreate, procMkdir,
		procSymlink, procMknod, procRemove, procRemove, procRename, procLink, procReaddir, procReaddirplus, procFsstat, procFsinfo,
		procPathconf, procCommit,
	}
	p := program{number: progNFS, version: 3}
	for i, f := range run {
		p.procs = append(p.procs, procedure{nfsNames[i], f})
	}
	return p
}

// fail appends a status and remembers it for the counters.
func (c *conn) fail(status uint32) {
	c.status = status
	if status == errStale {
		c.s.stats.stale.Add(1)
	}
	c.out = put32(c.out, status)
}

// file decodes a handle and finds what it means. When it means nothing the status is appended, followed by a post_op_attr
// without attributes for each of absent, and the inode is nil.
func (c *conn) file(q *call, absent int) (*export, *image.Inode, bool) {
	h := q.args.opaque(handleMax)
	if q.args.bad {
		return nil, nil, false
	}
	e, i, status := c.resolve(h)
	if status != nfsOK {
		c.fail(status)
		for range absent {
			c.out = put32(c.out, 0)
		}
	}
	return e, i, true
}

func procNull(*conn, *call) bool { return true }

func procGetattr(c *conn, q *call) bool {
	e, i, ok := c.file(q, 0)
	if i != nil {
		c.out = putAttr(put32(c.out, nfsOK), e, i)
	}
	return ok
}

// stagePrefix starts the names by which machines tell how far their boot has come: ".netroot.stage=STAGE,up=SECONDS.HH".
// A LOOKUP needs no program on the machine but its kernel.
const stagePrefix = ".netroot.stage="

func procLookup(c *conn, q *call) bool {
	e, dir, ok := c.file(q, 1)
	name := q.args.opaque(math.MaxInt32)
	if !ok || q.args.bad {
		return false
	}
	if dir == nil {
		return true
	}
	found, status := c.lookup(e, dir, name, &q.cred)
	if status != nfsOK {
		c.fail(status)
		c.out = putPostAttr(c.out, e, dir)
		return true
	}
	c.out = put32(c.out, nfsOK)
	c.out = putHandle(c.out, e, found)
	c.out = putPostAttr(c.out, e, found)
	c.out = putPostAttr(c.out, e, dir)
	return true
}

func (c *conn) lookup(e *export, dir *image.Inode, name []byte, cred *credentials) (*image.Inode, uint32) {
	switch {
	case !dir.IsDir():
		return nil, errNotDir
	case access(dir, cred, accessLookup) == 0:
		return nil, errAcces
	case len(name) > nameMax:
		return nil, errNameTooLong
	case len(name) == 0:
		return nil, errInval
	}
	text := unsafe.String(&name[0], len(name)) // good until the next record is read
	found, ok := e.img.Lookup(dir, text)
	if !ok {
		if dir == e.img.Root() && strings.HasPrefix(text, stagePrefix) {
			c.tellStage(e, strings.Clone(text))
		}
		return nil, errNoEnt
	}
	return found, nfsOK
}

// tellStage makes an event of a stage name. A client may send one LOOKUP more than once, so what was told last is not told again.
func (c *conn) tellStage(e *export, name string) {
	stage, up, ok := parseStage(name)
	if !ok || name == c.stage {
		return
	}
	c.stage = name
	c.s.emit(Event{Kind: Stage, Client: c.client, Image: c.s.mounts.name(c.s.Exports, e.id), Stage: stage, Up: up})
}

func parseStage(name string) (stage string, up time.Duration, ok bool) {
	rest, ok := strings.CutPrefix(name, stagePrefix)
	if !ok {
		return "", 0, false
	}
	stage, rest, ok = strings.Cut(rest, ",up=")
	if !ok || stage == "" || len(stage) > 32 || strings.Trim(stage, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", 0, false
	}
	sec, err := strconv.ParseFloat(rest, 64)
	if err != nil || !(sec >= 0 && sec < 1e9) {
		return "", 0, false
	}
	return stage, time.Duration(sec * float64(time.Second)).Round(10 * time.Millisecond), true
}

func procAccess(c *conn, q *call) bool {
	e, i, ok := c.file(q, 1)
	want := q.args.u32()
	if !ok || q.args.bad {
		return false
	}
	if i != nil {
		c.out = putPostAttr(put32(c.out, nfsOK), e, i)
		c.out = put32(c.out, access(i, &q.cred, want))
	}
	return true
}

func procReadlink(c *conn, q *call) bool {
	e, i, ok := c.file(q, 1)
	if i == nil {
		return ok
	}
	target, err := e.img.Readlink(i)
	if err != nil {
		c.fail(errInval)
		c.out = putPostAttr(c.out, e, i)
		return true
	}
	c.out = putPostAttr(put32(c.out, nfsOK), e, i)
	c.out = putString(c.out, target)
	return true
}

func procFsstat(c *conn, q *call) bool {
	e, i, ok := c.file(q, 1)
	if i == nil {
		return ok
	}
	c.out = putPostAttr(put32(c.out, nfsOK), e, i)
	c.out = put64(c.out, uint64(e.img.Size()))
	c.out = put64(c.out, 0)
	c.out = put64(c.out, 0)
	c.out = put64(c.out, uint64(e.img.Inodes()))
	c.out = put64(c.out, 0)
	c.out = put64(c.out, 0)
	c.out = put32(c.out, math.MaxUint32) // invarsec: it will never change
	return true
}

func procFsinfo(c *conn, q *call) bool {
	const hardLinks, symlinks, homogeneous = 0x1, 0x2, 0x8
	e, i, ok := c.file(q, 1)
	if i == nil {
		return ok
	}
	c.out = putPostAttr(put32(c.out, nfsOK), e, i)
	for _, v := range [...]uint32{readMax, readMax, 4096, wtMax, wtMax, 4096, dirPref} {
		c.out = put32(c.out, v)
	}
	c.out = put64(c.out, math.MaxInt64)
	c.out = put64(c.out, 1) // times are exact to the nanosecond
	c.out = put32(c.out, hardLinks|symlinks|homogeneous)
	return true
}

func procPathconf(c *conn, q *call) bool {
	e, i, ok := c.file(q, 1)
	if i == nil {
		return ok
	}
	c.out = putPostAttr(put32(c.out, nfsOK), e, i)
	c.out = put32(c.out, math.MaxInt32) // linkmax
	c.out = put32(c.out, nameMax)
	for _, v := range [...]bool{true, true, false, true} { // no_trunc, chown_restricted, case_insensitive, case_preserving
		c.out = putBool(c.out, v)
	}
	return true
}

const (
	cookieDot = 1 // then "..", then the entries in their order
	cookieNil = 0
)

// cookie verifier: the same for one image for ever, because its cookies are.
func verifier(e *export) uint64 { return binary.BigEndian.Uint64(e.id[8:]) }

// dirent is the n-th name of a folder, counted from "." on.
func dirent(e *export, dir *image.Inode, entries []image.Entry, n int) (string, *image.Inode) {
	switch n {
	case 0:
		return ".", dir
	case 1:
		return "..", e.img.Parent(dir)
	}
	return entries[n-2].Name, entries[n-2].Inode
}

func procReaddir(c *conn, q *call) bool {
	e, dir, ok := c.file(q, 1)
	cookie, verf, count := q.args.u64(), q.args.u64(), q.args.u32()
	if !ok || q.args.bad {
		return false
	}
	if dir != nil {
		c.list(e, dir, q, cookie, verf, math.MaxUint32, count, false)
	}
	return true
}

func procReaddirplus(c *conn, q *call) bool {
	e, dir, ok := c.file(q, 1)
	cookie, verf, dircount, maxcount := q.args.u64(), q.args.u64(), q.args.u32(), q.args.u32()
	if !ok || q.args.bad {
		return false
	}
	if dir != nil {
		c.list(e, dir, q, cookie, verf, dircount, maxcount, true)
	}
	return true
}

// list appends the reply to READDIR and READDIRPLUS. maxcount bounds the whole READDIR3resok or READDIRPLUS3resok, dircount the
// entries without attributes and handles; one entry is sent however small dircount is, or the client would never get on.
func (c *conn) list(e *export, dir *image.Inode, q *call, cookie, verf uint64, dircount, maxcount uint32, plus bool) {
	const (
		end      = 8 // no more entries, eof
		plusSize = 4 + attrSize + 4 + 4 + handleSize
	)
	start := len(c.out)
	fail := func(status uint32) {
		c.out = c.out[:start]
		c.fail(status)
		c.out = putPostAttr(c.out, e, dir)
	}
	entries := e.img.Entries(dir)
	total := len(entries) + 2
	switch {
	case !dir.IsDir():
		fail(errNotDir)
		return
	case access(dir, &q.cred, accessRead) == 0:
		fail(errAcces)
		return
	case cookie > uint64(total) || cookie != cookieNil && verf != verifier(e):
		fail(errBadCookie)
		return
	}
	c.out = put32(c.out, nfsOK)
	limit := len(c.out) + int(min(maxcount, dirMax))
	c.out = putPostAttr(c.out, e, dir)
	c.out = put64(c.out, verifier(e))
	if len(c.out)+end > limit {
		fail(errTooSmall)
		return
	}
	n := int(cookie)
	for ; n < total; n++ {
		name, i := dirent(e, dir, entries, n)
		size := 4 + 8 + 4 + padded(len(name)) + 8
		full := size
		if plus {
			full += plusSize
		}
		if first := n == int(cookie); len(c.out)+full+end > limit || uint32(size) > dircount && !first {
			if first && len(c.out)+full+end > limit {
				fail(errTooSmall)
				return
			}
			break
		}
		dircount -= min(dircount, uint32(size))
		c.out = put32(c.out, 1)
		c.out = put64(c.out, fileID(i))
		c.out = putString(c.out, name)
		c.out = put64(c.out, uint64(n)+cookieDot)
		if plus {
			c.out = putPostAttr(c.out, e, i)
			c.out = put32(c.out, 1)
			c.out = putHandle(c.out, e, i)
		}
	}
	c.out = put32(c.out, 0)
	c.out = putBool(c.out, n == total)
}
