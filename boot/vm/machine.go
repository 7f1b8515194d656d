package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MachineConfig is a Machine to be switched on.
type MachineConfig struct {
	Spec     Spec
	Networks []int     // one card on each of these networks of the Lab; default: one card on the first
	NoReboot bool      // a reboot ends the machine
	Console  io.Writer // gets a copy of every byte of the first serial line
	Kernel   *Kernel   // default: what the network offers
	Link     *Link     // between each card and its network; nil is a good cable
	Disk     string    // raw file; the machine boots from it when the network sends it there; "" is no disk
}

// Kernel is what a machine starts at once, as if the loader of another make had loaded it.
type Kernel struct {
	Image, Initrd string // files
	Cmdline       []string
}

// Machine is a running QEMU.
type Machine struct {
	Spec    Spec      // with the defaults filled in
	PowerOn time.Time // when QEMU was started
	Shell   *Shell    // the second serial line, where netroot.shell=ttyS1 puts a root shell
	console *lineLog
	keys    net.Conn // what is typed at the console
	errors  *lineLog // what QEMU itself said
	proc    *Process
	qmp     *qmp
}

// DefaultMAC is the address of a machine's first card when the Spec has none; 52:54:00 is QEMU's own prefix.
var DefaultMAC = net.HardwareAddr{0x52, 0x54, 0x00, 0x6e, 0x72, 0x01}

// Boot switches a machine on that boots from the network.
func (l *Lab) Boot(cfg MachineConfig) (*Machine, error) {
	spec := cfg.Spec.withDefaults("")
	if spec.MAC == nil {
		spec.MAC = DefaultMAC
	}
	if len(cfg.Networks) == 0 {
		cfg.Networks = []int{0}
	}
	if err := require(spec.program()); err != nil {
		return nil, err
	}
	var wires wires
	defer wires.closeTheirs()
	console, shell, control := wires.pair(), wires.pair(), wires.pair()
	nets := make([]string, len(cfg.Networks))
	for i, network := range cfg.Networks {
		var err error
		if nets[i], err = l.plug(&wires, network, cfg.Link); err != nil {
			wires.closeOurs()
			return nil, fmt.Errorf("connect the machine: %w", err)
		}
	}
	if wires.err != nil {
		wires.closeOurs()
		return nil, fmt.Errorf("connect the machine: %w", wires.err)
	}
	path, err := lookPath(spec.program())
	if err != nil {
		wires.closeOurs()
		return nil, err
	}
	m := &Machine{Spec: spec, console: newLineLog(), keys: console.ours, errors: newLineLog()}
	m.console.copy = cfg.Console
	args := qemuArgs(spec, cfg.NoReboot, console.theirs, shell.theirs, control.theirs, nets)
	if k := cfg.Kernel; k != nil {
		args = append(args, "-kernel", k.Image, "-initrd", k.Initrd, "-append", strings.Join(k.Cmdline, " "))
	}
	if cfg.Disk != "" {
		// Nothing is kept of what a test writes, so the guest's flushes need not reach this host's disk.
		args = append(args, "-drive", "file="+cfg.Disk+",format=raw,if=virtio,cache=unsafe,discard=unmap")
	}
	if cfg.Link != nil {
		// A PXE ROM asks twice for an offer and gives up; the BIOS starts anew then, as most of the real ones do.
		args = append(args, "-boot", "reboot-timeout=3000") // milliseconds
	}
	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = wires.theirs
	cmd.Stderr = m.errors
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir}
	m.PowerOn = time.Now()
	if m.proc, err = l.Start(NSLab, cmd); err != nil {
		wires.closeOurs()
		return nil, err
	}
	go func() {
		_, _ = io.Copy(m.console, console.ours)
		_ = console.ours.Close()
		_ = m.console.Close()
	}()
	go func() { <-m.proc.Done(); _ = m.errors.Close() }()
	m.Shell = NewShell(shell.ours)
	m.qmp = newQMP(control.ours)
	return m, nil
}

