package tftpboot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/boot/host"
	"netroot/builder/atomicfile"
	"netroot/builder/store"
)

// ManifestName is the file in which Write remembers what is its own.
const ManifestName = ".netroot-files"

const manifestHead = "# Files that netroot tftpboot wrote here. It replaces and removes these and no others.\n"

// Written is what Write did.
type Written struct {
	New, Same, Removed int
	Bytes              int64 // of the new ones
}

// Write lays the tree out in the folder dir, for the TFTP server of somebody else, whose clients reach this program's NFS
// server as server. The machines get a configuration of their own.
//
// It can be run again at any time, also while machines boot: each file is replaced at once or not at all, kernels come
// before the configurations that name them, and what is no longer needed goes last. A file that is in the way and was not
// written by Write is an error, and then nothing is changed. Files are copied, not linked to the store, because a TFTP
// server must be able to read them and the store is closed to others.
func (t *Tree) Write(ctx context.Context, dir string, server netip.Addr, machines []host.Machine) (Written, error) {
	var done Written
	if !server.Is4() || server.IsUnspecified() || server.IsLoopback() {
		return done, fmt.Errorf("write boot tree: %v is not an IPv4 address that clients can reach this server by", server)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return done, fmt.Errorf("write boot tree: %w", err)
	}
	unlock, err := lockFolder(dir)
	if err != nil {
		return done, fmt.Errorf("write boot tree %s: %w", dir, err)
	}
	defer unlock()
	own, err := readManifest(filepath.Join(dir, ManifestName))
	if err != nil {
		return done, err
	}
	// Scripts for iPXE need a URL, and the address of the other TFTP server is not known: they load kernels from this one.
	view := &view{t, server, host.Machine{Near: server}}
	names, err := t.names(machines)
	if err != nil {
		return done, fmt.Errorf("write boot tree: %w", err)
	}
	if err := inTheWay(dir, names, own, view); err != nil {
		return done, err
	}
	// Should this run be killed, the next one knows these files as its own.
	both := slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(names), own...))))
	if err := writeManifest(dir, both); err != nil {
		return done, err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return done, fmt.Errorf("write boot tree %s: %w", dir, err)
		}
		n, err := put(ctx, view, name, filepath.Join(dir, name))
		if err != nil {
			return done, fmt.Errorf("write boot tree: %w", err)
		}
		if n < 0 {
			done.Same++
			continue
		}
		done.New++
		done.Bytes += n
	}
	for _, name := range own {
		if slices.Contains(names, name) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return done, fmt.Errorf("remove old boot file: %w", err)
		}
		done.Removed++
		for up := path.Dir(name); up != "."; up = path.Dir(up) {
			if os.Remove(filepath.Join(dir, up)) != nil {
				break // somebody has a file there
			}
		}
	}
	return done, writeManifest(dir, slices.Sorted(slices.Values(names)))
}

// names lists every file of the tree, those first that others name.
func (t *Tree) names(machines []host.Machine) ([]string, error) {
	var names []string
	images, err := t.Store.Images()
	if err != nil {
		return nil, err
	}
	for _, image := range images {
		gens, err := t.Store.Generations(image)
		if err != nil {
			return nil, err
		}
		for _, g := range gens {
			if g.Err != nil {
				continue // no menu lists it
			}
			for _, part := range strings.Fields(parts) {
				if _, ok := g.Manifest.Parts[part]; !ok {
					continue
				}
				names = append(names, path.Join(g.Image, strconv.Itoa(g.Number), part))
			}
		}
	}
	names = append(names, loaderFiles...)
	for _, name := range extraFiles {
		if _, err := os.Stat(filepath.Join(t.Loader, name)); err == nil {
			names = append(names, name)
		}
	}
	for _, m := range machines {
		for _, name := range configNames(m) {
			names = append(names, configDir+"/"+name)
		}
		if m.MAC != nil {
			names = append(names, scriptDir+"/"+fileName(m.MAC))
		}
	}
	return append(names, configDir+"/default", bootScript), nil
}

