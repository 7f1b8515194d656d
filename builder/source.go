package builder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"netroot/builder/chroot"
	"netroot/builder/lock"
	"netroot/builder/recipe"
	"netroot/builder/store"
)

// A source takes the packages of a root from somewhere, or a medium.
type source interface {
	// resolve pins the newest packages that satisfy the recipe.
	resolve(ctx context.Context) (*lock.Lock, error)
	// fetch brings the packages of a lock into the cache, verified.
	fetch(ctx context.Context, pins *lock.Lock) error
}

// A rootSource is one that makes a root of its packages.
type rootSource interface {
	source
	// assemble makes the root below the folder scratch, which is empty, with everything in it installed. The caller closes
	// the session.
	assemble(ctx context.Context, name string, pins *lock.Lock, scratch string) (*root, error)
}

// A root is a root folder in which all packages are installed.
type root struct {
	session *chroot.Session
	newest  time.Time // of all files of the packages
	notes   []string  // what went wrong without stopping the build, and what was changed in a copy
	release func()    // nil, or to be called when the root has been read
}

// source opens the source that the recipe names.
func (b *Builder) source(r *recipe.Recipe) (source, error) {
	if r.Medium() {
		return b.mediumSource(r), nil
	}
	if r.From.Copy != nil {
		return b.copySource(r), nil
	}
	if r.From.Yum != nil {
		return b.yumSource(r)
	}
	return b.aptSource(r), nil
}

// writeSeed puts what the machine will ask for into the folder of a generation.
func writeSeed(dir string, r *recipe.Recipe, m *store.Manifest) error {
	seed := r.Seed()
	if seed == nil {
		return nil
	}
	data, err := seed.Encode()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, store.PartSeed), data, 0o640)
	}
	if err != nil {
		return fmt.Errorf("write seed: %w", err)
	}
	m.Seed = string(seed.Kind)
	return nil
}
