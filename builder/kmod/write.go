package kmod

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// indexMagic and indexVersion begin every modules.*.bin file (kmod, libkmod/libkmod-index.h; module-init-tools since
// 3.4 writes the same).
const (
	indexMagic   = 0xB007F457
	indexVersion = 0x00020001
)

// Flags in the upper bits of an offset in such a file.
const (
	nodePrefix = 0x80000000
	nodeValues = 0x40000000
	nodeChilds = 0x20000000
)

// Indexes returns the index files that modprobe needs to find the given modules and no others, by their path in the
// root. A whole modules.alias.bin is as large as several drivers.
func (x *Index) Indexes(mods []*Module) (map[string][]byte, error) {
	names := map[string]bool{}
	files := map[string]bool{}
	for _, m := range mods {
		names[m.Name] = true
		files[m.File] = true
	}
	var depText, aliasText, softText bytes.Buffer
	dep, ali := &trie{}, &trie{}
	for i, m := range x.order {
		if !names[m.Name] {
			continue
		}
		for _, d := range m.Deps {
			if !files[d] {
				return nil, fmt.Errorf("index of kernel %s: %s is chosen, %s that it needs is not", x.Release, m.Name, d)
			}
		}
		line := m.File + ":"
		if len(m.Deps) > 0 {
			line += " " + strings.Join(m.Deps, " ")
		}
		depText.WriteString(line + "\n")
		dep.insert(m.Name, line, uint32(i))
	}
	aliasText.WriteString("# Aliases extracted from modules themselves.\n")
	for _, a := range x.aliasesOf(names) {
		key := normalize(a.pattern)
		if !ascii(key) {
			continue // depmod leaves them out as well
		}
		fmt.Fprintf(&aliasText, "alias %s %s\n", a.pattern, a.module)
		ali.insert(key, a.module, uint32(a.line))
	}
	softText.WriteString("# Soft dependencies extracted from modules themselves.\n")
	for _, m := range x.order {
		if s, ok := x.soft[m.Name]; ok && names[m.Name] {
			softText.WriteString(s.line)
		}
	}
	out := map[string][]byte{
		x.dirOf("modules.dep"):       depText.Bytes(),
		x.dirOf("modules.dep.bin"):   dep.bytes(),
		x.dirOf("modules.alias"):     aliasText.Bytes(),
		x.dirOf("modules.alias.bin"): ali.bytes(),
		x.dirOf("modules.softdep"):   softText.Bytes(),
	}
	builtin := &trie{}
	var builtinText bytes.Buffer
	if b, err := x.read("modules.builtin"); err == nil {
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" {
				builtinText.WriteString(line + "\n")
				builtin.insert(Name(line), "", 0)
			}
		}
		out[x.dirOf("modules.builtin")] = builtinText.Bytes()
		out[x.dirOf("modules.builtin.bin")] = builtin.bytes()
	}
	// modprobe warns about every index that is not there.
	out[x.dirOf("modules.symbols.bin")] = (&trie{}).bytes()
	out[x.dirOf("modules.builtin.alias.bin")] = (&trie{}).bytes()
	return out, nil
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c >= 128 || c == 0 }) < 0
}

// A trie is one index in the making: one character per step, so that no node but a leaf carries a prefix.
type trie struct {
	prefix string // what follows after the character that led here
	child  map[byte]*trie
	values []trieValue
}

type trieValue struct {
	priority uint32
	value    string
}

func (t *trie) insert(key, value string, priority uint32) {
	n := t
	for {
		if n.child == nil && n.values == nil && n.prefix == "" && n != t {
			n.prefix = key // a new leaf takes the rest of the key
			break
		}
		if n.prefix != "" && !strings.HasPrefix(key, n.prefix) {
			n.split(common(n.prefix, key))
		}
		key = key[len(n.prefix):]
		if key == "" {
			break
		}
		if n.child == nil {
			n.child = map[byte]*trie{}
		}
		next := n.child[key[0]]
		if next == nil {
			next = &trie{prefix: key[1:]}
			n.child[key[0]] = next
			n = next
			break
		}
		n, key = next, key[1:]
	}
	// Equal values once, sorted by priority, as depmod's index_insert does.
	v := trieValue{priority, value}
	i, _ := slices.BinarySearchFunc(n.values, v, func(a, b trieValue) int {
		if a.priority > b.priority {
			return 1
		}
		return -1 // equal ones go behind
	})
	n.values = slices.Insert(n.values, i, v)
}

// split cuts the prefix after n characters and moves the rest one level down.
func (t *trie) split(n int) {
	down := &trie{prefix: t.prefix[n+1:], child: t.child, values: t.values}
	t.child = map[byte]*trie{t.prefix[n]: down}
	t.prefix, t.values = t.prefix[:n], nil
}

func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func (t *trie) bytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, indexMagic)
	b = binary.BigEndian.AppendUint32(b, indexVersion)
	b = binary.BigEndian.AppendUint32(b, 0)
	root := t.append(&b)
	binary.BigEndian.PutUint32(b[8:], root)
	return b
}

// append writes the node after its children and returns its offset with flags.
func (t *trie) append(b *[]byte) uint32 {
	var first, last byte = 255, 0
	for c := range t.child {
		first, last = min(first, c), max(last, c)
	}
	var offsets []uint32
	if len(t.child) > 0 {
		for c := int(first); c <= int(last); c++ {
			var off uint32
			if n := t.child[byte(c)]; n != nil {
				off = n.append(b)
			}
			offsets = append(offsets, off)
		}
	}
	at := uint32(len(*b))
	if t.prefix != "" {
		*b = append(append(*b, t.prefix...), 0)
		at |= nodePrefix
	}
	if len(offsets) > 0 {
		*b = append(*b, first, last)
		for _, o := range offsets {
			*b = binary.BigEndian.AppendUint32(*b, o)
		}
		at |= nodeChilds
	}
	if len(t.values) > 0 {
		*b = binary.BigEndian.AppendUint32(*b, uint32(len(t.values)))
		for _, v := range t.values {
			*b = binary.BigEndian.AppendUint32(*b, v.priority)
			*b = append(append(*b, v.value...), 0)
		}
		at |= nodeValues
	}
	return at
}
