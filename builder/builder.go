// Package builder turns a recipe into a published generation: it resolves the recipe to a lock, assembles the root,
// checks it, writes initramfs and image, and publishes them. It owns the order of these steps; each step is a package
// of its own.
package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"

	"netroot/builder/check"
	"netroot/builder/chroot"
	"netroot/builder/customize"
	"netroot/builder/lock"
	"netroot/builder/progress"
	"netroot/builder/recipe"
	"netroot/builder/store"
)

// buildVersion goes into what decides whether anything changed: raise it when the same recipe and lock would now give
// another image.
const buildVersion = "2"

// A Builder builds recipes into a store.
type Builder struct {
	Store    *store.Store
	Mirror   string // stands in for the recipe's mirror; "" keeps it
	Jobs     int    // downloads and unpackings at a time; 0 chooses
	Progress *progress.Reporter
	Log      *slog.Logger // nil is silent
}

// Options of one build.
type Options struct {
	Locked    *lock.Lock // build exactly these packages; nil resolves the newest
	Force     bool       // build even when nothing changed
	Candidate bool       // publish, but leave current what is current
}

// A Result is the outcome of a build.
type Result struct {
	Generation store.Generation
	New        bool // false: nothing changed, Generation is the newest there was
	Findings   []check.Finding
}

// Build makes the image of a recipe and publishes it as the newest and current generation. When neither the recipe nor
// the packages it resolves to changed since the newest generation, it builds nothing.
//
// It needs root, but for a medium that is taken as it is. Errors: *store.BusyError when another build holds the image, *check.UnfitError when the root would
// not boot; whatever the error, the store is as it was.
func (b *Builder) Build(ctx context.Context, r *recipe.Recipe, o Options) (Result, error) {
	if os.Geteuid() != 0 && !r.Medium() {
		return Result{}, fmt.Errorf("build %s: a root holds files of many owners, so building needs root; run it with sudo", r.Name)
	}
	// What packages bring along runs while the root is made; better to know before they are fetched.
	if err := chroot.CanRun(r.Arch); err != nil && !r.Medium() {
		return Result{}, fmt.Errorf("build %s: %w", r.Name, err)
	}
	draft, err := b.Store.Begin(r.Name)
	if err != nil {
		return Result{}, err
	}
	defer draft.Abort()

	src, err := b.source(r)
	if err != nil {
		return Result{}, err
	}
	pins := o.Locked
	if pins == nil {
		if pins, err = src.resolve(ctx); err != nil {
			return Result{}, fmt.Errorf("resolve %s: %w", r.Name, err)
		}
	}
	inputs := inputsDigest(r, pins)
	if !o.Force {
		if newest, ok, err := b.newest(r.Name); err != nil {
			return Result{}, err
		} else if ok && newest.Manifest.Recipe == inputs {
			return Result{Generation: newest}, nil
		}
	}

	if err := src.fetch(ctx, pins); err != nil {
		return Result{}, fmt.Errorf("build %s: %w", r.Name, err)
	}
	if err := b.loader(ctx, src); err != nil {
		return Result{}, fmt.Errorf("build %s: %w", r.Name, err)
	}
	var manifest store.Manifest
	var findings []check.Finding
	switch src := src.(type) {
	case *mediumSource:
		b.Progress.Step("reading the medium")
		err = src.write(ctx, pins, draft.Dir(), &manifest)
	case rootSource:
		findings, err = b.root(ctx, r, pins, src, draft, &manifest)
	}
	if err != nil {
		return Result{Findings: findings}, fmt.Errorf("build %s: %w", r.Name, err)
	}
	if err := writeSeed(draft.Dir(), r, &manifest); err != nil {
		return Result{Findings: findings}, fmt.Errorf("build %s: %w", r.Name, err)
	}
	manifest.Recipe, manifest.Lock = inputs, pins
	b.Progress.Step("publishing")
	publish := draft.Publish
	if o.Candidate {
		publish = draft.PublishCandidate
	}
	g, err := publish(manifest)
	if err != nil {
		return Result{}, err
	}
	return Result{Generation: g, New: true, Findings: findings}, nil
}

// Resolve pins the newest packages that satisfy a recipe.
func (b *Builder) Resolve(ctx context.Context, r *recipe.Recipe) (*lock.Lock, error) {
	if err := b.Store.Prepare(); err != nil {
		return nil, err
	}
	src, err := b.source(r)
	if err != nil {
		return nil, err
	}
	pins, err := src.resolve(ctx)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", r.Name, err)
	}
	return pins, nil
}

// inputsDigest is what an image is a function of: the recipe, the packages, and what this program makes of them.
func inputsDigest(r *recipe.Recipe, pins *lock.Lock) string {
	h := sha256.New()
	inputs := []string{buildVersion, r.Digest(), pins.Digest(), customize.Digest()}
	if r.From.Copy != nil {
		inputs = append(inputs, customize.CopiedDigest())
	}
	for _, input := range inputs {
		fmt.Fprintln(h, input)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// newest returns the newest generation of an image that can be read.
func (b *Builder) newest(image string) (store.Generation, bool, error) {
	images, err := b.Store.Images()
	if err != nil {
		return store.Generation{}, false, err
	}
	for _, name := range images {
		if name != image {
			continue
		}
		generations, err := b.Store.Generations(image)
		if err != nil {
			return store.Generation{}, false, err
		}
		newest := generations[len(generations)-1]
		return newest, newest.Err == nil, nil
	}
	return store.Generation{}, false, nil
}

func (b *Builder) log() *slog.Logger {
	if b.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return b.Log
}
