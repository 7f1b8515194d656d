package tftp

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Files that are not on disk, and files in text mode, are held in memory while they are sent.
	maxInMemory    = 4 << 20
	maxAllInMemory = 256 << 20
	// What is read when the disk has to be waited for, and how much of the file the kernel is asked to bring in behind it.
	fetchSize  = 64 << 10
	aheadBytes = 1 << 20
)

// A source is what a transfer reads: a file on disk, or bytes in memory. Transfers of the same file share one, and so one
// descriptor.
type source struct {
	size int64
	id   uint64 // changes with the content, as far as can be told without reading it
	mem  []byte

	file *os.File // nil: mem
	fd   int
	key  fileKey
	refs int
}

type fileKey struct {
	dev, ino uint64
	size     int64
	mtime    unix.Timespec
}

// Sources are the files that are open.
type sources struct {
	mu   sync.Mutex
	open map[fileKey]*source
	held int64 // bytes in memory
}

// get opens a file of a tree.
func (o *sources) get(fsys fs.FS, name string, netascii bool) (*source, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if file, ok := f.(*os.File); ok && !netascii {
		return o.share(file)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxInMemory+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxInMemory {
		return nil, fmt.Errorf("read %s: more than %d bytes, and neither on disk nor asked for in octet mode", name, maxInMemory)
	}
	if netascii {
		b = toNetascii(b)
	}
	s := &source{size: int64(len(b)), id: identity(b), mem: b, fd: -1}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.held+int64(len(b)) > maxAllInMemory {
		return nil, fmt.Errorf("read %s: transfers hold %d bytes in memory already", name, o.held)
	}
	o.held += int64(len(b))
	return s, nil
}

func (o *sources) share(f *os.File) (*source, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	var st unix.Stat_t
	fd := -1
	if cerr := raw.Control(func(n uintptr) { fd, err = int(n), unix.Fstat(int(n), &st) }); cerr != nil || err != nil {
		f.Close()
		return nil, fmt.Errorf("look at %s: %w", f.Name(), errors.Join(cerr, err))
	}
	key := fileKey{st.Dev, st.Ino, st.Size, st.Mtim}
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.open[key]; s != nil {
		s.refs++
		f.Close()
		return s, nil
	}
	id := identity(fmt.Appendf(nil, "%d bytes of %d.%d", st.Size, st.Mtim.Sec, st.Mtim.Nsec))
	s := &source{size: st.Size, id: id, file: f, fd: fd, key: key, refs: 1}
	if o.open == nil {
		o.open = map[fileKey]*source{}
	}
	o.open[key] = s
	return s, nil
}

// identity is the same in another process.
func identity(b []byte) uint64 {
	return uint64(crc32.Checksum(b, castagnoli))<<32 | uint64(crc32.ChecksumIEEE(b))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// hold keeps a source open for one more user.
func (o *sources) hold(s *source) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.refs++
}

// put gives a source back.
func (o *sources) put(s *source) {
	if s == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.file == nil {
		o.held -= int64(len(s.mem))
		return
	}
	if s.refs--; s.refs == 0 {
		delete(o.open, s.key)
		s.file.Close()
	}
}

// toNetascii ends lines with CR LF, and puts a NUL after any other CR (RFC 764, the NVT of RFC 1350's text mode).
func toNetascii(b []byte) []byte {
	out := make([]byte, 0, len(b)+bytes.Count(b, []byte{'\n'})+bytes.Count(b, []byte{'\r'}))
	for _, c := range b {
		switch c {
		case '\n':
			out = append(out, '\r', '\n')
		case '\r':
			out = append(out, '\r', 0)
		default:
			out = append(out, c)
		}
	}
	return out
}

// readNow fills p from off on if no disk has to be waited for: from memory, or with preadv2 and RWF_NOWAIT from the page cache.
// It is called by a thread that must not stop, and does not tell the scheduler of a call that returns at once.
func (s *source) readNow(p []byte, off int64) bool {
	if s.file == nil {
		return copy(p, s.mem[min(off, s.size):]) == len(p)
	}
	for len(p) > 0 {
		iov := unix.Iovec{Base: &p[0]}
		iov.SetLen(len(p))
		// The offset is passed in two registers; on 64 bits the second one is ignored.
		n, _, errno := syscall.RawSyscall6(unix.SYS_PREADV2, uintptr(s.fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), uintptr(uint64(off)>>32), unix.RWF_NOWAIT)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || n == 0 {
			return false
		}
		p, off = p[n:], off+int64(n)
	}
	return true
}

// fetch reads n bytes from off on, however long it takes.
func (s *source) fetch(off int64, n int) ([]byte, error) {
	b := make([]byte, min(int64(max(n, fetchSize)), s.size-off))
	// All at once, and what comes after for the next time.
	_ = unix.Fadvise(s.fd, off, int64(len(b))+aheadBytes, unix.FADV_WILLNEED)
	if _, err := s.file.ReadAt(b, off); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // the file became shorter
		}
		return nil, err
	}
	return b, nil
}
