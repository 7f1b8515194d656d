// Package compress opens what packages and repositories are compressed with, by the ending of a file's name. Files of .xz that were
// written in several blocks are decoded on every processor.
//
// Limits: one stream per file; a window of more than 256 MiB (xz) or 1 GiB (zstd) is refused.
package compress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"
	"github.com/xi2/xz"
)

// Open reads size bytes at the beginning of r, which are compressed as the ending ext says: ".gz", ".xz", ".zst", ".bz2", ".lzma", or
// not at all (""). Close ends what works ahead.
func Open(ctx context.Context, r io.ReaderAt, size int64, ext string) (io.ReadCloser, error) {
	section := io.NewSectionReader(r, 0, size)
	buffered := func() io.Reader { return bufio.NewReaderSize(section, 256<<10) }
	switch ext {
	case "":
		return io.NopCloser(section), nil
	case ".gz":
		z, err := gzip.NewReader(buffered())
		return z, err
	case ".zst":
		z, err := zstd.NewReader(buffered(), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case ".bz2":
		return io.NopCloser(bzip2.NewReader(buffered())), nil
	case ".lzma":
		z, err := lzma.NewReader(buffered())
		if err != nil {
			return nil, err
		}
		return io.NopCloser(z), nil
	case ".xz":
		if blocks, flags, ok := xzBlocks(section, size); ok {
			return newBlockReader(ctx, section, blocks, flags), nil
		}
		z, err := xz.NewReader(buffered(), xzDictMax)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(z), nil
	default:
		return nil, fmt.Errorf("compressed in an unknown way (%s): want .gz, .xz, .zst, .bz2, .lzma or nothing", ext)
	}
}

// xzDictMax bounds the memory of one decoder. xz -9 takes 64 MiB.
const xzDictMax = 256 << 20

// An xzBlock is a part of an .xz file that can be decoded on its own (xz-file-format.txt, 3). xz and dpkg-deb with
// threads write one every 24 MiB; a kernel package has 17 of them, and is what a build waits for.
type xzBlock struct {
	off      int64
	unpadded int64 // bytes, without padding to a multiple of 4
	size     int64 // bytes decoded
}

// maxBlock bounds what is held in memory of one block; larger ones are decoded as a stream.
const maxBlock = 64 << 20

// xzBlocks reads the index at the end of an .xz file. It is not ok when the file is anything but one stream of several
// blocks of moderate size; the stream decoder then says what is wrong with it, if something is.
func xzBlocks(r io.ReaderAt, size int64) (blocks []xzBlock, flags [2]byte, ok bool) {
	const headLen, footLen = 12, 12
	var head, foot [12]byte
	if size < headLen+footLen || size%4 != 0 {
		return nil, flags, false
	}
	if _, err := r.ReadAt(head[:], 0); err != nil || !bytes.HasPrefix(head[:], []byte("\xFD7zXZ\x00")) {
		return nil, flags, false
	}
	if _, err := r.ReadAt(foot[:], size-footLen); err != nil || foot[10] != 'Y' || foot[11] != 'Z' {
		return nil, flags, false
	}
	flags = [2]byte(head[6:8])
	if [2]byte(foot[8:10]) != flags || crc32.ChecksumIEEE(foot[4:10]) != binary.LittleEndian.Uint32(foot[:]) {
		return nil, flags, false
	}
	indexLen := (int64(binary.LittleEndian.Uint32(foot[4:])) + 1) * 4
	if indexLen > size-headLen-footLen || indexLen > 16<<20 {
		return nil, flags, false
	}
	index := make([]byte, indexLen)
	if _, err := r.ReadAt(index, size-footLen-indexLen); err != nil {
		return nil, flags, false
	}
	body, sum := index[:indexLen-4], index[indexLen-4:]
	if body[0] != 0 || crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(sum) {
		return nil, flags, false
	}
	body = body[1:]
	number := func() (v int64, ok bool) {
		u, n := binary.Uvarint(body)
		if n <= 0 || u > 1<<62 {
			return 0, false
		}
		body = body[n:]
		return int64(u), true
	}
	count, ok := number()
	if !ok || count < 2 || count > indexLen {
		return nil, flags, false
	}
	off, end := int64(headLen), size-footLen-indexLen
	for range count {
		unpadded, ok1 := number()
		decoded, ok2 := number()
		if !ok1 || !ok2 || unpadded < 5 || unpadded > end-off || decoded > maxBlock {
			return nil, flags, false
		}
		blocks = append(blocks, xzBlock{off: off, unpadded: unpadded, size: decoded})
		off += (unpadded + 3) &^ 3
	}
	return blocks, flags, off == end
}

// stream makes a complete .xz file of one block, for a decoder that knows only those.
func (b xzBlock) stream(r io.ReaderAt, flags [2]byte) io.Reader {
	head := append([]byte("\xFD7zXZ\x00"), flags[:]...)
	head = binary.LittleEndian.AppendUint32(head, crc32.ChecksumIEEE(flags[:]))
	index := []byte{0, 1}
	index = binary.AppendUvarint(index, uint64(b.unpadded))
	index = binary.AppendUvarint(index, uint64(b.size))
	for len(index)%4 != 0 {
		index = append(index, 0)
	}
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(index))
	foot := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1))
	foot = append(foot, flags[:]...)
	foot = append(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(foot)), foot...)
	return io.MultiReader(
		bytes.NewReader(head),
		bufio.NewReaderSize(io.NewSectionReader(r, b.off, (b.unpadded+3)&^3), 256<<10),
		bytes.NewReader(index),
		bytes.NewReader(append(foot, 'Y', 'Z')),
	)
}

