package portowner

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"netroot/builder/need"
)

func TestFind(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	want := Holder{Process{os.Getpid(), "", true}, netip.MustParseAddr("127.0.0.1")}
	list, err := Find("tcp", port)
	if err != nil || len(list) != 1 || list[0].Name == "" {
		t.Fatalf("%v, %v", list, err)
	}
	if list[0].Name = ""; list[0] != want || want.String() != "this very process" {
		t.Errorf("%+v, want %+v", list[0], want)
	}
	// A connection has the same local port, and is nobody's claim to it.
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if list, err := Find("tcp", uint16(c.LocalAddr().(*net.TCPAddr).Port)); err != nil || list != nil {
		t.Errorf("a client's port: %v, %v", list, err)
	}
	u, err := net.ListenPacket("udp", "[::]:0")
	if err != nil {
		t.Skip("no IPv6: ", err)
	}
	defer u.Close()
	port = uint16(u.LocalAddr().(*net.UDPAddr).Port)
	if list, err := Find("udp", port); err != nil || len(list) != 1 || list[0].Address != netip.IPv6Unspecified() {
		t.Errorf("UDP over IPv6: %v, %v", list, err)
	}
	if p := Of("udp", port); !p.Self {
		t.Errorf("of: %v", p)
	}
	u.Close()
	if list, err := Find("udp", port); err != nil || list != nil {
		t.Errorf("after it is closed: %v, %v", list, err)
	}
	if got := Of("udp", port).String(); got != "another process" {
		t.Errorf("nobody: %s", got)
	}
	if _, err := Find("sctp-of-sorts", 1); err == nil {
		t.Error("a protocol that is none")
	}
}

// The process is named, also when its parent holds the socket, too.
func TestOtherProcess(t *testing.T) {
	need.Patience(t)
	cmd := exec.Command(need.Tool(t, "python3"), "-c", `import socket,sys
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(("127.0.0.1",0)); print(s.getsockname()[1],flush=True); sys.stdin.read()`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	b := make([]byte, 16)
	n, err := out.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		t.Fatal(err)
	}
	p := Of("udp", uint16(port))
	if p.PID != cmd.Process.Pid || !strings.HasPrefix(p.Name, "python") || p.Self {
		t.Errorf("%+v, want python3 with pid %d", p, cmd.Process.Pid)
	}
}

func TestRead(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  386: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 23456 2 0000000000000000 0
  386: 0302A8C0:0043 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 23457 2 0000000000000000 0
  386: 0302A8C0:0043 0402A8C0:0000 01 00000000:00000000 00:00000000 00000000     0        0 23458 2 0000000000000000 0
  390: 0000000000000000FFFF00000302A8C0:0043 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 23459 2 0000000000000000 0
  387: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 23460 2 0000000000000000 0
  388: garbage
  389: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0
  391: 0000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 23461 2 0000000000000000 0
`
	got := read(strings.NewReader(table), 67)
	var s []string
	for _, x := range got {
		s = append(s, x.address.String()+" "+x.inode)
	}
	if want := "0.0.0.0 23456, 192.168.2.3 23457, 192.168.2.3 23459"; strings.Join(s, ", ") != want {
		t.Errorf("%v, want %s", s, want)
	}
}
