package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
)

// A Draft is a generation that is being built. While it exists nobody else can build the same image, nor prune the cache.
// It must end with Publish, PublishCandidate or Abort; Abort after the others does nothing, so it can be deferred.
type Draft struct {
	store *Store
	image string
	work  string // work/NAME@RANDOM
	locks []*fileLock
	done  bool
}

// Begin starts a build of an image. It removes what a killed build of the same image left. While another build of it
// runs, in this process or another, the error is a *BusyError.
func (s *Store) Begin(image string) (*Draft, error) {
	if err := ValidName(image); err != nil {
		return nil, err
	}
	if err := s.Prepare(); err != nil {
		return nil, err
	}
	d := &Draft{store: s, image: image}
	build, err := s.lockBuild(image)
	if err != nil {
		return nil, err
	}
	d.locks = append(d.locks, build)
	cache, err := s.lockCache(false)
	if err != nil {
		d.unlock()
		return nil, err
	}
	d.locks = append(d.locks, cache)
	if err := s.sweep(image); err != nil {
		d.unlock()
		return nil, err
	}
	if d.work, err = os.MkdirTemp(s.workDir(), image+workMark+"*"); err != nil {
		d.unlock()
		return nil, fmt.Errorf("begin a build of %s: %w", image, err)
	}
	for _, dir := range []string{d.Dir(), d.Scratch()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			d.Abort()
			return nil, fmt.Errorf("begin a build of %s: %w", image, err)
		}
	}
	return d, nil
}

// workMark parts an image's name from the random rest in the names of its work folders. No image name holds it, so
// the folders of debian-12 are never taken for those of debian-12-i386.
const workMark = "@"

// sweep removes what killed builds and collections of an image left. The caller holds the build lock.
func (s *Store) sweep(image string) error {
	left, err := filepath.Glob(filepath.Join(globEscape(s.workDir()), globEscape(image)+workMark+"*"))
	if err != nil {
		return fmt.Errorf("look for left-overs of %s: %w", image, err)
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove what a killed build of %s left: %w", image, err)
		}
	}
	return nil
}

// Dir returns the folder that the parts are written into. It becomes the generation, so nothing else belongs there.
func (d *Draft) Dir() string { return filepath.Join(d.work, "generation") }

// Scratch returns a folder for everything else that the build needs, on the same file system as the cache.
func (d *Draft) Scratch() string { return filepath.Join(d.work, "scratch") }

// Abort ends the build and leaves nothing of it.
func (d *Draft) Abort() {
	if d.done {
		return
	}
	d.done = true
	if d.work != "" {
		os.RemoveAll(d.work)
	}
	d.unlock()
}

func (d *Draft) unlock() {
	for _, l := range d.locks {
		l.Close()
	}
	d.locks = nil
}

// Publish makes the draft the image's newest generation and the current one. Of m it fills in the format, image, number
// and lock digest, the time when it is zero, and the parts: each file in Dir is read once for its SHA-256, but for
// those that m.Parts already names with the right size, whose sum is believed because the writer took it.
// When it fails the draft has ended and nothing is published, unless the error says otherwise.
func (d *Draft) Publish(m Manifest) (Generation, error) { return d.end(m, true) }

// PublishCandidate is Publish without the last step: what was current stays current until SetCurrent.
func (d *Draft) PublishCandidate(m Manifest) (Generation, error) { return d.end(m, false) }

func (d *Draft) end(m Manifest, current bool) (Generation, error) {
	if d.done {
		return Generation{}, fmt.Errorf("publish %s: the build has ended", d.image)
	}
	defer d.Abort() // after the swap: the scratch folder can be large
	g, err := d.publish(m)
	if err != nil {
		return Generation{}, fmt.Errorf("publish %s: %w", d.image, err)
	}
	if !current {
		return g, nil
	}
	promoted, err := d.store.SetCurrent(g.Ref())
	if err != nil {
		return g, fmt.Errorf("%s is published, but not current: %w", g.Ref(), err)
	}
	return promoted, nil
}

