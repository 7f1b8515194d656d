package rpmroot

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"netroot/builder/chroot"
)

// TestWatcher has what rpm says of failures: those it calls errors stop it, or do not.
func TestWatcher(t *testing.T) {
	said := []string{
		"Preparing packages...", "a-1-1.noarch",
		"warning: %post(a-1-1.noarch) scriptlet failed, exit status 3",
		"b-1-1.noarch", "it hurts",
		"error: %triggerin(b-1-1.noarch) scriptlet failed, exit status 4", "c-1-1.noarch",
		"error: %preun(c-1-1.noarch) scriptlet failed, signal 9",
	}
	watch := func() *watcher {
		var log strings.Builder
		w := &watcher{log: slog.New(slog.NewTextHandler(&log, nil)), names: map[string]bool{"a-1-1.noarch": true, "b-1-1.noarch": true, "c-1-1.noarch": true}}
		text := strings.Join(said, "\n") + "\n"
		w.Write([]byte(text[:50]))
		w.Write([]byte(text[50:]))
		return w
	}
	want := []Failure{{"a-1-1.noarch", "%post", 3}, {"b-1-1.noarch", "%triggerin", 4}, {"c-1-1.noarch", "%preun", 9}}
	if got := watch().survived(); !slices.Equal(got, want) {
		t.Errorf("rpm ended well: %v, want %v", got, want)
	}
	err := watch().explain(&chroot.ExitError{Code: 1})
	if failed, ok := err.(*ScriptletError); !ok || failed.Package != "b-1-1.noarch" || failed.Scriptlet != "%triggerin" || !strings.Contains(failed.Tail, "it hurts") {
		t.Errorf("rpm failed: %v", err)
	}
}
