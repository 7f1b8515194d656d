// Command netroot turns a recipe into a machine that boots without a disk, beside a DHCP server that nobody may touch.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"netroot/boot/privilege"
	"netroot/builder/chroot"
)

// version is set by the linker.
var version = "unknown"

// The main thread is the one that the kernel takes for the process; serve changes what it may do.
func init() { runtime.LockOSThread() }

func main() {
	chroot.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := (&cli{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, limit: privilege.Limit}).run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
