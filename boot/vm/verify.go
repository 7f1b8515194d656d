package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"netroot/builder/store"
)

// Options is what Verify boots and how.
type Options struct {
	Program string        // the netroot binary, run as the server
	Store   string        // folder of the store
	Ref     string        // IMAGE or IMAGE@GENERATION
	Machine Spec          // zero values: what suits the image
	Run     []string      // commands to run in the machine when it is up; each must succeed
	Console string        // file for the machine's console; "" for none
	Timeout time.Duration // from power-on until it is up; 0 is 5 minutes
	Out     io.Writer     // the timeline and what the machine says, for people; nil is silent
	Log     *slog.Logger  // nil is silent
}

// DefaultTimeout is enough for a machine without KVM on a loaded host with two cores.
const DefaultTimeout = 5 * time.Minute

// silence is how long nothing may happen at all: no byte on the console, no event of the server.
const silence = 2 * time.Minute

// Command is a command that ran in the machine.
type Command struct {
	Command string `json:"command"`
	Output  string `json:"output"`
	Exit    int    `json:"exit"`
}

// Result is a boot that was watched. After a failure it holds what was seen until then.
type Result struct {
	Image      string    `json:"image"`
	Generation int       `json:"generation"`
	Machine    string    `json:"machine"`
	Up         bool      `json:"up"`
	Timeline   Timeline  `json:"timeline"`
	Proof      []Command `json:"proof,omitempty"` // what the machine says of itself
	Run        []Command `json:"run,omitempty"`
	Error      string    `json:"error,omitempty"`
}

// Verify boots a generation without a disk, through the real serve, and reports how far it came. A machine that does not
// come up, or in which a command of Options.Run fails, is a *FailedError.
func Verify(ctx context.Context, o Options) (Result, error) {
	v, err := newVerification(o)
	if err != nil {
		return Result{}, fmt.Errorf("verify %s: %w", o.Ref, err)
	}
	err = v.boot(ctx)
	if err != nil {
		v.result.Error = err.Error()
		if failed := (*FailedError)(nil); !errors.As(err, &failed) {
			err = fmt.Errorf("verify %s: %w", v.gen.Ref(), err)
		}
	}
	return v.result, err
}

// verification is one run of Verify.
type verification struct {
	o       Options
	gen     store.Generation
	spec    Spec
	lab     *Lab
	server  *Server
	machine *Machine
	result  Result
	shown   int
}

func newVerification(o Options) (*verification, error) {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	s, err := store.Open(o.Store)
	if err != nil {
		return nil, err
	}
	gen, err := s.Resolve(o.Ref)
	if err != nil {
		return nil, err
	}
	spec := o.Machine.withDefaults(gen.Manifest.Arch)
	if spec.MAC == nil {
		spec.MAC = DefaultMAC
	}
	if err := fits(gen, spec); err != nil {
		return nil, err
	}
	v := &verification{o: o, gen: gen, spec: spec}
	v.result = Result{Image: gen.Image, Generation: gen.Number, Machine: spec.String()}
	return v, nil
}

// fits finds pairs of image and machine that cannot work.
func fits(gen store.Generation, spec Spec) error {
	if m := gen.Manifest.Medium; m != nil {
		return fmt.Errorf("%s is %s, which does not tell how far its boot has come; boot a machine from netroot serve and look at it", gen.Ref(), m.File)
	}
	switch arch := gen.Manifest.Arch; {
	case arch == "amd64" || arch == "x86_64":
		if spec.Arch == "i386" {
			return fmt.Errorf("%s is for %s and cannot boot on a machine with arch=i386", gen.Ref(), arch)
		}
	case Spec{}.withDefaults(arch).Arch == "i386":
	default:
		return fmt.Errorf("%s is for %s; the lab only has x86 machines", gen.Ref(), arch)
	}
	return nil
}

func (v *verification) boot(ctx context.Context) (err error) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return errors.New("network namespaces and taps need root on Linux; run this as root")
	}
	if err := require("dnsmasq", v.spec.program()); err != nil {
		return err
	}
	release, err := v.gen.Hold() // so that no gc takes the files away meanwhile
	if err != nil {
		return err
	}
	defer release()
	var console io.Writer
	if v.o.Console != "" {
		f, err := os.Create(v.o.Console)
		if err != nil {
			return fmt.Errorf("write the console: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		console = f
	}
	if v.lab, err = Open(ctx, Config{Log: v.o.Log}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.lab.Close()) }()
	policy := Policy(v.spec.MAC.String(), v.gen.Image, v.gen.Ref())
	if v.server, err = v.lab.Serve(ctx, ServerConfig{Program: v.o.Program, Store: v.o.Store, Policy: policy}); err != nil {
		return err
	}
	if v.machine, err = v.lab.Boot(MachineConfig{Spec: v.spec, NoReboot: true, Console: console}); err != nil {
		return err
	}
	defer v.machine.Stop()
	fmt.Fprintf(v.o.Out, "%s on a machine without a disk (%s)\n", v.gen.Ref(), v.spec)
	if err := v.follow(ctx); err != nil {
		return err
	}
	v.result.Up = true
	return v.question(ctx)
}