func (d *Draft) publish(m Manifest) (Generation, error) {
	s := d.store
	imageDir := s.imageDir(d.image)
	if err := s.mkdir(imageDir, 0o750); err != nil {
		return Generation{}, err
	}
	if err := atomicfile.SyncDir(s.imagesDir()); err != nil {
		return Generation{}, err
	}
	n, err := s.nextNumber(d.image)
	if err != nil {
		return Generation{}, err
	}
	m.Format, m.Image, m.Generation = manifestFormat, d.image, n
	if m.Created.IsZero() {
		m.Created = time.Now()
	}
	m.Created = m.Created.UTC().Truncate(time.Second)
	if m.Lock != nil {
		m.LockDigest = m.Lock.Digest()
	}
	if m.Parts, err = d.sealParts(m.Parts); err != nil {
		return Generation{}, err
	}
	data, err := m.encode()
	if err != nil {
		return Generation{}, err
	}
	if _, err := parseManifest(data); err != nil {
		return Generation{}, err
	}
	manifest := filepath.Join(d.Dir(), ManifestName)
	if err := atomicfile.Write(manifest, data, 0o640); err != nil {
		return Generation{}, err
	}
	if err := s.adopt(manifest); err != nil {
		return Generation{}, err
	}
	if err := os.Chmod(d.Dir(), 0o750); err != nil {
		return Generation{}, err
	}
	if err := s.adopt(d.Dir()); err != nil {
		return Generation{}, err
	}
	if err := atomicfile.SyncDir(d.Dir()); err != nil {
		return Generation{}, err
	}
	target := filepath.Join(imageDir, strconv.Itoa(n))
	if err := renameNew(d.Dir(), target); err != nil {
		return Generation{}, err
	}
	if err := atomicfile.SyncDir(imageDir); err != nil {
		return Generation{}, err
	}
	return Generation{Image: d.image, Number: n, Dir: target, Manifest: m}, nil
}

// nextNumber is one more than every number there is or is pointed to.
func (s *Store) nextNumber(image string) (int, error) {
	numbers, err := s.numbers(image)
	if err != nil {
		return 0, err
	}
	last, err := s.current(image)
	if err != nil {
		return 0, err
	}
	if len(numbers) > 0 {
		last = max(last, numbers[len(numbers)-1])
	}
	return last + 1, nil
}

// sealParts makes every part durable and takes its size and SHA-256, all parts at the same time.
func (d *Draft) sealParts(known map[string]Part) (map[string]Part, error) {
	entries, err := os.ReadDir(d.Dir())
	if err != nil {
		return nil, err
	}
	for name := range known {
		if _, err := os.Lstat(filepath.Join(d.Dir(), name)); err != nil {
			return nil, fmt.Errorf("part %s: %w", name, err)
		}
	}
	sealed := make([]Part, len(entries))
	group, ctx := errgroup.WithContext(context.Background())
	for i, e := range entries {
		path := filepath.Join(d.Dir(), e.Name())
		if !e.Type().IsRegular() || !validPart(e.Name()) {
			return nil, fmt.Errorf("%s is not a part of an image; only plain files are", path)
		}
		group.Go(func() error {
			part, err := d.sealPart(ctx, path, known[e.Name()])
			sealed[i] = part
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	parts := make(map[string]Part, len(entries))
	for i, e := range entries {
		parts[e.Name()] = sealed[i]
	}
	return parts, nil
}

func (d *Draft) sealPart(ctx context.Context, path string, known Part) (Part, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return Part{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Part{}, err
	}
	if known.SHA256 != "" && known.Size != st.Size() {
		return Part{}, fmt.Errorf("%s has %d bytes, not the %d its writer counted", path, st.Size(), known.Size)
	}
	if err := f.Chmod(0o640); err != nil {
		return Part{}, err
	}
	if err := d.store.adopt(path); err != nil {
		return Part{}, err
	}
	var group errgroup.Group
	group.Go(func() error {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", path, err)
		}
		return nil
	})
	if known.SHA256 == "" {
		group.Go(func() (err error) {
			known, err = hashPart(ctx, f)
			return err
		})
	}
	return known, group.Wait()
}

// renameNew renames a folder to a name that must be free. A plain rename would replace an empty folder.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // the file system cannot promise it
		if _, statErr := os.Lstat(to); statErr == nil {
			err = fs.ErrExist
		} else {
			err = os.Rename(from, to)
		}
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, err)
	}
	return nil
}
