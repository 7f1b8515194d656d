package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/fetch"
	"netroot/builder/iso"
	"netroot/builder/lock"
	"netroot/builder/medium"
	"netroot/builder/pgp"
	"netroot/builder/progress"
	"netroot/builder/recipe"
	"netroot/builder/store"
	"netroot/builder/sums"
)

// Names of a medium's files in its lock.
const (
	roleISO    = "iso"
	roleKernel = "kernel"
	roleInitrd = "initrd"
)

const (
	maxSums      = 8 << 20
	maxSignature = 1 << 20
	// aboveDownload is what a live system needs beside what it has downloaded.
	aboveDownload = 512 << 20
)

// A mediumSource takes an ISO, or a kernel and an initrd, as they are.
type mediumSource struct {
	recipe   *recipe.Recipe
	fetcher  *fetch.Fetcher
	progress *progress.Reporter
	log      *slog.Logger
}

func (b *Builder) mediumSource(r *recipe.Recipe) *mediumSource {
	return &mediumSource{recipe: r, fetcher: b.fetcher(), progress: b.Progress, log: b.log()}
}

// A mediumFile is one file of a medium.
type mediumFile struct {
	role string
	recipe.Blob
}

func (s *mediumSource) files() []mediumFile {
	from := s.recipe.From
	if from.ISO != nil {
		return []mediumFile{{roleISO, from.ISO.Blob()}}
	}
	list := []mediumFile{{roleKernel, *from.Netboot.Kernel}}
	if from.Netboot.Initrd != nil {
		list = append(list, mediumFile{roleInitrd, *from.Netboot.Initrd})
	}
	return list
}

