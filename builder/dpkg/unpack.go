package dpkg

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"netroot/builder/atomicfile"
	"netroot/builder/deb"
)

// Bounds on what a package may make us write. The largest of Debian 12 (games' data, debug symbols of the kernel) have
// 6 GB and 60,000 entries.
const (
	maxControlBytes = 64 << 20
	maxDataBytes    = 64 << 30
	maxEntries      = 4 << 20
	maxNameBytes    = 4095 // PATH_MAX of linux/limits.h
)

// Unpack reads a .deb into the cache, once: it returns at once when it is there. The caller has verified that the file
// has the SHA-256 sum. It may be called for several packages at the same time, and by several programs.
func Unpack(ctx context.Context, debPath, sum string, cache Cache) error {
	if len(sum) != 64 || strings.Trim(sum, "0123456789abcdef") != "" {
		return fmt.Errorf("unpack %s: %q is no SHA-256 in hex", filepath.Base(debPath), sum)
	}
	if cache.Has(sum) {
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("unpack %s: files keep their owners, which needs root", filepath.Base(debPath))
	}
	if err := unpack(ctx, debPath, sum, cache); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(debPath), err)
	}
	return nil
}

func unpack(ctx context.Context, debPath, sum string, cache Cache) error {
	f, d, err := open(debPath)
	if err != nil {
		return err
	}
	defer f.Close()
	lock, err := cache.temp(sum)
	if err != nil {
		return err
	}
	defer lock.Close()
	temp := lock.Name()
	defer os.RemoveAll(temp) // nothing is there under this name once it is published
	for _, dir := range []string{"control", "files"} {
		if err := os.Mkdir(filepath.Join(temp, dir), 0o700); err != nil {
			return err
		}
	}
	m, err := unpackControl(ctx, d, filepath.Join(temp, "control"))
	if err != nil {
		return fmt.Errorf("%s: %w", d.control.name, err)
	}
	if m.Diverts {
		if err := linkOrCopy(debPath, filepath.Join(temp, "package.deb")); err != nil {
			return err
		}
	}
	x := extractor{dir: filepath.Join(temp, "files"), manifest: m, buf: make([]byte, 256<<10)}
	if err := x.run(ctx, d); err != nil {
		return fmt.Errorf("%s: %w", d.data.name, err)
	}
	m.Boot = atomicfile.BootID()
	if err := m.write(temp); err != nil {
		return err
	}
	return cache.publish(temp, sum)
}

func open(debPath string) (*os.File, *debFile, error) {
	f, err := os.Open(debPath)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil {
		var d *debFile
		if d, err = openDeb(f, st.Size()); err == nil {
			return f, d, nil
		}
	}
	f.Close()
	return nil, nil, err
}

// unpackControl reads control.tar: every member becomes a file of info/ but "control", which goes into status.
func unpackControl(ctx context.Context, d *debFile, dir string) (*manifest, error) {
	z, err := decompress(ctx, d.r, d.control)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	m := &manifest{Format: manifestFormat}
	var conffiles, preinst string
	tr := tar.NewReader(io.LimitReader(z, maxControlBytes))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, noEOF(err)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return nil, err
		}
		if name == "." && h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg || !deb.ValidName(name) || name == "list" {
			return nil, fmt.Errorf("%q has no business there", h.Name)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return nil, noEOF(err)
		}
		switch name {
		case "control":
			m.Control = strings.TrimRight(string(data), "\n") + "\n"
			continue
		case "conffiles":
			conffiles = string(data)
		case "preinst":
			preinst = string(data)
		}
		file := filepath.Join(dir, name)
		w, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, fmt.Errorf("member %s: %w", name, err)
		}
		_, err = w.Write(data)
		e := entry{Mode: uint32(h.Mode) & 0o777, Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
		if err = errors.Join(err, e.dress(w), w.Close()); err != nil {
			return nil, err
		}
		m.Members = append(m.Members, name)
	}
	if _, err := parseControl(m.Control); err != nil {
		return nil, err
	}
	m.Diverts = strings.Contains(preinst, "dpkg-divert")
	m.Conffiles = map[string]string{}
	for line := range strings.Lines(conffiles) {
		name := strings.TrimSpace(line)
		// "remove-on-upgrade /etc/x" names a file that is not there any more (deb-conffiles(5)).
		if strings.HasPrefix(name, "/") {
			m.Conffiles[name] = ""
			m.Order = append(m.Order, name)
		}
	}
	return m, nil
}

// controlText reads the control file alone.
func controlText(d *debFile) (string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	z, err := decompress(ctx, d.r, d.control)
	if err != nil {
		return "", err
	}
	defer z.Close()
	tr := tar.NewReader(io.LimitReader(z, maxControlBytes))
	for {
		h, err := tr.Next()
		if err != nil {
			return "", fmt.Errorf("find the control file: %w", noEOF(err))
		}
		if path.Clean(h.Name) == "control" {
			text, err := io.ReadAll(tr)
			return string(text), err
		}
	}
}

