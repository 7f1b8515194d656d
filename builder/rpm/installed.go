package rpm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// TagFileStates says what became of each file: 0 is that it was installed as it is.
const TagFileStates Tag = 1029

// Installed reads what the database of installed packages has of one: its header, without the magic number. The File can be asked for
// names, versions and files; there is nothing to unpack or verify. It is valid as long as the bytes are.
func Installed(header []byte) (*File, error) {
	const lengths = 8 // of the index, in entries, and of the store
	if len(header) < lengths {
		return nil, errors.New("the header is cut off")
	}
	n, length := binary.BigEndian.Uint32(header), binary.BigEndian.Uint32(header[4:])
	if n == 0 || n > maxEntries || length > maxStore || lengths+int64(n)*entrySize+int64(length) > int64(len(header)) {
		return nil, fmt.Errorf("the header claims %d entries and %d bytes, and has %d", n, length, len(header))
	}
	store := header[lengths+n*entrySize:]
	h, err := newHeader(header[lengths:lengths+n*entrySize], store[:length])
	if err != nil {
		return nil, err
	}
	return &File{Header: h}, nil
}
