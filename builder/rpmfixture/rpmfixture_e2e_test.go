//go:build e2e

package rpmfixture

import "testing"

func TestE2EMake(t *testing.T) {
	folder, err := Folder()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []Distribution{EL6(), EL9()} {
		r, err := d.Make(t.Context(), folder)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(r)
	}
}
