package privilege

import (
	"os"
	"strings"
	"testing"
)

func TestLookup(t *testing.T) {
	a, err := Lookup("root", "daemon")
	if err != nil || a.Name != "root" || a.UID != 0 || a.GID != 0 || len(a.Groups) < 2 {
		t.Errorf("root, who is in the group daemon, too: %+v, %v", a, err)
	}
	if again, err := Lookup("root", "no-such-group"); err != nil || len(again.Groups) >= len(a.Groups) {
		t.Errorf("a group that does not exist: %+v, %v", again, err)
	}
	if _, err := Lookup("no-such-user", "daemon"); err == nil || !strings.HasPrefix(err.Error(), "find user no-such-user: ") {
		t.Errorf("a user who does not exist: %v", err)
	}
	if a, err := Lookup("", "no-such-group"); err != nil || a.UID != os.Geteuid() {
		t.Errorf("who runs this: %+v, %v", a, err)
	}
}
