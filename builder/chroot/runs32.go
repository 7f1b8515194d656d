package chroot

import (
	"encoding/binary"
	"os"
	"os/exec"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Runs32 says whether the kernel runs 32-bit x86 programs. An amd64 kernel may have been built without that, or have it switched
// off: ia32_emulation=off in Documentation/admin-guide/kernel-parameters.txt, which some distributions make the default.
// There is no file to read it from, so it starts one; once, see Starts32.
var Runs32 = sync.OnceValue(Starts32)

// Starts32 starts a 32-bit program and says whether it ran.
func Starts32() bool {
	fd, err := unix.MemfdCreate("netroot-32-bit", unix.MFD_CLOEXEC)
	if err != nil {
		return true // then what fails later says why
	}
	f := os.NewFile(uintptr(fd), "netroot-32-bit")
	defer f.Close()
	if _, err := f.Write(exit32()); err != nil {
		return true
	}
	return exec.Command("/proc/self/fd/"+strconv.Itoa(fd)).Run() == nil
}

// exit32 is the smallest program for i386: it exits with 0.
func exit32() []byte {
	const base, headers = 0x08048000, 52 + 32
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, 1: exit
		0x31, 0xdb, // xor ebx, ebx
		0xcd, 0x80, // int 0x80
	}
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x01\x01\x01"), make([]byte, 9)...)
	for _, v := range []uint16{2, 3} { // ET_EXEC, EM_386
		b = le.AppendUint16(b, v)
	}
	for _, v := range []uint32{1, base + headers, 52, 0, 0} { // version, entry, offsets of program and section headers, flags
		b = le.AppendUint32(b, v)
	}
	for _, v := range []uint16{52, 32, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	size := uint32(headers + len(code))
	for _, v := range []uint32{1, 0, base, base, size, size, 5, 4096} { // PT_LOAD, read and execute
		b = le.AppendUint32(b, v)
	}
	return append(b, code...)
}
