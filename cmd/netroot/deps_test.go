package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The direction of imports is part of the design: a change flows from the recipe to the network and never back, and
// the store is the hinge between what makes images and what serves them.
func TestImportDirection(t *testing.T) {
	imports := packageImports(t)
	under := func(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

	// What each layer may import of this module, besides the standard library and other people's.
	sources := []string{"netroot/builder/apt", "netroot/builder/yum", "netroot/builder/copytree"}
	protocols := []string{"netroot/boot/proxydhcp", "netroot/boot/tftp", "netroot/boot/httpd", "netroot/boot/nfs"}
	testers := []string{"netroot/builder/need", "netroot/builder/golden", "netroot/builder/foreign", "netroot/builder/rpmfixture", "netroot/builder/isofixture", "netroot/builder/gpgfixture"} // that help tests
	pure := []string{"netroot/builder/tree", "netroot/builder/lock", "netroot/builder/deb", "netroot/builder/strictyaml", "netroot/builder/progress", "netroot/boot/pxelinux", "netroot/boot/neighbor", "netroot/boot/portowner", "netroot/boot/privilege", "netroot/boot/sendfile", "netroot/boot/crowd"}

	for pkg, list := range imports {
		for _, imp := range list {
			if pkg == "netroot/builder/need" && (under(imp, "netroot") || strings.Contains(imp, ".")) {
				t.Errorf("%s imports %s: it makes do with the standard library", pkg, imp)
			}
			if !under(imp, "netroot") {
				continue
			}
			switch {
			case under(imp, "netroot/cmd"):
				t.Errorf("%s imports %s: nothing imports the command line", pkg, imp)
			case under(pkg, "netroot/builder") && under(imp, "netroot/boot"):
				t.Errorf("%s imports %s: what builds images knows nothing of serving them", pkg, imp)
			case slices.Contains(testers, imp) && !slices.Contains(testers, pkg):
				t.Errorf("%s imports %s: it is for tests", pkg, imp)
			case imp == "netroot/builder" && !under(pkg, "netroot/cmd"):
				t.Errorf("%s imports %s: only the command line starts the pipeline", pkg, imp)
			case imp == "netroot/boot" && !under(pkg, "netroot/cmd"):
				t.Errorf("%s imports %s: only the command line starts the server", pkg, imp)
			}
			for _, set := range [][]string{sources, protocols} {
				for _, a := range set {
					for _, b := range set {
						if a != b && under(pkg, a) && under(imp, b) {
							t.Errorf("%s imports %s: these stand side by side and do not know each other", pkg, imp)
						}
					}
				}
			}
			if pkg == "netroot/boot/dnsmasq" && imp != "netroot/boot/host" && imp != "netroot/builder/strictyaml" {
				t.Errorf("%s imports %s: it knows files, and no network", pkg, imp)
			}
			if imp == "netroot/boot/doctor" && !under(pkg, "netroot/cmd") {
				t.Errorf("%s imports %s: what serves does not look at itself", pkg, imp)
			}
			if imp == "netroot/boot/dnsmasq" && !under(pkg, "netroot/cmd") {
				t.Errorf("%s imports %s: what serves reads netroot.yaml only", pkg, imp)
			}
			if pkg == "netroot/builder/iso" && imp != "netroot/builder/image" {
				t.Errorf("%s imports %s: it reads ISOs into images, and knows nothing else", pkg, imp)
			}
			if watchers := []string{"netroot/boot/nodes", "netroot/boot/metrics"}; slices.Contains(watchers, imp) {
				for _, p := range protocols {
					if under(pkg, p) {
						t.Errorf("%s imports %s: services do not know that they are watched", pkg, imp)
					}
				}
			}
			if pkg == "netroot/builder/seed" && imp != "netroot/builder/strictyaml" {
				t.Errorf("%s imports %s: it knows texts, and neither builds nor serves", pkg, imp)
			}
			if imp == "netroot/boot/install" && slices.ContainsFunc(protocols, func(p string) bool { return under(pkg, p) }) {
				t.Errorf("%s imports %s: services do not know what files mean", pkg, imp)
			}
			if pkg == "netroot/boot/nodes" && imp != "netroot/boot/host" && imp != "netroot/builder/atomicfile" {
				t.Errorf("%s imports %s: it learns what happens from records alone", pkg, imp)
			}
			for _, p := range pure {
				if pkg == p && imp != "netroot/builder/atomicfile" && imp != "netroot/builder/tree" {
					t.Errorf("%s imports %s: it is meant to stand alone", pkg, imp)
				}
			}
			if under(pkg, "netroot/boot") && under(imp, "netroot/builder") {
				switch imp {
				case "netroot/builder/store", "netroot/builder/image", "netroot/builder/iso", "netroot/builder/seed", "netroot/builder/strictyaml", "netroot/builder/atomicfile":
				default:
					t.Errorf("%s imports %s: of the builder, the server sees the store and its images only", pkg, imp)
				}
			}
		}
	}
	if len(imports["netroot/builder"]) == 0 || len(imports["netroot/boot"]) == 0 {
		t.Fatalf("go list found no imports of netroot/builder or netroot/boot; it found %d packages", len(imports))
	}
}

// packageImports returns the direct imports of every package of the module.
func packageImports(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "netroot/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	imports := make(map[string][]string)
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return imports
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		imports[p.ImportPath] = p.Imports
	}
}
