package copytree

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ParseSSH takes an address apart: ssh://[user@]host[:port][/path].
func ParseSSH(address string) (user, host, port, dir string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", "", "", "", fmt.Errorf("%q is not an address: %w", address, errors.Unwrap(err))
	}
	if u.User != nil {
		user = u.User.Username()
		if _, set := u.User.Password(); set {
			return "", "", "", "", errors.New("a password has no place in an address; ssh takes a key")
		}
	}
	host, port, dir = u.Hostname(), u.Port(), u.Path
	if dir == "" {
		dir = "/"
	}
	switch {
	case u.Scheme != "ssh" || !hostRE.MatchString(host) || user != "" && !userRE.MatchString(user):
		return "", "", "", "", fmt.Errorf("%q is not ssh://[user@]host[:port][/path]", address)
	case u.RawQuery != "" || u.Fragment != "" || path.Clean(dir) != strings.TrimRight(dir, "/") && dir != "/":
		return "", "", "", "", fmt.Errorf("%q has more in it than ssh://[user@]host[:port]/path", address)
	}
	return user, host, port, path.Clean(dir), nil
}

var (
	hostRE = regexp.MustCompile(`^[A-Za-z0-9:][A-Za-z0-9.:%_-]*$`)
	userRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
)

// An sshOriginal is a machine that sshd runs on.
type sshOriginal struct {
	*update
	args   []string // of ssh, up to the command
	dir    string
	host   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *lastLines
	inside bool // the script has begun to speak
}

func (u *update) ssh(ctx context.Context) error {
	user, host, port, dir, err := ParseSSH(u.From)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("ssh"); err != nil {
		return errors.New("there is no ssh here; install openssh-client")
	}
	// Nobody is there to answer a question, and a machine that is gone must not be waited for until tomorrow.
	args := []string{"-T", "-o", "BatchMode=yes", "-o", "EscapeChar=none"}
	if u.SSHConfig != "" {
		args = append(args, "-F", u.SSHConfig)
	}
	for _, o := range u.SSHOptions {
		args = append(args, "-o", o)
	}
	args = append(args, "-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8")
	if port != "" {
		args = append(args, "-p", port)
	}
	if user != "" {
		args = append(args, "-l", user)
	}
	o := &sshOriginal{update: u, args: append(args, "--", host), dir: dir, host: host}
	defer o.end()
	return u.follow(ctx, o)
}

// greeting comes before all else that the script says, and after what a login shell may say.
const greeting = "\x00netroot copy 1\x00"

