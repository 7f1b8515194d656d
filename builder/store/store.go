// Package store keeps what builds make: generations of root images, the one that is current, and the cache that
// builds share.
//
// A store is a folder:
//
//	images/NAME/GEN/{root.erofs,vmlinuz,initrd.img,image.json}   GEN counts 1, 2, 3, …; image.iso where it is an ISO
//	images/NAME/current -> GEN
//	cache/{sha256,unpacked}      verified downloads and unpacked packages, by SHA-256
//	cache/{starters,installed}   of roots of RPM packages: what rpm needs to start, and what it made of an image's packages
//	cache/copies                 installed systems as they were last copied
//	loader/                      boot loader files
//	work/NAME@RANDOM/            a build under way, or what a killed one left
//	work/NAME.lock               held with flock(2) while NAME is being built
//
// A generation is published with one rename and becomes current with one swap of a symbolic link; after that it is
// never written again. A process killed at any moment leaves the previous or the next generation current and at worst
// a folder in work/, which the next build of the same image removes. One moment is between the two steps: then a
// generation exists that is not current. It is whole, so it stays, the next build takes the number after it, and gc
// or promote deal with it as with any other.
//
// Numbers are not used twice, because gc never removes the newest generation; removing it by hand breaks that.
// flock(2) is what keeps builds apart, so a store on a network file system needs one that passes it on (NFS 4 and
// Linux NFS 3 do).
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The parts every generation of a root has; one of a medium has at least a kernel. It may have more; each file in its folder but the manifest is a part.
const (
	PartRoot      = "root.erofs"
	PartKernel    = "vmlinuz"
	PartInitramfs = "initrd.img"

	// PartSeed is what an installer or cloud-init is told, where a recipe has that: it may hold password hashes, and goes only to the
	// machine it is for.
	PartSeed = "seed.json"

	ManifestName = "image.json"
)

const currentName = "current"

// ErrNotFound is matched by the errors about an image or a generation that is not in the store.
var ErrNotFound = errors.New("not in the store")

// A Store is a folder of images. Its methods may be called concurrently, also by several processes.
type Store struct {
	dir string
}

// A Generation is one published build of an image.
type Generation struct {
	Image    string
	Number   int
	Dir      string
	Manifest Manifest
	Current  bool
	Err      error // why the manifest cannot be read; then Manifest is empty
}

// Ref returns the generation's name, such as "debian-12@3".
func (g Generation) Ref() string { return g.Image + "@" + strconv.Itoa(g.Number) }

// Path returns the place of one part.
func (g Generation) Path(part string) string { return filepath.Join(g.Dir, part) }

// Size returns the bytes that all parts take.
func (g Generation) Size() int64 {
	var n int64
	for _, p := range g.Manifest.Parts {
		n += p.Size
	}
	return n
}

// Open names the store in dir. It makes nothing: a folder that does not exist is an empty store.
func Open(dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	st, err := os.Stat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("open store: %w", err)
	case !st.IsDir():
		return nil, fmt.Errorf("open store %s: not a folder", abs)
	}
	return &Store{dir: abs}, nil
}

// Dir returns the store's folder.
func (s *Store) Dir() string { return s.dir }

// CacheDir returns the folder that holds sha256/ and unpacked/.
func (s *Store) CacheDir() string { return filepath.Join(s.dir, "cache") }

// LoaderDir returns the folder of the boot loader files.
func (s *Store) LoaderDir() string { return filepath.Join(s.dir, "loader") }

func (s *Store) workDir() string              { return filepath.Join(s.dir, "work") }
func (s *Store) imagesDir() string            { return filepath.Join(s.dir, "images") }
func (s *Store) imageDir(image string) string { return filepath.Join(s.dir, "images", image) }

// Prepare makes the folders that are missing. Root images hold password hashes, so nobody but the owner and the
// store's group may look inside.
func (s *Store) Prepare() error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o755); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	if err := s.mkdir(s.dir, 0o700); err != nil { // Protect opens it for a group
		return err
	}
	for _, dir := range []string{s.imagesDir(), s.CacheDir(), s.LoaderDir(), s.workDir()} {
		if err := s.mkdir(dir, 0o750); err != nil {
			return err
		}
	}
	return nil
}

// mkdir makes one folder, whatever the umask, in the group that the store's folder has. One that exists stays as it is:
// its mode and owner may have been chosen on purpose.
func (s *Store) mkdir(dir string, mode fs.FileMode) error {
	err := os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(dir, mode)
	}
	if err != nil {
		return fmt.Errorf("make folder in the store: %w", err)
	}
	return s.adopt(dir)
}

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// ValidName tells why name cannot be the name of an image.
func ValidName(name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("image name %q: want a letter or digit first, then letters, digits, '.', '_', '+' or '-', 64 in all at most", name)
	}
	return nil
}

// ParseRef splits "NAME" or "NAME@GENERATION". Without a generation, or with "@current", number is 0.
func ParseRef(ref string) (image string, number int, err error) {
	image, gen, pinned := strings.Cut(ref, "@")
	if err := ValidName(image); err != nil {
		return "", 0, err
	}
	if !pinned || gen == currentName {
		return image, 0, nil
	}
	n, ok := parseNumber(gen)
	if !ok {
		return "", 0, fmt.Errorf("image %q: generation %q is not a number counted from 1", ref, gen)
	}
	return image, n, nil
}

