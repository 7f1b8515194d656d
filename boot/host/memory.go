package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

const (
	// maxRemembered bounds what machines that make up addresses can fill.
	maxRemembered = 4096
	maxMemoryFile = 1 << 20
	memoryFile    = "uuids"
)

// A memory knows by which MAC a machine asked that the policy lists by its UUID. Only DHCP and the first request of pxelinux tell
// a UUID; all that follows, up to the root by NFS, comes from an address behind which there is a MAC and no more.
type memory struct {
	mu   sync.Mutex
	uuid map[string]string // by MAC
	file *os.File          // nil: it is lost with the process
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
	m.uuid = map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		m.size += int64(len(lines.Bytes())) + 1
		var macText, uuidText string
		if n, _ := fmt.Sscanf(lines.Text(), "%s %s", &macText, &uuidText); n != 2 {
			continue // what a killed server did not write to the end
		}
		mac, err1 := ParseMAC(macText)
		uuid, err2 := ParseUUID(uuidText)
		if err1 == nil && err2 == nil && len(m.uuid) < maxRemembered {
			m.uuid[string(mac)] = uuid
		}
	}
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
	if _, listed := p.byUUID[m.UUID]; !listed || m.Trial || m.UUID == known || known == "" && len(k.uuid) >= maxRemembered {
		return m
	}
	if k.uuid == nil {
		k.uuid = map[string]string{}
	}
	k.uuid[string(m.MAC)] = m.UUID
	if k.file != nil && k.size < maxMemoryFile {
		// A line that cannot be written is missed by the next server only.
		n, _ := fmt.Fprintf(k.file, "%s %s\n", m.MAC, m.UUID)
		k.size += int64(n)
	}
	return m
}
