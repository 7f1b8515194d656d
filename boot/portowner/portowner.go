// Package portowner says which processes hold a UDP or TCP port on this machine, as ss -lp does, so that an error about a port can
// name who has it.
//
// It reads /proc, so it sees the network namespace it is called in, and names processes that this user may look at: all of them
// as root. A socket that is bound to one interface (SO_BINDTODEVICE) looks like one that is open to all.
package portowner

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Process holds a port. The zero value is one that /proc does not tell.
type Process struct {
	PID  int
	Name string
	Self bool // the process that asks
}

func (p Process) String() string {
	switch {
	case p.Self:
		return "this very process"
	case p.PID == 0:
		return "another process"
	}
	return fmt.Sprintf("%s (pid %d)", p.Name, p.PID)
}

// A Holder is a process with a socket on the port, and the local address it is bound to.
type Holder struct {
	Process
	Address netip.Addr
}

// Find returns who holds a port: of UDP sockets all, of TCP sockets those that listen.
func Find(protocol string, port uint16) ([]Holder, error) {
	var sockets []socket
	for _, table := range []string{protocol, protocol + "6"} {
		f, err := os.Open("/proc/thread-self/net/" + table)
		if os.IsNotExist(err) && table != protocol {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("look who has %s port %d: %w", protocol, port, err)
		}
		sockets = append(sockets, read(f, port)...)
		f.Close()
	}
	if len(sockets) == 0 {
		return nil, nil
	}
	owners := processes(sockets)
	var list []Holder
	for _, s := range sockets {
		h := Holder{owners[s.inode], s.address}
		if !slices.Contains(list, h) {
			list = append(list, h)
		}
	}
	return list, nil
}

// Of names one process that holds a port, for an error message.
func Of(protocol string, port uint16) Process {
	list, err := Find(protocol, port)
	if err != nil || len(list) == 0 {
		return Process{}
	}
	return slices.MaxFunc(list, func(a, b Holder) int { return cmp.Compare(a.PID, b.PID) }).Process // one that is known
}

// A socket is a line of /proc/net/udp, tcp, and so on.
type socket struct {
	address netip.Addr
	inode   string
}

// States of sockets (include/net/tcp_states.h): UDP sockets that are not connected are in the one called CLOSE.
const (
	stateListen = "0A"
	stateClose  = "07"
)

// read returns the sockets that are open to newcomers on port, from a table as in proc(5):
// "sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …" with addresses as HEX:PORT.
func read(r io.Reader, port uint16) []socket {
	var found []socket
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 10 || f[3] != stateListen && f[3] != stateClose || f[9] == "0" {
			continue
		}
		address, text, ok := strings.Cut(f[1], ":")
		n, err := strconv.ParseUint(text, 16, 16)
		if !ok || err != nil || uint16(n) != port {
			continue
		}
		if a, ok := parseAddress(address); ok {
			found = append(found, socket{a, f[9]})
		}
	}
	return found
}

// parseAddress reads an address of 32-bit words in hex, each in the byte order of this machine, taken as little-endian.
func parseAddress(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.LittleEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}

// processes finds the owners of sockets, by inode.
func processes(sockets []socket) map[string]Process {
	owners := map[string]Process{}
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range pids {
		fds, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue // another user's, or gone
		}
		for _, fd := range fds {
			target, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			if err != nil {
				continue
			}
			i := slices.IndexFunc(sockets, func(s socket) bool { return target == "socket:["+s.inode+"]" })
			if i < 0 {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(dir))
			name, err2 := os.ReadFile(dir + "/comm")
			if err != nil || err2 != nil {
				continue
			}
			// A socket may be open in a parent and its children: the parent came first.
			if known, ok := owners[sockets[i].inode]; !ok || pid < known.PID {
				owners[sockets[i].inode] = Process{pid, strings.TrimSpace(string(name)), pid == os.Getpid()}
			}
		}
	}
	return owners
}
