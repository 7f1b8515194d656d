package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hostRoot makes a root that has the files of the packages installed.
func hostRoot(t *testing.T, paths ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, f := range loaderFiles {
		if !f.optional {
			paths = append(paths, f.paths[0])
		}
	}
	for _, path := range paths {
		at := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte("from "+path), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// The names in the store are those that machines ask for, whatever the version of the packages.
func TestLoaderLayouts(t *testing.T) {
	for name, c := range map[string]struct {
		extra   []string
		memtest string
	}{
		"memtest86+ 6":       {[]string{"boot/memtest86+ia32.bin", "boot/memtest86+x64.bin"}, "from boot/memtest86+ia32.bin"},
		"memtest86+ 5":       {[]string{"boot/memtest86+.bin"}, "from boot/memtest86+.bin"},
		"without memtest86+": {nil, ""},
	} {
		dir := t.TempDir()
		if err := hostLoader(dir, hostRoot(t, c.extra...), "pxelinux"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "memtest86+"))
		if string(got) != c.memtest || (err != nil) != (c.memtest == "") {
			t.Errorf("%s: memtest86+ is %q, %v", name, got, err)
		}
		for _, file := range []string{"pxelinux.0", "lpxelinux.0", "ldlinux.c32", "libcom32.c32", "libutil.c32", "menu.c32"} {
			if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.HasSuffix(string(got), "/"+file) {
				t.Errorf("%s: %s is %q, %v", name, file, got, err)
			}
		}
		if !loaderComplete(dir) {
			t.Errorf("%s: not complete", name)
		}
	}
}

func TestLoaderMissing(t *testing.T) {
	root, dir := hostRoot(t), t.TempDir()
	if err := os.Remove(filepath.Join(root, "usr/lib/PXELINUX/lpxelinux.0")); err != nil {
		t.Fatal(err)
	}
	if err := hostLoader(dir, root, "pxelinux"); err == nil || !strings.Contains(err.Error(), "install pxelinux and syslinux-common here") {
		t.Errorf("without lpxelinux.0: %v", err)
	}
	if loaderComplete(dir) {
		t.Error("half of the files are called complete")
	}
}
