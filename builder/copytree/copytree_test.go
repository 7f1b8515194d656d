package copytree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/builder/need"
)

func shell(t testing.TB, dir, script string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// smallSystem makes a small system with everything that is hard to copy in it.
func smallSystem(t testing.TB) string {
	t.Helper()
	need.Root(t)
	need.Tools(t, "setfattr", "setfacl")
	dir := filepath.Join(t.TempDir(), "original")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	shell(t, dir, `umask 022
mkdir -p etc usr/bin usr/lib var/log/journal var/lib/x var/tmp var/cache/apt/archives/partial tmp home/user dev proc run sys srv/empty
mkdir -p var/run/dbus var/run/sudo/user var/lock/subsys; chmod 1777 var/lock; chown 81:81 var/run/dbus
echo 1 >var/run/init.pid; echo 1 >var/run/sudo/user/0; : >var/lock/subsys/network; ln -s pid var/run/link; mkfifo var/run/dbus/pipe
echo original >etc/hostname
echo /swapfile none swap sw 0 0 >etc/fstab; head -c 2000000 /dev/zero >swapfile
printf 'a\nb\n' >usr/bin/tool; chmod 4755 usr/bin/tool; ln usr/bin/tool usr/bin/other; ln usr/bin/tool etc/third
echo theirs >home/user/file; chown -R 12345:54321 home/user; chmod 2750 home/user
mkdir sticky; chmod 1777 sticky
ln -s /etc/hostname usr/absolute; ln -s ../../.. usr/lib/climbs; ln -s nowhere usr/dangling; chown -h 7:8 usr/dangling
mkfifo var/lib/x/pipe; mknod var/lib/x/char c 1 3; mknod var/lib/x/block b 7 200; chmod 640 var/lib/x/block
echo caps >usr/bin/ping; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 usr/bin/ping
echo x >etc/marked; setfattr -n user.note -v 'a word' etc/marked; setfacl -m u:4321:rw etc/marked; setfacl -d -m g:99:rx srv/empty
head -c 9000 /dev/zero >sparse; printf end >>sparse; truncate -s 3M sparse; printf x >>sparse
echo odd >"$(printf 'etc/with\nnewline')"; echo latin >"$(printf 'etc/latin-\344')"; echo star >'etc/a\b *'; echo dash >./-T
: >empty
echo secret >etc/shadow; chmod 0 etc/shadow; chown 0:42 etc/shadow
echo old >etc/old; touch -d '1980-01-01 12:34:56.123456789' etc/old; touch -h -d '2001-02-03 04:05:06.7' usr/dangling
echo log >var/log/syslog; echo deb >var/cache/apt/archives/x.deb; echo t >tmp/t; echo t >var/tmp/t; echo p >proc/cpuinfo; mknod dev/null c 1 3
touch -d '2020-05-05 05:05:05' usr usr/bin etc .
`)
	if err := unix.Mknod(filepath.Join(dir, "var/lib/x/socket"), unix.S_IFSOCK|0o755, 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A shape is what lstat and a reading of a file say of it.
func shapes(t testing.TB, root string, times bool) map[string]string {
	t.Helper()
	all := map[string]string{}
	names := map[uint64][]string{} // by inode
	err := filepath.WalkDir(root, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, at)
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil
		}
		s := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		if times {
			s += fmt.Sprintf(" %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			if len(data) < 1000 {
				s += fmt.Sprintf(" %q", data)
			} else {
				s += fmt.Sprintf(" %x", sha256.Sum256(data))
			}
			s += fmt.Sprintf(" %d bytes", len(data))
			names[st.Ino] = append(names[st.Ino], name)
		case unix.S_IFLNK:
			to, err := os.Readlink(at)
			if err != nil {
				return err
			}
			s += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			s += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(at, list)
		if err != nil {
			return err
		}
		for _, x := range slices.Sorted(strings.SplitSeq(strings.Trim(string(list[:n]), "\x00"), "\x00")) {
			if x != "" {
				value := make([]byte, 4096)
				n, err := unix.Lgetxattr(at, x, value)
				if err != nil {
					return err
				}
				s += fmt.Sprintf(" %s=%x", x, value[:n])
			}
		}
		all[name] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range names {
		for _, n := range group {
			if len(group) > 1 {
				all[n] += fmt.Sprintf(" = %q", group)
			}
		}
	}
	return all
}

// expected is the shape of a copy of smallSystem.
func expected(t testing.TB, dir string) map[string]string {
	t.Helper()
	want := shapes(t, dir, true)
	for _, out := range []string{"swapfile", "var/log/syslog", "var/cache/apt/archives/x.deb", "tmp/t", "var/tmp/t", "proc/cpuinfo", "dev/null",
		"var/run/init.pid", "var/run/sudo/user/0", "var/lock/subsys/network", "var/run/link", "var/run/dbus/pipe"} {
		if want[out] == "" {
			t.Fatalf("the original has no %s", out)
		}
		delete(want, out)
	}
	return want
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	names := maps.Clone(got)
	maps.Copy(names, want)
	for _, n := range slices.Sorted(maps.Keys(names)) {
		if got[n] != want[n] {
			t.Errorf("%q:\n got %.200s\nwant %.200s", n, got[n], want[n])
		}
	}
}

// hold opens a copy, which is complete then, and lets go of it at once: nobody changes it meanwhile.
func hold(t *testing.T, c *Copy) *Tree {
	t.Helper()
	tree, err := c.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tree.Close()
	return tree
}

func update1(t *testing.T, c *Copy) Report {
	t.Helper()
	rep, err := c.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func newCopy(t *testing.T, from string) *Copy {
	return &Copy{From: from, Dir: filepath.Join(t.TempDir(), "copies", "x")}
}

func TestFolder(t *testing.T) {
	dir := smallSystem(t)
	c := newCopy(t, dir)
	rep := update1(t, c)
	tree := hold(t, c)
	same(t, shapes(t, tree.Root, true), expected(t, dir))
	for _, want := range []string{"swap (/swapfile, 2.0 MB)", "logs (/var/log/syslog"} {
		if !slices.ContainsFunc(rep.Notes, func(n string) bool { return strings.Contains(n, want) }) {
			t.Errorf("no note says %q: %q", want, rep.Notes)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(tree.Root, "sparse"), &st); err != nil || st.Blocks*512 > 100<<10 {
		t.Errorf("the sparse file takes %d bytes, %v", st.Blocks*512, err)
	}

	// Nothing has changed.
	if rep := update1(t, c); rep.Sent != 0 || rep.SentBytes != 0 {
		t.Errorf("the second time %+v", rep)
	}
	if again := hold(t, c); again.Digest != tree.Digest {
		t.Error("the digest differs")
	}

	// A time set back does not hide a change, for ctime cannot be set.
	shell(t, dir, `echo ORIGINAL >etc/hostname2; touch -r etc/hostname etc/hostname2; cat etc/hostname2 >etc/hostname; touch -r etc/hostname2 etc/hostname; rm etc/hostname2
rm usr/bin/other; rm -r home/user; echo now-a-file >home/user; rm usr/dangling; mkdir usr/dangling; echo in >usr/dangling/in; chmod 700 usr/bin/ping`)
	rep = update1(t, c)
	after := hold(t, c)
	same(t, shapes(t, after.Root, true), expected(t, dir))
	if after.Digest == tree.Digest {
		t.Error("the digest is the same after changes")
	}
	if rep.SentBytes == 0 || rep.SentBytes > 1000 {
		t.Errorf("%d bytes were read again", rep.SentBytes)
	}
	fresh := newCopy(t, dir)
	update1(t, fresh)
	if d := hold(t, fresh); d.Digest != after.Digest {
		t.Error("a fresh copy has another digest than one that was brought up to date")
	}
}

func TestExclude(t *testing.T) {
	dir := smallSystem(t)
	c := newCopy(t, dir)
	c.Exclude = []string{"/home/*", "/usr/bin/tool", "/srv"}
	rep := update1(t, c)
	got := shapes(t, hold(t, c).Root, true)
	for name := range got {
		if strings.HasPrefix(name, "home/") || strings.HasPrefix(name, "srv") || name == "usr/bin/tool" {
			t.Errorf("%s was copied", name)
		}
	}
	if got["usr/bin/other"] == "" || got["etc/third"] == "" || got["home"] == "" {
		t.Errorf("too much was left out: %q", slices.Sorted(maps.Keys(got)))
	}
	if !strings.Contains(strings.Join(rep.Notes, "\n"), "excluded by the recipe (") {
		t.Errorf("notes: %q", rep.Notes)
	}
}

// What an update that was killed had brought is not read again, and half a file is never taken for a whole one.
func TestInterrupted(t *testing.T) {
	dir := smallSystem(t)
	c := newCopy(t, dir)
	for i := range 40 {
		if err := os.WriteFile(filepath.Join(dir, "etc", fmt.Sprintf("big%d", i)), bytes.Repeat([]byte{byte(i), 1}, 50000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := openMirror(t.Context(), c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	u := &update{Copy: c, mirror: m, left: &leftOut{}}
	o := &folderOriginal{update: u, root: dir}
	items, err := o.list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	items = slices.DeleteFunc(items, func(i *item) bool { return u.left.has(i.name, i.kind, i.size) })
	want, _ := u.plan(items)
	var total int64
	for _, i := range want {
		total += i.size
	}
	if err := u.fetch(t.Context(), o, want[:len(want)/2]); err != nil {
		t.Fatal(err)
	}
	half := u.rep.SentBytes
	m.close() // as kill -9 would
	// A line of the journal that did not get out whole.
	f, err := os.OpenFile(filepath.Join(c.Dir, journalName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"n":"etc/hostname","t":48,"sig":"x`)
	f.Close()
	if _, err := c.Hold(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a copy that is not complete was opened: %v", err)
	}
	rep := update1(t, c)
	tree := hold(t, c)
	same(t, shapes(t, tree.Root, true), expected(t, dir))
	if half < 100000 || half+rep.SentBytes != total {
		t.Errorf("half was %d bytes, and then %d more, of %d", half, rep.SentBytes, total)
	}

	// After a crash of the whole machine the journal counts for nothing.
	shell(t, dir, "echo changed >etc/hostname")
	update1(t, c)
	shell(t, c.Dir, `echo '{"format":1,"boot":"another"}' >journal; printf '%s\n' "$(grep '"n":"etc/big7"' index)" >>journal; echo damaged >root/etc/big7`)
	if rep := update1(t, c); rep.Sent != 1 {
		t.Errorf("after a crash %d files were read, not the one that was written before it", rep.Sent)
	}
	same(t, shapes(t, hold(t, c).Root, true), expected(t, dir))
}

func TestUpdateErrors(t *testing.T) {
	need.Root(t)
	empty, noSystem, inner := t.TempDir(), t.TempDir(), t.TempDir()
	shell(t, noSystem, "mkdir photos; echo x >photos/1")
	shell(t, inner, "mkdir -p image/etc; echo x >image/etc/x")
	for from, want := range map[string]string{
		"/no/such/thing": "no such file", empty: "no files", noSystem: "it holds photos", inner: "-C image", "/dev/null": "neither a folder nor a file",
	} {
		c := newCopy(t, from)
		if _, err := c.Update(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", from, err, want)
		}
	}
	c := newCopy(t, empty)
	c.Avoid = []string{empty}
	if _, err := c.Update(t.Context()); err == nil || !strings.Contains(err.Error(), "stored in") {
		t.Errorf("the store itself: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := newCopy(t, "/usr").Update(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of time: %v", err)
	}
}
