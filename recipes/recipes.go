// Package recipes holds the recipes that netroot ships. Each is complete, boots as it is, and is meant to be copied or
// named in the include: of a recipe of one's own. Debian's name no mirror, the others one that --mirror replaces, and keys that have
// to be on this machine. In none can anybody log in: see the comments in debian-12.yaml for how a user or an SSH key is added.
package recipes

import "embed"

// FS holds every shipped recipe as NAME.yaml.
//
//go:embed *.yaml
var FS embed.FS
