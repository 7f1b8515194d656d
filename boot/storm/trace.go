package storm

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// Call is an NFS call of a recorded boot. The folder at the top is ".".
type Call struct {
	Kind   string // lookup, access, getattr, readlink, readdirplus, read
	Path   string
	Offset uint64
	Count  uint32
}

// ReadTrace reads a recorded boot: one call on a line, as Call.String writes it. A line that starts with # says where it comes from.
func ReadTrace(r io.Reader) ([]Call, error) {
	var calls []Call
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		line := in.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		var c Call
		kind, rest, _ := strings.Cut(line, " ")
		c.Kind = kind
		switch kind {
		case "read":
			at := strings.LastIndexByte(rest, ' ')
			if at < 0 {
				return nil, fmt.Errorf("read trace: line %d: %q has no offset and count", n, line)
			}
			if _, err := fmt.Sscanf(rest[at+1:], "%d+%d", &c.Offset, &c.Count); err != nil {
				return nil, fmt.Errorf("read trace: line %d: %q: %w", n, line, err)
			}
			rest = rest[:at]
		case "lookup", "access", "getattr", "readlink", "readdirplus":
		default:
			return nil, fmt.Errorf("read trace: line %d: %q is no call that is replayed", n, line)
		}
		if c.Path = rest; !fs.ValidPath(rest) {
			return nil, fmt.Errorf("read trace: line %d: %q is no path", n, line)
		}
		if c.Count > 1<<20 || c.Offset > 1<<40 {
			return nil, fmt.Errorf("read trace: line %d: %q reads too much", n, line)
		}
		calls = append(calls, c)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	return calls, nil
}

func (c Call) String() string {
	if c.Kind == "read" {
		return fmt.Sprintf("read %s %d+%d", c.Path, c.Offset, c.Count)
	}
	return c.Kind + " " + c.Path
}
