package rpm

import "slices"

// compatible lists, for the architecture of a root, those of the packages that run there, best first (rpm's
// arch_compat table, rpmrc.in). noarch runs everywhere.
var compatible = map[string][]string{
	"x86_64":  {"x86_64", "athlon", "i686", "i586", "i486", "i386"},
	"i686":    {"i686", "i586", "i486", "i386"},
	"aarch64": {"aarch64"},
}

// NoArch is the architecture of packages that have none.
const NoArch = "noarch"

// Runs says whether packages of arch can be in a root of architecture root.
func Runs(arch, root string) bool {
	return arch == NoArch || slices.Contains(compatible[root], arch)
}

// Better orders two architectures for a root: negative when a is to be preferred to b.
func Better(a, b, root string) int {
	rank := func(arch string) int { return slices.Index(compatible[root], arch) } // noarch: -1, before all
	return rank(a) - rank(b)
}

// Family tells apart what may stand side by side in one root: libraries for two word sizes, as x86_64 and i686. Packages of one
// family take each other's place.
func Family(arch, root string) string {
	if arch == NoArch || arch == root || root != "x86_64" {
		return ""
	}
	return "32"
}