// follow watches the machine until it is up or lost.
func (v *verification) follow(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	defer v.print(true)
	for {
		v.look()
		v.print(false)
		if v.result.Timeline.Missing() == "" {
			return v.rightImage()
		}
		if why := v.lost(); why != "" {
			v.look() // what came while we made up our mind
			if v.result.Timeline.Missing() == "" {
				return v.rightImage()
			}
			return v.failed(why)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look brings the timeline up to date.
func (v *verification) look() {
	v.result.Timeline = Assemble(v.machine.PowerOn, v.spec.MAC.String(), v.machine.Console(), v.server.Events())
}

// print shows what is new of the timeline.
func (v *verification) print(over bool) {
	rows := v.result.Timeline.rows(v.shown, over)
	for _, row := range rows {
		fmt.Fprintln(v.o.Out, row)
	}
	v.shown += len(rows)
}

// lost says why there is nothing to wait for any more; "" while there is hope.
func (v *verification) lost() string {
	if gone, err := v.server.Exited(); gone {
		return err.Error()
	}
	select {
	case <-v.machine.Done():
		// With -no-reboot this is also how a reboot ends: what /init does when it is at its wits' end.
		return v.machine.exitError().Error()
	default:
	}
	if time.Since(v.machine.PowerOn) > v.o.Timeout {
		return "the time is up"
	}
	if _, _, ok := fatalLine(v.machine.Console()); ok {
		return "there is no way on from here"
	}
	last := v.machine.PowerOn
	if at := v.machine.console.quietSince(); at.After(last) {
		last = at
	}
	if events := v.server.Events(); len(events) > 0 && events[len(events)-1].Time.After(last) {
		last = events[len(events)-1].Time
	}
	if time.Since(last) > silence {
		return fmt.Sprintf("nothing happened for %s", silence)
	}
	return ""
}

func (v *verification) failed(why string) *FailedError {
	stage := v.result.Timeline.Missing()
	cause := diagnose(stage, v.spec.MAC.String(), v.machine.Console(), v.server.Events())
	return &FailedError{
		Ref: v.gen.Ref(), Stage: stage, After: fmt.Sprintf("%.0f s", time.Since(v.machine.PowerOn).Seconds()),
		Reason:  strings.Join([]string{cause, why}, "; "),
		Console: v.machine.ConsoleTail(25),
	}
}

// rightImage makes sure that what came up is what was asked for.
func (v *verification) rightImage() error {
	for _, line := range v.machine.Console() {
		if m := stageLine.FindStringSubmatch(line.Text); m != nil && m[1]+"@"+m[2] != v.gen.Ref() {
			return &FailedError{Ref: v.gen.Ref(), Stage: "run", Reason: "the machine says it runs " + m[1] + "@" + m[2], Console: v.machine.ConsoleTail(5)}
		}
	}
	return nil
}

// proof is what every machine that is up is asked. It must work on any Linux with a POSIX shell.
var proof = []struct{ title, script string }{
	{"uname -a", "uname -a"},
	{"grep ' / ' /proc/mounts", "grep ' / ' /proc/mounts | tail -n 1"},
	{"hostname", "hostname 2>/dev/null || uname -n"},
	{"ip address", "ip -o -4 address | grep -v ' lo ' | sed 's/  */ /g; s/\\\\.*//'"},
	{"systemctl is-system-running", `command -v systemctl >/dev/null || { echo "no systemd here"; exit 0; }
i=0; while s=$(systemctl is-system-running 2>/dev/null); [ "$s" = starting ] && [ $i -lt 60 ]; do sleep 1; i=$((i+1)); done
echo "$s"; systemctl --failed --no-legend --no-pager; [ "$s" = running ]`},
}

// question asks the machine to prove that it is up, and runs the commands that were asked for.
func (v *verification) question(ctx context.Context) error {
	fmt.Fprintln(v.o.Out, "the machine says:")
	for _, q := range proof {
		// A serial console does not wait for a machine that hangs.
		qctx, cancel := context.WithTimeout(ctx, 90*time.Second)
		out, exit, err := v.machine.Shell.Run(qctx, q.script)
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return v.unfit(err.Error())
		}
		v.result.Proof = append(v.result.Proof, v.show(q.title, out, exit))
	}
	var failed []string
	for _, command := range v.o.Run {
		out, exit, err := v.run(ctx, command)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return v.unfit(err.Error())
		}
		v.result.Run = append(v.result.Run, v.show(command, out, exit))
		if exit != 0 {
			failed = append(failed, fmt.Sprintf("%q ended with status %d", command, exit))
		}
	}
	if failed != nil {
		return &FailedError{Ref: v.gen.Ref(), Stage: "run", Reason: strings.Join(failed, ", ")}
	}
	return nil
}

func (v *verification) run(ctx context.Context, command string) (string, int, error) {
	ctx, cancel := context.WithTimeout(ctx, v.o.Timeout)
	defer cancel()
	return v.machine.Shell.Run(ctx, command)
}

func (v *verification) unfit(reason string) error {
	return &FailedError{Ref: v.gen.Ref(), Stage: "run", Reason: reason, Console: v.machine.ConsoleTail(25)}
}

func (v *verification) show(title, out string, exit int) Command {
	fmt.Fprintf(v.o.Out, "  # %s\n", title)
	for line := range strings.Lines(out) {
		fmt.Fprintf(v.o.Out, "    %s\n", strings.TrimRight(line, "\r\n"))
	}
	if exit != 0 {
		fmt.Fprintf(v.o.Out, "    (status %d)\n", exit)
	}
	return Command{Command: title, Output: out, Exit: exit}
}
