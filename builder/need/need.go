// Package need has the one rule for tests that ask something of their machine: root, other people's programs, a feature of the kernel.
// Where that is missing the test is skipped with the reason, so that anybody can run what their machine allows; where CI is set it
// fails, because a machine that is there to test has everything, and a test skipped in silence is no test.
//
// A test or a package of helpers for tests calls it first thing; nothing that ships may import it. It only looks: `make deps` installs
// what is missing on Debian, and what a program can do, or which version it has, the caller asks itself and says with [That] or [Missing].
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Missing skips the test for the reason given, or fails it where the environment has CI. It does not return.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// That is Missing for an error, and returns where there is none.
func That(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		Missing(t, "%v", err)
	}
}

// Patience is for tests that take more than a moment: "go test -short" leaves them out, also where CI is set.
func Patience(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long: left out by -short")
	}
}

// Root is for tests that mount, give files away, change their root or make network namespaces.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
}

// Tool finds a program as the shell does.
func Tool(t testing.TB, name string) (path string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "needs a program that make deps installs: %v", err)
	}
	return path
}

// Tools is Tool for programs that the test calls by their names.
func Tools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		Tool(t, name)
	}
}