// inTheWay looks for files that would be replaced and are not ours. One that holds the very same bytes is no obstacle: the
// boot loader often is there already.
func inTheWay(dir string, names, own []string, fsys fs.FS) error {
	for _, name := range names {
		at := filepath.Join(dir, name)
		st, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("write boot tree: %s cannot be made, because a file is where a folder should be: move that away, or choose another folder", at)
		}
		if err != nil {
			return fmt.Errorf("write boot tree: %w", err)
		}
		if slices.Contains(own, name) && st.Mode().IsRegular() {
			continue
		}
		if st.Mode().IsRegular() {
			have, err1 := os.ReadFile(at)
			want, err2 := fs.ReadFile(fsys, name)
			if err1 == nil && err2 == nil && bytes.Equal(have, want) {
				continue
			}
		}
		return fmt.Errorf("write boot tree: %s is in the way and was not written by netroot: move it away, or choose another folder", at)
	}
	return nil
}

// put makes the file at the same as name in fsys, and returns how many bytes it wrote, or -1 when it was the same before.
func put(ctx context.Context, fsys fs.FS, name, at string) (int64, error) {
	src, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) && slices.Contains(loaderFiles, name) {
		return 0, fmt.Errorf("the store has no boot loader file %s: netroot build puts it there", name)
	}
	if err != nil {
		return 0, err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return 0, err
	}
	if same(src, st, at) {
		return -1, nil
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return 0, err
	}
	// What a killed run was writing.
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(at), atomicfile.TempPrefix+filepath.Base(at)+"-*"))
	for _, f := range left {
		os.Remove(f)
	}
	dst, err := atomicfile.Create(at, 0o644)
	if err != nil {
		return 0, err
	}
	defer dst.Abort()
	stop := context.AfterFunc(ctx, func() { src.Close() })
	defer stop()
	n, err := io.Copy(dst.File, src)
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("write %s: %w", at, ctx.Err())
	case err != nil:
		return 0, fmt.Errorf("write %s: %w", at, err)
	}
	if mtime := st.ModTime(); !mtime.IsZero() {
		if err := os.Chtimes(dst.Name(), mtime, mtime); err != nil {
			return 0, err
		}
	}
	return n, dst.Commit()
}

// same tells whether the file at is already what src holds. Parts of a generation and loader files never change under the
// same name without a new time; generated texts have no time, and are compared.
func same(src fs.File, st fs.FileInfo, at string) bool {
	have, err := os.Lstat(at)
	if err != nil || !have.Mode().IsRegular() || have.Size() != st.Size() || have.Mode().Perm()&0o444 != 0o444 {
		return false
	}
	text, ok := src.(io.ReaderAt)
	if !ok || !st.ModTime().IsZero() {
		return have.ModTime().Equal(st.ModTime())
	}
	old, err := os.ReadFile(at)
	if err != nil {
		return false
	}
	data := make([]byte, len(old))
	_, err = text.ReadAt(data, 0)
	return err == nil && bytes.Equal(old, data)
}

// lockFolder keeps two runs apart.
func lockFolder(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("another netroot is writing it; try again when that has ended")
		}
		return nil, err
	}
	return func() { d.Close() }, nil
}

func readManifest(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("write boot tree: %w", err)
	}
	return parseManifest(data), nil
}

// parseManifest keeps only names that can be ours: what it returns gets removed.
func parseManifest(data []byte) []string {
	var names []string
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		name := sc.Text()
		if strings.HasPrefix(name, "#") || name == "." || !fs.ValidPath(name) || !ours(name) {
			continue
		}
		names = append(names, name)
	}
	return names
}

// configName is how configurations are called: default, and by MAC, UUID and address.
var configName = regexp.MustCompile(`^(default|01-[^/]*|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9A-F]{8})$`)

// ours tells whether a tree can hold a file of this name.
func ours(name string) bool {
	dir, rest, _ := strings.Cut(name, "/")
	switch {
	case slices.Contains(loaderFiles, name) || slices.Contains(extraFiles, name) || name == bootScript:
		return true
	case dir == configDir && configName.MatchString(rest), dir == scriptDir && strings.HasPrefix(rest, ether) && !strings.Contains(rest, "/"):
		return true
	}
	gen, part, _ := strings.Cut(rest, "/")
	_, err := strconv.Atoi(gen)
	return store.ValidName(dir) == nil && err == nil && slices.Contains(strings.Fields(parts), part)
}

func writeManifest(dir string, names []string) error {
	data := manifestHead + strings.Join(names, "\n") + "\n"
	file := filepath.Join(dir, ManifestName)
	if old, err := os.ReadFile(file); err == nil && string(old) == data {
		return nil
	}
	return atomicfile.Write(file, []byte(data), 0o644)
}
