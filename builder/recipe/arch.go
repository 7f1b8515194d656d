package recipe

import (
	"fmt"
	"slices"
	"strings"
)

// Arches lists the words for what a machine's processor runs.
func Arches() []string { return slices.Clone(arches) }

// SetArch makes the recipe one for another processor.
func (r *Recipe) SetArch(arch string) error {
	if !slices.Contains(arches, arch) {
		if right, ok := otherArch[arch]; ok {
			return fmt.Errorf("unknown architecture %q; here it is called %s", arch, right)
		}
		return fmt.Errorf("unknown architecture %q; there are %s", arch, strings.Join(arches, ", "))
	}
	r.Arch = arch
	return nil
}
