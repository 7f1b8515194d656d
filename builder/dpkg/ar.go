package dpkg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"netroot/builder/compress"
)

// A member is one file of an ar archive: where its bytes lie in the .deb.
type member struct {
	name string
	off  int64
	size int64
}

// maxMembers is far more than the three that a .deb has: signatures and the like may follow.
const maxMembers = 64

// arMembers lists the members of a .deb: the common ar format without extended names (deb(5)).
func arMembers(r io.ReaderAt, size int64) ([]member, error) {
	const magic = "!<arch>\n"
	head := make([]byte, len(magic))
	if _, err := r.ReadAt(head, 0); err != nil || string(head) != magic {
		return nil, errors.New("it is no Debian package: it does not begin with !<arch>")
	}
	var all []member
	for off := int64(len(magic)); off < size; {
		var h [60]byte
		if n, err := r.ReadAt(h[:], off); n < len(h) {
			if n > 0 && len(bytes.Trim(h[:n], "\n\x00")) == 0 {
				break // padding at the end
			}
			return nil, fmt.Errorf("it is cut off in a member header at byte %d: %w", off, noEOF(err))
		}
		if h[58] != '`' || h[59] != '\n' {
			return nil, fmt.Errorf("the member header at byte %d is damaged", off)
		}
		name := strings.TrimRight(string(h[:16]), " ")
		if name != "/" {
			name = strings.TrimSuffix(name, "/") // GNU ar ends names with a slash
		}
		n, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("the size of member %q is no number", name)
		}
		off += int64(len(h))
		if n > size-off {
			return nil, fmt.Errorf("it is cut off: member %q has %d bytes, %d are there", name, n, size-off)
		}
		if len(all) == maxMembers {
			return nil, fmt.Errorf("it has more than %d members", maxMembers)
		}
		all = append(all, member{name: name, off: off, size: n})
		off += n + n&1
	}
	return all, nil
}

// A debFile is an opened package file.
type debFile struct {
	r             io.ReaderAt
	control, data member
}

// openDeb finds the two archives of a .deb of format 2.x.
func openDeb(r io.ReaderAt, size int64) (*debFile, error) {
	members, err := arMembers(r, size)
	if err != nil {
		return nil, err
	}
	if len(members) == 0 || members[0].name != "debian-binary" || members[0].size > 64 {
		return nil, errors.New("it is no Debian package: its first member is not debian-binary")
	}
	version := make([]byte, members[0].size)
	if _, err := r.ReadAt(version, members[0].off); err != nil {
		return nil, noEOF(err)
	}
	if !bytes.HasPrefix(version, []byte("2.")) {
		return nil, fmt.Errorf("it is a Debian package of format %q, and only 2.x is known", bytes.TrimSpace(version))
	}
	d := &debFile{r: r}
	for _, m := range members[1:] {
		switch {
		case strings.HasPrefix(m.name, "control.tar") && d.control.name == "":
			d.control = m
		case strings.HasPrefix(m.name, "data.tar") && d.data.name == "":
			d.data = m
		}
	}
	if d.control.name == "" || d.data.name == "" {
		return nil, errors.New("it is no Debian package: it lacks control.tar or data.tar")
	}
	return d, nil
}

// decompress opens a member by the ending of its name (deb(5) lists them). Close ends what works ahead.
func decompress(ctx context.Context, r io.ReaderAt, m member) (io.ReadCloser, error) {
	ext := path.Ext(m.name)
	if ext == ".tar" {
		ext = ""
	}
	z, err := compress.Open(ctx, io.NewSectionReader(r, m.off, m.size), m.size, ext)
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", m.name, err)
	}
	return z, nil
}

// noEOF makes of an end that came too early an error that says so.
func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