// resolve finds out what each file must hash to. A file of this host goes into the cache by the way.
func (s *mediumSource) resolve(ctx context.Context) (*lock.Lock, error) {
	pins := &lock.Lock{Arch: s.recipe.Arch}
	for _, f := range s.files() {
		p, err := s.pin(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		p.Name, p.Arch, p.Repo, p.Path = f.role, s.recipe.Arch, "file", f.Name()
		// Two files of one name are told apart in a diff.
		p.Version = f.Name() + "@" + p.SHA256[:12]
		pins.Packages = append(pins.Packages, p)
	}
	return pins, nil
}

func (s *mediumSource) pin(ctx context.Context, f mediumFile) (lock.Package, error) {
	want := f.SHA256
	if f.Sums != "" {
		var err error
		if want, err = s.listed(ctx, f.Blob); err != nil {
			return lock.Package{}, err
		}
	}
	if want != "" {
		if info, err := os.Stat(s.fetcher.Cache.Path(want)); err == nil && info.Mode().IsRegular() {
			return lock.Package{Size: info.Size(), SHA256: want}, nil
		}
	}
	if f.URL != "" {
		size, err := s.fetcher.Size(ctx, f.URL)
		return lock.Package{Size: size, SHA256: want}, err
	}
	got, size, err := s.fetcher.Take(ctx, f.Path)
	if err == nil && size == 0 {
		err = errors.New("it is empty")
	}
	if err == nil && want != "" && got != want {
		err = fmt.Errorf("it has the SHA-256 %s, and %s was expected%s: it is another file, or damaged", got, want, from(f.Sums))
	}
	return lock.Package{Size: size, SHA256: got}, err
}

func from(list string) string {
	if list == "" {
		return ""
	}
	return " by " + list
}

// listed reads what a file must hash to from its list, after a look at who signed the list.
func (s *mediumSource) listed(ctx context.Context, b recipe.Blob) (string, error) {
	text, err := s.document(ctx, b.Sums, maxSums)
	if err != nil {
		return "", err
	}
	if b.Keyring != "" {
		keys, err := pgp.ReadKeyring(b.Keyring)
		if err != nil {
			return "", err
		}
		if b.Signature == "" {
			text, err = keys.VerifyInline(b.Sums, text, time.Now())
		} else {
			var signature []byte
			if signature, err = s.document(ctx, b.Signature, maxSignature); err == nil {
				err = keys.VerifyDetached(b.Sums, text, signature, time.Now(), pgp.Modern)
			}
		}
		if err != nil {
			return "", err
		}
	}
	at := b.Path
	if b.URL != "" {
		at = b.URL
	}
	return sums.Find(b.Sums, text, sums.Relative(b.Sums, at))
}

func (s *mediumSource) document(ctx context.Context, at string, max int64) ([]byte, error) {
	if strings.HasPrefix(at, "/") {
		return os.ReadFile(at)
	}
	return s.fetcher.Document(ctx, at, max)
}

// fetch brings the files into the cache.
func (s *mediumSource) fetch(ctx context.Context, pins *lock.Lock) error {
	for _, f := range s.files() {
		p, err := pinned(pins, f.role)
		if err != nil {
			return err
		}
		switch {
		case f.URL != "":
			err = s.fetcher.Get(ctx, []fetch.Item{{Name: f.Name(), URL: f.URL, Size: p.Size, Sum: p.SHA256}}, nil)
		case !s.fetcher.Cache.Has(p.SHA256):
			var got string
			if got, _, err = s.fetcher.Take(ctx, f.Path); err == nil && got != p.SHA256 {
				err = fmt.Errorf("%s has the SHA-256 %s, and its lock says %s; write the lock anew with: netroot lock RECIPE", f.Path, got, p.SHA256)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func pinned(pins *lock.Lock, role string) (lock.Package, error) {
	for _, p := range pins.Packages {
		if p.Name == role && p.SHA256 != "" {
			return p, nil
		}
	}
	return lock.Package{}, fmt.Errorf("the lock has no %s; write it anew with: netroot lock RECIPE", role)
}

// write makes the parts of a generation in dir, and says in m what they are.
func (s *mediumSource) write(ctx context.Context, pins *lock.Lock, dir string, m *store.Manifest) error {
	m.Arch, m.Cmdline, m.Parts = s.recipe.Arch, s.recipe.Kernel.Cmdline, map[string]store.Part{}
	for _, f := range s.files() {
		p, err := pinned(pins, f.role)
		if err != nil {
			return err
		}
		part := map[string]string{roleISO: store.PartISO, roleKernel: store.PartKernel, roleInitrd: store.PartInitramfs}[f.role]
		if err := place(s.fetcher.Cache.Path(p.SHA256), filepath.Join(dir, part), f.role == roleISO); err != nil {
			return fmt.Errorf("put %s into the generation: %w", f.Name(), err)
		}
		m.Parts[part] = store.Part{Size: p.Size, SHA256: p.SHA256}
	}
	var err error
	if s.recipe.From.ISO != nil {
		err = s.open(dir, m)
	} else {
		m.Medium = &store.Medium{Family: store.Other, File: s.recipe.From.Netboot.Kernel.Name()}
	}
	if err != nil {
		return err
	}
	kernel, err := os.ReadFile(filepath.Join(dir, store.PartKernel))
	if err != nil {
		return fmt.Errorf("read the kernel: %w", err)
	}
	m.KernelRelease = medium.KernelRelease(kernel)
	for _, note := range m.Notes {
		s.log.Warn(note)
	}
	return ctx.Err()
}

// open takes kernel and initrd out of the ISO.
func (s *mediumSource) open(dir string, m *store.Manifest) error {
	from, path := s.recipe.From.ISO, filepath.Join(dir, store.PartISO)
	blob := from.Blob()
	img, err := iso.Open(path)
	if err != nil {
		return errors.New(strings.Replace(err.Error(), path, blob.Name(), 1)) // the place in the store says nothing to the user
	}
	defer img.Close()
	found, err := medium.Find(img.FS(), from.Kernel, from.Initrd)
	if err != nil {
		return fmt.Errorf("find what %s boots: %w", blob.Name(), err)
	}
	found.File, found.Label = blob.Name(), iso.Label(img.File())
	if err := s.delivery(&found, img.FS(), img.Size(), m); err != nil {
		return err
	}
	m.Medium = &found
	for name, part := range map[string]string{found.Kernel: store.PartKernel, found.Initrd: store.PartInitramfs} {
		if name == "" {
			continue
		}
		data, err := fs.ReadFile(img.FS(), name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, part), data, 0o640)
		}
		if err != nil {
			return fmt.Errorf("take %s out of %s: %w", name, blob.Name(), err)
		}
	}
	return nil
}

// delivery chooses how the machine gets the rest of the ISO.
func (s *mediumSource) delivery(found *store.Medium, root fs.FS, size int64, m *store.Manifest) error {
	var ways []string // the usual one first
	switch found.Family {
	case store.Casper, store.Anaconda:
		ways = []string{store.ByNFS, store.ByHTTP}
	case store.Live:
		ways = []string{store.ByNFS}
		if found.Live != "" {
			ways = append(ways, store.ByHTTP)
		}
	case store.DracutLive:
		if found.Live != "" {
			ways = []string{store.ByHTTP}
		}
	}
	found.Deliver = s.recipe.Deliver
	switch {
	case found.Deliver == "" && len(ways) > 0:
		found.Deliver = ways[0]
	case found.Deliver != "" && !slices.Contains(ways, found.Deliver):
		return fmt.Errorf("%s (%s) cannot be delivered by %s: %s", found.File, found.Family, found.Deliver, can(ways))
	}
	download := int64(0)
	switch {
	case found.Deliver != store.ByHTTP:
	case found.Family == store.Casper:
		// It lies in a tmpfs, which takes half of the memory at most (tmpfs(5)).
		download = 2 * size
	case found.Family == store.Live, found.Family == store.DracutLive:
		info, err := fs.Stat(root, found.Live)
		if err != nil {
			return err
		}
		download = info.Size()
	}
	if download > 0 {
		found.Memory = download + aboveDownload
		hint := ""
		if slices.Contains(ways, store.ByNFS) {
			hint = "; deliver: nfs needs none of it"
		}
		m.Notes = append(m.Notes, fmt.Sprintf("a machine downloads %s into its memory and needs at least %d MB%s", found.File, found.Memory/1e6, hint))
	}
	if seed := s.recipe.Seed(); seed != nil && seed.Networks() && found.Family == store.Casper && found.Deliver == store.ByNFS {
		m.Notes = append(m.Notes, "its autoinstall says how cards are set up (network:, or network-config), and the installer sets them up anew: the one that the ISO is read over by NFS may stand still then, "+
			"and the installation with it; leave it out (what is installed uses DHCP), or write deliver: http")
	}
	if info, err := fs.Stat(root, "pool"); err == nil && info.IsDir() && found.Family == store.DebianInstaller {
		m.Notes = append(m.Notes, found.Initrd+" is that of a CD, which looks for a CD and not for a mirror: take kernel and initrd of Debian's netboot folder instead, with from: {netboot: …}")
	}
	return nil
}

func can(ways []string) string {
	if len(ways) == 0 {
		return "it takes nothing from the ISO; leave deliver: out"
	}
	return "it can by " + strings.Join(ways, " and by ")
}

// place gives a file of the cache a second name, or copies it where that cannot be, or is not wanted: small files are not worth
// a mode that they share with the cache.
func place(from, to string, link bool) error {
	if link {
		err := os.Link(from, to)
		if err == nil || !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EMLINK) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.ReadFrom(in); err != nil { // copy_file_range shares the blocks where that is possible
		return err
	}
	return out.Close()
}
