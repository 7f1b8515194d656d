package rpm

import "bytes"

// TagFileStates says what became of each file: 0 is that it was installed as it is.
const TagFileStates Tag = 1029

// Installed reads what the database of installed packages has of one: its header, without the magic number. The File can be asked for
// names, versions and files; there is nothing to unpack or verify.
func Installed(header []byte) (*File, error) {
	section := append(append(bytes.Clone(headerMagic), 0, 0, 0, 0), header...)
	h, err := readHeader(bytes.NewReader(section), 0, int64(len(section)))
	if err != nil {
		return nil, err
	}
	return &File{Header: h}, nil
}
