package apt

import (
	"fmt"
	"strings"
)

// Sources returns the repositories in deb822 form (sources.list(5)), for the root's own apt. Keyrings are left out: the
// root has those of its distribution, and a keyring file of this host is not there.
func (m *Mirrors) Sources() []byte {
	var b strings.Builder
	for i, r := range m.repos {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\n", r.base, r.suite, strings.Join(r.components, " "))
	}
	return []byte(b.String())
}
