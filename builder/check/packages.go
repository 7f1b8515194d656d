package check

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"netroot/builder/rpm"
	"netroot/builder/rpmdb"
	"netroot/builder/tree"
)

// dbFolders are where rpm has its database.
var dbFolders = []string{"usr/lib/sysimage/rpm", "var/lib/rpm"}

var formatNames = map[rpmdb.Format]string{rpmdb.BerkeleyDB: "Berkeley DB", rpmdb.SQLite: "sqlite", rpmdb.NDB: "ndb"}

// backend is the format that the root's own rpm reads: what its macros say, or the one that it had before it had a choice.
func backend(root fs.FS) rpmdb.Format {
	format := rpmdb.BerkeleyDB
	for _, name := range append([]string{"usr/lib/rpm/macros"}, tree.Glob(root, "etc/rpm", "macros*")...) {
		for _, line := range readLines(root, name) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "%_db_backend" && rpmdb.Files[rpmdb.Format(f[1])] != "" {
				format = rpmdb.Format(f[1])
			}
		}
	}
	return format
}

// A packageList is an opened database of packages.
type packageList struct {
	name string
	file fs.File
	at   io.ReaderAt
	size int64
}

// openList opens a file that may be one; nil when it is not there.
func openList(root fs.FS, name string) *packageList {
	f, err := tree.Open(root, name)
	if err != nil {
		return nil
	}
	info, err := f.Stat()
	r, ok := f.(io.ReaderAt)
	if err != nil || !ok {
		f.Close()
		return nil
	}
	return &packageList{name, f, r, info.Size()}
}

func (l *packageList) each(do func(f *rpm.File) error) error {
	return rpmdb.Read(l.at, l.size, func(header []byte) error {
		f, err := rpm.Installed(header)
		if err != nil {
			return err
		}
		return do(f)
	})
}

// database opens the root's database of packages in the format that its rpm reads; nil without one. others are those that are there in
// other formats.
func database(root fs.FS) (db *packageList, others []string, err error) {
	want := backend(root)
	for _, dir := range dbFolders {
		for format, file := range rpmdb.Files {
			at := path.Join(dir, file)
			list := openList(root, at)
			if list == nil {
				continue
			}
			switch have := rpmdb.Detect(list.at); {
			case have == want && format == want && db == nil:
				db = list
				continue
			case have == want && format == want: // the first folder is the one of newer rpms
			case have == "":
				err = fmt.Errorf("/%s is no database of rpm's", at)
			default:
				others = append(others, fmt.Sprintf("/%s, which is %s", at, formatNames[have]))
			}
			list.file.Close()
		}
	}
	slices.Sort(others)
	return db, others, err
}

// hasRPM tells that the root is one of RPM packages: Debian's have their own database.
func hasRPM(root fs.FS) bool {
	return (executable(root, "usr/bin/rpm") || executable(root, "bin/rpm")) && !tree.Exists(root, "var/lib/dpkg/status")
}

// rpmDatabase finds one that the root's rpm cannot read, as when another rpm installed the packages from outside, and one that
// does not list what was planned, or more than that.
func rpmDatabase(s subject) (string, string, Severity) {
	if !hasRPM(s.root) {
		return "", "", ""
	}
	const fix = "install with the root's own rpm, not the host's: netroot build does so"
	db, others, err := database(s.root)
	if db != nil {
		defer db.file.Close()
	}
	if err != nil {
		return err.Error(), fix, Error
	}
	if tree.Exists(s.root, "root/.rpmdb") {
		others = append(others, "/root/.rpmdb, where Debian's rpm has it")
	}
	if db == nil {
		if others != nil {
			return fmt.Sprintf("the root's rpm reads %s, and the list of packages is in %s", formatNames[backend(s.root)], few(others)), fix, Error
		}
		return "there is no list of installed packages that the root's rpm can read", fix, Error
	}
	planned := map[string]bool{}
	for _, p := range s.Packages {
		planned[p.Name+"-"+p.Version+"."+p.Arch] = true
	}
	installed := map[string]bool{} // by name and architecture
	known := 0
	var missing, more []string
	err = db.each(func(f *rpm.File) error {
		name := f.Header.String(rpm.TagName)
		if name == "gpg-pubkey" { // a key that rpm was given
			return nil
		}
		known++
		installed[name+" "+f.Header.String(rpm.TagArch)] = true
		if !planned[f.String()] {
			more = append(more, f.String())
		}
		return nil
	})
	if err != nil {
		return fmt.Sprintf("/%s cannot be read: %v", db.name, err), fix, Error
	}
	for _, p := range s.Packages {
		if !installed[p.Name+" "+p.Arch] {
			missing = append(missing, p.Name+"."+p.Arch)
		}
	}
	switch {
	case missing != nil:
		return fmt.Sprintf("rpm knows %d packages, and %d should be there; it does not know %s", known, len(s.Packages), few(missing)), fix, Error
	case more != nil && s.Packages != nil:
		slices.Sort(more)
		return fmt.Sprintf("rpm knows %d packages, and %d should be there; nobody planned %s", known, len(s.Packages), few(more)),
			"what a hook installs is pinned by no lock, and another one next time: list it in `packages`", Warning
	}
	return "", "", ""
}

