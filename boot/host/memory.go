package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

const (
	// What machines that make up addresses can fill: those of one UUID push out each other, and no other's.
	maxRemembered = 4096
	maxOfOne      = 64
	maxMemoryFile = 1 << 20
	memoryFile    = "uuids"
)

// A memory knows by which MAC a machine asked that the policy lists by its UUID. Only DHCP and the first request of pxelinux tell
// a UUID; all that follows, up to the root by NFS, comes from an address behind which there is a MAC and no more.
type memory struct {
	mu   sync.Mutex
	uuid map[string]string   // by MAC
	macs map[string][]string // by UUID, the one learned last at the end
	file *os.File            // nil: it is lost with the process
	size int64
}

// Remember keeps what is learned of machines that are listed by UUID in a file of the folder dir, for the server that is started
// next: machines that run meanwhile do not tell their UUID again. The file stays open until forget is called, so that a process
// which has given up its rights can still write to it.
func (l *Live) Remember(dir string) (forget func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, memoryFile), os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Mkdir(dir, 0o750); err == nil {
			return l.Remember(dir)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("remember machines by their UUID: %w", err)
	}
	m := &l.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read(f)
	if st, err := f.Stat(); err == nil && st.Size() > 0 && m.size != st.Size() {
		fmt.Fprintln(f) // and the next line is one of its own: each counts with its end, which that one has not
	}
	m.file = f
	return f.Close, nil
}

// Recall is Remember for who only looks: it reads what a server keeps in the folder dir, where it does, and writes nothing.
func (l *Live) Recall(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, memoryFile), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("recall machines by their UUID: %w", err)
	}
	defer f.Close()
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	l.memory.read(f)
	return nil
}

// read takes over what a file holds.
func (m *memory) read(f io.Reader) {
	m.uuid, m.macs = nil, nil
	for lines := bufio.NewScanner(f); lines.Scan(); {
		m.size += int64(len(lines.Bytes())) + 1
		var macText, uuidText string
		if n, _ := fmt.Sscanf(lines.Text(), "%s %s", &macText, &uuidText); n != 2 {
			continue // what a killed server did not write to the end
		}
		mac, err1 := ParseMAC(macText)
		uuid, err2 := ParseUUID(uuidText)
		if err1 == nil && err2 == nil {
			m.learn(string(mac), uuid)
		}
	}
}

// learn says whether there was room.
func (m *memory) learn(mac, uuid string) bool {
	if m.uuid == nil {
		m.uuid, m.macs = map[string]string{}, map[string][]string{}
	}
	before, known := m.uuid[mac]
	of := m.macs[uuid]
	switch {
	case known:
		m.macs[before] = slices.DeleteFunc(m.macs[before], func(other string) bool { return other == mac })
		of = m.macs[uuid]
	case len(of) < maxOfOne && len(m.uuid) >= maxRemembered:
		return false
	}
	if len(of) >= maxOfOne {
		delete(m.uuid, of[0])
		of = of[1:]
	}
	m.uuid[mac] = uuid
	m.macs[uuid] = append(of, mac)
	return true
}

// keep writes down what was learned, and when much of the file is no longer so, what is known anew. What cannot be written is missed by the
// next server only.
func (m *memory) keep(mac, uuid string) {
	if m.file == nil {
		return
	}
	var text strings.Builder
	line := func(mac, uuid string) { fmt.Fprintf(&text, "%s %s\n", net.HardwareAddr(mac), uuid) }
	if m.size < maxMemoryFile {
		line(mac, uuid)
	} else if m.file.Truncate(0) == nil {
		m.size = 0
		for uuid, macs := range m.macs {
			for _, mac := range macs {
				line(mac, uuid)
			}
		}
	}
	n, _ := m.file.WriteString(text.String())
	m.size += int64(n)
}

// complete returns m with its UUID, when it has none and is not listed by its MAC; one that has a listed UUID is remembered.
func (k *memory) complete(p *Policy, m Machine) Machine {
	if len(p.byUUID) == 0 || len(m.MAC) == 0 {
		return m
	}
	if _, listed := p.byMAC[string(m.MAC)]; listed {
		return m
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.uuid[string(m.MAC)]
	if m.UUID == "" {
		m.UUID = known
		return m
	}
	if _, listed := p.byUUID[m.UUID]; listed && !m.Trial && m.UUID != known && k.learn(string(m.MAC), m.UUID) {
		k.keep(string(m.MAC), m.UUID)
	}
	return m
}
