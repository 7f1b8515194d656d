// Package privilege takes from a running server what it does not need: its user, its groups and its capabilities, on all
// threads, for good.
//
// A Go program cannot change everything of all its threads when it is linked with cgo, so this is done in two steps, of which
// each works with cgo, too. Limit runs first: it forbids to gain privileges, cuts the bounding set of capabilities, and starts
// the program again, which has all its threads inherit that. Drop runs when the ports are open: it changes to another user on
// all threads, and with root's user ID the kernel takes the capabilities from each of them (capabilities(7)). Who stays root, or never was
// root but has capabilities, loses them on all threads only without cgo.
package privilege

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Account is what the server runs as.
type Account struct {
	Name     string
	UID, GID int
	Groups   []int
}

// Lookup finds a user, who gets the further group besides his own when there is such a group. An empty name is the user who
// runs this.
func Lookup(name, group string) (Account, error) {
	var u *user.User
	var err error
	if name == "" {
		u, err = user.LookupId(strconv.Itoa(os.Geteuid()))
		if err != nil { // an ID without a name is nobody's fault
			return Account{Name: strconv.Itoa(os.Geteuid()), UID: os.Geteuid(), GID: os.Getegid()}, nil
		}
	} else if u, err = user.Lookup(name); err != nil {
		return Account{}, fmt.Errorf("find user %s: %w", name, err)
	}
	a := Account{Name: u.Username}
	if a.UID, err = strconv.Atoi(u.Uid); err == nil {
		a.GID, err = strconv.Atoi(u.Gid)
	}
	if err != nil {
		return Account{}, fmt.Errorf("find user %s: %w", name, err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return Account{}, fmt.Errorf("find the groups of %s: %w", name, err)
	}
	if g, err := user.LookupGroup(group); err == nil {
		ids = append(ids, g.Gid)
	}
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil && !slices.Contains(a.Groups, gid) {
			a.Groups = append(a.Groups, gid)
		}
	}
	return a, nil
}

// What a server may need until its ports are open: the ports; receive buffers above the limit for everybody; the name of the
// process that holds a port; files of others that root reads. To become another user, and to make files that are that user's.
var (
	starting = []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}
	changing = []uintptr{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE}
)

// Limit starts the program again with less, when root runs it and that has not been done. It must be called on the main thread
// (runtime.LockOSThread in an init function), and before anything is open that is to last. Without an error it comes back
// only when there is nothing to do.
func Limit(a Account) error {
	limited, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil || limited == 1 || os.Geteuid() != 0 {
		if name, _ := os.ReadFile("/proc/self/comm"); string(name) == "exe\n" { // as Exec below left it
			_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
		}
		return err
	}
	if unix.Gettid() != unix.Getpid() {
		return errors.New("limit privileges: not on the main thread")
	}
	keep := starting
	if a.UID != 0 {
		keep = slices.Concat(starting, changing)
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		// A kernel that does not know it, or a container that has it not: neither has it to give.
		if !slices.Contains(keep, c) {
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("limit privileges: %w", err)
	}
	// Not by its path: the program may have been replaced meanwhile.
	if err := unix.Exec("/proc/self/exe", os.Args, os.Environ()); err != nil {
		return fmt.Errorf("limit privileges: start again: %w", err)
	}
	return nil
}

// ErrKept is returned by Drop, when all else is done, for a program whose threads keep their capabilities: one built with cgo, whose
// threads Go cannot all reach. It loses them only by becoming another user.
var ErrKept = errors.New("it keeps its capabilities, because it was built with cgo: build it with CGO_ENABLED=0")

// Drop becomes the account and gives up all capabilities. It is for good.
func Drop(a Account) error {
	// A parent that wants to be outlived by nobody said so before the program began; a change of the user makes the kernel
	// forget it (prctl(2), PR_SET_PDEATHSIG).
	var parentDeath int32
	_ = unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&parentDeath)), 0, 0, 0)
	if os.Geteuid() == 0 && a.UID != 0 {
		if err := syscall.Setgroups(a.Groups); err != nil {
			return fmt.Errorf("become user %s: set groups: %w", a.Name, err)
		}
		if err := syscall.Setresgid(a.GID, a.GID, a.GID); err != nil {
			return fmt.Errorf("become user %s: set group: %w", a.Name, err)
		}
		if err := syscall.Setresuid(a.UID, a.UID, a.UID); err != nil {
			return fmt.Errorf("become user %s: set user: %w", a.Name, err)
		}
	} else if a.UID != os.Geteuid() {
		return fmt.Errorf("become user %s: only root can", a.Name)
	}
	err := dropCapabilities()
	if err != nil && !errors.Is(err, ErrKept) {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	if parentDeath != 0 {
		_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(parentDeath), 0, 0, 0)
	}
	return err
}

// What capset(2) is given. They are here because the compiler does not see a pointer in a uintptr: on a stack they would be somewhere else
// after it has grown.
var (
	header = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	none   [2]unix.CapUserData
)

func dropCapabilities() error {
	for _, c := range [][4]uintptr{
		{unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1},
		{unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL},
		{unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none))},
	} {
		switch _, _, errno := syscall.AllThreadsSyscall(c[0], c[1], c[2], c[3]); errno {
		case 0:
		case unix.ENOTSUP:
			var have [2]unix.CapUserData
			if err := unix.Capget(&header, &have[0]); err != nil || have[0].Permitted|have[1].Permitted != 0 {
				return ErrKept
			}
			return nil
		default:
			return errno
		}
	}
	return nil
}
