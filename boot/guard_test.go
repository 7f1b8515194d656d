package boot

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"testing"

	"netroot/boot/host"
	"netroot/boot/neighbor"
)

func TestJudge(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	listed, ignored := host.Decision{}, host.Decision{Ignore: true, Reason: "not listed"}
	for name, c := range map[string]struct {
		peer     neighbor.Peer
		decision host.Decision
		want     error // nil, fs.ErrPermission for good, os.ErrDeadlineExceeded for now
		why      string
	}{
		"listed":                      {neighbor.Peer{Near: true, MAC: mac}, listed, nil, ""},
		"not listed":                  {neighbor.Peer{Near: true, MAC: mac}, ignored, fs.ErrPermission, "not listed"},
		"behind a router":             {neighbor.Peer{}, ignored, fs.ErrPermission, "not listed"},
		"this machine":                {neighbor.Peer{Self: true}, ignored, fs.ErrPermission, "asked from this machine itself: not listed"},
		"no MAC, for everybody":       {neighbor.Peer{Near: true}, listed, nil, ""},
		"no MAC":                      {neighbor.Peer{Near: true}, ignored, os.ErrDeadlineExceeded, "not listed; it did not tell its MAC address"},
		"not asked":                   {neighbor.Peer{Near: true, Busy: true}, ignored, os.ErrDeadlineExceeded, "its MAC address is not known, and too many machines are asked for theirs; it has to ask again"},
		"not asked, and may get more": {neighbor.Peer{Near: true, Busy: true}, listed, os.ErrDeadlineExceeded, "its MAC address is not known, and too many machines are asked for theirs; it has to ask again"},
	} {
		err := judge(c.peer, c.decision)
		if c.want == nil && err != nil || c.want != nil && (!errors.Is(err, c.want) || err.Error() != c.why) {
			t.Errorf("%s: %v", name, err)
		}
		for _, other := range []error{fs.ErrPermission, os.ErrDeadlineExceeded} {
			if other != c.want && errors.Is(err, other) {
				t.Errorf("%s: %v is %v", name, err, other)
			}
		}
	}
}