// parseNumber reads a generation's folder name. Only the canonical form counts, so that no two folders are one number.
func parseNumber(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n > 0 && strconv.Itoa(n) == s
}

// Images returns the names of the images that have a generation, sorted.
func (s *Store) Images() ([]string, error) {
	entries, err := os.ReadDir(s.imagesDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() || ValidName(e.Name()) != nil {
			continue
		}
		numbers, err := s.numbers(e.Name())
		if err != nil {
			return nil, err
		}
		if len(numbers) > 0 {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// numbers returns the generations that exist, ascending.
func (s *Store) numbers(image string) ([]int, error) {
	entries, err := os.ReadDir(s.imageDir(image))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list generations of %s: %w", image, err)
	}
	var numbers []int
	for _, e := range entries {
		if n, ok := parseNumber(e.Name()); ok && e.IsDir() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// present is numbers for an image that has to be there.
func (s *Store) present(image string) ([]int, error) {
	numbers, err := s.numbers(image)
	if err == nil && len(numbers) == 0 {
		err = s.unknownImage(image)
	}
	return numbers, err
}

// current returns the number that the link names, or 0 when there is none. It does not look whether that exists.
func (s *Store) current(image string) (int, error) {
	path := filepath.Join(s.imageDir(image), currentName)
	target, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read which generation of %s is current: %w", image, err)
	}
	n, ok := parseNumber(target)
	if !ok {
		return 0, fmt.Errorf("%s points to %q, not to a generation; choose one with: netroot promote %s@N", path, target, image)
	}
	return n, nil
}

// Generations returns every generation of an image, oldest first. One whose manifest cannot be read is there too, with
// Err set. An image that is not in the store is an error that matches ErrNotFound.
func (s *Store) Generations(image string) ([]Generation, error) {
	if err := ValidName(image); err != nil {
		return nil, err
	}
	numbers, err := s.present(image)
	if err != nil {
		return nil, err
	}
	current, err := s.current(image)
	if err != nil {
		return nil, err
	}
	gens := make([]Generation, len(numbers))
	for i, n := range numbers {
		gens[i] = s.load(image, n, current)
	}
	return gens, nil
}

// load reads one generation's manifest; the folder is known to exist.
func (s *Store) load(image string, n, current int) Generation {
	g := Generation{Image: image, Number: n, Dir: filepath.Join(s.imageDir(image), strconv.Itoa(n)), Current: n == current}
	g.Manifest, g.Err = readManifest(filepath.Join(g.Dir, ManifestName), image, n)
	return g
}

// Resolve finds the generation that ref names: "debian-12" is the current one, "debian-12@3" is that one.
func (s *Store) Resolve(ref string) (Generation, error) {
	image, want, err := ParseRef(ref)
	if err != nil {
		return Generation{}, err
	}
	numbers, err := s.present(image)
	if err != nil {
		return Generation{}, err
	}
	current, err := s.current(image)
	if err != nil && want == 0 {
		return Generation{}, err
	}
	n := want
	if n == 0 {
		n = current
	}
	switch {
	case n == 0:
		return Generation{}, notFound("no generation of %s is current (it has %s); choose one with: netroot promote %s@%d",
			image, listNumbers(numbers), image, numbers[len(numbers)-1])
	case !slices.Contains(numbers, n) && want == 0:
		return Generation{}, notFound("generation %d of %s is current but its folder is gone (there are %s); choose another with: netroot promote %s@%d",
			n, image, listNumbers(numbers), image, numbers[len(numbers)-1])
	case !slices.Contains(numbers, n):
		return Generation{}, notFound("%s has no generation %d; it has %s", image, n, listNumbers(numbers))
	}
	g := s.load(image, n, current)
	return g, g.Err
}

type notFoundError struct{ msg string }

func (e *notFoundError) Error() string        { return e.msg }
func (e *notFoundError) Is(target error) bool { return target == ErrNotFound }

func notFound(format string, args ...any) error { return &notFoundError{fmt.Sprintf(format, args...)} }

func (s *Store) unknownImage(image string) error {
	names, err := s.Images()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return notFound("no image %q: the store %s is empty; make one with: netroot build RECIPE", image, s.dir)
	}
	hint := ""
	if near := nearest(image, names); near != "" {
		hint = fmt.Sprintf("; did you mean %s?", near)
	}
	return notFound("no image %q in %s%s (there are: %s)", image, s.dir, hint, strings.Join(names, ", "))
}

func listNumbers(numbers []int) string {
	words := make([]string, len(numbers))
	for i, n := range numbers {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ", ")
}

// nearest returns the name that differs least from name, or "" when none is alike.
func nearest(name string, names []string) string {
	best, bestDistance := "", max(len(name)/3, 1)+1
	for _, n := range names {
		d := distance(name, n)
		if strings.HasPrefix(n, name) || strings.HasPrefix(name, n) {
			d = min(d, 1)
		}
		if d < bestDistance {
			best, bestDistance = n, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
