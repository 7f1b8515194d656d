package tftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// State is the table of running transfers in a file that is mapped into memory, so that it is there for the next server when this
// one was killed: that one takes the same port, and goes on. Keeping it costs a few stores per acknowledgement and no system call.
//
// The file belongs to one server at a time, and is best on a tmpfs, where no store has to wait for a disk. It means nothing to another machine, and after a restart of this one what it holds is
// too old.
type State struct {
	file *os.File
	mem  []byte
	mu   sync.Mutex
	free []int
}

const (
	stateMagic  = "netroot TFTP transfers 1\n"
	statePort   = 32 // uint32
	stateHeader = 512
	slotSize    = 512
	stateSlots  = 4096
	stateSize   = stateHeader + stateSlots*slotSize
	// What was last heard of longer ago is not taken up again. Boot ROMs give up before.
	stateAge = 2 * time.Minute
)

// The layout of a slot. The first two words and acked change while the transfer runs; the rest is written before used is set.
const (
	slotUsed  = 0 // uint32
	slotHeard = 4 // uint32, seconds since 1970
	slotAcked = 8 // int64
	slotFixed = 16
	slotSum   = 64 // CRC-32 of what is fixed, with the name
	slotName  = 68
	maxName   = slotSize - slotName
)

// A slot is the place of one transfer.
type slot struct {
	n   int
	mem []byte
}

// saved is what a slot tells.
type saved struct {
	slot     *slot
	client   netip.AddrPort
	local    netip.Addr
	name     string
	netascii bool
	gso      bool
	terms
	size  int64
	id    uint64
	start time.Time
	acked int64
}

// OpenState opens or makes the file. It fails when another server has it.
func OpenState(path string) (*State, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keep the state of transfers: %w", err)
	}
	s := &State{file: f}
	if err := s.open(); err != nil {
		f.Close()
		return nil, fmt.Errorf("keep the state of transfers in %s: %w", path, err)
	}
	return s, nil
}

