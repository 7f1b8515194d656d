package tftpboot

import (
	"bytes"
	"io"
	"io/fs"
	"time"
)

// A text is a generated file.
type text struct {
	*bytes.Reader
	name string
}

func memFile(name, content string) fs.File {
	return &text{bytes.NewReader([]byte(content)), name}
}

func (f *text) Stat() (fs.FileInfo, error) { return textInfo{f.name, f.Reader.Size()}, nil }
func (f *text) Close() error               { return nil }

var _ io.ReadSeeker = (*text)(nil)

// textInfo has no modification time: the text may be another one the next time.
type textInfo struct {
	name string
	size int64
}

func (i textInfo) Name() string       { return i.name }
func (i textInfo) Size() int64        { return i.size }
func (i textInfo) Mode() fs.FileMode  { return 0o444 }
func (i textInfo) ModTime() time.Time { return time.Time{} }
func (i textInfo) IsDir() bool        { return false }
func (i textInfo) Sys() any           { return nil }