// script is what the machine runs: it says what it swaps to, what is mounted and whether its tar knows extended
// attributes, lists all files, and hands over to tar, which reads the names that are wanted. It is one connection, so that a user
// logs in once. It is one line and has no ! in it, because root's shell may be a csh, and knows nothing that is newer than EL6: GNU tar 1.23,
// findutils 4.4, coreutils 8.4.
func (o *sshOriginal) script() string {
	var starts, prune strings.Builder
	for _, fs := range o.FileSystems {
		d := quote("." + path.Clean("/"+fs))
		fmt.Fprintf(&starts, `if [ -d %[1]s ]; then if [ "$(stat -c %%d %[1]s)" = "$top" ]; then :; else set -- "$@" %[1]s; fi; fi; `, d)
	}
	for _, pattern := range o.Exclude {
		if strings.ContainsAny(pattern, `*?[\`) {
			continue // find's * goes across slashes
		}
		fmt.Fprintf(&prune, `-path %s -prune -o `, quote("."+path.Clean("/"+pattern)))
	}
	return `LC_ALL=C; export LC_ALL; ` +
		`printf "\0netroot copy 1\0"; ` +
		`if cd ` + quote(o.dir) + `; then :; else printf "nowhere\0"; exit 9; fi; ` +
		`if [ "$(id -u)" = 0 ]; then printf "root\0"; else printf "nobody\0"; exit 9; fi; ` +
		`cat /proc/swaps; printf "\0"; cat /proc/self/mounts; printf "\0"; ` +
		`x=; case $(tar --help 2>&1) in *--xattrs*) x=--xattrs;; esac; printf "%s\0" "x$x"; ` +
		`top=$(stat -c %d .); set --; ` + starts.String() +
		`find . "$@" -xdev ` + prune.String() + `-printf "%y %m %U %G %s %T@ %C@ %D:%i %n %p\0"; ` +
		`printf "end\0"; ` +
		`exec tar --create --format=posix --pax-option=delete=atime,delete=ctime --numeric-owner --sparse --no-recursion --no-unquote ` +
		`$x --null --files-from=- --file=-`
}

// command makes root of whoever logged in, if he is not and sudo lets him.
func (o *sshOriginal) command() string {
	return `/bin/sh -c ` + quote(`if [ "$(id -u)" = 0 ]; then eval "$1"; else exec sudo -n /bin/sh -c "$1"; fi`) + ` netroot ` + quote(o.script())
}

// quote makes one word of a text for a POSIX shell, and for a csh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (o *sshOriginal) list(ctx context.Context) ([]*item, error) {
	o.end()
	o.stderr, o.inside = &lastLines{}, false
	o.cmd = exec.CommandContext(ctx, "ssh", append(o.args, o.command())...)
	o.cmd.Stderr = o.stderr
	o.cmd.WaitDelay = 5 * time.Second
	var err error
	if o.in, err = o.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	o.out = bufio.NewReaderSize(&counter{r: out, n: &o.rep.SentBytes}, 256<<10)
	if err := o.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start ssh: %w", err)
	}
	items, err := o.read()
	if err != nil {
		return nil, o.why(ctx, err)
	}
	return items, nil
}

// why adds what ssh and the machine said to an error.
func (o *sshOriginal) why(ctx context.Context, err error) error {
	o.in.Close()
	exit := o.cmd.Wait()
	o.cmd = nil
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	said := o.stderr.String()
	switch {
	case strings.Contains(said, "Host key verification failed"):
		return fmt.Errorf("ssh does not know the machine's host key, or it has changed: log in once by hand, or name a known_hosts file (ssh_options: [UserKnownHostsFile=...]); ssh said: %s", said)
	case strings.Contains(said, "Permission denied"):
		return fmt.Errorf("ssh may not log in without a password: put this host's key into ~/.ssh/authorized_keys there; ssh said: %s", said)
	case strings.Contains(said, "sudo"):
		return fmt.Errorf("whoever logs in there is not root, and sudo does not make him so without a question: log in as root, or allow it with NOPASSWD; it said: %s", said)
	case said != "" && !o.inside:
		return fmt.Errorf("ssh does not get there: %s", said)
	case said != "":
		return fmt.Errorf("%w; it said: %s", errBrokeOff, said)
	case exit != nil:
		return fmt.Errorf("%w (ssh: %v)", errBrokeOff, exit)
	}
	return errBrokeOff
}

// read reads what the script says up to tar's output.
func (o *sshOriginal) read() ([]*item, error) {
	if err := skipTo(o.out, greeting); err != nil {
		return nil, err
	}
	o.inside = true
	var head [4]string
	for i := range head {
		word, err := o.word()
		if err != nil {
			return nil, err
		}
		head[i] = word
		switch word {
		case "nowhere":
			return nil, fmt.Errorf("there is no folder %s there", o.dir)
		case "nobody":
			return nil, errors.New("whoever logs in there is not root, and neither is what sudo makes of him: log in as root")
		}
	}
	prefix := strings.TrimSuffix(o.dir, "/")
	o.left.swap = nil
	for _, name := range swapOf(head[1]) {
		if rest, ok := strings.CutPrefix("/"+name, prefix+"/"); ok {
			o.left.swap = append(o.left.swap, rest)
		}
	}
	o.mounts(head[2], prefix)
	if head[3] == "x" {
		const note = "not copied: extended attributes and capabilities, which the tar there does not know"
		o.rep.Notes = []string{note}
	}
	var items []*item
	seen := map[string]bool{}
	for {
		word, err := o.word()
		if err != nil {
			return nil, err
		}
		if word == "end" {
			return items, nil
		}
		i, err := parseItem(word)
		if err != nil {
			return nil, err
		}
		if i == nil || seen[i.name] {
			continue // a socket, or the top of a further file system
		}
		seen[i.name] = true
		items = append(items, i)
	}
}

// maxWord is more than /proc/self/mounts of a machine with a thousand containers.
const maxWord = 16 << 20

// word reads up to a NUL.
func (o *sshOriginal) word() (string, error) {
	var long []byte
	for {
		part, err := o.out.ReadSlice(0)
		if err == bufio.ErrBufferFull && len(long) < maxWord {
			long = append(long, part...)
			continue
		}
		if err != nil {
			return "", err
		}
		return string(append(long, part[:len(part)-1]...)), nil
	}
}

// skipTo reads past the first occurrence of a text. What is before it is not kept: a login shell that greets.
func skipTo(r *bufio.Reader, text string) error {
	const patience = 1 << 20
	at := 0
	for range patience {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		switch {
		case b == text[at]:
			at++
		case b == text[0]:
			at = 1
		default:
			at = 0
		}
		if at == len(text) {
			return nil
		}
	}
	return errors.New("the shell there says a megabyte of things before it does anything")
}

// parseItem reads a line of find's: type, mode, owner, group, size, mtime, ctime, inode, number of names, path.
func parseItem(line string) (*item, error) {
	f := strings.SplitN(line, " ", 10)
	bad := fmt.Errorf("find there says something strange: %.200q", line)
	if len(f) != 10 {
		return nil, bad
	}
	kinds := map[string]byte{"f": tar.TypeReg, "d": tar.TypeDir, "l": tar.TypeSymlink, "p": tar.TypeFifo, "c": tar.TypeChar, "b": tar.TypeBlock}
	kind, ok := kinds[f[0]]
	if !ok {
		return nil, nil
	}
	name, err := cleanName(f[9])
	if err != nil {
		return nil, err
	}
	mode, err1 := strconv.ParseUint(f[1], 8, 12)
	uid, err2 := strconv.ParseUint(f[2], 10, 32)
	gid, err3 := strconv.ParseUint(f[3], 10, 32)
	size, err4 := strconv.ParseInt(f[4], 10, 64)
	msec, mnsec, err5 := parseTime(f[5])
	csec, cnsec, err6 := parseTime(f[6])
	names, err7 := strconv.ParseUint(f[8], 10, 64)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil || size < 0 {
		return nil, bad
	}
	i := &item{name: name, kind: kind, sec: msec}
	if kind == tar.TypeReg {
		i.size = size
		if names > 1 {
			i.inode = f[7]
		}
	}
	i.sig = signature(uint32(mode), int(uid), int(gid), i.size, msec, mnsec, csec, cnsec, f[7])
	return i, nil
}

// parseTime reads seconds with a fraction of any length.
func parseTime(s string) (sec, nsec int64, err error) {
	whole, fraction, _ := strings.Cut(s, ".")
	if sec, err = strconv.ParseInt(whole, 10, 64); err != nil || fraction == "" {
		return sec, 0, err
	}
	n, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 63)
	return sec, int64(n), err
}

// diskTypes are file systems of disks, as /proc/mounts names them.
var diskTypes = map[string]bool{"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "jfs": true, "reiserfs": true, "f2fs": true, "zfs": true}

// mounts notes disks that are mounted below the root and not copied.
func (o *sshOriginal) mounts(table, prefix string) {
	var others []string
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 3 || !diskTypes[f[2]] {
			continue
		}
		name, ok := strings.CutPrefix(f[1], prefix+"/")
		if !ok || name == "" {
			continue
		}
		taken := false
		for _, fs := range o.FileSystems {
			taken = taken || strings.Trim(fs, "/") == name
		}
		if !taken {
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		o.otherSystems(others)
	}
}

func (o *sshOriginal) send(ctx context.Context, want []*item, put func(*entry, io.Reader) error) error {
	wanted := make(map[string]*item, len(want))
	var names bytes.Buffer
	for _, i := range want {
		wanted[i.name] = i
		name := "."
		if i.name != "." {
			name = "./" + i.name
		}
		names.WriteString(name + "\x00")
	}
	if len(want) == 0 {
		o.end()
		return nil
	}
	// tar begins to send before it has read all names; an error of writing is told better by what comes, or does not.
	go func() {
		io.Copy(o.in, &names)
		o.in.Close()
	}()
	left := len(want)
	tr := tar.NewReader(o.out)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return o.why(ctx, err)
		}
		e, err := newEntry(h)
		if errors.Is(err, errUnkept) {
			continue
		}
		if err != nil {
			return err
		}
		i := wanted[e.name()]
		if i == nil || e.Type == tar.TypeLink {
			return fmt.Errorf("tar there sent %q, which was not asked for", h.Name)
		}
		if i.matches(e) {
			e.Sig = i.sig
		}
		broken := &lastError{r: tr}
		if err := put(e, broken); err != nil {
			if broken.err != nil {
				return o.why(ctx, broken.err)
			}
			return err
		}
		left--
	}
	exit := o.cmd.Wait()
	o.cmd = nil
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e := (*exec.ExitError)(nil); errors.As(exit, &e) && left > 0 && (e.ExitCode() < 0 || e.ExitCode() > 2) {
		if said := o.stderr.String(); said != "" {
			return fmt.Errorf("%w; it said: %s", errBrokeOff, said)
		}
		return errBrokeOff
	}
	if said := o.stderr.String(); said != "" {
		o.log().Debug("tar there said", "words", said)
	}
	return nil
}

// end lets go of the connection.
func (o *sshOriginal) end() {
	if o.cmd != nil {
		o.cmd.Process.Kill()
		o.cmd.Wait()
		o.cmd = nil
	}
}

// lastError keeps the error that reading ended with.
type lastError struct {
	r   io.Reader
	err error
}

func (l *lastError) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil && err != io.EOF {
		l.err = err
	}
	return n, err
}

// lastLines keeps the end of what is written to it.
type lastLines struct{ buf []byte }

func (l *lastLines) Write(p []byte) (int, error) {
	l.buf = append(l.buf, p...)
	if n := len(l.buf) - 4096; n > 0 {
		l.buf = append(l.buf[:0], l.buf[n:]...)
	}
	return len(p), nil
}

// String is the last lines, as one.
func (l *lastLines) String() string {
	lines := strings.Split(strings.TrimSpace(string(l.buf)), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}
