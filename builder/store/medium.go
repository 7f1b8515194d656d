package store

// PartISO is the ISO of a generation that has one. It is the file in the cache under a second name (a hard link), so that an ISO is kept
// once however many generations have it, and goes with the last of them and the cache's own.
const PartISO = "image.iso"

// Kinds of media.
const (
	Casper          = "casper"           // Ubuntu's live systems and installers
	Live            = "live"             // live-boot: Debian's live systems
	DebianInstaller = "debian-installer" // gets everything from a mirror
	Anaconda        = "anaconda"         // the installer of the RPM family
	DracutLive      = "dracut-live"      // the live systems of the RPM family
	Memtest         = "memtest"
	Other           = "other"
)

// Ways in which a machine gets the files of an ISO.
const (
	ByNFS  = "nfs"
	ByHTTP = "http"
)

// A Medium says what a generation is that is no root: an ISO, or a kernel and an initrd, as they came.
type Medium struct {
	Family  string `json:"family"`
	File    string `json:"file"`              // name of the ISO, or of the kernel
	Label   string `json:"label,omitempty"`   // of the ISO's volume
	Kernel  string `json:"kernel,omitempty"`  // path in the ISO
	Initrd  string `json:"initrd,omitempty"`  // path in the ISO; "" where there is none
	Live    string `json:"live,omitempty"`    // path in the ISO of the file system of a live system
	Deliver string `json:"deliver,omitempty"` // ByNFS, ByHTTP, or "" when the machine needs nothing of the ISO
	Memory  int64  `json:"memory,omitempty"`  // bytes that a machine needs to hold what it downloads; 0 when it downloads nothing large
	Old     bool   `json:"old,omitempty"`     // an anaconda whose options have no inst. in front
}

// IsRoot tells whether the generation is a root that machines mount, as opposed to a medium that is taken as it came.
func (m Manifest) IsRoot() bool { return m.Medium == nil }

// requiredParts are those of a root.
var requiredParts = []string{PartRoot, PartKernel, PartInitramfs}

// required lists the parts without which a generation is none.
func (m Manifest) required() []string {
	if m.IsRoot() {
		return requiredParts
	}
	return []string{PartKernel}
}
