package nfs

// progACL is NFSACL, which Solaris and Linux speak beside NFS version 3 on the same connection (linux/nfsacl.h). Clients do
// without it, but for one case: over an NFS root overlayfs asks for access control lists at every open and exec by anyone
// but root (ovl_get_inode_acl in fs/overlayfs/inode.c), and passes on the EOPNOTSUPP that the kernel's client makes of a
// server without this program. The mount option noacl does not help.
const progACL = 100227

// The bits of a request's mask, and the types of ACL entries.
const (
	aclAccess  = 1
	aclAll     = 0xf
	aclUserObj = 1
	aclGroup   = 4
	aclMask    = 0x10
	aclOther   = 0x20
)

var aclNames = [...]string{"NULL", "GETACL", "SETACL"}

func aclProgram() program {
	p := program{number: progACL, version: 3}
	for i, f := range [len(aclNames)]func(*conn, *call) bool{procNull, procGetacl, procSetacl} {
		p.procs = append(p.procs, procedure{aclNames[i], f})
	}
	return p
}

// procGetacl answers with the list that says what the mode says, so that modes go on deciding.
func procGetacl(c *conn, q *call) bool {
	e, i, ok := c.file(q, 1)
	mask := q.args.u32()
	if !ok || q.args.bad {
		return false
	}
	if i == nil {
		return true
	}
	mask &= aclAll
	c.out = putPostAttr(put32(c.out, nfsOK), e, i)
	c.out = put32(c.out, mask)
	if mask&aclAccess == 0 {
		c.out = put64(c.out, 0)
	} else {
		entries := [4][3]uint32{
			{aclUserObj, i.UID, i.Mode >> 6 & 7}, {aclGroup, i.GID, i.Mode >> 3 & 7},
			{aclMask, 0, i.Mode >> 3 & 7}, {aclOther, 0, i.Mode & 7},
		}
		c.out = put32(put32(c.out, uint32(len(entries))), uint32(len(entries)))
		for _, entry := range entries {
			for _, word := range entry {
				c.out = put32(c.out, word)
			}
		}
	}
	c.out = put64(c.out, 0) // no default ACL: a count and an empty array
	return true
}

func procSetacl(c *conn, q *call) bool {
	e, i, ok := c.file(q, 1)
	if i != nil {
		c.fail(errROFS)
		c.out = putPostAttr(c.out, e, i)
	}
	return ok
}
