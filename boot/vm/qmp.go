package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmp is QEMU's control connection: one command at a time, events are passed over.
type qmp struct {
	conn net.Conn
	mu   sync.Mutex
	dec  *json.Decoder
	met  bool
}

func newQMP(conn net.Conn) *qmp { return &qmp{conn: conn, dec: json.NewDecoder(conn)} }

// execute runs one command without arguments and waits for its answer.
func (q *qmp) execute(ctx context.Context, command string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	if err := q.conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("tell QEMU %s: %w", command, err)
	}
	if !q.met {
		// QEMU greets first and takes nothing but this command until the capabilities are settled.
		if err := q.call("qmp_capabilities"); err != nil {
			return fmt.Errorf("greet QEMU: %w", err)
		}
		q.met = true
	}
	if err := q.call(command); err != nil {
		return fmt.Errorf("tell QEMU %s: %w", command, err)
	}
	return nil
}

func (q *qmp) call(command string) error {
	msg, err := json.Marshal(map[string]string{"execute": command})
	if err != nil {
		return err
	}
	if _, err := q.conn.Write(append(msg, '\n')); err != nil {
		return err
	}
	for {
		var answer struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Class string `json:"class"`
				Desc  string `json:"desc"`
			} `json:"error"`
		}
		if err := q.dec.Decode(&answer); err != nil {
			return err
		}
		if answer.Error != nil {
			return fmt.Errorf("%s: %s", answer.Error.Class, answer.Error.Desc)
		}
		if answer.Return != nil {
			return nil
		}
	}
}
