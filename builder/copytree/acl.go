package copytree

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// An aclEntry is one line of an access list, as linux/posix_acl_xattr.h lays it out.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// noID stands in lines that are about nobody in particular.
const noID = 1<<32 - 1

// parseACL turns the text of an access list into the value of the attribute that Linux keeps it in. The text is that of
// acl_to_any_text(3), on lines or with commas; somebody with a name has to have his number behind, as star writes it
// (user:joe:rwx:1000), or for a name, as tar --numeric-owner writes it. A list that says no more than the mode is nil.
func parseACL(text string) ([]byte, error) {
	var list []aclEntry
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == ',' }) {
		line, _, _ = strings.Cut(line, "#") // effective rights
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) > 0 && f[0] == "default" {
			f = f[1:]
		}
		// Others and the mask have no name: other::r-- or, by star, other:r--.
		if len(f) == 2 {
			f = []string{f[0], "", f[1]}
		}
		if len(f) < 3 {
			return nil, fmt.Errorf("access list: %.100q is no line of one", line)
		}
		e := aclEntry{id: noID}
		named := f[1] != ""
		switch f[0] {
		case "user", "u":
			e.tag = 1
		case "group", "g":
			e.tag = 4
		case "mask", "m":
			e.tag = 0x10
		case "other", "o":
			e.tag = 0x20
		default:
			return nil, fmt.Errorf("access list: %.100q is about nobody", line)
		}
		if named {
			if e.tag > 4 {
				return nil, fmt.Errorf("access list: %.100q has a name too many", line)
			}
			e.tag *= 2
			number := f[1]
			if len(f) > 3 && f[3] != "" {
				number = f[3]
			}
			id, err := strconv.ParseUint(number, 10, 32)
			if err != nil || id == noID {
				return nil, fmt.Errorf("access list: %.100q names somebody whose number is not told", line)
			}
			e.id = uint32(id)
		}
		for _, r := range f[2] {
			switch r {
			case 'r':
				e.perm |= 4
			case 'w':
				e.perm |= 2
			case 'x':
				e.perm |= 1
			case '-':
			default:
				return nil, fmt.Errorf("access list: %.100q has rights that do not exist", line)
			}
		}
		list = append(list, e)
	}
	if len(list) <= 3 {
		return nil, nil
	}
	slices.SortStableFunc(list, func(a, b aclEntry) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) })
	data := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range list {
		data = binary.LittleEndian.AppendUint16(data, e.tag)
		data = binary.LittleEndian.AppendUint16(data, e.perm)
		data = binary.LittleEndian.AppendUint32(data, e.id)
	}
	return data, nil
}
