// Package memfile makes files that are nowhere: texts made for one request, which whoever serves files serves like any other.
package memfile

import (
	"io/fs"
	"strings"
	"time"
)

// New is an open file with that base name and content. It can seek, and has no modification time, because the text may be another one the
// next time.
func New(name, content string) fs.File { return file{strings.NewReader(content), name} }

type file struct {
	*strings.Reader
	name string
}

func (f file) Stat() (fs.FileInfo, error) { return info{f.name, f.Size()}, nil }
func (f file) Close() error               { return nil }

type info struct {
	name string
	size int64
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return 0o400 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return nil }