// An extractor writes one data.tar.
type extractor struct {
	dir      string
	manifest *manifest
	buf      []byte
	sums     bytes.Buffer
}

func (x *extractor) run(ctx context.Context, d *debFile) error {
	z, err := decompress(ctx, d.r, d.data)
	if err != nil {
		return err
	}
	defer z.Close()
	own := false // md5sums of its own
	for _, name := range x.manifest.Members {
		own = own || name == "md5sums"
	}
	tr := tar.NewReader(bufio.NewReaderSize(z, 256<<10))
	places := map[string]int{} // name: index of its entry, plus one
	later := map[int]string{}  // hard links whose target has not come yet
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return noEOF(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		e, err := newEntry(h)
		if err != nil {
			return err
		}
		if len(x.manifest.Entries) == maxEntries {
			return fmt.Errorf("more than %d entries", maxEntries)
		}
		if total += h.Size; h.Size < 0 || total > maxDataBytes {
			return fmt.Errorf("more than %d bytes", int64(maxDataBytes))
		}
		for dir := path.Dir(e.Name); dir != "."; dir = path.Dir(dir) {
			if i := places[dir]; i > 0 && x.manifest.Entries[i-1].Type != tar.TypeDir {
				return fmt.Errorf("entry %q lies below %q, which is no folder: the package is hostile or broken", e.Name, dir)
			}
		}
		if i := places[e.Name]; i > 0 {
			if e.Type == tar.TypeDir && x.manifest.Entries[i-1].Type == tar.TypeDir {
				continue
			}
			return fmt.Errorf("entry %q is there twice", e.Name)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			e.File, e.Size = len(x.manifest.Entries), h.Size
			if err := x.file(&e, tr, h, !own); err != nil {
				return fmt.Errorf("entry %q: %w", e.Name, err)
			}
		case tar.TypeLink:
			target, err := cleanName(h.Linkname)
			if err != nil {
				return err
			}
			e.Link = ""
			if _, waits := later[places[target]-1]; places[target] > 0 && !waits {
				i := places[target]
				if err := e.linkTo(&x.manifest.Entries[i-1], target); err != nil {
					return err
				}
			} else {
				later[len(x.manifest.Entries)] = target
			}
		}
		x.manifest.Entries = append(x.manifest.Entries, e)
		places[e.Name] = len(x.manifest.Entries)
	}
	for len(later) > 0 {
		before := len(later)
		for i, target := range later {
			t := places[target]
			if t == 0 {
				return fmt.Errorf("entry %q is a hard link to %q, which is not in the package", x.manifest.Entries[i].Name, target)
			}
			if _, waits := later[t-1]; waits {
				continue
			}
			if err := x.manifest.Entries[i].linkTo(&x.manifest.Entries[t-1], target); err != nil {
				return err
			}
			delete(later, i)
		}
		if len(later) == before {
			return errors.New("hard links that lead in a circle")
		}
	}
	if !own {
		x.manifest.Sums = x.sums.String()
	}
	// Whatever follows the archive's end must at least decompress, or the file is damaged.
	if n, err := io.Copy(io.Discard, io.LimitReader(z, 1<<20)); err != nil {
		return noEOF(err)
	} else if n == 1<<20 {
		return errors.New("more than a megabyte follows the end of the archive")
	}
	return nil
}

// file writes the contents of a regular file.
func (x *extractor) file(e *entry, r io.Reader, h *tar.Header, sums bool) error {
	w, err := os.OpenFile(filepath.Join(x.dir, strconv.Itoa(e.File)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	var to io.Writer = struct{ io.Writer }{w} // hides ReadFrom, so that our buffer is used
	_, conffile := x.manifest.Conffiles["/"+e.Name]
	var sum hash.Hash
	if sums || conffile {
		sum = md5.New()
		to = io.MultiWriter(w, sum)
	}
	_, err = io.CopyBuffer(to, struct{ io.Reader }{r}, x.buf)
	err = errors.Join(noEOFOrNil(err), e.dress(w), w.Close())
	if err != nil {
		return err
	}
	e.Xattr = nil // on the file itself
	if sum != nil {
		text := hex.EncodeToString(sum.Sum(nil))
		if conffile {
			x.manifest.Conffiles["/"+e.Name] = text
		} else {
			fmt.Fprintf(&x.sums, "%s  %s\n", text, e.Name)
		}
	}
	return nil
}

func noEOFOrNil(err error) error {
	if err == nil {
		return nil
	}
	return noEOF(err)
}