func (s *State) open() error {
	if err := unix.Flock(int(s.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return errors.New("another server uses it; give each its own")
		}
		return err
	}
	st, err := s.file.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return errors.New("not a file")
	}
	head := make([]byte, len(stateMagic))
	if st.Size() == stateSize {
		if _, err := s.file.ReadAt(head, 0); err != nil {
			return err
		}
	}
	if string(head) != stateMagic { // new, or of another version
		if err := s.file.Truncate(0); err != nil {
			return err
		}
		// Blocks are taken now: on a full disk a store to the mapped file would be a fatal signal.
		if err := unix.Fallocate(int(s.file.Fd()), 0, 0, stateSize); errors.Is(err, unix.EOPNOTSUPP) {
			_, err = s.file.WriteAt(make([]byte, stateSize), 0)
			if err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		if _, err := s.file.WriteAt([]byte(stateMagic), 0); err != nil {
			return err
		}
	}
	s.mem, err = unix.Mmap(int(s.file.Fd()), 0, stateSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return err
}

// Close gives the file up, and leaves in it what it holds.
func (s *State) Close() error {
	if s == nil {
		return nil
	}
	return errors.Join(unix.Munmap(s.mem), s.file.Close())
}

func word(b []byte) *uint32 { return (*uint32)(unsafe.Pointer(&b[0])) }

func (s *State) port() uint16     { return uint16(atomic.LoadUint32(word(s.mem[statePort:]))) }
func (s *State) setPort(p uint16) { atomic.StoreUint32(word(s.mem[statePort:]), uint32(p)) }

func (s *State) slot(n int) *slot {
	at := stateHeader + n*slotSize
	return &slot{n, s.mem[at : at+slotSize : at+slotSize]}
}

// forget drops all transfers.
func (s *State) forget() {
	for n := range stateSlots {
		s.slot(n).clear()
	}
}

// load returns the transfers that another server left, and makes the rest of the slots free.
func (s *State) load(now time.Time) []saved {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []saved
	s.free = s.free[:0]
	for n := stateSlots - 1; n >= 0; n-- {
		slot := s.slot(n)
		if t, ok := slot.read(now); ok {
			all = append(all, t)
			continue
		}
		slot.clear()
		s.free = append(s.free, n)
	}
	return all
}

// add writes a transfer down. Without room, or with a name that is too long, it returns nil, and the transfer ends with the server.
func (s *State) add(t *transfer, now time.Time) *slot {
	if s == nil || len(t.asked) > maxName {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 {
		return nil
	}
	slot := s.slot(s.free[len(s.free)-1])
	s.free = s.free[:len(s.free)-1]
	slot.write(t, now)
	return slot
}

// remove frees a slot, which may be nil.
func (s *State) remove(p *slot) {
	if p == nil {
		return
	}
	p.clear()
	s.mu.Lock()
	s.free = append(s.free, p.n)
	s.mu.Unlock()
}

// clear does not write where nothing is: pages that were never used take no memory.
func (p *slot) clear() {
	if atomic.LoadUint32(word(p.mem)) != 0 {
		atomic.StoreUint32(word(p.mem), 0)
	}
}

// progress notes how far a transfer is.
func (p *slot) progress(acked int64, now time.Time) {
	if p != nil {
		atomic.StoreInt64((*int64)(unsafe.Pointer(&p.mem[slotAcked])), acked)
		atomic.StoreUint32(word(p.mem[slotHeard:]), uint32(now.Unix()))
	}
}

func (p *slot) write(t *transfer, now time.Time) {
	le := binary.LittleEndian
	f := p.mem[slotFixed:slotSum]
	clear(f)
	client, local := t.client.Addr().As4(), t.local.As4()
	copy(f, client[:])
	copy(f[4:], local[:])
	le.PutUint16(f[8:], t.client.Port())
	f[10], f[11] = byte(t.window), byte(t.timeout)
	if t.netascii {
		f[12] |= 1
	}
	if t.gso {
		f[12] |= 2
	}
	le.PutUint16(f[14:], uint16(len(t.asked)))
	le.PutUint32(f[16:], uint32(t.blksize))
	le.PutUint64(f[24:], uint64(t.start.UnixMilli()))
	le.PutUint64(f[32:], uint64(t.src.size))
	le.PutUint64(f[40:], t.src.id)
	copy(p.mem[slotName:], t.asked)
	le.PutUint32(p.mem[slotSum:], p.sum(len(t.asked)))
	p.progress(t.acked, now)
	atomic.StoreUint32(word(p.mem), 1)
}

func (p *slot) sum(name int) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(p.mem[slotFixed:slotSum]), crc32.IEEETable, p.mem[slotName:slotName+name])
}

// read believes nothing: the file may be of a machine that lost power.
func (p *slot) read(now time.Time) (s saved, ok bool) {
	le := binary.LittleEndian
	if atomic.LoadUint32(word(p.mem)) != 1 {
		return s, false
	}
	f := p.mem[slotFixed:slotSum]
	name := int(le.Uint16(f[14:]))
	if name > maxName || p.sum(name) != le.Uint32(p.mem[slotSum:]) {
		return s, false
	}
	s = saved{
		slot:     p,
		client:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(f[:4])), le.Uint16(f[8:])),
		local:    netip.AddrFrom4([4]byte(f[4:8])),
		name:     string(p.mem[slotName : slotName+name]),
		netascii: f[12]&1 != 0,
		gso:      f[12]&2 != 0,
		terms:    terms{blksize: int(le.Uint32(f[16:])), window: int(f[10]), timeout: int(f[11])},
		size:     int64(le.Uint64(f[32:])),
		id:       le.Uint64(f[40:]),
		start:    time.UnixMilli(int64(le.Uint64(f[24:]))),
		acked:    atomic.LoadInt64((*int64)(unsafe.Pointer(&p.mem[slotAcked]))),
	}
	age := now.Sub(time.Unix(int64(atomic.LoadUint32(word(p.mem[slotHeard:]))), 0))
	ok = age < stateAge && age > -stateAge && s.client.Port() != 0 && s.size >= 0 && s.acked >= 0 &&
		s.blksize >= minBlock && s.blksize <= maxBlock && s.window >= 1 && s.window <= maxWindow &&
		s.window*s.blksize <= max(maxWindowBytes, s.blksize) && s.acked <= s.size/int64(s.blksize)
	return s, ok
}
