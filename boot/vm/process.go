package vm

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Process is a child that cannot outlive the Lab or this program.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// startProcess must be called on a thread that stays: see namespace.
func startProcess(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true // Ctrl-C on the terminal is for us; we then end the children in order
	// A grandchild that holds our pipe must not hold up Wait.
	cmd.WaitDelay = 3 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and its output is read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited says whether the process has ended, and how.
func (p *Process) Exited() (bool, error) {
	select {
	case <-p.done:
		return true, p.err
	default:
		return false, nil
	}
}

// Kill ends the process at once and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end, and kills it when it has not after the grace time.
func (p *Process) Stop(grace time.Duration) error {
	if gone, err := p.Exited(); gone {
		return err
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(grace):
		p.Kill()
		return fmt.Errorf("%s did not end within %s of SIGTERM and was killed", p.cmd.Path, grace)
	}
}

// packages names the Debian package of each program the lab runs.
var packages = map[string]string{
	"dnsmasq":            "dnsmasq-base",
	"qemu-system-x86_64": "qemu-system-x86",
	"qemu-system-i386":   "qemu-system-x86",
}

// require finds the programs, or says how to install all that are missing.
func require(programs ...string) error {
	var missing, install []string
	for _, p := range programs {
		if _, err := lookPath(p); err != nil {
			missing = append(missing, p)
			install = append(install, packages[p])
		}
	}
	if missing == nil {
		return nil
	}
	if strings.Contains(strings.Join(install, " "), "qemu") {
		install = append(install, "seabios", "ipxe-qemu")
	}
	return fmt.Errorf("the lab needs %s; install it with: apt-get install --no-install-recommends %s",
		strings.Join(missing, " and "), strings.Join(install, " "))
}

// lookPath also looks where daemons live: a shell of an ordinary login has no /usr/sbin in its PATH.
func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return exec.LookPath("/usr/sbin/" + program)
	}
	return path, nil
}
