package copytree

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"netroot/builder/atomicfile"
)

// indexFormat is in the first line of index and journal.
const indexFormat = 1

// A header is that line.
type header struct {
	Format int    `json:"format"`
	Boot   string `json:"boot,omitempty"`
	State  string `json:"state,omitempty"`
}

// load reads the entries of a file over those that are there. A last line that is cut off does not count.
func (m *mirror) load(name string) (header, error) {
	var first header
	f, err := os.Open(m.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return first, nil
	}
	if err != nil {
		return first, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	for i := 0; ; i++ {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return first, nil
		}
		if err != nil {
			return first, err
		}
		if i == 0 {
			if json.Unmarshal(line, &first) != nil || first.Format != indexFormat {
				return header{}, nil // of another version: everything is copied again
			}
			continue
		}
		e := new(entry)
		if err := json.Unmarshal(line, e); err != nil {
			return first, nil
		}
		if e.Gone {
			delete(m.have, e.name())
		} else {
			m.have[e.name()] = e
		}
	}
}

// note adds an entry, or takes one away, and writes that down.
func (m *mirror) note(e *entry) error {
	if m.journal == nil {
		if err := m.begin(); err != nil {
			return err
		}
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := m.journal.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write the journal of the copy: %w", err)
	}
	if e.Gone {
		delete(m.have, e.name())
	} else {
		m.have[e.name()] = e
	}
	return nil
}

// begin marks the copy as being changed.
func (m *mirror) begin() error {
	if err := os.Remove(m.path(digestName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old, err := os.ReadFile(m.path(journalName))
	var first header
	head, _, _ := bytes.Cut(old, []byte("\n"))
	fresh := err != nil || json.Unmarshal(head, &first) != nil || first.Format != indexFormat
	if !fresh && first.Boot != atomicfile.BootID() {
		// What it says was loaded with care; from here on it can be believed again.
		return m.rewrite()
	}
	if m.journal, err = os.OpenFile(m.path(journalName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return err
	}
	if fresh {
		if err := m.journal.Truncate(0); err != nil {
			return err
		}
		_, err = fmt.Fprintf(m.journal, "{\"format\":%d,\"boot\":%q}\n", indexFormat, atomicfile.BootID())
	} else if n := len(old); n > 0 && old[n-1] != '\n' {
		err = m.journal.Truncate(int64(bytes.LastIndexByte(old, '\n') + 1))
	}
	return err
}

// rewrite begins index and journal anew, with what is there.
func (m *mirror) rewrite() error {
	if err := m.save(""); err != nil {
		return err
	}
	return m.begin()
}

// save writes the index and takes the journal away. Data comes to the disk before what says that they are there.
func (m *mirror) save(state string) error {
	if m.journal != nil {
		m.journal.Close()
		m.journal = nil
	}
	dir, err := os.Open(m.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync the copy: %w", err)
	}
	f, err := atomicfile.Create(m.path(indexName), 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	w := bufio.NewWriterSize(f, 1<<20)
	enc := json.NewEncoder(w)
	if err := enc.Encode(header{Format: indexFormat, State: state}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(m.have)) {
		if err := enc.Encode(m.have[name]); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return err
	}
	m.state = state
	if err := os.Remove(m.path(journalName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
