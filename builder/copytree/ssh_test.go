package copytree

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/builder/need"
)

// sshd starts a server on the loopback interface that a key of its own lets root into, and returns its port and what ssh needs.
func sshd(t *testing.T) (port string, options []string) {
	t.Helper()
	need.Root(t)
	need.Tools(t, "ssh-keygen", "ssh")
	program := need.Tool(t, "sshd")
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	shell(t, dir, `ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f user; cp user.pub authorized
printf '[127.0.0.1]:%s %s\n' "$1" "$(cat host.pub)" >known
printf '%s\n' "Port $1" "ListenAddress 127.0.0.1" "HostKey $PWD/host" "AuthorizedKeysFile $PWD/authorized" "StrictModes no" "UsePAM no" "PidFile none" \
	"PermitRootLogin prohibit-password" >config`, port)
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd insists on it
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-D", "-e", "-f", filepath.Join(dir, "config"))
	var said lastLines
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			return port, []string{"IdentityFile=" + dir + "/user", "IdentitiesOnly=yes", "UserKnownHostsFile=" + dir + "/known", "GlobalKnownHostsFile=none"}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("sshd does not listen: %s", said.String())
	return "", nil
}

func TestSSH(t *testing.T) {
	need.Patience(t)
	dir := smallSystem(t)
	port, options := sshd(t)
	c := newCopy(t, "ssh://root@127.0.0.1:"+port+dir)
	c.SSHConfig, c.SSHOptions = "/dev/null", options
	c.FileSystems = []string{"/usr", "/boot"}
	first := update1(t, c)
	tree := hold(t, c)
	same(t, shapes(t, tree.Root, true), expected(t, dir))

	byFolder := newCopy(t, dir)
	update1(t, byFolder)
	if d := hold(t, byFolder).Digest; d != tree.Digest {
		t.Errorf("by ssh the digest is %s, by folder %s", tree.Digest, d)
	}
	if again := update1(t, c); again.Sent != 0 || again.SentBytes > first.SentBytes/2 {
		t.Errorf("the second time %+v after %+v", again, first)
	}
	shell(t, dir, "echo new >etc/new; chmod 700 usr/bin/tool; rm etc/old; rm -r home")
	if rep := update1(t, c); rep.Sent < 3 || rep.Sent > 8 {
		t.Errorf("%d files were sent", rep.Sent)
	}
	same(t, shapes(t, hold(t, c).Root, true), expected(t, dir))
}