// qemuArgs is the command line; the numbers are those of the inherited file descriptors.
func qemuArgs(s Spec, noReboot bool, console, shell, control int, nets []string) []string {
	accel := s.Accel
	if accel == "tcg" {
		accel = "tcg,thread=multi"
	}
	args := []string{
		"-no-user-config", "-nodefaults", "-name", "netroot",
		// graphics=off makes SeaBIOS, and through it the PXE ROM, talk on the first serial line as well.
		"-machine", s.Machine + ",graphics=off", "-accel", accel,
		"-cpu", s.CPU, "-smp", fmt.Sprint(s.CPUs), "-m", fmt.Sprint(s.Memory),
		// No graphics: drawing every line of the console in software costs an emulated machine dearly.
		"-vga", "none", "-display", "none", "-rtc", "base=utc",
		"-boot", "order=n",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", console), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=shell,fd=%d", shell), "-serial", "chardev:shell",
		"-chardev", fmt.Sprintf("socket,id=control,fd=%d", control), "-mon", "chardev=control,mode=control",
	}
	for i, wire := range nets {
		mac := append(net.HardwareAddr(nil), s.MAC...)
		mac[5] += byte(i)
		args = append(args,
			"-netdev", fmt.Sprintf("%s,id=net%d", wire, i),
			"-device", fmt.Sprintf("%s,netdev=net%d,mac=%s", s.NIC, i, mac))
	}
	if noReboot {
		args = append(args, "-no-reboot")
	}
	return args
}

// plug connects one card of QEMU's to a network and returns the start of its -netdev.
func (l *Lab) plug(w *wires, network int, link *Link) (string, error) {
	if link == nil {
		tap, err := l.openTap(network, netlink.TUNTAP_VNET_HDR)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("tap,fd=%d", w.give(tap)), nil
	}
	// Without virtio headers the kernel cuts and checks what it would otherwise leave to a card.
	tap, err := l.openTap(network, 0)
	if err != nil {
		return "", err
	}
	defer tap.Close()
	end, err := newTapFrames(tap)
	if err != nil {
		return "", err
	}
	pair := w.pair()
	if w.err != nil {
		end.Close()
		return "", w.err
	}
	link.join(end, newSocketFrames(pair.ours))
	return fmt.Sprintf("socket,fd=%d", pair.theirs), nil
}

// openTap makes a tap on the bridge of a network. It vanishes with its last descriptor.
func (l *Lab) openTap(network int, flags netlink.TuntapFlag) (*os.File, error) {
	if network < 0 || network >= len(l.cfg.Networks) {
		return nil, fmt.Errorf("the lab has no network %d", network)
	}
	var file *os.File
	err := l.Do(NSLab, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "tap%d" // the kernel picks the number
		tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1,
			Flags: netlink.TUNTAP_NO_PI | flags}
		if err := netlink.LinkAdd(tap); err != nil {
			return fmt.Errorf("add a tap (needs /dev/net/tun): %w", err)
		}
		file = tap.Fds[0]
		return enslave(tap.Name, bridgeName(network))
	})
	if err != nil && file != nil {
		file.Close()
	}
	return file, err
}

// wires collects the descriptors that QEMU inherits, from 3 on, and our ends of them.
type wires struct {
	theirs []*os.File
	ours   []net.Conn
	err    error
}

type wire struct {
	ours   net.Conn
	theirs int
}

func (w *wires) give(f *os.File) int {
	w.theirs = append(w.theirs, f)
	return 2 + len(w.theirs)
}

// pair makes a connected pair of sockets: no path in the file system, no moment when nobody listens yet.
func (w *wires) pair() wire {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		w.err = errors.Join(w.err, err)
		return wire{}
	}
	// QEMU writes serial lines byte by byte, tries four times and then drops the byte (hw/char/serial.c). A byte in a
	// socket's queue costs some 900 bytes of its budget: the default is full after a moment's load on the host.
	if err := unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64<<20); err != nil {
		w.err = errors.Join(w.err, fmt.Errorf("enlarge a socket's buffer: %w", err))
	}
	f := os.NewFile(uintptr(fds[0]), "socketpair")
	defer f.Close()
	theirs := w.give(os.NewFile(uintptr(fds[1]), "socketpair"))
	ours, err := net.FileConn(f)
	if err != nil {
		w.err = errors.Join(w.err, err)
		return wire{}
	}
	w.ours = append(w.ours, ours)
	return wire{ours: ours, theirs: theirs}
}

