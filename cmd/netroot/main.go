// Command netroot turns a recipe into a machine that boots without a disk, beside a DHCP server that nobody may touch.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"netroot/builder/chroot"
)

// version is set by the linker.
var version = "unknown"

func main() {
	chroot.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := (&cli{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}).run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
