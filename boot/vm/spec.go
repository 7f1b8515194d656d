package vm

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Spec is the machine to boot. Zero values mean the default named in the comment.
type Spec struct {
	Arch    string // amd64 or i386; default: that of the image
	CPU     string // QEMU's -cpu; default: qemu64 for amd64, coreduo for i386
	CPUs    int    // 1
	Memory  int    // MiB; 1024
	NIC     string // QEMU's device; e1000
	MAC     net.HardwareAddr
	Machine string // pc (default) or q35
	Accel   string // kvm or tcg; default: kvm where it works
}

// specKeys are the keys of a machine description, as the errors name them.
var specKeys = []string{"accel", "arch", "cpu", "cpus", "mac", "machine", "memory", "nic"}

// nics are the cards that QEMU has a PXE ROM for.
var nics = []string{"e1000", "e1000e", "i82550", "i82557b", "i82559c", "ne2k_pci", "pcnet", "rtl8139", "virtio-net-pci", "vmxnet3"}

var word = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)

// ParseSpec reads a machine description such as "cpu=coreduo,memory=1024,nic=e1000,arch=i386".
func ParseSpec(s string) (Spec, error) {
	var spec Spec
	if strings.TrimSpace(s) == "" {
		return spec, nil
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !slices.Contains(specKeys, key) {
			return Spec{}, fmt.Errorf("machine %q: unknown key %q (known: %s)", s, key, strings.Join(specKeys, ", "))
		}
		if !ok || value == "" {
			return Spec{}, fmt.Errorf("machine %q: %s has no value; write %s=…", s, key, key)
		}
		if seen[key] {
			return Spec{}, fmt.Errorf("machine %q: %s is given twice", s, key)
		}
		seen[key] = true
		if err := spec.set(key, value); err != nil {
			return Spec{}, fmt.Errorf("machine %q: %w", s, err)
		}
	}
	return spec, nil
}

func (s *Spec) set(key, value string) (err error) {
	switch key {
	case "accel":
		s.Accel, err = oneOf(key, value, "kvm", "tcg")
	case "arch":
		if slices.Contains([]string{"i486", "i586", "i686", "x86"}, value) {
			value = "i386"
		}
		if value == "x86_64" {
			value = "amd64"
		}
		s.Arch, err = oneOf(key, value, "amd64", "i386")
	case "cpu":
		if !word.MatchString(value) {
			return fmt.Errorf("cpu %q is not the name of a CPU model (see qemu-system-x86_64 -cpu help)", value)
		}
		s.CPU = value
	case "cpus":
		s.CPUs, err = number(key, value, 1, 255)
	case "mac":
		if s.MAC, err = net.ParseMAC(value); err == nil && (len(s.MAC) != 6 || s.MAC[0]&1 != 0) {
			err = fmt.Errorf("not the address of one Ethernet card")
		}
		if err != nil {
			return fmt.Errorf("mac %q: %w", value, err)
		}
	case "machine":
		s.Machine, err = oneOf(key, value, "pc", "q35")
	case "memory":
		s.Memory, err = number(key, strings.TrimSuffix(value, "M"), 64, 1<<20)
	case "nic":
		s.NIC, err = oneOf(key, value, nics...)
	}
	return err
}

func oneOf(key, value string, known ...string) (string, error) {
	if slices.Contains(known, value) {
		return value, nil
	}
	return "", fmt.Errorf("%s %q is not one of %s", key, value, strings.Join(known, ", "))
}

func number(key, value string, lo, hi int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < lo || n > hi {
		return 0, fmt.Errorf("%s %q is not a number from %d to %d", key, value, lo, hi)
	}
	return n, nil
}

// withDefaults fills what was left out, for an image of the given architecture (any word for it).
func (s Spec) withDefaults(arch string) Spec {
	if s.Arch == "" {
		s.Arch = "amd64"
		if slices.Contains([]string{"i386", "i486", "i586", "i686"}, arch) {
			s.Arch = "i386"
		}
	}
	if s.CPU == "" {
		// coreduo is the oldest 32-bit CPU that serious hardware still has: no PAE is needed, no 64-bit mode is there.
		// qemu64 boots in three quarters of the time that max takes without KVM: what the newest CPUs have is slow to
		// emulate, and every library uses it where it is there.
		s.CPU = map[string]string{"amd64": "qemu64", "i386": "coreduo"}[s.Arch]
	}
	if s.CPUs == 0 {
		s.CPUs = 1
	}
	if s.Memory == 0 {
		s.Memory = 1024
	}
	if s.NIC == "" {
		s.NIC = "e1000"
	}
	if s.Machine == "" {
		s.Machine = "pc"
	}
	if s.Accel == "" {
		s.Accel = "tcg"
		if kvmWorks() {
			s.Accel = "kvm"
		}
	}
	return s
}

// String is the description that ParseSpec reads.
func (s Spec) String() string {
	var out []string
	add := func(key, value string) {
		if value != "" && value != "0" {
			out = append(out, key+"="+value)
		}
	}
	add("arch", s.Arch)
	add("cpu", s.CPU)
	add("cpus", strconv.Itoa(s.CPUs))
	add("memory", strconv.Itoa(s.Memory))
	add("nic", s.NIC)
	add("mac", s.MAC.String())
	add("machine", s.Machine)
	add("accel", s.Accel)
	return strings.Join(out, ",")
}

func (s Spec) program() string {
	if s.Arch == "i386" {
		return "qemu-system-i386"
	}
	return "qemu-system-x86_64"
}

// kvmWorks says whether QEMU can use KVM here. That /dev/kvm opens is not enough: nested hypervisors exist
// that offer the device to their own kind of guest only, where QEMU hangs before the first instruction. The
// CPU must show virtualisation of its own as well.
func kvmWorks() bool {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "386" {
		return false
	}
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return false
	}
	defer f.Close()
	for scan := bufio.NewScanner(f); scan.Scan(); {
		if key, flags, _ := strings.Cut(scan.Text(), ":"); strings.TrimSpace(key) == "flags" {
			words := strings.Fields(flags)
			return slices.Contains(words, "vmx") || slices.Contains(words, "svm")
		}
	}
	return false
}