func (w *wires) closeTheirs() {
	for _, f := range w.theirs {
		f.Close()
	}
}

func (w *wires) closeOurs() {
	for _, c := range w.ours {
		c.Close()
	}
}

// Console is what the first serial line has shown so far, in complete lines.
func (m *Machine) Console() []Line { return m.console.lines.all() }

// ConsoleTail is the last n lines that are not empty.
func (m *Machine) ConsoleTail(n int) []string { return m.console.tail(n) }

// WaitConsole waits for a line that contains the text, at or after line number from (see Console).
func (m *Machine) WaitConsole(ctx context.Context, from int, text string) (Line, error) {
	line, _, err := m.console.lines.wait(ctx, from, func(l Line) bool { return strings.Contains(l.Text, text) })
	if err != nil {
		return line, fmt.Errorf("wait for %q on the console: %w%s", text, m.ended(err), m.tailText())
	}
	return line, nil
}

// WaitPrompt waits until the console's last line, which has no end yet, ends with the text: somebody waits for an answer.
func (m *Machine) WaitPrompt(ctx context.Context, text string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if strings.HasSuffix(strings.TrimSpace(m.console.unfinished()), strings.TrimSpace(text)) {
			return nil
		}
		select {
		case <-tick.C:
		case <-m.Done():
			return fmt.Errorf("wait for the prompt %q on the console: %w%s", text, m.exitError(), m.tailText())
		case <-ctx.Done():
			return fmt.Errorf("wait for the prompt %q on the console: %w%s", text, ctx.Err(), m.tailText())
		}
	}
}

// Type types at the console. What nobody reads is lost, as on any serial line: wait for a prompt first.
func (m *Machine) Type(text string) error {
	err := m.keys.SetWriteDeadline(time.Now().Add(10 * time.Second)) // a machine that reads nothing fills the socket's buffer
	if err == nil {
		_, err = io.WriteString(m.keys, text)
	}
	if err != nil {
		return fmt.Errorf("type %q at the console: %w", text, err)
	}
	return nil
}

func (m *Machine) ended(err error) error {
	if errors.Is(err, io.EOF) {
		return m.exitError()
	}
	return err
}

// exitError says why QEMU is gone.
func (m *Machine) exitError() error {
	said := strings.Join(m.errors.tail(3), "; ")
	if _, err := m.proc.Exited(); err != nil {
		return fmt.Errorf("the machine ended: %s: %w: %s", m.Spec.program(), err, said)
	}
	if said != "" {
		return fmt.Errorf("the machine ended: %s", said)
	}
	return errors.New("the machine switched itself off")
}

func (m *Machine) tailText() string {
	return "\n  the console's last lines:\n    " + strings.Join(m.ConsoleTail(25), "\n    ")
}

// CPUTime is the processor time that the machine has taken from this host. Without KVM it measures the work of a boot
// on a host that is busy with other things, too.
func (m *Machine) CPUTime() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.proc.Pid()))
	if err != nil {
		return 0, fmt.Errorf("read the machine's processor time: %w", err)
	}
	// Fields 14 and 15 of proc(5), in hundredths of a second; the second is a name in parentheses, which may hold spaces.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the machine's processor time: %q is too short", stat)
	}
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("read the machine's processor time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// Done is closed when the machine is off.
func (m *Machine) Done() <-chan struct{} { return m.proc.Done() }

// Wait waits until the machine is off.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.Done():
		_, err := m.proc.Exited()
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the machine to switch off: %w%s", ctx.Err(), m.tailText())
	}
}

// PressPower presses the power button, Reset the reset button.
func (m *Machine) PressPower(ctx context.Context) error {
	return m.qmp.execute(ctx, "system_powerdown")
}

// Reset presses the reset button.
func (m *Machine) Reset(ctx context.Context) error { return m.qmp.execute(ctx, "system_reset") }

// Stop pulls the plug.
func (m *Machine) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if m.qmp.execute(ctx, "quit") == nil {
		select {
		case <-m.Done():
		case <-ctx.Done():
		}
	}
	_ = m.proc.Stop(2 * time.Second)
	_ = m.qmp.conn.Close()
	return m.Shell.Close()
}