// A blockReader decodes blocks on every processor and hands them out in order.
type blockReader struct {
	cancel  context.CancelFunc
	results chan chan decoded // in order; its capacity bounds the memory
	free    chan []byte
	whole   []byte // of the block that is being read
	rest    []byte
	err     error
}

type decoded struct {
	data []byte
	err  error
}

func newBlockReader(ctx context.Context, r io.ReaderAt, blocks []xzBlock, flags [2]byte) *blockReader {
	ctx, cancel := context.WithCancel(ctx)
	workers := runtime.GOMAXPROCS(0)
	b := &blockReader{
		cancel:  cancel,
		results: make(chan chan decoded, workers),
		free:    make(chan []byte, workers+2),
	}
	go func() {
		defer close(b.results)
		for _, block := range blocks {
			result := make(chan decoded, 1)
			select {
			case b.results <- result:
			case <-ctx.Done():
				return
			}
			go func() {
				data, err := b.decode(ctx, block, r, flags)
				result <- decoded{data, err}
			}()
		}
	}()
	return b
}

// decode decodes one block into a buffer that may have served before.
func (b *blockReader) decode(ctx context.Context, block xzBlock, r io.ReaderAt, flags [2]byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	z, err := xz.NewReader(block.stream(r, flags), xzDictMax)
	if err != nil {
		return nil, err
	}
	var buf []byte
	select {
	case buf = <-b.free:
	default:
	}
	if int64(cap(buf)) < block.size {
		buf = make([]byte, block.size)
	}
	buf = buf[:block.size]
	if _, err := io.ReadFull(z, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	var more [1]byte
	if n, err := z.Read(more[:]); n != 0 || err != io.EOF {
		if err == nil || err == io.EOF {
			err = errors.New("xz block is longer than the index says")
		}
		return nil, err
	}
	return buf, nil
}

func (b *blockReader) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		if b.whole != nil {
			select {
			case b.free <- b.whole:
			default:
			}
			b.whole = nil
		}
		result, ok := <-b.results
		if !ok {
			b.err = io.EOF
			continue
		}
		d := <-result
		b.whole, b.rest, b.err = d.data, d.data, d.err
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *blockReader) Close() error {
	b.cancel()
	b.err = errors.New("read after close")
	b.rest = nil
	return nil
}