// scriptlets repeats what the build noted: what they would have done is missing.
func scriptlets(s subject) (string, string, Severity) {
	var failed []string
	for _, note := range s.Notes {
		if strings.Contains(note, "scriptlet failed") {
			failed = append(failed, note)
		}
	}
	if failed == nil {
		return "", "", ""
	}
	return few(failed), "see what it does (rpm -q --scripts); do what it could not in `hooks`", Warning
}

// digests are rpm's numbers for them (its include/rpm/rpmcrypto.h); 0 is from before there was a choice.
var digests = map[uint64]func() hash.Hash{0: md5.New, 1: md5.New, 2: sha1.New, 8: sha256.New, 9: sha512.New384, 10: sha512.New}

// packageFiles compares every file of every RPM package with what its package says of it, as rpm -V does.
func packageFiles(root fs.FS) (string, string, Severity) {
	if !hasRPM(root) {
		return "", "", ""
	}
	db, _, err := database(root)
	if db != nil {
		defer db.file.Close()
	}
	if err != nil || db == nil {
		return "", "", "" // told by rpmDatabase
	}
	v := verifier{root: root, users: ids(root, "etc/passwd"), groups: ids(root, "etc/group")}
	err = db.each(v.verify)
	if err != nil || v.wrong == nil {
		return "", "", ""
	}
	return fmt.Sprintf("%d files are not as their packages have them: %s", len(v.wrong), few(v.wrong)), "a hook may have meant it; else build the image anew, or look for what changed them", Warning
}

type verifier struct {
	root          fs.FS
	users, groups map[string]uint32
	wrong         []string
}

func (v *verifier) verify(f *rpm.File) error {
	entries, err := f.Entries()
	if err != nil {
		return err
	}
	states := f.Header.Numbers(rpm.TagFileStates)
	sums := f.Header.Strings(rpm.TagFileDigests)
	algorithm, _ := f.Header.Number(rpm.TagFileDigestAlgo)
	for i := range entries {
		const normal = 0
		if i < len(states) && byte(states[i]) != normal {
			continue // replaced by another package, of another colour, or not wanted
		}
		sum := ""
		if i < len(sums) {
			sum = sums[i]
		}
		if why := v.file(&entries[i], sum, digests[algorithm]); why != "" {
			v.wrong = append(v.wrong, entries[i].Name+" ("+why+")")
		}
	}
	return nil
}

// file says what is wrong with one path; "" for nothing.
func (v *verifier) file(e *rpm.Entry, sum string, digest func() hash.Hash) string {
	if e.Flags&(rpm.FileGhost|rpm.FileMissingOK) != 0 {
		return ""
	}
	for _, mounted := range []string{"/dev", "/proc", "/sys", "/run"} {
		if e.Name == mounted || strings.HasPrefix(e.Name, mounted+"/") {
			return ""
		}
	}
	at, err := tree.ResolveParent(v.root, strings.TrimPrefix(e.Name, "/"))
	var info fs.FileInfo
	if err == nil {
		info, err = fs.Lstat(v.root, at)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "missing"
	}
	if err != nil {
		return err.Error()
	}
	config := e.Flags&rpm.FileConfig != 0
	mode := info.Mode()
	switch e.Type() {
	case rpm.ModeLink:
		if target, err := fs.ReadLink(v.root, at); !config && (err != nil || target != e.Link) {
			return "not a link to " + e.Link
		}
		return ""
	case rpm.ModeDir:
		if mode&fs.ModeSymlink != 0 {
			return "" // a later system has a link in place of the folder
		}
		if !mode.IsDir() {
			return "not a folder"
		}
	case rpm.ModeRegular:
		if !mode.IsRegular() {
			if config {
				return ""
			}
			return "not a regular file"
		}
	}
	if config {
		return "" // made to be changed
	}
	if want := e.Mode & 0o7777; unixMode(mode) != want {
		return fmt.Sprintf("mode %04o, not %04o", unixMode(mode), want)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if uid, known := v.users[e.User]; known && st.Uid != uid {
			return fmt.Sprintf("belongs to user %d, not %s", st.Uid, e.User)
		}
		if gid, known := v.groups[e.Group]; known && st.Gid != gid {
			return fmt.Sprintf("belongs to group %d, not %s", st.Gid, e.Group)
		}
	}
	if e.Type() != rpm.ModeRegular || sum == "" || digest == nil {
		return ""
	}
	if info.Size() != e.Size {
		return fmt.Sprintf("%d bytes, not %d", info.Size(), e.Size)
	}
	r, err := v.root.Open(at)
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	h := digest()
	if _, err := io.Copy(h, r); err != nil {
		return err.Error()
	}
	if hex.EncodeToString(h.Sum(nil)) != sum {
		return "other content"
	}
	return ""
}

// unixMode is the lower twelve bits of st_mode.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&flag != 0 {
			mode |= bit
		}
	}
	return mode
}

// ids reads the numbers of a passwd(5) or group(5) file.
func ids(root fs.FS, name string) map[string]uint32 {
	list := map[string]uint32{}
	data, err := tree.ReadFile(root, name)
	if err != nil {
		return list
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 2 {
			if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				list[f[0]] = uint32(n)
			}
		}
	}
	return list
}
