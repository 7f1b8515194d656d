package neighbor

import (
	"net/netip"
	"slices"
)

// A Link is an interface of this machine.
type Link struct {
	Index    int
	Name     string
	MTU      int
	Up       bool
	Loopback bool
	Addrs    []netip.Prefix // its own IPv4 addresses, each with the length of its network

	networks []netip.Prefix // those of Addrs, or of the other end of a point-to-point link
}

// view is the interfaces at one moment; it is never changed.
type view struct {
	links   []Link
	byIndex map[int]int
	owner   map[netip.Addr]int
}

func newView(links []Link) *view {
	v := &view{links: links, byIndex: map[int]int{}, owner: map[netip.Addr]int{}}
	for i, l := range links {
		v.byIndex[l.Index] = i
		for _, a := range l.Addrs {
			if _, twice := v.owner[a.Addr()]; !twice {
				v.owner[a.Addr()] = i
			}
		}
	}
	return v
}

// near returns the interfaces on whose networks a client is: those with the longest prefix, as a route would choose, the one
// with the address that the client asked first.
func (v *view) near(client, local netip.Addr) []Link {
	var found []Link
	bits := -1
	for _, l := range v.links {
		if !l.Up || l.Loopback {
			continue
		}
		longest := -1
		for _, n := range l.networks {
			if n.Contains(client) {
				longest = max(longest, n.Bits())
			}
		}
		switch {
		case longest < 0 || longest < bits:
			continue
		case longest > bits:
			bits, found = longest, nil
		}
		found = append(found, l)
	}
	if own, ok := v.owner[local]; ok && len(found) > 1 {
		index := v.links[own].Index
		slices.SortStableFunc(found, func(a, b Link) int {
			switch {
			case a.Index == index:
				return -1
			case b.Index == index:
				return 1
			}
			return 0
		})
	}
	return found
}

// own says whether an address is one of this machine's.
func (v *view) own(a netip.Addr) bool {
	_, ok := v.owner[a]
	return ok || a.IsLoopback()
}

// Links returns all interfaces. The caller must not change what it points to.
func (t *Table) Links() []Link { return t.view.Load().links }

// Link returns the interface of that index, as packets name it.
func (t *Table) Link(index int) (Link, bool) {
	v := t.view.Load()
	i, ok := v.byIndex[index]
	if !ok {
		return Link{}, false
	}
	return v.links[i], true
}
