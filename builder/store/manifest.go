package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"netroot/builder/lock"
)

// manifestFormat is written into every manifest; a higher one was written by a later program and is refused.
const manifestFormat = 1

// A Manifest is what a generation knows about itself, kept as image.json.
type Manifest struct {
	Format        int             `json:"format"`
	Image         string          `json:"image"`
	Generation    int             `json:"generation"`
	Created       time.Time       `json:"created"`
	Recipe        string          `json:"recipe"`      // the recipe's digest
	LockDigest    string          `json:"lock_digest"` // the lock's digest
	Arch          string          `json:"arch"`
	KernelRelease string          `json:"kernel_release"`
	Cmdline       []string        `json:"cmdline"`
	Writable      string          `json:"writable"`     // overlay, bind or no
	OverlaySize   string          `json:"overlay_size"` // limit of the overlay's tmpfs, as in the recipe
	Parts         map[string]Part `json:"parts"`
	Seed          string          `json:"seed,omitempty"`   // the kind of what PartSeed holds: autoinstall, cloud-init, preseed, kickstart
	Medium        *Medium         `json:"medium,omitempty"` // what it is when it is no root
	Lock          *lock.Lock      `json:"lock"`
	Notes         []string        `json:"notes,omitempty"` // what went wrong in the build without stopping it, what it provided by itself, and what it changed in a copied root
}

// A Part is one file of a generation.
type Part struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

func (m Manifest) encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(m)
	return b.Bytes(), err
}

// readManifest reads image.json and says how to go on when it is not what Publish wrote.
func readManifest(path, image string, number int) (Manifest, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w%s", err, wayOut(err, image, number))
	}
	m, err := parseManifest(data)
	if err == nil && (m.Image != image || m.Generation != number) {
		err = fmt.Errorf("it describes %s@%d", m.Image, m.Generation)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest %s: %w%s", path, err, wayOut(err, image, number))
	}
	return m, nil
}

var errNewer = errors.New("written by a later netroot")

func wayOut(err error, image string, number int) string {
	if errors.Is(err, errNewer) {
		return "; use that one"
	}
	if errors.Is(err, fs.ErrPermission) {
		return "; use root or the store's group"
	}
	return fmt.Sprintf("; generation %d is damaged: choose another with netroot rollback %s, or build again", number, image)
}

func parseManifest(data []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Manifest{}, err
	}
	if m.Format > manifestFormat {
		return Manifest{}, fmt.Errorf("format %d: %w", m.Format, errNewer)
	}
	if m.Format < 1 {
		return Manifest{}, errors.New("it has no format number")
	}
	for name, p := range m.Parts {
		if sum, err := hex.DecodeString(p.SHA256); err != nil || len(sum) != sha256.Size || p.Size < 0 || !validPart(name) {
			return Manifest{}, fmt.Errorf("part %q has no valid size and SHA-256", name)
		}
	}
	for _, name := range m.required() {
		if _, ok := m.Parts[name]; !ok {
			return Manifest{}, fmt.Errorf("part %s is missing", name)
		}
	}
	return m, nil
}

// validPart refuses names that would lead out of the generation's folder.
func validPart(name string) bool {
	return nameRE.MatchString(name) && name != ManifestName
}

// Verify reads every part again and compares it with what was published. The error names each part that differs.
func (g Generation) Verify(ctx context.Context) error {
	if g.Err != nil {
		return g.Err
	}
	names := make([]string, 0, len(g.Manifest.Parts))
	for name := range g.Manifest.Parts {
		names = append(names, name)
	}
	slices.Sort(names)
	errs := make([]error, len(names))
	var group errgroup.Group
	for i, name := range names {
		group.Go(func() error {
			errs[i] = g.verifyPart(ctx, name, g.Manifest.Parts[name])
			return nil
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (g Generation) verifyPart(ctx context.Context, name string, want Part) error {
	f, err := os.Open(g.Path(name))
	if err != nil {
		return fmt.Errorf("verify %s: %w", g.Ref(), err)
	}
	defer f.Close()
	got, err := hashPart(ctx, f)
	if err != nil {
		return fmt.Errorf("verify %s: %w", g.Ref(), err)
	}
	if got != want {
		return fmt.Errorf("verify %s: %s has changed: %d bytes with SHA-256 %s, published were %d with %s",
			g.Ref(), f.Name(), got.Size, got.SHA256, want.Size, want.SHA256)
	}
	return nil
}

// hashPart reads f to its end.
func hashPart(ctx context.Context, f *os.File) (Part, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return Part{}, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		size += int64(n)
		if err == io.EOF {
			return Part{Size: size, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
		}
		if err != nil {
			return Part{}, fmt.Errorf("read %s: %w", f.Name(), err)
		}
	}
}

// PackageVersion is the version of a package that the image was built of, empty when it has none of that name.
func (m Manifest) PackageVersion(name string) string {
	if m.Lock != nil {
		for _, p := range m.Lock.Packages {
			if p.Name == name {
				return p.Version
			}
		}
	}
	return ""
}
