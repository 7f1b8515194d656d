package copytree

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"netroot/builder/compress"
	"netroot/builder/progress"
)

// magics tell compressions by the first bytes of a file. LZMA's has none, but all that is ever written begins like that.
var magics = []struct{ magic, ext string }{
	{"\x1f\x8b", ".gz"}, {"BZh", ".bz2"}, {"\xFD7zXZ\x00", ".xz"}, {"\x28\xB5\x2F\xFD", ".zst"}, {"\x5d\x00\x00", ".lzma"},
}

// tar reads a whole tar, unless it is the one that the copy was made of, and returns what tells it from others.
func (u *update) tar(ctx context.Context) (state string, err error) {
	f, err := os.Open(u.From)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", errors.New("it is neither a folder nor a file")
	}
	state = fmt.Sprintf("tar %s %d:%d %d %d.%d %d.%d %q", rules(), st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, u.Exclude)
	if u.state == state {
		if _, err := os.Stat(u.path(digestName)); err == nil {
			return state, nil
		}
	}
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return "", err
	}
	ext := ""
	for _, m := range magics {
		if bytes.HasPrefix(head[:n], []byte(m.magic)) {
			ext = m.ext
		}
	}
	task := u.Progress.Start("copying", st.Size, progress.Bytes)
	u.rep.SentBytes = st.Size
	z, err := compress.Open(ctx, &meterAt{f, task}, st.Size, ext)
	if err != nil {
		task.Abort()
		return "", fmt.Errorf("it is no tar, or compressed in an unknown way: %w", err)
	}
	defer z.Close()
	if err := u.unpack(ctx, z); err != nil {
		task.Abort()
		return "", err
	}
	task.Done()
	return state, nil
}

// unpack makes the copy what a tar says. Of several entries with the same name the last counts, as with tar -r.
func (u *update) unpack(ctx context.Context, z io.Reader) error {
	end := &ending{r: z}
	r := bufio.NewReaderSize(end, 256<<10)
	tr := tar.NewReader(r)
	seen := map[string]bool{}
	later := map[string]string{} // hard links whose file has not come yet
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if len(seen) == 0 && errors.Is(err, tar.ErrHeader) {
				return errors.New("it is no tar")
			}
			return fmt.Errorf("read the tar: %w", whole(err))
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		e, err := newEntry(h)
		if errors.Is(err, errUnkept) {
			continue
		}
		if err != nil {
			return err
		}
		name := e.name()
		if len(seen) == maxEntries {
			return fmt.Errorf("more than %d files", maxEntries)
		}
		if u.left.has(name, e.Type, e.Size) {
			continue
		}
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if above := u.have[dir]; seen[dir] && above != nil && above.Type != tar.TypeDir {
				return fmt.Errorf("entry %q lies below %q, which is no folder: the tar is hostile or broken", name, dir)
			}
		}
		if e.Type != tar.TypeDir && seen[name] && u.have[name] != nil && u.have[name].Type == tar.TypeDir {
			return fmt.Errorf("entry %q is a folder before and something else now: the tar is hostile or broken", name)
		}
		seen[name] = true
		delete(later, name)
		if e.Type == tar.TypeLink {
			first := string(e.Link)
			if t := u.have[first]; t != nil && t.Type == tar.TypeLink && seen[first] {
				e.Link = t.Link
			}
			if later[string(e.Link)] != "" || !seen[string(e.Link)] {
				later[name] = string(e.Link)
				continue
			}
		}
		if err := u.put(e, tr); err != nil {
			return whole(err)
		}
		u.rep.Sent++
	}
	if len(seen) == 0 {
		return errors.New("it is no tar, or there is nothing in it")
	}
	// What follows the end must at least decompress, or the file is damaged.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("read the tar: %w", whole(err))
	}
	if end.zeros < 2*512 {
		return fmt.Errorf("read the tar: %w", whole(io.EOF))
	}
	if err := u.late(later, seen); err != nil {
		return err
	}
	if err := u.implied(seen); err != nil {
		return err
	}
	if err := u.retain(func(name string) bool { return seen[name] }); err != nil {
		return err
	}
	return u.mended()
}

// implied makes entries for folders that the tar has things in, but no entry of their own.
func (u *update) implied(seen map[string]bool) error {
	missing := map[string]bool{}
	if !seen["."] {
		missing["."] = true
	}
	for name := range seen {
		for dir := path.Dir(name); !seen[dir] && !missing[dir]; dir = path.Dir(dir) {
			missing[dir] = true
		}
	}
	for name := range missing {
		seen[name] = true
		if err := u.put(&entry{Name: raw(name), Type: tar.TypeDir, Mode: 0o755}, nil); err != nil {
			return err
		}
	}
	return nil
}

// late makes hard links to files that came after them.
func (u *update) late(later map[string]string, seen map[string]bool) error {
	for len(later) > 0 {
		before := len(later)
		for name, first := range later {
			if !seen[first] {
				return fmt.Errorf("entry %q is a hard link to %q, which is not in the tar", name, first)
			}
			if later[first] != "" {
				continue
			}
			if t := u.have[first]; t != nil && t.Type == tar.TypeLink {
				first = string(t.Link)
			}
			if err := u.put(&entry{Name: raw(name), Type: tar.TypeLink, Link: raw(first)}, nil); err != nil {
				return err
			}
			delete(later, name)
		}
		if len(later) == before {
			return errors.New("hard links that lead in a circle")
		}
	}
	return nil
}

// mended makes hard links again whose file was replaced by a later entry of its name.
func (u *update) mended() error {
	links := map[string]string{}
	for name, e := range u.have {
		if e.Type == tar.TypeLink {
			links[name] = string(e.Link)
		}
	}
	return u.join(links)
}

func whole(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it ends in the middle: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// An ending counts the zeros that a stream ends with: two blocks of them are the end of a tar, which package tar does without.
type ending struct {
	r     io.Reader
	zeros int
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	rest := len(bytes.TrimRight(p[:n], "\x00"))
	if rest > 0 {
		e.zeros = 0
	}
	e.zeros = min(e.zeros+n-rest, 1<<20)
	return n, err
}

// A meterAt shows how far a file is read; parts of it may be read at the same time, and twice.
type meterAt struct {
	r    io.ReaderAt
	task *progress.Task
}

func (m *meterAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := m.r.ReadAt(p, off)
	m.task.Add(int64(n))
	return n, err
}
