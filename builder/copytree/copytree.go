// Package copytree copies an installed system into a folder of the cache: from a folder, from a tar, or from a running machine over
// ssh, with the machine's own find and tar. Owners (by number), modes with setuid, times, extended attributes, hard links, holes
// and device nodes come over as they are.
//
// The copy is kept and brought up to date: what a list of the original's sizes and times (mtime and ctime, to the nanosecond
// where its file system has them) shows to be unchanged is not read again, so a copy that was interrupted goes on where
// it ended. A tar that has changed is read whole.
//
// Limits: of a running machine it sees each file at another moment, so a database that is being written to may come over torn;
// stop it, or copy a snapshot. A machine over ssh needs GNU find and tar (EL6 and Debian 6 or newer do), root or sudo without a
// password there, and a tar with --xattrs (GNU tar 1.27, or Red Hat's 1.23) for extended attributes. Sockets are left out.
// SELinux labels are, too: NFS version 3 has none.
package copytree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"netroot/builder/progress"
)

// A Copy is one system to be copied, and the folder that its copy is kept in.
type Copy struct {
	From        string   // absolute path of a folder or of a tar, or ssh://[user@]host[:port][/path]
	FileSystems []string // folders (/boot) whose file systems are copied, too, when they are others than that of the root
	Exclude     []string // absolute paths in the copied system that are left out; * and ? as in a shell, within one name
	SSHConfig   string   // file for ssh -F; "" is the user's own
	SSHOptions  []string // for ssh -o: "Port=2222"
	Dir         string   // is made
	Avoid       []string // folders of this host that are never copied: the store
	Progress    *progress.Reporter
	Log         *slog.Logger // nil is silent
}

// A Report tells what one update brought.
type Report struct {
	Files     int      // all that the copy now has
	Sent      int      // of them, those that were read this time
	SentBytes int64    // that came from the original: contents, and over ssh what is around them
	Notes     []string // what was left out and why, and what could not be had as one would wish
}

// A Tree is a copy that is complete. Its lock keeps others from changing it until Close.
type Tree struct {
	Root   string // the folder; nobody writes to it
	Digest string // SHA-256, in hex, over names, attributes and contents
	Size   int64  // bytes of contents
	Newest int64  // of all files, the latest modification, in seconds since 1970
	lock   *os.File
}

// Close lets others change the copy.
func (t *Tree) Close() error { return t.lock.Close() }

// kind is what a Copy is taken from.
func (c *Copy) kind() string {
	if strings.HasPrefix(c.From, "ssh://") {
		return "ssh"
	}
	if info, err := os.Stat(c.From); err == nil && info.IsDir() {
		return "folder"
	}
	return "tar"
}

// Folder is the name below which a cache keeps the copy that an image is made of.
func Folder(image, from string) string {
	sum := sha256.Sum256([]byte(from))
	return image + "-" + hex.EncodeToString(sum[:4])
}

func (c *Copy) log() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// Update makes the copy equal to the original. When it fails, what has arrived stays and is not read again the next time.
// Only one Update of a Copy runs at a time; others wait.
func (c *Copy) Update(ctx context.Context) (Report, error) {
	if os.Geteuid() != 0 {
		return Report{}, fmt.Errorf("copy %s: files keep their owners, which needs root; run it with sudo", c.From)
	}
	m, err := openMirror(ctx, c.Dir)
	if err != nil {
		return Report{}, fmt.Errorf("copy %s: %w", c.From, err)
	}
	defer m.close()
	u := &update{Copy: c, mirror: m, left: &leftOut{exclude: c.Exclude}}
	state := "whole"
	switch c.kind() {
	case "ssh":
		err = u.ssh(ctx)
	case "folder":
		err = u.folder(ctx)
	default:
		state, err = u.tar(ctx)
	}
	rep := u.rep
	if err == nil {
		err = m.finish(state)
	}
	if err != nil {
		return rep, fmt.Errorf("copy %s: %w", c.From, err)
	}
	rep.Files = len(m.have)
	rep.Notes = append(u.left.notes(), rep.Notes...)
	c.log().Info("copied", "from", c.From, "files", rep.Files, "of them read now", rep.Sent, "bytes", rep.SentBytes)
	return rep, nil
}

// Hold opens the copy as the last Update that succeeded left it, and keeps it so. fs.ErrNotExist when there is none.
func (c *Copy) Hold(ctx context.Context) (*Tree, error) {
	if _, err := os.Stat(filepath.Join(c.Dir, digestName)); err != nil {
		return nil, fmt.Errorf("open the copy of %s: %w", c.From, fs.ErrNotExist)
	}
	l, err := lockDir(ctx, c.Dir, false)
	if err != nil {
		return nil, fmt.Errorf("open the copy of %s: %w", c.From, err)
	}
	t := &Tree{Root: filepath.Join(c.Dir, rootName), lock: l}
	data, err := os.ReadFile(filepath.Join(c.Dir, digestName))
	if err == nil {
		if _, err = fmt.Sscanf(string(data), "%s %d %d", &t.Digest, &t.Size, &t.Newest); err == nil && len(t.Digest) != 64 {
			err = errors.New("its digest is damaged")
		}
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("open the copy of %s: %w", c.From, err)
	}
	return t, nil
}
