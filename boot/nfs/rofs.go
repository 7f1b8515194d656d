package nfs

import (
	"math"

	"netroot/builder/image"
)

// The procedures that write decode what they are sent as far as RFC 1813 defines it, so that a malformed call is told from a refused
// one, and answer NFS3ERR_ROFS with the attributes of the object as it is and stays.

// readOnly appends the refusal: a wcc_data for a handle that is good.
func (c *conn) readOnly(q *call, h []byte) bool {
	if q.args.bad {
		return false
	}
	e, i := c.refuse(h)
	c.out = putWcc(c.out, e, i)
	return true
}

// refuse appends the status of the refusal and finds what the handle names, for the attributes that follow.
func (c *conn) refuse(h []byte) (*export, *image.Inode) {
	e, i, status := c.resolve(h)
	if status == nfsOK {
		status = errROFS
	}
	c.fail(status)
	return e, i
}

func skipName(d *decoder) { d.opaque(math.MaxInt32) }

func skipSattr(d *decoder) {
	for range 3 { // mode, uid, gid
		if d.bool() {
			d.u32()
		}
	}
	if d.bool() { // size
		d.u64()
	}
	for range 2 { // atime, mtime
		switch d.u32() {
		case 0, 1:
		case 2:
			d.u64()
		default:
			d.bad = true
		}
	}
}

func procSetattr(c *conn, q *call) bool {
	h := q.args.opaque(handleMax)
	skipSattr(&q.args)
	if q.args.bool() {
		q.args.u64()
	}
	return c.readOnly(q, h)
}

// procWrite does not look at the data: the record may have been kept only in part.
func procWrite(c *conn, q *call) bool {
	h := q.args.opaque(handleMax)
	q.args.u64() // offset
	q.args.u32() // count
	if stable := q.args.u32(); stable > 2 {
		q.args.bad = true
	}
	q.args.u32() // length of the data
	return c.readOnly(q, h)
}

func procCreate(c *conn, q *call) bool {
	h := q.args.opaque(handleMax)
	skipName(&q.args)
	switch q.args.u32() {
	case 0, 1: // unchecked, guarded
		skipSattr(&q.args)
	case 2: // exclusive
		q.args.u64()
	default:
		q.args.bad = true
	}
	return c.readOnly(q, h)
}

func procMkdir(c *conn, q *call) bool {
	h := q.args.opaque(handleMax)
	skipName(&q.args)
	skipSattr(&q.args)
	return c.readOnly(q, h)
}

func procSymlink(c *conn, q *call) bool {
	h := q.args.opaque(handleMax)
	skipName(&q.args)
	skipSattr(&q.args)
	skipName(&q.args)
	return c.readOnly(q, h)
}

func procMknod(c *conn, q *call) bool {
	h := q.args.opaque(handleMax)
	skipName(&q.args)
	switch q.args.u32() {
	case typeChr, typeBlk:
		skipSattr(&q.args)
		q.args.u64() // device
	case typeSock, typeFifo:
		skipSattr(&q.args)
	}
	return c.readOnly(q, h)
}

// procRemove is RMDIR too.
func procRemove(c *conn, q *call) bool {
	h := q.args.opaque(handleMax)
	skipName(&q.args)
	return c.readOnly(q, h)
}

func procRename(c *conn, q *call) bool {
	from := q.args.opaque(handleMax)
	skipName(&q.args)
	to := q.args.opaque(handleMax)
	skipName(&q.args)
	if !c.readOnly(q, from) {
		return false
	}
	e, i, _ := c.resolve(to)
	c.out = putWcc(c.out, e, i)
	return true
}

func procLink(c *conn, q *call) bool {
	file := q.args.opaque(handleMax)
	dir := q.args.opaque(handleMax)
	skipName(&q.args)
	if q.args.bad {
		return false
	}
	e, i := c.refuse(file)
	c.out = putPostAttr(c.out, e, i)
	e, i, _ = c.resolve(dir)
	c.out = putWcc(c.out, e, i)
	return true
}

func procCommit(c *conn, q *call) bool {
	h := q.args.opaque(handleMax)
	q.args.u64()
	q.args.u32()
	return c.readOnly(q, h)
}
