package dpkg

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
)

// maxReadFile bounds one file that is read into memory.
const maxReadFile = 256 << 20

// ReadFile reads one regular file out of a .deb without unpacking it. The name is the path in the root, with or without
// leading slash; links are not followed, but for hard links.
func ReadFile(debPath, name string) ([]byte, error) {
	data, err := readFile(debPath, strings.TrimPrefix(name, "/"))
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, filepath.Base(debPath), err)
	}
	return data, nil
}

func readFile(debPath, want string) ([]byte, error) {
	f, d, err := open(debPath)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for range 2 { // once more when the name is a hard link to what came before
		data, link, err := findFile(d, want)
		if err != nil || link == "" {
			return data, err
		}
		want = link
	}
	return nil, fs.ErrNotExist
}

func findFile(d *debFile, want string) (data []byte, link string, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	z, err := decompress(ctx, d.r, d.data)
	if err != nil {
		return nil, "", err
	}
	defer z.Close()
	tr := tar.NewReader(bufio.NewReader(z))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil, "", fs.ErrNotExist
		}
		if err != nil {
			return nil, "", noEOF(err)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return nil, "", err
		}
		if name != want {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if h.Size > maxReadFile {
				return nil, "", fmt.Errorf("%d bytes are too many", h.Size)
			}
			data, err := io.ReadAll(tr)
			if err != nil {
				return nil, "", noEOF(err)
			}
			return data, "", nil
		case tar.TypeLink:
			link, err := cleanName(h.Linkname)
			return nil, link, err
		default:
			return nil, "", fmt.Errorf("it is no regular file")
		}
	}
}