// A connection that is lost costs only the file that was under way.
func TestSSHBreaksOff(t *testing.T) {
	need.Patience(t)
	dir := smallSystem(t)
	shell(t, dir, `i=0; while [ $i -lt 200 ]; do head -c 200000 /dev/urandom >srv/f$i; i=$((i+1)); done`)
	port, options := sshd(t)
	c := newCopy(t, "ssh://root@127.0.0.1:"+port+dir)
	c.SSHConfig, c.SSHOptions = "/dev/null", options
	done := make(chan error, 1)
	var rep Report
	go func() {
		var err error
		rep, err = c.Update(t.Context())
		done <- err
	}()
	// Kill the client's ssh when a good part has arrived.
	for len(arrived(c)) < 70 {
		select {
		case err := <-done:
			t.Fatalf("over before it could be broken off: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	killChild(t, "127.0.0.1")
	if err := <-done; !errors.Is(err, errBrokeOff) {
		t.Fatalf("broken off: %v", err)
	}
	sent := rep.SentBytes
	if _, err := c.Hold(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a copy was opened: %v", err)
	}
	rep = update1(t, c)
	t.Logf("%d bytes came before the end of the connection, %d after it, of %d", sent, rep.SentBytes, 200*200000)
	if sent < 10e6 || rep.SentBytes > 200*200000-10e6 {
		t.Errorf("%d bytes came before the end of the connection, and %d after it", sent, rep.SentBytes)
	}
	same(t, shapes(t, hold(t, c).Root, true), expected(t, dir))
}

func arrived(c *Copy) []string {
	names, _ := filepath.Glob(filepath.Join(c.Dir, rootName, "srv", "f*"))
	return names
}

// killChild kills the ssh that this process has started.
func killChild(t *testing.T, host string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, stat := range stats {
		data, _ := os.ReadFile(stat)
		_, rest, ok := strings.Cut(string(data), ") ")
		f := strings.Fields(rest)
		if !ok || len(f) < 2 || f[1] != fmt.Sprint(os.Getpid()) {
			continue
		}
		dir := filepath.Dir(stat)
		words, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if args := strings.Split(string(words), "\x00"); args[0] == "ssh" && slices.Contains(args, host) {
			var pid int
			fmt.Sscan(filepath.Base(dir), &pid)
			p, err := os.FindProcess(pid)
			if err == nil {
				err = p.Kill()
			}
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("there is no ssh to kill")
}

// Files that change and vanish under the copy, as they do on a machine that runs.
func TestSSHOfWhatMoves(t *testing.T) {
	need.Patience(t)
	dir := smallSystem(t)
	shell(t, dir, `i=0; while [ $i -lt 60 ]; do head -c 200000 /dev/urandom >srv/f$i; i=$((i+1)); done`)
	port, options := sshd(t)
	c := newCopy(t, "ssh://root@127.0.0.1:"+port+dir)
	c.SSHConfig, c.SSHOptions = "/dev/null", options
	stop, stopped := make(chan bool), make(chan bool)
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			os.WriteFile(filepath.Join(dir, "etc/moving"), []byte(strings.Repeat("x", i%5000)), 0o644)
			os.WriteFile(filepath.Join(dir, "srv", fmt.Sprintf("brief%d", i)), nil, 0o644)
			os.Remove(filepath.Join(dir, "srv", fmt.Sprintf("brief%d", i-20)))
		}
	}()
	_, err := c.Update(t.Context())
	close(stop)
	<-stopped
	if err != nil && !strings.Contains(err.Error(), "brief") {
		t.Fatal(err)
	}
	update1(t, c)
	same(t, shapes(t, hold(t, c).Root, true), expected(t, dir))
}

func TestSSHErrors(t *testing.T) {
	need.Patience(t)
	port, options := sshd(t)
	good := "ssh://root@127.0.0.1:" + port
	for _, c := range []struct {
		from    string
		options []string
		want    string
	}{
		{good + "/no/such/folder", options, "no folder /no/such/folder"},
		{good, []string{"UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes"}, "host key"},
		{good, append([]string{"IdentityFile=/dev/null"}, options[1:]...), "may not log in"},
		{"ssh://root@127.0.0.1:1", options, "refused"},
	} {
		y := newCopy(t, c.from)
		y.SSHConfig, y.SSHOptions = "/dev/null", c.options
		if _, err := y.Update(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.from, err, c.want)
		}
	}
}

func TestParseSSH(t *testing.T) {
	for address, want := range map[string]string{
		"ssh://root@old": "root old  /", "ssh://old/": " old  /", "ssh://a@old.site:2222/srv/root/": "a old.site 2222 /srv/root",
		"ssh://[fe80::1]:22": " fe80::1 22 /",
	} {
		user, host, port, dir, err := ParseSSH(address)
		if got := strings.Join([]string{user, host, port, dir}, " "); err != nil || got != want {
			t.Errorf("%s: %q, %v", address, got, err)
		}
	}
	for _, address := range []string{"ssh://", "ssh://-oProxyCommand=x", "ssh://a:secret@old", "ssh://old/a/../b", "ssh://old?x", "ssh://old:port", "ssh://a b@old", "http://old"} {
		if _, _, _, _, err := ParseSSH(address); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func FuzzParseItem(f *testing.F) {
	f.Add("f 4755 0 0 12 1795632642.0023254790 1795632642 65024:7 2 ./usr/bin/x y")
	f.Add("s 755 0 0 12 1 1 1:1 1 ./s")
	f.Fuzz(func(t *testing.T, line string) {
		i, err := parseItem(line)
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
		if i != nil && (i.name == "" || strings.HasPrefix(i.name, "/") || slices.Contains(strings.Split(i.name, "/"), "..")) {
			t.Errorf("a name that leads out: %q", i.name)
		}
	})
}
