package copytree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"netroot/builder/progress"
)

// An item is one file of the original as its file system lists it.
type item struct {
	name  string
	kind  byte // as of an entry
	size  int64
	sec   int64
	sig   string // changes whenever the file does
	inode string // of a file with several names; else ""
}

// An original can list its files, and then send some of them. Each list is followed by at most one send.
type original interface {
	list(ctx context.Context) ([]*item, error)
	// send hands over the files, with contents where they have any, in any order. It leaves out those that are not there any
	// more.
	send(ctx context.Context, want []*item, put func(e *entry, contents io.Reader) error) error
}

// An update is one run of Copy.Update.
type update struct {
	*Copy
	*mirror
	left *leftOut
	rep  Report
}

// passes is how often a list is made until all that it names has come over as it says.
const passes = 3

// follow makes the copy what the original lists.
func (u *update) follow(ctx context.Context, o original) error {
	for pass := 1; ; pass++ {
		u.Progress.Step("listing the files of %s", u.From)
		items, err := o.list(ctx)
		if err != nil {
			return err
		}
		u.left.count = nil
		items = slices.DeleteFunc(items, func(i *item) bool { return u.left.has(i.name, i.kind, i.size) })
		if len(items) > maxEntries {
			return fmt.Errorf("more than %d files", maxEntries)
		}
		listed := make(map[string]*item, len(items))
		for _, i := range items {
			listed[i.name] = i
		}
		if err := u.retain(func(name string) bool { return listed[name] != nil }); err != nil {
			return err
		}
		want, links := u.plan(items)
		if err := u.fetch(ctx, o, want); err != nil {
			return err
		}
		if err := u.join(links); err != nil {
			return err
		}
		var changed, missing []string
		for _, i := range want {
			switch e := u.have[i.name]; {
			case e == nil:
				missing = append(missing, "/"+i.name)
			case e.Sig != i.sig:
				changed = append(changed, "/"+i.name)
			}
		}
		switch {
		case len(missing)+len(changed) == 0:
			return nil
		case pass < passes:
			u.log().Debug("files changed while they were copied", "files", len(changed), "gone", len(missing))
		case len(missing) > 0:
			return fmt.Errorf("cannot read %s there, however often it is tried; name it under exclude: if the copy can do without", some(missing))
		default:
			u.rep.Notes = append(u.rep.Notes, "changed while being copied: "+some(changed))
			return nil
		}
	}
}

// some names the first of a list.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// plan finds what has to be read: want, and which names are further ones of a file, and of which.
func (u *update) plan(items []*item) (want []*item, links map[string]string) {
	first := map[string]string{}
	for _, i := range items {
		if i.inode != "" {
			if f, ok := first[i.inode]; !ok || i.name < f {
				first[i.inode] = i.name
			}
		}
	}
	links = map[string]string{}
	for _, i := range items {
		if f := first[i.inode]; i.inode != "" && f != i.name {
			links[i.name] = f
			continue
		}
		if e := u.have[i.name]; e == nil || e.Type != i.kind || e.Sig != i.sig {
			want = append(want, i)
		}
	}
	return want, links
}

// fetch reads what is wanted.
func (u *update) fetch(ctx context.Context, o original, want []*item) error {
	if len(want) == 0 {
		return o.send(ctx, nil, nil)
	}
	wanted := make(map[string]*item, len(want))
	var total int64
	for _, i := range want {
		wanted[i.name] = i
		total += i.size
	}
	task := u.Progress.Start("copying", total, progress.Bytes)
	err := o.send(ctx, want, func(e *entry, contents io.Reader) error {
		i := wanted[e.name()]
		if i == nil {
			return fmt.Errorf("/%s was sent and not asked for", e.name())
		}
		if contents == nil {
			contents = strings.NewReader("")
		}
		if err := u.put(e, &meter{r: contents, task: task}); err != nil {
			return err
		}
		u.rep.Sent++
		return nil
	})
	if err != nil {
		task.Abort()
		return err
	}
	task.Done()
	return nil
}

// join makes the further names of files, which takes no reading.
func (u *update) join(links map[string]string) error {
	if err := u.orphans(); err != nil {
		return err
	}
	for name, first := range links {
		if e := u.have[name]; e != nil && e.Type == tar.TypeLink && string(e.Link) == first {
			continue
		}
		if u.have[first] == nil {
			if err := u.forget(name); err != nil { // told as missing, by its first name
				return err
			}
			continue
		}
		if err := u.put(&entry{Name: raw(name), Type: tar.TypeLink, Link: raw(first)}, nil); err != nil {
			return err
		}
	}
	return nil
}

// A meter shows what passes through it.
type meter struct {
	r    io.Reader
	task *progress.Task
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.task.Add(int64(n))
	return n, err
}

// matches tells that an entry that came is still what was listed.
func (i *item) matches(e *entry) bool {
	return e.Type == i.kind && e.Sec == i.sec && (e.Type != tar.TypeReg || e.Size == i.size)
}

var errBrokeOff = errors.New("the connection ended before all files had come; run it again: what has arrived is kept")
