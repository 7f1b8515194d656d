package nfs

import "testing"

// aclEntry is one entry of a list as it is sent: type, id, permissions.
type aclEntry [3]uint32

// readACL reads one of the two lists of a GETACL reply: a count, and an array (linux/fs/nfs_common/nfsacl.c).
func readACL(t *testing.T, d *decoder) (count uint32, entries []aclEntry) {
	t.Helper()
	count = d.u32()
	for range d.u32() {
		entries = append(entries, aclEntry{d.u32(), d.u32(), d.u32()})
	}
	return count, entries
}

// The list that is sent must say no more and no less than the mode, or the client would judge by it.
func TestGetACL(t *testing.T) {
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	root := c.mount("/debian-12")
	file, want := c.lookup(root, "size-4096")

	for _, mask := range []uint32{aclAccess, aclAll} {
		d := c.call(progACL, 3, 1, opaque(file), words(mask))
		d.want(t, nfsOK)
		if got := postAttr(t, d); got != want {
			t.Errorf("mask %#x: attributes %+v, want %+v", mask, got, want)
		}
		d.want(t, mask)
		count, entries := readACL(t, d)
		list := []aclEntry{
			{aclUserObj, want.uid, want.mode >> 6 & 7}, {aclGroup, want.gid, want.mode >> 3 & 7},
			{aclMask, 0, want.mode >> 3 & 7}, {aclOther, 0, want.mode & 7},
		}
		if count != 4 || len(entries) != 4 || [4]aclEntry(entries) != [4]aclEntry(list) {
			t.Errorf("mask %#x: %d entries %v, want %v", mask, count, entries, list)
		}
		if count, entries := readACL(t, d); count != 0 || len(entries) != 0 {
			t.Errorf("mask %#x: a default list of %d: %v", mask, count, entries)
		}
		finished(t, d)
	}

	d := c.call(progACL, 3, 1, opaque(file), words(0))
	d.want(t, nfsOK)
	postAttr(t, d)
	d.want(t, 0)
	for range 2 {
		if count, entries := readACL(t, d); count != 0 || len(entries) != 0 {
			t.Errorf("nothing was asked for, and %d entries came: %v", count, entries)
		}
	}
	finished(t, d)

	bad := append([]byte{}, file...)
	bad[len(bad)-1] ^= 0xff
	if status := c.call(progACL, 3, 1, opaque(bad), words(aclAll)).u32(); status == nfsOK {
		t.Error("a handle that was never given out has a list")
	}
}

func TestSetACLIsRefused(t *testing.T) {
	r, _ := serveTree(t)
	c := dial(t, r.addr)
	root := c.mount("/debian-12")
	d := c.call(progACL, 3, 2, opaque(root), words(aclAccess, 0, 0, 0, 0))
	d.want(t, errROFS)
	postAttr(t, d)
	finished(t, d)
}
